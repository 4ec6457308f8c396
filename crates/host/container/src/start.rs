//! Starting a container: the launcher's half.
//!
//! ```text
//! launcher                                   child (pid 1 of new namespaces)
//!   clone3 ──────────────────────────────────▶ close what it inherited; join cgroups
//!   write uid_map, gid_map ── mapped ────────▶ become root; make /proc, /sys, … detached
//!   make the network's link ── linked ───────▶ (the two run side by side)
//!   id-map layers, overlay, binds, /dev ◀─ connected ── configure the network
//!   back to its loop ───────── go ───────────▶ enter root; attach; mask; settings
//!   settle the network ─────── settled ──────▶ identity; exec
//!   back to its loop ◀──────── end of channel, or a failure with the step's name
//! ```
//!
//! Everything made is owned by the child's namespaces or by a value here, so a failed start leaves nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use coppice_cgroup::Join;
use coppice_linux::{
    Attributes, CloneArgs, Forked, Instruction, NamespaceFlags, Rlimit, SingleThread, SyscallError, clone_tree, clone3,
    exit_now, idmap, join_pid_namespace_for_children, last_capability, prlimit, receive, send, send_signal,
    seqpacket_pair, set_attributes, user_namespace_of, wait_pidfd, write_id_maps,
};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::child;
use crate::config::{ContainerConfig, Mount, MountSource, Network, ProcessConfig, Seccomp};
use crate::failure::{StartFailure, StepError};
use crate::rootfs::{Detached, Shift, mount_on_layers};
use crate::seccomp;
use crate::secret::SecretFiles;
use crate::step::{Word, say, step};
use crate::system::{Devices, host_sys};

/// Most bind mounts of one container: their fds go to the child in one message.
pub const MOUNTS_MAX: usize = 250;

/// What starting containers needs from the process that does it, made once.
pub struct Host {
    pub(crate) thread: SingleThread,
    /// A directory in this process's own mount namespace, for kernels that cannot mount layers by fd.
    pub(crate) staging: PathBuf,
    pub(crate) last_capability: u32,
    filters: RefCell<HashMap<u64, Rc<[Instruction]>>>,
    pid_namespace: OwnedFd,
    /// Open files that a process may have here unless told otherwise: what this process had before it took more.
    files: Rlimit,
    /// This process is protected from the out-of-memory killer, which its children are not to be.
    protected: bool,
}

impl Host {
    pub fn new(thread: SingleThread, staging: PathBuf) -> Result<Self, SyscallError> {
        let path = "/proc/self/ns/pid";
        let pid_namespace = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SyscallError::new("open", path, e))?;
        let protected = std::fs::read("/proc/self/oom_score_adj").is_ok_and(|score| score != b"0\n");
        let filters = RefCell::default();
        let files = raise_files()?;
        Ok(Self { thread, staging, last_capability: last_capability(), filters, pid_namespace, files, protected })
    }

    /// Sets resource limits of a process, from outside, and returns a sentence for each that was not to be had.
    pub(crate) fn set_limits(&self, pid: u32, process: &ProcessConfig) -> Vec<String> {
        if !process.rlimits.iter().any(|limit| limit.resource == RLIMIT_NOFILE) {
            // Lowering always works; should it not, the process may open more files than it expects.
            let _ = prlimit(pid, RLIMIT_NOFILE, Some(self.files));
        }
        set_limits(pid, process)
    }

    /// In a child that is still root of the host: takes the launcher's protection off.
    pub(crate) fn forget_oom_score(&self) {
        if self.protected {
            // Raising the score needs no privilege.
            let _ = std::fs::write("/proc/self/oom_score_adj", "0");
        }
    }

    /// Children are born in this process's own pid namespace again.
    pub(crate) fn leave_pid_namespace(&self) -> Result<(), StartFailure> {
        step("leave the pid namespace", join_pid_namespace_for_children(&self.pid_namespace))
    }

    pub fn thread(&self) -> &SingleThread {
        &self.thread
    }

    /// The filter for a process, compiled once per set of capabilities that matters to it.
    pub(crate) fn seccomp(&self, process: &ProcessConfig) -> Option<Rc<[Instruction]>> {
        if process.seccomp == Seccomp::Unconfined {
            return None;
        }
        let key = seccomp::relevant(process.capabilities);
        Some(self.filters.borrow_mut().entry(key).or_insert_with(|| seccomp::filter(key).into()).clone())
    }
}

