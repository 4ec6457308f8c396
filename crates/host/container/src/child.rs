//! Starting a container: the child's half, from clone to exec, as a list of named steps.
//!
//! The child begins with a copy of the launcher's memory and ends as the container's program. It is not dumpable and
//! holds only the fds it was given, so nothing in the container can look into it on the way.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use coppice_cgroup::Join;
use coppice_linux::{
    Attributes, FilesystemContext, Instruction, NamespaceFlags, SyscallError, Tree, TreeError, attach,
    bring_loopback_up, close_from_on_exec, close_others, make_controlling, new_session, open_peer, pivot_into,
    reset_signals, set_attributes, set_gid, set_groups, set_hostname, set_parent_death_signal, set_size, set_uid,
    statfs_magic, unshare,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::config::{ContainerConfig, MountSource, Network, ProcessConfig};
use crate::failure::{StartFailure, StepError};
use crate::identity::Identity;
use crate::init;
use crate::program::become_program;
use crate::start::{ChildStreams, Host, give_up};
use crate::step::{Word, hear, say, step};
use crate::system::{Devices, PROC_MAGIC, SystemMounts, place_streams};
use crate::user::{User, resolve};

/// Runs in the child; never returns.
pub(crate) fn run(
    host: &Host,
    config: &ContainerConfig,
    seccomp: Option<&[Instruction]>,
    channel: &OwnedFd,
    cgroup: Option<&Join>,
    streams: Option<ChildStreams>,
) -> ! {
    let failure = match set_up(host, config, channel, cgroup, streams) {
        Ok(ready) => ready.go(host, config, seccomp, channel),
        Err(failure) => failure,
    };
    give_up(channel, &failure)
}

/// Is v2 the only hierarchy? Then programs look for their limits in /sys/fs/cgroup.
fn is_unified(cgroup: &Join) -> bool {
    cgroup.clone_into().is_some() && cgroup.fds().count() == 1
}

/// A child that is inside its container, still privileged there.
struct Ready {
    user: User,
    env: Vec<String>,
}

fn set_up(
    host: &Host,
    config: &ContainerConfig,
    channel: &OwnedFd,
    cgroup: Option<&Join>,
    streams: Option<ChildStreams>,
) -> Result<Ready, StartFailure> {
    let process = &config.process;
    let given = streams.iter().flat_map(ChildStreams::fds).chain([channel.as_fd()]);
    step("close inherited files", close_others(&given.chain(cgroup.iter().flat_map(|c| c.fds())).collect::<Vec<_>>()))?;
    if let Some(cgroup) = cgroup {
        step("join cgroup", cgroup.enter(cgroup.clone_into().is_some()))?;
    }
    step("parent death signal", set_parent_death_signal(libc::SIGKILL))?;
    step("session", new_session())?;
    host.forget_oom_score();
    step("id maps", hear(channel, Word::Mapped))?;
    step("become root of the container", become_root())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));

    let own_network = config.network != Network::Host;
    let system = step("mount /proc and /sys", SystemMounts::make(own_network))?;
    step("hostname", set_hostname(&config.hostname))?;
    if config.network == Network::None {
        step("loopback", bring_loopback_up())?;
    }
    if own_network {
        step("sysctl", system.sysctl("sys/net/ipv4/ip_unprivileged_port_start", "0"))?;
        step("sysctl", system.sysctl("sys/net/ipv4/ping_group_range", &format!("0 {}", config.ids.count - 1)))?;
    }

    if let Some(address) = config.network.address() {
        step("network", hear(channel, Word::Linked))?;
        coppice_network::configure_inside(Some(&address), Duration::ZERO)
            .map_err(|e| StartFailure::setup("network", e))?;
        step("network", say(channel, Word::Connected, &[]))?;
    }

    let mut given = step("root filesystem", hear(channel, Word::Go))?.into_iter();
    let missing = || StartFailure::setup("root filesystem", "no mount came");
    let mut next = || given.next().ok_or_else(missing);
    let (root, devices) = (next()?, Devices { dev: next()?, shm: next()? });
    step("cgroup namespace", unshare(NamespaceFlags::CGROUP))?;
    step("enter the root filesystem", pivot_into(&root))?;
    let tree = Tree::new(root);
    let terminal = match process.terminal {
        Some(size) => Some((step("terminal", system.new_terminal())?, size)),
        None => None,
    };
    step("attach /proc, /sys and /dev", system.attach_all(&tree, &devices))?;
    if cgroup.is_some_and(is_unified) {
        // Where the kernel does not let a container have its own, it has none.
        let _ = system.attach_cgroups();
    }
    mount_all(config, &tree, &mut given)?;
    if let Some(sys) = given.next() {
        step("mount /sys", attach_host_sys(&tree, &sys))?;
    }
    if !config.privileged {
        step("mask /proc and /sys", system.mask(&devices))?;
    }
    let cwd = step("working directory", tree.directory(&process.cwd, 0o755))?;
    if config.rootfs.read_only {
        step("read-only root", set_attributes(tree.root(), Attributes::READ_ONLY, false))?;
    }
    let user = step("user", resolve(&tree, &process.user, &process.groups, config.ids.count))?;
    let streams = match terminal {
        Some((master, size)) => {
            step("terminal", take_terminal(&devices, &master, size, &user))?;
            step("terminal", say(channel, Word::Terminal, &[master.as_fd()]))?;
            None
        }
        None => streams,
    };
    if let Some(streams) = streams {
        step("standard streams", streams.give_to(user.uid, user.gid))?;
        let stdin = match streams.stdin {
            Some(stdin) => stdin,
            None => step("standard streams", devices.null(OFlags::RDWR))?,
        };
        step("standard streams", place_streams([stdin.as_fd(), streams.stdout.as_fd(), streams.stderr.as_fd()]))?;
    }
    step("working directory", enter(cwd))?;
    if matches!(config.network, Network::Bridge { .. }) {
        step("network", hear(channel, Word::Settled))?;
    }
    Ok(Ready { env: environment(process, &user), user })
}

