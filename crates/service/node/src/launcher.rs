//! The daemon's side of the launcher's socket: start it when none runs, call it, hear its events.
//!
//! One connection carries requests, replies and events. Losing it means the launcher died, and with it every
//! container (they are set to die with their parent); [`Launcher::lost`] tells the node, which starts a new one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coppice_base::{ContainerId, Timestamp};
use coppice_container::{ContainerConfig, ProcessConfig};
use coppice_launcher::protocol::{
    Call, ContainerStatus, Event, FRAME_MAX, LaunchError, Message, PROTOCOL, Reply, Request,
};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot, watch};

/// The version that a launcher of this binary says.
const VERSION: &str = coppice_launcher::VERSION;

/// How long a launcher may take from exec to its first answer.
const START_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    #[error("cannot start the launcher {binary}: {source}")]
    Spawn { binary: PathBuf, source: io::Error },
    #[error(
        "the launcher does not answer within {START_LIMIT:?}: it may be stopped (`kill -CONT` its process goes on with it) or stuck; what it has runs on; see {log}"
    )]
    Silent { log: PathBuf },
    #[error("lost the launcher: its containers are gone, and it is started again")]
    Lost,
    #[error("cannot talk to the launcher: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] LaunchError),
    #[error("the launcher answered out of turn; the daemon and the launcher are of different versions")]
    OutOfTurn,
}

/// A running process that the launcher started.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub pid: u32,
    pub at: Timestamp,
    pub words: Vec<String>,
}

/// Facts about the launcher itself.
#[derive(Clone, Debug)]
pub(crate) struct LauncherIdentity {
    pub pid: u32,
    pub version: String,
    pub since: Timestamp,
    /// Why it is not of this daemon's version.
    pub word: Option<String>,
    /// It can hold sockets.
    pub keeps: bool,
}

/// A connection to the launcher. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Launcher {
    shared: Arc<Shared>,
    pub identity: Arc<LauncherIdentity>,
}

struct Shared {
    stream: tokio::net::unix::OwnedWriteHalf,
    /// One frame at a time on the wire.
    writing: tokio::sync::Mutex<()>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    seq: AtomicU64,
    lost: watch::Sender<bool>,
}

/// How to start a launcher.
#[derive(Clone, Debug)]
pub(crate) struct LauncherCommand {
    pub binary: PathBuf,
    pub root: PathBuf,
    pub log: PathBuf,
}

