//! The two bpf(2) commands that device rules of cgroup v2 need: load a `BPF_PROG_TYPE_CGROUP_DEVICE` program
//! and attach it to a cgroup. Constants and layouts are those of `include/uapi/linux/bpf.h`.
//!
//! Instructions are given as their 64-bit encodings; no maps, no helpers, no relocation.

#![allow(unsafe_code)] // bpf(2) has no safe wrapper in rustix

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, Result};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes shorter attrs as zero-filled.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: `attr` is a live, repr(C), fully initialised prefix of bpf_attr of the size given; the pointers in
    // it (built by the callers from slices that outlive this call) are only read by the kernel.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if rc < 0 {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(code));
    }
    Ok(rc)
}

/// Loads a device program. `EPERM` without CAP_BPF (or CAP_SYS_ADMIN); `EINVAL` when the verifier refuses it.
pub fn load_cgroup_device(instructions: &[u64]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: BPF_PROG_LOAD returned a new descriptor that nothing else owns (bpf fds are O_CLOEXEC).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches `program` to the cgroup directory `cgroup` (opened for reading), beside programs of ancestors: a
/// device is allowed only when all of them allow it.
pub fn attach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}
