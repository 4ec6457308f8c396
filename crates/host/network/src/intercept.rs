//! Connections that go to a proxy of the node instead of where they are going: those from containers to guarded
//! addresses, and those to published ports that lead to these. A table of its own, `coppice-<key>-peer`:
//!
//! ```text
//! prerouting   dstnat - 10   TCP from the bridge to a guarded address → the proxy; else to a closed one: reject; ports
//! output       dstnat - 10   the host's own programs that are not root's, and containers on its network: the same
//! ports                      TCP to a guarded port of the host → the proxy
//! forward      filter - 10   what begins at a guarded or closed address all the same, redirected by others: reject
//! ```
//!
//! Before the table of the bridge looks, so that no port or virtual address leads around it. The proxy finds where a
//! connection was going by `SO_ORIGINAL_DST`. The table stays when its daemon ends: connections are refused then, since
//! nobody listens, and not let through. It is replaced whole at each change, in one transaction; connections that exist
//! are tracked and go on as they are.
//!
//! It relies on what containers send each other passing this host, and on their sources being checked: see the bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};

use rustix::io::Errno;

use crate::Word;
use crate::address::LinkName;
use crate::assert::Asserted;
use crate::error::{NetworkError, cannot};
use crate::link::{AF_INET, AF_INET6};
use crate::listing::{self, Chain};
use crate::netlink::{Batch, DUMP, Socket, attributes};
use crate::nft::{self, Expressions, Header, Hook, Load, Refusal, Register, Set, Transaction, Verdict};
use crate::ports::Protocol;

/// Just before the bridge's own.
const PRIORITY: i32 = -110;
const PRIORITY_FORWARD: i32 = -10;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and of `IP_CT_RELATED`.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];
const LOOPBACK_NETWORK: [u8; 4] = [127, 0, 0, 0];
const RTN_LOCAL: u32 = 2;

const DESTINATION4: Load = Load::Payload(Header::Network, 16, 4);
const DESTINATION6: Load = Load::Payload(Header::Network, 24, 16);
const DESTINATION_PORT: Load = Load::Payload(Header::Transport, 2, 2);
/// For comparisons; up to 16 bytes.
const SCRATCH: Register = Register::word(0);
const DESTINATION: Register = Register::word(0);
const TO_ADDRESS: Register = Register::word(8);
const TO_PORT: Register = Register::word(12);

// nft's type numbers, six bits each, so that `nft list` prints the maps readably.
const TYPE_IP: u32 = 7;
const TYPE_IP6: u32 = 8;
const TYPE_PORT: u32 = 13;

/// What goes to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// Where the proxy listens: addresses of the bridge.
    pub proxy: SocketAddrV4,
    /// The same for IPv6; without, guarded IPv6 addresses are closed to containers.
    pub proxy6: Option<SocketAddrV6>,
    /// Addresses, on every TCP port.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses that nobody but root begins anything with but TCP, which goes to the proxy, and ICMP: the rest is
    /// rejected.
    pub closed: BTreeSet<IpAddr>,
    /// TCP ports of the host; `None`: on every address of it.
    pub ports: BTreeSet<(Option<IpAddr>, u16)>,
}

/// The table, as long as somebody looks after it; dropping this leaves it.
#[derive(Debug)]
pub struct Intercept {
    table: String,
    bridge: LinkName,
    netfilter: Socket,
    wanted: Option<Intercepted>,
    known: Option<Known>,
}

/// What the kernel lists of the table, in a state of all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    generation: u32,
    listed: BTreeMap<&'static str, Vec<Vec<u8>>>,
}

impl Intercept {
    /// Of the node root `key`, with this bridge. Changes nothing: a table that an earlier process left stays until
    /// [`Self::set`].
    pub fn open(key: &str, bridge: &LinkName) -> Result<Self, NetworkError> {
        let netfilter = Socket::netfilter().map_err(cannot("open a netfilter socket"))?;
        Ok(Self { table: format!("coppice-{key}-peer"), bridge: bridge.clone(), netfilter, wanted: None, known: None })
    }

    /// Intercepts exactly this from now on. On a failure nothing was changed.
    pub fn set(&mut self, wanted: &Intercepted) -> Result<(), NetworkError> {
        self.install(wanted)?;
        self.wanted = Some(wanted.clone());
        Ok(())
    }

