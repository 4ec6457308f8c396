//! The caller's terminal: its size, and raw mode that is always undone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, Once};

use coppice_api::TerminalSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// What to put back, and where. One per process: a process has one terminal to spoil.
static BEFORE: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Raw mode while it lives.
///
/// Dropping it puts the terminal back; so does a panic (its message would be a staircase otherwise, and with
/// `panic = "abort"` no destructor runs). A signal that ends the program is handled by whoever holds this.
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes `terminal` raw; `None` when it is no terminal.
    pub(crate) fn enter(terminal: BorrowedFd<'_>) -> std::io::Result<Option<Self>> {
        if !isatty(terminal) {
            return Ok(None);
        }
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        *lock() = Some((terminal.try_clone_to_owned()?, before));
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        // Drain: what was typed before is kept, what is being printed is finished first.
        if let Err(error) = tcsetattr(terminal, OptionalActions::Drain, &raw) {
            restore();
            return Err(error.into());
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<(OwnedFd, Termios)>> {
    BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn restore() {
    if let Some((terminal, before)) = lock().take() {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&terminal, OptionalActions::Drain, &before);
    }
}

/// Rows and columns, if `fd` is a terminal that knows them.
pub(crate) fn size(fd: impl AsFd) -> Option<TerminalSize> {
    let size = tcgetwinsize(fd).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// The caller's terminal size, from whichever standard stream is one.
pub(crate) fn standard_size() -> Option<TerminalSize> {
    size(std::io::stdout()).or_else(|| size(std::io::stdin())).or_else(|| size(std::io::stderr()))
}

/// Asks for a line that is not shown. Ctrl-C ends it as an interrupt would.
pub(crate) fn read_secret(prompt: &str) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Write};
    let stdin = std::io::stdin();
    std::io::stderr().write_all(prompt.as_bytes())?;
    let raw = RawMode::enter(stdin.as_fd())?;
    let mut secret = Vec::new();
    let mut byte = [0u8];
    let result = loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(&stdin, &mut byte))? {
            0 => break Ok(()),
            _ => match byte[0] {
                b'\r' | b'\n' => break Ok(()),
                // Ctrl-C, Ctrl-D on an empty line
                3 => break Err(Error::from(ErrorKind::Interrupted)),
                4 if secret.is_empty() => break Err(Error::from(ErrorKind::UnexpectedEof)),
                // Backspace takes a whole character away.
                8 | 127 => while secret.pop().is_some_and(|last: u8| last & 0xc0 == 0x80) {},
                other => secret.push(other),
            },
        }
    };
    drop(raw);
    std::io::stderr().write_all(b"\n")?;
    result?;
    String::from_utf8(secret).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    /// Held by each test that makes a terminal raw: a process undoes one at a time, and tests share a process.
    pub(crate) static ONE_RAW: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// Both ends of a new terminal.
    pub(crate) fn pty() -> (OwnedFd, OwnedFd) {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&control).unwrap();
        unlockpt(&control).unwrap();
        let terminal = ioctl_tiocgptpeer(&control, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        (control, terminal)
    }

    pub(crate) fn echoes(terminal: &OwnedFd) -> bool {
        tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    #[test]
    fn raw_mode_is_undone_when_it_is_dropped_when_it_unwinds_and_when_it_panics() {
        let _one = ONE_RAW.blocking_lock();
        let (_control, terminal) = pty();
        assert!(echoes(&terminal));

        let raw = RawMode::enter(terminal.as_fd()).unwrap();
        assert!(raw.is_some() && !echoes(&terminal));
        drop(raw);
        assert!(echoes(&terminal), "not put back by dropping");

        let entered = RawMode::enter(terminal.as_fd()).unwrap();
        // No destructor runs, as with `panic = "abort"`: only the hook is left.
        std::mem::forget(entered);
        assert!(!echoes(&terminal));
        let panicked = std::panic::catch_unwind(|| panic!("for the hook"));
        assert!(panicked.is_err() && echoes(&terminal), "not put back by a panic");

        let (read, _write) = std::io::pipe().unwrap();
        assert!(RawMode::enter(read.as_fd()).unwrap().is_none(), "a pipe is no terminal");
    }

    #[test]
    fn a_terminals_size_is_rows_and_columns_and_a_pipe_has_none() {
        let (control, terminal) = pty();
        assert_eq!(size(&terminal), None, "a new terminal knows no size");
        let window = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&control, window).unwrap();
        assert_eq!(size(&terminal), Some(TerminalSize { rows: 24, columns: 80 }));
        let (read, _write) = std::io::pipe().unwrap();
        assert_eq!(size(&read), None);
    }
}
