//! A process's input, output and signals, carried between the caller's terminal or pipes and a stream of frames.
//!
//! Three things go on at once and none waits for another: output is written as it comes, input is sent as it is
//! read, signals and window changes are passed on. A process that does not read its input (the socket is full then)
//! still gets its signals: they take the API's other door.
//!
//! No thread is started for any of it: standard input is polled where it can be and read directly where it cannot
//! (files, /dev/null), so nothing is left blocked in a read when the process has ended.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use coppice_api::{ExitReply, KillRequest, TerminalSize};
use coppice_client::{Client, ClientError, Frame, FrameReader, FrameWriter, Stream};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

use crate::output::{Paint, Style, visible};
use crate::terminal::{self, RawMode};

/// Bytes read from standard input at a time.
const READ_SIZE: usize = 64 << 10;
/// Interrupts after which a caller who cannot get through is let go (docker's number).
const INTERRUPTS_MAX: u32 = 3;
/// The keys that leave a process running: Ctrl-P, Ctrl-Q.
const DETACH_KEYS: [u8; 2] = [0x10, 0x11];

/// The caller's side.
pub(crate) struct Caller<'fd> {
    /// `None`: the process gets no input from here.
    pub(crate) stdin: Option<BorrowedFd<'fd>>,
    pub(crate) stdout: BorrowedFd<'fd>,
    pub(crate) stderr: BorrowedFd<'fd>,
    /// Of `stderr`, for what is not the process's own.
    pub(crate) style: Style,
    /// The process has a terminal.
    pub(crate) tty: bool,
    /// Pass INT, TERM and others on instead of ending.
    pub(crate) signals: bool,
    /// Window changes are passed on from the caller's terminal.
    pub(crate) resize: bool,
}

/// How it came to an end.
#[derive(Debug)]
pub(crate) enum Ending {
    Exit(ExitReply),
    /// The detach keys; the process runs on.
    Detached,
    /// This program was told to end by a signal, or interrupted too often; the process runs on.
    Signalled(i32),
    /// The node went away.
    Lost(ClientError),
    /// Output could not be written.
    Output(io::Error),
}

/// Carries everything until the process ends or the caller leaves. `container` is where signals go when the stream
/// is full.
pub(crate) async fn carry(client: &Client, container: Option<&str>, stream: Stream, caller: Caller<'_>) -> Ending {
    let raw = match (caller.stdin, caller.tty) {
        (Some(stdin), true) => match RawMode::enter(stdin) {
            Ok(raw) => raw,
            Err(error) => return Ending::Output(error),
        },
        _ => None,
    };
    let is_raw = raw.is_some();
    let (mut reader, writer) = stream.split();
    let writer = Mutex::new(writer);
    let ending = tokio::select! {
        biased;
        ending = output(&mut reader, &caller) => ending,
        ending = input(&writer, &caller, is_raw) => ending,
        ending = signals(client, container, &writer, &caller, is_raw) => ending,
    };
    drop(raw);
    ending
}

async fn output(reader: &mut FrameReader, caller: &Caller<'_>) -> Ending {
    loop {
        let written = match reader.next().await {
            Ok(Some(Frame::Stdout(bytes))) => write_all(caller.stdout, &bytes).await,
            Ok(Some(Frame::Stderr(bytes))) => write_all(caller.stderr, &bytes).await,
            Ok(Some(Frame::Word(word))) => write_all(caller.stderr, &warning(&caller.style, &word)).await,
            Ok(Some(Frame::Exit(reply))) => return Ending::Exit(reply),
            Ok(None) => return Ending::Lost(ClientError::Lost { what: "the stream ended without an exit".into() }),
            Err(error) => return Ending::Lost(error),
        };
        if let Err(error) = written {
            return Ending::Output(error);
        }
    }
}

