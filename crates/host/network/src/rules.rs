//! What a node's nftables table holds. One table of family inet, made whole in one transaction:
//!
//! ```text
//! guard        raw prerouting    from the bridge: drop loopback addresses and sources outside the subnet
//! prerouting   dstnat            to an address of the host: publish
//! output       dstnat            the same, for the host's own programs
//! publish                        address+port of the host → container, by four maps (below)
//! postrouting  srcnat            host's loopback and hairpin → gateway; containers → outside as the host
//! forward      filter            to the bridge: replies, published ports, container to container; else drop;
//!                                from it: no IPv6, and without NAT nothing but replies
//! ```
//!
//! Maps, most specific first: `at` (host address, protocol, port) and `any` (protocol, port) for ports with one
//! backend; `at_spread` and `any_spread` have one more key, a random slot, for those with several. A port is
//! published, moved to other backends and unpublished by element messages alone, in one transaction.

use std::net::IpAddr;

use crate::address::{LinkName, Subnet4};
use crate::error::NetworkError;
use crate::nft::{Expressions, Hook, Load, Register, Transaction, Verdict};
use crate::ports::{Backend, PortKey};

/// Slots that the backends of one port share: divisible by 2 to 6, so that few backends get exactly equal shares.
pub(crate) const SLOTS: usize = 60;

const DESTINATION: Register = Register::word(0);
const PROTOCOL: Register = Register::word(1);
const PORT: Register = Register::word(2);
const SLOT: Register = Register::word(3);
const TO_ADDRESS: Register = Register::word(4);
const TO_PORT: Register = Register::word(5);
/// For comparisons; up to 16 bytes.
const SCRATCH: Register = Register::word(0);

const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

