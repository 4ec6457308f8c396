//! Encryption between services (`tls.peer`): the node's two halves, whom they know, and the rules that bring connections
//! to them.
//!
//! Whom to guard is read from the containers there are, not from what runs: an instance's address is guarded before its
//! first process is, and the rules that a daemon left stay until the next one knows all its apps. So while there is no
//! daemon nobody reaches a guarded service, and nobody ever does around the halves.
//!
//! Refuses services without an address of their own (host and no network): there is nothing to guard; and UDP where a
//! certificate is required.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use coppice_acme::{Authority, AuthorityError, KeyError, SealKey};
use coppice_api::ErrorKind;
use coppice_base::{Clock, Name};
use coppice_network::{Asserted, Intercept, Intercepted, LinkName, NetworkError, Policy, Subnet6};
use coppice_peer::{App, Config, Instance, Limits, PeerSnapshot, Peers, Published, UpdateError, Workload};
use coppice_spec::{AppSpec, NetworkMode, PeerTls, PortSpec, Protocol};
use tokio::sync::watch;

use crate::container::{Owner, Record};
use crate::containers::Containers;
use crate::root::Root;
use crate::settings::PeerSettings;

/// Where the halves listen, if nobody has these ports: known to people who read packets. The outbound half does on the
/// bridge's own addresses, the inbound half on loopback as long as there is one node.
const OUTBOUND_PORT: u16 = 15443;
const INBOUND_PORT: u16 = 15444;

/// Why encryption between services cannot be had. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PeerTlsError {
    #[error("services cannot be given certificates: {0}")]
    Key(#[from] KeyError),
    #[error("services cannot be given certificates: {0}")]
    Authority(#[from] AuthorityError),
    #[error("cannot listen on {address} for connections between services: {source}")]
    Listen { address: IpAddr, source: std::io::Error },
    #[error("cannot take connections between services: {0}")]
    Rules(#[from] NetworkError),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("no service of {0} has tls.peer: it has no authority of its own")]
    NotAsked(Name),
}

impl PeerTlsError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Authority(AuthorityError::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorKind::NoSpace
            }
            Self::NotAsked(_) => ErrorKind::Conflict,
            _ => ErrorKind::Internal,
        }
    }
}

/// The bridge, as the halves need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnBridge {
    pub(crate) name: String,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) gateway6: Option<Ipv6Addr>,
}

/// An instance that has an address, whether it runs or not.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) app: Name,
    pub(crate) workload: Name,
    pub(crate) instance: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) address6: Option<Ipv6Addr>,
    /// Its service's.
    pub(crate) virtual_addresses: Vec<IpAddr>,
}

/// See the module.
pub(crate) struct NodePeers {
    folder: PathBuf,
    authorities: PathBuf,
    key_file: PathBuf,
    /// The root's.
    key: String,
    settings: PeerSettings,
    clock: Arc<dyn Clock>,
    /// Whether there is anything to do, for those who have no time.
    any: AtomicBool,
    /// All apps that are wanted are here and have claimed their ports.
    settled: watch::Sender<bool>,
    /// What the bridge enforces: connections that are redirected do not come by it.
    policy: Arc<RwLock<OnBridgePolicy>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct OnBridgePolicy {
    policy: Policy,
    subnet6: Option<Subnet6>,
}

impl OnBridgePolicy {
    fn denies(&self, from: IpAddr, to: IpAddr) -> bool {
        let of = |address: IpAddr| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => self.subnet6.and_then(|subnet6| subnet6.ipv4(address)),
        };
        // Whoever is no container is nobody the policy is about.
        of(from).zip(of(to)).is_some_and(|(from, to)| self.policy.denies(from, to))
    }
}

#[derive(Default)]
struct State {
    /// Apps that have a service with `tls.peer`: the modes of all their workloads.
    modes: BTreeMap<Name, BTreeMap<Name, PeerTls>>,
    /// The node stops with all its containers.
    ended: bool,
    seal: Option<Arc<SealKey>>,
    authorities: BTreeMap<Name, Arc<Authority>>,
    running: Option<Running>,
}

