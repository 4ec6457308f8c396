//! An app's crons on this node: a machine each, its memory on disk, and its runs, which are containers.
//!
//! A decision is on disk before it is carried out, and an end before its container may go: a daemon that returns finds of each
//! run that has not ended its container, or none, and takes it up or begins it. While a release is being rolled out the crons of
//! the one before go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coppice_base::{Name, Timestamp};
use coppice_cron::{Action, Entry, Machine, Memory, Outcome, Refusal, Rules, Run, Timetable, Why};
use coppice_spec::{CronSpec, Expression, Schedule};
use coppice_state::Release;
use tokio::sync::{Notify, watch};

use super::tree::revision;
use super::{App, Wanted};
use crate::container::{Container, Owner, Phase, Place, exit_text};
use crate::containers::OfApp;
use crate::error::NodeError;
use crate::root::{make, replace_file};
use crate::zone;

/// Ended runs of a cron whose containers are kept, for their logs.
const KEPT: usize = 3;

/// How long the loop sleeps at most: a clock may be put on while it does.
const NAP: Duration = Duration::from_secs(30);

pub(super) struct Crons {
    dir: PathBuf,
    inner: Mutex<Inner>,
    /// Something was decided that may change what is next.
    woken: Arc<Notify>,
    /// Counts what was remembered, so that who waits for an end looks again.
    turns: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    crons: BTreeMap<Name, Cron>,
    /// The node or the app is going down.
    away: bool,
}

struct Cron {
    machine: Machine,
    timeout: Option<Duration>,
    /// By the run's number. Those that have ended are kept for their logs.
    containers: BTreeMap<u64, Arc<Container>>,
    /// Of the run that goes on, once somebody looks after it.
    stop: Option<(u64, watch::Sender<bool>)>,
}

/// One cron as it is now.
pub(crate) struct CronView {
    pub(crate) name: Name,
    /// `None`: it is not part of the release.
    pub(crate) spec: Option<CronSpec>,
    pub(crate) is_resting: bool,
    pub(crate) next: Option<Timestamp>,
    pub(crate) memory: Memory,
}

impl Crons {
    /// What a daemon before this one left.
    pub(super) fn load(app_dir: &Path) -> Self {
        let dir = app_dir.join("crons");
        let mut crons = BTreeMap::new();
        for file in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = file.path();
            let name = path.file_stem().and_then(|stem| Name::new(stem.to_str()?).ok());
            let Some(name) = name.filter(|_| path.extension().is_some_and(|ext| ext == "json")) else { continue };
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string())) {
                Ok(memory) => {
                    crons.insert(name, Cron::new(memory));
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "starting a cron's memory anew"),
            }
        }
        let inner = Mutex::new(Inner { crons, away: false });
        Self { dir, inner, woken: Arc::default(), turns: watch::Sender::new(0) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic holds this lock")
    }

    /// A returning daemon has found a run.
    pub(super) fn found(&self, container: &Arc<Container>) {
        let Owner::App { workload, .. } = &container.owner else { return };
        let number = u64::from(container.read(|record| record.run));
        let mut inner = self.inner();
        let cron = inner.crons.entry(workload.clone()).or_insert_with(|| Cron::new(Memory::default()));
        cron.containers.insert(number, container.clone());
        let memory = cron.machine.memory();
        if memory.runs < number {
            // A power cut took the memory: no number comes twice.
            cron.machine = Machine::new(Memory { runs: number, ..memory.clone() });
        }
    }

    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        self.inner().crons.values().flat_map(|cron| cron.containers.values().cloned()).collect()
    }

    fn keep(&self, name: &Name, memory: &Memory) {
        let kept = make(&self.dir, 0o700).map_err(std::io::Error::other).and_then(|()| {
            let bytes = serde_json::to_vec(memory).map_err(std::io::Error::other)?;
            replace_file(&self.dir.join(format!("{name}.json")), &bytes)
        });
        if let Err(error) = kept {
            tracing::warn!(cron = %name, %error, "cannot keep its memory: a returning daemon may run it again");
        }
    }
}

impl Cron {
    fn new(memory: Memory) -> Self {
        Self { machine: Machine::new(memory), timeout: None, containers: BTreeMap::new(), stop: None }
    }
}

/// The release whose crons run now; none of an app of which nothing is there (yet, or any more).
fn release_of(wanted: &Wanted) -> Option<&Release> {
    match wanted.rollout() {
        Some((_, before)) => before,
        None => Some(wanted.current()).filter(|current| !current.is_void()),
    }
}

fn timetable(spec: &CronSpec, anchor: Timestamp) -> Option<Timetable> {
    Some(match &spec.schedule {
        Schedule::Every(apart) => Timetable::Every { apart: apart.0, anchor },
        Schedule::Expression(text) => {
            Timetable::Expression { expression: Expression::parse(text).ok()?, zone: zone::find(&spec.time_zone)? }
        }
    })
}

