//! What a node's nftables table does. One table of family inet, made whole in one transaction:
//!
//! ```text
//! guard        raw prerouting    what comes from the bridge must be: our address, of the sender's hardware address
//! prerouting   dstnat            a virtual address: services · an address of the host: publish
//! output       dstnat            the same, for the host's own programs
//! publish                        address+port of the host → container, by six maps (below)
//! services                       virtual address → container, by the client's slot
//! postrouting  srcnat            host's loopback → gateway; to oneself → gateway; containers → outside as the host
//! forward      filter            to the bridge: inward; from it: leaving, and without NAT nothing but replies
//! leaving                        what is sent beyond the machine by members of high and low: their class
//! inward                         between containers: between · replies, published ports; else drop
//! between                        what no connection explains: drop · no backend: refuse · denied: drop · accept
//! outward      filter output     no backend: refuse · no word of a shorter way, which there is not
//! ```
//!
//! Maps of ports, most specific first: `at` and `at6` (host address, protocol, port) and `any` (protocol, port) for
//! ports with one backend; `at_spread`, `at6_spread` and `any_spread` have one more key, a random slot, for those with
//! several. Everything that changes while a node runs is an element ([`elements`](crate::elements)); rules stay.
//!
//! A container's hardware address has its IPv4 address in it, and its port takes frames from that hardware address
//! alone. So a packet's source is its sender's own when the bytes are the same, which the set `same` tells byte by byte;
//! nothing has to be written for a container to start. That the policy is about who sends rests on this.
//!
//! Where bridged frames pass IP's hooks, ports are not isolated (see [`attach`](crate::attach)), and a table of the same
//! name in family bridge keeps what is not IP, and so does not pass those hooks, from going from port to port.

use crate::address::{LinkName, MAC_STEM, Subnet4, Subnet6};
use crate::class::{self, TrafficClass, TrafficClasses};
use crate::elements::{
    self, CLOSED, CONFINED, COUNTING, DENIED, Denials, MEMBERS, POLICY_SETS, PORT_SLOTS, Ports, SAME, SERVICE_SLOTS,
    SERVICES, STRANGERS, Services,
};
use crate::link::{AF_INET, AF_INET6};
use crate::nft::{BRIDGE, Expressions, Header, Hook, INET, Load, Refusal, Register, Set, Transaction, Verdict};

/// For comparisons; up to 16 bytes.
const SCRATCH: Register = Register::word(0);
/// Where a connection is sent: three words that an IPv6 address begins with, and two that come out of a map.
const STEM: Register = Register::word(8);
const TO_ADDRESS: Register = Register::word(11);
const TO_PORT: Register = Register::word(12);

const PRIORITY_RAW: i32 = -300;
/// `NF_BR_PRI_FILTER_BRIDGED`.
const PRIORITY_BRIDGED: i32 = -200;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];
const LOOPBACK_NETWORK: [u8; 4] = [127, 0, 0, 0];
const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and of `IP_CT_RELATED`.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// `NF_CT_STATE_INVALID_BIT` and `NF_CT_STATE_UNTRACKED_BIT`.
const UNEXPLAINED: u32 = 1 | 64;
/// `IPS_DST_NAT`: the connection was redirected.
const REDIRECTED: u32 = 1 << 5;
const TCP: [u8; 1] = [6];
const ICMP: [u8; 1] = [1];
const ICMP_REDIRECT: [u8; 1] = [5];
const ICMP6: [u8; 1] = [58];
const ICMP6_REDIRECT: [u8; 1] = [137];
const ETHERTYPE: Load = Load::Payload(Header::Link, 12, 2);
const ETHERTYPE_IP: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IP6: [u8; 2] = [0x86, 0xdd];
/// Where a frame's source is.
const LINK_SOURCE: u32 = 6;
const ICMP_TYPE: Load = Load::Payload(Header::Transport, 0, 1);

// nft's type numbers, six bits each, so that `nft list` prints the maps readably.
const TYPE_NFPROTO: u32 = 2;
const TYPE_IP: u32 = 7;
const TYPE_IP6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;

