//! Re-executing the launcher as another binary: same process, same children, same open files.
//!
//! Everything that is not in the journal is written to a memory file and read by the new program: which fd is whose,
//! what was read and not yet written. Nothing is closed in between, so no output is lost, and exits wait in their
//! pidfds. The new binary is tried first in a child; one that cannot start is refused while the old one still runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use coppice_base::{ContainerId, Timestamp};
use coppice_container::{IdRange, LogConfig};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use crate::log::Stream;
use crate::protocol::Exit;

/// Names the fd of the memory file to the new program.
const STATE: &str = "COPPICE_LAUNCHER_STATE";
/// Said by a program in its trial that takes over what is held for a daemon. One from before that would leave it open,
/// in every container it starts.
const KEEPS: &str = "keeps";
/// Asks the program only whether it can start.
const TRIAL: &str = "COPPICE_LAUNCHER_TRIAL";

#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    pub since: Timestamp,
    pub lock: RawFd,
    pub listener: RawFd,
    pub next: u64,
    /// Who asked for the upgrade, and the number of the request.
    pub asker: RawFd,
    pub seq: u64,
    pub containers: Vec<SavedContainer>,
    pub processes: Vec<SavedProcess>,
    pub lingering: Vec<SavedPeer>,
    pub cleaners: Vec<RawFd>,
    /// What is held for the next daemon.
    #[serde(default)]
    pub kept: BTreeMap<String, Vec<RawFd>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SavedContainer {
    pub id: ContainerId,
    pub process: Option<u64>,
    pub pid: u32,
    pub started_at: Timestamp,
    pub exit: Option<Exit>,
    pub has_cgroup: bool,
    pub root: Option<RawFd>,
    pub ids: IdRange,
    pub memory_limited: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SavedProcess {
    pub key: u64,
    pub container: ContainerId,
    pub exec: Option<u64>,
    pub pidfd: RawFd,
    pub outputs: [Option<SavedOutput>; 2],
    pub stdin: Option<SavedStdin>,
    pub terminal: bool,
    pub log: Option<SavedLog>,
    pub peers: Vec<SavedPeer>,
    pub next_peer: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SavedOutput {
    pub fd: RawFd,
    pub stream: Stream,
    pub pending: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SavedStdin {
    pub fd: RawFd,
    pub waiting: Vec<u8>,
    pub closing: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SavedLog {
    pub config: LogConfig,
    pub file: Option<RawFd>,
    pub dropped: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SavedPeer {
    pub id: u64,
    pub fd: RawFd,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
}

impl Saved {
    fn fds(&self) -> Vec<RawFd> {
        let mut fds = vec![self.lock, self.listener, self.asker];
        fds.extend(&self.cleaners);
        fds.extend(self.kept.values().flatten());
        fds.extend(self.containers.iter().filter_map(|c| c.root));
        fds.extend(self.lingering.iter().map(|peer| peer.fd));
        for process in &self.processes {
            fds.push(process.pidfd);
            fds.extend(process.outputs.iter().flatten().map(|output| output.fd));
            fds.extend(process.stdin.iter().map(|stdin| stdin.fd));
            fds.extend(process.log.iter().filter_map(|log| log.file));
            fds.extend(process.peers.iter().map(|peer| peer.fd));
        }
        fds
    }
}

/// Is this start only a trial of the binary? Then it has said what it can.
pub(crate) fn is_trial() -> bool {
    let is_trial = std::env::var_os(TRIAL).is_some();
    if is_trial {
        println!("{KEEPS}");
    }
    is_trial
}

/// The state an earlier program left, if this one continues it.
pub(crate) fn continued() -> Option<std::io::Result<Saved>> {
    let fd: RawFd = std::env::var(STATE).ok()?.parse().ok()?;
    // SAFETY: the program that executed this one made the fd for this purpose and named it; nothing else has it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    let mut text = Vec::new();
    Some(file.rewind().and_then(|()| file.read_to_end(&mut text)).and_then(|_| Ok(serde_json::from_slice(&text)?)))
}

/// Takes over an fd that the state names.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the earlier program kept this fd open for its one owner in the new one; every fd is named once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // Its flag was cleared for the execve. Setting it cannot fail for an open fd.
    let _ = rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC);
    fd
}

/// Continues as `binary`. Returns only if that was not possible; everything is then as before.
pub(crate) fn execute(binary: &Path, saved: &mut Saved) -> String {
    let own: Vec<_> = std::env::args_os().collect();
    let anew = || {
        let mut command = Command::new(binary);
        // The new program has a mount of its own to come to.
        command.args(own.iter().skip(1)).env_remove(crate::shield::MOUNT);
        command
    };
    let tried = anew().env(TRIAL, "1").stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    match tried {
        Ok(tried) if tried.status.success() => {
            if !String::from_utf8_lossy(&tried.stdout).lines().any(|line| line == KEEPS) {
                saved.kept.clear();
            }
        }
        Ok(tried) => {
            return format!("{} does not start ({}); the launcher is as it was", binary.display(), tried.status);
        }
        Err(e) => return format!("{} cannot be executed ({e}); the launcher is as it was", binary.display()),
    }
    let memory = match write_state(saved) {
        Ok(memory) => memory,
        Err(e) => return format!("state cannot be kept ({e}); the launcher is as it was"),
    };
    let fds = saved.fds();
    set_flags(&fds, FdFlags::empty());
    set_flags(&[memory.as_raw_fd()], FdFlags::empty());
    let error = anew().env(STATE, memory.as_raw_fd().to_string()).exec();
    set_flags(&fds, FdFlags::CLOEXEC);
    format!("{} cannot be executed ({error}); the launcher is as it was", binary.display())
}

fn write_state(saved: &Saved) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("launcher-state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(saved)?)?;
    Ok(file)
}

fn set_flags(fds: &[RawFd], flags: FdFlags) {
    for fd in fds {
        // SAFETY: every fd named in the state is open and owned by the server, which outlives this borrow.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
        let _ = rustix::io::fcntl_setfd(fd, flags);
    }
}
