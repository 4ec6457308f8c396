//! Streams between a client and a process: attach, exec, and the attached run.
//!
//! Node and launcher speak the same frames as node and client, so bytes are copied, not parsed; only frame borders
//! are followed towards the client, because the exit is held back until the node has taken note of it. A client
//! that sees the exit of `run --rm` finds the name free.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_api::{ExecRequest, stream};
use coppice_container::{ProcessConfig, Seccomp, TerminalSize, capabilities};
use coppice_launcher::protocol::Exit;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::container::{Container, Phase};
use crate::containers::Containers;
use crate::error::NodeError;
use crate::prepare;
use crate::secrets::Delivery;
use crate::signal::KILL;

/// Bytes copied at a time towards the client.
const CHUNK: usize = 64 << 10;

/// Output kept of a process whose output only explains a failure.
const QUIET_MAX: usize = 4 << 10;

/// Execs of one node are told apart by a number; a returning daemon starts above those of the one before it
/// (which may still run) by taking the time into the upper bits.
static NEXT_EXEC: AtomicU64 = AtomicU64::new(0);

/// A stream to a process, and the container it is in.
pub struct Attached {
    pub(crate) stream: UnixStream,
    pub(crate) container: Arc<Container>,
    /// The exit on the stream is the container's own: hold it until the node knows.
    pub(crate) is_first: bool,
}

impl Attached {
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Copies both ways until the process has ended and the client has its exit, or the client goes away.
    pub async fn relay<C: AsyncRead + AsyncWrite + Unpin>(self, client: C) -> io::Result<()> {
        let (mut from_process, mut to_process) = self.stream.into_split();
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let input = async {
            // An error either way is the end of input, no more.
            let _ = tokio::io::copy(&mut from_client, &mut to_process).await;
            let _ = to_process.shutdown().await;
            std::future::pending::<()>().await;
        };
        let container = &self.container;
        let output = async {
            let mut buffer = vec![0; CHUNK];
            let mut header = [0; stream::HEADER_LEN];
            loop {
                match from_process.read_exact(&mut header).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    Err(error) => return Err(error),
                }
                let (kind, len) = stream::parse_header(header);
                if kind == stream::EXIT && self.is_first {
                    container.when(|phase| !phase.is_running()).await;
                }
                let mut left = len as usize;
                let at_once = left.min(CHUNK - stream::HEADER_LEN);
                buffer[..stream::HEADER_LEN].copy_from_slice(&header);
                let whole = stream::HEADER_LEN + at_once;
                from_process.read_exact(&mut buffer[stream::HEADER_LEN..whole]).await?;
                to_client.write_all(&buffer[..whole]).await?;
                left -= at_once;
                while left > 0 {
                    let part = left.min(CHUNK);
                    from_process.read_exact(&mut buffer[..part]).await?;
                    to_client.write_all(&buffer[..part]).await?;
                    left -= part;
                }
                to_client.flush().await?;
                if kind == stream::EXIT {
                    return to_client.shutdown().await;
                }
            }
        };
        tokio::select! {
            () = input => Ok(()),
            result = output => result,
        }
    }
}

/// Both ends of a stream: the node's, and the one that goes to the launcher.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
}

/// Attaches to a running container's first process.
pub(crate) async fn attach(containers: &Containers, container: Arc<Container>) -> Result<Attached, NodeError> {
    if !container.phase().is_running() {
        return Err(NodeError::NotRunning(container.name()));
    }
    let (stream, theirs) = pair().map_err(|source| NodeError::disk("cannot make a stream", source))?;
    containers.launcher().attach(&container.id, theirs).await?;
    Ok(Attached { stream, container, is_first: true })
}

/// Adds a process to a running container.
pub(crate) async fn exec(
    containers: &Containers,
    container: Arc<Container>,
    request: ExecRequest,
) -> Result<Attached, NodeError> {
    let secrets = containers.secrets.delivery(&container.record())?;
    add(containers, container, request, &secrets).await
}

