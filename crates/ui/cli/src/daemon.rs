//! Finding the node, and starting one where none runs.
//!
//! The daemon is this very program, started apart from the caller's terminal and session. Two commands that both find
//! no daemon do not start two: the second waits on a lock and then finds the first one's.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use coppice_client::{Client, ClientError};
use rustix::fs::{FlockOperation, flock};

use crate::settings::Settings;

/// A daemon that has not answered by then is not going to (it re-adopts hundreds of containers in well under this).
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at the socket.
const PAUSE: Duration = Duration::from_millis(5);
/// How much of the log's end is shown when it dies.
const LOG_LINES: usize = 10;

/// Why no daemon could be started. Containers, if any run, are untouched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("cannot prepare {} for the node: {source}", path.display())]
    Prepare { path: PathBuf, source: io::Error },
    #[error("cannot start the node: {0}")]
    Spawn(io::Error),
    #[error("the node ended while starting ({status}){}", said(tail))]
    Died { status: ExitStatus, tail: String, log: PathBuf },
    #[error("the node did not answer within {} s{}", START_LIMIT.as_secs(), said(tail))]
    Silent { tail: String, log: PathBuf },
    #[error("another command has been starting the node for {} s", START_LIMIT.as_secs())]
    Locked { lock: PathBuf },
}

fn said(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; the end of its log:\n{}", indent(tail)) }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

impl DaemonError {
    /// What the operator wrote is wrong: the node ended with 2.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Died { status, .. } if status.code() == Some(2))
    }

    pub(crate) fn next_step(&self) -> Option<String> {
        match self {
            Self::Prepare { .. } => Some("choose a directory you may write with --root or COPPICE_ROOT".into()),
            Self::Spawn(_) => None,
            Self::Died { log, .. } | Self::Silent { log, .. } => Some(format!("the whole log is in {}", log.display())),
            Self::Locked { lock } => Some(format!("`fuser {}` names it", lock.display())),
        }
    }
}

/// The node's client, connected; starts a daemon when nobody listens, and again when it goes away under a request that
/// can be sent once more.
pub(crate) async fn client(settings: &Settings) -> Result<Client, crate::error::CommandError> {
    let client = match Client::connect(&settings.socket).await {
        Ok(client) => client,
        Err(error) if error.nobody_there() => start(settings).await?.0,
        Err(error) => return Err(error.into()),
    };
    let settings = settings.clone();
    Ok(client.reviving(Box::new(move || {
        let settings = settings.clone();
        // Why there is no node again, the next attempt or the next command says.
        Box::pin(async move { start(&settings).await.is_ok() })
    })))
}

/// The node's client, only if a daemon runs.
pub(crate) async fn running(settings: &Settings) -> Result<Client, ClientError> {
    Client::connect(&settings.socket).await
}

