//! The part that makes what runs here follow the log: one [`App`] for each app of the state.
//!
//! It takes no hints: whatever changed, it compares the whole state with the apps it has. An app that is leaving keeps
//! its name until nothing is left of it; one that is wanted anew meanwhile is opened then. A removal that a daemon
//! before this one did not finish is finished first, from what it left: containers of, and directories for, apps that
//! the state no longer knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use coppice_base::Name;
use coppice_state::State;
use tokio::sync::watch;

use crate::app::App;
use crate::container::Container;
use crate::containers::Containers;
use crate::removal;
use crate::rollout::Rollouts;

/// The apps of this node.
pub(crate) struct Agent {
    containers: Arc<Containers>,
    apps: Mutex<Apps>,
    /// What the log says; read anew by each reconciliation, so that none works from what another has overtaken.
    states: watch::Receiver<Arc<State>>,
    rollouts: Arc<Rollouts>,
    /// Counts reconciliations and retirements, so that a caller can wait for one.
    turns: watch::Sender<u64>,
}

#[derive(Default)]
struct Apps {
    here: BTreeMap<Name, Arc<App>>,
    /// Apps of which an earlier daemon left something that is being cleared.
    remains: BTreeSet<Name>,
}

impl Agent {
    pub(crate) fn new(
        containers: Arc<Containers>,
        states: watch::Receiver<Arc<State>>,
        rollouts: Arc<Rollouts>,
    ) -> Arc<Self> {
        Arc::new(Self { containers, apps: Mutex::default(), states, rollouts, turns: watch::Sender::new(0) })
    }

    /// Follows the state until the log is closed.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut states = self.states.clone();
        while states.changed().await.is_ok() {
            self.reconcile();
        }
    }

    fn apps(&self) -> std::sync::MutexGuard<'_, Apps> {
        self.apps.lock().expect("no panic holds this lock")
    }

    /// Once, before the first [`reconcile`](Self::reconcile): begins to clear what is left of apps that are removed.
    pub(crate) fn clear_remains(self: &Arc<Self>) {
        let state = self.states.borrow().clone();
        let mut remains: BTreeMap<Name, Vec<Arc<Container>>> = BTreeMap::new();
        let dirs = std::fs::read_dir(self.containers.root.apps()).into_iter().flatten().flatten();
        for name in dirs.filter_map(|dir| Name::new(dir.file_name().to_str()?).ok()) {
            remains.insert(name, Vec::new());
        }
        for container in self.containers.table.all() {
            if let Some(app) = container.owner.app() {
                remains.entry(app.clone()).or_default().push(container.clone());
            }
        }
        remains.retain(|name, _| state.app(name.as_str()).is_none());
        for (name, containers) in remains {
            tracing::info!(app = %name, containers = containers.len(), "finishing its removal");
            self.apps().remains.insert(name.clone());
            let agent = self.clone();
            tokio::spawn(async move {
                removal::clear(&agent.containers, &name, containers).await;
                agent.apps().remains.remove(&name);
                agent.reconcile();
            });
        }
    }

    pub(crate) fn reconcile(self: &Arc<Self>) {
        let mut apps = self.apps();
        let state = self.states.borrow().clone();
        let digests = state.apps().flat_map(|(_, app)| app.releases.iter()).flat_map(|release| release.images.values());
        *self.containers.release_images.lock().expect("no panic holds this lock") =
            digests.map(|digest| digest.as_str().to_owned()).collect();
        self.containers.traffic.want(state.apps().map(|(_, app)| app.spec()));
        for (name, wanted) in state.apps() {
            let wanted = wanted.clone();
            match apps.here.get(name.as_str()) {
                // It is opened anew when it is gone.
                Some(app) if app.is_retiring() => {}
                None if apps.remains.contains(name) => {}
                Some(app) => app.update(wanted),
                None => match App::open(self.containers.clone(), name.clone(), wanted) {
                    Ok(app) => {
                        apps.here.insert(name.clone(), app);
                    }
                    Err(error) => tracing::error!(app = %name, %error, "cannot run this app"),
                },
            }
        }
        for app in apps.here.values().filter(|app| !app.is_retiring()) {
            self.rollouts.follow(app);
        }
        // Whose ports are claimed, and whose instances are known.
        self.containers.traffic.peers().settle();
        self.containers.refresh_peers();
        self.containers.serve_names();
        self.containers.policies.follow(state.clone());
        if let Err(error) = self.containers.enforce() {
            tracing::error!(%error, "the policy is as it was before");
        }
        let gone = apps.here.values().filter(|app| state.app(app.name.as_str()).is_none() && app.begin_retiring());
        let gone: Vec<Arc<App>> = gone.cloned().collect();
        drop(apps);
        for app in gone {
            let agent = self.clone();
            tokio::spawn(async move {
                app.retire().await;
                agent.apps().here.remove(app.name.as_str());
                agent.reconcile();
            });
        }
        self.turns.send_modify(|turn| *turn += 1);
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<App>> {
        self.apps().here.get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<App>> {
        self.apps().here.values().cloned().collect()
    }

    /// Resolves when nothing of this name is on its way out any more: what is there then is wanted.
    pub(crate) async fn when_settled(&self, name: &str) {
        let mut turns = self.turns.subscribe();
        loop {
            turns.borrow_and_update();
            let leaving = {
                let apps = self.apps();
                apps.remains.contains(name) || apps.here.get(name).is_some_and(|app| app.is_retiring())
            };
            if !leaving || turns.changed().await.is_err() {
                return;
            }
        }
    }
}
