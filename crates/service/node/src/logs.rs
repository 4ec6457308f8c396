//! Reading what the launcher wrote: a container's log files, oldest first, then following.
//!
//! An app's log is those of its instances. Who follows it hears of instances that are made later (more replicas, or those
//! that replace others) too.
//!
//! The files are in CRI format (see `LogConfig` of the container crate): the current one at `path`, older ones at `path.1`,
//! `path.2` …. A follower watches the directory with inotify and reopens the current file when it was rotated,
//! after reading the rest of the old one, so no line is lost or told twice. Lines that do not parse (a torn one
//! after a crash) are passed over.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_api::{LogLine, LogQuery, LogStream};
use coppice_base::{ContainerId, Name, Timestamp};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::container::{Container, Owner, Phase};
use crate::containers::Containers;
use crate::rotating::rotated;

/// Bytes read at a time when a tail is looked for from a file's end.
const BLOCK: u64 = 64 << 10;

/// The instances whose lines are wanted: of these workloads or names, or all of the app's.
pub(crate) struct Instances {
    pub(crate) app: Name,
    pub(crate) targets: Vec<String>,
}

impl Instances {
    /// The instance that a container is, if it is asked for.
    fn of(&self, container: &Container) -> Option<String> {
        let Owner::App { app, workload, instance } = &container.owner else { return None };
        let targets = &self.targets;
        let asked = targets.is_empty() || targets.iter().any(|t| t == workload.as_str() || t == instance);
        (*app == self.app && asked).then(|| instance.clone())
    }
}

/// Sends the lines of one container; following ends when it has ended.
pub(crate) async fn read_one(
    containers: Arc<Containers>,
    container: Arc<Container>,
    source: String,
    query: LogQuery,
    lines: mpsc::Sender<LogLine>,
) {
    let ended = async {
        container.when(|phase| !phase.is_running()).await;
    };
    read(&containers, &container, source, &query, lines, ended).await;
}

/// Sends the lines of an app's instances; following goes on with those that come, until the receiver is dropped.
pub(crate) async fn read_app(
    containers: Arc<Containers>,
    asked: Instances,
    query: LogQuery,
    lines: mpsc::Sender<LogLine>,
) {
    let mut arrivals = containers.table.arrivals();
    let mut known: BTreeSet<ContainerId> = BTreeSet::new();
    let mut query = query;
    loop {
        arrivals.borrow_and_update();
        for container in containers.table.all() {
            let Some(source) = asked.of(&container) else { continue };
            if known.insert(container.id.clone()) {
                let (containers, query, lines) = (containers.clone(), query.clone(), lines.clone());
                tokio::spawn(async move {
                    // Its next run writes to the same log, so its follower stays until it is removed.
                    let gone = async {
                        container.when(|phase| matches!(phase, Phase::Removed { .. })).await;
                    };
                    read(&containers, &container, source, &query, lines, gone).await;
                });
            }
        }
        if !query.follow {
            return;
        }
        // The tail was of what there was; all that those say who come later is new.
        query.tail = None;
        tokio::select! {
            changed = arrivals.changed() => if changed.is_err() { return },
            () = lines.closed() => return,
        }
    }
}

async fn read(
    containers: &Containers,
    container: &Container,
    source: String,
    query: &LogQuery,
    lines: mpsc::Sender<LogLine>,
    ended: impl Future<Output = ()>,
) {
    let path = containers.root.container(&container.id).join("log/container.log");
    let log = LogFile { source, path, max_files: containers.settings.logs.max_files };
    match log.read(query, lines, ended).await {
        // It was removed, and its log with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(container = %container.name(), %error, "cannot read its log"),
        Ok(()) => {}
    }
}

/// One container's log.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// Name the lines are shown under.
    pub source: String,
    pub path: PathBuf,
    pub max_files: u32,
}

impl LogFile {
    /// Sends the lines that `query` asks for to `lines`; with `follow`, goes on until the receiver is dropped or
    /// `ended` resolves (the container is gone) and all was read.
    pub async fn read(
        &self,
        query: &LogQuery,
        lines: mpsc::Sender<LogLine>,
        ended: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let log = self.clone();
        let asked = query.clone();
        let watch = if query.follow { Some(Watch::new(&self.path)?) } else { None };
        let to = lines.clone();
        let reader = tokio::task::spawn_blocking(move || log.past(&asked, &to)).await.map_err(io::Error::other)??;
        let (Some(watch), Some(mut reader)) = (watch, reader) else { return Ok(()) };
        tokio::pin!(ended);
        let mut over = false;
        loop {
            // Read first: what came between the past and the watch is there already.
            loop {
                // Once another file has taken the place, the launcher writes no more to the old one: look for it
                // before reading the old one to its end.
                let next = reader.successor()?;
                reader.drain(query, &lines).await?;
                match next {
                    Some(next) => reader = next,
                    None => break,
                }
            }
            if over || lines.is_closed() {
                return Ok(());
            }
            tokio::select! {
                changed = watch.changed() => changed?,
                () = &mut ended => over = true,
                () = lines.closed() => return Ok(()),
            }
        }
    }