/// What the rules are made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) bridge: &'a LinkName,
    pub(crate) index: u32,
    pub(crate) subnet: Subnet4,
    pub(crate) subnet6: Option<Subnet6>,
    pub(crate) nat: bool,
    /// Bridged frames pass IP's hooks.
    pub(crate) hooked: bool,
}

/// How much [`install`] made, to see whether all is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) chains: usize,
    pub(crate) rules: usize,
}

/// One of the two families, as rules see its packets.
#[derive(Clone, Copy)]
struct Family {
    number: u8,
    /// Where source and destination are in the header, and how long they are.
    source: u32,
    destination: u32,
    length: u32,
    /// What all our addresses begin with, before the four bytes that are the IPv4 address.
    stem: [u8; 12],
    port_maps: [&'static str; 2],
}

impl Family {
    fn of(shape: &Shape<'_>) -> impl Iterator<Item = Self> {
        let four = Self {
            number: AF_INET,
            source: 12,
            destination: 16,
            length: 4,
            stem: [0; 12],
            port_maps: ["at", "at_spread"],
        };
        let six = shape.subnet6.map(|subnet| Self {
            number: AF_INET6,
            source: 8,
            destination: 24,
            length: 16,
            stem: subnet.stem(),
            port_maps: ["at6", "at6_spread"],
        });
        [Some(four), six].into_iter().flatten()
    }

    /// Goes on for packets of this family.
    fn only<'e, 'b>(&self, e: &'e mut Expressions<'b>) -> &'e mut Expressions<'b> {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &[self.number])
    }

    /// The whole of the address that is at `offset` in the header.
    fn whole(&self, offset: u32) -> Load {
        Load::Payload(Header::Network, offset, self.length)
    }

    /// The four bytes of that address which are, or belong to, an IPv4 one.
    fn low(&self, offset: u32) -> Load {
        Load::Payload(Header::Network, offset + self.length - 4, 4)
    }

    /// One of those four.
    fn byte(&self, offset: u32, byte: u32) -> Load {
        Load::Payload(Header::Network, offset + self.length - 4 + byte, 1)
    }

    /// Goes on when the address at `offset` is one of `subnet`, or belongs to one.
    fn is_in<'e, 'b>(&self, e: &'e mut Expressions<'b>, offset: u32, subnet: Subnet4) -> &'e mut Expressions<'b> {
        if self.length > 4 {
            e.load(Load::Payload(Header::Network, offset, 12), SCRATCH).equal(SCRATCH, &self.stem);
        }
        e.load(self.low(offset), SCRATCH).mask(SCRATCH, subnet.mask()).equal(SCRATCH, &subnet.network().octets())
    }

    /// Sends the connection to what a map gave.
    fn send(&self, e: &mut Expressions<'_>, port: Option<Register>) {
        let start = if self.length > 4 {
            e.put(&self.stem, STEM);
            STEM
        } else {
            TO_ADDRESS
        };
        e.destination_nat(self.number, start, port);
    }
}

fn from_bridge<'e, 'b>(e: &'e mut Expressions<'b>, bridge: &LinkName) -> &'e mut Expressions<'b> {
    e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded())
}

fn to_bridge<'e, 'b>(e: &'e mut Expressions<'b>, bridge: &LinkName) -> &'e mut Expressions<'b> {
    e.load(Load::OutName, SCRATCH).equal(SCRATCH, &bridge.padded())
}

/// Goes on when some of these bits are set in what is loaded, or none.
fn bits<'e, 'b>(e: &'e mut Expressions<'b>, of: Load, bits: u32, some: bool) -> &'e mut Expressions<'b> {
    e.load(of, SCRATCH).mask(SCRATCH, bits.to_ne_bytes());
    if some { e.not_equal(SCRATCH, &[0; 4]) } else { e.equal(SCRATCH, &[0; 4]) }
}

/// Goes on when two bytes are the same.
fn same(e: &mut Expressions<'_>, one: Load, other: Load) {
    e.load(one, Register::word(0)).load(other, Register::word(1)).is_in(SAME, Register::word(0));
}