/// Starts a daemon and waits until it answers. The second value is false when another command did it meanwhile.
pub(crate) async fn start(settings: &Settings) -> Result<(Client, bool), DaemonError> {
    let run = settings.root.join("run");
    let log_dir = settings.root.join("log");
    // The socket's own mode says who may talk to the node; the state itself is for the owner alone, but the way to
    // the socket must be open to the socket's group.
    make_dir(&settings.root, 0o711)?;
    make_dir(&run, 0o711)?;
    make_dir(&log_dir, 0o700)?;
    let deadline = Instant::now() + START_LIMIT;
    let _lock = lock(&run.join("start.lock"), deadline).await?;
    if let Ok(client) = Client::connect(&settings.socket).await {
        return Ok((client, false));
    }
    let node_lock = run.join("node.lock");
    if let Some(client) = predecessor(settings, &node_lock, deadline).await {
        return Ok((client, false));
    }
    let log = log_dir.join("node.log");
    let (mut child, from) = spawn(settings, &log)?;
    loop {
        if let Ok(client) = Client::connect(&settings.socket).await
            && tokio::time::timeout_at(deadline.into(), client.version()).await.is_ok_and(|reply| reply.is_ok())
        {
            return Ok((Client::new(&settings.socket), true));
        }
        if let Some(status) = child.try_wait().map_err(DaemonError::Spawn)? {
            // One that a killed command had only just started may have been the first to take the node.
            if let Some(client) = predecessor(settings, &node_lock, deadline).await {
                return Ok((client, false));
            }
            return Err(DaemonError::Died { status, tail: tail(&log, from), log });
        }
        if Instant::now() >= deadline {
            return Err(DaemonError::Silent { tail: tail(&log, from), log });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let failed = |source| DaemonError::Prepare { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)
}

async fn lock(path: &Path, deadline: Instant) -> Result<File, DaemonError> {
    let failed = |source| DaemonError::Prepare { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DaemonError::Locked { lock: path.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Waits for the daemon before: one that is ending no longer listens, but holds the node until it has ended; one that
/// is still starting, after the command that started it was killed, listens soon.
async fn predecessor(settings: &Settings, path: &Path, deadline: Instant) -> Option<Client> {
    // No such file: there was none. Whatever else is wrong with it, the daemon says.
    let file = OpenOptions::new().append(true).open(path).ok()?;
    while let Err(rustix::io::Errno::WOULDBLOCK) = flock(&file, FlockOperation::NonBlockingLockExclusive)
        && Instant::now() < deadline
    {
        if let Ok(client) = Client::connect(&settings.socket).await
            && tokio::time::timeout_at(deadline.into(), client.version()).await.is_ok_and(|reply| reply.is_ok())
        {
            return Some(Client::new(&settings.socket));
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

/// The daemon's process, and where in the log its own words begin.
fn spawn(settings: &Settings, log: &Path) -> Result<(Child, u64), DaemonError> {
    let failed = |source| DaemonError::Prepare { path: log.to_owned(), source };
    let out = OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(failed)?;
    let from = out.metadata().map_err(failed)?.len();
    let child = Command::new("/proc/self/exe")
        .arg0("coppice")
        .args(["node", "run", "--apart", "--root"])
        .arg(&settings.root)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(out)
        .spawn()
        .map_err(DaemonError::Spawn)?;
    Ok((child, from))
}

/// The last lines of `log` after `from`.
fn tail(log: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(16 << 10))))?;
        let mut bytes = Vec::new();
        file.take(16 << 10).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    // A log that cannot be read is named in the help; the death is the news.
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    fn settings(root: &Path) -> Settings {
        Settings {
            root: root.to_owned(),
            socket: crate::settings::socket_of(root),
            json: false,
            stdout: Style::plain(),
            stderr: Style::plain(),
        }
    }

    #[test]
    fn only_words_of_this_start_are_shown_from_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("node.log");
        std::fs::write(&log, "old\nnew 1\nnew 2\n").unwrap();
        assert_eq!(tail(&log, 4), "new 1\nnew 2");
        let many: String = (0..100).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&log, many).unwrap();
        assert!(tail(&log, 0).starts_with("line 90\n"));
        assert_eq!(tail(&dir.path().join("none"), 0), "");
    }

    #[tokio::test]
    async fn a_program_that_is_no_daemon_is_reported_with_its_last_words() {
        // In a test, /proc/self/exe is the test program: it refuses the daemon's arguments and exits.
        let dir = tempfile::tempdir().unwrap();
        let error = start(&settings(dir.path())).await.err().expect("a test program is no daemon");
        assert!(matches!(&error, DaemonError::Died { tail, .. } if !tail.is_empty()), "{error}");
        assert!(error.next_step().unwrap().contains("node.log"));
    }

    #[tokio::test]
    async fn a_root_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = start(&settings(&file.join("root"))).await.err().unwrap();
        assert!(matches!(&error, DaemonError::Prepare { .. }), "{error}");
    }
}