/// A line for the caller, whose terminal may be raw.
fn warning(style: &Style, word: &str) -> Vec<u8> {
    let end = if style.terminal { "\r\n" } else { "\n" };
    format!("{} {}{end}", style.paint(Paint::Yellow, "warning:"), visible(word)).into_bytes()
}

/// Writes without blocking the other two: what a pipe or terminal cannot take at once is waited for off this thread.
async fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    /// A pipe that polls writable takes this many bytes without blocking (PIPE_BUF).
    const PIECE: usize = 4096;
    while !bytes.is_empty() {
        if !ready(fd, PollFlags::OUT)? {
            let waiting = fd.try_clone_to_owned()?;
            let waited = tokio::task::spawn_blocking(move || {
                let mut fds = [PollFd::new(&waiting, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| poll(&mut fds, None))
            });
            waited.await.map_err(io::Error::other)??;
        }
        let piece = &bytes[..bytes.len().min(PIECE)];
        match rustix::io::write(fd, piece) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn ready(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))? > 0)
}

/// Sends standard input. Never ends by itself but by the detach keys: a process may run on after its input's end.
async fn input(writer: &Mutex<FrameWriter>, caller: &Caller<'_>, detachable: bool) -> Ending {
    let Some(stdin) = caller.stdin else {
        return std::future::pending().await;
    };
    let source = Source::of(stdin);
    let mut buffer = vec![0; READ_SIZE];
    let mut keys = Detach::default();
    loop {
        let read = match source.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // Unreadable input is ended input: the process decides what that means.
                let _ = writer.lock().await.close_stdin().await;
                return std::future::pending().await;
            }
            Ok(read) => read,
        };
        let typed = if detachable { keys.filter(&buffer[..read]) } else { Typed::Bytes(buffer[..read].to_vec()) };
        let (bytes, detach) = match typed {
            Typed::Bytes(bytes) => (bytes, false),
            Typed::Detach(bytes) => (bytes, true),
        };
        // A process that has gone no longer takes input; its exit is on the way.
        if !bytes.is_empty() && writer.lock().await.stdin(&bytes).await.is_err() {
            return std::future::pending().await;
        }
        if detach {
            return Ending::Detached;
        }
    }
}

enum Typed {
    Bytes(Vec<u8>),
    Detach(Vec<u8>),
}

/// Looks for the detach keys in what is typed. A first key is held back until the next byte says what it was.
#[derive(Default)]
struct Detach {
    held: bool,
}

impl Detach {
    fn filter(&mut self, bytes: &[u8]) -> Typed {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if self.held && *byte == DETACH_KEYS[1] {
                return Typed::Detach(out);
            }
            if std::mem::take(&mut self.held) {
                out.push(DETACH_KEYS[0]);
            }
            if *byte == DETACH_KEYS[0] {
                self.held = true;
            } else {
                out.push(*byte);
            }
        }
        Typed::Bytes(out)
    }
}

/// Standard input, polled when it can be.
enum Source<'fd> {
    Polled(AsyncFd<BorrowedFd<'fd>>),
    /// Reads never wait: plain files, /dev/null.
    Direct(BorrowedFd<'fd>),
}

impl<'fd> Source<'fd> {
    fn of(fd: BorrowedFd<'fd>) -> Self {
        // Deprecated for types that could close the descriptor behind its back; a `BorrowedFd` cannot, and the
        // replacement is an unsafe fn, which has no place in this crate.
        #[allow(deprecated)]
        let polled = AsyncFd::with_interest(fd, Interest::READABLE);
        match polled {
            Ok(polled) => Self::Polled(polled),
            Err(_) => Self::Direct(fd),
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Direct(fd) => {
                // Lets output and signals have their turn between two pieces of a large file.
                tokio::task::yield_now().await;
                Ok(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer))?)
            }
            Self::Polled(polled) => {
                loop {
                    let mut guard = polled.readable().await?;
                    // The descriptor is shared with other programs and must not be made non-blocking: poll first.
                    let read = guard.try_io(|fd| {
                        let fd = *fd.get_ref();
                        if !ready(fd, PollFlags::IN)? {
                            return Err(io::ErrorKind::WouldBlock.into());
                        }
                        Ok(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer))?)
                    });
                    if let Ok(read) = read {
                        return read;
                    }
                }
            }
        }
    }
}