/// The bytes of an IPv4 address that a subnet of this prefix does not fix.
fn free_bytes(subnet: Subnet4) -> impl Iterator<Item = u32> {
    u32::from(subnet.prefix()) / 8..4
}

/// Removes the tables of this name; they need not be there.
pub(crate) fn remove(transaction: &mut Transaction<'_>) {
    for family in [BRIDGE, INET] {
        transaction.in_family(family);
        // Deleting what may not exist: make it first.
        transaction.add_table();
        transaction.delete_table();
    }
}

/// Replaces the table by a fresh one with these elements, all at once.
pub(crate) fn install(
    transaction: &mut Transaction<'_>,
    shape: &Shape<'_>,
    ports: &Ports,
    services: &Services,
    denials: &Denials,
    classes: &TrafficClasses,
) -> Made {
    let mut made = Made::default();
    if shape.hooked {
        transaction.in_family(BRIDGE);
        transaction.add_table();
        transaction.delete_table();
        transaction.add_table();
        transaction.add_base_chain("ports", "filter", Hook::Forward, PRIORITY_BRIDGED);
        transaction.add_rule("ports", |e| {
            for group in [Load::InGroup, Load::OutGroup] {
                e.load(group, SCRATCH).equal(SCRATCH, &shape.index.to_ne_bytes());
            }
            e.load(ETHERTYPE, SCRATCH).not_equal(SCRATCH, &ETHERTYPE_IP).not_equal(SCRATCH, &ETHERTYPE_IP6);
            e.verdict(Verdict::Drop);
        });
        made = Made { chains: 1, rules: 1 };
    }
    transaction.in_family(INET);
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    add_sets(transaction);
    for chain in ["from_bridge", "publish", "services", "inward", "between", "leaving"] {
        transaction.add_chain(chain);
        made.chains += 1;
    }
    for (chain, kind, hook, priority) in [
        ("guard", "filter", Hook::Prerouting, PRIORITY_RAW),
        ("prerouting", "nat", Hook::Prerouting, PRIORITY_DSTNAT),
        ("output", "nat", Hook::Output, PRIORITY_DSTNAT),
        ("postrouting", "nat", Hook::Postrouting, PRIORITY_SRCNAT),
        ("forward", "filter", Hook::Forward, PRIORITY_FILTER),
        ("outward", "filter", Hook::Output, PRIORITY_FILTER),
    ] {
        transaction.add_base_chain(chain, kind, hook, priority);
        made.chains += 1;
    }
    let mut rule = |chain: &str, expressions: &dyn Fn(&mut Expressions<'_>)| {
        transaction.add_rule(chain, |e| expressions(e));
        made.rules += 1;
    };
    guard(&mut rule, shape);
    redirect(&mut rule, shape);
    hide(&mut rule, shape);
    filter(&mut rule, shape);
    classify(&mut rule, shape);

    elements::add_constant(transaction);
    elements::change_ports(transaction, &Ports::new(), ports);
    elements::change_services(transaction, &Services::new(), services);
    Denials::default().change(transaction, denials);
    class::change(transaction, &TrafficClasses::new(), classes);
    made
}

