//! What the node daemon and the launcher say to each other over `<root>/run/launcher.sock`.
//!
//! A Unix stream socket, mode 0600, peers checked by credentials (same uid, or root). Each message is a frame:
//! a little-endian `u32` length, then that many bytes of JSON, at most [`FRAME_MAX`]. A request that passes an
//! fd ([`Request::Start`], [`Request::Exec`], [`Request::Attach`], [`Request::Keep`], [`Request::Kept`]) sends it as
//! SCM_RIGHTS with the frame's first byte. Every request carries the client's `seq`; its reply carries it back; replies come in any order.
//! Events go to every connection that asked for them.
//!
//! An attach fd is one end of a stream socketpair that carries [`StreamKind`] frames: `u8` kind, little-endian
//! `u32` length, bytes. The launcher writes output frames and, last, [`StreamKind::Exit`]; it reads input
//! frames. An attached client that does not read is dropped after the socket's buffer is full for a bounded
//! time; the container never waits for it longer, and the log has everything.

use coppice_base::{ContainerId, Timestamp};
use coppice_container::{ContainerConfig, ProcessConfig, TerminalSize};
use serde::{Deserialize, Serialize};

/// Version of this protocol. A daemon that finds another one asks the launcher to re-execute itself
/// ([`Request::Upgrade`]), which keeps every container.
pub const PROTOCOL: u32 = 1;

/// Longest frame: a container config with the largest environment exec(2) takes fits several times.
pub const FRAME_MAX: u32 = 16 << 20;

/// Fds that are held under one name.
pub const KEPT_MAX: u32 = 32;
/// Names under which fds are held.
pub const KEPT_NAMES_MAX: usize = 8;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    pub seq: u64,
    pub request: Request,
}

/// What the launcher can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// → [`Reply::Hello`]. With `events`, this connection gets every [`Event`] from now on.
    Hello { protocol: u32, events: bool },
    /// Make and start a container. Passes an attach fd when `attach`. → `Started` or `Error`. The start is journalled
    /// before the reply. A container whose id is known is refused.
    Start { config: Box<ContainerConfig>, attach: bool },
    /// Add a process to a running container. Always passes an attach fd. → `Started` or `Error`; its end comes as
    /// `StreamKind::Exit` on the attach fd and as [`Event::ExecExited`].
    Exec { id: ContainerId, exec: u64, process: Box<ProcessConfig> },
    /// Send a signal to the first process, or to an exec's, or (`all`) to every process. → `Done` or `Error`.
    Signal { id: ContainerId, exec: Option<u64>, signal: i32, all: bool },
    /// Set a terminal's size. → `Done` or `Error`.
    Resize { id: ContainerId, exec: Option<u64>, size: TerminalSize },
    /// Attach to the first process's streams; passes the fd. → `Done` or `Error`.
    Attach { id: ContainerId },
    /// → `Containers`: all that are running or whose end was not forgotten yet.
    List,
    /// The daemon has taken note of a container's end: drop its record. Refused while it runs. → `Done`.
    Forget { id: ContainerId },
    /// Hold these `fds` (so many are passed, at most [`KEPT_MAX`]) under `name`, in the place of those it had; none: let go
    /// of them. They are held over the daemon's end and an upgrade, not over a shutdown. → `Done` or `Error`. Only for a
    /// launcher whose [`Reply::Hello`] says that it `keeps`.
    Keep { name: String, fds: u32 },
    /// Passes one end of a stream socketpair, through which the fds held under `name` come with one byte, in the order
    /// they were given in; nothing comes when there are none. They are held on. → `Done` or `Error`. As above.
    Kept { name: String },
    /// Re-execute the binary at this path, keeping process id, children, open files and records. → `Done`, then the
    /// connection closes; connect again.
    Upgrade { binary: std::path::PathBuf },
    /// End the launcher. Refused while containers run unless `kill`, which kills them first. → `Done`.
    Shutdown { kill: bool },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Reply { seq: u64, reply: Reply },
    Event(Event),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Hello {
        protocol: u32,
        pid: u32,
        version: String,
        since: Timestamp,
        /// Knows [`Request::Keep`] and [`Request::Kept`]: a launcher from before them ends the connection of who asks.
        #[serde(default)]
        keeps: bool,
    },
    /// `pid`: the process's id on the host. `words`: limits and settings that could not be had, in sentences.
    Started {
        pid: u32,
        at: Timestamp,
        words: Vec<String>,
    },
    Containers {
        containers: Vec<ContainerStatus>,
    },
    Done,
    Error {
        error: LaunchError,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Exited { id: ContainerId, exit: Exit },
    ExecExited { id: ContainerId, exec: u64, exit: Exit },
}

/// A container the launcher has or had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub pid: u32,
    pub started_at: Timestamp,
    /// `None` while it runs.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub at: Timestamp,
    /// Exit status 0–255, or 128 + signal as shells count.
    pub code: u8,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed something in the container for its memory limit.
    pub oom: bool,
}

/// Why a start or another request was not done. Nothing is left behind by a failed start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LaunchError {
    /// The program is not in the container (exit code 127, as shells do).
    #[error("{0}: command not found in the container")]
    NotFound(String),
    /// The program is there and cannot be run (exit code 126).
    #[error("{program}: cannot be executed: {why}")]
    NotExecutable { program: String, why: String },
    /// A step of the set-up failed (exit code 125, as docker's).
    #[error("{step} failed: {why}")]
    Setup { step: String, why: String },
    #[error("no container {0}")]
    NoContainer(ContainerId),
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    #[error("container {0} is still running")]
    StillRunning(ContainerId),
    #[error("container {0} already exists")]
    Exists(ContainerId),
    #[error(
        "launcher speaks protocol {launcher}, the daemon {daemon}: run `coppice node stop` and start again, or upgrade the launcher"
    )]
    Protocol { launcher: u32, daemon: u32 },
    #[error("request refused: {0}")]
    Refused(String),
}

/// Kinds of frames on an attach fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamKind {
    /// Client → process: bytes of standard input; an empty frame closes it.
    Stdin = 0,
    /// Process → client.
    Stdout = 1,
    Stderr = 2,
    /// Client → process: terminal size, two little-endian u16: rows, columns.
    Resize = 3,
    /// Last frame, launcher → client: JSON of [`Exit`].
    Exit = 4,
    /// Client → process: a signal number, one little-endian i32.
    Signal = 5,
}

impl StreamKind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Resize,
            4 => Self::Exit,
            5 => Self::Signal,
            _ => return None,
        })
    }
}
