//! Containers from creation to removal, ad-hoc ones and instances alike.
//!
//! Order matters for a daemon that may die between any two lines: a record is on disk before the launcher is told
//! to start, a container's end is recorded before the launcher may forget it, and a removal takes the record away
//! before the rest. What a crash leaves half done is put right by [`Containers::adopt`].
//!
//! A container that removes itself (`--rm`) is out of the table before its record is off the disk, so that nobody who
//! waits for its end waits for a disk: the launcher keeps the end until the record is gone, and a daemon that finds the
//! two removes it then.

mod pausing;

pub(crate) use pausing::Pause;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use coppice_base::{Clock, ContainerId, SystemRandom, signal_text};
use coppice_cgroup::{Cgroup, Hierarchy, Parent};
use coppice_container::{Network, TerminalSize};
use coppice_dataset::Store;
use coppice_image::{Image, ImageStore};
use coppice_launcher::protocol::{ContainerStatus, Exit, LaunchError};
use coppice_spec::RunSpec;

use crate::container::{Container, Home, Owner, Phase, Place, Record, SecretVersions, exit_text};
use crate::directories::Directories;
use crate::error::NodeError;
use crate::events::{About, Events};
use crate::hosts;
use crate::launcher::{Launcher, LauncherError};
use crate::network::{Names, NodeNetwork};
use crate::policies::Policies;
use crate::prepare::{self, Given};
use crate::root::{RECORD, Root, replace_file};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::signal::KILL;
use crate::storage::Storage;
use crate::table::{AD_HOC_RANGES, Table};
use crate::traffic::Traffic;
use crate::volume;

/// How long after SIGKILL a container may take to be gone before a stop gives up with a word.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// When a new container's record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    /// Before it is known to anybody: the container is kept whatever comes.
    Now,
    /// By the start that follows at once. A daemon that dies before it leaves no container, and nobody was told of one.
    ByStart,
}

/// What an instance has from its app.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfApp {
    /// The app's id range.
    pub(crate) range: u32,
    /// See [`Record::revision`].
    pub(crate) revision: String,
    /// See [`Record::home`].
    pub(crate) home: Option<Home>,
    pub(crate) place: Place,
    /// See [`Record::run`].
    pub(crate) run: u32,
}

/// The containers of this node.
pub(crate) struct Containers {
    pub(crate) root: Root,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) images: ImageStore,
    pub(crate) network: NodeNetwork,
    pub(crate) traffic: Traffic,
    pub(crate) table: Table,
    directories: Arc<Directories>,
    pub(crate) policies: Policies,
    pub(crate) volumes: Store,
    pub(crate) storage: Arc<Storage>,
    pub(crate) secrets: Secrets,
    /// Manifest digests that the kept releases of the apps name.
    pub(crate) release_images: Mutex<BTreeSet<String>>,
    launcher: RwLock<Launcher>,
    /// The parent of the containers' cgroups, opened on first use.
    cgroups: OnceLock<Parent>,
}

impl Containers {
    #[expect(clippy::too_many_arguments, reason = "its parts, each made once")]
    pub(crate) fn new(
        root: Root,
        settings: Settings,
        clock: Arc<dyn Clock>,
        events: Events,
        images: ImageStore,
        network: NodeNetwork,
        launcher: Launcher,
        secrets: Secrets,
    ) -> Result<Self, NodeError> {
        let directories = Directories::prepare(&root)
            .map_err(|source| NodeError::disk("cannot make the directories of containers".to_owned(), source))?;
        let traffic = Traffic::new(&settings, &root, clock.clone());
        Ok(Self {
            volumes: volume::open(&root, &settings.volumes)?,
            secrets,
            storage: Storage::new(root.run().join("storage"), settings.network.bpf),
            root,
            settings,
            traffic,
            clock,
            events,
            images,
            network,
            table: Table::default(),
            directories: Arc::new(directories),
            policies: Policies::default(),
            release_images: Mutex::default(),
            launcher: RwLock::new(launcher),
            cgroups: OnceLock::new(),
        })
    }