/// Passes signals and window changes on.
async fn signals(
    client: &Client,
    container: Option<&str>,
    writer: &Mutex<FrameWriter>,
    caller: &Caller<'_>,
    is_raw: bool,
) -> Ending {
    let open = |kind| signal(kind).ok();
    let mut window = if caller.resize { open(SignalKind::window_change()) } else { None };
    let mut interrupt = open(SignalKind::interrupt());
    let mut terminate = open(SignalKind::terminate());
    let mut hangup = open(SignalKind::hangup());
    let mut quit = open(SignalKind::quit());
    let mut user1 = if caller.signals { open(SignalKind::user_defined1()) } else { None };
    let mut user2 = if caller.signals { open(SignalKind::user_defined2()) } else { None };
    let interrupts = Cell::new(0);
    if caller.resize
        && let Some(size) = caller_size(caller)
    {
        // The window may have changed between the request and now.
        let _ = writer.lock().await.resize(size).await;
    }
    loop {
        let kind = tokio::select! {
            () = next(&mut window) => {
                if let Some(size) = caller_size(caller) {
                    let _ = writer.lock().await.resize(size).await;
                }
                continue;
            }
            () = next(&mut interrupt) => SignalKind::interrupt(),
            () = next(&mut terminate) => SignalKind::terminate(),
            () = next(&mut hangup) => SignalKind::hangup(),
            () = next(&mut quit) => SignalKind::quit(),
            () = next(&mut user1) => SignalKind::user_defined1(),
            () = next(&mut user2) => SignalKind::user_defined2(),
        };
        let number = kind.as_raw_value();
        // With a raw terminal keys reach the process as bytes; a signal is then meant for this program.
        if is_raw || !caller.signals {
            return Ending::Signalled(number);
        }
        if kind == SignalKind::interrupt() || kind == SignalKind::terminate() {
            interrupts.set(interrupts.get() + 1);
            if interrupts.get() > INTERRUPTS_MAX {
                return Ending::Signalled(number);
            }
        }
        let sent = match writer.try_lock() {
            Ok(mut writer) => {
                let limit = Duration::from_millis(500);
                tokio::time::timeout(limit, writer.signal(number)).await.is_ok_and(|sent| sent.is_ok())
            }
            Err(_) => false,
        };
        if !sent && let Some(container) = container {
            // When that fails too, the stream's end says why.
            let _ = client.kill(container, &KillRequest { signal: number.to_string() }).await;
        }
    }
}

fn caller_size(caller: &Caller<'_>) -> Option<TerminalSize> {
    terminal::size(caller.stdout).or_else(|| caller.stdin.and_then(terminal::size))
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            if signal.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// The process's own standard streams as a caller.
pub(crate) struct Standard {
    stdin: io::Stdin,
    stdout: io::Stdout,
    stderr: io::Stderr,
    style: Style,
}

impl Standard {
    /// `style` is standard error's.
    pub(crate) fn new(style: Style) -> Self {
        Self { stdin: io::stdin(), stdout: io::stdout(), stderr: io::stderr(), style }
    }

    pub(crate) fn caller(&mut self, interactive: bool, tty: bool, signals: bool) -> Caller<'_> {
        // Nothing of ours may come after the process's first byte.
        let _ = self.stdout.flush();
        Caller {
            stdin: interactive.then(|| self.stdin.as_fd()),
            stdout: self.stdout.as_fd(),
            stderr: self.stderr.as_fd(),
            style: self.style,
            tty,
            signals,
            resize: tty,
        }
    }
}

#[cfg(test)]
mod tests;
