//! `up --dev`: the app in the foreground, kept as its files say.
//!
//! The manifest, what it includes, env files and bind mounts are watched. A manifest that changes is applied anew, as by
//! `up`; a change in a bind mount restarts who mounts it. All lines of all services are shown meanwhile. A manifest that is
//! wrong is told and changes nothing. Interrupted, it stops what it brought up and says what stays.
//!
//! It refuses to restart for ever: a workload that writes into what is watched itself is not restarted by it any more.

mod reach;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use coppice_api::{ApplyRequest, LogQuery, WorkloadRequest};
use coppice_base::{Clock, SystemClock, Timestamp};
use coppice_client::{Client, LogFilter};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::reach::{Reach, Touched};
use self::watch::Watcher;
use super::plan::selections;
use super::up::children;
use crate::args::UpArgs;
use crate::commands::container::logs::{Merge, Printer};
use crate::error::{CommandError, CommandResult, FAILURE, eprint_all};
use crate::output::{Paint, visible};
use crate::settings::Settings;
use crate::{daemon, place};

/// More restarts of one workload than this within [`RESTARTS_WINDOW`] are its own doing.
const RESTARTS_MAX: usize = 5;

const RESTARTS_WINDOW: Duration = Duration::from_secs(10);

/// How long the app may take to stop.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Between two looks while it stops.
const STOP_LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(settings: &Settings, args: &UpArgs) -> CommandResult {
    let mut interrupts = Interrupts::new()?;
    let first = place::read(settings, &args.manifest)?;
    let client = daemon::client(settings).await?;
    let since = SystemClock.now();
    let mut dev = Dev { settings, args, client, apps: Vec::new(), restarts: BTreeMap::new() };
    let mut reach = Reach::of(&first);
    let mut watcher = watch(&reach)?;
    dev.apply(first.apps).await?;
    let (files, directories) = reach.counts();
    dev.say(&format!("watching {files} files and {directories} directories; Ctrl-C stops"));
    let mut lines = dev.lines(since).await?;
    let mut printer = Printer::named(settings.stdout);
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    loop {
        let next = tokio::select! {
            line = lines.next(&mut out) => Next::Line(line?),
            changed = watcher.changed() => Next::Changed(changed.map_err(cannot_watch)?),
            () = interrupts.next() => Next::Interrupted,
        };
        match next {
            Next::Line(Some(line)) if settings.json => {
                let text = serde_json::to_string(&line).expect("API values are plain data");
                writeln!(out, "{text}").map_err(CommandError::Output)?;
            }
            Next::Line(Some(line)) => printer.print(&line, &mut out).map_err(CommandError::Output)?,
            Next::Line(None) => {
                // The app was taken away, or the node ended.
                out.flush().map_err(CommandError::Output)?;
                dev.say("the app is gone: somebody took it down");
                return Ok(ExitCode::from(FAILURE));
            }
            Next::Changed(changed) => {
                out.flush().map_err(CommandError::Output)?;
                let Touched { manifest, workloads } = reach.touched(&changed);
                if manifest {
                    let before: BTreeSet<String> = dev.apps.iter().cloned().collect();
                    let at = SystemClock.now();
                    if let Some(now) = dev.reread().await {
                        reach = now;
                        watcher = watch(&reach)?;
                        if dev.apps.iter().cloned().collect::<BTreeSet<_>>() != before {
                            lines = dev.lines(at).await?;
                        }
                    }
                }
                for (app, workloads) in workloads {
                    dev.restart(&app, workloads, &mut reach).await;
                }
            }
            Next::Interrupted => {
                out.flush().map_err(CommandError::Output)?;
                return dev.stop(&mut interrupts).await;
            }
        }
    }
}

enum Next {
    Line(Option<coppice_api::LogLine>),
    Changed(watch::Changed),
    Interrupted,
}

struct Dev<'s> {
    settings: &'s Settings,
    args: &'s UpArgs,
    client: Client,
    /// The names of those that were brought up.
    apps: Vec<String>,
    restarts: BTreeMap<(String, String), Vec<Instant>>,
}

