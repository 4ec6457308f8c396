//! A node's bridge and its rules: made when missing, adopted when there, restored when another program removed them.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::address::{Address, LinkName, Subnet4, Subnet6};
use crate::assert::{Counted, Known};
use crate::attach::{Attacher, set_port};
use crate::class::{self, TrafficClasses};
use crate::conntrack::{Flow, StaleDatagrams};
use crate::elements::{Denials, Ports, Services};
use crate::error::{NetworkError, cannot};
use crate::netlink::{Batch, Socket};
use crate::nft::Transaction;
use crate::policy::{Drops, Identity, Policy};
use crate::ports::{PortKey, Protocol, Published};
use crate::rules::{Made, Shape};
use crate::service::VirtualService;
use crate::sysctl::Hooks;
use crate::{Word, conntrack, elements, link, rules, sysctl};

/// What a node wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// The rules are the table `coppice-<key>`; unique per node root on a machine.
    pub key: String,
    pub name: LinkName,
    /// `None`: the one that the bridge has, or the first /16 from 10.88 to 10.127 that no route overlaps.
    pub subnet: Option<Subnet4>,
    /// Containers reach beyond the host, as the host. Without it only published ports cross.
    pub nat: bool,
    /// Largest packet in bytes; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
}

impl BridgeConfig {
    /// The usual for the node root `key`: a bridge `cop<key>`, as much of it as a link's name has room for.
    pub fn of(key: &str) -> Result<Self, NetworkError> {
        check_key(key)?;
        let name = LinkName::new(format!("cop{}", &key[..key.len().min(12)]))?;
        Ok(Self { key: key.to_owned(), name, subnet: None, nat: true, mtu: None })
    }
}

fn check_key(key: &str) -> Result<(), NetworkError> {
    let good =
        (1..=64).contains(&key.len()) && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if good { Ok(()) } else { Err(NetworkError::BadKey(key.to_owned())) }
}

/// What a bridge does for its containers. A process of the node that returns gives what one before it had set, so that
/// no port closes, no service is away and nothing that is denied passes for a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    pub published: Vec<Published>,
    pub services: Vec<VirtualService>,
    pub policy: Policy,
    pub classes: TrafficClasses,
}

/// A node's bridge, up, with its rules in force.
#[derive(Debug)]
pub struct Bridge {
    config: BridgeConfig,
    pub(crate) table: String,
    index: u32,
    subnet: Subnet4,
    subnet6: Option<Subnet6>,
    /// What it bridges passes IP's hooks.
    pub(crate) hooked: bool,
    hooks: Hooks,
    pub(crate) route: Socket,
    pub(crate) netfilter: Socket,
    pub(crate) published: Ports,
    pub(crate) services: Services,
    pub(crate) policy: Policy,
    pub(crate) denials: Denials,
    pub(crate) classes: TrafficClasses,
    pub(crate) made: Made,
    /// The state of the ruleset in which the table was last known to be ours whole.
    pub(crate) known: Option<Known>,
    /// Packets dropped for each denied pair.
    pub(crate) counted: BTreeMap<(Identity, Identity), Counted>,
}

impl Bridge {
    /// Makes the bridge and its table, or adopts the bridge and replaces the table, with nothing
    /// [wanted](Self::ensure_with). Existing containers' links stay.
    ///
    /// Turns on forwarding of IPv4 and IPv6 where it is off, and says so; what else it changes, it says too.
    pub fn ensure(config: &BridgeConfig) -> Result<(Self, Vec<Word>), NetworkError> {
        Self::ensure_with(config, &Wanted::default())
    }

