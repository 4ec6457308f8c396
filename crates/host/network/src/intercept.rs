//! Connections that go to a proxy of the node instead of where they are going: those from containers to guarded
//! addresses, and those to published ports that lead to these. A table of its own, `coppice-<key>-peer`:
//!
//! ```text
//! prerouting   dstnat - 10   TCP from the bridge to a guarded address → the proxy; else ports
//! output       dstnat - 10   the host's own programs: ports
//! ports                      TCP to a guarded port of the host → the proxy
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

use crate::address::LinkName;
use crate::bridge::Asserted;
use crate::error::{NetworkError, cannot};
use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::nft::{self, Expressions, Hook, Load, Register, Transaction, Verdict};
use crate::ports::Protocol;

/// Just before the bridge's own.
const PRIORITY: i32 = -110;

const NFPROTO_IPV4: [u8; 1] = [2];
const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];
const LOOPBACK_NETWORK: [u8; 4] = [127, 0, 0, 0];
const RTN_LOCAL: u32 = 2;

// Side by side, as keys and values of several parts are.
const DESTINATION: Register = Register::word(0);
const PORT: Register = Register::word(1);
const TO_ADDRESS: Register = Register::word(4);
const TO_PORT: Register = Register::word(5);
/// For comparisons; up to 16 bytes.
const SCRATCH: Register = Register::word(0);

// nft's type numbers, six bits each, so that `nft list` prints the maps readably.
const TYPE_IP: u32 = 7;
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
    /// TCP ports of the host; `None`: on every IPv4 address of it.
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
            && self.known.as_ref().map(|known| known.generation) == Some(self.generation().map_err(read)?)
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

    /// What is in the table; `None` when there is none.
    fn list(&mut self) -> Result<Option<Known>, Errno> {
        let generation = self.generation()?;
        let mut listed = BTreeMap::new();
        let questions = [("chains", nft::GET_CHAIN, None), ("rules", nft::GET_RULE, None)];
        let maps = MAPS.map(|map| (map, nft::GET_ELEMENT, Some(map)));
        for (what, kind, map) in questions.into_iter().chain(maps) {
            let mut batch = Batch::new();
            batch.message(kind, DUMP, &nft::INET).text(1, &self.table);
            if let Some(map) = map {
                batch.text(2, map);
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

const MAPS: [&str; 3] = ["guarded", "at", "any"];

fn rules(transaction: &mut Transaction<'_>, bridge: &LinkName, wanted: &Intercepted) {
    let value = (TYPE_IP << 6 | TYPE_PORT, 8);
    transaction.add_map("guarded", (TYPE_IP, 4), value);
    transaction.add_map("at", (TYPE_IP << 6 | TYPE_PORT, 8), value);
    transaction.add_map("any", (TYPE_PORT, 4), value);
    transaction.add_chain("ports");
    transaction.add_base_chain("prerouting", "nat", Hook::Prerouting, PRIORITY);
    transaction.add_base_chain("output", "nat", Hook::Output, PRIORITY);

    // Those from outside to the host's loopback are not the host's: see the bridge's table.
    transaction.add_rule("prerouting", |e| {
        tcp4(e).load(Load::Destination4, SCRATCH).mask(SCRATCH, LOOPBACK_MASK).equal(SCRATCH, &LOOPBACK_NETWORK);
        e.verdict(Verdict::Return);
    });
    transaction.add_rule("prerouting", |e| {
        tcp4(e).load(Load::InName, SCRATCH).equal(SCRATCH, &bridge.padded());
        e.load(Load::Destination4, DESTINATION).lookup("guarded", DESTINATION, TO_ADDRESS);
        e.destination_nat4(TO_ADDRESS, TO_PORT);
    });
    for chain in ["prerouting", "output"] {
        transaction.add_rule(chain, |e| {
            tcp4(e).load(Load::DestinationType, SCRATCH).equal(SCRATCH, &RTN_LOCAL.to_ne_bytes());
            e.verdict(Verdict::Jump("ports"));
        });
    }
    for (map, key) in [("at", DESTINATION), ("any", PORT)] {
        transaction.add_rule("ports", |e| {
            e.load(Load::Destination4, DESTINATION).load(Load::DestinationPort, PORT);
            e.lookup(map, key, TO_ADDRESS).destination_nat4(TO_ADDRESS, TO_PORT);
        });
    }

    let mut proxy = wanted.proxy.ip().octets().to_vec();
    proxy.extend(padded(wanted.proxy.port()));
    let to_proxy = |keys: Vec<Vec<u8>>| keys.into_iter().map(|key| (key, proxy.clone())).collect::<Vec<_>>();
    let guarded = wanted.addresses.iter().filter_map(|address| match address {
        IpAddr::V4(ip) => Some(ip.octets().to_vec()),
        IpAddr::V6(_) => None,
    });
    transaction.add_elements("guarded", &to_proxy(guarded.collect()));
    let any = |ip: &Option<IpAddr>| ip.is_none_or(|ip| ip == IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let everywhere = wanted.ports.iter().filter(|(ip, _)| any(ip)).map(|(_, port)| padded(*port).to_vec());
    transaction.add_elements("any", &to_proxy(everywhere.collect::<BTreeSet<_>>().into_iter().collect()));
    let at = wanted.ports.iter().filter(|(ip, _)| !any(ip)).filter_map(|(ip, port)| match ip {
        Some(IpAddr::V4(ip)) => Some([&ip.octets()[..], &padded(*port)].concat()),
        _ => None,
    });
    transaction.add_elements("at", &to_proxy(at.collect()));
}

/// A port as a register holds it.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn tcp4<'e, 'b>(e: &'e mut Expressions<'b>) -> &'e mut Expressions<'b> {
    e.load(Load::Family, SCRATCH).equal(SCRATCH, &NFPROTO_IPV4);
    e.load(Load::L4Protocol, SCRATCH).equal(SCRATCH, &[Protocol::Tcp.number()])
}