    /// Sends what is there, and returns a reader that stands at its end.
    fn past(&self, query: &LogQuery, lines: &mpsc::Sender<LogLine>) -> io::Result<Option<Reader>> {
        let mut files = Vec::new(); // newest first
        for n in 0..self.max_files.max(1) {
            let path = if n == 0 { self.path.clone() } else { rotated(&self.path, n) };
            match File::open(&path) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        let mut skip_to = 0;
        if let Some(tail) = query.tail {
            let mut wanted = tail;
            let mut kept = 0;
            for file in &mut files {
                kept += 1;
                let (start, found) = tail_offset(file, wanted)?;
                skip_to = start;
                wanted -= found;
                if wanted == 0 {
                    break;
                }
            }
            files.truncate(kept);
        }
        let mut reader = None;
        let newest = files.len().saturating_sub(1);
        for (at, mut file) in files.into_iter().rev().enumerate() {
            file.seek(SeekFrom::Start(if at == 0 { skip_to } else { 0 }))?;
            let mut this = Reader::new(self, file)?;
            while let Some(line) = this.next_line()? {
                if !send(line, query, |line| lines.blocking_send(line).is_ok()) {
                    return Ok(None);
                }
            }
            if at == newest {
                reader = Some(this);
            }
        }
        if reader.is_none() {
            reader = Some(Reader::absent(self));
        }
        Ok(reader)
    }
}

/// Passes `line` on if `query` wants it; false when nobody listens any more or nothing more can come.
fn send(line: LogLine, query: &LogQuery, pass: impl FnOnce(LogLine) -> bool) -> bool {
    let at = line_time(&line.time);
    if query.since.is_some_and(|since| at < since) {
        return true;
    }
    if query.until.is_some_and(|until| at > until) {
        return false;
    }
    pass(line)
}

/// Where the last `wanted` lines of `file` start, and how many of them it has. Pieces of a long line count as
/// lines.
fn tail_offset(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let len = file.metadata()?.len();
    let mut found = 0;
    let mut end = len;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.by_ref().take(end - start).read_to_end(&mut block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + at as u64 + 1;
            if after == len {
                continue; // the end of the last line, not of the one before the tail
            }
            found += 1;
            if found == wanted {
                return Ok((after, wanted));
            }
        }
        end = start;
    }
    // The first line has no newline before it.
    if len > 0 && wanted > 0 {
        return Ok((0, found + 1));
    }
    Ok((if wanted == 0 { len } else { 0 }, 0))
}

/// Reads lines of one file, and can move on to the file that took its place.
struct Reader {
    source: String,
    path: PathBuf,
    file: Option<(BufReader<File>, u64)>,
    /// Bytes of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Reader {
    fn new(log: &LogFile, file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        let file = Some((BufReader::new(file), inode));
        Ok(Self { source: log.source.clone(), path: log.path.clone(), file, begun: Vec::new() })
    }

    /// For a log that has no file yet.
    fn absent(log: &LogFile) -> Self {
        Self { source: log.source.clone(), path: log.path.clone(), file: None, begun: Vec::new() }
    }

    fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        let Some((file, _)) = &mut self.file else { return Ok(None) };
        loop {
            file.read_until(b'\n', &mut self.begun)?;
            if self.begun.last() != Some(&b'\n') {
                return Ok(None);
            }
            let line = parse_line(&self.source, &self.begun[..self.begun.len() - 1]);
            self.begun.clear();
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    async fn drain(&mut self, query: &LogQuery, lines: &mpsc::Sender<LogLine>) -> io::Result<()> {
        while let Some(line) = self.next_line()? {
            if let Ok(permit) = lines.reserve().await {
                send(line, query, |line| {
                    permit.send(line);
                    true
                });
            }
        }
        Ok(())
    }

    /// A reader of the file at `path`, if that is another one than the one being read.
    fn successor(&self) -> io::Result<Option<Self>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        if self.file.as_ref().is_some_and(|(_, current)| *current == inode) {
            return Ok(None);
        }
        let file = Some((BufReader::new(file), inode));
        Ok(Some(Self { source: self.source.clone(), path: self.path.clone(), file, begun: Vec::new() }))
    }
}

