//! Who drops a packet: the kernel tells which rule, of any program, ends the way of packets that are traced.
//!
//! While a [`Trace`] lasts there is one more table, whose rules mark TCP packets from one address to one port before any
//! other rule sees them, and decide nothing. A table that a killed process left has no effect but words that nobody
//! hears; the next trace takes it away.
//!
//! What rules of the older iptables (`iptables-legacy`) drop is not told.

use std::collections::HashSet;
use std::net::IpAddr;

use rustix::io::Errno;

use crate::error::{NetworkError, cannot};
use crate::link::{AF_INET, AF_INET6};
use crate::netlink::{Socket, attributes};
use crate::nft::{Header, Hook, Load, Register, TRACE, TRACE_GROUP, Transaction};

const SCRATCH: Register = Register::word(0);
/// Before every other program's, and the kernel's own of raw tables (-300).
const PRIORITY: i32 = -400;
const TCP: [u8; 1] = [6];

/// Packets being traced.
#[derive(Debug)]
pub struct Trace {
    table: String,
    rules: Socket,
    words: Socket,
    /// Bytes of the address that packets come from.
    source: Vec<u8>,
    port: u16,
    /// Numbers of the packets that are meant: others may trace, too.
    ours: HashSet<[u8; 4]>,
}

/// Where a packet's way ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// As `nft` calls it: `inet`, `ip`, `ip6`, `bridge`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    /// The rule's handle (`nft -a list chain …` shows it); `None`: no rule decided, and the chain's policy is to drop.
    pub rule: Option<u64>,
}

impl Trace {
    /// Traces TCP packets from `from` to port `port` of any address. `key`: of the caller's own, as [`BridgeConfig`]'s.
    ///
    /// [`BridgeConfig`]: crate::BridgeConfig
    pub fn begin(key: &str, from: IpAddr, port: u16) -> Result<Self, NetworkError> {
        let failed = cannot("trace packets");
        let mut rules = Socket::netfilter().map_err(cannot("trace packets"))?;
        let words =
            Socket::open(Some(rustix::net::netlink::NETFILTER), TRACE_GROUP).map_err(cannot("trace packets"))?;
        let table = format!("coppice-{key}-trace");
        let mut transaction = Transaction::on(&table);
        transaction.add_table();
        transaction.delete_table();
        transaction.add_table();
        let (family, offset, source) = match from {
            IpAddr::V4(ip) => (AF_INET, 12, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AF_INET6, 8, ip.octets().to_vec()),
        };
        for (chain, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
            transaction.add_base_chain(chain, "filter", hook, PRIORITY);
            transaction.add_rule(chain, |e| {
                e.load(Load::Family, SCRATCH).equal(SCRATCH, &[family]);
                e.load(Load::Payload(Header::Network, offset, source.len() as u32), SCRATCH).equal(SCRATCH, &source);
                e.load(Load::L4Protocol, SCRATCH).equal(SCRATCH, &TCP);
                e.load(Load::DESTINATION_PORT, SCRATCH).equal(SCRATCH, &port.to_be_bytes());
                e.put(&[1], SCRATCH).trace(SCRATCH);
            });
        }
        transaction.commit(&mut rules).map_err(failed)?;
        Ok(Self { table, rules, words, source, port, ours: HashSet::new() })
    }

    /// The first place where a traced packet was dropped or refused, of those there were until now.
    pub fn dropped(&mut self) -> Result<Option<Dropped>, NetworkError> {
        let mut first = None;
        let (source, port, ours) = (&self.source, self.port, &mut self.ours);
        let heard = self.words.hear(|answer| {
            if answer.kind != TRACE {
                return;
            }
            let Some(packet) = attribute(answer.body, PACKET).and_then(|number| number.try_into().ok()) else { return };
            // Each hook's first word has the headers.
            if is_of(answer.body, source, port) {
                ours.insert(packet);
            }
            if first.is_none() && ours.contains(&packet) {
                first = read(answer.body);
            }
        });
        heard.map_err(cannot("hear what becomes of packets"))?;
        Ok(first)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let mut transaction = Transaction::on(&self.table);
        transaction.delete_table();
        // Somebody flushed it; else it decides nothing, and the next one takes it away.
        let _: Result<(), Errno> = transaction.commit(&mut self.rules);
    }
}

// `NFTA_TRACE_*` of linux/netfilter/nf_tables.h.
const TABLE: u16 = 1;
const RULE: u16 = 3;
const KIND: u16 = 4;
const PACKET: u16 = 6;
const BY_POLICY: u32 = 1;

fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Whether a message has the headers of a TCP packet from this address to this port.
fn is_of(body: &[u8], source: &[u8], port: u16) -> bool {
    const NETWORK_HEADER: u16 = 8;
    const TRANSPORT_HEADER: u16 = 9;
    // Where the source and the protocol are in an IPv4 header, and in an IPv6 one.
    let (offset, protocol) = if source.len() == 4 { (12, 9) } else { (8, 6) };
    let network = attribute(body, NETWORK_HEADER).unwrap_or_default();
    let transport = attribute(body, TRANSPORT_HEADER).unwrap_or_default();
    network.get(offset..offset + source.len()) == Some(source)
        && network.get(protocol..=protocol) == Some(&TCP)
        && transport.get(2..4) == Some(&port.to_be_bytes())
}

/// Of a message about a rule or policy that drops.
fn read(body: &[u8]) -> Option<Dropped> {
    const CHAIN: u16 = 2;
    const VERDICT: u16 = 5;
    const POLICY: u16 = 16;
    const CODE: u16 = 1;
    const DROP: u32 = 0;
    let attribute = |wanted| attribute(body, wanted);
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "");
    let by_policy = word(attribute(KIND)?)? == BY_POLICY;
    let verdict = if by_policy {
        word(attribute(POLICY)?)?
    } else {
        word(attributes(attribute(VERDICT)?).find(|(kind, _)| *kind == CODE)?.1)?
    };
    if verdict != DROP {
        return None;
    }
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        7 => "bridge",
        10 => "ip6",
        _ => "netdev",
    };
    let rule = attribute(RULE).filter(|_| !by_policy).and_then(|handle| handle.try_into().ok()).map(u64::from_be_bytes);
    Some(Dropped { family, table: text(attribute(TABLE)?), chain: text(attribute(CHAIN)?), rule })
}