    /// Sees whether the table is as it was made, and makes it again when not, as after `nft flush ruleset`. Cheap when
    /// no rule of any program changed since the last call.
    pub fn assert_rules(&mut self) -> Result<Asserted, NetworkError> {
        let Some(wanted) = self.wanted.clone() else { return Ok(Asserted::Intact) };
        let read = |errno: Errno| cannot("read the network rules")(errno);
        if self.known.is_some()
            && self.known.as_ref().map(|known| known.generation)
                == Some(listing::generation(&mut self.netfilter).map_err(read)?)
        {
            return Ok(Asserted::Intact);
        }
        let found = self.list().map_err(read)?;
        if found.is_some()
            && found.as_ref().map(|found| &found.listed) == self.known.as_ref().map(|known| &known.listed)
        {
            self.known = found;
            return Ok(Asserted::Intact);
        }
        self.install(&wanted)?;
        Ok(Asserted::Restored)
    }

    /// Other programs' chains that drop what comes to this machine's own addresses and no rule of them accepts, and what
    /// opens each for the proxy at `port`: redirected connections come to it, and an accept of ours does not end the
    /// evaluation of others.
    pub fn closed_input(&mut self, port: u16) -> Result<Vec<Word>, NetworkError> {
        /// `NF_INET_LOCAL_IN` of linux/netfilter.h.
        const INPUT: u32 = 1;
        let chains = listing::chains(&mut self.netfilter).map_err(cannot("read the network rules"))?;
        let has_ufw = chains.iter().any(|chain| chain.name == "ufw-user-input");
        // Firewalld's accepts by default and refuses by its last rule.
        let drops = |chain: &Chain| chain.drops || (chain.table == "firewalld" && chain.name == "filter_INPUT");
        let closed = chains.into_iter().filter(|chain| chain.hook == Some(INPUT) && drops(chain));
        let word = |Chain { family, table, name, .. }: Chain| {
            let (iptables, own) = match family {
                1 => (None, "inet"),
                2 => (Some("iptables"), "ip"),
                10 => (Some("ip6tables"), "ip6"),
                _ => return None,
            };
            let iptables = iptables.filter(|_| table == "filter" && name == "INPUT");
            let command = match iptables {
                _ if table == "firewalld" => {
                    format!("firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload")
                }
                Some(_) if has_ufw => format!("ufw allow {port}/tcp"),
                Some(iptables) => {
                    format!("{iptables} -I INPUT -p tcp --dport {port} -m conntrack --ctstate DNAT -j ACCEPT")
                }
                None => format!("nft insert rule {own} {table} {name} tcp dport {port} ct status dnat accept"),
            };
            Some(Word(format!(
                "Chain {name} of table {table} takes only what it knows (ufw and firewalls do so): services with tls.peer \
                 are reached once `{command}` was run."
            )))
        };
        Ok(closed.filter_map(word).collect())
    }

    /// Takes the table away.
    pub fn remove(mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        // Deleting what may not exist: make it first.
        transaction.add_table();
        transaction.delete_table();
        transaction.commit(&mut self.netfilter).map_err(cannot("remove the network rules of the peer proxy"))
    }

    fn install(&mut self, wanted: &Intercepted) -> Result<(), NetworkError> {
        let mut transaction = Transaction::on(&self.table);
        transaction.add_table();
        transaction.delete_table();
        transaction.add_table();
        rules(&mut transaction, &self.bridge, wanted);
        transaction.commit(&mut self.netfilter).map_err(cannot("set the network rules of the peer proxy"))?;
        // As the kernel says it, to compare with.
        self.known = self.list().map_err(cannot("read the network rules"))?;
        Ok(())
    }
}

