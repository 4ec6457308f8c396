//! The node's part of the network: addresses, published ports, and the files that tell containers of names.
//!
//! The bridge is made when the first container wants it, so an idle node has none. Leases and claims are in
//! memory: a returning daemon makes them again from what runs. Published ports are claimed before they are
//! routed, with the host's own socket bound for the check, so that a port in use is an error at `up` and not a
//! silent failure later.

mod fast_path;
mod looks;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use coppice_api::ErrorKind;
use coppice_base::{Clock, ContainerId, Name, Random, SystemRandom};
use coppice_container::Network;
use coppice_network::{
    Address, Asserted, Backend, Bridge, BridgeConfig, Ipam, LinkName, PortKey, Published, RulesWatch, Subnet4, Subnet6,
    Wanted, hold_port, resolv_conf,
};
use coppice_spec::{PortSpec, Protocol};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::container::Home;
use crate::network::fast_path::FastPath;
pub(crate) use crate::network::fast_path::Work;
use crate::network::rules::Rules;
use crate::peer::OnBridge;
use crate::root::replace_file;
use crate::settings::NetworkSettings;

/// Name → addresses, as containers of one app see them.
pub(crate) type Names = BTreeMap<String, Vec<Ipv4Addr>>;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot set the network up: {0}")]
    Host(#[from] coppice_network::NetworkError),
    #[error("no address is left: {0}")]
    Address(#[from] coppice_network::IpamError),
    #[error("{0}")]
    Port(#[from] coppice_network::PortError),
    #[error("host port {port}/{protocol} is published by {holder} already: stop that, or publish another port")]
    PortTaken { port: u16, protocol: &'static str, holder: String },
    #[error("cannot wait for changes of the network's rules: {0}")]
    Watch(std::io::Error),
    #[error("network.subnet in the settings: {0}")]
    Subnet(String),
}

impl NetworkError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Host(_) | Self::Watch(_) => ErrorKind::Internal,
            Self::Address(_) | Self::Port(_) | Self::PortTaken { .. } => ErrorKind::Conflict,
            Self::Subnet(_) => ErrorKind::Invalid,
        }
    }
}

/// How long an address that was given back is nobody's: answers of the name server are kept for at most their time to
/// live, and programs hold on to theirs for a while longer.
const REST_MS: u64 = (coppice_dns::TTL_MAX_S as u64 + 60) * 1000;

// Services' virtual addresses rest as long; the agreed state knows of no name server.
const _: () = assert!(REST_MS == coppice_state::SERVICE_ADDRESS_REST_MS);

pub(crate) struct NodeNetwork {
    key: String,
    clock: Arc<dyn Clock>,
    subnet: Option<String>,
    /// Where the routes are kept for the next daemon.
    kept: PathBuf,
    bridge: OnceLock<Joined>,
    /// Making the bridge, once.
    making: Mutex<()>,
    /// The bridge is there.
    made: Notify,
    /// Claimed host ports, and who has them.
    claims: Mutex<BTreeMap<Claim, String>>,
    /// Routed ports of each owner: what is in the kernel now.
    routed: Mutex<BTreeMap<String, Routes>>,
    owners: Mutex<BTreeMap<String, Vec<PortSpec>>>,
    /// Addresses of instances, whether they run or not. Taken as soon as there is a bridge.
    homes: Mutex<BTreeSet<Ipv4Addr>>,
    /// Locked before the bridge.
    rules: Mutex<Rules>,
    /// Flows of datagrams that a thread is about to forget.
    stale: Arc<Mutex<rules::Forgetting>>,
    /// Use BPF where the kernel has it.
    bpf: bool,
    /// And have it lead published ports.
    xdp: bool,
    fast_path: Arc<FastPath>,
}

/// Published ports and where each leads.
type Routes = Vec<(PortKey, Vec<Backend>)>;

type Claim = (Option<IpAddr>, Protocol, u16);

