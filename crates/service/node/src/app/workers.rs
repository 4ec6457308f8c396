//! Workers that somebody runs once more: containers beside the tree, which neither the supervisor nor dependents hear of.
//!
//! One run of a worker goes on at a time, whoever began it. There is none during a rollout, which may be about to switch the
//! data under it; one that goes on when a rollout begins is stopped where its worker is halted, as an instance is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use coppice_base::Name;
use coppice_spec::MountSource;
use coppice_supervise::ChildState;

use super::tree::revision;
use super::{App, Wanted};
use crate::container::{Container, Owner, Phase, Place, exit_text};
use crate::containers::OfApp;
use crate::error::NodeError;

/// Ended runs of a worker whose containers are kept, for their logs.
const KEPT: usize = 3;

#[derive(Default)]
pub(super) struct Runs {
    /// Held while a run begins, and while runs are stopped: none slips in between.
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By worker and number.
    here: BTreeMap<(Name, u32), Arc<Container>>,
    /// The node is going down.
    away: bool,
}

impl Runs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic holds this lock")
    }

    /// A returning daemon has found one.
    pub(super) fn found(&self, container: &Arc<Container>) {
        let Owner::App { workload, .. } = &container.owner else { return };
        let number = container.read(|record| record.run);
        self.inner().here.insert((workload.clone(), number), container.clone());
    }

    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        self.inner().here.values().cloned().collect()
    }

    fn running(&self, of: impl Fn(&Name) -> bool) -> Vec<Arc<Container>> {
        let inner = self.inner();
        let running = inner.here.iter().filter(|((worker, _), one)| of(worker) && one.phase().is_running());
        running.map(|(_, container)| container.clone()).collect()
    }
}

impl App {
    /// Begins a run of a worker of the current release; it has started when this returns. The number, and its container.
    pub(crate) async fn run_worker(
        self: &Arc<Self>,
        worker: &str,
        uid: u32,
    ) -> Result<(u32, Arc<Container>), NodeError> {
        let _turn = self.runs.turn.lock().await;
        let wanted = self.wanted();
        let Some((name, _)) = wanted.state().spec().workers.get_key_value(worker) else {
            return Err(self.no_worker(&wanted, worker));
        };
        if let Some(why) = self.run_refused(&wanted, name) {
            return Err(NodeError::NoWorkerRun { app: self.name.to_string(), worker: worker.to_owned(), why });
        }
        let number = {
            let inner = self.runs.inner();
            inner.here.keys().filter(|(of, _)| of == name).map(|(_, number)| number + 1).max().unwrap_or(1)
        };
        let release = wanted.current();
        let of_app = OfApp {
            range: wanted.uid_range.0,
            revision: revision(release, name),
            home: None,
            place: Place::Run,
            run: number,
        };
        let container = self.create_instance(release, &format!("{name}-{number}"), name, of_app).await?;
        if let Err(error) = self.start_container(&container, release, name).await {
            if let Err(error) = self.containers.remove(&container, true, true).await {
                tracing::warn!(container = %container.name(), %error, "cannot remove it");
            }
            return Err(error);
        }
        self.runs.inner().here.insert((name.clone(), number), container.clone());
        self.tell("worker-start", &format!("{name} run {number} (uid {uid})"));
        self.look_after_run(container.clone());
        Ok((number, container))
    }

    fn no_worker(&self, wanted: &Wanted, text: &str) -> NodeError {
        let spec = wanted.state().spec();
        let what = match (spec.services.contains_key(text), spec.crons.contains_key(text)) {
            (true, _) => "is a service, which runs all the time",
            (_, true) => "is a cron, which `coppice cron run` runs",
            _ => "is not in the app",
        };
        let workers: Vec<String> = spec.workers.keys().map(Name::to_string).collect();
        let has = match workers.is_empty() {
            true => "has no workers".to_owned(),
            false => format!("has the workers {}", workers.join(", ")),
        };
        NodeError::Invalid(format!("{text:?} is no worker of {0}: it {what}; {0} {has}", self.name))
    }