fn add_sets(transaction: &mut Transaction<'_>) {
    let concat = |types: &[u32]| types.iter().fold(0, |all, of| all << 6 | of);
    let place = (concat(&[TYPE_IP, TYPE_PORT]), 8);
    for (name, types, length) in [
        ("at", &[TYPE_IP, TYPE_PROTOCOL, TYPE_PORT][..], 12),
        ("at_spread", &[TYPE_IP, TYPE_PROTOCOL, TYPE_PORT, TYPE_MARK], 16),
        ("at6", &[TYPE_IP6, TYPE_PROTOCOL, TYPE_PORT], 24),
        ("at6_spread", &[TYPE_IP6, TYPE_PROTOCOL, TYPE_PORT, TYPE_MARK], 28),
        ("any", &[TYPE_PROTOCOL, TYPE_PORT], 8),
        ("any_spread", &[TYPE_PROTOCOL, TYPE_PORT, TYPE_MARK], 12),
    ] {
        transaction.add_map(name, (concat(types), length), place);
    }
    transaction.add_map(SERVICES, (concat(&[TYPE_IP, TYPE_MARK]), 8), (TYPE_IP, 4));
    for name in POLICY_SETS {
        let key = match name {
            DENIED => (concat(&[TYPE_IP, TYPE_IP]), 8),
            STRANGERS => (TYPE_NFPROTO, 1),
            _ => (TYPE_IP, 4),
        };
        transaction.add_set(Set { name, key, value: None, counting: COUNTING.contains(&name) });
    }
    for class in TrafficClass::ALL {
        transaction.add_set(Set { name: class.set(), key: (TYPE_IP, 4), value: None, counting: false });
    }
    transaction.add_set(Set { name: SAME, key: (concat(&[TYPE_MARK, TYPE_MARK]), 8), value: None, counting: false });
}

/// Adds a rule to a chain.
type AddRule<'a> = &'a mut dyn FnMut(&str, &dyn Fn(&mut Expressions<'_>));

/// Containers send with their own addresses only, and not to the host's loopback, which the bridge routes (below).
fn guard(rule: AddRule<'_>, shape: &Shape<'_>) {
    rule("guard", &|e| {
        from_bridge(e, shape.bridge).verdict(Verdict::Jump("from_bridge"));
    });
    for family in Family::of(shape) {
        if family.number == AF_INET {
            rule("from_bridge", &|e| {
                family.only(e).load(family.low(family.destination), SCRATCH).mask(SCRATCH, LOOPBACK_MASK);
                e.equal(SCRATCH, &LOOPBACK_NETWORK).verdict(Verdict::Drop);
            });
        }
        rule("from_bridge", &|e| {
            family.only(e);
            family.is_in(e, family.source, shape.subnet);
            let fixed = usize::from(shape.subnet.prefix() / 8);
            let start = [&MAC_STEM[..], &shape.subnet.network().octets()[..fixed]].concat();
            e.load(Load::Payload(Header::Link, LINK_SOURCE, start.len() as u32), SCRATCH).equal(SCRATCH, &start);
            for byte in free_bytes(shape.subnet) {
                let hardware = Load::Payload(Header::Link, LINK_SOURCE + MAC_STEM.len() as u32 + byte, 1);
                same(e, hardware, family.byte(family.source, byte));
            }
            e.verdict(Verdict::Return);
        });
    }
    rule("from_bridge", &|e| {
        e.verdict(Verdict::Drop);
    });
}

/// To virtual addresses and published ports.
fn redirect(rule: AddRule<'_>, shape: &Shape<'_>) {
    // Where another program made all links route loopback addresses, those from outside are still not the host's.
    rule("prerouting", &|e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &[AF_INET]);
        e.load(Load::DESTINATION4, SCRATCH).mask(SCRATCH, LOOPBACK_MASK);
        e.equal(SCRATCH, &LOOPBACK_NETWORK).verdict(Verdict::Return);
    });
    // The kernel takes no answers for IPv6's loopback from a link: who asks there is refused at once, and asks IPv4's.
    rule("output", &|e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &[AF_INET6]);
        e.load(Load::Payload(Header::Network, 24, 16), SCRATCH).equal(SCRATCH, &LOOPBACK6).verdict(Verdict::Return);
    });
    for chain in ["prerouting", "output"] {
        for family in Family::of(shape) {
            rule(chain, &|e| {
                if chain == "prerouting" {
                    from_bridge(e, shape.bridge);
                }
                family.only(e);
                family.is_in(e, family.destination, shape.subnet.services()).verdict(Verdict::Jump("services"));
            });
            rule(chain, &|e| {
                family.only(e);
                e.load(Load::DestinationType, SCRATCH).equal(SCRATCH, &RTN_LOCAL.to_ne_bytes());
                e.verdict(Verdict::Jump("publish"));
            });
        }
    }
    for family in Family::of(shape) {
        rule("services", &|e| {
            let (address, slot, client) = (Register::word(0), Register::word(1), Register::word(2));
            family.only(e);
            // A client's address and port, next to each other.
            e.load(family.low(family.source), client).load(Load::SOURCE_PORT, Register::word(3));
            e.hash(client, 8, SERVICE_SLOTS, slot).load(family.low(family.destination), address);
            e.lookup(SERVICES, address, TO_ADDRESS);
            family.send(e, None);
        });
        let [at, at_spread] = family.port_maps;
        for (map, with_address, spread) in
            [(at, true, false), (at_spread, true, true), ("any", false, false), ("any_spread", false, true)]
        {
            rule("publish", &|e| {
                family.only(e);
                let mut next = 0;
                if with_address {
                    e.load(family.whole(family.destination), Register::word(0));
                    next = family.length / 4;
                }
                e.load(Load::L4Protocol, Register::word(next)).load(Load::DESTINATION_PORT, Register::word(next + 1));
                if spread {
                    e.load(Load::Random(PORT_SLOTS as u32), Register::word(next + 2));
                }
                if family.number == AF_INET6 {
                    // The map gives both; `nft` does not see that and would look in vain for what is sent where.
                    e.load(Load::DESTINATION_PORT, TO_PORT);
                }
                e.lookup(map, Register::word(0), TO_ADDRESS);
                family.send(e, Some(TO_PORT));
            });
        }
    }
}

