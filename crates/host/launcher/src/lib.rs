//! The launcher: the one process per node that is every container's parent.
//!
//! It is small and single-threaded, and does three things: start processes, write down what they say, and note how
//! they end. The node daemon tells it what to do over a socket ([`protocol`]) and may come and go as it likes.
//!
//! ```text
//!              socket                    clone3
//!   daemon ◀──────────▶ launcher ─────────────────▶ containers
//!                        │   ▲ pidfds, pipes, terminals (one epoll)
//!                        ▼   └──────────────────────┘
//!                 journal, logs
//! ```
//!
//! Refused: threads, a database, settings, and anything that could make it wait: a daemon or client that does not read
//! is dropped, a disk that is full loses lines (counted), a slow clean-up is a child's work.

// The state of the program before an upgrade names fds by number; taking them over is `unsafe`.
#![allow(unsafe_code)]

mod clean;
mod connection;
mod journal;
mod log;
mod peer;
mod poll;
mod process;
pub mod protocol;
mod recover;
mod server;
mod shield;
mod upgrade;

use std::path::{Path, PathBuf};

use coppice_base::{Clock, SystemClock};
use coppice_container::Host;
use coppice_linux::{SingleThread, SyscallError, ignore_signals, set_dumpable};
use rustix::event::epoll::EventFlags;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::clean::Cgroups;
use crate::journal::Journal;
use crate::poll::{Poller, Source};
use crate::server::Server;

/// Version of the program. A daemon of another one asks the launcher to upgrade itself.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where a launcher works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherOptions {
    /// The node's root directory; the socket, lock and journal are in its `run/`.
    pub root: PathBuf,
    /// The directory in every cgroup hierarchy under which containers' cgroups are made.
    pub cgroup: String,
}

impl LauncherOptions {
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/launcher.sock")
    }

    fn run(&self, name: &str) -> PathBuf {
        self.root.join("run").join(name)
    }
}

/// Why the launcher did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    #[error("the launcher was started in a process with several threads; start it as a program of its own")]
    Threads,
    #[error("another launcher runs for {0}; nothing was changed")]
    Running(PathBuf),
    #[error("{path}: {why}; the launcher needs to write there")]
    File { path: PathBuf, why: String },
    #[error("socket {path}: {why}; is the path longer than 107 characters?")]
    Socket { path: PathBuf, why: Errno },
    #[error("cgroups: {0}")]
    Cgroup(#[from] coppice_cgroup::CgroupError),
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    #[error("epoll: {0}")]
    Poll(Errno),
}

/// Runs the launcher until a [`protocol::Request::Shutdown`].
///
/// To be called by a process with one thread ([`LauncherError::Threads`] otherwise).
pub fn run(options: &LauncherOptions) -> Result<(), LauncherError> {
    if upgrade::is_trial() {
        return Ok(());
    }
    // Before anything is opened: it executes this program anew.
    if let Err(why) = shield::raise() {
        eprintln!("launcher: containers may execute the launcher's own program, unprivileged: {why}");
    }
    let thread = SingleThread::observe().ok_or(LauncherError::Threads)?;
    // Nothing may look into this process, nor into its children before they exec: they hold host files.
    set_dumpable(false)?;
    // Whoever stops services or presses keys means something else: only a request ends the launcher.
    ignore_signals();
    let run = options.root.join("run");
    let file_error =
        |path: &Path, why: std::io::Error| LauncherError::File { path: path.to_owned(), why: why.to_string() };
    let saved =
        upgrade::continued().transpose().map_err(|e| file_error(Path::new("the state of the old program"), e))?;
    std::fs::create_dir_all(options.run("staging")).map_err(|e| file_error(&run, e))?;
    let (lock, listener) = match &saved {
        Some(saved) => (upgrade::adopt(saved.lock), upgrade::adopt(saved.listener)),
        None => {
            let lock = lock(&options.run("launcher.lock"), &options.root)?;
            own_mount_namespace()?;
            resist_memory_pressure();
            (lock, listen(&options.socket())?)
        }
    };
    let cgroups = Cgroups::new(&options.cgroup)?;
    let journal_path = options.run("launcher.journal");
    let mut journal = Journal::open(&journal_path).map_err(|e| file_error(&journal_path, e))?;
    let now = SystemClock.now();
    if saved.is_none() {
        recover::end_leftovers(&mut journal, &cgroups, now);
    }
    let mut poller = Poller::new().map_err(LauncherError::Poll)?;
    poller.add(&listener, Source::Listener, EventFlags::IN).map_err(LauncherError::Poll)?;
    let host = Host::new(thread, options.run("staging"))?;
    let since = saved.as_ref().map_or(now, |saved| saved.since);
    let mut server = Server::new(poller, host, listener, cgroups, journal, since);
    match saved {
        Some(saved) => server.resume(saved),
        None => server.remember(),
    }
    server.serve(&lock).map_err(LauncherError::Poll)
}

/// Its end would be every container's: the kernel should take others first. Needs a privilege that some machines keep.
fn resist_memory_pressure() {
    // Without it the launcher, being small, is still an unlikely choice.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
}

/// Takes the lock that a root's one launcher holds.
fn lock(path: &Path, root: &Path) -> Result<rustix::fd::OwnedFd, LauncherError> {
    let file = |why: Errno| LauncherError::File { path: path.to_owned(), why: why.to_string() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(file)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(LauncherError::Running(root.to_owned())),
        Err(e) => Err(file(e)),
    }
}

/// A mount namespace that follows the host's changes and tells the host none of its own.
fn own_mount_namespace() -> Result<(), LauncherError> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    coppice_linux::unshare(coppice_linux::NamespaceFlags::MOUNT)?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(|e| SyscallError::new("mount", "/ (slave)", e))?;
    if root_cannot_be_left() {
        let copy = coppice_linux::clone_tree(Path::new("/"), true)?;
        coppice_linux::attach_in(&copy, rustix::fs::CWD, "/")?;
        rustix::process::fchdir(&copy).map_err(|e| SyscallError::new("fchdir", "/", e))?;
        rustix::process::chroot(".").map_err(|e| SyscallError::new("chroot", ".", e))?;
    }
    Ok(())
}

/// A machine that never left its initramfs has a root that pivot_root(2) refuses; a copy of it on top does.
fn root_cannot_be_left() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_root = |line: &&str| line.split(' ').nth(4) == Some("/");
    mounts.lines().rfind(is_root).is_some_and(|line| line.contains(" - rootfs "))
}

fn listen(path: &Path) -> Result<rustix::fd::OwnedFd, LauncherError> {
    let error = |why| LauncherError::Socket { path: path.to_owned(), why };
    // The lock is ours, so a socket that is there is a dead launcher's.
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(error(e)),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(error)?;
    let address = SocketAddrUnix::new(path).map_err(error)?;
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(mask);
    bound.map_err(error)?;
    rustix::net::listen(&socket, 64).map_err(error)?;
    Ok(socket)
}