    /// Why a worker cannot be run now; `None`: it can.
    fn run_refused(&self, wanted: &Wanted, worker: &Name) -> Option<String> {
        let app = &self.name;
        if self.is_retiring() || self.runs.inner().away {
            return Some("it is being stopped".to_owned());
        }
        if wanted.rollout().is_some() {
            let number = wanted.current().number;
            return Some(format!(
                "release {number} is being rolled out: `coppice rollout status {app}` shows how far it is"
            ));
        }
        if wanted.is_stopped(worker.as_str()) {
            return Some(format!("it is stopped: `coppice start {app}/{worker}` first"));
        }
        let of = |container: &Arc<Container>| {
            container.phase().is_running()
                && matches!(&container.owner, Owner::App { workload, .. } if workload == worker)
        };
        let beside = self.hooks.containers().into_iter().chain(self.runs.containers());
        if let Some(container) = beside.into_iter().find(of) {
            return Some(format!("{} is still going on: `coppice stop {0}` ends it", container.name()));
        }
        let status = self.supervisor().read(|machine| machine.status_of(&worker.to_string()));
        let goes_on = |state| matches!(state, ChildState::Starting | ChildState::Running { .. } | ChildState::Stopping);
        let goes_on = status.is_some_and(|status| goes_on(status.state));
        goes_on.then(|| format!("{app}.{worker} is still going on: `coppice stop {app}/{worker}` ends it"))
    }

    /// Goes on with what a daemon before this one left.
    pub(super) fn take_up_runs(self: &Arc<Self>) {
        for container in self.runs.running(|_| true) {
            self.look_after_run(container);
        }
        self.follow_runs();
    }

    fn look_after_run(self: &Arc<Self>, container: Arc<Container>) {
        let app = self.clone();
        tokio::spawn(async move {
            container.ended().await;
            let mut home = None;
            container.change(|record| home = record.home.take());
            if let Some(home) = home {
                app.containers.network.give_up(&home);
            }
            let Owner::App { workload, .. } = &container.owner else { return };
            let said = match container.phase() {
                Phase::Exited { exit, lost: false, .. } if exit.code == 0 && exit.signal.is_none() => {
                    "succeeded".to_owned()
                }
                Phase::Exited { exit, lost, .. } => format!("failed: {}", exit_text(&exit, lost)),
                _ => "was removed before it ended".to_owned(),
            };
            let number = container.read(|record| record.run);
            app.tell("worker-end", &format!("{workload} run {number} {said}"));
            app.clear_ended(workload).await;
        });
    }

    /// Removes the containers of runs that ended long ago.
    async fn clear_ended(&self, worker: &Name) {
        let old: Vec<Arc<Container>> = {
            let mut inner = self.runs.inner();
            let ended = inner.here.iter().filter(|((of, _), one)| of == worker && !one.phase().is_running());
            let mut ended: Vec<(Name, u32)> = ended.map(|(key, _)| key.clone()).collect();
            ended.truncate(ended.len().saturating_sub(KEPT));
            ended.iter().filter_map(|key| inner.here.remove(key)).collect()
        };
        for container in old {
            if let Err(error) = self.containers.remove(&container, true, true).await {
                tracing::warn!(container = %container.name(), %error, "cannot remove it");
            }
        }
    }

    /// The log may say something new: runs of workers that are stopped, or are no more, end.
    pub(super) fn follow_runs(self: &Arc<Self>) {
        if self.runs.running(|_| true).is_empty() {
            return;
        }
        let app = self.clone();
        tokio::spawn(async move {
            let wanted = app.wanted();
            let is_there = |worker: &Name| wanted.specs().any(|spec| spec.workers.contains_key(worker));
            app.stop_runs(|worker| wanted.is_stopped(worker.as_str()) || !is_there(worker)).await;
        });
    }

    /// Stops the runs of these workers, and returns when they have ended.
    pub(crate) async fn stop_runs(&self, of: impl Fn(&Name) -> bool) {
        let _turn = self.runs.turn.lock().await;
        let stopping = self.runs.running(of).into_iter().map(async |container| {
            if let Err(error) = self.containers.stop(&container, None, None).await {
                tracing::warn!(container = %container.name(), %error, "cannot stop it");
            }
        });
        futures_util::future::join_all(stopping).await;
    }

    /// Stops the runs of these workloads, and of those that use their volumes, which are about to be switched.
    pub(crate) async fn stop_runs_beside(&self, workloads: &[Name]) {
        let wanted = self.wanted();
        let volumes_of = |workload: &Name| -> BTreeSet<Name> {
            let defined = wanted.specs().filter_map(|spec| spec.workload(workload.as_str()));
            let mounts = defined.flat_map(|workload| &workload.volumes);
            let volume = |mount: &coppice_spec::VolumeMount| match &mount.source {
                MountSource::Volume(volume) => Some(volume.clone()),
                _ => None,
            };
            mounts.filter_map(volume).collect()
        };
        let volumes: BTreeSet<Name> = workloads.iter().flat_map(volumes_of).collect();
        self.stop_runs(|worker| workloads.contains(worker) || !volumes.is_disjoint(&volumes_of(worker))).await;
    }

    /// Stops what runs, and runs nothing more.
    pub(super) async fn leave_runs(&self) {
        self.runs.inner().away = true;
        self.stop_runs(|_| true).await;
    }
}
