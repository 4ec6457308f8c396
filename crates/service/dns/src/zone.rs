//! What the node's own names stand for: one immutable snapshot, made from a list of apps.
//!
//! All records are in wire form before the first question is asked, so that an answer is one look into a table and one
//! copy. The snapshot holds addresses of ready instances only: what is not in it cannot be answered.
//!
//! ```text
//! web                       asked by an address of app shop: web.shop
//! web.shop                  the service: its virtual addresses, or its ready instances'
//! 0.web.shop                one instance
//! _http._tcp.web.shop       SRV, one for each port that has a name
//! ….shop.coppice.internal   each of them; what a resolver's search domain makes of `web`
//! ```
//!
//! A service's own name wins over an instance's (`0.web` may be a service); two services of one name (`web` of `x.y`
//! and `web.x` of `y`) are answered for neither, because one of them would be wrong. An app with a dot in its name may
//! look like somebody's domain: its short names are for its own instances only, and only where they exist.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use coppice_base::Name;

use crate::name::{self, to_wire};
use crate::query::kind;

/// The domain names are under when no other is set: `.internal` is reserved for private use (ICANN 2024).
pub const DOMAIN: &str = "coppice.internal";

/// Longest time, in seconds, that a client may keep an answer: addresses of instances come and go.
pub const TTL_MAX_S: u32 = 5;

/// What a [`Zone`] is made of.
#[derive(Clone, Debug)]
pub struct ZoneSpec {
    /// Domain all names are under, without a dot at the end; see [`DOMAIN`].
    pub domain: String,
    /// How long clients may keep an answer, 0 to [`TTL_MAX_S`] seconds. Also for answers that there is none.
    pub ttl_s: u32,
    /// Grows with each change; the serial of the SOA record.
    pub serial: u32,
    /// Addresses of the server itself, for the zone's NS record.
    pub servers: Vec<IpAddr>,
    /// Subnets whose reverse names (PTR) are answered here.
    pub subnets: Vec<Subnet>,
    pub apps: Vec<App>,
}

impl Default for ZoneSpec {
    fn default() -> Self {
        Self {
            domain: DOMAIN.to_owned(),
            ttl_s: TTL_MAX_S,
            serial: 1,
            servers: Vec::new(),
            subnets: Vec::new(),
            apps: Vec::new(),
        }
    }
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub address: IpAddr,
    /// Bits in common: at most 32 or 128.
    pub prefix: u8,
}

/// An app's services, and who asks from within it.
#[derive(Clone, Debug)]
pub struct App {
    pub name: Name,
    pub services: Vec<Service>,
    /// Addresses of the app that belong to no instance below (one-off commands). Those of instances, ready or not, are
    /// the app's anyway.
    pub clients: Vec<IpAddr>,
}

/// One service.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: Name,
    /// Answered instead of the instances' addresses when there are any and the service is not headless. They are
    /// answered whether or not an instance is ready: the balancer behind them decides.
    pub virtual_addresses: Vec<IpAddr>,
    /// Answers ready instances even where there are virtual addresses.
    pub headless: bool,
    pub instances: Vec<Instance>,
    pub ports: Vec<Port>,
}

/// One running copy of a service.
#[derive(Clone, Debug)]
pub struct Instance {
    pub index: u32,
    pub addresses: Vec<IpAddr>,
    /// Whether it is answered at all.
    pub ready: bool,
}

/// A port that SRV records tell of.
#[derive(Clone, Debug)]
pub struct Port {
    /// As in `_NAME._tcp`, without the underscore.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// The second label of a SRV record's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Why there is no [`Zone`]. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    #[error("the domain {0:?} is no DNS name: use labels of 1 to 63 characters with dots between them")]
    Domain(String),
    #[error("a TTL of {0} s is over {TTL_MAX_S} s: clients would keep addresses of instances that are gone")]
    Ttl(u32),
    #[error("{0}/{1} is no subnet: the prefix is longer than the address")]
    Prefix(IpAddr, u8),
}

/// Records of one name and type in wire form, whose owner is the question's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) bytes: Vec<u8>,
    /// Where each record ends.
    pub(crate) ends: Vec<u32>,
}

impl Records {
    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len() as u32);
    }

    pub(crate) fn count(&self) -> u16 {
        u16::try_from(self.ends.len()).unwrap_or(u16::MAX)
    }
}