const RLIMIT_NOFILE: u32 = libc::RLIMIT_NOFILE;

/// Lets this process, which holds several files per container, open as many as it may; returns what it was before.
/// A soft limit that an earlier program of this process raised is taken back to the usual one.
fn raise_files() -> Result<Rlimit, SyscallError> {
    let now = prlimit(0, RLIMIT_NOFILE, None)?;
    prlimit(0, RLIMIT_NOFILE, Some(Rlimit { soft: now.hard, hard: now.hard }))?;
    let soft = if now.soft == now.hard { FILES.min(now.hard) } else { now.soft };
    Ok(Rlimit { soft, hard: now.hard })
}

/// What Linux gives processes to begin with (`INR_OPEN_CUR` of linux/fs.h): programs that use select(2) need it.
const FILES: u64 = 1024;

/// The child's ends of the standard streams; with a terminal there are none.
pub struct ChildStreams {
    /// `None` is the container's /dev/null.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl ChildStreams {
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stdin.iter().chain([&self.stdout, &self.stderr]).map(AsFd::as_fd)
    }

    /// Pipes belong to who made them; `/dev/stdout` can be opened only by their owner.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) -> Result<(), StepError> {
        for fd in self.fds() {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| SyscallError::new("fchown", "standard stream", e))?;
        }
        Ok(())
    }
}

/// A process on its way to its program.
#[derive(Debug)]
pub struct Starting {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// Readable when the program runs (end of file) or something failed: see [`Starting::outcome`].
    pub channel: OwnedFd,
    /// Keeps the root filesystem's superblock, so that taking it down (which syncs) is not the exit's business.
    pub root: Option<OwnedFd>,
    /// Keeps the mount namespace, so that taking its mounts down (which waits for an RCU grace period) is not the exit's
    /// business. `None` where something of the host's is bound into it: whoever waits for the end may then unmount that.
    pub mounts: Option<OwnedFd>,
    /// Sentences about settings that could not be had.
    pub words: Vec<String>,
    /// The terminal's master, once the child has sent it.
    pub terminal: Option<OwnedFd>,
    /// The child has configured its network and waits, in the end, for [`Starting::settled`].
    pub connected: bool,
    pub(crate) executing: bool,
    /// Closed with this value, when the start has been told: see [`Detached::layers`].
    layers: Vec<OwnedFd>,
}

