//! Namespaces: making, joining, and the few settings that live in one.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{SyscallError, SyscallResult, check, failed};

/// `CLONE_NEW*` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceFlags(pub u64);

impl NamespaceFlags {
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    pub const NET: Self = Self(libc::CLONE_NEWNET as u64);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Moves the process into new namespaces.
pub fn unshare(flags: NamespaceFlags) -> SyscallResult<()> {
    // SAFETY: no CLONE_FILES or CLONE_VM can be in `NamespaceFlags`' constants; namespaces do not touch memory.
    let rc = unsafe { libc::unshare(flags.0 as libc::c_int) };
    check("unshare", &format!("{:#x}", flags.0), rc.into()).map(drop)
}

/// Joins namespaces of the process behind a pidfd.
pub fn join_namespaces(pidfd: impl AsFd, flags: NamespaceFlags) -> SyscallResult<()> {
    // SAFETY: integers only; joining namespaces does not touch memory.
    let rc = unsafe { libc::setns(pidfd.as_fd().as_raw_fd(), flags.0 as libc::c_int) };
    check("setns", &format!("{:#x}", flags.0), rc.into()).map(drop)
}

/// Makes the caller's *next children* start in the pid namespace of `of` (a pidfd, or an fd of a pid namespace).
/// The caller itself stays where it is, and may come back by its own namespace.
pub fn join_pid_namespace_for_children(of: impl AsFd) -> SyscallResult<()> {
    join_namespaces(of, NamespaceFlags::PID)
}

/// `PIDFD_GET_USER_NAMESPACE` of linux/pidfd.h (kernel 6.11).
const PIDFD_GET_USER_NAMESPACE: libc::c_ulong = 0xff09;

/// The user namespace of a process.
pub fn user_namespace_of(pidfd: impl AsFd, pid: u32) -> SyscallResult<OwnedFd> {
    // SAFETY: this ioctl takes no argument and returns a new fd.
    let fd = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_USER_NAMESPACE, 0) };
    if fd >= 0 {
        // SAFETY: the kernel just returned this fd to us alone.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let path = format!("/proc/{pid}/ns/user");
    rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", &path))
}

pub fn set_hostname(name: &str) -> SyscallResult<()> {
    rustix::system::sethostname(name.as_bytes()).map_err(failed("sethostname", name))
}

/// Sets `lo` of the current network namespace up (which gives it 127.0.0.1 and ::1).
pub fn bring_loopback_up() -> SyscallResult<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(failed("socket", "AF_INET"))?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if rc < 0 { Err(SyscallError::last("ioctl(SIOCSIFFLAGS)", "lo")) } else { Ok(()) }
}
