//! One app on this node: its supervision tree, its instances, and the names and ports that lead to them.
//!
//! What is wanted comes from the log as an [`AppState`]; the supervisor decides; here it is done. Every instance is a
//! container that is kept across restarts (with its writable layer and its log) and replaced when its definition
//! changes.

mod candidates;
mod crons;
mod hooks;
mod instances;
mod reach;
mod secrets;
mod shape;
mod tree;
mod workers;

pub(crate) use candidates::RolloutEvents;
pub(crate) use crons::{CronView, outcome_text};
pub(crate) use instances::run_spec;
pub(crate) use shape::Wanted;
pub(crate) use tree::revision;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use coppice_base::{Name, Timestamp};
use coppice_spec::{AppSpec, PortSpec};
use coppice_supervise::{Adopted, Event, Overall};
use tokio::sync::watch;

use self::candidates::Candidates;
use self::crons::Crons;
use self::hooks::Hooks;
use self::workers::Runs;
use crate::container::{Container, Owner, Phase, Place};
use crate::containers::Containers;
use crate::error::NodeError;
use crate::instance;
use crate::network::Names;
use crate::removal::{self, mark_volumes};
use crate::root::make;
use crate::supervisor::{self, Supervisor};

/// What the log says about an app.
pub(crate) type AppState = coppice_state::App;

/// An app that this node runs.
pub(crate) struct App {
    pub(crate) name: Name,
    containers: Arc<Containers>,
    wanted: Mutex<Arc<Wanted>>,
    slots: Mutex<BTreeMap<String, Slot>>,
    candidates: Candidates,
    hooks: Hooks,
    crons: Crons,
    runs: Runs,
    supervisor: OnceLock<Supervisor>,
    /// Published ports by service, with host ports chosen.
    ports: Mutex<BTreeMap<Name, Vec<PortSpec>>>,
    /// What the hosts files of the app say now.
    names: Mutex<Arc<Names>>,
    refreshes: reach::Refreshes,
    retiring: std::sync::atomic::AtomicBool,
}

/// One instance's place.
#[derive(Default)]
struct Slot {
    container: Option<Arc<Container>>,
    ready: bool,
    /// Its image is being fetched.
    pulling: bool,
    /// Set when the supervisor wants it stopped, before or after it has started.
    stop: Option<watch::Sender<bool>>,
}

/// What a returning daemon's supervisor remembers of a child.
struct Remembered {
    status: coppice_supervise::ChildStatus<String>,
    revision: String,
}

/// One instance's part of a status.
pub(crate) struct InstanceView {
    pub(crate) container: Option<Arc<Container>>,
    pub(crate) pulling: bool,
}

/// `web-1`, `web-2` … for a service, its own name for a worker.
pub(crate) fn instances_of(app: &Wanted, workload: &Name) -> Vec<String> {
    if app.spec().workers.contains_key(workload) {
        return vec![workload.to_string()];
    }
    (1..=app.replicas(workload.as_str())).map(|n| coppice_plan::instance_name(workload, n)).collect()
}

/// The workload an instance is of.
fn workload_of(spec: &AppSpec, instance: &str) -> Option<Name> {
    if let Some((name, _)) = spec.workers.get_key_value(instance) {
        return Some(name.clone());
    }
    let (service, number) = instance.rsplit_once('-')?;
    number.parse::<u32>().ok()?;
    spec.services.get_key_value(service).map(|(name, _)| name.clone())
}

