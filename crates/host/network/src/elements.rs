//! What the maps and sets of a node's table hold, and what changes there when a node wants something else.
//!
//! Values are IPv4 addresses throughout; where a packet is IPv6's, the rules put the subnet before them. So a service, a
//! port or a member has its elements once, and both families go the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::NetworkError;
use crate::link::{AF_INET, AF_INET6};
use crate::maglev::maglev;
use crate::nft::Transaction;
use crate::policy::{Identity, Policy};
use crate::ports::{Backend, PortKey};

/// Slots that the backends of one port share: divisible by 2 to 6, so that few backends get exactly equal shares.
pub(crate) const PORT_SLOTS: usize = 60;

/// Slots that the backends of a virtual address share. A prime (see [`maglev`]), and at least so many that two or three
/// dozen backends have shares that differ little.
pub(crate) const SERVICE_SLOTS: u32 = 251;

pub(crate) const SERVICES: &str = "services";
/// Addresses of members.
pub(crate) const MEMBERS: &str = "members";
/// From address, to address.
pub(crate) const DENIED: &str = "denied";
/// Members that no other container may connect to, and that may connect to no other.
pub(crate) const CLOSED: &str = "closed";
pub(crate) const CONFINED: &str = "confined";
/// Protocols (IPv4, IPv6) by which containers that are no members may not connect to each other.
pub(crate) const STRANGERS: &str = "strangers";
/// Two equal bytes.
pub(crate) const SAME: &str = "same";

/// Published ports and where each leads.
pub(crate) type Ports = BTreeMap<PortKey, Vec<Backend>>;
/// Virtual addresses and the backend of each slot; none where there is no backend.
pub(crate) type Services = BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>;

pub(crate) fn check(key: &PortKey, backends: &[Backend]) -> Result<(), NetworkError> {
    if key.host_ip == Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
        return Err(NetworkError::Loopback6(key.host));
    }
    match backends.len() {
        0 => Err(NetworkError::NoBackend(key.host)),
        count if count > PORT_SLOTS => Err(NetworkError::TooManyBackends { port: key.host, count, max: PORT_SLOTS }),
        _ => Ok(()),
    }
}

/// The map a port is in and its keys there.
fn place(key: &PortKey, backends: usize) -> (&'static str, Vec<Vec<u8>>) {
    let mut start = Vec::with_capacity(28);
    let maps = match key.host_ip {
        // 0.0.0.0 and :: are how people write "all".
        Some(IpAddr::V4(ip)) if !ip.is_unspecified() => {
            start.extend(ip.octets());
            ["at", "at_spread"]
        }
        Some(IpAddr::V6(ip)) if !ip.is_unspecified() => {
            start.extend(ip.octets());
            ["at6", "at6_spread"]
        }
        _ => ["any", "any_spread"],
    };
    start.extend([key.protocol.number(), 0, 0, 0]);
    start.extend(key.host.to_be_bytes());
    start.extend([0, 0]);
    if backends == 1 {
        return (maps[0], vec![start]);
    }
    let keys = (0..PORT_SLOTS as u32).map(|slot| [start.as_slice(), &slot.to_ne_bytes()].concat()).collect();
    (maps[1], keys)
}

fn add_port(transaction: &mut Transaction<'_>, key: &PortKey, backends: &[Backend]) {
    let (map, keys) = place(key, backends.len());
    let elements: Vec<(Vec<u8>, Vec<u8>)> = keys
        .into_iter()
        .zip(backends.iter().cycle())
        .map(|(key, backend)| {
            let mut value = backend.ip.octets().to_vec();
            value.extend(backend.port.to_be_bytes());
            value.extend([0, 0]);
            (key, value)
        })
        .collect();
    transaction.add_elements(map, &elements);
}