    /// [`ensure`](Self::ensure), with this from the start.
    pub fn ensure_with(config: &BridgeConfig, wanted: &Wanted) -> Result<(Self, Vec<Word>), NetworkError> {
        check_key(&config.key)?;
        let mut route = Socket::route().map_err(cannot("open a netlink socket"))?;
        let netfilter = Socket::netfilter().map_err(cannot("open a netfilter socket"))?;
        let read = cannot("read this machine's links");
        let (index, has) = match link::find(&mut route, config.name.as_str()).map_err(read)? {
            Some(link) if link.kind == "bridge" => {
                let addresses = link::address_subnets(&mut route).map_err(cannot("read this machine's addresses"))?;
                let own = addresses.iter().find(|(of, ip, subnet)| *of == link.index && subnet.gateway() == *ip);
                (Some(link.index), own.map(|(_, _, subnet)| *subnet))
            }
            Some(_) => return Err(NetworkError::NotABridge(config.name.to_string())),
            None => (None, None),
        };
        let subnet = match (has, config.subnet) {
            (Some(has), Some(wanted)) if has != wanted => {
                let bridge = config.name.to_string();
                return Err(NetworkError::OtherSubnet { bridge, has, wanted });
            }
            (Some(has), _) => has,
            (None, wanted) => choose_subnet(&mut route, wanted)?,
        };
        let index = match index {
            Some(index) => index,
            None => {
                match link::add_bridge(&mut route, &config.name, subnet.gateway(), config.mtu) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(cannot("make the bridge")(errno)),
                }
                let made = link::find(&mut route, config.name.as_str()).map_err(cannot("find the bridge just made"))?;
                made.ok_or(Errno::NODEV).map_err(cannot("find the bridge just made"))?.index
            }
        };
        link::raise(&mut route, index, subnet).map_err(cannot("give the bridge its address"))?;
        let mut words = Vec::new();
        let subnet6 = Subnet6::of_key(&config.key);
        let subnet6 = match link::raise6(&mut route, index, subnet6, subnet.gateway()) {
            Ok(()) => Some(subnet6),
            Err(errno) => {
                words.push(Word(format!(
                    "This machine gives {} no IPv6 address ({errno}; net.ipv6.conf.all.disable_ipv6 or ipv6.disable may be \
                     set): containers have IPv4 only.",
                    config.name
                )));
                None
            }
        };
        words.extend(sysctl::prepare(&config.name, subnet6.is_some())?);
        let mut published = Ports::new();
        for port in &wanted.published {
            elements::check(&port.key, &port.backends)?;
            published.insert(port.key, port.backends.clone());
        }
        let hooked = link::find(&mut route, config.name.as_str())
            .map_err(cannot("find the bridge"))?
            .is_some_and(|link| link.hooked);
        let mut bridge = Self {
            table: format!("coppice-{}", config.key),
            config: config.clone(),
            index,
            subnet,
            subnet6,
            hooked,
            hooks: Hooks::open(),
            route,
            netfilter,
            published,
            services: service_slots(&wanted.services, subnet)?,
            policy: wanted.policy.clone(),
            denials: Denials::of(&wanted.policy),
            classes: wanted.classes.clone(),
            made: Made::default(),
            known: None,
            counted: BTreeMap::new(),
        };
        bridge.follow_hooks()?;
        bridge.install()?;
        words.extend(bridge.closed_forwarding().map_err(cannot("read the network rules"))?);
        Ok((bridge, words))
    }

    /// Whether what it bridges passes IP's hooks (`br_netfilter`, which docker loads): rules see packets before the
    /// bridge's own device does then.
    pub fn is_hooked(&self) -> bool {
        self.hooked
    }

    /// Where bridged frames have come to pass IP's hooks, has this bridge's pass them for good and lets its ports
    /// reach each other, by those hooks; true when that is new.
    pub(crate) fn follow_hooks(&mut self) -> Result<bool, NetworkError> {
        if self.hooked || !self.hooks.are_on() {
            return Ok(false);
        }
        let changed = link::hook(&mut self.route, self.index).and_then(|()| {
            link::ports_of(&mut self.route, self.index)?.into_iter().try_for_each(|port| {
                let mut batch = Batch::new();
                set_port(&mut batch, port, true);
                batch.acknowledge();
                match self.route.exchange(&mut batch) {
                    Err(Errno::NODEV) => Ok(()), // it has gone meanwhile
                    done => done,
                }
            })
        });
        changed.map_err(cannot("have the bridge's frames pass the network rules"))?;
        self.hooked = true;
        Ok(true)
    }

    /// The link's index, for [`Attacher::open`].
    pub fn index(&self) -> u32 {
        self.index
    }

    pub fn name(&self) -> &LinkName {
        &self.config.name
    }

    pub fn subnet(&self) -> Subnet4 {
        self.subnet
    }

    /// The IPv6 subnet, a function of the node's key; `None` where the machine has no IPv6.
    pub fn subnet6(&self) -> Option<Subnet6> {
        self.subnet6
    }

    /// The bridge's own address, the containers' default route.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// What a container with `ip` is configured with.
    pub fn address_for(&self, ip: Ipv4Addr) -> Address {
        Address::of(ip, self.subnet, self.subnet6)
    }

    pub fn attacher(&self) -> Result<Attacher, NetworkError> {
        Attacher::open(self.index)
    }

    /// What is published now.
    pub fn published(&self) -> impl Iterator<Item = Published> {
        self.published.iter().map(|(key, backends)| Published { key: *key, backends: backends.clone() })
    }

    pub(crate) fn install(&mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        let shape = Shape {
            bridge: &self.config.name,
            index: self.index,
            subnet: self.subnet,
            subnet6: self.subnet6,
            nat: self.config.nat,
            hooked: self.hooked,
        };
        self.made =
            rules::install(&mut transaction, &shape, &self.published, &self.services, &self.denials, &self.classes);
        self.known = None;
        transaction.commit(&mut self.netfilter).map_err(cannot("set the network rules"))
    }

    /// Carries out changes of elements; false when the table is not as it was made, so that it is to be made whole.
    fn change(&mut self, transaction: Transaction<'_>, action: &'static str) -> Result<bool, NetworkError> {
        match transaction.commit(&mut self.netfilter) {
            Ok(()) => {
                self.known = None;
                Ok(true)
            }
            // Somebody removed the table or elements of it.
            Err(Errno::NOENT | Errno::EXIST) => Ok(false),
            Err(errno) => Err(cannot(action)(errno)),
        }
    }

    /// Publishes ports, or moves published ones to other backends, all at once or not at all. TCP connections
    /// that exist go on to the backend they have; UDP flows move.
    pub fn publish(&mut self, ports: &[Published]) -> Result<(), NetworkError> {
        let mut next = self.published.clone();
        next.extend(ports.iter().map(|port| (port.key, port.backends.clone())));
        self.change_to(next)
    }

    /// Unpublishes ports; those that are not published are passed over.
    pub fn unpublish(&mut self, keys: &[PortKey]) -> Result<(), NetworkError> {
        let gone: HashSet<&PortKey> = keys.iter().collect();
        let next = self.published.iter().filter(|(key, _)| !gone.contains(key)).map(|(k, b)| (*k, b.clone())).collect();
        self.change_to(next)
    }

    /// Publishes exactly `ports`, all at once or not at all.
    pub fn set_published(&mut self, ports: &[Published]) -> Result<(), NetworkError> {
        self.change_to(ports.iter().map(|port| (port.key, port.backends.clone())).collect())
    }

    fn change_to(&mut self, next: Ports) -> Result<(), NetworkError> {
        let mut changed = next.iter().filter(|(key, backends)| self.published.get(key) != Some(backends));
        changed.try_for_each(|(key, backends)| elements::check(key, backends))?;
        let table = self.table.clone();
        let mut transaction = Transaction::on(&table);
        elements::change_ports(&mut transaction, &self.published, &next);
        let udp = changed_udp(&self.published, &next);
        let whole = self.change(transaction, "publish ports")?;
        let before = std::mem::replace(&mut self.published, next);
        if !whole {
            self.install().inspect_err(|_| self.published = before)?;
        }
        if udp.is_empty() {
            return Ok(());
        }
        let (subnet, subnet6) = (self.subnet, self.subnet6);
        self.forget(|flow| flow.is_of_ports(&udp, subnet, subnet6))
    }

    /// Has exactly these services, all at once or not at all. See [`VirtualService`] for what connections do. Datagrams' flows
    /// have no end of their own: those of a backend that is no longer one go on until what this returns forgets them;
    /// `None`: nothing has changed.
    pub fn set_services(&mut self, services: &[VirtualService]) -> Result<Option<StaleDatagrams>, NetworkError> {
        let next = service_slots(services, self.subnet)?;
        let table = self.table.clone();
        let mut transaction = Transaction::on(&table);
        elements::change_services(&mut transaction, &self.services, &next);
        let whole = self.change(transaction, "set virtual addresses")?;
        let before = std::mem::replace(&mut self.services, next);
        if !whole {
            self.install().inspect_err(|_| self.services = before.clone())?;
        }
        let (own, subnet6, services) = (self.subnet.services(), self.subnet6, self.services.clone());
        Ok((before != services).then_some(StaleDatagrams { own, subnet6, services }))
    }

    /// Enforces exactly this, from the next packet on, for connections that there are too.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<(), NetworkError> {
        let next = Denials::of(policy);
        // Counts of elements that go, or are of another pair from now on, are not lost.
        self.drops()?;
        let table = self.table.clone();
        let mut transaction = Transaction::on(&table);
        self.denials.change(&mut transaction, &next);
        let whole = self.change(transaction, "set the policy")?;
        let before = std::mem::replace(&mut self.denials, next);
        if !whole {
            self.install().inspect_err(|_| self.denials = before)?;
        }
        self.policy = policy.clone();
        let counts = self.count_denied().map_err(cannot("read how often the policy denied"))?;
        self.counted
            .iter_mut()
            .for_each(|(pair, counted)| counted.rebase(counts.get(pair).copied().unwrap_or_default()));
        Ok(())
    }

    /// Has what these containers send beyond the machine wait in its class, from the next packet on; what others send, in
    /// the usual one.
    pub fn set_classes(&mut self, classes: &TrafficClasses) -> Result<(), NetworkError> {
        let table = self.table.clone();
        let mut transaction = Transaction::on(&table);
        class::change(&mut transaction, &self.classes, classes);
        let whole = self.change(transaction, "set classes of traffic")?;
        let before = std::mem::replace(&mut self.classes, classes.clone());
        if whole { Ok(()) } else { self.install().inspect_err(|_| self.classes = before) }
    }

    /// Packets that were dropped, for each pair that is denied, since it is. One that was denied, and let through
    /// again, begins anew.
    pub fn drops(&mut self) -> Result<Drops, NetworkError> {
        let counts = self.count_denied().map_err(cannot("read how often the policy denied"))?;
        self.counted.retain(|pair, _| self.policy.denied.contains(pair));
        let denied = self.policy.denied.iter();
        Ok(denied
            .map(|pair| {
                let counted = self.counted.entry(*pair).or_default();
                (*pair, counted.see(counts.get(pair).copied().unwrap_or_default()))
            })
            .collect())
    }

    /// Containers that run have these addresses: as [`Attacher::attach`] says it for one that starts.
    pub fn know(&mut self, addresses: &[Ipv4Addr]) -> Result<(), NetworkError> {
        let known = link::change_neighbours(&mut self.route, self.index, addresses, self.subnet6, true);
        known.map_err(cannot("tell the bridge its neighbours"))
    }

    /// Nobody has this address any more.
    pub fn forget_address(&mut self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let forgotten = link::change_neighbours(&mut self.route, self.index, &[address], self.subnet6, false);
        forgotten.map_err(cannot("have the bridge forget a neighbour"))
    }

    fn forget(&mut self, stale: impl Fn(&Flow) -> bool) -> Result<(), NetworkError> {
        match conntrack::forget(&mut self.netfilter, stale) {
            // Without ctnetlink they end by their timeouts.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
            Err(errno) => Err(cannot("forget the flows of datagrams that go elsewhere now")(errno)),
        }
    }

    /// Removes the table and the bridge. Containers' links lose their bridge but stay.
    pub fn remove(mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        rules::remove(&mut transaction);
        match transaction.commit(&mut self.netfilter) {
            // A kernel without tables of family bridge never had that one.
            Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT) => {
                let mut transaction = Transaction::on(&self.table);
                transaction.add_table();
                transaction.delete_table();
                transaction.commit(&mut self.netfilter)
            }
            done => done,
        }
        .map_err(cannot("remove the network rules"))?;
        link::remove(&mut self.route, &self.config.name)
    }
}

