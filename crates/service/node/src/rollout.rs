//! Carrying a rollout out: a task per app whose current release is being rolled out, which tells the pure machine what
//! happens and does what it says.
//!
//! What the machine has decided is on the log before it is done; so a daemon that returns takes it up from there, asks for
//! what was not seen done again, and everything that is asked for twice is done once. While the log cannot be written (a
//! full disk), nothing is done, and what runs runs on.

mod data;
mod death;
mod execute;
mod plan;
mod records;
mod watch;

pub(crate) use data::{existing_volumes, holder, on_disk, snapshot_with};
pub(crate) use plan::{RolloutInput, first, plan};
pub(crate) use records::{Remembered, remembered};
pub(crate) use watch::Seen;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_base::{Name, SystemRandom, Timestamp};
use coppice_log::{Log, ProposeError};
use coppice_rollout::{Action, CandidateId, Control, Event, Record, Rollout};
use coppice_spec::OnExhausted;
use coppice_state::{Actor, Body, Command, CommandId, NodeId, ReleaseId, Verdict};
use coppice_supervise::Overall;
use tokio::sync::mpsc;

use crate::app::{App, RolloutEvents};

/// Between two tries to write to a log that does not take it.
const AGAIN: Duration = Duration::from_millis(250);

/// A log that takes longer than this for an entry was held by somebody, or its disk is as good as full.
const NOTICED: Duration = Duration::from_secs(2);

/// What holds up a rollout, beside the records of containers.
const LOG: &str = "log";

/// The rollouts that go on here.
pub(crate) struct Rollouts {
    log: Log,
    node: NodeId,
    running: Mutex<BTreeMap<Name, Running>>,
    /// The last release of each app of which somebody waits for the verdict.
    judged: Mutex<BTreeMap<Name, ReleaseId>>,
    /// The last release of each app that is watched because its supervisor may give up.
    guarded: Mutex<BTreeMap<Name, ReleaseId>>,
    exhausted: (mpsc::UnboundedSender<Name>, tokio::sync::Mutex<mpsc::UnboundedReceiver<Name>>),
}

struct Running {
    release: ReleaseId,
    tell: RolloutEvents,
    /// Since when, and why, something is not done, by what does not take it: the log, the record of a container.
    held_up: BTreeMap<String, (Timestamp, String)>,
}