/// Gives the new network namespace its interfaces, between mapped and linked; gets the process's id and pidfd.
pub type ConnectNetwork<'a> = &'a mut dyn FnMut(u32, BorrowedFd<'_>) -> Result<(), StartFailure>;

/// Starts a container as far as it goes without waiting for the child.
pub fn start(
    host: &Host,
    config: &ContainerConfig,
    streams: Option<ChildStreams>,
    cgroup: Option<&Join>,
    connect: ConnectNetwork<'_>,
) -> Result<Starting, StartFailure> {
    if config.mounts.len() > MOUNTS_MAX {
        return Err(StartFailure::setup("mounts", format!("more than {MOUNTS_MAX} mounts")));
    }
    if let Some(streams) = &streams {
        step("standard streams", streams.give_to(config.ids.first, config.ids.first))?;
    }
    let (ours, theirs) = step("channel", seqpacket_pair())?;
    let mut namespaces = NamespaceFlags::USER
        .and(NamespaceFlags::MOUNT)
        .and(NamespaceFlags::PID)
        .and(NamespaceFlags::UTS)
        .and(NamespaceFlags::IPC);
    if config.network != Network::Host {
        namespaces = namespaces.and(NamespaceFlags::NET);
    }
    // Filters are compiled (or found compiled) before the clone, where the work is done once for all containers.
    let filter = host.seccomp(&config.process);
    let args = CloneArgs { namespaces: namespaces.0, cgroup: cgroup.and_then(Join::clone_into) };
    let (pid, pidfd) = match step("clone", clone3(&host.thread, &args))? {
        Forked::Child => child::run(host, config, filter.as_deref(), &theirs, cgroup, streams),
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((theirs, streams));
    let mut starting = Starting::new(pid, pidfd, ours);
    match furnish(host, config, &mut starting, connect) {
        Ok(()) => Ok(starting),
        Err(failure) => Err(starting.abandon(failure)),
    }
}

fn furnish(
    host: &Host,
    config: &ContainerConfig,
    starting: &mut Starting,
    connect: ConnectNetwork<'_>,
) -> Result<(), StartFailure> {
    step("id maps", write_id_maps(starting.pid, config.ids.first, config.ids.count))?;
    step("id maps", say(&starting.channel, Word::Mapped, &[]))?;
    if config.network != Network::Host {
        connect(starting.pid, starting.pidfd.as_fd())?;
    }
    if matches!(config.network, Network::Bridge { .. }) {
        starting.tell("network", Word::Linked, &[])?;
    }
    let namespace = step("user namespace", user_namespace_of(&starting.pidfd, starting.pid))?;
    let shift = Shift { namespace: namespace.as_fd(), ids: config.ids };
    let Detached { root, layers } =
        step("root filesystem", mount_on_layers(&config.rootfs, Some(shift), &host.staging))?;
    starting.layers = layers;
    let devices = step("make /dev", Devices::make(config.shm_size, config.ids))?;
    let mut mounts = vec![devices.dev, devices.shm];
    for mount in &config.mounts {
        let name = format!("mount {}", mount.target.display());
        if let Some(fd) = bind(mount, shift).map_err(|e| StartFailure::setup(&name, e))? {
            mounts.push(fd);
        }
    }
    if config.network == Network::Host {
        mounts.push(step("mount /sys", host_sys())?);
    }
    starting.words.extend(host.set_limits(starting.pid, &config.process));
    let fds: Vec<BorrowedFd<'_>> = [root.as_fd()].into_iter().chain(mounts.iter().map(AsFd::as_fd)).collect();
    starting.tell("go", Word::Go, &fds)?;
    starting.root = Some(root);
    let is_bind = |mount: &Mount| matches!(mount.source, MountSource::Bind { .. } | MountSource::Shifted { .. });
    if !config.mounts.iter().any(is_bind) {
        // Without it the exit takes the mounts down itself.
        let path = format!("/proc/{}/ns/mnt", starting.pid);
        starting.mounts = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    }
    Ok(())
}

/// The detached mount of a bind; `None` for what the child makes itself.
fn bind(mount: &Mount, shift: Shift<'_>) -> Result<Option<OwnedFd>, StepError> {
    let (path, maps, may_stay_unmapped) = match &mount.source {
        MountSource::Bind { path } => (path, true, false),
        MountSource::Shifted { path } => (path, false, false),
        // World-readable and made by the node: shown as nobody's where the filesystem has no id-mapped mounts.
        MountSource::Generated { path } => (path, true, true),
        MountSource::Tmpfs { .. } => return Ok(None),
        MountSource::Secrets { files, .. } => return Ok(Some(SecretFiles::make(files, shift.ids)?)),
    };
    let fd = clone_tree(path, false)?;
    let mapped = if maps { idmap(&fd, shift.namespace, false) } else { Ok(()) };
    match mapped {
        Err(e) if e.errno == Errno::INVAL && may_stay_unmapped => {}
        Err(e) if e.errno == Errno::INVAL => return Err(StepError::NoIdMap(path.display().to_string())),
        other => other?,
    }
    let mut attributes = Attributes::NO_DEV;
    if mount.read_only {
        attributes = attributes.and(Attributes::READ_ONLY);
    }
    set_attributes(&fd, attributes, true)?;
    Ok(Some(fd))
}

/// Sets resource limits of the process, from outside, and returns a sentence for each that was not to be had.
fn set_limits(pid: u32, process: &ProcessConfig) -> Vec<String> {
    let mut words = Vec::new();
    for wanted in &process.rlimits {
        let want = Rlimit { soft: wanted.soft.min(wanted.hard), hard: wanted.hard };
        let Err(refused) = prlimit(pid, wanted.resource, Some(want)) else { continue };
        let nearest = prlimit(pid, wanted.resource, None).and_then(|now| {
            let nearest = Rlimit { soft: want.soft.min(now.hard), hard: want.hard.min(now.hard) };
            prlimit(pid, wanted.resource, Some(nearest)).map(|_| nearest)
        });
        words.push(match nearest {
            Ok(got) => format!(
                "resource limit {} is {}:{} and not {}:{}, because the launcher may not raise its own",
                wanted.resource, got.soft, got.hard, want.soft, want.hard
            ),
            Err(_) => format!("resource limit {} could not be set: {}", wanted.resource, refused.errno),
        });
    }
    words
}

/// How far a start has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to say yet.
    Waiting,
    /// The program runs.
    Running,
    Failed(StartFailure),
}

impl Starting {
    pub(crate) fn new(pid: u32, pidfd: OwnedFd, channel: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            channel,
            root: None,
            mounts: None,
            words: Vec::new(),
            terminal: None,
            connected: false,
            executing: false,
            layers: Vec::new(),
        }
    }

    /// Says a word that the child waits for.
    fn tell(&self, name: &str, word: Word, fds: &[BorrowedFd<'_>]) -> Result<(), StartFailure> {
        match say(&self.channel, word, fds) {
            // The child has failed already; its own words are on the channel.
            Err(StepError::Syscall(e)) if e.errno == Errno::PIPE || e.errno == Errno::CONNRESET => Ok(()),
            other => step(name, other),
        }
    }

    /// Lets a child that is [`connected`](Self::connected) go on to its program.
    pub fn settled(&self) -> Result<(), StartFailure> {
        self.tell("network", Word::Settled, &[])
    }

    /// Reads the channel without blocking.
    pub fn outcome(&mut self) -> Outcome {
        loop {
            let mut message = vec![0u8; 4096];
            let mut fds = Vec::new();
            match receive(&self.channel, &mut message, &mut fds, RecvFlags::DONTWAIT) {
                Ok(0) if self.executing => return Outcome::Running,
                Ok(0) => {
                    return Outcome::Failed(StartFailure::setup("set-up", "the process ended in the middle of it"));
                }
                Ok(1) if message[0] == Word::Executing as u8 => self.executing = true,
                Ok(1) if message[0] == Word::Connected as u8 => self.connected = true,
                Ok(1) if message[0] == Word::Terminal as u8 => self.terminal = fds.pop(),
                Ok(len) => {
                    return Outcome::Failed(
                        serde_json::from_slice(&message[..len])
                            .unwrap_or_else(|_| StartFailure::setup("channel", "the child said something unreadable")),
                    );
                }
                // A child that failed before it read our last word resets the channel; what it said can still be read.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Outcome::Waiting,
                Err(e) => return Outcome::Failed(StartFailure::setup("channel", e)),
            }
        }
    }

    /// Ends the process and returns why the start failed: the child's own words where it has some.
    pub fn abandon(mut self, failure: StartFailure) -> StartFailure {
        let own = match self.outcome() {
            Outcome::Failed(own) => Some(own),
            _ => None,
        };
        self.end();
        own.unwrap_or(failure)
    }

    /// Kills and reaps the process.
    pub fn end(&self) {
        // It may have ended by itself; the wait below says so either way.
        let _ = send_signal(&self.pidfd, libc::SIGKILL);
        let mut ready = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        while rustix::event::poll(&mut ready, None) == Err(Errno::INTR) {}
        let _ = wait_pidfd(&self.pidfd);
    }
}

/// Tells the launcher why the child could not go on, and ends the child.
pub(crate) fn give_up(channel: &OwnedFd, failure: &StartFailure) -> ! {
    let mut text = serde_json::to_vec(failure).unwrap_or_default();
    text.truncate(4096);
    // With the launcher gone there is nobody to tell.
    let _ = send(channel, &text, &[], SendFlags::empty());
    exit_now(125)
}