impl Launcher {
    /// Connects to the launcher at `socket`, starting one when none answers. Events go to `events`.
    pub(crate) async fn connect_or_start(
        socket: &Path,
        command: &LauncherCommand,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, LauncherError> {
        let Ok(stream) = UnixStream::connect(socket).await else {
            spawn(command)?;
            return Self::greet(connect(socket, command).await?, command, events).await;
        };
        let outdated = match Self::greet(stream, command, events.clone()).await {
            Ok(launcher) if launcher.identity.version == VERSION => return Ok(launcher),
            Err(LauncherError::Refused(LaunchError::Protocol { .. })) => None,
            Ok(launcher) => Some(launcher),
            Err(error) => return Err(error),
        };
        // A launcher of another version takes this one's place in its own process, with all its containers.
        match Self::upgrade(socket, command).await {
            Ok(()) => Self::greet(connect(socket, command).await?, command, events).await,
            Err(error) => match outdated {
                Some(mut launcher) => {
                    let word = format!(
                        "the launcher stays at version {}, and containers run on: {error}; put the binary right and restart the daemon (`coppice node stop`, `coppice node start`)",
                        launcher.identity.version
                    );
                    tracing::warn!("{word}");
                    Arc::make_mut(&mut launcher.identity).word = Some(word);
                    Ok(launcher)
                }
                None => Err(error),
            },
        }
    }

    /// Asks the launcher to re-execute itself from this daemon's binary. It speaks with a connection of its own, since
    /// that one ends.
    async fn upgrade(socket: &Path, command: &LauncherCommand) -> Result<(), LauncherError> {
        let binary = findable(&command.binary);
        tracing::info!(binary = %binary.display(), "upgrading the launcher");
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(&frame(&Call { seq: 0, request: Request::Upgrade { binary } })).await?;
        let (mut read, _write) = stream.into_split();
        match read_message(&mut read, &mut Vec::new()).await {
            Ok(Message::Reply { reply: Reply::Error { error }, .. }) => return Err(error.into()),
            Ok(_) => {}
            // It may be gone before its answer is.
            Err(_) => return Ok(()),
        }
        // The connection ends when the new one is in place.
        while read_message(&mut read, &mut Vec::new()).await.is_ok() {}
        Ok(())
    }

    /// Who listens but says nothing is not waited for: the node could say nothing either.
    async fn greet(
        stream: UnixStream,
        command: &LauncherCommand,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, LauncherError> {
        let (read, write) = stream.into_split();
        let (lost, _) = watch::channel(false);
        let shared = Arc::new(Shared {
            stream: write,
            writing: tokio::sync::Mutex::new(()),
            waiting: Mutex::default(),
            seq: AtomicU64::new(1),
            lost,
        });
        tokio::spawn(read_loop(read, Arc::downgrade(&shared), events));
        let hello = shared.call(Request::Hello { protocol: PROTOCOL, events: true }, Vec::new());
        let silent = |_| LauncherError::Silent { log: command.log.clone() };
        match tokio::time::timeout(START_LIMIT, hello).await.map_err(silent)?? {
            Reply::Hello { pid, version, since, keeps, .. } => {
                Ok(Self { shared, identity: Arc::new(LauncherIdentity { pid, version, since, word: None, keeps }) })
            }
            _ => Err(LauncherError::OutOfTurn),
        }
    }

    /// Resolves when the connection is gone.
    pub(crate) async fn lost(&self) {
        // An error means the sender is gone, which is the same thing.
        let _ = self.shared.lost.subscribe().wait_for(|lost| *lost).await;
    }

    pub(crate) async fn start(
        &self,
        config: ContainerConfig,
        attach: Option<OwnedFd>,
    ) -> Result<Started, LauncherError> {
        let request = Request::Start { config: Box::new(config), attach: attach.is_some() };
        self.started(request, attach).await
    }

    pub(crate) async fn exec(
        &self,
        id: &ContainerId,
        exec: u64,
        process: ProcessConfig,
        attach: OwnedFd,
    ) -> Result<Started, LauncherError> {
        self.started(Request::Exec { id: id.clone(), exec, process: Box::new(process) }, Some(attach)).await
    }

    async fn started(&self, request: Request, fd: Option<OwnedFd>) -> Result<Started, LauncherError> {
        match self.shared.call(request, fd.into_iter().collect()).await? {
            Reply::Started { pid, at, words } => Ok(Started { pid, at, words }),
            _ => Err(LauncherError::OutOfTurn),
        }
    }

    pub(crate) async fn signal(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), LauncherError> {
        self.done(Request::Signal { id: id.clone(), exec: None, signal, all }, Vec::new()).await
    }

    pub(crate) async fn attach(&self, id: &ContainerId, fd: OwnedFd) -> Result<(), LauncherError> {
        self.done(Request::Attach { id: id.clone() }, vec![fd]).await
    }

    pub(crate) async fn list(&self) -> Result<Vec<ContainerStatus>, LauncherError> {
        match self.shared.call(Request::List, Vec::new()).await? {
            Reply::Containers { containers } => Ok(containers),
            _ => Err(LauncherError::OutOfTurn),
        }
    }

    pub(crate) async fn forget(&self, id: &ContainerId) -> Result<(), LauncherError> {
        self.done(Request::Forget { id: id.clone() }, Vec::new()).await
    }

    pub(crate) async fn shutdown(&self, kill: bool) -> Result<(), LauncherError> {
        self.done(Request::Shutdown { kill }, Vec::new()).await
    }

    /// Has these held under `name` for the next daemon, in the place of those it had. A launcher that cannot does nothing.
    pub(crate) async fn keep(&self, name: &str, fds: Vec<OwnedFd>) -> Result<(), LauncherError> {
        if !self.identity.keeps {
            return Ok(());
        }
        let count = u32::try_from(fds.len()).unwrap_or(u32::MAX);
        self.done(Request::Keep { name: name.to_owned(), fds: count }, fds).await
    }

    /// What is held under `name`; nothing by a launcher that cannot.
    pub(crate) async fn kept(&self, name: &str) -> Result<Vec<OwnedFd>, LauncherError> {
        let mut fds = Vec::new();
        if self.identity.keeps {
            let (ours, theirs) = coppice_linux::stream_pair().map_err(io::Error::other)?;
            self.done(Request::Kept { name: name.to_owned() }, vec![theirs]).await?;
            // They came before the answer, or nothing does.
            match coppice_linux::receive(&ours, &mut [0; 1], &mut fds, RecvFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(fds)
    }

    async fn done(&self, request: Request, fds: Vec<OwnedFd>) -> Result<(), LauncherError> {
        match self.shared.call(request, fds).await? {
            Reply::Done => Ok(()),
            _ => Err(LauncherError::OutOfTurn),
        }
    }
}

impl Shared {
    async fn call(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, LauncherError> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let frame = frame(&Call { seq, request });
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().expect("no panic holds this lock").insert(seq, answer);
        if let Err(error) = self.send(&frame, fds.iter().map(AsFd::as_fd).collect()).await {
            self.waiting.lock().expect("no panic holds this lock").remove(&seq);
            return Err(if *self.lost.borrow() { LauncherError::Lost } else { error.into() });
        }
        // The reader sets `lost` before it drops the waiting; a call that was late to both is caught here.
        if *self.lost.borrow() {
            self.waiting.lock().expect("no panic holds this lock").remove(&seq);
            return Err(LauncherError::Lost);
        }
        drop(fds);
        match answered.await {
            Ok(Reply::Error { error }) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(_) => Err(LauncherError::Lost),
        }
    }

    async fn send(&self, mut frame: &[u8], mut fds: Vec<BorrowedFd<'_>>) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().await;
        let socket = self.stream.as_ref();
        while !frame.is_empty() {
            let some = || Ok(coppice_linux::send(socket, frame, &fds, SendFlags::DONTWAIT)?);
            let sent = socket.async_io(Interest::WRITABLE, some).await?;
            frame = &frame[sent..];
            fds.clear(); // went with the first byte
        }
        Ok(())
    }
}

/// A path of this daemon's binary that another process can use: not `/proc/self/exe`, which would be that process's own.
/// Where another file is in its place by now, or none, the path leads through this process.
fn findable(binary: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let file = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    match std::fs::read_link(binary) {
        Ok(path) if file(&path).is_some() && file(&path) == file(binary) => path,
        Ok(_) => PathBuf::from(format!("/proc/{}/exe", std::process::id())),
        Err(_) => binary.to_owned(),
    }
}

/// Connects to a launcher that is about to listen.
async fn connect(socket: &Path, command: &LauncherCommand) -> Result<UnixStream, LauncherError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(_) => return Err(LauncherError::Silent { log: command.log.clone() }),
        }
    }
}

fn frame(call: &Call) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, call).expect("requests are plain data");
    let len = u32::try_from(frame.len() - 4).expect("a request is far below 4 GiB");
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame
}

