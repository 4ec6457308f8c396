//! The part that makes what runs here follow the log: one [`App`] for each app of the state.
//!
//! It takes no hints: whatever changed, it compares the whole state with the apps it has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use coppice_base::Name;
use coppice_state::State;
use tokio::sync::watch;

use crate::app::App;
use crate::containers::Containers;

/// The apps of this node.
pub(crate) struct Agent {
    containers: Arc<Containers>,
    apps: Mutex<BTreeMap<Name, Arc<App>>>,
    /// Counts reconciliations and retirements, so that a caller can wait for one.
    turns: watch::Sender<u64>,
}

impl Agent {
    pub(crate) fn new(containers: Arc<Containers>) -> Arc<Self> {
        Arc::new(Self { containers, apps: Mutex::default(), turns: watch::Sender::new(0) })
    }

    /// Follows the state until the log is closed.
    pub(crate) async fn run(self: Arc<Self>, mut states: watch::Receiver<Arc<State>>) {
        loop {
            let state = states.borrow_and_update().clone();
            self.reconcile(&state);
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn apps(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Arc<App>>> {
        self.apps.lock().expect("no panic holds this lock")
    }

    pub(crate) fn reconcile(self: &Arc<Self>, state: &State) {
        let digests = state.apps().flat_map(|(_, app)| app.releases.iter()).flat_map(|release| release.images.values());
        *self.containers.release_images.lock().expect("no panic holds this lock") =
            digests.map(|digest| digest.as_str().to_owned()).collect();
        let mut apps = self.apps();
        for (name, wanted) in state.apps() {
            let wanted = wanted.clone();
            match apps.get(name.as_str()) {
                Some(app) => app.update(wanted),
                None => match App::open(self.containers.clone(), name.clone(), wanted) {
                    Ok(app) => {
                        apps.insert(name.clone(), app);
                    }
                    Err(error) => tracing::error!(app = %name, %error, "cannot run this app"),
                },
            }
        }
        let gone: Vec<Arc<App>> = apps.values().filter(|app| state.app(app.name.as_str()).is_none()).cloned().collect();
        drop(apps);
        for app in gone {
            let agent = self.clone();
            tokio::spawn(async move {
                if !app.begin_retiring() {
                    return;
                }
                app.retire().await;
                agent.apps().remove(app.name.as_str());
                agent.turns.send_modify(|turn| *turn += 1);
            });
        }
        self.turns.send_modify(|turn| *turn += 1);
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<App>> {
        self.apps().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<App>> {
        self.apps().values().cloned().collect()
    }

    /// Resolves when `done` holds of the app (`None`: it is not here).
    pub(crate) async fn when(&self, name: &str, mut done: impl FnMut(Option<&Arc<App>>) -> bool) {
        let mut turns = self.turns.subscribe();
        loop {
            turns.borrow_and_update();
            if done(self.get(name).as_ref()) {
                return;
            }
            if turns.changed().await.is_err() {
                return;
            }
        }
    }
}