impl Intercept {
    /// What is in the table; `None` when there is none.
    fn list(&mut self) -> Result<Option<Known>, Errno> {
        let generation = listing::generation(&mut self.netfilter)?;
        let mut listed = BTreeMap::new();
        let questions = [("chains", nft::GET_CHAIN, None), ("rules", nft::GET_RULE, None)];
        let sets = SETS.map(|set| (set, nft::GET_ELEMENT, Some(set)));
        for (what, kind, set) in questions.into_iter().chain(sets) {
            let mut batch = Batch::new();
            batch.message(kind, DUMP, &nft::INET).text(1, &self.table);
            if let Some(set) = set {
                batch.text(2, set);
            }
            let (mut parts, table) = (Vec::new(), self.table.as_bytes());
            let asked = self.netfilter.ask(&mut batch, |answer| {
                let body = answer.body.get(4..).unwrap_or_default();
                // Chains of other tables come too.
                let of = attributes(body).find(|(kind, _)| *kind == 1).map(|(_, name)| name);
                if of.is_some_and(|name| name.strip_suffix(b"\0") == Some(table)) {
                    parts.push(body.to_vec());
                }
            });
            match asked {
                Ok(()) => listed.insert(what, parts),
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(errno),
            };
        }
        Ok(listed.get("chains").is_some_and(|chains| !chains.is_empty()).then_some(Known { generation, listed }))
    }
}

const SETS: [&str; 7] = ["guarded", "guarded6", "closed", "closed6", "at", "at6", "any"];

/// One of the two families, as rules see its packets.
struct Family {
    number: u8,
    destination: Load,
    length: usize,
    icmp: u8,
    guarded: &'static str,
    closed: &'static str,
    at: &'static str,
    /// Where the proxy is; `None`: nowhere.
    proxy: Option<(Vec<u8>, u16)>,
}