impl State {
    fn guards(&self, app: &Name, workload: &Name) -> bool {
        let mode = self.modes.get(app).and_then(|modes| modes.get(workload));
        mode.is_some_and(|mode| *mode != PeerTls::Off)
    }
}

struct Running {
    peers: Peers,
    intercept: Intercept,
    proxy: SocketAddrV4,
    proxy6: Option<SocketAddrV6>,
    guarded: Option<Intercepted>,
    /// What other programs' rules close, and what opens it.
    words: Vec<String>,
}

/// What of `spec` cannot be: see the module.
pub(crate) fn refused(spec: &AppSpec) -> Vec<String> {
    let asked = spec.services.iter().filter(|(_, service)| mode(service) != PeerTls::Off);
    let why = |(name, service): (&Name, &coppice_spec::ServiceSpec)| {
        if service.workload.network != NetworkMode::Bridge {
            let what = "`tls.peer`, which needs network = \"bridge\"";
            return Some(format!("service {name} has {what}: remove one of them"));
        }
        let udp = service.ports.iter().find(|port| port.protocol == Protocol::Udp)?;
        (mode(service) == PeerTls::Require).then(|| {
            let what = "tls.peer = \"require\", and over UDP nobody shows a certificate";
            format!("service {name} has {what}: do not publish {}/udp, or say \"warn\"", udp.container)
        })
    };
    asked.filter_map(why).collect()
}

fn mode(service: &coppice_spec::ServiceSpec) -> PeerTls {
    service.tls.as_ref().map(|tls| tls.peer).unwrap_or_default()
}

fn is_asked(spec: &AppSpec) -> bool {
    spec.services.values().any(|service| mode(service) != PeerTls::Off)
}

