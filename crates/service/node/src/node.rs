//! The node as its API sees it: everything that can be asked of one machine.

mod backup;
mod certificates;
mod crons;
mod history;
mod image;
mod network;
mod plan;
mod policy;
mod previews;
mod recovery;
mod releases;
mod secrets;
mod volumes;
mod workers;

pub use backup::{BackupError, Prepared as PreparedBackup};
pub use releases::RollbackTo;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_api::{
    AppStatus, AppSummary, ContainerDetail, ContainerSummary, Created, ExecRequest, ExitReply, LogLine, LogQuery,
    Metrics, NodeStatus, Process, RunRequest, Stats, StopRequest,
};
use coppice_base::{Clock, Name, SystemClock, SystemRandom, Timestamp};
use coppice_container::TerminalSize;
use coppice_image::ImageStore;
use coppice_launcher::protocol::Event as LauncherEvent;
use coppice_log::Log;
use coppice_state::{Actor, Body, Command, CommandId, Effect, NodeId};
use tokio::sync::{mpsc, watch};

use crate::adhoc::AdHoc;
use crate::agent::Agent;
use crate::app::{App, instances_of};
use crate::attach::{self, Attached};
use crate::container::{Container, Owner, Phase, Place};
use crate::containers::{Containers, Pause};
use crate::error::NodeError;
use crate::events::{About, Events};
use crate::launcher::{Launcher, LauncherCommand, LauncherError};
use crate::network::{Names, NodeNetwork};
use crate::rollout::Rollouts;
use crate::root::{Root, RootError};
use crate::secrets::Secrets;
use crate::settings::{Settings, SettingsError};
use crate::signal::parse_signal;
use crate::{archive, host_network, images, logs, metrics, rekey, restore, stats, view, volume};

/// This node's id in its cluster of one.
pub(crate) const NODE: NodeId = NodeId(1);

/// How often the network's rules are looked at, should the notice of a change be lost.
const RULES_INTERVAL: Duration = Duration::from_secs(30);

/// Pause before a lost launcher is started again, so that one that cannot start does not spin.
const LAUNCHER_PAUSE: Duration = Duration::from_millis(500);

/// How long a launcher that was told to end may take.
const LAUNCHER_END: Duration = Duration::from_secs(10);

/// What stopping an instance may take beyond its timeouts.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// How to open a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub root: PathBuf,
    /// The binary that is the launcher, called as `<binary> launcher --root <root>`.
    pub binary: PathBuf,
}