impl Dev<'_> {
    fn say(&self, text: &str) {
        eprint_all(&format!("{} {text}\n", self.settings.stderr.paint(Paint::Dim, "dev |")));
    }

    async fn apply(&mut self, apps: Vec<coppice_spec::AppSpec>) -> Result<(), CommandError> {
        let mut names = Vec::new();
        for (spec, only) in selections(apps, &self.args.services)? {
            let request = ApplyRequest { spec, only };
            super::up::fetch(self.settings, &self.client, &request.spec, self.args.pull).await?;
            let reply = self.client.apply(&request).await?;
            let name = request.spec.name.to_string();
            match reply.changed {
                true => self.say(&format!("{name}: release {}", reply.release)),
                false => self.say(&format!("{name}: nothing has changed since release {}", reply.release)),
            }
            names.push(name);
        }
        self.apps = names;
        Ok(())
    }

    /// The manifest as it is now, applied. What is wrong is said and changes nothing; `None` then.
    async fn reread(&mut self) -> Option<Reach> {
        let read = match place::read(self.settings, &self.args.manifest) {
            Ok(read) => read,
            Err(error) => {
                error.report(&self.settings.stderr);
                self.say("the manifest is wrong: nothing is changed until it is right");
                return None;
            }
        };
        let reach = Reach::of(&read);
        if let Err(error) = self.apply(read.apps).await {
            error.report(&self.settings.stderr);
        }
        Some(reach)
    }

    async fn restart(&mut self, app: &str, workloads: BTreeSet<String>, reach: &mut Reach) {
        let mut targets = Vec::new();
        for workload in workloads {
            let times = self.restarts.entry((app.to_owned(), workload.clone())).or_default();
            times.retain(|at| at.elapsed() < RESTARTS_WINDOW);
            if times.len() >= RESTARTS_MAX {
                reach.forget(app, &workload);
                self.say(&format!("{workload} writes into its bind mounts itself: they no longer restart it"));
                continue;
            }
            times.push(Instant::now());
            targets.push(workload);
        }
        if targets.is_empty() {
            return;
        }
        self.say(&format!("{app}: files changed, restarting {}", targets.join(", ")));
        let request = WorkloadRequest { action: "restart".to_owned(), targets };
        if let Err(error) = self.client.app_workloads(app, &request).await {
            CommandError::from(error).report(&self.settings.stderr);
        }
    }

    async fn lines(&self, since: Timestamp) -> Result<Merge, CommandError> {
        let query = LogQuery { since: Some(since), until: None, tail: None, follow: true };
        let filter = LogFilter { query, stdout: true, stderr: true };
        let mut streams = Vec::new();
        for app in &self.apps {
            streams.push(self.client.app_logs(app, &[], &filter).await?);
        }
        Ok(Merge::new(streams))
    }

    /// Stops what was brought up, and waits for it; asked again, it does not wait.
    async fn stop(&self, interrupts: &mut Interrupts) -> CommandResult {
        for app in self.apps.iter().rev() {
            self.say(&format!("stopping {app}…"));
            let request = WorkloadRequest { action: "stop".to_owned(), targets: Vec::new() };
            self.client.app_workloads(app, &request).await?;
        }
        let until = Instant::now() + STOP_MAX;
        let mut code = ExitCode::SUCCESS;
        for app in self.apps.iter().rev() {
            loop {
                let status = self.client.app(app).await?;
                let rests = |child: &&coppice_api::ChildStatus| {
                    matches!(child.state.as_str(), "stopped" | "completed" | "failed")
                };
                let left: Vec<_> = children(&status.tree).into_iter().filter(|child| !rests(child)).collect();
                if left.is_empty() {
                    self.say(&format!(
                        "{app} is stopped; its volumes and releases stay: `coppice up` starts it again, `coppice down` removes it"
                    ));
                    break;
                }
                if Instant::now() >= until {
                    let names: Vec<String> = left.iter().map(|child| visible(&child.instance)).collect();
                    self.say(&format!("{app}: {} still run; `coppice status` shows it", names.join(", ")));
                    code = ExitCode::from(FAILURE);
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(STOP_LOOK) => {}
                    () = interrupts.next() => {
                        self.say(&format!("{app} goes on stopping by itself; `coppice status` shows it"));
                        return Ok(ExitCode::from(FAILURE));
                    }
                }
            }
        }
        Ok(code)
    }
}

/// Ctrl-C, and being asked to end.
struct Interrupts(Signal, Signal);

impl Interrupts {
    fn new() -> Result<Self, CommandError> {
        let of = |kind| signal(kind).map_err(CommandError::file("cannot listen for signals"));
        Ok(Self(of(SignalKind::interrupt())?, of(SignalKind::terminate())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

fn watch(reach: &Reach) -> Result<Watcher, CommandError> {
    let mut watcher = Watcher::new().map_err(cannot_watch)?;
    for (path, whole) in reach.places() {
        watcher.add(path, whole).map_err(cannot_watch)?;
    }
    Ok(watcher)
}

fn cannot_watch(source: std::io::Error) -> CommandError {
    CommandError::File { what: "cannot watch files (fs.inotify.max_user_watches may be too low)".to_owned(), source }
}
