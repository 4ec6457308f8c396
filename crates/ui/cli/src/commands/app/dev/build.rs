//! Builds of services, one after the other, each line of what they say under the service's name.
//!
//! A build that writes into its own sources would be begun for ever: it is not, after [`OWN_MAX`] builds that nobody but
//! the one before asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use coppice_base::{Clock, DurationText, SystemClock, Timestamp};
use coppice_manifest::DevSpec;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader, Split};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::error::eprint_all;
use crate::output::{Paint, Style};

/// An app and its service.
pub(super) type Key = (String, String);

/// Builds in a row that only the changes of the one before asked for.
const OWN_MAX: u32 = 3;

/// What a build has left to say when its shell has ended is waited for this long: a process of it may go on.
const REST: Duration = Duration::from_millis(100);

/// Files have the time of the kernel's last tick, at most so many milliseconds ago.
const TICK: u64 = 20;

pub(super) struct Builder {
    style: Style,
    specs: BTreeMap<Key, DevSpec>,
    queue: Vec<Key>,
    running: Option<Running>,
    past: BTreeMap<Key, Past>,
}

/// When a service was built last, on the clock that files have.
struct Past {
    began: Timestamp,
    /// `None`: it is being built.
    ended: Option<Timestamp>,
    /// Builds in a row that it asked for itself.
    own: u32,
}

struct Running {
    key: Key,
    child: Child,
    lines: Split<BufReader<pipe::Receiver>>,
    began: Instant,
    /// The shell has ended so.
    status: Option<ExitStatus>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is the leader of a group of its own. What has ended cannot be killed, and need not.
        let group = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group.filter(|_| self.status.is_none()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// One build, ended.
pub(super) struct Built {
    pub(super) key: Key,
    /// How long it took, or why it failed.
    pub(super) outcome: Result<DurationText, String>,
}

/// What becomes of a change in a service's sources.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// There is nothing to build.
    Nothing,
    Build,
    /// Its build changes its own sources: it is not begun any more.
    Own,
}

impl Builder {
    pub(super) fn new(style: Style) -> Self {
        Self { style, specs: BTreeMap::new(), queue: Vec::new(), running: None, past: BTreeMap::new() }
    }

    /// What there is to build from now on; those that were not there before are built.
    pub(super) fn follow(&mut self, dev: &[DevSpec]) {
        let before = std::mem::take(&mut self.specs);
        for spec in dev.iter().filter(|spec| spec.build.is_some()) {
            let key = (spec.app.to_string(), spec.service.to_string());
            if before.get(&key) != Some(spec) {
                self.enqueue(key.clone());
            }
            self.specs.insert(key, spec.clone());
        }
        self.queue.retain(|key| self.specs.contains_key(key));
    }

    /// Whether nothing is built, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.queue.is_empty()
    }

    pub(super) fn builds(&self, key: &Key) -> bool {
        self.queue.contains(key) || self.running.as_ref().is_some_and(|running| running.key == *key)
    }

    /// These sources of a service have changed.
    pub(super) fn ask(&mut self, key: &Key, changed: &BTreeSet<PathBuf>) -> Asked {
        if !self.specs.contains_key(key) {
            return Asked::Nothing;
        }
        let is_own = self.wrote(key, changed);
        if let Some(past) = self.past.get_mut(key) {
            past.own = if is_own { past.own + 1 } else { 0 };
            if past.own >= OWN_MAX {
                self.specs.remove(key);
                self.queue.retain(|waiting| waiting != key);
                return Asked::Own;
            }
        }
        self.enqueue(key.clone());
        Asked::Build
    }

    /// Whether all of these were changed while the service was being built.
    pub(super) fn wrote(&self, key: &Key, changed: &BTreeSet<PathBuf>) -> bool {
        let Some(past) = self.past.get(key) else { return false };
        let within = |path: &PathBuf| {
            // One that is gone says nothing of when.
            let Ok(meta) = path.symlink_metadata() else { return true };
            let at = Timestamp(meta.ctime().unsigned_abs() * 1000 + meta.ctime_nsec().unsigned_abs() / 1_000_000);
            past.began <= at && past.ended.is_none_or(|ended| at <= ended)
        };
        changed.iter().all(within)
    }

    fn enqueue(&mut self, key: Key) {
        if !self.queue.contains(&key) {
            self.queue.push(key);
        }
    }