/// Who seems to have sent: only where the answer would not come back else.
fn hide(rule: AddRule<'_>, shape: &Shape<'_>) {
    for family in Family::of(shape) {
        // The host's programs that connect to its loopback would have the container answer to its own.
        if family.number == AF_INET {
            rule("postrouting", &|e| {
                family.only(e);
                to_bridge(e, shape.bridge);
                e.load(family.whole(family.source), SCRATCH).mask(SCRATCH, LOOPBACK_MASK);
                e.equal(SCRATCH, &LOOPBACK_NETWORK).masquerade();
            });
        }
        // And one that reaches itself, by a virtual address or a published port, would see its own address come in.
        rule("postrouting", &|e| {
            family.only(e);
            to_bridge(e, shape.bridge);
            for offset in [family.source, family.destination] {
                family.is_in(e, offset, shape.subnet);
            }
            for byte in free_bytes(shape.subnet) {
                same(e, family.byte(family.source, byte), family.byte(family.destination, byte));
            }
            e.masquerade();
        });
        if shape.nat {
            rule("postrouting", &|e| {
                family.only(e);
                family.is_in(e, family.source, shape.subnet);
                e.load(Load::OutName, SCRATCH).not_equal(SCRATCH, &shape.bridge.padded()).masquerade();
            });
        }
    }
}

