//! Adding a process to a running container.
//!
//! The container may be hostile by now, so nothing in it is trusted: the new process is born in its pid namespace not
//! dumpable (so it can be neither traced nor read through /proc), with no fd but its streams, and every path is looked
//! up by fd in the container's root. Its program is the container's; the launcher's own file belongs to a user that the
//! container has no id for, so `/proc/PID/exe` is of no use to it.
//!
//! The launcher clones it directly into the container's pid namespace, so it is the launcher's child and its exit code
//! arrives like any other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use coppice_cgroup::Join;
use coppice_linux::{
    CloneArgs, Forked, NamespaceFlags, SyscallError, Tree, clone3, close_others, join_namespaces,
    join_pid_namespace_for_children, new_session, open_peer, seqpacket_pair, set_parent_death_signal, statfs_magic,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};

use crate::child::{become_root, current_root, enter, environment, finish, identity, own_terminal};
use crate::config::ProcessConfig;
use crate::failure::{StartFailure, StepError};
use crate::start::{ChildStreams, Host, Starting, give_up};
use crate::step::{Word, say, step};
use crate::system::{DEVPTS_MAGIC, place_streams};
use crate::user::{User, resolve};
use coppice_base::IdRange;

/// The container a process is added to.
pub struct Target<'a> {
    /// Its first process.
    pub pidfd: BorrowedFd<'a>,
    pub ids: IdRange,
    pub cgroup: Option<&'a Join>,
}

const NAMESPACES: NamespaceFlags = NamespaceFlags::USER
    .and(NamespaceFlags::MOUNT)
    .and(NamespaceFlags::NET)
    .and(NamespaceFlags::IPC)
    .and(NamespaceFlags::UTS)
    .and(NamespaceFlags::CGROUP);

/// Starts a process in a container as far as it goes without waiting for the child.
pub fn exec(
    host: &Host,
    target: &Target<'_>,
    process: &ProcessConfig,
    streams: Option<ChildStreams>,
) -> Result<Starting, StartFailure> {
    if let Some(streams) = &streams {
        step("standard streams", streams.give_to(target.ids.first, target.ids.first))?;
    }
    let (ours, theirs) = step("channel", seqpacket_pair())?;
    let filter = host.seccomp(process);
    let args = CloneArgs { namespaces: 0, cgroup: target.cgroup.and_then(Join::clone_into) };
    match join_pid_namespace_for_children(target.pidfd) {
        // Already while it is ending, before its pidfd tells.
        Err(e) if e.errno == rustix::io::Errno::SRCH => return Err(StartFailure::Ended),
        joined => step("join the pid namespace", joined)?,
    }
    let cloned = clone3(host.thread(), &args);
    let (pid, pidfd) = match cloned {
        Ok(Forked::Child) => {
            let failure = match set_up(host, target, process, &theirs, streams) {
                Ok(user) => {
                    let env = environment(process, &user);
                    match step("identity", identity(host, process, &user, filter.as_deref()).assume()) {
                        Ok(()) => finish(process, &env, &theirs),
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            give_up(&theirs, &failure)
        }
        Ok(Forked::Parent { pid, pidfd }) => (pid, pidfd),
        Err(e) => {
            host.leave_pid_namespace()?;
            // What the kernel says of a pid namespace that takes no new process (pid_namespaces(7)).
            let ending = e.errno == rustix::io::Errno::NOMEM;
            return Err(if ending { StartFailure::Ended } else { StartFailure::setup("clone", e) });
        }
    };
    drop((theirs, streams));
    let mut starting = Starting::new(pid, pidfd, ours);
    if let Err(failure) = host.leave_pid_namespace() {
        return Err(starting.abandon(failure));
    }
    starting.words = host.set_limits(pid, process);
    Ok(starting)
}

fn set_up(
    host: &Host,
    target: &Target<'_>,
    process: &ProcessConfig,
    channel: &OwnedFd,
    streams: Option<ChildStreams>,
) -> Result<User, StartFailure> {
    // The host's /dev/null, opened while names mean the host's; a device has no way back to its directory.
    let null = step("standard streams", host_null())?;
    let given = streams.iter().flat_map(ChildStreams::fds).chain([channel.as_fd(), target.pidfd, null.as_fd()]);
    let given = given.chain(target.cgroup.iter().flat_map(|cgroup| cgroup.fds())).collect::<Vec<_>>();
    step("close inherited files", close_others(&given))?;
    if let Some(cgroup) = target.cgroup {
        step("join cgroup", cgroup.enter(cgroup.clone_into().is_some()))?;
    }
    step("parent death signal", set_parent_death_signal(libc::SIGKILL))?;
    step("session", new_session())?;
    host.forget_oom_score();
    step("join namespaces", join_namespaces(target.pidfd, NAMESPACES))?;
    step("become root of the container", become_root())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let tree = step("root", current_root())?;
    let user = step("user", resolve(&tree, &process.user, &process.groups, target.ids.count))?;
    match (process.terminal, streams) {
        (Some(size), _) => {
            let master = step("terminal", new_terminal(&tree))?;
            let terminal = step("terminal", open_peer(&master))?;
            step("terminal", own_terminal(&terminal, size, &user))?;
            step("terminal", place_streams([terminal.as_fd(), terminal.as_fd(), terminal.as_fd()]))?;
            step("terminal", say(channel, Word::Terminal, &[master.as_fd()]))?;
        }
        (None, Some(streams)) => {
            step("standard streams", streams.give_to(user.uid, user.gid))?;
            let stdin = streams.stdin.as_ref().unwrap_or(&null);
            step("standard streams", place_streams([stdin.as_fd(), streams.stdout.as_fd(), streams.stderr.as_fd()]))?;
        }
        (None, None) => {}
    }
    let cwd = step("working directory", tree.open(&process.cwd, OFlags::PATH | OFlags::DIRECTORY))?;
    step("working directory", enter(cwd))?;
    Ok(user)
}

fn host_null() -> Result<OwnedFd, SyscallError> {
    openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SyscallError::new("open", "/dev/null", e))
}

/// A new pseudo-terminal of the container's own devpts. The container's root may have put anything at that path.
fn new_terminal(tree: &Tree<OwnedFd>) -> Result<OwnedFd, StepError> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = tree.open_plain(Path::new("/dev/pts/ptmx"), flags)?;
    let stat = fstat(&master).map_err(|e| SyscallError::new("fstat", "/dev/pts/ptmx", e))?;
    // Documentation/admin-guide/devices.txt: /dev/ptmx is 5:2.
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2);
    if is_ptmx && statfs_magic(&master)? == DEVPTS_MAGIC { Ok(master) } else { Err(StepError::NotTerminal) }
}