struct Joined {
    /// `None` once it is removed.
    bridge: Mutex<Option<Bridge>>,
    subnet: Subnet4,
    subnet6: Option<Subnet6>,
    addresses: Mutex<Ipam>,
    words: Vec<String>,
    watch: Option<(AsyncFd<OwnedFd>, Mutex<RulesWatch>)>,
}

impl Joined {
    /// Takes the link of an earlier run away, which answers for the same address until the kernel comes to it.
    fn take_away(&self, link: &str) {
        let bridge = self.bridge.lock().expect("no panic holds this lock");
        let taken = match &*bridge {
            Some(bridge) => LinkName::new(link).and_then(|link| bridge.attacher()?.detach(&link)),
            None => Ok(()),
        };
        if let Err(error) = taken {
            tracing::warn!(link, %error, "cannot take the link of an earlier run away");
        }
    }
}

impl NodeNetwork {
    /// `kept`: a file for the routes, so that a daemon that returns goes on with them and no port closes meanwhile.
    pub(crate) fn new(key: &str, settings: &NetworkSettings, kept: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let rules = Rules::kept(&rules_file(&kept));
        Self {
            rules: Mutex::new(rules),
            stale: Arc::default(),
            bpf: settings.bpf,
            xdp: settings.bpf && settings.xdp,
            fast_path: FastPath::new(kept.with_file_name("bpf"), settings.xdp),
            key: key.to_owned(),
            clock,
            subnet: settings.subnet.clone(),
            kept,
            bridge: OnceLock::new(),
            making: Mutex::default(),
            made: Notify::new(),
            claims: Mutex::default(),
            routed: Mutex::default(),
            owners: Mutex::default(),
            homes: Mutex::default(),
        }
    }

    pub(crate) fn bridge_name(&self) -> String {
        format!("cop{}", self.key)
    }

    /// `10.88.0.0/16`; empty while there is no bridge.
    pub(crate) fn subnet(&self) -> String {
        self.bridge.get().map(|joined| joined.subnet.to_string()).unwrap_or_default()
    }

    /// None while there is no bridge, and where the machine has no IPv6.
    pub(crate) fn subnet6(&self) -> Option<Subnet6> {
        self.bridge.get().and_then(|joined| joined.subnet6)
    }

    pub(crate) fn words(&self) -> Vec<String> {
        self.bridge.get().map(|joined| joined.words.clone()).unwrap_or_default()
    }

    fn joined(&self) -> Result<&Joined, NetworkError> {
        if let Some(joined) = self.bridge.get() {
            return Ok(joined);
        }
        let _making = self.making.lock().expect("no panic holds this lock");
        if let Some(joined) = self.bridge.get() {
            return Ok(joined);
        }
        let mut config = BridgeConfig::of(&self.key)?;
        if let Some(text) = &self.subnet {
            config.subnet =
                Some(text.parse().map_err(|e: coppice_network::NetworkError| NetworkError::Subnet(e.to_string()))?);
        }
        let routes = self.kept_routes();
        let published = routes.values().flatten().cloned().collect();
        let rules = self.rules.lock().expect("no panic holds this lock");
        let kept = Wanted {
            published,
            services: rules.services.clone(),
            policy: rules.policy.clone(),
            classes: rules.classes.clone(),
        };
        let ensured = Bridge::ensure_with(&config, &kept).or_else(|error| match error {
            // Of another subnet, which this node had before: apps tell theirs anew.
            coppice_network::NetworkError::NotVirtual { .. } | coppice_network::NetworkError::NotAContainer { .. } => {
                Bridge::ensure_with(&config, &Wanted { services: Vec::new(), ..kept })
            }
            error => Err(error),
        });
        let (bridge, words) = ensured?;
        *self.routed.lock().expect("no panic holds this lock") = routes
            .into_iter()
            .map(|(owner, ports)| (owner, ports.into_iter().map(|p| (p.key, p.backends)).collect()))
            .collect();
        let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
        for word in &words {
            tracing::info!("{word}");
        }
        let (subnet, subnet6) = (bridge.subnet(), bridge.subnet6());
        let watch = watch_rules(&bridge)
            .inspect_err(|error| tracing::warn!(%error, "the network's rules are looked at from time to time only"))
            .ok();
        let mut addresses = Ipam::containers(subnet, REST_MS);
        for home in &*self.homes.lock().expect("no panic holds this lock") {
            // One of another subnet is given up with the next start.
            let _ = addresses.reserve(*home);
        }
        if let Some(earlier) = self.kept_addresses() {
            addresses.resume(&earlier);
        }
        let (bridge, addresses) = (Mutex::new(Some(bridge)), Mutex::new(addresses));
        let joined = self.bridge.get_or_init(|| Joined { bridge, subnet, subnet6, addresses, words, watch });
        drop(rules);
        self.made.notify_one();
        Ok(joined)
    }