impl App {
    /// Goes on with what a daemon before this one left, and keeps the time from now on.
    pub(super) fn take_up_crons(self: &Arc<Self>) {
        let running: Vec<(Name, u64)> = {
            let inner = self.crons.inner();
            let run =
                |(name, cron): (&Name, &Cron)| Some((name.clone(), cron.machine.memory().running.as_ref()?.number));
            inner.crons.iter().filter_map(run).collect()
        };
        let strangers: Vec<Arc<Container>> = {
            let inner = self.crons.inner();
            let all =
                inner.crons.iter().flat_map(|(name, cron)| cron.containers.iter().map(move |(n, c)| (name, n, c)));
            let strange = all.filter(|(name, number, container)| {
                container.phase().is_running() && !running.iter().any(|(of, run)| (of, run) == (*name, *number))
            });
            strange.map(|(_, _, container)| container.clone()).collect()
        };
        for container in strangers {
            let containers = self.containers.clone();
            tokio::spawn(async move {
                if let Err(error) = containers.stop(&container, None, None).await {
                    tracing::warn!(container = %container.name(), %error, "cannot stop a run that nobody remembers");
                }
            });
        }
        for (name, number) in running {
            self.begin_run(&name, number);
        }
        self.follow_crons();
        let (app, woken) = (Arc::downgrade(self), self.crons.woken.clone());
        tokio::spawn(async move {
            loop {
                let Some(app) = app.upgrade().filter(|app| !app.is_retiring()) else { return };
                let next = app.tick_crons();
                drop(app);
                let nap = async {
                    match next {
                        Some(nap) => tokio::time::sleep(nap).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = woken.notified() => {}
                    () = nap => {}
                }
            }
        });
    }

    /// The log may say something new about them.
    pub(super) fn follow_crons(self: &Arc<Self>) {
        let wanted = self.wanted();
        let release = release_of(&wanted);
        let now = self.now();
        let names: Vec<Name> = {
            let mut inner = self.crons.inner();
            if inner.away {
                return;
            }
            for (name, release) in
                release.iter().flat_map(|release| release.spec.crons.keys().map(move |n| (n, release)))
            {
                let fresh = || Cron::new(Memory::new(release.created_at));
                inner.crons.entry(name.clone()).or_insert_with(fresh);
            }
            inner.crons.keys().cloned().collect()
        };
        for name in names {
            let spec = release.and_then(|release| Some((release, release.spec.crons.get(&name)?)));
            let spec = spec.filter(|_| !wanted.is_stopped(name.as_str()));
            self.with_cron(&name, |cron| {
                let table = spec.and_then(|(release, spec)| Some((release, spec, timetable(spec, Timestamp::ZERO)?)));
                let Some((release, spec, table)) = table else { return cron.machine.rest(now) };
                cron.timeout = spec.timeout.map(|timeout| timeout.0);
                let history = usize::try_from(spec.history).unwrap_or(usize::MAX);
                let (overlap, missed) = (spec.overlap, spec.missed);
                cron.machine.follow(now, release.created_at, (&spec.schedule, &spec.time_zone), |anchor| {
                    let timetable = match table {
                        Timetable::Every { apart, .. } => Timetable::Every { apart, anchor },
                        other => other,
                    };
                    Rules { timetable, overlap, missed, history }
                });
                Vec::new()
            });
        }
        self.crons.woken.notify_one();
    }

    /// How long until there is something to do again.
    fn tick_crons(self: &Arc<Self>) -> Option<Duration> {
        let now = self.now();
        let names: Vec<Name> = self.crons.inner().crons.keys().cloned().collect();
        for name in names {
            self.with_cron(&name, |cron| match cron.machine.next_wakeup() {
                Some(at) if at <= now || now < cron.machine.memory().seen => cron.machine.tick(now),
                _ => Vec::new(),
            });
        }
        let inner = self.crons.inner();
        let next = inner.crons.values().filter_map(|cron| cron.machine.next_wakeup()).min()?;
        Some((next.since(self.now()) + Duration::from_millis(1)).min(NAP))
    }

    /// Has one cron's machine decide; keeps what it has in mind, and does what it says.
    fn with_cron(self: &Arc<Self>, name: &Name, decide: impl FnOnce(&mut Cron) -> Vec<Action>) {
        let actions = {
            let mut inner = self.crons.inner();
            let Some(cron) = inner.crons.get_mut(name) else { return };
            let before = cron.machine.memory().clone();
            let actions = decide(cron);
            if before != *cron.machine.memory() {
                self.crons.keep(name, cron.machine.memory());
            }
            actions
        };
        self.carry_out(name, actions);
    }

    fn carry_out(self: &Arc<Self>, name: &Name, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start { number } => {
                    self.tell("cron-start", &format!("{name} run {number}"));
                    self.begin_run(name, number);
                }
                Action::Stop { number, .. } => {
                    let inner = self.crons.inner();
                    let stop = inner.crons.get(name).and_then(|cron| cron.stop.as_ref());
                    if let Some((_, stop)) = stop.filter(|(of, _)| *of == number) {
                        stop.send_replace(true);
                    }
                }
                Action::Note(entry) => {
                    self.tell("cron-end", &entry_text(name, &entry));
                    self.crons.turns.send_modify(|turn| *turn += 1);
                }
            }
        }
    }

    fn begin_run(self: &Arc<Self>, name: &Name, number: u64) {
        let stopped = {
            let mut inner = self.crons.inner();
            let Some(cron) = inner.crons.get_mut(name) else { return };
            let (stop, stopped) = watch::channel(false);
            cron.stop = Some((number, stop));
            stopped
        };
        let (app, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            let outcome = match app.run_cron(&name, number, stopped).await {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Failed { code: None, reason: error.to_string() },
            };
            app.with_cron(&name, |cron| {
                cron.stop.take_if(|(of, _)| *of == number);
                cron.machine.ended(app.now(), number, outcome)
            });
            app.crons.woken.notify_one();
            app.clear_runs(&name).await;
        });
    }

    /// One run to its end: begun, or taken up where a daemon before this one left it.
    async fn run_cron(
        self: &Arc<Self>,
        name: &Name,
        number: u64,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<Outcome, NodeError> {
        let wanted = self.wanted();
        let release = release_of(&wanted).unwrap_or_else(|| wanted.current());
        let (found, timeout) = {
            let inner = self.crons.inner();
            let cron = inner.crons.get(name);
            let found = cron.and_then(|cron| cron.containers.get(&number).cloned());
            (found, cron.and_then(|cron| cron.timeout))
        };
        let stopped_early = || NodeError::Invalid("stopped before it started".to_owned());
        if *stopped.borrow() && found.is_none() {
            return Err(stopped_early());
        }
        let container = match found {
            Some(container) => container,
            None => {
                let of_app = OfApp {
                    range: wanted.uid_range.0,
                    revision: revision(release, name),
                    home: None,
                    place: Place::Cron,
                    run: u32::try_from(number).unwrap_or(u32::MAX),
                };
                let container = self.create_instance(release, &format!("{name}-{number}"), name, of_app).await?;
                if let Some(cron) = self.crons.inner().crons.get_mut(name) {
                    cron.containers.insert(number, container.clone());
                }
                container
            }
        };
        if matches!(container.phase(), Phase::Created) {
            if *stopped.borrow() {
                return Err(stopped_early());
            }
            self.start_container(&container, release, name).await?;
        }
        let since = match container.phase() {
            Phase::Running { started_at, .. } => started_at,
            _ => self.now(),
        };
        let timed_out = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout.saturating_sub(self.now().since(since))).await,
                None => std::future::pending().await,
            }
        };
        let must_stop = tokio::select! {
            _ = container.ended() => false,
            _ = async { stopped.wait_for(|stop| *stop).await.map(drop) } => true,
            () = timed_out => {
                self.with_cron(name, |cron| cron.machine.timed_out(number));
                true
            }
        };
        if must_stop {
            self.containers.stop(&container, None, None).await?;
        }
        container.ended().await;
        // Nobody speaks to it any more: its address is free.
        let mut home = None;
        container.change(|record| home = record.home.take());
        if let Some(home) = home {
            self.containers.network.give_up(&home);
        }
        Ok(match container.phase() {
            Phase::Exited { exit, lost: false, .. } if exit.code == 0 && exit.signal.is_none() => Outcome::Succeeded,
            Phase::Exited { exit, lost, .. } => {
                Outcome::Failed { code: (!lost).then_some(exit.code), reason: exit_text(&exit, lost) }
            }
            _ => Outcome::Failed { code: None, reason: "it was removed before it ended".to_owned() },
        })
    }

    /// Removes the containers of runs that ended long ago.
    async fn clear_runs(&self, name: &Name) {
        let old: Vec<Arc<Container>> = {
            let mut inner = self.crons.inner();
            let Some(cron) = inner.crons.get_mut(name) else { return };
            let going_on = cron.machine.memory().running.as_ref().map(|run| run.number);
            let ended: Vec<u64> = cron.containers.keys().copied().filter(|number| Some(*number) != going_on).collect();
            let old = &ended[..ended.len().saturating_sub(KEPT)];
            old.iter().filter_map(|number| cron.containers.remove(number)).collect()
        };
        for container in old {
            if let Err(error) = self.containers.remove(&container, true, true).await {
                tracing::warn!(container = %container.name(), %error, "cannot remove it");
            }
        }
    }

    /// Stops what runs, and runs nothing more: somebody else goes on with the crons, or nobody.
    pub(super) async fn leave_crons(self: &Arc<Self>) {
        let names: Vec<Name> = {
            let mut inner = self.crons.inner();
            inner.away = true;
            inner.crons.keys().cloned().collect()
        };
        let now = self.now();
        for name in names {
            self.with_cron(&name, |cron| cron.machine.go_away(now));
        }
        self.crons.woken.notify_one();
        let mut turns = self.crons.turns.subscribe();
        loop {
            turns.borrow_and_update();
            if self.crons.inner().crons.values().all(|cron| cron.machine.memory().running.is_none()) {
                return;
            }
            if turns.changed().await.is_err() {
                return;
            }
        }
    }

    /// Resolves when no run of these goes on. Who waits sees to it that none begins.
    pub(crate) async fn crons_rested(&self, names: &[Name]) {
        let mut turns = self.crons.turns.subscribe();
        loop {
            turns.borrow_and_update();
            let goes_on = |name: &Name| {
                let inner = self.crons.inner();
                inner.crons.get(name).is_some_and(|cron| cron.machine.memory().running.is_some())
            };
            if !names.iter().any(goes_on) || turns.changed().await.is_err() {
                return;
            }
        }
    }

    /// Every cron of the release, and those that have left it while one of their runs goes on.
    pub(crate) fn crons(&self) -> Vec<CronView> {
        let wanted = self.wanted();
        let release = release_of(&wanted);
        let now = self.now();
        let inner = self.crons.inner();
        let view = |(name, cron): (&Name, &Cron)| CronView {
            name: name.clone(),
            spec: release.and_then(|release| release.spec.crons.get(name)).cloned(),
            is_resting: cron.machine.is_resting(),
            next: cron.machine.next_time(now),
            memory: cron.machine.memory().clone(),
        };
        let shown = |view: &CronView| view.spec.is_some() || view.memory.running.is_some();
        inner.crons.iter().map(view).filter(shown).collect()
    }

    pub(crate) fn cron(&self, name: &str) -> Result<CronView, NodeError> {
        let all = self.crons();
        let known = all.iter().map(|cron| cron.name.to_string()).collect();
        let found = all.into_iter().find(|cron| cron.name.as_str() == name);
        found.ok_or_else(|| NodeError::NoWorkload { app: self.name.to_string(), target: name.to_owned(), known })
    }

    /// Begins a run now, or when the one that goes on has ended; its number.
    pub(crate) fn request_run(self: &Arc<Self>, name: &str) -> Result<u64, NodeError> {
        let view = self.cron(name)?;
        let mut answer = Err(Refusal::Stopped);
        self.with_cron(&view.name, |cron| match cron.machine.request(self.now()) {
            Ok((number, actions)) => {
                answer = Ok(number);
                actions
            }
            Err(refusal) => {
                answer = Err(refusal);
                Vec::new()
            }
        });
        answer.map_err(|why| NodeError::NoRun { app: self.name.to_string(), cron: name.to_owned(), why })
    }

    /// Resolves with the run's line of the history once it has ended.
    pub(crate) async fn run_ended(&self, name: &str, number: u64) -> Result<Entry, NodeError> {
        let mut turns = self.crons.turns.subscribe();
        loop {
            turns.borrow_and_update();
            let memory = self.cron(name)?.memory;
            if let Some(entry) = memory.history.iter().rev().find(|entry| entry.number == Some(number)) {
                return Ok(entry.clone());
            }
            let is_it = |run: &Option<Run>| run.as_ref().is_some_and(|run| run.number == number);
            let pending = is_it(&memory.running) || is_it(&memory.waiting);
            if !pending || turns.changed().await.is_err() {
                let text =
                    format!("{name} has no run {number}: `coppice cron history {} {name}` lists them", self.name);
                return Err(NodeError::Invalid(text));
            }
        }
    }
}

/// `job run 3 failed: exited with code 1`.
fn entry_text(name: &Name, entry: &Entry) -> String {
    let run = entry.number.map(|number| format!(" run {number}")).unwrap_or_default();
    format!("{name}{run} {}", outcome_text(&entry.outcome))
}

/// One phrase on what became of a run.
pub(crate) fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded => "succeeded".to_owned(),
        Outcome::Failed { reason, .. } => format!("failed: {reason}"),
        Outcome::Stopped(Why::TimedOut) => "failed: took longer than its timeout".to_owned(),
        Outcome::Stopped(Why::Replaced) => "stopped: the next run was due".to_owned(),
        Outcome::Stopped(Why::Halted) => "stopped".to_owned(),
        Outcome::Skipped { times: 1 } => "skipped: the run before was going on".to_owned(),
        Outcome::Skipped { times } => format!("skipped {times} times: the run before was going on"),
        Outcome::Missed => "missed: nobody was there".to_owned(),
    }
}
