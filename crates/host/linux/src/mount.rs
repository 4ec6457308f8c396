//! Mounts as file descriptors: made detached, changed while nobody sees them, attached where an fd says.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::error::{SyscallError, SyscallResult, check, failed};

/// Attributes of a mount (`MOUNT_ATTR_*` of linux/mount.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u64);

impl Attributes {
    pub const READ_ONLY: Self = Self(0x1);
    pub const NO_SUID: Self = Self(0x2);
    pub const NO_DEV: Self = Self(0x4);
    pub const NO_EXEC: Self = Self(0x8);
    pub const NO_SYMLINK_FOLLOW: Self = Self(0x0020_0000);
    const IDMAP: Self = Self(0x0010_0000);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> SyscallResult<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal; `attr` is the structure of the size passed.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    check("mount_setattr", &format!("set {:#x}", attr.attr_set), rc).map(drop)
}

/// Adds attributes to a mount, or to all of its tree.
pub fn set_attributes(mount: impl AsFd, set: Attributes, recursive: bool) -> SyscallResult<()> {
    mount_setattr(mount.as_fd(), recursive, &MountAttr { attr_set: set.0, ..MountAttr::default() })
}

/// Shows a detached mount with the ids of `user_namespace`: what is `n` on disk appears as the host's id that
/// `n` has there.
pub fn idmap(mount: impl AsFd, user_namespace: impl AsFd, recursive: bool) -> SyscallResult<()> {
    let userns_fd = user_namespace.as_fd().as_raw_fd() as u64;
    mount_setattr(
        mount.as_fd(),
        recursive,
        &MountAttr { attr_set: Attributes::IDMAP.0, userns_fd, ..MountAttr::default() },
    )
}

/// A detached copy of the mount that shows `path`, with `path` as its root. With `recursive`, the mounts below it too.
pub fn clone_tree(path: &Path, recursive: bool) -> SyscallResult<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(|e| SyscallError::new("open_tree", path.display().to_string(), e))
}

/// A detached copy of the mount an fd lies on, with what the fd refers to as its root.
pub fn clone_mount(at: impl AsFd) -> SyscallResult<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(at, "", flags).map_err(failed("open_tree", "fd"))
}

/// A filesystem being configured (`fsopen`).
pub struct FilesystemContext {
    name: &'static str,
    fd: OwnedFd,
}

impl FilesystemContext {
    pub fn open(name: &'static str) -> SyscallResult<Self> {
        let fd = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", name))?;
        Ok(Self { name, fd })
    }

    pub fn string(self, key: &str, value: &str) -> SyscallResult<Self> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.explain("fsconfig", &format!("{key}={value}"), e))?;
        Ok(self)
    }

    pub fn flag(self, key: &str) -> SyscallResult<Self> {
        fsconfig_set_flag(&self.fd, key).map_err(|e| self.explain("fsconfig", key, e))?;
        Ok(self)
    }

    pub fn fd(&mut self, key: &str, fd: impl AsFd) -> SyscallResult<()> {
        fsconfig_set_fd(&self.fd, key, fd).map_err(|e| self.explain("fsconfig", key, e))
    }

    /// Makes the filesystem and a detached mount of it.
    pub fn mount(self, attributes: Attributes) -> SyscallResult<OwnedFd> {
        fsconfig_create(&self.fd).map_err(|e| self.explain("fsconfig", "create", e))?;
        let flags = MountAttrFlags::from_bits_retain(attributes.0 as u32);
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(|e| self.explain("fsmount", "", e))
    }

    /// The error with what the kernel wrote about it into the context's message queue.
    fn explain(&self, call: &'static str, argument: &str, errno: Errno) -> SyscallError {
        let mut buffer = [0u8; 256];
        let said = rustix::io::read(&self.fd, &mut buffer).unwrap_or(0);
        let said = String::from_utf8_lossy(&buffer[..said]);
        let argument = match said.trim_end().trim_start_matches("e ") {
            "" => format!("{} {argument}", self.name),
            said => format!("{} {argument}: {said}", self.name),
        };
        SyscallError::new(call, argument, errno)
    }
}

/// Attaches a detached mount on what `target` (an `O_PATH` fd in this mount namespace) refers to.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> SyscallResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(failed("move_mount", "fd"))
}

/// Attaches a detached mount at `name` below `directory`, following no symlink in the last component.
pub fn attach_in(mount: impl AsFd, directory: impl AsFd, name: &str) -> SyscallResult<()> {
    move_mount(mount, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed("move_mount", name))
}

/// Makes a detached mount the root directory and drops the old root with everything below it.
pub fn pivot_into(root: impl AsFd) -> SyscallResult<()> {
    // On top of "/": a mountpoint that surely exists. The process's root stays the mount beneath until pivot_root.
    attach_in(root.as_fd(), CWD, "/")?;
    rustix::process::fchdir(root.as_fd()).map_err(failed("fchdir", "new root"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root", "."))?;
    detach(Path::new("."))?;
    rustix::process::chdir("/").map_err(failed("chdir", "/"))
}

/// Lazily unmounts `path` and all below it.
pub fn detach(path: &Path) -> SyscallResult<()> {
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|e| SyscallError::new("umount2", path.display().to_string(), e))
}

/// Which kind of filesystem an fd lies on (`*_MAGIC` of linux/magic.h).
pub fn statfs_magic(fd: impl AsFd) -> SyscallResult<u64> {
    Ok(rustix::fs::fstatfs(fd).map_err(failed("fstatfs", ""))?.f_type as u64)
}