    /// The next build that ends; shows what it says meanwhile. Nothing is lost when the wait is given up.
    pub(super) async fn next(&mut self) -> Built {
        loop {
            let Some(running) = &mut self.running else {
                if self.queue.is_empty() {
                    return std::future::pending().await;
                }
                let key = self.queue.remove(0);
                match self.begin(&key) {
                    Ok(running) => self.running = Some(running),
                    Err(error) => return Built { key, outcome: Err(format!("cannot start a shell: {error}")) },
                }
                continue;
            };
            let segment = match running.status {
                None => tokio::select! {
                    segment = running.lines.next_segment() => Some(segment),
                    status = running.child.wait() => {
                        running.status = Some(status.unwrap_or_default());
                        continue;
                    }
                },
                Some(_) => tokio::time::timeout(REST, running.lines.next_segment()).await.ok(),
            };
            match segment {
                Some(Ok(Some(line))) => {
                    let name = self.style.paint(Paint::Dim, &format!("{} build |", running.key.1));
                    eprint_all(&format!("{name} {}\n", String::from_utf8_lossy(&line)));
                }
                // It says no more.
                _ => {
                    let status = match running.status {
                        Some(status) => status,
                        None => running.child.wait().await.unwrap_or_default(),
                    };
                    running.status = Some(status);
                    let took = DurationText(Duration::from_millis(running.began.elapsed().as_millis() as u64));
                    let key = running.key.clone();
                    self.running = None;
                    if let Some(past) = self.past.get_mut(&key) {
                        past.ended = Some(SystemClock.now());
                    }
                    let outcome = if status.success() { Ok(took) } else { Err(ended(status)) };
                    return Built { key, outcome };
                }
            }
        }
    }

    fn begin(&mut self, key: &Key) -> std::io::Result<Running> {
        let spec = self.specs.get(key).ok_or(std::io::ErrorKind::NotFound)?;
        let (reader, writer) = std::io::pipe()?;
        let own = self.past.get(key).map_or(0, |past| past.own);
        let began = Timestamp(SystemClock.now().0.saturating_sub(TICK));
        let mut command = Command::new("sh");
        command.arg("-c").arg(spec.build.as_deref().unwrap_or_default()).current_dir(&spec.dir).process_group(0);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn()?;
        // Its ends of the pipe are the command's.
        drop(command);
        let lines = BufReader::new(pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?).split(b'\n');
        self.past.insert(key.clone(), Past { began, ended: None, own });
        Ok(Running { key: key.clone(), child, lines, began: Instant::now(), status: None })
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, signal) => format!("killed by {}", coppice_base::signal_text(signal.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use coppice_base::Name;

    use super::*;

    fn spec(dir: &Path, build: &str) -> DevSpec {
        let name = |text: &str| Name::new(text).unwrap();
        let watch = vec![dir.join("src")];
        DevSpec { app: name("shop"), service: name("web"), build: Some(build.to_owned()), watch, dir: dir.to_owned() }
    }

    fn builder(dir: &Path, build: &str) -> (Builder, Key) {
        let mut builder = Builder::new(Style::plain());
        builder.follow(&[spec(dir, build)]);
        (builder, ("shop".to_owned(), "web".to_owned()))
    }

    #[tokio::test]
    async fn a_service_is_built_at_first_and_when_its_sources_or_its_build_change() {
        let dir = tempfile::tempdir().unwrap();
        let (mut builder, key) = builder(dir.path(), "echo x >> out; exit 3");
        assert!(builder.builds(&key));
        assert_eq!(builder.next().await.outcome.unwrap_err(), "exited with code 3");
        builder.follow(&[spec(dir.path(), "echo x >> out; exit 3")]);
        assert!(builder.is_idle(), "nothing has changed");
        builder.follow(&[spec(dir.path(), "echo x >> out")]);
        assert!(builder.next().await.outcome.is_ok());
        let source = dir.path().join("source");
        std::fs::write(&source, "x").unwrap();
        assert_eq!(builder.ask(&key, &BTreeSet::from([source])), Asked::Build);
        assert!(builder.next().await.outcome.is_ok());
        assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "x\nx\nx\n");
        builder.follow(&[]);
        assert_eq!(builder.ask(&key, &BTreeSet::new()), Asked::Nothing);
    }

    #[tokio::test]
    async fn a_build_that_changes_its_own_sources_is_begun_a_few_times_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut builder, key) = builder(dir.path(), "date > own");
        let own = BTreeSet::from([dir.path().join("own")]);
        for _ in 1..OWN_MAX {
            assert!(builder.next().await.outcome.is_ok());
            assert_eq!(builder.ask(&key, &own), Asked::Build);
        }
        assert!(builder.next().await.outcome.is_ok());
        assert_eq!(builder.ask(&key, &own), Asked::Own);
        assert!(builder.is_idle());
    }

    #[tokio::test]
    async fn a_build_whose_child_goes_on_has_ended_and_one_that_is_given_up_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, _) = builder(dir.path(), "sleep 1000 & echo $! > pid");
        assert!(first.next().await.outcome.is_ok());
        let pid: i32 = std::fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let (mut second, _) = builder(dir.path(), "sleep 1000 & echo $! > again; mv again given-up; wait");
        let pid = tokio::select! {
            _ = second.next() => panic!("it does not end"),
            pid = async {
                loop {
                    match std::fs::read_to_string(dir.path().join("given-up")) {
                        Ok(text) => return text.trim().parse::<i32>().unwrap(),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            } => pid,
        };
        drop(second);
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while !(stat().is_empty() || stat().contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    }
}