/// What one name has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) a: Records,
    pub(crate) aaaa: Records,
    /// SRV, PTR, SOA and NS; a name has few types.
    pub(crate) others: Vec<(u16, Records)>,
    /// Addresses of the targets in `others`, with owners of their own.
    pub(crate) additional: Records,
}

impl Node {
    pub(crate) fn records(&self, qtype: u16) -> Option<&Records> {
        match qtype {
            kind::A => Some(&self.a),
            kind::AAAA => Some(&self.aaaa),
            _ => self.others.iter().find(|(kind, _)| *kind == qtype).map(|(_, records)| records),
        }
        .filter(|records| !records.ends.is_empty())
    }

    fn other(&mut self, qtype: u16) -> &mut Records {
        let at = self.others.iter().position(|(kind, _)| *kind == qtype).unwrap_or_else(|| {
            self.others.push((qtype, Records::default()));
            self.others.len() - 1
        });
        &mut self.others[at].1
    }
}

/// All names of a node at one moment. Made whole, and never changed.
#[derive(Debug)]
pub struct Zone {
    pub(crate) nodes: HashMap<Box<[u8]>, Node>,
    /// The app's name in wire form for each address that belongs to an app.
    pub(crate) clients: HashMap<IpAddr, Box<[u8]>>,
    /// Names of apps of one label: all `X.APP` are ours.
    pub(crate) apps: HashSet<Box<[u8]>>,
    pub(crate) domain: Box<[u8]>,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) ttl_s: u32,
    /// Type, class, TTL, length and data of the SOA record, without its owner.
    pub(crate) soa: Box<[u8]>,
    unanswered: Vec<String>,
}

impl Subnet {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = u32::from(own) ^ u32::from(other);
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = u128::from(own) ^ u128::from(other);
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

/// A record whose owner is the name in the question: a pointer to where questions begin.
fn record(qtype: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    owned_record(&[0xc0, 12], qtype, ttl_s, data)
}

fn owned_record(owner: &[u8], qtype: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let mut wire = owner.to_vec();
    wire.extend_from_slice(&qtype.to_be_bytes());
    wire.extend_from_slice(&[0, 1]);
    wire.extend_from_slice(&ttl_s.to_be_bytes());
    wire.extend_from_slice(&(data.len() as u16).to_be_bytes());
    wire.extend_from_slice(data);
    wire
}

fn address_record(owner: &[u8], ttl_s: u32, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => owned_record(owner, kind::A, ttl_s, &v4.octets()),
        IpAddr::V6(v6) => owned_record(owner, kind::AAAA, ttl_s, &v6.octets()),
    }
}

/// What a name is for; the smaller wins where two have the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Service,
    Port,
    Instance,
}

/// One name below an app, before collisions are judged.
struct Claim {
    purpose: Purpose,
    /// Whether its addresses' reverse names lead here.
    is_pointed_at: bool,
    /// Whether it is asked for without the domain too, by everybody.
    is_short: bool,
    node: Node,
}

impl Zone {
    /// Makes the snapshot. Names that DNS cannot have, or that two services share, are left out:
    /// [`Zone::unanswered`] lists them.
    pub fn new(spec: &ZoneSpec) -> Result<Self, ZoneError> {
        let domain = to_wire(&spec.domain)
            // Room for the longest names below it.
            .filter(|wire| wire.len() <= 64)
            .ok_or_else(|| ZoneError::Domain(spec.domain.clone()))?;
        if spec.ttl_s > TTL_MAX_S {
            return Err(ZoneError::Ttl(spec.ttl_s));
        }
        for subnet in &spec.subnets {
            if subnet.prefix > if subnet.address.is_ipv4() { 32 } else { 128 } {
                return Err(ZoneError::Prefix(subnet.address, subnet.prefix));
            }
        }
        let ns = [b"\x02ns".as_slice(), &domain].concat();
        let mut soa_data = [ns.as_slice(), b"\x0ahostmaster", &domain].concat();
        // Refresh, retry, expire: no secondary exists; minimum: how long "there is none" may be kept.
        for number in [spec.serial, 3600, 600, 86400, spec.ttl_s] {
            soa_data.extend_from_slice(&number.to_be_bytes());
        }
        let mut zone = Self {
            nodes: HashMap::new(),
            clients: HashMap::new(),
            apps: HashSet::new(),
            soa: owned_record(&[], kind::SOA, spec.ttl_s, &soa_data).into(),
            domain: domain.into(),
            subnets: spec.subnets.clone(),
            ttl_s: spec.ttl_s,
            unanswered: Vec::new(),
        };
        zone.insert_server(&ns, &spec.servers, &soa_data);
        zone.insert_apps(&spec.apps);
        Ok(zone)
    }