    /// What a daemon before this one had routed.
    fn kept_routes(&self) -> BTreeMap<String, Vec<Published>> {
        let kept = std::fs::read(&self.kept).ok();
        kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Beside the routes.
    fn addresses_file(&self) -> PathBuf {
        self.kept.with_file_name("addresses.json")
    }

    /// What a daemon before this one knew of addresses that rest.
    fn kept_addresses(&self) -> Option<Ipam> {
        serde_json::from_slice(&std::fs::read(self.addresses_file()).ok()?).ok()
    }

    /// Gives an address back, for others to have once nobody can know it as its last owner's any more.
    fn rest(&self, joined: &Joined, address: Ipv4Addr) {
        let mut addresses = joined.addresses.lock().expect("no panic holds this lock");
        if !addresses.release(address, self.clock.now().0) {
            return;
        }
        let kept = serde_json::to_vec(&*addresses).map_err(std::io::Error::other);
        if let Err(error) = kept.and_then(|bytes| replace_file(&self.addresses_file(), &bytes)) {
            tracing::warn!(%error, "cannot keep which addresses rest: one may be given again too soon by the next daemon");
        }
        drop(addresses);
        let forgotten = match joined.bridge.lock().expect("no panic holds this lock").as_mut() {
            Some(bridge) => bridge.forget_address(address),
            None => Ok(()),
        };
        if let Err(error) = forgotten {
            tracing::warn!(%address, %error, "the bridge keeps an address that is nobody's");
        }
    }

    fn keep_routes(&self, routed: &BTreeMap<String, Vec<(PortKey, Vec<Backend>)>>) {
        let published = |ports: &Vec<(PortKey, Vec<Backend>)>| -> Vec<Published> {
            ports.iter().map(|(key, backends)| Published { key: *key, backends: backends.clone() }).collect()
        };
        let routes: BTreeMap<&String, Vec<Published>> = routed
            .iter()
            .filter(|(_, ports)| !ports.is_empty())
            .map(|(owner, ports)| (owner, published(ports)))
            .collect();
        let kept = serde_json::to_vec(&routes).map_err(std::io::Error::other);
        if let Err(error) = kept.and_then(|bytes| replace_file(&self.kept, &bytes)) {
            tracing::warn!(%error, "cannot keep the routes: ports close for a moment when the daemon starts anew");
        }
    }

    /// Closes ports of owners that are no more. Once, when a returning daemon's apps and containers have claimed theirs.
    pub(crate) fn drop_unclaimed(&self) {
        if self.kept_routes().is_empty() {
            return;
        }
        if let Err(error) = self.joined() {
            tracing::warn!(%error, "cannot close ports that nobody has any more");
            return;
        }
        let owners = self.owners.lock().expect("no panic holds this lock").clone();
        let routed: Vec<String> = self.routed.lock().expect("no panic holds this lock").keys().cloned().collect();
        for owner in routed.iter().filter(|owner| !owners.contains_key(*owner)) {
            self.release_ports(owner);
        }
    }

    /// An address and a link for a container; for an instance that had one before, its home.
    pub(crate) fn lease(&self, id: &ContainerId, home: Option<Home>) -> Result<Network, NetworkError> {
        let joined = self.joined()?;
        let address = match home {
            Some(home) if joined.subnet.containers().contains(home.address) => {
                joined.take_away(&home.link);
                home.address
            }
            other => {
                if let Some(home) = other {
                    self.give_up(&home);
                }
                joined.addresses.lock().expect("no panic holds this lock").allocate(self.clock.now().0)?
            }
        };
        Ok(Network::Bridge {
            bridge: self.bridge_name(),
            host_device: host_device(id),
            address,
            prefix: joined.subnet.prefix(),
            gateway: joined.subnet.gateway(),
            v6: Address::of(address, joined.subnet, joined.subnet6).v6,
        })
    }

    /// An instance's address is its own from now on; false when another one's is the same.
    pub(crate) fn keep(&self, home: &Home) -> bool {
        let fresh = self.homes.lock().expect("no panic holds this lock").insert(home.address);
        if let (true, Some(joined)) = (fresh, self.bridge.get()) {
            // Outside of the subnet it is of no use, and given up with the next start.
            let _ = joined.addresses.lock().expect("no panic holds this lock").reserve(home.address);
        }
        fresh
    }

    /// The instance is no more.
    pub(crate) fn give_up(&self, home: &Home) {
        self.homes.lock().expect("no panic holds this lock").remove(&home.address);
        if let Some(joined) = self.bridge.get() {
            self.rest(joined, home.address);
        }
    }

    /// A container that runs already has this address.
    pub(crate) fn adopt(&self, id: &ContainerId, address: Ipv4Addr) {
        let adopted = self.joined().and_then(|joined| {
            // A bridge that was set down meanwhile has forgotten it.
            if let Some(bridge) = joined.bridge.lock().expect("no panic holds this lock").as_mut() {
                bridge.know(&[address])?;
            }
            if self.homes.lock().expect("no panic holds this lock").contains(&address) {
                return Ok(());
            }
            joined.addresses.lock().expect("no panic holds this lock").reserve(address).map_err(NetworkError::from)
        });
        if let Err(error) = adopted {
            tracing::warn!(%id, %address, %error, "a running container's address is not known to be taken");
        }
    }

    /// Gives an address back. The link went with the container's namespace.
    pub(crate) fn release(&self, _id: &ContainerId, address: Option<Ipv4Addr>) {
        if let (Some(joined), Some(address)) = (self.bridge.get(), address) {
            self.rest(joined, address);
        }
    }

    /// Claims host ports for `owner`, choosing those that are 0. What it had claimed before and does not name
    /// now is given up.
    pub(crate) fn claim_ports(&self, owner: &str, ports: &[PortSpec]) -> Result<Vec<PortSpec>, NetworkError> {
        let mut claims = self.claims.lock().expect("no panic holds this lock");
        let mut chosen = Vec::new();
        for port in ports {
            let clash = claims.iter().find(|((ip, protocol, host), holder)| {
                *holder != owner
                    && port.host != 0
                    && (*protocol, *host) == (port.protocol, port.host)
                    && (ip.is_none() || port.host_ip.is_none() || *ip == port.host_ip)
            });
            if let Some((_, holder)) = clash {
                let holder = holder.clone();
                return Err(NetworkError::PortTaken {
                    port: port.host,
                    protocol: protocol_name(port.protocol),
                    holder,
                });
            }
            let mine = claims.get(&(port.host_ip, port.protocol, port.host)).is_some_and(|holder| holder == owner);
            let host = if mine {
                port.host
            } else {
                // Bound for a moment: a program that listens there is found, and 0 gets a free one.
                hold_port(port.host_ip, protocol(port.protocol), port.host)?.port()
            };
            chosen.push(PortSpec { host, ..*port });
        }
        claims.retain(|_, holder| holder != owner);
        for port in &chosen {
            claims.insert((port.host_ip, port.protocol, port.host), owner.to_owned());
        }
        drop(claims);
        self.owners.lock().expect("no panic holds this lock").insert(owner.to_owned(), chosen.clone());
        Ok(chosen)
    }

    /// Whether [`claim_ports`](Self::claim_ports) would succeed, without claiming.
    pub(crate) fn check_ports(&self, owner: &str, ports: &[PortSpec]) -> Result<(), NetworkError> {
        let claims = self.claims.lock().expect("no panic holds this lock");
        for port in ports.iter().filter(|port| port.host != 0) {
            let mut same = claims.iter().filter(|((ip, protocol, host), _)| {
                (*protocol, *host) == (port.protocol, port.host)
                    && (ip.is_none() || port.host_ip.is_none() || *ip == port.host_ip)
            });
            match same.next() {
                Some((_, holder)) if holder != owner => {
                    let holder = holder.clone();
                    return Err(NetworkError::PortTaken {
                        port: port.host,
                        protocol: protocol_name(port.protocol),
                        holder,
                    });
                }
                Some(_) => {}
                None => drop(hold_port(port.host_ip, protocol(port.protocol), port.host)?),
            }
        }
        Ok(())
    }

    /// Points all of `owner`'s ports at these containers; none: the ports are closed.
    pub(crate) fn route(&self, owner: &str, addresses: &[Ipv4Addr]) -> Result<(), NetworkError> {
        let ports = self.owners.lock().expect("no panic holds this lock").get(owner).cloned().unwrap_or_default();
        let wanted: Routes = if addresses.is_empty() {
            Vec::new()
        } else {
            let backends = |port: &PortSpec| {
                addresses.iter().map(|ip| Backend { ip: *ip, port: port.container }).collect::<Vec<_>>()
            };
            ports.iter().map(|port| (port_key(port), backends(port))).collect()
        };
        if !wanted.is_empty() {
            // First: it brings what was routed before.
            self.joined()?;
        }
        let mut routed = self.routed.lock().expect("no panic holds this lock");
        let before = routed.get(owner).cloned().unwrap_or_default();
        if before == wanted {
            return Ok(());
        }
        let joined = self.joined()?;
        let gone: Vec<PortKey> =
            before.iter().map(|(key, _)| *key).filter(|key| !wanted.iter().any(|(new, _)| new == key)).collect();
        let published: Vec<Published> =
            wanted.iter().map(|(key, backends)| Published { key: *key, backends: backends.clone() }).collect();
        if let Some(bridge) = joined.bridge.lock().expect("no panic holds this lock").as_mut() {
            bridge.unpublish(&gone)?;
            bridge.publish(&published)?;
        }
        routed.insert(owner.to_owned(), wanted);
        self.keep_routes(&routed);
        self.lead(&routed);
        Ok(())
    }

    pub(crate) fn release_ports(&self, owner: &str) {
        if let Err(error) = self.route(owner, &[]) {
            tracing::warn!(owner, %error, "cannot close its ports");
        }
        self.routed.lock().expect("no panic holds this lock").remove(owner);
        self.owners.lock().expect("no panic holds this lock").remove(owner);
        self.claims.lock().expect("no panic holds this lock").retain(|_, holder| holder != owner);
    }

    /// Puts the rules back if something outside took them away; true when it did.
    pub(crate) fn reassert(&self) -> Result<bool, NetworkError> {
        let Some(joined) = self.bridge.get() else { return Ok(false) };
        let restored = match joined.bridge.lock().expect("no panic holds this lock").as_mut() {
            Some(bridge) => bridge.assert_rules()? == Asserted::Restored,
            None => return Ok(false),
        };
        self.follow_hooks();
        self.lead_ports();
        Ok(restored)
    }

    /// Resolves when rules were changed by anyone but the bridge itself, or were made in the first place.
    pub(crate) async fn rules_changed(&self) {
        let Some(joined) = self.bridge.get() else { return self.made.notified().await };
        let Some((fd, watch)) = joined.watch.as_ref() else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = fd.readable().await else { return std::future::pending().await };
            let changed = watch.lock().expect("no panic holds this lock").changed();
            ready.clear_ready();
            if !matches!(changed, Ok(false)) {
                return;
            }
        }
    }