/// Why a node does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "a node needs root, to make namespaces, mounts and networks: use sudo, or let root start it and give your group the socket (api.group in node.toml)"
    )]
    NotRoot,
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("another node daemon runs on {0}: `coppice node status` shows it")]
    Locked(PathBuf),
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Images(#[from] coppice_image::OpenError),
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    #[error(transparent)]
    Log(#[from] coppice_log::OpenError),
    #[error(transparent)]
    Adopt(#[from] NodeError),
    #[error(transparent)]
    Restore(#[from] coppice_backup::ReplaceError),
}

impl OpenError {
    /// What the operator wrote is wrong, rather than this machine.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Root(RootError::TooLong(_) | RootError::Relative(_)))
    }
}

/// One machine's node daemon.
pub struct Node {
    root: Root,
    clock: Arc<dyn Clock>,
    started_at: Timestamp,
    pub(crate) containers: Arc<Containers>,
    adhoc: Arc<AdHoc>,
    pub(crate) agent: Arc<Agent>,
    log: Log,
    rollouts: Arc<Rollouts>,
    /// Who makes a release of an app holds its lock.
    turns: Mutex<BTreeMap<Name, Arc<tokio::sync::Mutex<()>>>>,
    /// Who makes a backup holds it.
    backing_up: Arc<tokio::sync::Mutex<()>>,
    stop: watch::Sender<bool>,
    settings: Settings,
    _lock: std::fs::File,
}

impl Node {
    /// Opens the node: takes its lock, finds or starts its launcher, adopts what runs, and follows its log.
    pub async fn open(options: NodeOptions) -> Result<Arc<Self>, OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let root = Root::prepare(&options.root)?;
        let lock = lock(&root.node_lock())?;
        let settings = restore::finish(&root)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let events = Events::new(clock.clone());
        let store_settings = coppice_image::Settings {
            mirrors: settings.images.mirrors.clone(),
            certificate_dirs: vec!["/etc/docker/certs.d".into(), root.path().join("certs.d")],
            insecure: settings.images.insecure.iter().cloned().collect(),
            ..coppice_image::Settings::default()
        };
        let dir = root.images();
        let store = tokio::task::spawn_blocking(move || ImageStore::open(&dir, store_settings));
        let command = LauncherCommand {
            binary: options.binary,
            root: root.path().to_owned(),
            log: root.log().join("launcher.log"),
        };
        let (launcher_events, mut heard) = mpsc::unbounded_channel();
        let launcher = Launcher::connect_or_start(&root.launcher_socket(), &command, launcher_events.clone()).await?;
        let log = Log::open(&root.state(), NODE).await?;
        let images = store.await.expect("opening the store does not panic")?;
        let routes = root.run().join("routes.json");
        let network = NodeNetwork::new(&root.key(), &settings.network, routes, clock.clone());
        let containers = Arc::new(Containers::new(
            root.clone(),
            settings.clone(),
            clock.clone(),
            events,
            images,
            network,
            launcher.clone(),
            Secrets::new(&root, &settings.secrets, log.watch()),
        )?);
        rekey::settle(&containers.secrets, &containers.events, &root.key());
        containers.take_up_sockets(&log.read()).await;
        containers.adopt().await?;
        let adhoc = AdHoc::new(containers.clone());
        adhoc.resume();
        let rollouts = Rollouts::new(log.clone(), NODE);
        let agent = Agent::new(containers.clone(), log.watch(), rollouts.clone());
        agent.clear_remains();
        agent.reconcile();
        containers.network.drop_unclaimed();
        tokio::spawn(agent.clone().run());
        let exits = containers.clone();
        tokio::spawn(async move {
            while let Some(event) = heard.recv().await {
                if let LauncherEvent::Exited { id, exit } = event {
                    let containers = exits.clone();
                    tokio::spawn(async move { containers.on_exit(&id, exit, false).await });
                }
            }
        });
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(keep_launcher(containers.clone(), launcher, command, launcher_events, stopping.clone()));
        tokio::spawn(keep_rules(containers.clone(), stopping.clone()));
        let started_at = clock.now();
        containers.events.emit("node", "start", &root.key(), About::default());
        let node = Arc::new(Self {
            root,
            clock,
            started_at,
            containers,
            adhoc,
            agent,
            log,
            rollouts,
            turns: Mutex::default(),
            backing_up: Arc::default(),
            stop,
            settings,
            _lock: lock,
        });
        tokio::spawn(previews::end_in_time(Arc::downgrade(&node), stopping));
        tokio::spawn(releases::keep_promises(Arc::downgrade(&node), node.rollouts.clone()));
        Ok(node)
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn events(&self) -> &Events {
        &self.containers.events
    }

    pub fn images(&self) -> &ImageStore {
        &self.containers.images
    }

    /// Resolves when the node is to end.
    pub async fn stopped(&self) {
        // An error means the node is gone.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Ends the daemon; with `everything`, apps and containers are stopped first and the launcher ends too. The log
    /// keeps what is wanted: the next daemon brings the apps back.
    pub async fn stop(&self, everything: bool) -> Result<(), NodeError> {
        if everything {
            let stopping = self.agent.all().into_iter().map(|app| async move { app.halt().await });
            futures_util::future::join_all(stopping).await;
            let containers = self.containers.table.all();
            let stopping = containers.iter().filter(|container| container.phase().is_running()).map(|container| {
                self.adhoc.rest(container);
                self.containers.stop(container, None, None)
            });
            for stopped in futures_util::future::join_all(stopping).await {
                stopped?;
            }
            self.stop.send_replace(true);
            match self.containers.launcher().shutdown(true).await {
                // It may be gone before its answer is.
                Ok(()) | Err(LauncherError::Lost) => {}
                Err(error) => return Err(error.into()),
            }
            // The kernel lets nothing go of what the launcher still holds.
            let launcher = self.containers.launcher();
            let _ = tokio::time::timeout(LAUNCHER_END, launcher.lost()).await;
            self.containers.traffic.peers().remove();
            self.containers.network.remove();
            self.containers.remove_cgroups();
        }
        self.stop.send_replace(true);
        self.log.shutdown().await;
        Ok(())
    }

    pub fn status(&self) -> NodeStatus {
        let launcher = self.containers.launcher();
        let all = self.containers.table.all();
        let images = self.containers.images.list();
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            launcher_pid: launcher.identity.pid,
            launcher_version: launcher.identity.version.clone(),
            started_at: self.started_at,
            uptime_ms: u64::try_from(self.clock.now().since(self.started_at).as_millis()).unwrap_or(u64::MAX),
            launcher_started_at: launcher.identity.since,
            root: self.root.path().display().to_string(),
            socket: self.root.socket().display().to_string(),
            cgroup: self.containers.cgroup_kind(),
            bridge: self.containers.network.bridge_name(),
            subnet: self.containers.network.subnet(),
            proxy: self.containers.traffic.addresses().iter().map(ToString::to_string).collect(),
            apps: u32::try_from(self.agent.all().len()).unwrap_or(u32::MAX),
            containers_running: u32::try_from(all.iter().filter(|c| c.phase().is_running()).count())
                .unwrap_or(u32::MAX),
            containers_total: u32::try_from(all.len()).unwrap_or(u32::MAX),
            images: u32::try_from(images.len()).unwrap_or(u32::MAX),
            images_bytes: images.iter().map(|image| image.size.0).sum(),
            words: (launcher.identity.word.iter().cloned())
                .chain(self.containers.network.words())
                .chain(self.containers.traffic.peers().words())
                .chain(host_network::words(&self.log.read()))
                .collect(),
        }
    }

    /// What is counted and measured here. Reads cgroups: blocking.
    pub fn metrics(&self) -> Metrics {
        metrics::read(&self.containers, &self.agent, &self.adhoc, self.started_at)
    }

    // ── containers ──────────────────────────────────────────────────────────────────────────────────────────

    fn find(&self, text: &str) -> Result<Arc<Container>, NodeError> {
        Ok(self.containers.table.find(text)?)
    }

    pub fn list(&self, all: bool, app: Option<&str>) -> Vec<ContainerSummary> {
        let shown = |container: &Arc<Container>| {
            (all || container.phase().is_running())
                && app.is_none_or(|app| container.owner.app().is_some_and(|owner| owner.as_str() == app))
        };
        let mut list: Vec<_> =
            self.containers.table.all().iter().filter(|c| shown(c)).map(|c| view::container_summary(c)).collect();
        list.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));
        list
    }

    pub fn inspect(&self, text: &str) -> Result<ContainerDetail, NodeError> {
        let container = self.find(text)?;
        let restarts = match &container.owner {
            Owner::AdHoc => self.adhoc.restarts(&container),
            Owner::App { app, instance, .. } => self.agent.get(app.as_str()).map_or(0, |app| app.restarts(instance)),
        };
        view::container_detail(&self.containers, &container, restarts)
    }

    /// Makes an ad-hoc container, and starts it when asked.
    pub async fn create(&self, request: RunRequest) -> Result<Created, NodeError> {
        let container = self.make(&request, request.start).await?;
        let mut words = Vec::new();
        if request.start {
            if let Err(error) = self.containers.start(&container, None, size_of(&request), &Names::new()).await {
                self.containers.discard_unstarted(&container).await;
                return Err(error);
            }
            self.adhoc.keep(&container);
            words = container.read(|record| record.words.clone());
        }
        Ok(Created { id: container.id.to_string(), name: container.name(), words })
    }

    /// Makes and starts an ad-hoc container with its streams attached. The stream is there at once; a start that
    /// fails ends it with an exit that says why. The start gives the words of what the machine could not give.
    pub async fn run(
        &self,
        request: RunRequest,
    ) -> Result<(Attached, impl Future<Output = Result<Vec<String>, NodeError>> + use<>), NodeError> {
        let container = self.make(&request, true).await?;
        let (stream, theirs) = attach::pair().map_err(|source| NodeError::disk("cannot make a stream", source))?;
        let attached = Attached { stream, container: container.clone(), is_first: true };
        let (containers, adhoc, size) = (self.containers.clone(), self.adhoc.clone(), size_of(&request));
        let start = async move {
            if let Err(error) = containers.start(&container, Some(theirs), size, &Names::new()).await {
                containers.discard_unstarted(&container).await;
                return Err(error);
            }
            adhoc.keep(&container);
            Ok(container.read(|record| record.words.clone()))
        };
        Ok((attached, start))
    }

    async fn make(&self, request: &RunRequest, starts: bool) -> Result<Arc<Container>, NodeError> {
        let spec = request.spec.clone();
        let image = images::get(&self.containers, &spec.workload.image, spec.workload.pull).await?;
        if starts {
            self.containers.create_to_start(spec, &image)
        } else {
            self.containers.create(spec, Owner::AdHoc, None, &image, None)
        }
    }

    pub async fn start(&self, text: &str) -> Result<(), NodeError> {
        let container = self.find(text)?;
        if let Owner::App { app, instance, .. } = &container.owner {
            return self.tell_instance(app, instance, "start");
        }
        if container.phase().is_running() {
            return Ok(());
        }
        self.containers.start(&container, None, None, &Names::new()).await?;
        self.adhoc.keep(&container);
        Ok(())
    }

    pub async fn stop_container(&self, text: &str, request: &StopRequest) -> Result<(), NodeError> {
        let container = self.find(text)?;
        let signal = request.signal.as_deref().map(parse_signal).transpose()?;
        let is_run = container.read(|record| matches!(record.place, Place::Cron | Place::Run | Place::Hook { .. }));
        if let Owner::App { app, instance, .. } = &container.owner
            && !is_run
        {
            self.tell_instance(app, instance, "stop")?;
            container.when(|phase| !phase.is_running()).await;
            return Ok(());
        }
        self.adhoc.rest(&container);
        self.containers.stop(&container, signal, request.timeout_ms.map(Duration::from_millis)).await
    }

    pub async fn restart(&self, text: &str, request: &StopRequest) -> Result<(), NodeError> {
        let container = self.find(text)?;
        if let Owner::App { app, instance, .. } = &container.owner {
            return self.tell_instance(app, instance, "restart");
        }
        self.stop_container(text, request).await?;
        self.start(text).await
    }

    fn tell_instance(&self, app: &Name, instance: &str, action: &str) -> Result<(), NodeError> {
        let app = self.agent.get(app.as_str()).ok_or_else(|| NodeError::NoApp(app.to_string()))?;
        app.tell_instances(action, vec![instance.to_owned()]);
        Ok(())
    }

    pub async fn kill(&self, text: &str, signal: &str) -> Result<(), NodeError> {
        let container = self.find(text)?;
        self.containers.kill(&container, parse_signal(signal)?).await
    }

    pub async fn set_paused(&self, text: &str, pause: bool) -> Result<(), NodeError> {
        let container = self.find(text)?;
        match container.phase() {
            Phase::Running { paused, .. } if paused == pause => {
                let state = if pause { "paused already" } else { "not paused" };
                Err(NodeError::Invalid(format!("container {} is {state}", container.name())))
            }
            _ => self.containers.set_paused(&container, pause, Pause::Asked).await.map(drop),
        }
    }

    pub async fn wait(&self, text: &str) -> Result<ExitReply, NodeError> {
        let container = self.find(text)?;
        container.when(|phase| phase.exit().is_some() || matches!(phase, Phase::Removed { .. })).await;
        let gone =
            || ExitReply { code: 0, signal: None, oom: false, error: Some("it was removed before it ran".into()) };
        Ok(view::exit_reply(&container.phase()).unwrap_or_else(gone))
    }

    pub async fn remove(&self, text: &str, force: bool, volumes: bool) -> Result<(), NodeError> {
        let container = self.find(text)?;
        if let Owner::App { app, .. } = &container.owner
            && self.agent.get(app.as_str()).is_some()
        {
            return Err(NodeError::OfApp { name: container.name(), app: app.to_string() });
        }
        if force {
            self.adhoc.rest(&container);
        }
        self.containers.remove(&container, force, volumes).await?;
        self.adhoc.drop_one(&container);
        Ok(())
    }

    pub async fn exec(&self, text: &str, request: ExecRequest) -> Result<Attached, NodeError> {
        let container = self.find(text)?;
        attach::exec(&self.containers, container, request).await
    }

    pub async fn attach(&self, text: &str) -> Result<Attached, NodeError> {
        let container = self.find(text)?;
        attach::attach(&self.containers, container).await
    }

    pub fn top(&self, text: &str) -> Result<Vec<Process>, NodeError> {
        stats::top(&self.containers, &*self.find(text)?)
    }

    /// Usage of the named containers, or of all that run.
    pub fn stats(&self, names: &[String]) -> Result<Vec<Stats>, NodeError> {
        if names.is_empty() {
            let running = self.containers.table.all().into_iter().filter(|container| container.phase().is_running());
            // One that ends meanwhile is left out.
            return Ok(running.filter_map(|container| stats::stats(&self.containers, &container).ok()).collect());
        }
        names
            .iter()
            .map(|name| {
                let container = self.find(name)?;
                if !container.phase().is_running() {
                    return Err(NodeError::NotRunning(container.name()));
                }
                stats::stats(&self.containers, &container)
            })
            .collect()
    }

    /// Writes a tar of `path` in a container. Blocking.
    pub fn copy_out(&self, text: &str, path: &Path, out: impl Write) -> Result<(), NodeError> {
        archive::open(&self.containers, &*self.find(text)?)?.pack(path, out)
    }

    /// Unpacks a tar into the directory `path` of a container. Blocking.
    pub fn copy_in(&self, text: &str, path: &Path, input: impl Read) -> Result<(), NodeError> {
        archive::open(&self.containers, &*self.find(text)?)?.unpack(path, input)
    }

    /// Lines of one container's log; following ends with the container's run.
    pub async fn container_logs(
        &self,
        text: &str,
        query: LogQuery,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), NodeError> {
        let container = self.find(text)?;
        let name = container.name();
        tokio::spawn(logs::read_one(self.containers.clone(), container, name, query, lines));
        Ok(())
    }

    // ── apps ────────────────────────────────────────────────────────────────────────────────────────────────

    fn app(&self, name: &str) -> Result<Arc<App>, NodeError> {
        self.agent.get(name).ok_or_else(|| NodeError::NoApp(name.to_owned()))
    }

    async fn propose(&self, uid: u32, body: Body) -> Result<Effect, NodeError> {
        self.propose_as(Actor::User { uid }, body).await
    }

    async fn propose_as(&self, actor: Actor, body: Body) -> Result<Effect, NodeError> {
        let id = CommandId::generate(&mut SystemRandom);
        let command = Command { id, at: self.clock.now(), actor, body };
        Ok(self.log.propose(command).await?.effect)
    }

    pub fn apps(&self) -> Vec<AppSummary> {
        self.agent.all().iter().map(|app| view::app_summary(app)).collect()
    }

    pub fn app_status(&self, name: &str) -> Result<AppStatus, NodeError> {
        Ok(view::app_status(&*self.app(name)?))
    }

    /// Stops an app and forgets it; resolves when nothing of it is left but (without `volumes`) its volumes. Its previews go
    /// first, and of those nothing is left.
    pub async fn down(&self, uid: u32, name: &str, volumes: bool) -> Result<(), NodeError> {
        for preview in self.previews_of(name) {
            match self.take_down(Actor::User { uid }, preview.as_str(), true).await {
                // Its time had come.
                Err(_) if self.log.read().app(preview.as_str()).is_none() => {}
                other => other?,
            }
        }
        let volumes = volumes || self.log.read().app(name).is_some_and(|app| app.preview.is_some());
        self.take_down(Actor::User { uid }, name, volumes).await
    }

    async fn take_down(&self, actor: Actor, name: &str, volumes: bool) -> Result<(), NodeError> {
        let app = Name::new(name).map_err(|error| NodeError::Invalid(error.to_string()))?;
        self.agent.when_settled(name).await;
        let cannot = |source| NodeError::disk(format!("cannot remove the volumes of {name}"), source);
        if volumes && self.agent.get(name).is_some() {
            crate::removal::mark_volumes(&self.root, name, true).map_err(cannot)?;
        }
        if let Err(error) = self.propose_as(actor, Body::Remove { app, remove_volumes: volumes }).await {
            if volumes {
                crate::removal::mark_volumes(&self.root, name, false).map_err(cannot)?;
            }
            return Err(error);
        }
        self.agent.reconcile();
        self.agent.when_settled(name).await;
        if volumes && self.agent.get(name).is_none() {
            // Gone already, unless it cannot be: then this says why.
            volume::remove_of_app(&self.containers.volumes, name)?;
        }
        self.containers.events.emit("app", "remove", name, About { app: Some(name), ..About::default() });
        Ok(())
    }

    /// Starts, stops or restarts workloads or single instances. Whole workloads go through the log, so a daemon that
    /// returns knows; single instances are the node's own. What is stopped is down when this returns,
    /// unless it does not end when it is killed, or was started again.
    pub async fn workloads(&self, uid: u32, name: &str, action: &str, targets: &[String]) -> Result<(), NodeError> {
        let app = self.app(name)?;
        let wanted = app.wanted();
        let spec = wanted.spec();
        let (mut workloads, mut instances) = (BTreeSet::new(), Vec::new());
        for target in targets {
            if let Some((known, _)) = spec.definitions().find(|(known, _)| known.as_str() == target) {
                workloads.insert(known.clone());
            } else if spec.workloads().any(|(known, _)| instances_of(&wanted, known).contains(target)) {
                instances.push(target.clone());
            } else {
                let known = spec.definitions().map(|(known, _)| known.to_string()).collect();
                return Err(NodeError::NoWorkload { app: name.to_owned(), target: target.clone(), known });
            }
        }
        if !matches!(action, "start" | "stop" | "restart") {
            return Err(NodeError::Invalid(format!("{action:?} is not an action: use start, stop or restart")));
        }
        let mut named: BTreeSet<String> = instances.iter().cloned().collect();
        named.extend(workloads.iter().flat_map(|workload| instances_of(&wanted, workload)));
        if targets.is_empty() {
            named.extend(spec.workloads().flat_map(|(workload, _)| instances_of(&wanted, workload)));
        }
        if !instances.is_empty() {
            app.tell_instances(action, instances);
        }
        if !workloads.is_empty() || targets.is_empty() {
            let app_name = app.name.clone();
            let body = match action {
                "start" => Body::SetStopped { app: app_name, workloads: workloads.clone(), stopped: false },
                "stop" => Body::SetStopped { app: app_name, workloads: workloads.clone(), stopped: true },
                _ => Body::Restart { app: app_name, workloads: workloads.clone() },
            };
            self.propose(uid, body).await?;
            self.agent.reconcile();
            if action == "start" {
                app.hurry(&workloads);
            }
        }
        app.supervisor().caught_up().await;
        if action == "stop" {
            // Each finishes what it has, then it stops, within its timeout, one after the other. Who starts it again meanwhile
            // has the last word.
            let patience: Duration = spec.workloads().map(|(_, workload)| 2 * workload.stop_timeout.0).sum();
            let _ = tokio::time::timeout(patience + STOP_SLACK, app.down(&named)).await;
        }
        Ok(())
    }

    /// Lines of an app's instances, those of each in order. Following goes on with the instances that come later, until
    /// the receiver is dropped.
    pub async fn app_logs(
        &self,
        name: &str,
        targets: &[String],
        query: LogQuery,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), NodeError> {
        let app = self.app(name)?;
        let wanted = app.wanted();
        let known: Vec<String> = wanted.spec().definitions().map(|(workload, _)| workload.to_string()).collect();
        for target in targets {
            let is_instance = wanted.spec().workloads().any(|(w, _)| instances_of(&wanted, w).contains(target));
            if !known.contains(target) && !is_instance {
                return Err(NodeError::NoWorkload { app: name.to_owned(), target: target.clone(), known });
            }
        }
        let asked = logs::Instances { app: app.name.clone(), targets: targets.to_vec() };
        tokio::spawn(logs::read_app(self.containers.clone(), asked, query, lines));
        Ok(())
    }
}

