//! Doing what the supervisor says: starting and stopping instances, and watching over them.

use std::sync::Arc;

use coppice_base::Name;
use coppice_spec::{AppSpec, MountSource, PullPolicy, RestartPolicy, RunSpec, WorkloadSpec};
use coppice_state::Release;
use coppice_supervise::{Action, Event};
use tokio::sync::watch;

use super::tree::revision;
use super::{App, secrets, workload_of};
use crate::container::{Container, Owner, Phase, Place, SecretVersions};
use crate::containers::OfApp;
use crate::error::NodeError;
use crate::events::About;
use crate::images;
use crate::instance::{self, Hearer};
use crate::supervisor::Supervisor;

impl App {
    pub(super) fn execute(self: &Arc<Self>, supervisor: &Supervisor, action: Action<String>) {
        match action {
            Action::Start { key, attempt, cause } => {
                if attempt > 0 {
                    self.tell("restart", &format!("{key}, attempt {attempt}: {cause}"));
                }
                let (stop, stopped) = watch::channel(false);
                self.slots().entry(key.clone()).or_default().stop = Some(stop);
                let app = self.clone();
                let supervisor = supervisor.clone();
                tokio::spawn(async move { app.run_instance(supervisor, key, stopped).await });
            }
            Action::Stop { key, cause } => {
                let container = {
                    let mut slots = self.slots();
                    let slot = slots.entry(key.clone()).or_default();
                    slot.stop.get_or_insert_with(|| watch::Sender::new(true)).send_replace(true);
                    slot.ready = false;
                    slot.container.clone()
                };
                tracing::debug!(app = %self.name, %key, %cause, "stopping");
                let app = self.clone();
                tokio::spawn(async move {
                    // New connections go elsewhere while it finishes those it has.
                    app.refresh_network().await;
                    app.drained(&key).await;
                    if let Some(container) = container
                        && let Err(error) = app.containers.stop(&container, None, None).await
                    {
                        tracing::warn!(container = %container.name(), %error, "cannot stop it");
                    }
                });
            }
            Action::Escalate(escalation) => self.tell("fail", &escalation.to_string()),
            Action::Note { key, note } => tracing::debug!(app = %self.name, %key, "{}", note.what),
        }
    }

    pub(crate) fn tell(&self, action: &str, message: &str) {
        let about = About { name: None, app: Some(self.name.as_str()), message: message.to_owned() };
        self.containers.events.emit("app", action, self.name.as_str(), about);
    }

    async fn run_instance(self: Arc<Self>, supervisor: Supervisor, key: String, mut stopped: watch::Receiver<bool>) {
        let started = tokio::select! {
            started = self.start_instance(&key, &stopped) => started,
            _ = async { stopped.clone().wait_for(|stop| *stop).await.map(drop) }, if self.is_pulling(&key) => {
                Err(NodeError::Invalid("stopped while its image was fetched".to_owned()))
            }
        };
        self.set_pulling(&key, false);
        match started {
            // What was put into its slot meanwhile is watched by who put it there.
            Ok(None) => {}
            Ok(Some(container)) => {
                supervisor.tell(Event::Started(key.clone()));
                if *stopped.borrow_and_update() {
                    // The stop came before there was a container to stop.
                    let (containers, container) = (self.containers.clone(), container.clone());
                    tokio::spawn(async move { containers.stop(&container, None, None).await });
                }
                self.watch(supervisor, key, container, false).await;
            }
            Err(error) => supervisor.tell(Event::StartFailed(key, error.to_string())),
        }
        self.sweep().await;
    }

    pub(super) fn spawn_watch(self: &Arc<Self>, key: String, ready: bool) {
        let Some(container) = self.view(&key).container else { return };
        let app = self.clone();
        tokio::spawn(async move {
            let supervisor = app.supervisor().clone();
            app.watch(supervisor, key, container, ready).await;
            app.sweep().await;
        });
    }

    async fn watch(self: &Arc<Self>, supervisor: Supervisor, key: String, container: Arc<Container>, ready: bool) {
        let hearer = SlotHearer { app: self, supervisor: &supervisor, container: &container, key: &key };
        instance::watch_over(&self.containers, &container, &key, ready, &hearer).await;
    }

