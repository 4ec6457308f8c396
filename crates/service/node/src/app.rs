//! One app on this node: its supervision tree, its instances, and the names and ports that lead to them.
//!
//! What is wanted comes from the log as an [`AppState`]; the supervisor decides; here it is done. Every instance is a
//! container that is kept across restarts (with its writable layer and its log) and replaced when its definition
//! changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, OnceLock};

use coppice_base::{Name, Timestamp};
use coppice_spec::{AppSpec, MountSource, PortSpec, PullPolicy, RestartPolicy, RunSpec, ServiceSpec, WorkloadSpec};
use coppice_supervise::{Action, Adopted, ChildSpec, Event, MemberSpec, Need, Overall, SupervisorSpec};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::container::{Container, Home, Owner, Phase};
use crate::containers::{Containers, OfApp};
use crate::error::NodeError;
use crate::events::About;
use crate::images;
use crate::instance::{self, Readiness};
use crate::network::Names;
use crate::removal::{self, mark_volumes};
use crate::root::{make, replace_file};
use crate::supervisor::{self, Supervisor};
use crate::traffic::{Here, Present};

/// What the log says about an app.
pub(crate) type AppState = coppice_state::App;

/// An app that this node runs.
pub(crate) struct App {
    pub(crate) name: Name,
    containers: Arc<Containers>,
    wanted: Mutex<Arc<AppState>>,
    slots: Mutex<BTreeMap<String, Slot>>,
    supervisor: OnceLock<Supervisor>,
    /// Published ports by service, with host ports chosen.
    ports: Mutex<BTreeMap<Name, Vec<PortSpec>>>,
    /// What the hosts files of the app say now; one change at a time.
    names: tokio::sync::Mutex<Names>,
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

/// One instance's part of a status.
pub(crate) struct InstanceView {
    pub(crate) container: Option<Arc<Container>>,
    pub(crate) pulling: bool,
}

/// `web-1`, `web-2` … for a service, its own name for a worker.
pub(crate) fn instances_of(app: &AppState, workload: &Name) -> Vec<String> {
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
            supervisor: OnceLock::new(),
            ports: Mutex::new(ports),
            names: tokio::sync::Mutex::default(),
            retiring: std::sync::atomic::AtomicBool::new(false),
        });
        for container in app.containers.table.all() {
            if let Owner::App { app: owner, instance, .. } = &container.owner
                && *owner == name
            {
                app.slots().entry(instance.clone()).or_default().container = Some(container.clone());
            }
        }
        let snapshot = supervisor::snapshot(&dir);
        let tree = app.tree(&wanted);
        let (machine, restored) =
            supervisor::machine(&snapshot, tree.clone()).map_err(|error| NodeError::Invalid(error.to_string()))?;
        let known: Vec<String> = machine.keys().cloned().collect();
        let remembered: BTreeMap<String, _> =
            known.iter().filter_map(|key| Some((key.clone(), machine.status_of(key)?))).collect();
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
            app.adopt(supervisor, &known, &remembered);
            supervisor.tell(Event::Reconfigure(tree));
        }
        app.apply_stops(&wanted, true);
        // Whatever it has: who waits for the first word of all apps waits for this one's, too.
        let telling = app.clone();
        tokio::spawn(async move { telling.refresh_network().await });
        Ok(app)
    }

    /// Tells a supervisor that remembers these children what has become of them. First of those that run, so that
    /// nothing starts for want of them; then of those that ran or were about to, in start order. A child that was
    /// down is not spoken of: what starts it may be an earlier one's adoption, and it must not be taken for lost then.
    fn adopt(
        self: &Arc<Self>,
        supervisor: &Supervisor,
        known: &[String],
        remembered: &BTreeMap<String, coppice_supervise::ChildStatus<String>>,
    ) {
        use coppice_supervise::ChildState;
        let phase = |key: &String| self.slots().get(key)?.container.as_ref().map(|container| container.phase());
        let (running, down): (Vec<&String>, Vec<&String>) =
            known.iter().partition(|key| phase(key).is_some_and(|phase| phase.is_running()));
        let was_ready = |key: &String| matches!(remembered[key].state, ChildState::Running { ready: true, .. });
        for key in &running {
            // All before any is watched, so that no route leaves one out meanwhile.
            self.slots().entry((*key).clone()).or_default().ready = was_ready(key);
        }
        for key in running {
            let ready = was_ready(key);
            supervisor.tell(Event::Adopt(key.clone(), Adopted::Running { ready }));
            // Only now: what it tells of this run is to be heard after the adoption.
            self.spawn_watch(key.clone(), ready);
        }
        for key in down {
            let status = &remembered[key];
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

    pub(crate) fn wanted(&self) -> Arc<AppState> {
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
    pub(crate) fn update(self: &Arc<Self>, wanted: Arc<AppState>) {
        let before = std::mem::replace(&mut *self.wanted.lock().expect("no panic holds this lock"), wanted.clone());
        if Arc::ptr_eq(&before, &wanted) || *before == *wanted {
            return;
        }
        if let Err(error) = mark_volumes(&self.containers.root, self.name.as_str(), false) {
            tracing::warn!(app = %self.name, %error, "a mark of a removal that did not come to be stays");
        }
        let tree = self.tree(&wanted);
        if self.tree(&before) != tree {
            self.claim_ports(&wanted);
            self.supervisor().tell(Event::Reconfigure(tree));
        }
        self.apply_stops(&wanted, before.current().id != wanted.current().id || before.stopped != wanted.stopped);
        let app = self.clone();
        tokio::spawn(async move {
            app.refresh_network().await;
            app.sweep().await;
        });
    }

    /// `start`: what is wanted up is told so (again), which also retries what failed for good.
    fn apply_stops(&self, wanted: &AppState, start: bool) {
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
    pub(crate) async fn halt(&self) {
        let supervisor = self.supervisor();
        let keys: Vec<String> = supervisor.read(|machine| machine.keys().cloned().collect());
        supervisor.tell(Event::StopChildren(keys));
        supervisor.caught_up().await;
        supervisor.when(|status| matches!(status.overall, Overall::Stopped | Overall::Ready | Overall::Failed)).await;
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
        let supervisor = self.supervisor();
        supervisor.tell(Event::Stop);
        supervisor.caught_up().await;
        supervisor.when(|status| status.overall == Overall::Stopped && status.leaving.is_empty()).await;
        let containers = self.slots().values().filter_map(|slot| slot.container.clone()).collect();
        for service in self.wanted().spec().services.keys() {
            self.containers.network.release_ports(&self.port_owner(service));
        }
        self.containers.absent(&self.name);
        removal::clear(&self.containers, &self.name, containers).await;
    }

    /// Removes the containers of instances that the app no longer has.
    async fn sweep(&self) {
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
                tracing::warn!(container = %container.name, %error, "cannot remove it");
                continue;
            }
            let mut slots = self.slots();
            if slots.get(&key).and_then(|slot| slot.container.as_ref()).is_some_and(|c| Arc::ptr_eq(c, &container)) {
                slots.remove(&key);
            }
        }
    }

    // ── the tree ────────────────────────────────────────────────────────────────────────────────────────────

    fn tree(&self, wanted: &AppState) -> SupervisorSpec<String> {
        let spec = wanted.spec();
        let order = spec.start_order();
        let place = |name: &Name| order.iter().position(|n| n == name).unwrap_or_default() as u32;
        let mut members: Vec<MemberSpec<String>> = Vec::new();
        for (name, group) in &spec.groups {
            let children = group.members.iter().enumerate();
            let children = children.flat_map(|(at, member)| self.children(wanted, member, at as u32));
            members.push(MemberSpec::Supervisor(SupervisorSpec {
                name: name.to_string(),
                order: group.members.iter().map(place).min().unwrap_or_default(),
                supervise: group.supervise,
                members: children.map(MemberSpec::Child).collect(),
            }));
        }
        for (name, _) in spec.workloads().filter(|(name, _)| spec.group_of(name.as_str()).is_none()) {
            members.extend(self.children(wanted, name, place(name)).into_iter().map(MemberSpec::Child));
        }
        // A group may have any name but the root's.
        SupervisorSpec { name: format!("app {}", self.name), order: 0, supervise: spec.supervise, members }
    }

    fn children(&self, wanted: &AppState, name: &Name, order: u32) -> Vec<ChildSpec<String>> {
        let spec = wanted.spec();
        let Some(workload) = spec.workload(name.as_str()) else { return Vec::new() };
        let service = spec.services.get(name);
        let (restart, one_shot) = match (service, spec.workers.get(name)) {
            (Some(service), _) => (service.restart, false),
            (None, Some(worker)) => (worker.restart, true),
            (None, None) => (RestartPolicy::Never, true),
        };
        let needs = workload.depends_on.iter();
        let needs: Vec<Need<String>> =
            needs.map(|need| Need { keys: instances_of(wanted, &need.name), condition: need.condition }).collect();
        let children = instances_of(wanted, name).into_iter().map(|key| ChildSpec {
            key,
            order,
            restart,
            one_shot,
            has_health: service.is_some_and(|service| self.has_health(service)),
            needs: needs.clone(),
            revision: revision(wanted, name),
            generation: Some(wanted.generation(name.as_str())),
        });
        children.collect()
    }

    fn has_health(&self, service: &ServiceSpec) -> bool {
        if service.health.is_some() {
            return true;
        }
        let image = self.containers.images.resolve(&service.workload.image).ok().flatten();
        image.is_some_and(|image| crate::prepare::health(&run_spec(&service.workload), &image.config).is_some())
    }

    // ── doing what the supervisor says ──────────────────────────────────────────────────────────────────────

    fn execute(self: &Arc<Self>, supervisor: &Supervisor, action: Action<String>) {
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
                        tracing::warn!(container = %container.name, %error, "cannot stop it");
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
            Ok(container) => {
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

    fn spawn_watch(self: &Arc<Self>, key: String, ready: bool) {
        let Some(container) = self.view(&key).container else { return };
        let app = self.clone();
        tokio::spawn(async move {
            let supervisor = app.supervisor().clone();
            app.watch(supervisor, key, container, ready).await;
            app.sweep().await;
        });
    }

    async fn watch(self: &Arc<Self>, supervisor: Supervisor, key: String, container: Arc<Container>, ready: bool) {
        let readiness = SlotReadiness { app: self, key: &key };
        instance::watch_over(&self.containers, &container, &supervisor, &key, ready, &readiness).await;
    }

    fn is_pulling(&self, key: &str) -> bool {
        self.slots().get(key).is_some_and(|slot| slot.pulling)
    }

    fn set_pulling(&self, key: &str, pulling: bool) {
        if let Some(slot) = self.slots().get_mut(key) {
            slot.pulling = pulling;
        }
    }

    async fn start_instance(&self, key: &str, stopped: &watch::Receiver<bool>) -> Result<Arc<Container>, NodeError> {
        let wanted = self.wanted();
        let spec = wanted.spec();
        let workload =
            workload_of(spec, key).ok_or_else(|| NodeError::Invalid(format!("{key} is no longer in the app")))?;
        let revision = revision(&wanted, &workload);
        let there = self.view(key).container.filter(|c| !matches!(c.phase(), Phase::Removed { .. }));
        let container = match there {
            Some(container) if container.read(|record| record.revision == revision) => container,
            Some(old) => {
                let mut home = None;
                old.change(|record| home = record.home.take());
                if let Err(error) = self.containers.remove(&old, true, true).await {
                    old.change(|record| record.home = home);
                    return Err(error);
                }
                self.create_instance(&wanted, key, &workload, revision, home).await?
            }
            None => self.create_instance(&wanted, key, &workload, revision, None).await?,
        };
        self.slots().entry(key.to_owned()).or_default().container = Some(container.clone());
        if *stopped.borrow() {
            return Err(NodeError::Invalid("stopped before it started".to_owned()));
        }
        let names = self.names.lock().await.clone();
        self.containers.start(&container, None, None, &names).await?;
        // Without a health check it is ready as soon as it runs: its routes are there before that is said.
        if container.read(|record| record.spec.health.is_none())
            && let Some(slot) = self.slots().get_mut(key)
        {
            slot.ready = true;
        }
        self.refresh_network().await;
        // The names it started with may have been old by then.
        let names = self.names.lock().await;
        self.containers.refresh_hosts(&container, &names);
        Ok(container)
    }

    /// `home`: that of the container which this one takes the place of.
    async fn create_instance(
        &self,
        wanted: &AppState,
        key: &str,
        workload: &Name,
        revision: String,
        home: Option<Home>,
    ) -> Result<Arc<Container>, NodeError> {
        let created = self.create_at_home(wanted, key, workload, revision, home.clone()).await;
        if let (Err(_), Some(home)) = (&created, home) {
            self.containers.network.give_up(&home);
        }
        created
    }

    async fn create_at_home(
        &self,
        wanted: &AppState,
        key: &str,
        workload: &Name,
        revision: String,
        home: Option<Home>,
    ) -> Result<Arc<Container>, NodeError> {
        let spec = wanted.spec();
        let definition = spec.workload(workload.as_str()).ok_or_else(|| NodeError::NoApp(workload.to_string()))?;
        let pinned = wanted.current().images.get(workload);
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
        let of_app = OfApp { range: wanted.uid_range.0, revision, home };
        self.containers.create(run, owner, Some(format!("{}.{key}", self.name)), &image, Some(of_app))
    }

    // ── names and ports ─────────────────────────────────────────────────────────────────────────────────────

    fn port_owner(&self, service: &Name) -> String {
        format!("{}/{service}", self.name)
    }

    /// Claims the services' host ports; those chosen by the node are kept, so that they stay the same.
    fn claim_ports(&self, wanted: &AppState) {
        let spec = wanted.spec();
        let mut ports = self.ports.lock().expect("no panic holds this lock");
        let before = ports.clone();
        ports.retain(|service, _| {
            let keep = spec.services.get(service).is_some_and(|s| !s.ports.is_empty());
            if !keep {
                self.containers.network.release_ports(&self.port_owner(service));
            }
            keep
        });
        for (name, service) in spec.services.iter().filter(|(_, service)| !service.ports.is_empty()) {
            let asked = with_known_ports(&service.ports, ports.get(name));
            match self.containers.network.claim_ports(&self.port_owner(name), &asked) {
                Ok(chosen) => {
                    ports.insert(name.clone(), chosen);
                }
                Err(error) => {
                    ports.remove(name);
                    self.tell("fail", &format!("service {name} is not published: {error}"));
                }
            }
        }
        if *ports != before {
            let path = self.containers.root.app(self.name.as_str()).join("ports.json");
            let kept = serde_json::to_vec(&*ports).map_err(std::io::Error::other);
            if let Err(error) = kept.and_then(|bytes| replace_file(&path, &bytes)) {
                tracing::warn!(app = %self.name, %error, "cannot keep the chosen ports");
            }
        }
    }

    /// The first TCP port that the image of each service exposes, where the service publishes none and has routes.
    fn image_ports(&self, wanted: &AppState) -> BTreeMap<Name, u16> {
        let routed = wanted.spec().services.iter().filter(|(_, service)| service.ports.is_empty());
        let port = routed.filter_map(|(name, service)| {
            let image = self.containers.images.resolve(&service.workload.image).ok().flatten()?;
            let ports = image.config.exposed_ports.iter().filter(|port| !port.ends_with("/udp"));
            let first = ports.filter_map(|port| port.trim_end_matches("/tcp").parse().ok()).min()?;
            Some((name.clone(), first))
        });
        if wanted.spec().services.values().all(|service| service.routes.is_empty()) {
            return BTreeMap::new();
        }
        port.collect()
    }

    /// Resolves when the proxy has nothing under way at an instance that is to be stopped, or after its stop timeout.
    async fn drained(&self, instance: &str) {
        let wanted = self.wanted();
        let Some(workload) = workload_of(wanted.spec(), instance) else { return };
        let Some(service) = wanted.spec().services.get(&workload) else { return };
        let patience = service.workload.stop_timeout.0;
        self.containers.traffic.drained(&self.name, &workload, instance, patience).await;
    }

    /// Points names and published ports at the instances that are ready (or, where none is, those that run).
    pub(crate) async fn refresh_network(&self) {
        let mut current = self.names.lock().await;
        let wanted = self.wanted();
        let mut names = Names::new();
        let mut running = Vec::new();
        let mut instances: BTreeMap<Name, Vec<Here>> = BTreeMap::new();
        let mut ready_of: BTreeMap<Name, Vec<Ipv4Addr>> = BTreeMap::new();
        for (name, _) in wanted.spec().workloads() {
            let (mut ready, mut up) = (Vec::new(), Vec::new());
            for (index, instance) in (0..).zip(instances_of(&wanted, name)) {
                let slots = self.slots();
                let Some(slot) = slots.get(&instance) else { continue };
                let Some(container) = slot.container.clone().filter(|c| c.phase().is_running()) else { continue };
                let Some(address) = container.read(|record| record.address) else { continue };
                up.push(address);
                if slot.ready {
                    ready.push(address);
                }
                let leaving = slot.stop.as_ref().is_some_and(|stop| *stop.borrow());
                let here = Here { key: instance.clone(), index, address, ready: slot.ready, leaving };
                instances.entry(name.clone()).or_default().push(here);
                if instance != name.as_str() {
                    names.insert(instance, vec![address]);
                }
                running.push(container);
            }
            let answers = if ready.is_empty() { up } else { ready.clone() };
            if !answers.is_empty() {
                names.insert(name.to_string(), answers);
            }
            ready_of.insert(name.clone(), ready);
        }
        for name in wanted.spec().services.keys().filter(|name| !self.ports(name).is_empty()) {
            let ready = ready_of.get(name).map_or(&[][..], Vec::as_slice);
            if let Err(error) = self.containers.network.route(&self.port_owner(name), ready) {
                tracing::warn!(app = %self.name, service = %name, %error, "cannot publish its ports");
            }
        }
        let addresses = self.containers.virtual_addresses(&wanted);
        for (name, addresses) in &addresses {
            let of_hosts = addresses.iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            names.insert(name.to_string(), of_hosts.collect());
        }
        let image_ports = self.image_ports(&wanted);
        self.containers.present(&self.name, Present { wanted: wanted.clone(), instances, image_ports, addresses });
        if *current != names {
            for container in running {
                self.containers.refresh_hosts(&container, &names);
            }
            *current = names;
        }
    }
}

/// Keeps an instance's place and the app's routes up to date.
struct SlotReadiness<'a> {
    app: &'a App,
    key: &'a str,
}

impl Readiness for SlotReadiness<'_> {
    async fn changed(&self, ready: bool) {
        if let Some(slot) = self.app.slots().get_mut(self.key) {
            slot.ready = ready && !slot.stop.as_ref().is_some_and(|stop| *stop.borrow());
        }
        self.app.refresh_network().await;
    }
}

/// The asked ports, with a host port of 0 filled in from what was chosen before.
fn with_known_ports(asked: &[PortSpec], known: Option<&Vec<PortSpec>>) -> Vec<PortSpec> {
    let fill = |port: &PortSpec| {
        let same = |old: &&PortSpec| {
            (old.host_ip, old.container, old.protocol) == (port.host_ip, port.container, port.protocol)
        };
        let before = known.into_iter().flatten().find(same).map(|old| old.host);
        PortSpec { host: if port.host == 0 { before.unwrap_or(0) } else { port.host }, ..*port }
    };
    asked.iter().map(fill).collect()
}

/// What an instance is made from, as one fingerprint: its definition, its health check and its image.
fn revision(wanted: &AppState, workload: &Name) -> String {
    let spec = wanted.spec();
    let definition = spec.workload(workload.as_str());
    // Dependencies, and what the network does outside the container, change nothing inside it.
    let inside = definition.map(|definition| WorkloadSpec { depends_on: Vec::new(), ..definition.clone() });
    let volumes: Vec<_> = (inside.iter().flat_map(|w| &w.volumes))
        .filter_map(|mount| match &mount.source {
            MountSource::Volume(name) => spec.volumes.get(name).and_then(|volume| volume.host_path.as_ref()),
            _ => None,
        })
        .collect();
    let health = spec.services.get(workload).and_then(|service| service.health.as_ref());
    let image = wanted.current().images.get(workload);
    let parts = serde_json::to_vec(&(inside, volumes, health, image)).expect("specs are plain data");
    let hash: String = Sha256::digest(&parts).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    hash
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
