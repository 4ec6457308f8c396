//! What a launcher that was killed left behind: ended, written down as ended, and removed.
//!
//! Containers die with their launcher (parent death signal), except those whose programs changed their ids and lost
//! the signal by it. The journal knows the processes, by number and time of start; the cgroups know the rest.

use std::os::fd::OwnedFd;

use coppice_base::{ContainerId, Timestamp};
use coppice_linux::send_signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::clean::Cgroups;
use crate::journal::{Entry, Journal};
use crate::protocol::Exit;
use crate::server::start_ticks;

/// How long a killed process may take to be gone.
const DYING: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Ends and journals everything that an earlier launcher had running.
pub(crate) fn end_leftovers(journal: &mut Journal, cgroups: &Cgroups, now: Timestamp) {
    for id in cgroups.parent.list().unwrap_or_default() {
        if let Ok(cgroup) = cgroups.parent.open(&id) {
            // What does not die now keeps its cgroup and is met again at the next start.
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
    }
    let lost: Vec<(ContainerId, u32, u64)> = journal
        .records()
        .iter()
        .filter(|(_, record)| record.exit.is_none())
        .map(|(id, record)| (id.clone(), record.pid, record.ticks))
        .collect();
    for (id, pid, ticks) in lost {
        if let Some(pidfd) = same_process(pid, ticks) {
            // It may end by itself in this moment.
            let _ = send_signal(&pidfd, libc::SIGKILL);
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&DYING));
        }
        let exit = Exit { at: now, code: 137, signal: Some(libc::SIGKILL), oom: false };
        // The records in memory have it even if the disk does not.
        let _ = journal.add(&Entry::Exit { id, exit });
    }
}

/// The process, if its number has not been given to another one since.
fn same_process(pid: u32, ticks: u64) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    // Looked at after the pidfd is held, so the number cannot change hands in between.
    (start_ticks(pid) == Some(ticks)).then_some(pidfd)
}