    /// A zone without apps, which answers for its domain that there is nothing.
    pub fn empty() -> Self {
        Self::new(&ZoneSpec::default()).expect("the default domain is a name")
    }

    /// Names left out, each with why: for the log.
    pub fn unanswered(&self) -> &[String] {
        &self.unanswered
    }

    /// How many names have records or lie above one that has.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no app is in it.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.apps.is_empty()
    }

    fn insert_server(&mut self, ns: &[u8], servers: &[IpAddr], soa_data: &[u8]) {
        let mut apex = Node::default();
        apex.other(kind::SOA).push(&record(kind::SOA, self.ttl_s, soa_data));
        apex.other(kind::NS).push(&record(kind::NS, self.ttl_s, ns));
        let mut server = Node::default();
        for address in servers {
            server.push_address(self.ttl_s, *address);
            apex.additional.push(&address_record(ns, self.ttl_s, *address));
            self.insert_pointer(*address, ns);
        }
        self.nodes.insert(self.domain.clone(), apex);
        self.nodes.insert(ns.into(), server);
        let mut here = Node::default();
        here.push_address(self.ttl_s, std::net::Ipv4Addr::LOCALHOST.into());
        here.push_address(self.ttl_s, std::net::Ipv6Addr::LOCALHOST.into());
        // Never a question for others (RFC 6761, 6.3).
        self.nodes.insert(b"\x09localhost\x00".as_slice().into(), here);
    }

    fn insert_pointer(&mut self, address: IpAddr, target: &[u8]) {
        let record = record(kind::PTR, self.ttl_s, target);
        let node = self.nodes.entry(name::reverse(address).into()).or_default();
        // One address is one name's; a second would make clients' reverse checks fail by chance.
        if node.records(kind::PTR).is_none() {
            node.other(kind::PTR).push(&record);
        }
    }

    fn insert_apps(&mut self, apps: &[App]) {
        let mut claims: BTreeMap<Vec<u8>, Option<Claim>> = BTreeMap::new();
        for app in apps {
            let Some(suffix) = to_wire(app.name.as_str()) else {
                self.unanswered.push(format!("{}: an app whose name has an empty label cannot be asked for", app.name));
                continue;
            };
            if name::is_single_label(&suffix) {
                self.apps.insert(suffix.clone().into());
            }
            let instances = app.services.iter().flat_map(|service| &service.instances);
            for address in instances.flat_map(|instance| &instance.addresses).chain(&app.clients) {
                self.clients.insert(*address, suffix.clone().into());
            }
            for service in &app.services {
                self.claim_service(app, service, &mut claims);
            }
        }
        for (short, claim) in claims {
            let long = self.below_domain(&short);
            // A disputed name exists, without records.
            let claim = claim.unwrap_or(Claim {
                purpose: Purpose::Service,
                is_pointed_at: false,
                is_short: name::labels(&short) == 2,
                node: Node::default(),
            });
            if claim.is_pointed_at {
                claim.node.addresses().into_iter().for_each(|address| self.insert_pointer(address, &long));
            }
            if claim.is_short {
                self.insert_with_ancestors(&short, &claim.node, 2);
            }
            self.insert_with_ancestors(&long, &claim.node, name::labels(&self.domain));
        }
    }

    /// Adds the names of one service to `claims`; a name in dispute becomes none there.
    fn claim_service(&mut self, app: &App, service: &Service, claims: &mut BTreeMap<Vec<u8>, Option<Claim>>) {
        let text = format!("{}.{}", service.name, app.name);
        let long = to_wire(&text).map(|short| self.below_domain(&short)).filter(|long| long.len() <= name::WIRE_MAX);
        let (Some(short), Some(long)) = (to_wire(&text), long) else {
            self.unanswered.push(format!("{text}: not a DNS name (an empty label, or too long)"));
            return;
        };
        // Below the domain and `arpa` a short name could be another's full one.
        let is_short = !app.name.as_str().contains('.')
            && name::offset_of(&short, &self.domain).is_none()
            && !short.ends_with(b"\x04arpa\x00");
        let ttl_s = self.ttl_s;
        let is_virtual = !service.headless && !service.virtual_addresses.is_empty();
        let ready = service.instances.iter().filter(|instance| instance.ready);
        let mut node = Node::default();
        if is_virtual {
            service.virtual_addresses.iter().for_each(|address| node.push_address(ttl_s, *address));
        } else {
            ready.flat_map(|instance| &instance.addresses).for_each(|address| node.push_address(ttl_s, *address));
        }
        let mut targets = Vec::new();
        if is_virtual {
            targets.push((long.clone(), service.virtual_addresses.clone()));
        }
        let service_claim = Claim { purpose: Purpose::Service, is_pointed_at: is_virtual, is_short, node };
        let mut made = vec![(short.clone(), service_claim)];
        for instance in &service.instances {
            let Some(own) = prefixed(&[&instance.index.to_string()], &short) else { continue };
            let mut node = Node::default();
            if instance.ready {
                instance.addresses.iter().for_each(|address| node.push_address(ttl_s, *address));
                if !is_virtual {
                    targets.push((self.below_domain(&own), instance.addresses.clone()));
                }
            }
            made.push((own, Claim { purpose: Purpose::Instance, is_pointed_at: true, is_short, node }));
        }
        for port in &service.ports {
            let protocol = match port.protocol {
                Protocol::Tcp => "_tcp",
                Protocol::Udp => "_udp",
            };
            let Some(own) = prefixed(&[&format!("_{}", port.name), protocol], &short) else {
                self.unanswered.push(format!("_{}.{protocol}.{text}: not a DNS name", port.name));
                continue;
            };
            let mut node = Node::default();
            for (target, addresses) in &targets {
                // Priority and weight are equal: the order of answers rotates.
                let data = [&[0, 0, 0, 0], port.port.to_be_bytes().as_slice(), target].concat();
                node.other(kind::SRV).push(&record(kind::SRV, ttl_s, &data));
                addresses.iter().for_each(|address| node.additional.push(&address_record(target, ttl_s, *address)));
            }
            made.push((own, Claim { purpose: Purpose::Port, is_pointed_at: false, is_short, node }));
        }
        for (wire, claim) in made {
            if wire.len() + self.domain.len() > name::WIRE_MAX + 1 {
                continue;
            }
            match claims.get_mut(&wire) {
                None => {
                    claims.insert(wire, Some(claim));
                }
                Some(slot) => match slot {
                    Some(other) if other.purpose < claim.purpose => {}
                    Some(other) if other.purpose > claim.purpose => *slot = Some(claim),
                    _ => {
                        self.unanswered.push(format!("{text}: a name of this service is another's too; rename one"));
                        *slot = None;
                    }
                },
            }
        }
    }

    /// `short` with the domain in place of the root.
    fn below_domain(&self, short: &[u8]) -> Vec<u8> {
        [&short[..short.len() - 1], &self.domain].concat()
    }

    /// Puts `node` under `name`, with empty nodes above down to `least` labels: a name with something below it exists
    /// (RFC 8020). (A single label is never one of ours: it is the asker's own service, if anything.)
    fn insert_with_ancestors(&mut self, name: &[u8], node: &Node, least: usize) {
        let mut above = name::parent(name);
        while let Some(wire) = above.filter(|wire| name::labels(wire) >= least) {
            self.nodes.entry(wire.into()).or_default();
            above = name::parent(wire);
        }
        *self.nodes.entry(name.into()).or_default() = node.clone();
    }
}

/// `labels` before `name`; none when one is no label.
fn prefixed(labels: &[&str], name: &[u8]) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    for label in labels {
        if label.is_empty() || label.len() > name::LABEL_MAX || !label.is_ascii() || label.contains('.') {
            return None;
        }
        wire.push(label.len() as u8);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.extend_from_slice(name);
    (wire.len() <= name::WIRE_MAX).then_some(wire)
}

impl Node {
    fn push_address(&mut self, ttl_s: u32, address: IpAddr) {
        let wire = address_record(&[0xc0, 12], ttl_s, address);
        match address {
            IpAddr::V4(_) => self.a.push(&wire),
            IpAddr::V6(_) => self.aaaa.push(&wire),
        }
    }

    /// The addresses in its records.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        // Pointer, type, class, TTL and length come before the data.
        let v4 =
            self.a.bytes.chunks_exact(16).filter_map(|record| record.last_chunk::<4>()).map(|it| IpAddr::from(*it));
        let v6 = self.aaaa.bytes.chunks_exact(28).filter_map(|record| record.last_chunk::<16>());
        v4.chain(v6.map(|it| IpAddr::from(*it))).collect()
    }
}