fn rules(transaction: &mut Transaction<'_>, bridge: &LinkName, wanted: &Intercepted) {
    let set = |name, key| Set { name, key, value: None, counting: false };
    transaction.add_set(set("guarded", (TYPE_IP, 4)));
    transaction.add_set(set("guarded6", (TYPE_IP6, 16)));
    transaction.add_set(set("closed", (TYPE_IP, 4)));
    transaction.add_set(set("closed6", (TYPE_IP6, 16)));
    transaction.add_set(set("at", (TYPE_IP << 6 | TYPE_PORT, 8)));
    transaction.add_set(set("at6", (TYPE_IP6 << 6 | TYPE_PORT, 20)));
    transaction.add_set(set("any", (TYPE_PORT, 2)));
    transaction.add_chain("ports");
    transaction.add_base_chain("prerouting", "nat", Hook::Prerouting, PRIORITY);
    transaction.add_base_chain("output", "nat", Hook::Output, PRIORITY);
    transaction.add_base_chain("forward", "filter", Hook::Forward, PRIORITY_FORWARD);

    let tcp = |e: &mut Expressions<'_>| {
        e.load(Load::L4Protocol, SCRATCH).equal(SCRATCH, &[Protocol::Tcp.number()]);
    };
    // Those from outside to the host's loopback are not the host's: see the bridge's table.
    transaction.add_rule("prerouting", |e| {
        e.load(Load::Family, SCRATCH).equal(SCRATCH, &[AF_INET]).load(DESTINATION4, SCRATCH);
        e.mask(SCRATCH, LOOPBACK_MASK).equal(SCRATCH, &LOOPBACK_NETWORK).verdict(Verdict::Return);
    });
    let four = (wanted.proxy.ip().octets().to_vec(), wanted.proxy.port());
    let six = wanted.proxy6.map(|proxy| (proxy.ip().octets().to_vec(), proxy.port()));
    for family in [
        Family {
            number: AF_INET,
            destination: DESTINATION4,
            length: 4,
            icmp: 1,
            guarded: "guarded",
            closed: "closed",
            at: "at",
            proxy: Some(four),
        },
        Family {
            number: AF_INET6,
            destination: DESTINATION6,
            length: 16,
            icmp: 58,
            guarded: "guarded6",
            closed: "closed6",
            at: "at6",
            proxy: six,
        },
    ] {
        let only = |e: &mut Expressions<'_>| {
            e.load(Load::Family, SCRATCH).equal(SCRATCH, &[family.number]);
        };
        let to_proxy = |e: &mut Expressions<'_>| match &family.proxy {
            Some((address, port)) => {
                e.put(address, TO_ADDRESS).put(&port.to_be_bytes(), TO_PORT);
                e.destination_nat(family.number, TO_ADDRESS, Some(TO_PORT));
            }
            None => {
                e.verdict(Verdict::Drop);
            }
        };
        transaction.add_rule("prerouting", |e| {
            tcp(e);
            only(e);
            e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded());
            e.load(family.destination, DESTINATION).is_in(family.guarded, DESTINATION);
            to_proxy(e);
        });
        transaction.add_rule("prerouting", |e| {
            only(e);
            e.load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded());
            e.load(family.destination, DESTINATION).is_in(family.closed, DESTINATION);
            e.load(Load::L4Protocol, SCRATCH).not_equal(SCRATCH, &[family.icmp]).reject(Refusal::PortUnreachable);
        });
        // Root's are the node's own, and root has other ways.
        let not_roots = |e: &mut Expressions<'_>| {
            e.load(Load::SocketUser, SCRATCH).not_equal(SCRATCH, &[0; 4]);
        };
        transaction.add_rule("output", |e| {
            tcp(e);
            only(e);
            e.load(family.destination, DESTINATION).is_in(family.guarded, DESTINATION);
            not_roots(e);
            to_proxy(e);
        });
        transaction.add_rule("output", |e| {
            only(e);
            e.load(family.destination, DESTINATION).is_in(family.closed, DESTINATION);
            not_roots(e);
            e.load(Load::L4Protocol, SCRATCH).not_equal(SCRATCH, &[family.icmp]).reject(Refusal::PortUnreachable);
        });
        // Connections from before it was guarded go on.
        let begins = |e: &mut Expressions<'_>| {
            e.load(Load::ConnectionState, SCRATCH).mask(SCRATCH, ESTABLISHED_OR_RELATED.to_ne_bytes());
            e.equal(SCRATCH, &[0; 4]);
        };
        transaction.add_rule("forward", |e| {
            tcp(e);
            only(e);
            begins(e);
            e.load(family.destination, DESTINATION).is_in(family.guarded, DESTINATION).reject(Refusal::TcpReset);
        });
        transaction.add_rule("forward", |e| {
            only(e);
            begins(e);
            e.load(family.destination, DESTINATION).is_in(family.closed, DESTINATION);
            e.load(Load::L4Protocol, SCRATCH).not_equal(SCRATCH, &[family.icmp]).reject(Refusal::PortUnreachable);
        });
        transaction.add_rule("ports", |e| {
            only(e);
            // The port right after the address, as the set has it.
            e.load(family.destination, DESTINATION).load(DESTINATION_PORT, Register::word(family.length as u32 / 4));
            e.is_in(family.at, DESTINATION);
            to_proxy(e);
        });
        transaction.add_rule("ports", |e| {
            only(e);
            e.load(DESTINATION_PORT, DESTINATION).is_in("any", DESTINATION);
            to_proxy(e);
        });
    }
    for chain in ["prerouting", "output"] {
        transaction.add_rule(chain, |e| {
            tcp(e);
            e.load(Load::DestinationType, SCRATCH).equal(SCRATCH, &RTN_LOCAL.to_ne_bytes());
            e.verdict(Verdict::Jump("ports"));
        });
    }

    let octets = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    // A register's worth: elements of several parts have theirs padded.
    let padded = |port: u16| [port.to_be_bytes(), [0; 2]].concat();
    for (sets, addresses) in [(["guarded", "guarded6"], &wanted.addresses), (["closed", "closed6"], &wanted.closed)] {
        let (four, six): (Vec<&IpAddr>, Vec<&IpAddr>) = addresses.iter().partition(|ip| ip.is_ipv4());
        for (set, addresses) in sets.into_iter().zip([four, six]) {
            transaction.add_keys(set, &addresses.into_iter().map(octets).collect::<Vec<_>>());
        }
    }
    let mut ports: BTreeMap<&str, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (ip, port) in &wanted.ports {
        let (set, key) = match ip.filter(|ip| !ip.is_unspecified()) {
            None => ("any", port.to_be_bytes().to_vec()),
            Some(ip) => (if ip.is_ipv4() { "at" } else { "at6" }, [octets(&ip), padded(*port)].concat()),
        };
        ports.entry(set).or_default().insert(key);
    }
    for (set, keys) in ports {
        transaction.add_keys(set, &keys.into_iter().collect::<Vec<_>>());
    }
}
