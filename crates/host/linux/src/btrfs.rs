//! Subvolumes of btrfs: made, snapshotted and removed by ioctls on the directory they are in (linux/btrfs.h).

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::fstat;
use rustix::io::Errno;

use crate::error::{SyscallError, SyscallResult, check};

/// `_IOW(0x94, 14, struct btrfs_ioctl_vol_args)`.
const SUBVOL_CREATE: libc::c_ulong = 0x5000_940e;
/// `_IOW(0x94, 15, struct btrfs_ioctl_vol_args)`.
const SNAP_DESTROY: libc::c_ulong = 0x5000_940f;
/// `_IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)`.
const SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
/// `_IOW(0x94, 26, __u64)`.
const SUBVOL_SETFLAGS: libc::c_ulong = 0x4008_941a;
/// `_IOW(0x94, 22, __u64)`.
const WAIT_SYNC: libc::c_ulong = 0x4008_9416;
/// `_IOR(0x94, 24, __u64)`.
const START_SYNC: libc::c_ulong = 0x8008_9418;
/// `_IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)`.
const QUOTA_CTL: libc::c_ulong = 0xc010_9428;
/// `_IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)`.
const QGROUP_LIMIT: libc::c_ulong = 0x8030_942b;
/// `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA` (Linux 6.7).
const ENABLE_SIMPLE_QUOTA: u64 = 4;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const LIMIT_MAX_RFER: u64 = 1;
/// `BTRFS_SUBVOL_RDONLY`.
const RDONLY: u64 = 1 << 1;
/// Inode number of a subvolume's root (`BTRFS_FIRST_FREE_OBJECTID`).
const ROOT_INODE: u64 = 256;
/// `BTRFS_SUPER_MAGIC` of linux/magic.h.
pub const BTRFS_MAGIC: u64 = 0x9123_683e;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`, without its unions' other halves.
#[repr(C)]
struct VolArgs2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaCtl {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`, with the `struct btrfs_qgroup_limit` in it.
#[repr(C)]
struct QgroupLimit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

const _: () = assert!(size_of::<QuotaCtl>() == 16 && size_of::<QgroupLimit>() == 48);
const _: () = assert!(size_of::<VolArgs>() == 4096 && size_of::<VolArgs2>() == 4096);

/// Makes an empty subvolume `name` in the directory `parent`, mode 0755 less the umask.
pub fn create_subvolume(parent: impl AsFd, name: &str) -> SyscallResult<()> {
    let args = VolArgs { fd: 0, name: padded("ioctl(BTRFS_IOC_SUBVOL_CREATE)", name)? };
    // SAFETY: the kernel reads one `vol_args`, whose name ends with a zero byte.
    let rc = unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SUBVOL_CREATE, &raw const args) };
    check("ioctl(BTRFS_IOC_SUBVOL_CREATE)", name, rc.into()).map(drop)
}

/// Makes a snapshot of `subvolume` as `name` in `parent`, of the same filesystem. All that was written to it before is in
/// it; the call takes the same time for any size.
pub fn snapshot_subvolume(subvolume: impl AsFd, parent: impl AsFd, name: &str, read_only: bool) -> SyscallResult<()> {
    let call = "ioctl(BTRFS_IOC_SNAP_CREATE_V2)";
    let args = VolArgs2 {
        fd: subvolume.as_fd().as_raw_fd().into(),
        transid: 0,
        flags: if read_only { RDONLY } else { 0 },
        unused: [0; 4],
        name: padded(call, name)?,
    };
    // SAFETY: the kernel reads one `vol_args_v2`, whose name ends with a zero byte; the fd in it is open meanwhile.
    let rc = unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SNAP_CREATE_V2, &raw const args) };
    check(call, name, rc.into()).map(drop)
}