impl App {
    /// Takes up an app: from the supervisor's snapshot and the containers found, or anew.
    pub(crate) fn open(containers: Arc<Containers>, name: Name, wanted: Arc<AppState>) -> Result<Arc<Self>, NodeError> {
        let wanted = Arc::new(Wanted::of(wanted));
        let dir = containers.root.app(name.as_str());
        make(&dir, 0o700)
            .map_err(|error| NodeError::disk(format!("cannot make {}", dir.display()), std::io::Error::other(error)))?;
        // The app is wanted: a removal that was asked for did not come to be.
        mark_volumes(&containers.root, name.as_str(), false)
            .map_err(|source| NodeError::disk(format!("cannot prepare {}", dir.display()), source))?;
        let ports = std::fs::read(dir.join("ports.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let app = Arc::new(Self {
            name: name.clone(),
            containers,
            wanted: Mutex::new(wanted.clone()),
            slots: Mutex::default(),
            candidates: Candidates::default(),
            hooks: Hooks::default(),
            crons: Crons::load(&dir),
            runs: Runs::default(),
            supervisor: OnceLock::new(),
            ports: Mutex::new(ports),
            names: Mutex::default(),
            refreshes: reach::Refreshes::default(),
            retiring: std::sync::atomic::AtomicBool::new(false),
        });
        for container in app.containers.table.all() {
            if let Owner::App { app: owner, instance, .. } = &container.owner
                && *owner == name
            {
                match container.read(|record| record.place) {
                    Place::Own => app.slots().entry(instance.clone()).or_default().container = Some(container.clone()),
                    Place::Cron => app.crons.found(&container),
                    Place::Run => app.runs.found(&container),
                    Place::Candidate | Place::Leaving => app.candidates.found(&container),
                    Place::Hook { .. } => app.hooks.found(&container),
                }
            }
        }
        app.finish_promotions(&wanted);
        let snapshot = supervisor::snapshot(&dir);
        let tree = app.tree(&wanted);
        let (machine, restored) =
            supervisor::machine(&snapshot, tree.clone()).map_err(|error| NodeError::Invalid(error.to_string()))?;
        let known: Vec<String> = machine.keys().cloned().collect();
        let remember = |key: &String| {
            let (status, revision) = (machine.status_of(key)?, machine.revision_of(key)?.to_owned());
            Some((key.clone(), Remembered { status, revision }))
        };
        let remembered: BTreeMap<String, Remembered> = known.iter().filter_map(remember).collect();
        let weak = Arc::downgrade(&app);
        let clock = app.containers.clock.clone();
        let supervisor = Supervisor::spawn(
            machine,
            snapshot,
            clock,
            Box::new(move |supervisor, action| {
                if let Some(app) = weak.upgrade() {
                    app.execute(supervisor, action);
                }
            }),
        );
        let supervisor = app.supervisor.get_or_init(|| supervisor);
        app.claim_ports(&wanted);
        if restored || !app.slots().is_empty() {
            app.adopt(supervisor, &wanted, &known, &remembered);
            supervisor.tell(Event::Reconfigure(tree));
        }
        app.apply_stops(&wanted, true);
        app.take_up_crons();
        app.take_up_runs();
        if wanted.rollout().is_none() {
            // A daemon that died when the rollout was over had yet to take away what stood beside.
            app.clear_candidates(&[]);
        }
        // Whatever it has: who waits for the first word of all apps waits for this one's, too.
        let telling = app.clone();
        tokio::spawn(async move {
            telling.refresh_network().await;
            telling.give_secrets().await;
        });
        Ok(app)
    }

