//! What a failed system call says.

use rustix::io::Errno;

pub type SyscallResult<T> = Result<T, SyscallError>;

/// A system call that failed: which, on what, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}({argument}): {errno}")]
pub struct SyscallError {
    pub call: &'static str,
    /// The argument that tells a reader which of several such calls it was.
    pub argument: String,
    pub errno: Errno,
}

impl SyscallError {
    pub fn new(call: &'static str, argument: impl Into<String>, errno: Errno) -> Self {
        Self { call, argument: argument.into(), errno }
    }

    /// The error of the libc call that just returned −1.
    pub(crate) fn last(call: &'static str, argument: impl Into<String>) -> Self {
        let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Self::new(call, argument, Errno::from_raw_os_error(raw))
    }
}

/// `map_err` adapter for rustix results.
pub(crate) fn failed<'a>(call: &'static str, argument: &'a str) -> impl FnOnce(Errno) -> SyscallError + 'a {
    move |errno| SyscallError::new(call, argument, errno)
}

/// Turns the −1 convention of libc into a result.
pub(crate) fn check(call: &'static str, argument: &str, returned: libc::c_long) -> SyscallResult<libc::c_long> {
    if returned < 0 { Err(SyscallError::last(call, argument)) } else { Ok(returned) }
}