async fn add(
    containers: &Containers,
    container: Arc<Container>,
    request: ExecRequest,
    secrets: &Delivery,
) -> Result<Attached, NodeError> {
    // Whoever is about to freeze the container waits for this process to be there, or has begun already.
    let Ok(unfrozen) = container.freezing.try_read() else { return Err(NodeError::Paused(container.name())) };
    match container.phase() {
        Phase::Running { paused: false, .. } => {}
        // The new process would be frozen with the others before its first step.
        Phase::Running { paused: true, .. } => return Err(NodeError::Paused(container.name())),
        _ => return Err(NodeError::NotRunning(container.name())),
    }
    if request.command.is_empty() {
        return Err(NodeError::Invalid("exec needs a command".to_owned()));
    }
    let record = container.record();
    let image = containers.image(&record.image_id)?;
    let workload = &record.spec.workload;
    let privileged = request.privileged && containers.settings.containers.allow_privileged;
    if request.privileged && !privileged {
        return Err(crate::prepare::PrepareError::Privileged(containers.root.settings()).into());
    }
    let hostname = prepare::hostname(&record.spec, &record.name);
    let mut env = prepare::environment(&record.spec, &image.config, &hostname);
    secrets.add_to(&mut env);
    for entry in request.env {
        let key = entry.split('=').next().unwrap_or_default().to_owned();
        env.retain(|old| old.split('=').next() != Some(&key));
        env.push(entry);
    }
    if request.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let cwd = request
        .working_dir
        .or_else(|| workload.working_dir.clone())
        .unwrap_or_else(|| image.config.working_dir.clone());
    let size = request.size.map(|size| TerminalSize { rows: size.rows, columns: size.columns });
    let process = ProcessConfig {
        args: request.command,
        env,
        cwd: if cwd.is_empty() { "/".into() } else { cwd.into() },
        user: request.user.or_else(|| workload.user.clone()).unwrap_or_else(|| image.config.user.clone()),
        groups: Vec::new(),
        capabilities: capabilities(&workload.cap_add, &workload.cap_drop, workload.privileged || privileged)
            .map_err(prepare::PrepareError::from)?,
        no_new_privileges: !(workload.privileged || privileged),
        seccomp: if workload.privileged || privileged { Seccomp::Unconfined } else { Seccomp::Default },
        rlimits: Vec::new(),
        terminal: request.tty.then(|| size.unwrap_or(TerminalSize { rows: 24, columns: 80 })),
        stdin: request.interactive,
    };
    let (stream, theirs) = pair().map_err(|source| NodeError::disk("cannot make a stream", source))?;
    NEXT_EXEC.fetch_max(containers.clock.now().0 << 20, Ordering::Relaxed);
    let exec = NEXT_EXEC.fetch_add(1, Ordering::Relaxed);
    containers.launcher().exec(&container.id, exec, process, theirs).await?;
    drop(unfrozen);
    Ok(Attached { stream, container, is_first: false })
}

/// Kills a process whose end nobody waits for any more, so that a probe that hangs does not pile up.
struct KillOnDrop(Option<UnixStream>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            let mut frame = stream::header(stream::SIGNAL, 4).to_vec();
            frame.extend_from_slice(&KILL.to_le_bytes());
            // The launcher reads these nine bytes at once; if it does not, it is gone, and the process with it.
            let _ = stream.try_write(&frame);
        }
    }
}

/// Runs a command in a container for its exit code, keeping the beginning of what it says. Dropped before it has
/// ended, it kills the command.
pub(crate) async fn exec_quietly(
    containers: &Containers,
    container: &Arc<Container>,
    command: &[String],
) -> Result<(Exit, String), NodeError> {
    let request = ExecRequest {
        command: command.to_vec(),
        env: Vec::new(),
        user: None,
        working_dir: None,
        tty: false,
        interactive: false,
        size: None,
        privileged: false,
        detach: false,
    };
    // A probe that goes without is no reason to take a container for unhealthy.
    let secrets = containers.secrets.delivery(&container.record()).unwrap_or_else(|error| {
        tracing::warn!(container = %container.name(), %error, "a command in it goes without its secrets");
        Delivery::default()
    });
    let attached = add(containers, container.clone(), request, &secrets).await?;
    let mut process = KillOnDrop(Some(attached.stream));
    let lost = |source| NodeError::disk("lost the stream of an exec", source);
    let mut said = Vec::new();
    let mut payload = Vec::new();
    while let Some(stream) = &mut process.0 {
        let mut header = [0; stream::HEADER_LEN];
        stream.read_exact(&mut header).await.map_err(lost)?;
        let (kind, len) = stream::parse_header(header);
        if len as usize > stream::PAYLOAD_MAX {
            return Err(lost(io::Error::new(io::ErrorKind::InvalidData, "frame too long")));
        }
        payload.resize(len as usize, 0);
        stream.read_exact(&mut payload).await.map_err(lost)?;
        match kind {
            stream::STDOUT | stream::STDERR => {
                let room = QUIET_MAX.saturating_sub(said.len());
                said.extend_from_slice(&payload[..payload.len().min(room)]);
            }
            stream::EXIT => {
                process.0 = None;
                let exit = serde_json::from_slice(&payload).map_err(|e| lost(io::Error::other(e)))?;
                return Ok((exit, String::from_utf8_lossy(&said).into_owned()));
            }
            _ => {}
        }
    }
    Err(lost(io::ErrorKind::UnexpectedEof.into()))
}
