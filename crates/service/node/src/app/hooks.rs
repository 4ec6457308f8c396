//! Hooks as containers: workers that a rollout runs beside the instances, before and after it replaces them, once for each
//! attempt. Whether one that failed is run again is for the rollout to say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use coppice_base::Name;
use coppice_rollout::{Event as Told, HookWhen, Side};
use tokio::sync::watch;

use super::App;
use super::candidates::RolloutEvents;
use super::tree::revision;
use crate::container::{Container, Owner, Phase, Place, exit_text};
use crate::containers::OfApp;

/// By worker, whether it runs after the replacing, and attempt.
type Key = (Name, bool, u32);

#[derive(Default)]
pub(super) struct Hooks {
    inner: Mutex<BTreeMap<Key, Hook>>,
}

#[derive(Clone)]
struct Hook {
    container: Option<Arc<Container>>,
    watched: bool,
    stop: watch::Sender<bool>,
}

impl Hooks {
    fn inner(&self) -> MutexGuard<'_, BTreeMap<Key, Hook>> {
        self.inner.lock().expect("no panic holds this lock")
    }

    /// A returning daemon has found one.
    pub(super) fn found(&self, container: &Arc<Container>) {
        let Owner::App { workload, .. } = &container.owner else { return };
        let (place, run) = container.read(|record| (record.place, record.run));
        if let Place::Hook { after } = place {
            let hook = Hook { container: Some(container.clone()), watched: false, stop: watch::Sender::new(false) };
            self.inner().insert((workload.clone(), after, run), hook);
        }
    }

    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        self.inner().values().filter_map(|hook| hook.container.clone()).collect()
    }
}

impl App {
    /// Runs a hook by the definition of `side`, once for this attempt, and tells how it ended.
    pub(crate) fn run_hook(
        self: &Arc<Self>,
        worker: Name,
        when: HookWhen,
        attempt: u32,
        side: Side,
        told: &RolloutEvents,
    ) {
        let key = (worker.clone(), when == HookWhen::After, attempt);
        let found = {
            let mut inner = self.hooks.inner();
            let fresh = || Hook { container: None, watched: false, stop: watch::Sender::new(false) };
            let hook = inner.entry(key.clone()).or_insert_with(fresh);
            if std::mem::replace(&mut hook.watched, true) {
                return;
            }
            hook.clone()
        };
        let (app, told) = (self.clone(), told.clone());
        tokio::spawn(async move {
            let result = app.run_hook_once(&key, side, found).await;
            if let Some(hook) = app.hooks.inner().get_mut(&key) {
                hook.watched = false;
            }
            let _ = told.send(Told::HookEnded { worker, when, attempt, result });
        });
    }

    async fn run_hook_once(&self, key: &(Name, bool, u32), side: Side, found: Hook) -> Result<(), String> {
        let (worker, after, run) = key;
        let wanted = self.wanted();
        let container = match found.container {
            Some(container) => container,
            None => {
                let release = wanted.release_at(side);
                let of_app = OfApp {
                    range: wanted.uid_range.0,
                    revision: revision(release, worker),
                    home: None,
                    place: Place::Hook { after: *after },
                    run: *run,
                };
                let made = self.create_instance(release, worker.as_str(), worker, of_app).await;
                made.map_err(|error| error.to_string())?
            }
        };
        if let Some(hook) = self.hooks.inner().get_mut(key) {
            hook.container = Some(container.clone());
        }
        if matches!(container.phase(), Phase::Created) {
            let started = self.start_container(&container, wanted.release_at(side), worker).await;
            started.map_err(|error| error.to_string())?;
        }
        let mut stopped = found.stop.subscribe();
        tokio::select! {
            _ = container.ended() => {}
            _ = async { stopped.wait_for(|stop| *stop).await.map(drop) } => {
                self.containers.stop(&container, None, None).await.map_err(|error| error.to_string())?;
            }
        }
        match container.phase() {
            Phase::Exited { exit, lost, .. } if exit.code == 0 && exit.signal.is_none() && !lost => Ok(()),
            Phase::Exited { exit, lost, .. } => Err(exit_text(&exit, lost)),
            _ => Err("it was removed before it ended".to_owned()),
        }
    }

    pub(crate) fn stop_hook(&self, worker: Name, when: HookWhen, attempt: u32) {
        if let Some(hook) = self.hooks.inner().get(&(worker, when == HookWhen::After, attempt)) {
            hook.stop.send_replace(true);
        }
    }

    /// Takes away the containers of hooks that have ended; a rollout that begins has hooks of its own.
    pub(crate) async fn clear_hooks(&self) {
        let hooks: Vec<Hook> = std::mem::take(&mut *self.hooks.inner()).into_values().collect();
        for container in hooks.into_iter().filter_map(|hook| hook.container) {
            if let Err(error) = self.containers.remove(&container, true, true).await {
                tracing::warn!(container = %container.name(), %error, "cannot remove it");
            }
        }
    }
}