impl Ready {
    fn go(
        self,
        host: &Host,
        config: &ContainerConfig,
        seccomp: Option<&[Instruction]>,
        channel: &OwnedFd,
    ) -> StartFailure {
        let process = &config.process;
        let identity = identity(host, process, &self.user, seccomp);
        if let Err(failure) = step("identity", identity.assume()) {
            return failure;
        }
        if config.init {
            // Returns in init's child, which goes on to the program.
            if let Err(failure) = step("init", init::split(host.thread())) {
                return failure;
            }
        }
        finish(process, &self.env, channel)
    }
}

pub(crate) fn identity<'a>(
    host: &Host,
    process: &ProcessConfig,
    user: &'a User,
    seccomp: Option<&'a [Instruction]>,
) -> Identity<'a> {
    Identity {
        user,
        capabilities: process.capabilities,
        no_new_privileges: process.no_new_privileges,
        seccomp,
        last_capability: host.last_capability,
    }
}

/// The last steps of every process: signals as a program expects them, no fd beyond the streams, the program.
pub(crate) fn finish(process: &ProcessConfig, env: &[String], channel: &OwnedFd) -> StartFailure {
    reset_signals();
    if let Err(failure) = step("close files", close_from_on_exec(3)) {
        return failure;
    }
    if let Err(failure) = step("channel", say(channel, Word::Executing, &[])) {
        return failure;
    }
    become_program(&process.args, env)
}

/// Root inside: the ids of the launcher mean nothing in the new user namespace.
pub(crate) fn become_root() -> Result<(), SyscallError> {
    set_groups(&[])?;
    set_gid(0)?;
    set_uid(0)
}

