//! `up --dev`: the app in the foreground, kept as its files say.
//!
//! The manifest, what it includes, env files, releases, bind mounts and the sources of services are watched. A manifest or a
//! release that changes is applied anew, as by `up`, and what became of it is told; a change in a bind mount restarts who
//! mounts it; one in sources has the service built and then applied or restarted. A build that fails changes nothing. All
//! lines of all services are shown meanwhile. A manifest that is wrong is told and changes nothing. Interrupted, it stops
//! what it brought up and says what stays.
//!
//! It refuses to restart for ever: a workload that writes into what is watched itself is not restarted by it any more, nor
//! built, where its build does.

mod build;
mod reach;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use coppice_api::{ApplyReply, ApplyRequest, LogQuery, StepEffect, WorkloadRequest};
use coppice_base::{Clock, SystemClock, Timestamp};
use coppice_client::{Client, LogFilter};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::build::{Asked, Builder, Built, Key};
use self::reach::{Reach, Touched};
use self::watch::Watcher;
use super::plan::selections;
use super::up::children;
use crate::args::UpArgs;
use crate::commands::container::logs::{Merge, Printer};
use crate::commands::release::follow::{self, Arrival, Doing};
use crate::error::{CommandError, CommandResult, FAILURE, eprint_all};
use crate::output::{Paint, visible};
use crate::settings::Settings;
use crate::{daemon, place, release};

/// More restarts of one workload than this within [`RESTARTS_WINDOW`] are its own doing.
const RESTARTS_MAX: usize = 5;

const RESTARTS_WINDOW: Duration = Duration::from_secs(10);

/// How long the app may take to stop.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Between two looks at releases on their way.
const RELEASE_LOOK: Duration = Duration::from_millis(100);

/// Between two looks while it stops.
const STOP_LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(settings: &Settings, args: &UpArgs) -> CommandResult {
    let mut interrupts = Interrupts::new()?;
    let first = place::read(settings, &args.manifest)?;
    let client = daemon::client(settings).await?;
    let since = SystemClock.now();
    let (apps, restarts, following) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut dev = Dev { settings, args, client, apps, restarts, following };
    let mut reach = Reach::of(&first);
    let mut watcher = watch(&reach)?;
    let mut builder = Builder::new(settings.stderr);
    builder.follow(&first.dev);
    while !builder.is_idle() {
        tokio::select! {
            Built { key: (_, service), outcome } = builder.next() => match outcome {
                Ok(took) => dev.say(&format!("{service}: built in {took}")),
                Err(why) => return Err(CommandError::Failed {
                    what: format!("{service} was not built, and nothing is brought up: {why}"),
                    help: Some("its build is in the manifest, under [service.X.dev]".to_owned()),
                }),
            },
            () = interrupts.next() => return Ok(ExitCode::from(FAILURE)),
        }
    }
    dev.apply(first.apps).await?;
    let (files, directories) = reach.counts();
    dev.say(&format!("watching {files} files and {directories} directories; Ctrl-C stops"));
    let mut lines = dev.lines(since).await?;
    let mut printer = Printer::named(settings.stdout);
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    let mut looks = tokio::time::interval(RELEASE_LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            line = lines.next(&mut out) => Next::Line(line?),
            changed = watcher.changed() => Next::Changed(changed.map_err(cannot_watch)?),
            built = builder.next() => Next::Built(built),
            _ = looks.tick(), if !dev.following.is_empty() => Next::Look,
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
                let Touched { manifest, mut workloads, sources } = reach.touched(&changed);
                for (app, workloads) in &mut workloads {
                    // Whoever is built is restarted by that.
                    workloads.retain(|workload| {
                        let key = (app.clone(), workload.clone());
                        !builder.builds(&key) && !builder.wrote(&key, &changed.paths)
                    });
                }
                for key in sources {
                    match builder.ask(&key, &changed.paths) {
                        Asked::Build => dev.say(&format!("{}: sources changed, building {}", key.0, key.1)),
                        Asked::Nothing => drop(workloads.entry(key.0).or_default().insert(key.1)),
                        Asked::Own => {
                            dev.say(&format!("{}'s build writes into its own sources: they no longer build it", key.1));
                            reach.forget_sources(&key);
                        }
                    }
                }
                if manifest && let Some(now) = dev.reread(&mut builder, None).await {
                    (reach, watcher) = (now.reach, now.watcher);
                    lines = now.lines.unwrap_or(lines);
                }
                for (app, workloads) in workloads {
                    dev.restart(&app, workloads, &mut reach).await;
                }
            }
            Next::Built(Built { key, outcome: Ok(took) }) => {
                out.flush().map_err(CommandError::Output)?;
                dev.say(&format!("{}: built in {took}", key.1));
                if let Some(now) = dev.reread(&mut builder, Some(&key)).await {
                    (reach, watcher) = (now.reach, now.watcher);
                    lines = now.lines.unwrap_or(lines);
                }
            }
            Next::Built(Built { key, outcome: Err(why) }) => {
                dev.say(&format!("{} was not built: {why}; what runs goes on", key.1));
            }
            Next::Look => dev.look().await,
            Next::Interrupted => {
                out.flush().map_err(CommandError::Output)?;
                drop(builder);
                return dev.stop(&mut interrupts).await;
            }
        }
    }
}

