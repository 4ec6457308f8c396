//! Pseudo-terminals by fd.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{SyscallError, SyscallResult, check, failed};

/// The other end of a pseudo-terminal's master, without looking a path up (`TIOCGPTPEER`); unlocks it first.
pub fn open_peer(master: impl AsFd) -> SyscallResult<OwnedFd> {
    rustix::pty::unlockpt(&master).map_err(failed("ioctl(TIOCSPTLCK)", ""))?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: this ioctl takes open flags and returns a new fd.
    let fd = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(SyscallError::last("ioctl(TIOCGPTPEER)", ""));
    }
    // SAFETY: the kernel just returned this fd to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the terminal the controlling one of the calling session leader.
pub fn make_controlling(terminal: impl AsFd) -> SyscallResult<()> {
    // SAFETY: integer argument.
    let rc = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    check("ioctl(TIOCSCTTY)", "", rc.into()).map(drop)
}

pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> SyscallResult<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).map_err(failed("ioctl(TIOCSWINSZ)", ""))
}