fn mount_all(
    config: &ContainerConfig,
    tree: &Tree<OwnedFd>,
    given: &mut dyn Iterator<Item = OwnedFd>,
) -> Result<(), StartFailure> {
    for mount in &config.mounts {
        let name = format!("mount {}", mount.target.display());
        let missing = || StartFailure::setup(&name, "no mount came");
        let source = match &mount.source {
            MountSource::Bind { .. }
            | MountSource::Shifted { .. }
            | MountSource::Generated { .. }
            | MountSource::Secrets { .. } => given.next().ok_or_else(missing)?,
            MountSource::Tmpfs { size } => {
                let mut attributes = Attributes::NO_SUID.and(Attributes::NO_DEV);
                if mount.read_only {
                    attributes = attributes.and(Attributes::READ_ONLY);
                }
                let made = FilesystemContext::open("tmpfs").and_then(|tmpfs| {
                    let tmpfs = tmpfs.string("mode", "1777")?;
                    match size {
                        Some(size) => tmpfs.string("size", &size.0.to_string())?,
                        None => tmpfs,
                    }
                    .mount(attributes)
                });
                step(&name, made)?
            }
        };
        step(&name, attach_at(tree, &mount.target, source))?;
    }
    // When all places are there.
    for mount in &config.mounts {
        let MountSource::Secrets { links, .. } = &mount.source else { continue };
        for (place, path) in links {
            step(&format!("secret {}", place.display()), tree.link(place, &mount.target.join(path)))?;
        }
    }
    Ok(())
}

/// Attaches a mount at a path of the container, made when missing. The target is one fd from lookup to mount, so
/// whoever swaps names meanwhile changes nothing.
fn attach_at(tree: &Tree<OwnedFd>, target: &Path, source: OwnedFd) -> Result<(), StepError> {
    let stat = fstat(&source).map_err(|e| SyscallError::new("fstat", "mount", e))?;
    let place = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => tree.directory(target, 0o755)?,
        _ => tree.file(target, 0o644)?,
    };
    let here = fstat(&place).map_err(|e| SyscallError::new("fstat", "target", e))?;
    let root = fstat(tree.root()).map_err(|e| SyscallError::new("fstat", "/", e))?;
    if statfs_magic(&place)? == PROC_MAGIC || (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino) {
        return Err(StepError::ForbiddenTarget(target.display().to_string()));
    }
    Ok(attach(source, place)?)
}

fn attach_host_sys(tree: &Tree<OwnedFd>, sys: &OwnedFd) -> Result<(), StepError> {
    Ok(attach(sys, tree.top_directory("sys", 0o555)?)?)
}

fn take_terminal(
    devices: &Devices,
    master: &OwnedFd,
    size: crate::config::TerminalSize,
    user: &User,
) -> Result<(), StepError> {
    let terminal = open_peer(master)?;
    own_terminal(&terminal, size, user)?;
    devices.attach_console(terminal.as_fd())?;
    Ok(place_streams([terminal.as_fd(), terminal.as_fd(), terminal.as_fd()])?)
}

/// Gives a fresh terminal its size and owner and makes it the session's.
pub(crate) fn own_terminal(
    terminal: &OwnedFd,
    size: crate::config::TerminalSize,
    user: &User,
) -> Result<(), StepError> {
    set_size(terminal, size.rows, size.columns)?;
    rustix::fs::fchown(terminal, Some(rustix::fs::Uid::from_raw(user.uid)), None)
        .map_err(|e| SyscallError::new("fchown", "terminal", e))?;
    Ok(make_controlling(terminal)?)
}

/// Enters a directory that was resolved inside the container, and checks that it has a path there.
pub(crate) fn enter(directory: OwnedFd) -> Result<(), StepError> {
    rustix::process::fchdir(&directory).map_err(|e| SyscallError::new("fchdir", "working directory", e))?;
    let path = rustix::process::getcwd(Vec::new()).map_err(|e| SyscallError::new("getcwd", "", e))?;
    match path.to_bytes().first() {
        Some(b'/') => Ok(()),
        // The kernel says "(unreachable)/…" for a directory outside the root.
        _ => Err(TreeError { path: "working directory".into(), errno: rustix::io::Errno::XDEV }.into()),
    }
}

/// The environment with HOME, which is the one variable that the container's /etc/passwd decides.
pub(crate) fn environment(process: &ProcessConfig, user: &User) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// The container's root directory, for a process that has entered it.
pub(crate) fn current_root() -> Result<Tree<OwnedFd>, SyscallError> {
    openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map(Tree::new)
        .map_err(|e| SyscallError::new("open", "/", e))
}