/// What makes `before` into `after`.
pub(crate) fn change_ports(transaction: &mut Transaction<'_>, before: &Ports, after: &Ports) {
    for (key, backends) in before.iter().filter(|(key, backends)| after.get(key) != Some(backends)) {
        let (map, keys) = place(key, backends.len());
        transaction.delete_elements(map, &keys);
    }
    for (key, backends) in after.iter().filter(|(key, backends)| before.get(key) != Some(backends)) {
        add_port(transaction, key, backends);
    }
}

pub(crate) fn count_ports(ports: &Ports) -> usize {
    ports.values().map(|backends| if backends.len() == 1 { 1 } else { PORT_SLOTS }).sum()
}

/// The slots of a service.
pub(crate) fn slots(backends: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    maglev(backends, SERVICE_SLOTS)
}

/// What makes `before` into `after`: only slots that change hands.
pub(crate) fn change_services(transaction: &mut Transaction<'_>, before: &Services, after: &Services) {
    let none = Vec::new();
    let key = |address: &Ipv4Addr, slot: usize| [address.octets(), (slot as u32).to_ne_bytes()].concat();
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for address in before.keys().chain(after.keys().filter(|address| !before.contains_key(address))) {
        let had = before.get(address).unwrap_or(&none);
        let has = after.get(address).unwrap_or(&none);
        for slot in 0..had.len().max(has.len()) {
            let (was, is) = (had.get(slot), has.get(slot));
            if was != is {
                gone.extend(was.map(|_| key(address, slot)));
                new.extend(is.map(|backend| (key(address, slot), backend.octets().to_vec())));
            }
        }
    }
    transaction.delete_elements(SERVICES, &gone);
    transaction.add_elements(SERVICES, &new);
}

/// A policy as sets of addresses have it: a pair of identities is all pairs of their addresses. (Maps from an address
/// to its identity would need less room, but `nft` cannot list a lookup of what another lookup gave.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Denials {
    sets: BTreeMap<&'static str, BTreeSet<Vec<u8>>>,
}

pub(crate) const POLICY_SETS: [&str; 5] = [MEMBERS, DENIED, CLOSED, CONFINED, STRANGERS];
/// Those whose elements count the packets they are found for.
pub(crate) const COUNTING: [&str; 4] = [DENIED, CLOSED, CONFINED, STRANGERS];

impl Denials {
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut addresses: BTreeMap<Identity, Vec<Ipv4Addr>> = BTreeMap::new();
        for (address, identity) in &policy.members {
            addresses.entry(*identity).or_default().push(*address);
        }
        // A member that is said to be nobody is nobody.
        addresses.remove(&Identity::OTHER);
        let octets = |address: &Ipv4Addr| address.octets().to_vec();
        let mut denials = Self::default();
        denials.sets.insert(MEMBERS, addresses.values().flatten().map(octets).collect());
        let of = |identity| addresses.get(identity).map_or(&[][..], Vec::as_slice);
        for (from, to) in &policy.denied {
            let (name, keys): (_, Vec<Vec<u8>>) = match (*from == Identity::OTHER, *to == Identity::OTHER) {
                (true, true) => (STRANGERS, [AF_INET, AF_INET6].map(|family| vec![family]).into()),
                (true, false) => (CLOSED, of(to).iter().map(octets).collect()),
                (false, true) => (CONFINED, of(from).iter().map(octets).collect()),
                (false, false) => {
                    let pairs = of(from).iter().flat_map(|from| of(to).iter().map(move |to| (from, to)));
                    (DENIED, pairs.map(|(from, to)| [from.octets(), to.octets()].concat()).collect())
                }
            };
            denials.sets.entry(name).or_default().extend(keys);
        }
        denials
    }

    pub(crate) fn count(&self) -> usize {
        self.sets.values().map(BTreeSet::len).sum()
    }

    /// What makes this into `after`: only elements that differ.
    pub(crate) fn change(&self, transaction: &mut Transaction<'_>, after: &Self) {
        let none = BTreeSet::new();
        for set in POLICY_SETS {
            let (had, has) = (self.sets.get(set).unwrap_or(&none), after.sets.get(set).unwrap_or(&none));
            transaction.delete_elements(set, &had.difference(has).cloned().collect::<Vec<_>>());
            transaction.add_keys(set, &has.difference(had).cloned().collect::<Vec<_>>());
        }
    }
}