/// `2026-11-21T10:00:00.123456789Z stdout F text`.
fn parse_line(source: &str, bytes: &[u8]) -> Option<LogLine> {
    let mut parts = bytes.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let partial = match parts.next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    let text = String::from_utf8_lossy(parts.next()?).into_owned();
    Some(LogLine { source: source.to_owned(), stream, time: time.to_owned(), text, partial })
}

/// Milliseconds of an RFC 3339 UTC time; zero for what is not one.
fn line_time(text: &str) -> Timestamp {
    text.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_millisecond()).ok())
        .map_or(Timestamp::ZERO, Timestamp)
}

/// Tells when something is written or renamed in a log's directory.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, what)?;
        #[expect(deprecated, reason = "its replacement is unsafe; for an OwnedFd this one is sound")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    async fn changed(&self) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        let mut buffer = [0; 4096];
        // What changed does not matter: the reader looks itself.
        while let Ok(read) = rustix::io::read(self.0.get_ref(), &mut buffer) {
            if read < buffer.len() {
                break;
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    fn line(n: u32) -> String {
        format!("2026-11-21T10:00:{:02}.000000000Z stdout F line {n}\n", n % 60)
    }

    async fn texts(log: &LogFile, query: LogQuery) -> Vec<String> {
        let (sender, mut receiver) = mpsc::channel(4096);
        log.read(&query, sender, std::future::ready(())).await.unwrap();
        let mut texts = Vec::new();
        while let Some(line) = receiver.recv().await {
            texts.push(line.text);
        }
        texts
    }

    fn log(dir: &Path) -> LogFile {
        LogFile { source: "web-1".into(), path: dir.join("container.log"), max_files: 3 }
    }

    #[tokio::test]
    async fn rotated_files_are_read_oldest_first_and_the_tail_spans_them() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        std::fs::write(dir.path().join("container.log.1"), line(0) + &line(1)).unwrap();
        std::fs::write(&log.path, line(2) + &line(3) + "torn line without an end").unwrap();
        assert_eq!(texts(&log, LogQuery::default()).await, ["line 0", "line 1", "line 2", "line 3"]);
        let tail = |n| LogQuery { tail: Some(n), ..LogQuery::default() };
        assert_eq!(texts(&log, tail(3)).await.last().unwrap(), "line 3");
        std::fs::write(&log.path, line(2) + &line(3)).unwrap();
        assert_eq!(texts(&log, tail(3)).await, ["line 1", "line 2", "line 3"]);
        assert_eq!(texts(&log, tail(1)).await, ["line 3"]);
        assert_eq!(texts(&log, tail(0)).await, Vec::<String>::new());
        assert_eq!(texts(&log, tail(99)).await.len(), 4);
    }

    #[tokio::test]
    async fn since_and_until_bound_the_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        std::fs::write(&log.path, (0..10).map(line).collect::<String>()).unwrap();
        let at = |n: u32| Some(line_time(&format!("2026-11-21T10:00:{n:02}Z")));
        let query = LogQuery { since: at(3), until: at(5), ..LogQuery::default() };
        assert_eq!(texts(&log, query).await, ["line 3", "line 4", "line 5"]);
    }

    #[tokio::test]
    async fn a_follower_sees_each_line_once_across_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let mut file = File::create(&log.path).unwrap();
        file.write_all(line(0).as_bytes()).unwrap();
        let (sender, mut receiver) = mpsc::channel(16);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let reading = {
            let log = log.clone();
            let query = LogQuery { follow: true, ..LogQuery::default() };
            tokio::spawn(async move {
                log.read(&query, sender, async move {
                    let _ = ended.await;
                })
                .await
            })
        };
        let mut next = async || tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await.unwrap();
        assert_eq!(next().await.unwrap().text, "line 0");
        // Half a line is not told until it is whole.
        let second = line(1);
        file.write_all(&second.as_bytes()[..20]).unwrap();
        file.write_all(&second.as_bytes()[20..]).unwrap();
        assert_eq!(next().await.unwrap().text, "line 1");
        std::fs::rename(&log.path, rotated(&log.path, 1)).unwrap();
        file.write_all(line(2).as_bytes()).unwrap();
        std::fs::write(&log.path, line(3)).unwrap();
        assert_eq!(next().await.unwrap().text, "line 2");
        assert_eq!(next().await.unwrap().text, "line 3");
        end.send(()).unwrap();
        assert_eq!(next().await, None);
        reading.await.unwrap().unwrap();
    }
}