/// Removes the subvolume `name` of `parent`, read-only or not; its blocks are given back later.
pub fn destroy_subvolume(parent: impl AsFd, name: &str) -> SyscallResult<()> {
    let args = VolArgs { fd: 0, name: padded("ioctl(BTRFS_IOC_SNAP_DESTROY)", name)? };
    // SAFETY: the kernel reads one `vol_args`, whose name ends with a zero byte.
    let rc = unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SNAP_DESTROY, &raw const args) };
    check("ioctl(BTRFS_IOC_SNAP_DESTROY)", name, rc.into()).map(drop)
}

/// Lets nobody write to a subvolume, or everybody again who might before.
pub fn set_subvolume_read_only(subvolume: impl AsFd, read_only: bool) -> SyscallResult<()> {
    let flags: u64 = if read_only { RDONLY } else { 0 };
    // SAFETY: the kernel reads one u64.
    let rc = unsafe { libc::ioctl(subvolume.as_fd().as_raw_fd(), SUBVOL_SETFLAGS, &raw const flags) };
    check("ioctl(BTRFS_IOC_SUBVOL_SETFLAGS)", "", rc.into()).map(drop)
}

/// Whether an open directory is a subvolume's root.
pub fn is_subvolume(directory: impl AsFd) -> SyscallResult<bool> {
    let inode = fstat(&directory).map_err(|errno| SyscallError::new("fstat", "", errno))?.st_ino;
    Ok(inode == ROOT_INODE && crate::statfs_magic(directory)? == BTRFS_MAGIC)
}

/// Has what was done to names and attributes until now be on disk when this returns, all of it or, after a crash before, what came
/// first of it. Files' data that is not written yet is not waited for, as `syncfs` would.
pub fn commit(directory: impl AsFd) -> SyscallResult<()> {
    let mut transaction: u64 = 0;
    // SAFETY: the kernel writes one u64.
    let rc = unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), START_SYNC, &raw mut transaction) };
    check("ioctl(BTRFS_IOC_START_SYNC)", "", rc.into())?;
    // SAFETY: the kernel reads one u64.
    let rc = unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), WAIT_SYNC, &raw const transaction) };
    check("ioctl(BTRFS_IOC_WAIT_SYNC)", "", rc.into()).map(drop)
}

/// Has the filesystem of a directory count by subvolume who wrote what (simple quotas, Linux 6.7). What was written before
/// is not counted.
pub fn enable_simple_quotas(directory: impl AsFd) -> SyscallResult<()> {
    let mut args = QuotaCtl { command: ENABLE_SIMPLE_QUOTA, status: 0 };
    // SAFETY: the kernel reads and writes one `quota_ctl_args`.
    let rc = unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), QUOTA_CTL, &raw mut args) };
    check("ioctl(BTRFS_IOC_QUOTA_CTL)", "", rc.into()).map(drop)
}

/// The most bytes that a subvolume may hold of its own; `None` is as many as fit. Fails with `ENOTCONN` where the filesystem does
/// not count them.
pub fn limit_subvolume(subvolume: impl AsFd, bytes: Option<u64>) -> SyscallResult<()> {
    let args = QgroupLimit {
        // Of the subvolume that the descriptor is in.
        group: 0,
        flags: LIMIT_MAX_RFER,
        // All ones takes a limit away.
        max_referenced: bytes.unwrap_or(u64::MAX),
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    // SAFETY: the kernel reads one `qgroup_limit_args`.
    let rc = unsafe { libc::ioctl(subvolume.as_fd().as_raw_fd(), QGROUP_LIMIT, &raw const args) };
    check("ioctl(BTRFS_IOC_QGROUP_LIMIT)", "", rc.into()).map(drop)
}

/// A name with the zero byte that ends it, and all after.
fn padded<const LEN: usize>(call: &'static str, name: &str) -> SyscallResult<[u8; LEN]> {
    let mut bytes = [0; LEN];
    // The kernel takes 255 bytes (`BTRFS_VOL_NAME_MAX`) and says so itself.
    let Some(room) = bytes.get_mut(..name.len()).filter(|_| name.len() < LEN && !name.contains('\0')) else {
        return Err(SyscallError::new(call, name, Errno::NAMETOOLONG));
    };
    room.copy_from_slice(name.as_bytes());
    Ok(bytes)
}