    /// Takes the bridge and the rules away (the node stops with all its containers).
    pub(crate) fn remove(&self) {
        let Some(joined) = self.bridge.get() else { return };
        self.fast_path.remove();
        if let Some(bridge) = joined.bridge.lock().expect("no panic holds this lock").take()
            && let Err(error) = bridge.remove()
        {
            tracing::warn!(%error, "cannot remove the bridge");
        }
    }

    /// The bridge by name and its own addresses; none while there is no bridge.
    pub(crate) fn on_bridge(&self) -> Option<OnBridge> {
        let joined = self.bridge.get()?;
        let (name, gateway) = (self.bridge_name(), joined.subnet.gateway());
        Some(OnBridge { name, gateway, gateway6: joined.subnet6.map(|subnet| subnet.address(gateway)) })
    }

    /// The IPv6 address that belongs to one of the bridge's.
    pub(crate) fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        Some(self.bridge.get()?.subnet6?.address(address))
    }

    /// The ports that `owner` has claimed.
    pub(crate) fn ports_of(&self, owner: &str) -> Vec<PortSpec> {
        self.owners.lock().expect("no panic holds this lock").get(owner).cloned().unwrap_or_default()
    }

    /// The bridge's own address; none while there is no bridge.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.bridge.get().map(|joined| joined.subnet.gateway())
    }

    /// resolv.conf for a container: the host's own on the host's network, else without its loopback servers. `names`:
    /// the node's name server, which comes first on a bridge. The host's follow it, so that the world's names resolve
    /// while there is no daemon.
    pub(crate) fn resolv_conf(&self, network: &Network, names: Option<Ipv4Addr>, app: Option<&Name>) -> String {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        match (network, names) {
            (Network::Host, _) => text,
            (Network::Bridge { .. }, Some(server)) => {
                let app = app.map(|app| format!("{app}.{} ", coppice_dns::DOMAIN)).unwrap_or_default();
                resolv_conf(&text, Some((server.into(), &format!("{app}{}", coppice_dns::DOMAIN))))
            }
            _ => resolv_conf(&text, None),
        }
    }
}