fn size_of(request: &RunRequest) -> Option<TerminalSize> {
    request.size.map(|size| TerminalSize { rows: size.rows, columns: size.columns })
}

/// Whoever has it is the node.
pub(crate) fn lock(path: &Path) -> Result<std::fs::File, OpenError> {
    let failed = |source| OpenError::Lock { path: path.to_owned(), source };
    let file = std::fs::File::options().create(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Starts the launcher again when it is lost.
async fn keep_launcher(
    containers: Arc<Containers>,
    mut launcher: Launcher,
    command: LauncherCommand,
    events: mpsc::UnboundedSender<LauncherEvent>,
    stopping: watch::Receiver<bool>,
) {
    loop {
        launcher.lost().await;
        if *stopping.borrow() {
            return;
        }
        tracing::error!("the launcher is gone, and with it every container; starting another one");
        containers.events.emit("node", "launcher-lost", &containers.root.key(), About::default());
        loop {
            match Launcher::connect_or_start(&containers.root.launcher_socket(), &command, events.clone()).await {
                Ok(fresh) => {
                    launcher = fresh;
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot start the launcher");
                    tokio::time::sleep(LAUNCHER_PAUSE).await;
                }
            }
        }
        // The new one first, so that what restarts because of the loss finds it.
        containers.replace_launcher(launcher.clone());
        containers.on_launcher_lost().await;
    }
}

/// Puts the network's rules back when something outside removes them.
async fn keep_rules(containers: Arc<Containers>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = containers.network.rules_changed() => {}
            () = tokio::time::sleep(RULES_INTERVAL) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let put_back =
            containers.network.reassert().and_then(|back| Ok(containers.traffic.peers().reassert()? || back));
        match put_back {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("the network's rules had been changed from outside: put back");
                containers.events.emit("node", "rules-restored", &containers.root.key(), About::default());
            }
            Err(error) => tracing::warn!(%error, "cannot look after the network's rules"),
        }
    }
}