    /// Tells a supervisor that remembers these children what has become of them. First of those that run, so that
    /// nothing starts for want of them; then of those that ran or were about to, in start order. A child that was
    /// down is not spoken of: what starts it may be an earlier one's adoption, and it must not be taken for lost then.
    ///
    /// The memory may lag behind a promotion: what runs then is not what the machine takes it for, and would be stopped as
    /// if it were of before.
    fn adopt(
        self: &Arc<Self>,
        supervisor: &Supervisor,
        wanted: &Wanted,
        known: &[String],
        remembered: &BTreeMap<String, Remembered>,
    ) {
        use coppice_supervise::ChildState;
        let phase = |key: &String| self.slots().get(key)?.container.as_ref().map(|container| container.phase());
        let (running, down): (Vec<&String>, Vec<&String>) =
            known.iter().partition(|key| phase(key).is_some_and(|phase| phase.is_running()));
        let was_ready = |key: &String| matches!(remembered[key].status.state, ChildState::Running { ready: true, .. });
        for key in &running {
            // All before any is watched, so that no route leaves one out meanwhile.
            self.slots().entry((*key).clone()).or_default().ready = was_ready(key);
        }
        for key in running {
            let Remembered { status, revision } = &remembered[key];
            let runs = self.view(key).container.map(|container| container.read(|record| record.revision.clone()));
            let runs = runs.unwrap_or_else(|| revision.clone());
            let is_wanted =
                workload_of(wanted.spec(), key).is_some_and(|w| self.slot_revision(wanted, &w, key) == runs);
            // One of before that was being stopped for what is to come is stopped for it.
            let lags = runs != *revision && (is_wanted || status.state != ChildState::Stopping);
            let ready = lags || was_ready(key);
            supervisor.tell(match lags {
                true => Event::Replaced(key.clone(), runs),
                false => Event::Adopt(key.clone(), Adopted::Running { ready }),
            });
            // Only now: what it tells of this run is to be heard after the adoption.
            self.spawn_watch(key.clone(), ready);
        }
        for key in down {
            let status = &remembered[key].status;
            let started = match status.state {
                // An end from before the start that was decided last: that start is still to come.
                ChildState::Starting => Some(status.since),
                ChildState::Running { .. } | ChildState::Stopping => None,
                _ => continue,
            };
            let found = match phase(key) {
                Some(phase @ Phase::Exited { .. }) if started < phase.exit().map(|exit| exit.at) => {
                    Adopted::Exited(instance::reason(phase.exit(), &phase))
                }
                _ => Adopted::Absent,
            };
            supervisor.tell(Event::Adopt(key.clone(), found));
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().expect("no panic holds this lock")
    }

    pub(crate) fn containers(&self) -> &Arc<Containers> {
        &self.containers
    }

    pub(crate) fn wanted(&self) -> Arc<Wanted> {
        self.wanted.lock().expect("no panic holds this lock").clone()
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        self.supervisor.get().expect("set before open returns")
    }

    pub(crate) fn ports(&self, workload: &Name) -> Vec<PortSpec> {
        self.ports.lock().expect("no panic holds this lock").get(workload).cloned().unwrap_or_default()
    }

    pub(crate) fn view(&self, instance: &str) -> InstanceView {
        let slots = self.slots();
        let slot = slots.get(instance);
        InstanceView {
            container: slot.and_then(|slot| slot.container.clone()),
            pulling: slot.is_some_and(|slot| slot.pulling),
        }
    }

    /// Restarts of an instance that nobody asked for.
    pub(crate) fn restarts(&self, instance: &str) -> u32 {
        let status = self.supervisor().read(|machine| machine.status_of(&instance.to_owned()));
        status.map_or(0, |status| u32::try_from(status.restarts).unwrap_or(u32::MAX))
    }

    pub(crate) fn workload_of(&self, instance: &str) -> Option<Name> {
        workload_of(self.wanted().spec(), instance)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.containers.clock.now()
    }

    /// The log says something new about this app.
    pub(crate) fn update(self: &Arc<Self>, state: Arc<AppState>) {
        let before = self.wanted();
        if Arc::ptr_eq(before.state(), &state) || **before.state() == *state {
            return;
        }
        let wanted = Arc::new(Wanted::of(state));
        let before = std::mem::replace(&mut *self.wanted.lock().expect("no panic holds this lock"), wanted.clone());
        if let Err(error) = mark_volumes(&self.containers.root, self.name.as_str(), false) {
            tracing::warn!(app = %self.name, %error, "a mark of a removal that did not come to be stays");
        }
        let tree = self.tree(&wanted);
        if self.tree(&before) != tree {
            self.claim_ports(&wanted);
            self.supervisor().tell(Event::Reconfigure(tree));
        }
        let halted = |wanted: &Wanted| wanted.spec().workloads().filter(|(w, _)| wanted.is_stopped(w.as_str())).count();
        let anew = before.current().id != wanted.current().id || before.stopped != wanted.stopped;
        self.apply_stops(&wanted, anew || halted(&before) != halted(&wanted) || before.rollout().is_some());
        self.follow_crons();
        self.follow_runs();
        let app = self.clone();
        tokio::spawn(async move {
            if !before.leads_as(&wanted) {
                app.refresh_network().await;
            }
            app.give_secrets().await;
            app.sweep().await;
        });
    }

    /// `start`: what is wanted up is told so (again), which also retries what failed for good.
    fn apply_stops(&self, wanted: &Wanted, start: bool) {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for (name, _) in wanted.spec().workloads() {
            let side = if wanted.is_stopped(name.as_str()) { &mut down } else { &mut up };
            side.extend(instances_of(wanted, name));
        }
        if down.is_empty() {
            if start {
                self.supervisor().tell(Event::Start);
            }
            return;
        }
        self.supervisor().tell(Event::StopChildren(down));
        if start && !up.is_empty() {
            // Only those that are down: a running or completed one is not to run again for a sibling's sake.
            let idle: Vec<String> = up.into_iter().filter(|key| self.is_idle(key)).collect();
            if !idle.is_empty() {
                self.supervisor().tell(Event::StartChildren(idle));
            }
        }
    }

    /// `start` of workloads that nobody had stopped: those in backoff or failed need not wait.
    pub(crate) fn hurry(&self, workloads: &BTreeSet<Name>) {
        let wanted = self.wanted();
        let named = wanted.spec().workloads().map(|(name, _)| name);
        let named = named.filter(|name| workloads.is_empty() || workloads.contains(name.as_str()));
        let keys = named.flat_map(|name| instances_of(&wanted, name));
        let idle: Vec<String> = keys.filter(|key| self.is_idle(key)).collect();
        if !idle.is_empty() {
            self.supervisor().tell(Event::StartChildren(idle));
        }
    }

    fn is_idle(&self, key: &String) -> bool {
        use coppice_supervise::ChildState;
        let state = self.supervisor().read(|machine| machine.status_of(key)).map(|status| status.state);
        !matches!(state, Some(ChildState::Running { .. } | ChildState::Starting | ChildState::Completed))
    }

    /// Stops everything and keeps it, for the next daemon.
    pub(crate) async fn halt(self: &Arc<Self>) {
        self.leave_crons().await;
        self.leave_runs().await;
        let supervisor = self.supervisor();
        let keys: Vec<String> = supervisor.read(|machine| machine.keys().cloned().collect());
        supervisor.tell(Event::StopChildren(keys));
        supervisor.caught_up().await;
        supervisor.when(|status| matches!(status.overall, Overall::Stopped | Overall::Ready | Overall::Failed)).await;
    }

    /// Resolves when nothing of these instances runs.
    pub(crate) async fn down(&self, instances: &BTreeSet<String>) {
        use coppice_supervise::ChildState;
        let alive = |key: &String| {
            let status = self.supervisor().read(|machine| machine.status_of(key));
            status.is_some_and(|status| {
                matches!(status.state, ChildState::Starting | ChildState::Running { .. } | ChildState::Stopping)
            })
        };
        self.supervisor().when(|_| !instances.iter().any(alive)).await;
    }

    /// Tries again what failed for good.
    pub(crate) fn retry(&self) {
        if self.supervisor().read(|machine| machine.overall() == Overall::Failed || !machine.stuck().is_empty()) {
            self.apply_stops(&self.wanted(), true);
        }
    }

    /// Starts, stops or restarts single instances.
    pub(crate) fn tell_instances(&self, action: &str, instances: Vec<String>) {
        self.supervisor().tell(match action {
            "start" => Event::StartChildren(instances),
            "stop" => Event::StopChildren(instances),
            _ => Event::Restart(instances),
        });
    }

    /// True for the first caller, who is to [`retire`](Self::retire) it.
    pub(crate) fn begin_retiring(&self) -> bool {
        !self.retiring.swap(true, std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn is_retiring(&self) -> bool {
        self.retiring.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Stops everything and returns when it is down and its containers are gone.
    pub(crate) async fn retire(self: &Arc<Self>) {
        self.leave_crons().await;
        self.leave_runs().await;
        let supervisor = self.supervisor();
        supervisor.tell(Event::Stop);
        supervisor.caught_up().await;
        supervisor.when(|status| status.overall == Overall::Stopped && status.leaving.is_empty()).await;
        for service in self.wanted().spec().services.keys() {
            self.containers.network.release_ports(&self.port_owner(service));
        }
        self.containers.absent(&self.name);
        removal::clear(&self.containers, &self.name, self.every_container()).await;
    }

    /// Instances, what stands beside them, and runs of workers.
    fn every_container(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<Arc<Container>> = self.slots().values().filter_map(|slot| slot.container.clone()).collect();
        all.extend(self.candidates.containers());
        all.extend(self.hooks.containers());
        all.extend(self.crons.containers());
        all.extend(self.runs.containers());
        all
    }

    /// Removes the containers of instances that the app no longer has.
    pub(super) async fn sweep(&self) {
        let wanted = self.wanted();
        let known: BTreeSet<String> =
            wanted.spec().workloads().flat_map(|(name, _)| instances_of(&wanted, name)).collect();
        let gone: Vec<(String, Arc<Container>)> = (self.slots().iter())
            .filter(|(key, _)| !known.contains(*key))
            .filter_map(|(key, slot)| Some((key.clone(), slot.container.clone()?)))
            .filter(|(_, container)| !container.phase().is_running())
            .collect();
        for (key, container) in gone {
            if let Err(error) = self.containers.remove(&container, false, true).await {
                tracing::warn!(container = %container.name(), %error, "cannot remove it");
                continue;
            }
            let mut slots = self.slots();
            if slots.get(&key).and_then(|slot| slot.container.as_ref()).is_some_and(|c| Arc::ptr_eq(c, &container)) {
                slots.remove(&key);
            }
        }
    }
}
