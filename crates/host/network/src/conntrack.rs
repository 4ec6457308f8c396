//! Forgetting tracked UDP flows that now go elsewhere: of a port that is published, moved or unpublished, and of a virtual
//! address that has lost their backend (ctnetlink, `linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A flow is redirected, or not, by its first packet; later ones follow for as long as there are any. A TCP client
//! notices and connects again. A UDP client that keeps its port (a resolver, a log shipper) would go on sending to a
//! container that is gone, without end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::{Errno, Result};

use crate::address::{Subnet4, Subnet6};
use crate::elements::Services;
use crate::error::{NetworkError, cannot};
use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::ports::Protocol;

/// `NFNL_SUBSYS_CTNETLINK`, in a message type's high byte.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// `struct nfgenmsg` of any family.
const ANY: [u8; 4] = [0; 4];

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    destination_port: u16,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Self {
        let mut tuple = Self { source: NOWHERE, destination: NOWHERE, protocol: 0, destination_port: 0 };
        for (kind, part) in attributes(bytes) {
            for (field, value) in attributes(part) {
                match (kind, field, value) {
                    (1, 1, &[a, b, c, d]) => tuple.source = Ipv4Addr::new(a, b, c, d).into(),
                    (1, 2, &[a, b, c, d]) => tuple.destination = Ipv4Addr::new(a, b, c, d).into(),
                    (1, 3 | 4, bytes) => {
                        let Ok(bytes) = <[u8; 16]>::try_from(bytes) else { continue };
                        let address = if field == 3 { &mut tuple.source } else { &mut tuple.destination };
                        *address = Ipv6Addr::from(bytes).into();
                    }
                    (2, 1, &[number]) => tuple.protocol = number,
                    (2, 3, &[high, low]) => tuple.destination_port = u16::from_be_bytes([high, low]),
                    _ => {}
                }
            }
        }
        tuple
    }
}

/// A tracked flow of datagrams.
pub(crate) struct Flow {
    /// As it began, and as it is answered.
    to: Tuple,
    from: Tuple,
}

/// The IPv4 address that an address is, or belongs to.
fn ipv4(address: IpAddr, subnet6: Option<Subnet6>) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => subnet6?.ipv4(address),
    }
}

impl Flow {
    /// It goes to one of `ports` of this host, and from there to a container, or it was not redirected.
    pub(crate) fn is_of_ports(&self, ports: &[u16], subnet: Subnet4, subnet6: Option<Subnet6>) -> bool {
        let (to, from) = (&self.to, &self.from);
        let untouched = from.source == to.destination && from.destination == to.source;
        let container = ipv4(from.source, subnet6).is_some_and(|address| subnet.contains(address));
        let ours = container && from.source != to.destination;
        ports.contains(&to.destination_port) && (untouched || ours)
    }

    /// It goes to a virtual address, and from there to what is no backend of it.
    pub(crate) fn is_of_gone_backend(&self, own: Subnet4, subnet6: Option<Subnet6>, services: &Services) -> bool {
        let Some(service) = ipv4(self.to.destination, subnet6).filter(|address| own.contains(*address)) else {
            return false;
        };
        let backend = ipv4(self.from.source, subnet6);
        !services.get(&service).is_some_and(|slots| backend.is_some_and(|backend| slots.contains(&backend)))
    }
}

/// Datagrams' flows to virtual addresses whose backend is none any more, as the services were when this was made.
#[derive(Debug)]
#[must_use = "the flows go on to a container that may be gone"]
pub struct StaleDatagrams {
    pub(crate) own: Subnet4,
    pub(crate) subnet6: Option<Subnet6>,
    pub(crate) services: Services,
}

impl StaleDatagrams {
    /// Has the kernel forget them. Reads all that it tracks in this network namespace, which takes 10 ms and more: nobody
    /// should wait for it.
    pub fn forget(&self) -> std::result::Result<(), NetworkError> {
        let stale = |flow: &Flow| flow.is_of_gone_backend(self.own, self.subnet6, &self.services);
        match Socket::netfilter().and_then(|mut socket| forget(&mut socket, stale)) {
            // Without ctnetlink they end by their timeouts.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
            Err(errno) => Err(cannot("forget the flows of datagrams that go elsewhere now")(errno)),
        }
    }
}

/// Forgets the UDP flows that are `stale`.
pub(crate) fn forget(socket: &mut Socket, stale: impl Fn(&Flow) -> bool) -> Result<()> {
    let mut question = Batch::new();
    question.message(GET, DUMP, &ANY);
    let mut found: Vec<(u8, Vec<u8>, Vec<u8>)> = Vec::new();
    socket.ask(&mut question, |answer| {
        let (NEW, Some(family)) = (answer.kind, answer.body.first()) else { return };
        let find = |wanted| attributes(answer.body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == wanted);
        let (Some((_, original)), Some((_, reply))) = (find(TUPLE_ORIGINAL), find(TUPLE_REPLY)) else { return };
        let flow = Flow { to: Tuple::read(original), from: Tuple::read(reply) };
        if flow.to.protocol == Protocol::Udp.number() && stale(&flow) {
            found.push((*family, original.to_vec(), find(ID).map(|(_, id)| id.to_vec()).unwrap_or_default()));
        }
    })?;
    for (family, original, id) in found {
        let mut batch = Batch::new();
        batch.message(DELETE, ACK, &[family, 0, 0, 0]).nest(TUPLE_ORIGINAL, |b| {
            b.raw(&original);
        });
        if !id.is_empty() {
            batch.attr(ID, &id);
        }
        match socket.exchange(&mut batch) {
            Ok(()) | Err(Errno::NOENT) => {} // it ended meanwhile
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