/// Beside the routes.
fn rules_file(routes: &Path) -> PathBuf {
    routes.with_file_name("rules.json")
}

fn watch_rules(bridge: &Bridge) -> Result<(AsyncFd<OwnedFd>, Mutex<RulesWatch>), NetworkError> {
    let mut watch = Bridge::watch()?;
    watch.overlook(bridge)?;
    #[expect(deprecated, reason = "its replacement is unsafe; for an OwnedFd this one is sound")]
    let fd = watch.as_fd().try_clone_to_owned().and_then(AsyncFd::new).map_err(NetworkError::Watch)?;
    Ok((fd, Mutex::new(watch)))
}

/// 15 characters at most (IFNAMSIZ less its NUL): `cp`, 8 digits of the id, and 4 of this run. The kernel takes the link
/// of a run that has ended away when it comes to it, so a quick restart may meet it there.
fn host_device(id: &ContainerId) -> String {
    format!("cp{:.8}{:04x}", id.short(), SystemRandom.below(1 << 16))
}

fn port_key(port: &PortSpec) -> PortKey {
    PortKey { host_ip: port.host_ip, protocol: protocol(port.protocol), host: port.host }
}

fn protocol(protocol: Protocol) -> coppice_network::Protocol {
    match protocol {
        Protocol::Tcp => coppice_network::Protocol::Tcp,
        Protocol::Udp => coppice_network::Protocol::Udp,
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
