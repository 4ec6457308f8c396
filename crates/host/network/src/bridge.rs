//! A node's bridge and its rules: made when missing, adopted when there, restored when another program removed them.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::address::{Address, LinkName, Subnet4, Subnet6};
use crate::attach::Attacher;
use crate::error::{NetworkError, cannot};
use crate::link;
use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::nft::{self, Transaction};
use crate::ports::{Backend, PortKey, Protocol, Published};
use crate::{Word, conntrack, rules};

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

/// What [`Bridge::assert_rules`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asserted {
    Intact,
    /// They were missing or changed, and are as they should be again.
    Restored,
}

/// A node's bridge, up, with its rules in force.
#[derive(Debug)]
pub struct Bridge {
    config: BridgeConfig,
    table: String,
    index: u32,
    subnet: Subnet4,
    subnet6: Option<Subnet6>,
    route: Socket,
    netfilter: Socket,
    published: BTreeMap<PortKey, Vec<Backend>>,
    rule_count: usize,
    /// The state of the ruleset in which the table was last known to be ours whole.
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// Counts up with every change of any table.
    generation: u32,
    fingerprint: Fingerprint,
}

/// What the kernel lists of the table, order apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    chains: usize,
    rules: usize,
    elements: usize,
    sum: u64,
}

impl Bridge {
    /// Makes the bridge and its table, or adopts the bridge and replaces the table; published ports are none then
    /// (see [`Self::set_published`]). Existing containers' links stay.
    ///
    /// Turns on `net.ipv4.ip_forward` where it is off, and says so.
    pub fn ensure(config: &BridgeConfig) -> Result<(Self, Vec<Word>), NetworkError> {
        Self::ensure_with(config, &[])
    }