/// What is let through.
fn filter(rule: AddRule<'_>, shape: &Shape<'_>) {
    rule("forward", &|e| {
        to_bridge(e, shape.bridge).verdict(Verdict::Jump("inward"));
    });
    rule("forward", &|e| {
        from_bridge(e, shape.bridge);
        e.load(Load::OutName, SCRATCH).not_equal(SCRATCH, &shape.bridge.padded()).verdict(Verdict::Jump("leaving"));
    });
    if !shape.nat {
        rule("forward", &|e| {
            from_bridge(e, shape.bridge);
            e.load(Load::OutName, SCRATCH).not_equal(SCRATCH, &shape.bridge.padded());
            bits(e, Load::ConnectionState, ESTABLISHED_OR_RELATED, false);
            bits(e, Load::ConnectionStatus, REDIRECTED, false).verdict(Verdict::Drop);
        });
    }
    rule("inward", &|e| {
        from_bridge(e, shape.bridge).verdict(Verdict::Jump("between"));
    });
    for (of, some) in [(Load::ConnectionState, ESTABLISHED_OR_RELATED), (Load::ConnectionStatus, REDIRECTED)] {
        rule("inward", &|e| {
            bits(e, of, some, true).verdict(Verdict::Accept);
        });
    }
    rule("inward", &|e| {
        e.verdict(Verdict::Drop);
    });

    // Without a connection it is not known who began.
    rule("between", &|e| {
        bits(e, Load::ConnectionState, UNEXPLAINED, true).verdict(Verdict::Drop);
    });
    for chain in ["between", "outward"] {
        for family in Family::of(shape) {
            for refusal in [Refusal::TcpReset, Refusal::PortUnreachable] {
                rule(chain, &|e| {
                    family.only(e);
                    to_bridge(e, shape.bridge);
                    family.is_in(e, family.destination, shape.subnet.services());
                    if matches!(refusal, Refusal::TcpReset) {
                        e.load(Load::L4Protocol, SCRATCH).equal(SCRATCH, &TCP);
                    }
                    e.reject(refusal);
                });
            }
        }
    }
    // Every packet, both ways: what is denied now ends connections that there are.
    for family in Family::of(shape) {
        for (direction, from, to) in [(0, family.source, family.destination), (1, family.destination, family.source)] {
            let (one, other) = (Register::word(0), Register::word(1));
            let mut deny = |which: &dyn Fn(&mut Expressions<'_>)| {
                rule("between", &|e| {
                    family.only(e).load(Load::ConnectionDirection, SCRATCH).equal(SCRATCH, &[direction]);
                    which(e);
                    e.verdict(Verdict::Drop);
                });
            };
            deny(&|e| {
                e.load(family.low(from), one).load(family.low(to), other).is_in(DENIED, one);
            });
            deny(&|e| {
                e.load(family.low(from), one).is_not_in(MEMBERS, one).load(family.low(to), other).is_in(CLOSED, other);
            });
            deny(&|e| {
                e.load(family.low(to), other)
                    .is_not_in(MEMBERS, other)
                    .load(family.low(from), one)
                    .is_in(CONFINED, one);
            });
            deny(&|e| {
                e.load(family.low(from), one)
                    .is_not_in(MEMBERS, one)
                    .load(family.low(to), other)
                    .is_not_in(MEMBERS, other);
                e.load(Load::Family, one).is_in(STRANGERS, one);
            });
        }
    }
    rule("between", &|e| {
        e.verdict(Verdict::Accept);
    });

    // Containers reach their neighbours by the host alone; the kernel would tell them to go there directly.
    for (family, protocol, kind) in [(AF_INET, ICMP, ICMP_REDIRECT), (AF_INET6, ICMP6, ICMP6_REDIRECT)] {
        rule("outward", &|e| {
            e.load(Load::Family, SCRATCH).equal(SCRATCH, &[family]);
            to_bridge(e, shape.bridge).load(Load::L4Protocol, SCRATCH).equal(SCRATCH, &protocol);
            e.load(ICMP_TYPE, SCRATCH).equal(SCRATCH, &kind).verdict(Verdict::Drop);
        });
    }
}

/// Which queue of a link packets wait in. Here, since the kernel sets that of forwarded packets just before this hook.
fn classify(rule: AddRule<'_>, shape: &Shape<'_>) {
    for family in Family::of(shape) {
        for class in TrafficClass::ALL {
            let service = class.type_of_service();
            // The type of service is eight bits from the ninth on in IPv4's header, and from the fifth on in IPv6's; the
            // last two of them are congestion's.
            let (kept, put, checksum) = if family.number == AF_INET {
                ([0xff, 0x03, 0, 0], [0, service, 0, 0], Some(10))
            } else {
                ([0xf0, 0x3f, 0, 0], [service >> 4, service << 4, 0, 0], None)
            };
            rule("leaving", &|e| {
                family.only(e).load(family.low(family.source), SCRATCH).is_in(class.set(), SCRATCH);
                e.put(&class.priority().to_ne_bytes(), SCRATCH).set_priority(SCRATCH);
                e.load(Load::Payload(Header::Network, 0, 2), SCRATCH).replace_bits(SCRATCH, kept, put);
                e.write(SCRATCH, 0, 2, checksum);
            });
        }
    }
}
