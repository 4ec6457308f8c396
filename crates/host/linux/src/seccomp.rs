//! Loading a seccomp filter. What it allows is decided by the caller.

use crate::error::{SyscallResult, check};

/// One classic BPF instruction (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

#[repr(C)]
struct Program {
    len: libc::c_ushort,
    filter: *const Instruction,
}

/// Puts the process under a filter, for good. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn load_seccomp(filter: &[Instruction]) -> SyscallResult<()> {
    let len = libc::c_ushort::try_from(filter.len()).unwrap_or(libc::c_ushort::MAX);
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: the program points to `len` instructions; the kernel copies and checks them.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check("seccomp", &format!("{} instructions", filter.len()), rc).map(drop)
}