    fn is_pulling(&self, key: &str) -> bool {
        self.slots().get(key).is_some_and(|slot| slot.pulling)
    }

    fn set_pulling(&self, key: &str, pulling: bool) {
        if let Some(slot) = self.slots().get_mut(key) {
            slot.pulling = pulling;
        }
    }

    /// `None`: one that had proved itself was put into the slot meanwhile.
    async fn start_instance(
        &self,
        key: &str,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Option<Arc<Container>>, NodeError> {
        // First: what is promoted after this is in what is wanted then, or overtakes what is made here.
        let found = self.view(key).container;
        let wanted = self.wanted();
        let spec = wanted.spec();
        let workload =
            workload_of(spec, key).ok_or_else(|| NodeError::Invalid(format!("{key} is no longer in the app")))?;
        let release = self.slot_release(&wanted, &workload, key);
        let revision = revision(release, &workload);
        let range = wanted.uid_range.0;
        let there = found.clone().filter(|c| !matches!(c.phase(), Phase::Removed { .. }));
        let container = match there {
            // Only a promotion brings one that runs into a slot whose start was decided.
            Some(container) if container.phase().is_running() && container.read(|record| record.run > 0) => {
                return Ok(None);
            }
            Some(container) if container.read(|record| record.revision == revision) => container,
            Some(old) => {
                let mut home = None;
                old.change(|record| home = record.home.take());
                if let Err(error) = self.containers.remove(&old, true, true).await {
                    old.change(|record| record.home = home);
                    return Err(error);
                }
                self.create_instance(release, key, &workload, OfApp { revision, home, range, ..OfApp::default() })
                    .await?
            }
            None => {
                self.create_instance(release, key, &workload, OfApp { revision, range, ..OfApp::default() }).await?
            }
        };
        let (overtaken, promoted) = {
            let mut slots = self.slots();
            let slot = slots.entry(key.to_owned()).or_default();
            let same = slot.container.as_ref().map(|now| &now.id) == found.as_ref().map(|found| &found.id);
            if same {
                slot.container = Some(container.clone());
            }
            let promoted = |now: &Arc<Container>| now.read(|record| record.run > 0);
            (!same, !same && slot.container.as_ref().is_some_and(promoted))
        };
        if overtaken {
            self.containers.discard_unstarted(&container).await;
            return match promoted {
                true => Ok(None),
                false => Err(NodeError::Invalid("its slot was taken away".to_owned())),
            };
        }
        if *stopped.borrow() {
            return Err(NodeError::Invalid("stopped before it started".to_owned()));
        }
        self.start_container(&container, release, &workload).await?;
        // Without a health check it is ready as soon as it runs: its routes are there before that is said.
        if container.read(|record| record.spec.health.is_none())
            && let Some(slot) = self.slots().get_mut(key)
        {
            slot.ready = true;
        }
        self.refresh_network().await;
        Ok(Some(container))
    }

    /// Starts a container with the secrets that its release pins.
    pub(super) async fn start_container(
        &self,
        container: &Container,
        release: &Release,
        workload: &Name,
    ) -> Result<(), NodeError> {
        let pinned = secrets::pinned(release, workload);
        container.change(|record| record.secrets = SecretVersions::at_start(pinned));
        let names = self.names();
        self.containers.start(container, None, None, &names).await?;
        // Those it started with may be old by now.
        let mut written = names;
        loop {
            let now = self.names();
            if Arc::ptr_eq(&written, &now) {
                return Ok(());
            }
            self.containers.refresh_hosts(container, &now);
            written = now;
        }
    }

    /// `of_app.home`: that of the container which this one takes the place of.
    pub(super) async fn create_instance(
        &self,
        release: &Release,
        key: &str,
        workload: &Name,
        of_app: OfApp,
    ) -> Result<Arc<Container>, NodeError> {
        let home = of_app.home.clone();
        let created = self.create_at_home(release, key, workload, of_app).await;
        if let (Err(_), Some(home)) = (&created, home) {
            self.containers.network.give_up(&home);
        }
        created
    }

    async fn create_at_home(
        &self,
        release: &Release,
        key: &str,
        workload: &Name,
        of_app: OfApp,
    ) -> Result<Arc<Container>, NodeError> {
        let spec = &release.spec;
        let definition = spec.definition(workload.as_str()).ok_or_else(|| NodeError::NoApp(workload.to_string()))?;
        let pinned = release.images.get(workload);
        let image = match pinned.and_then(|digest| images::by_manifest(&self.containers.images, digest.as_str())) {
            Some(image) => image,
            None => {
                self.set_pulling(key, true);
                let policy = match definition.pull {
                    // The apply fetched it already; a restart need not ask the registry again.
                    PullPolicy::Always => PullPolicy::Missing,
                    other => other,
                };
                let image = images::get(&self.containers, &definition.image, policy).await?;
                self.set_pulling(key, false);
                image
            }
        };
        let mut run = instance_spec(spec, workload, definition);
        run.workload.hostname.get_or_insert_with(|| key.to_owned());
        let owner = Owner::App { app: self.name.clone(), workload: workload.clone(), instance: key.to_owned() };
        let name = self.container_name(key, of_app.place, of_app.run);
        self.containers.create(run, owner, Some(name), &image, Some(of_app))
    }

    /// `shop.web-1`; of those beside it, `shop.web-1.next-3` and `shop.web-1.was-2`.
    pub(super) fn container_name(&self, key: &str, place: Place, run: u32) -> String {
        let app = &self.name;
        match place {
            Place::Own | Place::Cron => format!("{app}.{key}"),
            Place::Candidate => format!("{app}.{key}.next-{run}"),
            Place::Leaving => format!("{app}.{key}.was-{run}"),
            // `shop.seed.run-2` for `seed-2`, which a service may have come to be called.
            Place::Run => format!("{app}.{}.run-{run}", key.strip_suffix(&format!("-{run}")).unwrap_or(key)),
            Place::Hook { after: false } => format!("{app}.{key}.before-{run}"),
            Place::Hook { after: true } => format!("{app}.{key}.after-{run}"),
        }
    }
}

/// Keeps an instance's place and the app's routes up to date, and its supervisor, for as long as the container is the
/// instance.
struct SlotHearer<'a> {
    app: &'a App,
    supervisor: &'a Supervisor,
    container: &'a Arc<Container>,
    key: &'a str,
}

