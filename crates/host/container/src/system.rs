//! The mounts every container has: /proc, /sys, /dev and what is below them; what of them is masked or read-only.
//!
//! Each filesystem is made detached and then known by its fd, so what is masked below /proc is masked below the procfs
//! that was just made, whatever the image has at `/proc`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use coppice_base::Bytes;
use coppice_linux::{
    Attributes, FilesystemContext, SyscallError, SyscallResult, Tree, attach, clone_mount, clone_tree, set_attributes,
    statfs_magic,
};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, fstat, makedev, mkdirat, mknodat,
    openat, openat2, symlinkat,
};
use rustix::io::Errno;

use crate::failure::StepError;
use coppice_base::IdRange;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
pub(crate) const PROC_MAGIC: u64 = 0x9fa0;
/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
pub(crate) const DEVPTS_MAGIC: u64 = 0x1cd1;

const NO_SUID_DEV: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEV);
const NO_SUID_DEV_EXEC: Attributes = NO_SUID_DEV.and(Attributes::NO_EXEC);

/// Devices that every container has (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Where programs look for their streams and terminals.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];

/// Hidden: they show or change the host. The list docker and podman use.
const MASKED_PROC: [&str; 11] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Readable, never writable.
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What is made before the root filesystem arrives.
pub(crate) struct SystemMounts {
    pub proc: OwnedFd,
    /// `None` in the host's network namespace, whose sysfs only the launcher can give.
    pub sys: Option<OwnedFd>,
    pub pts: OwnedFd,
    mqueue: OwnedFd,
}

/// What the launcher makes, since only the host's root may make device nodes.
pub(crate) struct Devices {
    pub dev: OwnedFd,
    pub shm: OwnedFd,
}

impl Devices {
    /// A private /dev of real device nodes, and /dev/shm, that belong to the container's root. No file of the host
    /// takes part, so nothing there can be exchanged, and what a container does to its /dev/null is its own affair.
    pub(crate) fn make(shm_size: Bytes, ids: IdRange) -> SyscallResult<Self> {
        let owner = ids.first.to_string();
        let tmpfs = |mode: &str, size: &str| {
            let tmpfs = FilesystemContext::open("tmpfs")?.string("mode", mode)?.string("size", size)?;
            tmpfs.string("uid", &owner)?.string("gid", &owner)
        };
        let dev = tmpfs("0755", "65536k")?.mount(Attributes::NO_SUID.and(Attributes::NO_EXEC))?;
        let shm = tmpfs("1777", &shm_size.0.to_string())?.mount(NO_SUID_DEV_EXEC)?;
        fill_dev(&dev, ids).map_err(|e| SyscallError::new("mknod", "/dev", e))?;
        Ok(Self { dev, shm })
    }

    /// A path of /dev, looked up below the tmpfs's own fd, where only we have written.
    fn place(&self, name: &str, flags: OFlags) -> SyscallResult<OwnedFd> {
        openat(&self.dev, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags, Mode::empty())
            .map_err(|e| SyscallError::new("open", name, e))
    }

    /// Shows a terminal of the container as /dev/console.
    pub(crate) fn attach_console(&self, terminal: BorrowedFd<'_>) -> SyscallResult<()> {
        let copy = clone_mount(terminal)?;
        make_file(&self.dev, "console").map_err(|e| SyscallError::new("open", "console", e))?;
        attach(copy, self.place("console", OFlags::empty())?)
    }

    /// The container's own /dev/null.
    pub(crate) fn null(&self, flags: OFlags) -> SyscallResult<OwnedFd> {
        openat(&self.dev, "null", flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SyscallError::new("open", "/dev/null", e))
    }
}

impl SystemMounts {
    /// Makes all of them, as root of the container's namespaces, before the host's tree is left.
    pub(crate) fn make(own_network: bool) -> Result<Self, StepError> {
        let proc = FilesystemContext::open("proc")?.mount(NO_SUID_DEV_EXEC)?;
        let magic = statfs_magic(&proc)?;
        if magic != PROC_MAGIC {
            return Err(StepError::NotProc(magic));
        }
        let sys = match own_network {
            true => Some(FilesystemContext::open("sysfs")?.mount(NO_SUID_DEV_EXEC)?),
            false => None,
        };
        let pts = FilesystemContext::open("devpts")?
            .string("mode", "0620")?
            .string("ptmxmode", "0666")?
            .string("gid", "5")?
            .mount(Attributes::NO_SUID.and(Attributes::NO_EXEC))?;
        let mqueue = FilesystemContext::open("mqueue")?.mount(NO_SUID_DEV_EXEC)?;
        Ok(Self { proc, sys, pts, mqueue })
    }

    /// Attaches all of them in the new root.
    pub(crate) fn attach_all<Fd: AsFd>(&self, tree: &Tree<Fd>, devices: &Devices) -> Result<(), StepError> {
        attach(&self.proc, tree.top_directory("proc", 0o555)?)?;
        if let Some(sys) = &self.sys {
            attach(sys, tree.top_directory("sys", 0o555)?)?;
        }
        attach(&devices.dev, tree.top_directory("dev", 0o755)?)?;
        attach(&self.pts, devices.place("pts", OFlags::DIRECTORY)?)?;
        attach(&devices.shm, devices.place("shm", OFlags::DIRECTORY)?)?;
        attach(&self.mqueue, devices.place("mqueue", OFlags::DIRECTORY)?)?;
        Ok(())
    }