/// The slots of each service, where the bridge can have them all.
fn service_slots(services: &[VirtualService], subnet: Subnet4) -> Result<Services, NetworkError> {
    let own = subnet.services();
    let mut slots = Services::new();
    for VirtualService { address, backends } in services {
        let address = *address;
        if !own.contains(address) {
            return Err(NetworkError::NotVirtual { address, subnet: own });
        }
        if let Some(backend) = backends.iter().find(|backend| !subnet.contains(**backend)) {
            return Err(NetworkError::NotAContainer { address: *backend, subnet });
        }
        let (count, max) = (backends.len(), elements::SERVICE_SLOTS as usize);
        if count > max {
            return Err(NetworkError::TooManyInstances { address, count, max });
        }
        slots.insert(address, elements::slots(backends));
    }
    Ok(slots)
}

/// UDP ports whose backends are not the same in both.
fn changed_udp(before: &Ports, after: &Ports) -> Vec<u16> {
    let keys = before.keys().chain(after.keys());
    let changed = keys.filter(|key| key.protocol == Protocol::Udp && before.get(key) != after.get(key));
    changed.map(|key| key.host).collect()
}

fn choose_subnet(route: &mut Socket, wanted: Option<Subnet4>) -> Result<Subnet4, NetworkError> {
    let addresses = link::address_subnets(route).map_err(cannot("read this machine's addresses"))?;
    let mut taken: Vec<Subnet4> = addresses.into_iter().map(|(_, _, subnet)| subnet).collect();
    taken.extend(link::routed_subnets(route).map_err(cannot("read this machine's routes"))?);
    if let Some(wanted) = wanted {
        return match taken.into_iter().find(|taken| taken.overlaps(&wanted)) {
            Some(taken) => Err(NetworkError::SubnetTaken { wanted, taken }),
            None => Ok(wanted),
        };
    }
    (88..=127)
        .map(|second| Subnet4::any(Ipv4Addr::new(10, second, 0, 0), 16))
        .find(|subnet| !taken.iter().any(|taken| taken.overlaps(subnet)))
        .ok_or(NetworkError::NoFreeSubnet)
}