impl SlotHearer<'_> {
    fn is_it(&self) -> bool {
        self.container.read(|record| record.place == Place::Own)
    }
}

impl Hearer for SlotHearer<'_> {
    async fn changed(&self, ready: bool) {
        if self.is_it()
            && let Some(slot) = self.app.slots().get_mut(self.key)
        {
            slot.ready = ready && !slot.stop.as_ref().is_some_and(|stop| *stop.borrow());
        }
        self.app.refresh_network().await;
    }

    fn tell(&self, event: Event<String>) {
        if self.is_it() {
            self.supervisor.tell(event);
        }
    }
}

/// A workload as a container: nothing but what it is.
pub(crate) fn run_spec(workload: &WorkloadSpec) -> RunSpec {
    RunSpec {
        name: None,
        workload: workload.clone(),
        ports: Vec::new(),
        // The app's supervisor restarts it.
        restart: RestartPolicy::Never,
        health: None,
        remove: false,
        tty: false,
        interactive: false,
    }
}

/// An instance as a container: volumes with a host path of their own become binds.
fn instance_spec(spec: &AppSpec, name: &Name, definition: &WorkloadSpec) -> RunSpec {
    let mut workload = definition.clone();
    for mount in &mut workload.volumes {
        if let MountSource::Volume(volume) = &mount.source
            && let Some(path) = spec.volumes.get(volume).and_then(|volume| volume.host_path.clone())
        {
            mount.source = MountSource::Host(path);
        }
    }
    let health = spec.services.get(name).and_then(|service| service.health.clone());
    RunSpec { health, ..run_spec(&workload) }
}