    /// The container's own cgroup (v2) at /sys/fs/cgroup, read-only. To be called in its cgroup namespace.
    pub(crate) fn attach_cgroups(&self) -> SyscallResult<()> {
        let Some(sys) = &self.sys else { return Ok(()) };
        let Some(place) = below(sys, "fs/cgroup")? else { return Ok(()) };
        let cgroups = FilesystemContext::open("cgroup2")?.mount(NO_SUID_DEV_EXEC.and(Attributes::READ_ONLY))?;
        attach(cgroups, place)
    }

    /// A new pseudo-terminal of the container: its master.
    pub(crate) fn new_terminal(&self) -> SyscallResult<OwnedFd> {
        openat(&self.pts, "ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SyscallError::new("open", "/dev/pts/ptmx", e))
    }

    /// Writes one sysctl of the container's own namespaces.
    pub(crate) fn sysctl(&self, path: &str, value: &str) -> SyscallResult<()> {
        let error = |e| SyscallError::new("write", path, e);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = openat2(&self.proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(error)?;
        rustix::io::write(fd, value.as_bytes()).map_err(error).map(drop)
    }

    /// Hides and protects what docker's list has.
    pub(crate) fn mask(&self, devices: &Devices) -> Result<(), StepError> {
        let mut cover = Cover::make(devices)?;
        for name in MASKED_PROC {
            cover.put(&self.proc, name)?;
        }
        if let Some(sys) = &self.sys {
            for name in MASKED_SYS {
                cover.put(sys, name)?;
            }
            set_attributes(sys, Attributes::READ_ONLY, false)?;
        }
        for name in READ_ONLY_PROC {
            let Some(place) = below(&self.proc, name)? else { continue };
            let copy = clone_mount(&place)?;
            set_attributes(&copy, NO_SUID_DEV_EXEC.and(Attributes::READ_ONLY), false)?;
            attach(copy, place)?;
        }
        Ok(())
    }
}

/// A path below a filesystem of the kernel, by its own fd; `None` where this kernel has no such file.
fn below(filesystem: &OwnedFd, name: &str) -> SyscallResult<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(filesystem, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(SyscallError::new("openat2", name, e)),
    }
}

/// What hides: an empty directory, and the container's own /dev/null over files.
struct Cover {
    empty: OwnedFd,
    null: OwnedFd,
    /// Kernels before 6.15 copy no mount that is attached nowhere: the first directory gets the original.
    attached: bool,
}

impl Cover {
    fn make(devices: &Devices) -> SyscallResult<Self> {
        let empty = FilesystemContext::open("tmpfs")?.string("size", "4k")?.string("mode", "0555")?;
        let empty = empty.mount(NO_SUID_DEV_EXEC.and(Attributes::READ_ONLY))?;
        Ok(Self { empty, null: devices.null(OFlags::PATH)?, attached: false })
    }

    fn put(&mut self, filesystem: &OwnedFd, name: &str) -> SyscallResult<()> {
        let Some(place) = below(filesystem, name)? else { return Ok(()) };
        let stat = fstat(&place).map_err(|e| SyscallError::new("fstat", name, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return attach(clone_mount(&self.null)?, place);
        }
        if self.attached {
            return attach(clone_mount(&self.empty)?, place);
        }
        self.attached = true;
        attach(&self.empty, place)
    }
}

/// Nodes, mount points and links of a fresh /dev, all the container's root's.
fn fill_dev(dev: &OwnedFd, ids: IdRange) -> Result<(), Errno> {
    let owner = (Some(Uid::from_raw(ids.first)), Some(Gid::from_raw(ids.first)));
    let own = |name: &str| chownat(dev, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW);
    for directory in ["pts", "shm", "mqueue"] {
        mkdirat(dev, directory, Mode::from_raw_mode(0o755))?;
        own(directory)?;
    }
    for (name, major, minor) in DEVICES {
        mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
        // The launcher's umask has no say in it.
        chmodat(dev, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        own(name)?;
    }
    for (target, link) in LINKS {
        symlinkat(target, dev, link)?;
        own(link)?;
    }
    Ok(())
}

fn make_file(dev: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::from_raw_mode(0o666)).map(drop)
}

/// The host's /sys with all below it, read-only: what a container in the host's network namespace gets, because only
/// the owner of a network namespace may mount its sysfs.
pub(crate) fn host_sys() -> SyscallResult<OwnedFd> {
    let sys = clone_tree(Path::new("/sys"), true)?;
    set_attributes(&sys, NO_SUID_DEV_EXEC.and(Attributes::READ_ONLY), true)?;
    Ok(sys)
}

/// The fds a directory of /proc/self/fd shows: none beyond these three may reach a program.
pub(crate) const STANDARD_STREAMS: [i32; 3] = [0, 1, 2];

/// Makes `streams` the standard streams.
pub(crate) fn place_streams(streams: [BorrowedFd<'_>; 3]) -> SyscallResult<()> {
    // Sources may themselves be numbered 0 to 2 (a launcher started without standard streams): move them up first.
    let moved = streams
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|e| SyscallError::new("fcntl", "F_DUPFD", e)))
        .collect::<Result<Vec<_>, _>>()?;
    for (fd, number) in moved.iter().zip(STANDARD_STREAMS) {
        let placed = match number {
            0 => rustix::stdio::dup2_stdin(fd),
            1 => rustix::stdio::dup2_stdout(fd),
            _ => rustix::stdio::dup2_stderr(fd),
        };
        placed.map_err(|e| SyscallError::new("dup2", fd.as_raw_fd().to_string(), e))?;
    }
    Ok(())
}