async fn read_loop(mut read: OwnedReadHalf, shared: std::sync::Weak<Shared>, events: mpsc::UnboundedSender<Event>) {
    let mut body = Vec::new();
    loop {
        let message = read_message(&mut read, &mut body).await;
        let Some(shared) = shared.upgrade() else { return };
        match message {
            Ok(Message::Reply { seq, reply }) => {
                let waiting = shared.waiting.lock().expect("no panic holds this lock").remove(&seq);
                if let Some(waiting) = waiting {
                    // A caller that gave up needs no answer.
                    let _ = waiting.send(reply);
                }
            }
            Ok(Message::Event(event)) => {
                // The node is shutting down when nobody listens.
                let _ = events.send(event);
            }
            Err(error) => {
                tracing::debug!(%error, "launcher connection ended");
                shared.lost.send_replace(true);
                shared.waiting.lock().expect("no panic holds this lock").clear();
                return;
            }
        }
    }
}

async fn read_message(read: &mut OwnedReadHalf, body: &mut Vec<u8>) -> io::Result<Message> {
    let len = read.read_u32_le().await?;
    if len > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    body.resize(len as usize, 0);
    read.read_exact(body).await?;
    serde_json::from_slice(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Starts the launcher. It makes a session of its own, so that neither a terminal's signals nor the daemon's end reach it.
fn spawn(command: &LauncherCommand) -> Result<(), LauncherError> {
    let failed = |source| LauncherError::Spawn { binary: command.binary.clone(), source };
    let log = std::fs::File::options().create(true).append(true).open(&command.log).map_err(failed)?;
    let log_too = log.try_clone().map_err(failed)?;
    let mut child = tokio::process::Command::new(&command.binary)
        .arg("launcher")
        .arg("--root")
        .arg(&command.root)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .current_dir("/")
        .kill_on_drop(false)
        .spawn()
        .map_err(failed)?;
    // It outlives this daemon; should it end first, its remains are collected.
    tokio::spawn(async move { child.wait().await });
    Ok(())
}
