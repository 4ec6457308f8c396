//! Capability sets of the calling thread.

use crate::error::{SyscallResult, check};

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h.
const VERSION_3: u32 = 0x2008_0522;

/// Sets the three sets of the calling thread. Bit n is capability n.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> SyscallResult<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes exactly two data structures; both live through the call.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    check("capset", &format!("{permitted:#x}"), rc).map(drop)
}

/// Removes every capability outside `keep` from the bounding set.
pub fn drop_bounding(keep: u64, last: u32) -> SyscallResult<()> {
    for capability in 0..=last {
        if keep & (1 << capability) == 0 {
            // SAFETY: integers only.
            let rc = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
            check("prctl(PR_CAPBSET_DROP)", "", rc.into())?;
        }
    }
    Ok(())
}

/// Empties the ambient set.
pub fn clear_ambient() -> SyscallResult<()> {
    // SAFETY: integers only.
    let rc = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) };
    check("prctl(PR_CAP_AMBIENT)", "clear all", rc.into()).map(drop)
}

/// Highest capability this kernel knows, found by asking it.
pub fn last_capability() -> u32 {
    // SAFETY: integers only.
    let known = |n: u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, n as libc::c_ulong, 0, 0, 0) } >= 0;
    (0..64).take_while(|&n| known(n)).last().unwrap_or(0)
}