impl Rollouts {
    pub(crate) fn new(log: Log, node: NodeId) -> Arc<Self> {
        let (tell, told) = mpsc::unbounded_channel();
        Arc::new(Self {
            log,
            node,
            running: Mutex::default(),
            judged: Mutex::default(),
            guarded: Mutex::default(),
            exhausted: (tell, tokio::sync::Mutex::new(told)),
        })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Running>> {
        self.running.lock().expect("no panic holds this lock")
    }

    /// Takes up the rollout of an app, if there is one that nobody carries out yet.
    pub(crate) fn follow(self: &Arc<Self>, app: &Arc<App>) {
        let wanted = app.wanted();
        let release = wanted.current().id;
        let Some((record, _)) = wanted.rollout() else {
            match wanted.current().verdict {
                None => self.judge(app, release),
                Some(Verdict::Succeeded) if wanted.state().spec().on_exhausted == OnExhausted::Rollback => {
                    self.guard(app, release);
                }
                Some(_) => {}
            }
            return;
        };
        let mut running = self.running();
        if running.get(&app.name).is_some_and(|one| one.release == release) {
            return;
        }
        let (tell, told) = mpsc::unbounded_channel();
        running.insert(app.name.clone(), Running { release, tell: tell.clone(), held_up: BTreeMap::new() });
        let driver = Driver { rollouts: self.clone(), app: app.clone(), release, tell, watches: BTreeMap::new() };
        tokio::spawn(driver.run(record.clone(), told));
    }

    /// Gives a release that replaced nothing its verdict, once its supervisor knows how it turned out.
    fn judge(self: &Arc<Self>, app: &Arc<App>, release: ReleaseId) {
        if self.judged.lock().expect("no panic holds this lock").insert(app.name.clone(), release) == Some(release) {
            return;
        }
        let (rollouts, app) = (self.clone(), app.clone());
        tokio::spawn(async move {
            let supervisor = app.supervisor();
            supervisor.caught_up().await;
            let is_it = || app.wanted().current().id == release && !app.is_retiring();
            let known = |overall| matches!(overall, Overall::Ready | Overall::Failed);
            supervisor.when(|status| known(status.overall) || !is_it()).await;
            if !is_it() {
                return;
            }
            let status = supervisor.status();
            let verdict = match (status.overall, status.failed) {
                (Overall::Failed, why) => {
                    Verdict::Failed { reason: why.map_or_else(String::new, |why| why.to_string()) }
                }
                _ => Verdict::Succeeded,
            };
            let body = Body::RecordVerdict { app: app.name.clone(), release, verdict };
            // Another release may have come: it has its verdict then.
            if let Err(error) = rollouts.propose(&app, body).await {
                tracing::debug!(app = %app.name, %error, "its release got no verdict");
            }
            if let Some(state) = rollouts.log.read().app(app.name.as_str()) {
                app.update(state.clone());
            }
            data::settle(&app).await;
        });
    }

    /// Tells when the supervisor of a release that had succeeded gives up.
    fn guard(self: &Arc<Self>, app: &Arc<App>, release: ReleaseId) {
        if self.guarded.lock().expect("no panic holds this lock").insert(app.name.clone(), release) == Some(release) {
            return;
        }
        let (rollouts, app) = (self.clone(), app.clone());
        tokio::spawn(async move {
            let is_it = || app.wanted().current().id == release && !app.is_retiring();
            app.supervisor().when(|status| status.failed.is_some() || !is_it()).await;
            if is_it() {
                // Where nobody listens, the node is going down.
                let _ = rollouts.exhausted.0.send(app.name.clone());
            }
        });
    }

    /// The next app whose supervisor has given up, and whose release before is to come back.
    pub(crate) async fn next_exhausted(&self) -> Option<Name> {
        self.exhausted.1.lock().await.recv().await
    }

    /// Tells the rollout of an app what an operator asks for. False when none goes on.
    pub(crate) fn control(&self, actor: &Actor, app: &Name, control: Control) -> bool {
        let event = Event::Control { control, by: actor.to_string() };
        self.running().get(app).is_some_and(|one| one.tell.send(event).is_ok())
    }

    /// Since when, and why, this release's rollout does not do what was decided: what has waited longest.
    pub(crate) fn held_up(&self, app: &Name, release: &ReleaseId) -> Option<(Timestamp, String)> {
        let running = self.running();
        let of = running.get(app).filter(|one| one.release == *release)?;
        of.held_up.values().min_by_key(|(since, _)| *since).cloned()
    }

    /// Since when, and why, `what` does not take what was decided; `None`: it does again.
    fn hold_up(&self, app: &Name, release: &ReleaseId, what: &str, why: Option<(Timestamp, String)>) {
        if let Some(one) = self.running().get_mut(app).filter(|one| one.release == *release) {
            match why {
                Some(why) => drop(one.held_up.entry(what.to_owned()).or_insert(why)),
                None => drop(one.held_up.remove(what)),
            }
        }
    }

    /// Writes to the log on this node's own account.
    pub(crate) async fn propose(&self, app: &App, body: Body) -> Result<(), ProposeError> {
        let id = CommandId::generate(&mut SystemRandom);
        let command = Command { id, at: app.now(), actor: Actor::Node(self.node), body };
        self.log.propose(command).await.map(drop)
    }

    fn ended(&self, app: &Name, release: ReleaseId) {
        let mut running = self.running();
        if running.get(app).is_some_and(|one| one.release == release) {
            running.remove(app);
        }
    }
}

/// One rollout.
struct Driver {
    rollouts: Arc<Rollouts>,
    app: Arc<App>,
    release: ReleaseId,
    tell: RolloutEvents,
    /// Who waits for a workload to be ready, by workload.
    watches: BTreeMap<Name, tokio::task::AbortHandle>,
}

impl Driver {
    async fn run(mut self, record: Record, mut told: mpsc::UnboundedReceiver<Event>) {
        let known: Vec<CandidateId> = record.candidates().into_iter().map(|(_, id, _)| id).collect();
        self.app.clear_candidates(&known);
        if !record.progress.taken_up {
            // Its hooks are numbered as those of the rollout before are, which had better not be taken for them.
            self.app.clear_hooks().await;
        }
        let (mut rollout, mut actions) = match Rollout::resume(record.clone(), self.app.now()) {
            Ok(resumed) => resumed,
            Err(error) => {
                tracing::error!(app = %self.app.name, %error, "cannot take up its rollout");
                return;
            }
        };
        let mut kept = record;
        loop {
            if *rollout.record() != kept {
                // The app is gone, or somebody ended the rollout: there is nothing to be done for it any more.
                let Some(taken) = self.keep(&mut rollout).await else { break };
                kept = taken;
                self.app.tell_progress(&kept);
            }
            for action in actions {
                death::pass("before", action.name()).await;
                if let Action::End(outcome) = &action {
                    self.app.rolled_out(&kept, outcome).await;
                }
                self.execute(action).await;
            }
            if kept.has_ended() {
                break;
            }
            let now = self.app.now();
            let sleep = async {
                match rollout.next_wakeup() {
                    Some(at) => tokio::time::sleep(at.since(now) + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                // What has happened first: time is no reason to give up what is there by now.
                biased;
                event = told.recv() => event.unwrap_or(Event::Tick),
                () = sleep => Event::Tick,
            };
            death::pass("after", event.name()).await;
            actions = rollout.handle(self.app.now(), event);
        }
        for watch in self.watches.values() {
            watch.abort();
        }
        self.app.clear_candidates(&[]);
        self.rollouts.ended(&self.app.name, self.release);
    }

    /// Has the log keep how far it is, and this node's app know; what the log has by then, or nothing when there is no such
    /// rollout any more. As long as the log does not take it, nothing is done.
    async fn keep(&self, rollout: &mut Rollout) -> Option<Record> {
        let (since, decided) = (self.app.now(), rollout.clone());
        loop {
            let asked = self.app.now();
            let body = Body::RecordProgress {
                app: self.app.name.clone(),
                release: self.release,
                progress: Box::new(rollout.progress().clone()),
            };
            match self.rollouts.propose(&self.app, body).await {
                Ok(()) => {
                    self.rollouts.hold_up(&self.app.name, &self.release, LOG, None);
                    if let Some(state) = self.rollouts.log.read().app(self.app.name.as_str()) {
                        self.app.update(state.clone());
                        self.app.supervisor().caught_up().await;
                    }
                    let taken = rollout.record().clone();
                    // A backup holds the log: what waited for it has that time again, which the next turn writes down.
                    let now = self.app.now();
                    if now.since(asked) >= NOTICED {
                        rollout.held_up(asked, now, "the log took nothing");
                    }
                    return Some(taken);
                }
                Err(ProposeError::Rejected(rejection)) => {
                    tracing::info!(app = %self.app.name, %rejection, "its rollout has ended");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(app = %self.app.name, %error, "its rollout waits: the log does not take how far it is");
                    let why = error.to_string();
                    self.rollouts.hold_up(&self.app.name, &self.release, LOG, Some((since, why.clone())));
                    tokio::time::sleep(AGAIN).await;
                    *rollout = decided.clone();
                    rollout.held_up(since, self.app.now(), &why);
                }
            }
        }
    }
}