    pub(crate) fn launcher(&self) -> Launcher {
        self.launcher.read().expect("no panic holds this lock").clone()
    }

    pub(crate) fn replace_launcher(&self, launcher: Launcher) {
        *self.launcher.write().expect("no panic holds this lock") = launcher;
        self.traffic.sockets_changed().notify_one();
    }

    /// `v1`, `v2` or `hybrid`.
    pub(crate) fn cgroup_kind(&self) -> String {
        match Hierarchy::detect() {
            Ok(hierarchy) => format!("{:?}", hierarchy.kind()).to_lowercase(),
            Err(error) => format!("none: {error}"),
        }
    }

    /// A container's cgroup.
    pub(crate) fn cgroup(&self, id: &ContainerId) -> Result<Cgroup, NodeError> {
        let parent = match self.cgroups.get() {
            Some(parent) => parent,
            None => {
                let parent = Hierarchy::detect()?.parent(&self.root.cgroup())?;
                self.cgroups.get_or_init(|| parent)
            }
        };
        Ok(parent.open(id.as_str())?)
    }

    /// Takes the directories of the node away from every hierarchy (the node stops with all its containers).
    pub(crate) fn remove_cgroups(&self) {
        self.storage.remove();
        let name = self.root.cgroup();
        let removed =
            Hierarchy::detect().and_then(|hierarchy| hierarchy.parent(&name)).and_then(|parent| parent.remove());
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove the node's cgroups; the next node uses them again");
        }
    }

    /// The image a spec names, here already.
    pub(crate) fn image(&self, reference: &str) -> Result<Arc<Image>, NodeError> {
        self.images.resolve(reference)?.ok_or_else(|| NodeError::NoImage(reference.to_owned()))
    }

    /// Makes a container: id, name, id range, record. Nothing runs yet. Without `of_app` it gets an
    /// id range of its own.
    pub(crate) fn create(
        &self,
        spec: RunSpec,
        owner: Owner,
        name: Option<String>,
        image: &Image,
        of_app: Option<OfApp>,
    ) -> Result<Arc<Container>, NodeError> {
        self.make(spec, owner, name, image, of_app, Recorded::Now)
    }

    /// Makes an ad-hoc container that the caller starts at once, which is when it is recorded.
    pub(crate) fn create_to_start(&self, spec: RunSpec, image: &Image) -> Result<Arc<Container>, NodeError> {
        self.make(spec, Owner::AdHoc, None, image, None, Recorded::ByStart)
    }

    fn make(
        &self,
        mut spec: RunSpec,
        owner: Owner,
        name: Option<String>,
        image: &Image,
        of_app: Option<OfApp>,
        recorded: Recorded,
    ) -> Result<Arc<Container>, NodeError> {
        let id = ContainerId::generate(&mut SystemRandom);
        let name = name.or_else(|| spec.name.as_ref().map(|name| name.to_string()));
        let name = name.unwrap_or_else(|| format!("c-{}", id.short()));
        // What cannot work is said now, not at the start.
        prepare::stop_signal(&spec, &image.config)?;
        prepare::arguments(&spec, &image.config)?;
        if spec.health.is_none() {
            spec.health = prepare::health(&spec, &image.config);
        }
        self.table.claim_name(&name, &id)?;
        let made = self.create_claimed(&id, &name, spec, owner, image, of_app, recorded);
        if made.is_err() {
            self.table.release_name(&name, &id);
        }
        made
    }

    #[expect(clippy::too_many_arguments, reason = "the caller's, with the name it claimed")]
    fn create_claimed(
        &self,
        id: &ContainerId,
        name: &str,
        spec: RunSpec,
        owner: Owner,
        image: &Image,
        of_app: Option<OfApp>,
        recorded: Recorded,
    ) -> Result<Arc<Container>, NodeError> {
        let OfApp { range, revision, home, place, run } = match of_app {
            Some(of_app) => of_app,
            None => OfApp { range: self.table.claim_range()?, ..OfApp::default() },
        };
        let container = Arc::new(Container::new(Record {
            id: id.clone(),
            name: name.to_owned(),
            owner,
            spec,
            image_id: image.id.to_string(),
            created_at: self.clock.now(),
            range,
            address: None,
            home,
            phase: Phase::Created,
            revision,
            secrets: SecretVersions::default(),
            words: Vec::new(),
            place,
            run,
            is_copied: false,
        }));
        let dir = self.root.container(id);
        let made = (|| {
            self.directories.take(&dir)?;
            match recorded {
                Recorded::Now => self.write_record(&container),
                Recorded::ByStart => Ok(()),
            }
        })();
        if let Err(source) = made {
            let _ = std::fs::remove_dir_all(&dir);
            self.release_range(range);
            return Err(NodeError::disk(format!("cannot make container {name}"), source));
        }
        self.table.insert(container.clone());
        Ok(container)
    }

    /// Starts a created or ended container. `attach`: the launcher's end of a stream.
    pub(crate) async fn start(
        &self,
        container: &Container,
        attach: Option<OwnedFd>,
        size: Option<TerminalSize>,
        names: &Names,
    ) -> Result<(), NodeError> {
        let _doing = container.doing.lock().await;
        match container.phase() {
            Phase::Created | Phase::Exited { .. } => {}
            Phase::Starting | Phase::Running { .. } => return Err(NodeError::Running(container.name())),
            Phase::Removed { .. } => return Err(NodeError::NotRunning(container.name())),
        }
        container.asked_down.store(false, Ordering::Relaxed);
        let before = container.phase();
        let started = self.start_locked(container, attach, size, names).await;
        if let Err(error) = &started {
            self.leave_network(container);
            container.change(|record| {
                record.phase = match before {
                    Phase::Exited { .. } => before.clone(),
                    _ => Phase::Created,
                };
                record.address = None;
            });
            // The start failed already; a record that says Starting is put right by adoption.
            let _ = self.write_record(container);
            self.tell(container, "fail", error.to_string());
        }
        started
    }

    async fn start_locked(
        &self,
        container: &Container,
        attach: Option<OwnedFd>,
        size: Option<TerminalSize>,
        names: &Names,
    ) -> Result<(), NodeError> {
        let record = container.record();
        let image = self.image(&record.image_id)?;
        let network = self.join_network(container, &record.spec)?;
        let record = container.change(|record| {
            record.phase = Phase::Starting;
            record.address = match &network {
                Network::Bridge { address, .. } => Some(*address),
                _ => None,
            };
            record.home = Home::of(&record.owner, &network);
        });
        // Known, and guarded, before it runs.
        self.admit_to_peers(&container.owner).await?;
        self.enforce()?;
        let config = self.configure(&record, &image, network, size, names)?;
        self.write_record(container)
            .map_err(|source| NodeError::disk(format!("cannot record container {}", record.name), source))?;
        if container.exit_unkept.swap(false, Ordering::Relaxed) {
            // What was written just now is newer than that exit. One that is unknown by now is forgotten already.
            let _ = self.launcher().forget(&container.id).await;
        }
        let started = self.launcher().start(config, attach).await?;
        container.change(|record| {
            record.words = started.words;
            record.phase = Phase::Running { pid: started.pid, started_at: started.at, paused: false };
        });
        self.tell(container, "start", String::new());
        self.storage.begin();
        self.directories.make_spares_when_quiet();
        Ok(())
    }

    /// An address and the ad-hoc container's published ports. (A service's ports are its app's, over all ready
    /// instances.)
    fn join_network(&self, container: &Container, spec: &RunSpec) -> Result<Network, NodeError> {
        use coppice_spec::NetworkMode;
        let network = match spec.workload.network {
            NetworkMode::Host => return Ok(Network::Host),
            NetworkMode::None => return Ok(Network::None),
            NetworkMode::Bridge => self.network.lease(&container.id, container.read(|record| record.home.clone()))?,
        };
        if let Network::Bridge { gateway, prefix, v6, .. } = &network {
            self.traffic.serve_names(*gateway, *prefix, v6.map(|v6| v6.gateway));
        }
        if !spec.ports.is_empty()
            && matches!(container.owner, Owner::AdHoc)
            && let Network::Bridge { address, .. } = &network
        {
            let ports = self.network.claim_ports(container.id.as_str(), &spec.ports)?;
            self.network.route(container.id.as_str(), &[*address])?;
            container.change(|record| record.spec.ports = ports);
        }
        Ok(network)
    }

    fn leave_network(&self, container: &Container) {
        let address = container.read(|record| record.address.filter(|_| record.home.is_none()));
        if matches!(container.owner, Owner::AdHoc) {
            self.network.release_ports(container.id.as_str());
        }
        self.network.release(&container.id, address);
    }

    fn configure(
        &self,
        record: &Record,
        image: &Image,
        network: Network,
        size: Option<TerminalSize>,
        names: &Names,
    ) -> Result<coppice_container::ContainerConfig, NodeError> {
        let dir = self.root.container(&record.id);
        let hostname = prepare::hostname(&record.spec, &record.name);
        self.write_etc(record, &hostname, &network, names)
            .map_err(|source| NodeError::disk(format!("cannot prepare container {}", record.name), source))?;
        let mut sources = Vec::new();
        for mount in prepare::volumes(&record.spec, &image.config) {
            sources.push(volume::source(self, record, image, &mount)?);
        }
        let given = Given {
            id: record.id.clone(),
            hostname,
            layers: [self.root.mount_points()].into_iter().chain(image.layers.iter().cloned()).collect(),
            dir,
            ids: record.ids(),
            network,
            sources,
            log_max_size: self.settings.log_max_size(),
            log_max_files: self.settings.logs.max_files.max(1),
            allow_privileged: if self.settings.containers.allow_privileged {
                Ok(())
            } else {
                Err(self.root.settings())
            },
            default_pids: self.settings.containers.pids,
            default_nofile: self.settings.containers.nofile,
            size,
            secrets: self.secrets.delivery(record)?,
        };
        Ok(prepare::prepare(&record.spec, &image.config, given)?)
    }

    fn write_etc(&self, record: &Record, hostname: &str, network: &Network, names: &Names) -> io::Result<()> {
        let etc = self.root.container(&record.id).join("etc");
        let address = match network {
            Network::Bridge { address, .. } => Some(*address),
            _ => None,
        };
        std::fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
        let app = match &record.owner {
            Owner::App { app, .. } => Some(app),
            Owner::AdHoc => None,
        };
        let server = self.traffic.has_names().then(|| self.network.gateway()).flatten();
        std::fs::write(etc.join("resolv.conf"), self.network.resolv_conf(network, server, app))?;
        std::fs::write(etc.join("hosts"), hosts::text(record, hostname, address, names, self.network.subnet6()))
    }

    /// Tells a running container who has which name now.
    pub(crate) fn refresh_hosts(&self, container: &Container, names: &Names) {
        let record = container.record();
        let hostname = prepare::hostname(&record.spec, &record.name);
        let path = self.root.container(&record.id).join("etc/hosts");
        let text = hosts::text(&record, &hostname, record.address, names, self.network.subnet6());
        if let Err(error) = hosts::rewrite(&path, &text) {
            tracing::warn!(container = %record.name, %error, "cannot rewrite the hosts file: names in it are old");
        }
    }

    /// Asks it to stop, kills it after the timeout, and returns when it is down.
    pub(crate) async fn stop(
        &self,
        container: &Container,
        signal: Option<i32>,
        timeout: Option<Duration>,
    ) -> Result<(), NodeError> {
        container.asked_down.store(true, Ordering::Relaxed);
        let phase = container.when(|phase| !matches!(phase, Phase::Starting)).await;
        let Phase::Running { paused, .. } = phase else { return Ok(()) };
        let record = container.record();
        let image = self.images.resolve(&record.image_id)?;
        let signal = match (signal, image) {
            (Some(signal), _) => signal,
            (None, Some(image)) => prepare::stop_signal(&record.spec, &image.config)?,
            (None, None) => crate::signal::TERM,
        };
        let timeout = timeout.unwrap_or(record.spec.workload.stop_timeout.0);
        self.signal(container, signal).await?;
        if paused {
            // A frozen process hears no signal.
            self.set_paused(container, false, Pause::Asked).await?;
        }
        if tokio::time::timeout(timeout, container.ended()).await.is_ok() {
            return Ok(());
        }
        self.signal(container, KILL).await?;
        match tokio::time::timeout(KILL_LIMIT, container.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(NodeError::Running(container.name())),
        }
    }

    /// Sends a signal to the first process.
    pub(crate) async fn signal(&self, container: &Container, signal: i32) -> Result<(), NodeError> {
        match self.launcher().signal(&container.id, signal, false).await {
            // It ended meanwhile; whoever waits for that will see it.
            Err(LauncherError::Refused(LaunchError::NotRunning(_) | LaunchError::NoContainer(_))) => Ok(()),
            other => Ok(other?),
        }
    }

    /// `coppice kill`.
    pub(crate) async fn kill(&self, container: &Container, signal: i32) -> Result<(), NodeError> {
        let phase = container.when(|phase| !matches!(phase, Phase::Starting)).await;
        let Phase::Running { paused, .. } = phase else { return Err(NodeError::NotRunning(container.name())) };
        self.tell(container, "kill", signal_text(signal));
        self.signal(container, signal).await?;
        if paused && signal == KILL {
            self.set_paused(container, false, Pause::Asked).await?;
        }
        Ok(())
    }

    /// The launcher says that a container has ended.
    pub(crate) async fn on_exit(&self, id: &ContainerId, exit: Exit, lost: bool) {
        let Some(container) = self.table.get(id) else {
            let _ = self.launcher().forget(id).await;
            // One whose record was not readable leaves its files.
            remove_dir(self.root.container(id));
            return;
        };
        // The start's answer may still be on its way to the task that waits for it.
        container.when(|phase| !matches!(phase, Phase::Starting)).await;
        self.leave_network(&container);
        let record = container.read(|record| {
            let mut record = record.clone();
            let started_at = match record.phase {
                Phase::Running { started_at, .. } => Some(started_at),
                _ => None,
            };
            record.phase = Phase::Exited { started_at, exit, lost };
            record.address = None;
            record
        });
        if removes_itself(&record) {
            self.tell(&container, "exit", exit_text(&exit, lost));
            self.let_go(&container, Some(exit));
            // From here on nobody waits for it; see the module's words.
            let dir = self.root.container(id);
            let cleared = tokio::task::spawn_blocking(move || {
                let _ = std::fs::remove_file(dir.join(RECORD));
                dir
            });
            // It fails only when the node ends first, and the next one clears up.
            let Ok(dir) = cleared.await else { return };
            remove_dir(dir);
        } else {
            let name = record.name.clone();
            if let Err(error) = self.keep_record(&container, record.clone()) {
                // The launcher keeps the exit until it is told to forget: not telling it keeps the truth.
                tracing::warn!(container = %name, %error, "cannot record that it ended");
                container.exit_unkept.store(true, Ordering::Relaxed);
                container.change(|old| *old = record);
                self.tell(&container, "exit", exit_text(&exit, lost));
                return;
            }
            self.tell(&container, "exit", exit_text(&exit, lost));
        }
        if let Err(error) = self.launcher().forget(id).await {
            tracing::debug!(%id, %error, "the launcher did not forget");
        }
    }

    /// The launcher is gone and every container with it; the one that came after it knows of the ends that were seen.
    pub(crate) async fn on_launcher_lost(&self) {
        let listed = match self.launcher().list().await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "the new launcher does not say what it knows");
                Vec::new()
            }
        };
        let seen: BTreeMap<ContainerId, Exit> =
            listed.into_iter().filter_map(|status| Some((status.id, status.exit?))).collect();
        for container in self.table.all() {
            // A start in flight fails by itself.
            if matches!(container.phase(), Phase::Running { .. }) {
                match seen.get(&container.id) {
                    Some(exit) => self.on_exit(&container.id, *exit, self.is_lost(exit)).await,
                    None => self.on_exit(&container.id, self.lost_exit(), true).await,
                }
            }
        }
        for id in seen.keys() {
            // Also of starts that were in flight: the name would be taken for the next one. Forgotten twice is fine.
            let _ = self.launcher().forget(id).await;
        }
    }

    /// A launcher writes ends that nobody saw down as it starts, with that moment.
    fn is_lost(&self, exit: &Exit) -> bool {
        exit.at == self.launcher().identity.since
    }

    fn lost_exit(&self) -> Exit {
        Exit { at: self.clock.now(), code: 128 + KILL as u8, signal: Some(KILL), oom: false }
    }

    /// Removes a container that is not running.
    pub(crate) async fn remove(&self, container: &Container, force: bool, volumes: bool) -> Result<(), NodeError> {
        if container.phase().is_running() {
            if !force {
                return Err(NodeError::RemoveRunning(container.name()));
            }
            container.asked_down.store(true, Ordering::Relaxed);
            self.stop(container, Some(KILL), Some(Duration::ZERO)).await?;
        }
        let _doing = container.doing.lock().await;
        match container.phase() {
            Phase::Removed { .. } => return Ok(()),
            phase if phase.is_running() => return Err(NodeError::RemoveRunning(container.name())),
            _ => {}
        }
        let exit = container.phase().exit();
        self.take_away(container, exit, volumes);
        self.tell(container, "remove", String::new());
        Ok(())
    }

    /// A container whose first start failed: one that removes itself goes, and so does one that the disk had no place to
    /// write down, which the next daemon would not know.
    pub(crate) async fn discard_unstarted(&self, container: &Container) {
        let is_recorded = self.root.container(&container.id).join(RECORD).exists();
        if !is_recorded || container.read(|record| record.spec.remove) {
            // What is left of it is in the way of nobody.
            let _ = self.remove(container, true, true).await;
        }
    }

    /// Takes the record away, frees the name, and clears the files in the background.
    fn take_away(&self, container: &Container, exit: Option<Exit>, volumes: bool) {
        let dir = self.root.container(&container.id);
        let _ = std::fs::remove_file(dir.join(RECORD));
        self.let_go(container, exit);
        // Anonymous volumes are in the container's own directory; without `volumes` they are kept aside.
        let kept = (!volumes).then(|| volume::keep_anonymous(&self.root, &self.volumes, &container.id)).transpose();
        if let Err(error) = kept {
            tracing::warn!(container = %container.name(), %error, "cannot keep its anonymous volumes");
        }
        remove_dir(dir);
    }

    /// Takes it out of the table: its name and id range are free, and who waits for its end or removal hears of it.
    fn let_go(&self, container: &Container, exit: Option<Exit>) {
        self.table.remove(&container.id);
        let (range, home) = container.read(|record| (record.range, record.home.clone()));
        self.release_range(range);
        if let Some(home) = home {
            self.network.give_up(&home);
        }
        container.change(|record| record.phase = Phase::Removed { exit });
    }

    fn release_range(&self, range: u32) {
        if range >= AD_HOC_RANGES {
            self.table.release_range(range);
        }
    }

    /// Writes what a container is.
    pub(crate) fn write_record(&self, container: &Container) -> io::Result<()> {
        let _writing = container.writing.lock().expect("no panic holds this lock");
        self.write(&container.record())
    }

    /// A container is this once it is written.
    fn keep_record(&self, container: &Container, record: Record) -> io::Result<()> {
        let _writing = container.writing.lock().expect("no panic holds this lock");
        self.write(&record)?;
        container.change(|old| *old = record);
        Ok(())
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        replace_file(&self.root.container(&record.id).join(RECORD), &bytes)
    }

    /// Reads the records a daemon before this one left, and joins them with what the launcher has.
    pub(crate) async fn adopt(&self) -> Result<(), NodeError> {
        let listed = self.launcher().list().await?;
        let mut known: BTreeMap<ContainerId, ContainerStatus> =
            listed.into_iter().map(|status| (status.id.clone(), status)).collect();
        let dir = self.root.containers();
        let entries = std::fs::read_dir(&dir)
            .map_err(|source| NodeError::disk(format!("cannot read {}", dir.display()), source))?;
        let mut records = Vec::new();
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| ContainerId::parse(name).ok()) else { continue };
            let record = std::fs::read(entry.path().join(RECORD))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok())
                .filter(|record| record.id == id);
            match record {
                Some(record) => records.push((record, known.remove(&id))),
                // Its record was taken away first, so its removal had begun; or it was never whole.
                None if !known.contains_key(&id) => remove_dir(entry.path()),
                None => {}
            }
        }
        // One that is on its way out has given its name away, and another may have it by now: that one comes after it.
        records.sort_by_key(|(record, status)| !is_leaving(record, status.as_ref()));
        for (record, status) in records {
            self.adopt_one(record, status).await;
        }
        for (id, status) in known {
            tracing::warn!(%id, "the launcher has a container without a record: ending it");
            if status.exit.is_none() {
                let _ = self.launcher().signal(&id, KILL, true).await;
            } else {
                let _ = self.launcher().forget(&id).await;
                // Its removal had come as far as its record.
                remove_dir(self.root.container(&id));
            }
        }
        Ok(())
    }

    async fn adopt_one(&self, mut record: Record, status: Option<ContainerStatus>) {
        let was_up = record.phase.is_running();
        if let Some(status) = &status {
            let paused = matches!(record.phase, Phase::Running { paused: true, .. });
            record.phase = Phase::Running { pid: status.pid, started_at: status.started_at, paused };
        }
        let id = record.id.clone();
        if record.home.as_ref().is_some_and(|home| !self.network.keep(home)) {
            tracing::warn!(%id, "another container has its address: it gets one of its own with its next start");
            record.home = None;
        }
        if let (Some(address), true) = (record.address, status.is_some()) {
            self.network.adopt(&id, address);
        }
        let lost = was_up && status.is_none();
        if lost {
            record.phase = Phase::Running { pid: 0, started_at: record.created_at, paused: false };
        }
        let ports = (record.spec.ports.clone(), record.address);
        let ad_hoc = matches!(record.owner, Owner::AdHoc);
        let container = Arc::new(Container::new(record));
        self.table.insert(container.clone());
        match status {
            Some(ContainerStatus { exit: Some(exit), .. }) => self.on_exit(&id, exit, self.is_lost(&exit)).await,
            Some(_) => {
                self.storage.begin();
                // The daemon that was to wake it is gone, and its copy with it.
                if container.read(|record| record.is_copied) {
                    self.thaw(vec![container.clone()]).await;
                }
                if let (true, (ports, Some(address))) = (ad_hoc && !ports.0.is_empty(), ports)
                    && let Err(error) = self
                        .network
                        .claim_ports(id.as_str(), &ports)
                        .and_then(|_| self.network.route(id.as_str(), &[address]))
                {
                    tracing::warn!(container = %container.name(), %error, "cannot publish its ports again");
                }
            }
            None if lost => self.on_exit(&id, self.lost_exit(), true).await,
            None => {}
        }
    }

    pub(crate) fn tell(&self, container: &Container, action: &str, message: String) {
        let app = container.owner.app().map(|app| app.as_str());
        let about = About { name: Some(&container.name()), app, message };
        self.events.emit("container", action, container.id.as_str(), about);
    }

    /// Digests of images that containers use.
    pub(crate) fn images_in_use(&self) -> BTreeMap<String, u32> {
        let mut used = BTreeMap::new();
        for container in self.table.all() {
            *used.entry(container.read(|record| record.image_id.clone())).or_default() += 1;
        }
        used
    }
}

/// Whether it is removed by its end.
fn removes_itself(record: &Record) -> bool {
    record.spec.remove && matches!(record.owner, Owner::AdHoc)
}

/// Whether a record that a daemon finds is of a container which has ended and removes itself. `status`: what the
/// launcher has of it.
fn is_leaving(record: &Record, status: Option<&ContainerStatus>) -> bool {
    removes_itself(record) && status.map_or(record.phase.is_running(), |status| status.exit.is_some())
}

/// Removes a container's directory off the caller's path.
fn remove_dir(dir: PathBuf) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "cannot clear a removed container's files; the next start tries again");
        }
    });
}