/// The pair of identities that an element of a counting set is of.
pub(crate) fn pair_of(policy: &Policy, set: &str, key: &[u8]) -> Option<(Identity, Identity)> {
    let member = |at: usize| Some(policy.identity(Ipv4Addr::from(*key.get(at..)?.first_chunk::<4>()?)));
    Some(match set {
        DENIED => (member(0)?, member(4)?),
        CLOSED => (Identity::OTHER, member(0)?),
        CONFINED => (member(0)?, Identity::OTHER),
        _ => (Identity::OTHER, Identity::OTHER),
    })
}

/// Elements that are there whatever a node wants.
pub(crate) fn add_constant(transaction: &mut Transaction<'_>) {
    let same: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte, 0, 0, 0, byte, 0, 0, 0]).collect();
    transaction.add_keys(SAME, &same);
}

pub(crate) const CONSTANT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Protocol;

    #[test]
    fn a_port_with_several_backends_gives_each_an_equal_share_of_slots() {
        let key = PortKey { host_ip: None, protocol: Protocol::Tcp, host: 80 };
        let (map, keys) = place(&key, 3);
        assert_eq!((map, keys.len()), ("any_spread", PORT_SLOTS));
        assert_eq!(keys[1], [6, 0, 0, 0, 0, 80, 0, 0, 1, 0, 0, 0]);
        let (map, keys) = place(&PortKey { host_ip: Some(IpAddr::from([127, 0, 0, 1])), ..key }, 1);
        assert_eq!((map, keys[0].as_slice()), ("at", [127, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0].as_slice()));
        let (map, keys) = place(&PortKey { host_ip: Some("2001:db8::1".parse().unwrap()), ..key }, 2);
        assert_eq!((map, keys[0].len()), ("at6_spread", 28));
        for all in ["0.0.0.0", "::"] {
            assert_eq!(place(&PortKey { host_ip: Some(all.parse().unwrap()), ..key }, 1).0, "any");
        }
    }

    #[test]
    fn what_the_maps_cannot_hold_is_refused() {
        let key = PortKey { host_ip: None, protocol: Protocol::Udp, host: 53 };
        let backend = Backend { ip: [10, 88, 0, 2].into(), port: 53 };
        assert!(matches!(check(&key, &[]), Err(NetworkError::NoBackend(53))));
        assert!(matches!(check(&key, &[backend; 61]), Err(NetworkError::TooManyBackends { .. })));
        let loopback = PortKey { host_ip: Some("::1".parse().unwrap()), ..key };
        assert!(matches!(check(&loopback, &[backend]), Err(NetworkError::Loopback6(53))));
    }

    #[test]
    fn pairs_of_identities_are_pairs_of_their_addresses() {
        let address = |last| Ipv4Addr::new(10, 88, 0, last);
        let (web, db) = (Identity(7), Identity(8));
        let policy = Policy {
            members: [(address(2), web), (address(3), web), (address(4), db), (address(5), Identity::OTHER)].into(),
            denied: [(web, db), (Identity::OTHER, db), (db, Identity::OTHER), (Identity::OTHER, Identity::OTHER)]
                .into(),
        };
        let denials = Denials::of(&policy);
        let sizes: Vec<usize> = POLICY_SETS.iter().map(|set| denials.sets[set].len()).collect();
        assert_eq!(sizes, [3, 2, 1, 1, 2]);
        assert_eq!(denials.count(), 9);
        for set in COUNTING {
            for key in &denials.sets[set] {
                assert!(pair_of(&policy, set, key).is_some_and(|pair| policy.denied.contains(&pair)), "{set}");
            }
        }
        assert_eq!(pair_of(&policy, DENIED, &[0; 7]), None);
    }
}