    /// [`ensure`](Self::ensure), with these ports published from the start: one that was published before by another
    /// process of the node is not closed for a moment.
    pub fn ensure_with(config: &BridgeConfig, published: &[Published]) -> Result<(Self, Vec<Word>), NetworkError> {
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
        let mut words = set_sysctls(&config.name)?;
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
        let mut bridge = Self {
            table: format!("coppice-{}", config.key),
            config: config.clone(),
            index,
            subnet,
            subnet6,
            route,
            netfilter,
            published: published.iter().map(|port| (port.key, port.backends.clone())).collect(),
            rule_count: 0,
            known: None,
        };
        bridge.install()?;
        let closed = bridge.closed_forwarding().map_err(cannot("read the network rules"))?;
        words.extend(closed.map(|chain| {
            let name = &bridge.config.name;
            Word(format!(
                "Chain {chain} drops forwarded packets by default (docker and firewalls do so): containers reach the \
                 outside, and published ports are reached from it, only where that chain accepts {name} as input \
                 and as output link."
            ))
        }));
        Ok((bridge, words))
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

    fn install(&mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        self.rule_count =
            rules::install(&mut transaction, &self.config.name, self.subnet, self.config.nat, self.published.iter());
        self.known = None;
        transaction.commit(&mut self.netfilter).map_err(cannot("set the network rules"))
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

    fn change_to(&mut self, next: BTreeMap<PortKey, Vec<Backend>>) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        for (key, backends) in &self.published {
            if next.get(key) != Some(backends) {
                rules::delete_port(&mut transaction, key, backends);
            }
        }
        for (key, backends) in &next {
            if self.published.get(key) != Some(backends) {
                rules::check(key, backends)?;
                rules::add_port(&mut transaction, key, backends);
            }
        }
        let udp = changed_udp(&self.published, &next);
        match transaction.commit(&mut self.netfilter) {
            Ok(()) => {
                self.published = next;
                self.known = None;
            }
            // Somebody removed the table or elements of it: make it whole, with what is wanted.
            Err(Errno::NOENT | Errno::EXIST) => {
                let before = std::mem::replace(&mut self.published, next);
                self.install().inspect_err(|_| self.published = before)?;
            }
            Err(errno) => return Err(cannot("publish ports")(errno)),
        }
        if !udp.is_empty() {
            match conntrack::forget_udp(&mut self.netfilter, &udp, self.subnet) {
                // Without ctnetlink they end by their timeouts.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => {}
                Err(errno) => return Err(cannot("forget the flows of a UDP port that moved")(errno)),
            }
        }
        Ok(())
    }

    /// Sees whether the rules are as they were made, and makes them again when not, as after `nft flush ruleset`.
    /// Cheap when no rule of any program changed since the last call.
    pub fn assert_rules(&mut self) -> Result<Asserted, NetworkError> {
        let read = |errno: Errno| cannot("read the network rules")(errno);
        let generation = self.generation().map_err(read)?;
        if self.known.is_some_and(|known| known.generation == generation) {
            return Ok(Asserted::Intact);
        }
        let fingerprint = self.fingerprint().map_err(read)?;
        let intact = match self.known {
            Some(known) => fingerprint == Some(known.fingerprint),
            // Not compared since the last change of ours: then the numbers must be right.
            None => fingerprint.is_some_and(|found| self.has_all(&found)),
        };
        if intact {
            self.known = fingerprint.map(|fingerprint| Known { generation, fingerprint });
            return Ok(Asserted::Intact);
        }
        self.install()?;
        let generation = self.generation().map_err(read)?;
        let fingerprint = self.fingerprint().map_err(read)?.filter(|found| self.has_all(found));
        self.known = fingerprint.map(|fingerprint| Known { generation, fingerprint });
        Ok(Asserted::Restored)
    }

    fn has_all(&self, found: &Fingerprint) -> bool {
        let elements: usize = self.published.values().map(|backends| rules::elements_of(backends)).sum();
        found.chains == rules::CHAINS && found.rules == self.rule_count && found.elements == elements
    }

    /// Another program's chain that drops what no rule of it accepts on the way through this machine. An accept in
    /// our table does not end the evaluation of others.
    fn closed_forwarding(&mut self) -> Result<Option<String>, Errno> {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        let mut batch = Batch::new();
        batch.message(nft::GET_CHAIN, DUMP, &[0; 4]);
        let mut found = None;
        self.netfilter.ask(&mut batch, |answer| {
            const FAMILIES: [u8; 2] = [1, 2]; // inet and ip
            let (Some(family), Some(body)) = (answer.body.first(), answer.body.get(4..)) else { return };
            let get = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            let hook = get(HOOK).and_then(|hook| attributes(hook).find(|(kind, _)| *kind == 1));
            let forward = (nft::Hook::Forward as u32).to_be_bytes();
            let drops = get(POLICY) == Some(&[0; 4]);
            if FAMILIES.contains(family) && drops && hook.is_some_and(|(_, number)| number == forward) {
                let text = |kind| String::from_utf8_lossy(get(kind).unwrap_or_default()).into_owned();
                found = Some(format!("{} of table {}", text(NAME), text(TABLE)).replace('\0', ""));
            }
        })?;
        Ok(found)
    }

    fn generation(&mut self) -> Result<u32, Errno> {
        let mut batch = Batch::new();
        batch.message(nft::GET_GENERATION, ACK, &[0; 4]);
        let mut generation = 0;
        self.netfilter.ask(&mut batch, |answer| {
            let id = attributes(answer.body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
            generation = id.and_then(|(_, id)| id.try_into().ok()).map_or(0, u32::from_be_bytes);
        })?;
        Ok(generation)
    }

    /// `None` when there is no such table. A change by another program while it is read is seen as a difference.
    fn fingerprint(&mut self) -> Result<Option<Fingerprint>, Errno> {
        let mut found = Fingerprint { chains: 0, rules: 0, elements: 0, sum: 0 };
        let table = self.table.clone();
        let ask = |socket: &mut Socket, kind: u16, flags: u16, set: Option<&str>, each: &mut dyn FnMut(&[u8])| {
            let mut batch = Batch::new();
            batch.message(kind, flags, &nft::INET).text(1, &table);
            if let Some(set) = set {
                batch.text(2, set);
            }
            socket.ask(&mut batch, |answer| {
                let body = answer.body.get(4..).unwrap_or_default();
                // Chains of other tables come too.
                let of = attributes(body).find(|(kind, _)| *kind == 1).map(|(_, name)| name);
                if of.is_some_and(|name| name.strip_suffix(b"\0") == Some(table.as_bytes())) {
                    each(body);
                }
            })
        };
        let hash = |bytes: &[u8]| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        };
        match ask(&mut self.netfilter, nft::GET_TABLE, ACK, None, &mut |body| {
            found.sum = found.sum.wrapping_add(hash(body));
        }) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        ask(&mut self.netfilter, nft::GET_CHAIN, DUMP, None, &mut |body| {
            found.chains += 1;
            found.sum = found.sum.wrapping_add(hash(body));
        })?;
        ask(&mut self.netfilter, nft::GET_RULE, DUMP, None, &mut |body| {
            found.rules += 1;
            found.sum = found.sum.wrapping_add(hash(body));
        })?;
        let mut sets = Vec::new();
        ask(&mut self.netfilter, nft::GET_SET, DUMP, None, &mut |body| {
            let name = attributes(body).find(|(kind, _)| *kind == 2).map(|(_, name)| name);
            sets.extend(name.map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        })?;
        for set in sets {
            let listed = ask(&mut self.netfilter, nft::GET_ELEMENT, DUMP, Some(&set), &mut |body| {
                let lists = attributes(body).filter(|(kind, _)| *kind == 3);
                for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
                    found.elements += 1;
                    found.sum = found.sum.wrapping_add(hash(element));
                }
            });
            if let Err(errno) = listed
                && errno != Errno::NOENT
            {
                return Err(errno);
            }
        }
        Ok(Some(found))
    }

    /// Hears of every change of rules in this network namespace, this program's own included; then it is time for
    /// [`Self::assert_rules`].
    pub fn watch() -> Result<RulesWatch, NetworkError> {
        let socket = Socket::open(Some(rustix::net::netlink::NETFILTER), nft::GROUP)
            .map_err(cannot("listen for changes of the network rules"))?;
        Ok(RulesWatch { socket })
    }

    /// Removes the table and the bridge. Containers' links lose their bridge but stay.
    pub fn remove(mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        transaction.add_table();
        transaction.delete_table();
        transaction.commit(&mut self.netfilter).map_err(cannot("remove the network rules"))?;
        link::remove(&mut self.route, &self.config.name)
    }
}

/// A descriptor that is readable after a change of rules.
#[derive(Debug)]
pub struct RulesWatch {
    socket: Socket,
}

impl RulesWatch {
    /// Takes all notices that came; true when there were any. Does not wait.
    pub fn changed(&mut self) -> Result<bool, NetworkError> {
        self.socket.drain().map_err(cannot("read changes of the network rules"))
    }
}

impl AsFd for RulesWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// UDP ports whose backends are not the same in both.
fn changed_udp(before: &BTreeMap<PortKey, Vec<Backend>>, after: &BTreeMap<PortKey, Vec<Backend>>) -> Vec<u16> {
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

/// Loopback routing on the bridge alone, so that ports published on 127.0.0.1 work; forwarding for the machine.
fn set_sysctls(bridge: &LinkName) -> Result<Vec<Word>, NetworkError> {
    set_sysctl(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"))?;
    if set_sysctl("/proc/sys/net/ipv4/ip_forward")? {
        let word =
            "IP forwarding (net.ipv4.ip_forward) was off and is on now: containers need it to reach and be reached.";
        return Ok(vec![Word(word.to_owned())]);
    }
    Ok(Vec::new())
}

/// Sets a switch to 1; true when it was 0.
fn set_sysctl(path: &str) -> Result<bool, NetworkError> {
    let failed = |error: std::io::Error| NetworkError::Sysctl {
        path: path.to_owned(),
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    if std::fs::read_to_string(path).map_err(failed)?.trim() == "1" {
        return Ok(false);
    }
    std::fs::write(path, "1").map_err(failed)?;
    Ok(true)
}
