//! Named steps, and the channel between the launcher and the child that takes them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coppice_linux::{receive, send};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::failure::{StartFailure, StepError};

/// Gives an error the name of the step it happened in.
pub(crate) fn step<T>(name: &str, result: Result<T, impl Into<StepError>>) -> Result<T, StartFailure> {
    result.map_err(|e| StartFailure::setup(name, e.into()))
}

/// What the launcher and the child tell each other, one byte each, with fds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Word {
    /// Launcher → child: ids are mapped.
    Mapped = b'm',
    /// Launcher → child: the network's link is there, to be configured.
    Linked = b'l',
    /// Child → launcher: the network is configured, and is to be settled.
    Connected = b'c',
    /// Launcher → child: the root filesystem and the mounts, which come with it, are there.
    Go = b'g',
    /// Launcher → child: the network passes packets; the last word before the program.
    Settled = b's',
    /// Child → launcher: the terminal's master.
    Terminal = b't',
    /// Child → launcher: execve comes next; the end of the channel means that it worked.
    Executing = b'x',
}

/// Waits for a word; the end of the channel is the launcher's end, and ours.
pub(crate) fn hear(channel: impl AsFd, want: Word) -> Result<Vec<OwnedFd>, StepError> {
    let mut byte = [0u8; 16];
    let mut fds = Vec::new();
    loop {
        match receive(channel.as_fd(), &mut byte, &mut fds, RecvFlags::empty()) {
            Ok(1) if byte[0] == want as u8 => return Ok(fds),
            Ok(said) => return Err(StepError::Launcher(byte[..said].to_vec())),
            Err(Errno::INTR) => {}
            Err(e) => return Err(coppice_linux::SyscallError::new("recvmsg", "channel", e).into()),
        }
    }
}

pub(crate) fn say(channel: impl AsFd, word: Word, fds: &[BorrowedFd<'_>]) -> Result<(), StepError> {
    send(channel, &[word as u8], fds, SendFlags::empty())
        .map_err(|e| coppice_linux::SyscallError::new("sendmsg", "channel", e))?;
    Ok(())
}