const NFPROTO_IPV4: [u8; 1] = [2];
const NFPROTO_IPV6: [u8; 1] = [10];
const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];
const LOOPBACK_NETWORK: [u8; 4] = [127, 0, 0, 0];
const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and of `IP_CT_RELATED`.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`: the connection was redirected.
const REDIRECTED: u32 = 1 << 5;

// nft's type numbers, six bits each, so that `nft list` prints the maps readably.
const TYPE_IP: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;

/// How many chains and rules [`install`] makes, to see whether all are there.
pub(crate) const CHAINS: usize = 7;

/// Replaces the table `table` by a fresh one with `ports`, all at once.
pub(crate) fn install<'p>(
    transaction: &mut Transaction<'_>,
    bridge: &LinkName,
    subnet: Subnet4,
    nat: bool,
    ports: impl Iterator<Item = (&'p PortKey, &'p Vec<Backend>)>,
) -> usize {
    // Deleting what may not exist: make it first.
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    let concat = |types: &[u32]| types.iter().fold(0, |all, of| all << 6 | of);
    let value = (concat(&[TYPE_IP, TYPE_PORT]), 8);
    transaction.add_map("at", (concat(&[TYPE_IP, TYPE_PROTOCOL, TYPE_PORT]), 12), value);
    transaction.add_map("at_spread", (concat(&[TYPE_IP, TYPE_PROTOCOL, TYPE_PORT, TYPE_MARK]), 16), value);
    transaction.add_map("any", (concat(&[TYPE_PROTOCOL, TYPE_PORT]), 8), value);
    transaction.add_map("any_spread", (concat(&[TYPE_PROTOCOL, TYPE_PORT, TYPE_MARK]), 12), value);

    transaction.add_chain("publish");
    transaction.add_chain("inward");
    transaction.add_base_chain("guard", "filter", Hook::Prerouting, PRIORITY_RAW);
    transaction.add_base_chain("prerouting", "nat", Hook::Prerouting, PRIORITY_DSTNAT);
    transaction.add_base_chain("output", "nat", Hook::Output, PRIORITY_DSTNAT);
    transaction.add_base_chain("postrouting", "nat", Hook::Postrouting, PRIORITY_SRCNAT);
    transaction.add_base_chain("forward", "filter", Hook::Forward, PRIORITY_FILTER);

    let mut rules = 0;
    let mut rule = |chain: &str, expressions: &dyn Fn(&mut Expressions<'_>)| {
        transaction.add_rule(chain, |e| expressions(e));
        rules += 1;
    };

    // The bridge routes 127.0.0.0/8 (below); without this, containers could reach what listens there.
    rule("guard", &|e| {
        let e = from_bridge4(e, bridge);
        e.load(Load::Destination4, SCRATCH).mask(SCRATCH, LOOPBACK_MASK).equal(SCRATCH, &LOOPBACK_NETWORK);
        e.verdict(Verdict::Drop);
    });
    // Loopback sources, and every other address that is not of this bridge.
    rule("guard", &|e| {
        let e = from_bridge4(e, bridge);
        e.load(Load::Source4, SCRATCH).mask(SCRATCH, subnet.mask()).not_equal(SCRATCH, &subnet.network().octets());
        e.verdict(Verdict::Drop);
    });
    // Where another program made all links route loopback addresses, those from outside are still not the host's.
    rule("prerouting", &|e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
        e.load(Load::Destination4, SCRATCH).mask(SCRATCH, LOOPBACK_MASK).equal(SCRATCH, &LOOPBACK_NETWORK);
        e.verdict(Verdict::Return);
    });
    for chain in ["prerouting", "output"] {
        rule(chain, &|e| {
            e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
            e.load(Load::DestinationType, SCRATCH).equal(SCRATCH, &RTN_LOCAL.to_ne_bytes());
            e.verdict(Verdict::Jump("publish"));
        });
    }
    for (map, key, spread) in [
        ("at", DESTINATION, false),
        ("at_spread", DESTINATION, true),
        ("any", PROTOCOL, false),
        ("any_spread", PROTOCOL, true),
    ] {
        rule("publish", &|e| {
            e.load(Load::Destination4, DESTINATION).load(Load::L4Protocol, PROTOCOL).load(Load::DestinationPort, PORT);
            if spread {
                e.load(Load::Random(SLOTS as u32), SLOT);
            }
            e.lookup(map, key, TO_ADDRESS).destination_nat4(TO_ADDRESS, TO_PORT);
        });
    }
    // The host's programs that connect to 127.0.0.1 would have the container answer to its own loopback.
    rule("postrouting", &|e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
        e.load(Load::OutName, SCRATCH).equal(SCRATCH, &bridge.padded());
        e.load(Load::Source4, SCRATCH).mask(SCRATCH, LOOPBACK_MASK).equal(SCRATCH, &LOOPBACK_NETWORK);
        e.masquerade();
    });
    // A container that connects to a published port of its own bridge: the answer must come back through here.
    rule("postrouting", &|e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
        e.load(Load::OutName, SCRATCH).equal(SCRATCH, &bridge.padded());
        from_subnet(e, subnet);
        e.load(Load::ConnectionStatus, SCRATCH).mask(SCRATCH, REDIRECTED.to_ne_bytes()).not_equal(SCRATCH, &[0; 4]);
        e.masquerade();
    });
    if nat {
        rule("postrouting", &|e| {
            e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
            from_subnet(e, subnet);
            e.load(Load::OutName, SCRATCH).not_equal(SCRATCH, &bridge.padded());
            e.masquerade();
        });
    }
    rule("forward", &|e| {
        e.load(Load::OutName, SCRATCH).equal(SCRATCH, &bridge.padded()).verdict(Verdict::Jump("inward"));
    });
    // Containers have no IPv6 address of ours; what they give themselves stays on the bridge.
    rule("forward", &|e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV6);
        e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded()).verdict(Verdict::Drop);
    });
    if !nat {
        rule("forward", &|e| {
            e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded());
            e.load(Load::ConnectionState, SCRATCH)
                .mask(SCRATCH, ESTABLISHED_OR_RELATED.to_ne_bytes())
                .equal(SCRATCH, &[0; 4]);
            e.load(Load::ConnectionStatus, SCRATCH).mask(SCRATCH, REDIRECTED.to_ne_bytes()).equal(SCRATCH, &[0; 4]);
            e.verdict(Verdict::Drop);
        });
    }
    rule("inward", &|e| {
        e.load(Load::ConnectionState, SCRATCH)
            .mask(SCRATCH, ESTABLISHED_OR_RELATED.to_ne_bytes())
            .not_equal(SCRATCH, &[0; 4]);
        e.verdict(Verdict::Accept);
    });
    rule("inward", &|e| {
        e.load(Load::ConnectionStatus, SCRATCH).mask(SCRATCH, REDIRECTED.to_ne_bytes()).not_equal(SCRATCH, &[0; 4]);
        e.verdict(Verdict::Accept);
    });
    rule("inward", &|e| {
        e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded()).verdict(Verdict::Accept);
    });
    rule("inward", &|e| {
        e.verdict(Verdict::Drop);
    });

    for (key, backends) in ports {
        add_port(transaction, key, backends);
    }
    rules
}

fn from_bridge4<'e, 'b>(e: &'e mut Expressions<'b>, bridge: &LinkName) -> &'e mut Expressions<'b> {
    e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
    e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded())
}

fn from_subnet(e: &mut Expressions<'_>, subnet: Subnet4) {
    e.load(Load::Source4, SCRATCH).mask(SCRATCH, subnet.mask()).equal(SCRATCH, &subnet.network().octets());
}

/// Whether a port can be put into the maps.
pub(crate) fn check(key: &PortKey, backends: &[Backend]) -> Result<(), NetworkError> {
    if let Some(ip @ IpAddr::V6(_)) = key.host_ip {
        return Err(NetworkError::NotIpv4(ip));
    }
    match backends.len() {
        0 => Err(NetworkError::NoBackend(key.host)),
        count if count > SLOTS => Err(NetworkError::TooManyBackends { port: key.host, count, max: SLOTS }),
        _ => Ok(()),
    }
}

/// The map a port is in and its keys there.
fn place(key: &PortKey, backends: usize) -> (&'static str, Vec<Vec<u8>>) {
    let mut start = Vec::with_capacity(16);
    let at = match key.host_ip {
        // 0.0.0.0 is how people write "all".
        Some(IpAddr::V4(ip)) if !ip.is_unspecified() => {
            start.extend(ip.octets());
            true
        }
        _ => false,
    };
    start.extend([key.protocol.number(), 0, 0, 0]);
    start.extend(key.host.to_be_bytes());
    start.extend([0, 0]);
    if backends == 1 {
        return (if at { "at" } else { "any" }, vec![start]);
    }
    let keys = (0..SLOTS as u32).map(|slot| [start.as_slice(), &slot.to_ne_bytes()].concat()).collect();
    (if at { "at_spread" } else { "any_spread" }, keys)
}

pub(crate) fn add_port(transaction: &mut Transaction<'_>, key: &PortKey, backends: &[Backend]) {
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

pub(crate) fn delete_port(transaction: &mut Transaction<'_>, key: &PortKey, backends: &[Backend]) {
    let (map, keys) = place(key, backends.len());
    transaction.delete_elements(map, &keys);
}

/// How many elements a port has in its map.
pub(crate) fn elements_of(backends: &[Backend]) -> usize {
    if backends.len() == 1 { 1 } else { SLOTS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Protocol;

    #[test]
    fn a_port_with_several_backends_gives_each_an_equal_share_of_slots() {
        let key = PortKey { host_ip: None, protocol: Protocol::Tcp, host: 80 };
        let (map, keys) = place(&key, 3);
        assert_eq!((map, keys.len()), ("any_spread", SLOTS));
        assert_eq!(keys[1], [6, 0, 0, 0, 0, 80, 0, 0, 1, 0, 0, 0]);
        let (map, keys) = place(&PortKey { host_ip: Some(IpAddr::from([127, 0, 0, 1])), ..key }, 1);
        assert_eq!((map, keys[0].as_slice()), ("at", [127, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0].as_slice()));
        let (map, _) = place(&PortKey { host_ip: Some(IpAddr::from([0, 0, 0, 0])), ..key }, 1);
        assert_eq!(map, "any");
    }

    #[test]
    fn what_the_maps_cannot_hold_is_refused() {
        let key = PortKey { host_ip: None, protocol: Protocol::Udp, host: 53 };
        let backend = Backend { ip: [10, 88, 0, 2].into(), port: 53 };
        assert!(matches!(check(&key, &[]), Err(NetworkError::NoBackend(53))));
        assert!(matches!(check(&key, &[backend; 61]), Err(NetworkError::TooManyBackends { .. })));
        let v6 = PortKey { host_ip: Some("::1".parse().unwrap()), ..key };
        assert!(matches!(check(&v6, &[backend]), Err(NetworkError::NotIpv4(_))));
    }
}