impl NodePeers {
    pub(crate) fn new(root: &Root, settings: PeerSettings, clock: Arc<dyn Clock>) -> Self {
        Self {
            folder: root.certificates(),
            authorities: root.certificates().join("authority"),
            key_file: root.certificates_key(),
            key: root.key(),
            settings,
            clock,
            any: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            policy: Arc::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    /// Whether [`refresh`](Self::refresh) has anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether `spec`'s services can be given certificates.
    pub(crate) fn check(&self, spec: &AppSpec) -> Result<(), PeerTlsError> {
        if is_asked(spec) {
            let mut state = self.state();
            if self.authorities.join(format!("{}.sealed", spec.name)).exists() {
                self.authority(&mut state, &spec.name)?;
            } else {
                self.seal(&mut state)?;
            }
        }
        Ok(())
    }

    /// These are all apps there are.
    pub(crate) fn want<'a>(&self, specs: impl Iterator<Item = &'a AppSpec>) {
        let modes = |spec: &AppSpec| -> BTreeMap<Name, PeerTls> {
            let of = |name: &Name| spec.services.get(name).map(mode).unwrap_or_default();
            spec.workloads().map(|(name, _)| (name.clone(), of(name))).collect()
        };
        let mut state = self.state();
        state.modes = specs.filter(|spec| is_asked(spec)).map(|spec| (spec.name.clone(), modes(spec))).collect();
        if !state.modes.is_empty() || state.running.is_some() {
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Addresses whose connections are redirected.
    pub(crate) fn guarded(&self) -> BTreeSet<IpAddr> {
        let state = self.state();
        let guarded = state.running.as_ref().and_then(|running| running.guarded.as_ref());
        guarded.map(|guarded| guarded.addresses.clone()).unwrap_or_default()
    }

    /// The bridge enforces this from now on.
    pub(crate) fn enforce(&self, policy: Policy, subnet6: Option<Subnet6>) {
        *self.policy.write().expect("no panic holds this lock") = OnBridgePolicy { policy, subnet6 };
    }

    /// All apps that are wanted are here and have claimed their ports.
    pub(crate) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Whether a container of `owner` must be told of: it is guarded, or its address may be known as another's.
    fn concerns(&self, owner: &Owner) -> bool {
        let state = self.state();
        let Owner::App { app, workload, .. } = owner else { return state.running.is_some() };
        state.running.is_some() || state.guards(app, workload)
    }

    /// Resolves when [`settle`](Self::settle) was called.
    async fn settled(&self) {
        // Nobody takes the sender away.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// The app is no more, and nobody trusts what its authority signed.
    pub(crate) fn forget(&self, app: &Name) {
        let mut state = self.state();
        if state.authorities.remove(app).is_none() && !self.authorities.exists() {
            return;
        }
        if let Err(error) = Authority::remove(&self.authorities, app) {
            tracing::warn!(%app, %error, "its authority stays");
        }
    }

    /// Begins a new root of `app`'s authority. Its services show certificates of that from now on.
    pub(crate) fn rotate(&self, app: &Name) -> Result<(), PeerTlsError> {
        let mut state = self.state();
        if !state.modes.contains_key(app) {
            return Err(PeerTlsError::NotAsked(app.clone()));
        }
        Ok(self.authority(&mut state, app)?.rotate_root()?)
    }

    fn seal(&self, state: &mut State) -> Result<Arc<SealKey>, PeerTlsError> {
        if let Some(seal) = &state.seal {
            return Ok(seal.clone());
        }
        Ok(state.seal.insert(Arc::new(SealKey::of_folder(&self.key_file, &self.folder)?)).clone())
    }

    fn authority(&self, state: &mut State, app: &Name) -> Result<Arc<Authority>, PeerTlsError> {
        if let Some(authority) = state.authorities.get(app) {
            return Ok(authority.clone());
        }
        let seal = self.seal(state)?;
        let life = Duration::from_secs(self.settings.certificate_secs.max(1));
        let authority = Authority::open(&self.authorities, seal, app, self.clock.clone(), life)?;
        Ok(state.authorities.entry(app.clone()).or_insert(authority).clone())
    }

    /// Instances, their readiness or their ports may have changed. `ready` and `ports` are asked by app and instance, and
    /// by app and service. On a failure all is as it was before. Must be called within a tokio runtime.
    pub(crate) fn refresh(
        &self,
        bridge: Option<OnBridge>,
        placed: Vec<Placed>,
        ready: impl Fn(&Name, &Name, &str) -> bool,
        ports: impl Fn(&Name, &Name) -> Vec<PortSpec>,
    ) -> Result<(), PeerTlsError> {
        let mut state = self.state();
        let is_time = *self.settled.borrow() && !state.ended;
        match bridge.filter(|_| is_time) {
            Some(bridge) => self.make_so(&mut state, &bridge, &placed, &ready, &ports),
            None => Ok(()),
        }
    }

    fn make_so(
        &self,
        state: &mut State,
        bridge: &OnBridge,
        placed: &[Placed],
        ready: &impl Fn(&Name, &Name, &str) -> bool,
        ports: &impl Fn(&Name, &Name) -> Vec<PortSpec>,
    ) -> Result<(), PeerTlsError> {
        let apps = self.apps(state, placed, ready, ports);
        if state.running.is_none() {
            state.running = Some(self.start(bridge)?);
        }
        let guarded: Vec<&Placed> = placed.iter().filter(|one| state.guards(&one.app, &one.workload)).collect();
        let of_all = |one: &Placed| {
            let own = [Some(one.address.into()), one.address6.map(IpAddr::V6)].into_iter().flatten();
            own.chain(one.virtual_addresses.clone()).collect::<Vec<IpAddr>>()
        };
        let requires = |one: &&&Placed| state.modes[&one.app][&one.workload] == PeerTls::Require;
        let services = state.modes.iter().flat_map(|(app, modes)| modes.keys().map(move |workload| (app, workload)));
        let published = services.filter(|(app, workload)| state.guards(app, workload));
        let published = published.flat_map(|(app, workload)| tcp(ports(app, workload)));
        let (addresses, closed) = (
            guarded.iter().copied().flat_map(of_all).collect(),
            guarded.iter().filter(requires).copied().flat_map(of_all).collect(),
        );
        let ports = published.map(|port| (port.host_ip, port.host)).collect::<BTreeSet<_>>();
        let running = state.running.as_mut().expect("it was started above");
        let wanted = Intercepted { proxy: running.proxy, proxy6: running.proxy6, addresses, closed, ports };
        // First whom they know, then who comes to them.
        running.peers.update(apps)?;
        if running.guarded.as_ref() != Some(&wanted) {
            running.intercept.set(&wanted)?;
            running.guarded = Some(wanted);
        }
        Ok(())
    }

    fn apps(
        &self,
        state: &mut State,
        placed: &[Placed],
        ready: &impl Fn(&Name, &Name, &str) -> bool,
        ports: &impl Fn(&Name, &Name) -> Vec<PortSpec>,
    ) -> Vec<App> {
        let mut apps: BTreeMap<&Name, BTreeMap<&Name, Workload>> = BTreeMap::new();
        for one in placed {
            let workloads = apps.entry(&one.app).or_default();
            let workload = workloads.entry(&one.workload).or_insert_with(|| {
                let modes = state.modes.get(&one.app);
                let published = tcp(ports(&one.app, &one.workload)).map(|port| Published {
                    host_ip: port.host_ip.filter(|ip| !ip.is_unspecified()),
                    host: port.host,
                    container: port.container,
                });
                Workload {
                    name: one.workload.clone(),
                    mode: modes.and_then(|modes| modes.get(&one.workload)).copied().unwrap_or_default(),
                    instances: Vec::new(),
                    virtual_addresses: one.virtual_addresses.clone(),
                    published: published.collect(),
                }
            });
            let addresses = [Some(one.address.into()), one.address6.map(IpAddr::V6)];
            workload.instances.push(Instance {
                key: one.instance.clone(),
                addresses: addresses.into_iter().flatten().collect(),
                ready: ready(&one.app, &one.workload, &one.instance),
                node: None,
            });
        }
        let with_authority = |(name, workloads): (&Name, BTreeMap<&Name, Workload>)| {
            let is_asked = state.modes.contains_key(name);
            let authority = is_asked.then(|| self.authority(state, name)).transpose().unwrap_or_else(|error| {
                // Its services are guarded all the same: nobody reaches them.
                tracing::error!(app = %name, %error, "its services have no certificates");
                None
            });
            App { name: name.clone(), authority, workloads: workloads.into_values().collect() }
        };
        apps.into_iter().map(with_authority).collect()
    }

    fn start(&self, bridge: &OnBridge) -> Result<Running, PeerTlsError> {
        let link = LinkName::new(bridge.name.as_str())?;
        // A connection takes four descriptors, and the usual limit is 1024; where it cannot be raised, that is the limit.
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = limit.maximum;
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);

        let outbound = listen(bridge.gateway.into(), OUTBOUND_PORT)?;
        let outbound6 = bridge.gateway6.map(|gateway| listen(gateway.into(), OUTBOUND_PORT)).transpose()?;
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let inbound = listen(here, INBOUND_PORT)?;
        let failed = |source| PeerTlsError::Listen { address: bridge.gateway.into(), source };
        let outbound: Vec<TcpListener> = [Some(outbound), outbound6].into_iter().flatten().collect();
        let peers = Peers::start(Config { outbound, inbound, halves: vec![here], limits: Limits::default() })
            .map_err(failed)?;
        let port = |index: usize| peers.outbound().get(index).map(SocketAddr::port);
        let proxy = SocketAddrV4::new(bridge.gateway, port(0).expect("there is one at least"));
        let proxy6 = bridge.gateway6.zip(port(1)).map(|(gateway, port)| SocketAddrV6::new(gateway, port, 0, 0));
        tracing::info!(outbound = ?peers.outbound(), inbound = %peers.inbound(), "services are encrypted between");
        let policy = self.policy.clone();
        peers.set_policy(Arc::new(move |from, to| policy.read().expect("no panic holds this lock").denies(from, to)));
        let mut intercept = Intercept::open(&self.key, &link)?;
        let words: Vec<String> = intercept.closed_input(proxy.port())?.into_iter().map(|word| word.0).collect();
        words.iter().for_each(|word| tracing::warn!("{word}"));
        Ok(Running { peers, intercept, proxy, proxy6, guarded: None, words })
    }

    /// Puts the rules back if something outside took them away; true when it did.
    pub(crate) fn reassert(&self) -> Result<bool, NetworkError> {
        match &mut self.state().running {
            Some(running) => Ok(running.intercept.assert_rules()? == Asserted::Restored),
            None => Ok(false),
        }
    }

    /// Takes the rules away (the node stops with all its containers).
    pub(crate) fn remove(&self) {
        let mut state = self.state();
        // Instances that end still tell; nothing is made anew for them.
        state.ended = true;
        if let Some(running) = state.running.take()
            && let Err(error) = running.intercept.remove()
        {
            tracing::warn!(%error, "cannot remove the rules of encryption between services");
        }
    }

    /// What the operator should know, found when the halves were started.
    pub(crate) fn words(&self) -> Vec<String> {
        self.state().running.as_ref().map(|running| running.words.clone()).unwrap_or_default()
    }

    /// `None` while nothing is encrypted.
    pub(crate) fn metrics(&self) -> Option<PeerSnapshot> {
        self.state().running.as_ref().map(|running| running.peers.snapshot())
    }
}

impl Containers {
    /// Tells the halves of the instances there are, where a service has `tls.peer`.
    pub(crate) fn refresh_peers(&self) {
        if self.traffic.peers().is_needed()
            && let Err(error) = self.tell_peers()
        {
            tracing::error!(%error, "encryption between services is as it was before");
        }
    }

    /// The same before a container's first process runs, which is not to be where it is not known or guarded.
    pub(crate) async fn admit_to_peers(&self, owner: &Owner) -> Result<(), PeerTlsError> {
        let peers = self.traffic.peers();
        if !peers.is_needed() {
            return Ok(());
        }
        peers.settled().await;
        self.tell_peers().or_else(|error| {
            if peers.concerns(owner) {
                return Err(error);
            }
            tracing::error!(%error, "nothing is encrypted between services");
            Ok(())
        })
    }

    fn tell_peers(&self) -> Result<(), PeerTlsError> {
        let peers = self.traffic.peers();
        let placed = self.table.all().into_iter().filter_map(|container| {
            let Owner::App { app, workload, instance } = &container.owner else { return None };
            let home = |record: &Record| record.address.or(record.home.as_ref().map(|home| home.address));
            let address = container.read(home)?;
            let address6 = self.network.address6(address);
            Some(Placed {
                app: app.clone(),
                workload: workload.clone(),
                instance: instance.clone(),
                address,
                address6,
                virtual_addresses: self.traffic.virtual_addresses(app, workload),
            })
        });
        peers.refresh(
            self.network.on_bridge(),
            placed.collect(),
            |app, workload, instance| self.traffic.is_ready(app, workload, instance),
            |app, workload| self.network.ports_of(&format!("{app}/{workload}")),
        )
    }
}

fn tcp(ports: Vec<PortSpec>) -> impl Iterator<Item = PortSpec> {
    ports.into_iter().filter(|port| port.protocol == Protocol::Tcp)
}

/// On the usual port, or any other where that is taken: who is to come there is told.
fn listen(address: IpAddr, port: u16) -> Result<TcpListener, PeerTlsError> {
    let bound = TcpListener::bind((address, port)).or_else(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => TcpListener::bind((address, 0)),
        _ => Err(error),
    });
    bound.map_err(|source| PeerTlsError::Listen { address, source })
}