enum Next {
    Line(Option<coppice_api::LogLine>),
    Changed(watch::Changed),
    Built(Built),
    Look,
    Interrupted,
}

struct Dev<'s> {
    settings: &'s Settings,
    args: &'s UpArgs,
    client: Client,
    /// The names of those that were brought up.
    apps: Vec<String>,
    restarts: BTreeMap<(String, String), Vec<Instant>>,
    /// Releases on their way, by app, with their numbers.
    following: BTreeMap<String, (u64, follow::Release)>,
}

/// The manifest, read again.
struct Reread {
    reach: Reach,
    watcher: Watcher,
    /// Those of other apps than before.
    lines: Option<Merge>,
}

impl Dev<'_> {
    fn say(&self, text: &str) {
        eprint_all(&format!("{} {text}\n", self.settings.stderr.paint(Paint::Dim, "dev |")));
    }

    /// Applies them, and says to what end later. The answers, by app.
    async fn apply(&mut self, apps: Vec<coppice_spec::AppSpec>) -> Result<BTreeMap<String, ApplyReply>, CommandError> {
        let mut chosen = selections(apps, &self.args.services)?;
        release::send(self.settings, &self.client, chosen.iter_mut().map(|(spec, _)| spec)).await?;
        let (mut names, mut replies) = (Vec::new(), BTreeMap::new());
        for (spec, only) in chosen {
            let request = ApplyRequest { spec, only };
            super::up::fetch(self.settings, &self.client, &request.spec, self.args.pull).await?;
            let name = request.spec.name.to_string();
            if let Some((number, _)) = self.following.remove(&name) {
                self.say(&format!("{name}: release {number} is still on its way: it makes way for this one"));
                // An error: it has ended meanwhile.
                let _ = self.client.cancel_rollout(&name).await;
            }
            let reply = follow::in_turn(&self.client, &name, self.client.apply(&request)).await?;
            match reply.changed {
                true => self.say(&format!("{name}: release {}", reply.release)),
                false => self.say(&format!("{name}: nothing has changed since release {}", reply.release)),
            }
            if reply.changed {
                self.following.insert(name.clone(), (reply.release, follow::Release::new(reply.release)));
            }
            names.push(name.clone());
            replies.insert(name, reply);
        }
        self.apps = names;
        Ok(replies)
    }

    /// Looks at the releases on their way, and says which have ended, and how.
    async fn look(&mut self) {
        for (app, (number, mut release)) in std::mem::take(&mut self.following) {
            if let Err(error) = self.look_at(app, number, &mut release).await {
                error.report(&self.settings.stderr);
            }
        }
    }

    async fn look_at(&mut self, app: String, number: u64, release: &mut follow::Release) -> Result<(), CommandError> {
        let (doing, _) = release.look(&self.client, &app, Duration::ZERO).await?;
        let release = std::mem::replace(release, follow::Release::new(number));
        match doing {
            Doing::OnTheWay => drop(self.following.insert(app, (number, release))),
            Doing::Completed => self.say(&format!("{app}: release {number} runs")),
            Doing::AtOnce => {}
            Doing::Failed => {
                let arrival = Arrival { status: self.client.app(&app).await?, release, doing };
                eprint_all(&arrival.failure(self.settings, Duration::ZERO).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// The manifest as it is now, applied; `built` is restarted where that does not replace it. What is wrong is said and
    /// changes nothing; `None` then.
    async fn reread(&mut self, builder: &mut Builder, built: Option<&Key>) -> Option<Reread> {
        let before: BTreeSet<String> = self.apps.iter().cloned().collect();
        let at = SystemClock.now();
        let read = match place::read(self.settings, &self.args.manifest) {
            Ok(read) => read,
            Err(error) => {
                error.report(&self.settings.stderr);
                self.say("the manifest is wrong: nothing is changed until it is right");
                return None;
            }
        };
        builder.follow(&read.dev);
        let mut reach = Reach::of(&read);
        match self.apply(read.apps).await {
            Ok(replies) => {
                if let Some((app, service)) = built.filter(|key| !replaces(&replies, key)) {
                    self.restart(app, BTreeSet::from([service.clone()]), &mut reach).await;
                }
            }
            Err(error) => drop(error.report(&self.settings.stderr)),
        }
        let is_other = self.apps.iter().cloned().collect::<BTreeSet<_>>() != before;
        let opened = match watch(&reach) {
            Ok(watcher) if is_other => self.lines(at).await.map(|lines| (watcher, Some(lines))),
            Ok(watcher) => Ok((watcher, None)),
            Err(error) => Err(error),
        };
        match opened {
            Ok((watcher, lines)) => Some(Reread { reach, watcher, lines }),
            Err(error) => {
                error.report(&self.settings.stderr);
                None
            }
        }
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

/// Whether a service is replaced by what was applied. A release that changes nothing of the spec has other images.
fn replaces(replies: &BTreeMap<String, ApplyReply>, (app, service): &Key) -> bool {
    let Some(reply) = replies.get(app).filter(|reply| reply.changed) else { return false };
    let steps = &reply.plan.steps;
    let of_it = |effect: StepEffect, workload: &Option<String>| {
        effect != StepEffect::None && workload.as_ref() == Some(service)
    };
    steps.is_empty() || steps.iter().any(|step| of_it(step.effect, &step.workload))
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
