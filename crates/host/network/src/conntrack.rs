//! Forgetting tracked UDP flows when their port is published, moved or unpublished (ctnetlink,
//! `linux/netfilter/nfnetlink_conntrack.h`).
//!
//! A flow is redirected, or not, by its first packet; later ones follow for as long as there are any. A TCP client
//! notices and connects again. A UDP client that keeps its port (a resolver, a log shipper) would go on sending to a
//! container that is gone, without end.

use std::net::Ipv4Addr;

use rustix::io::{Errno, Result};

use crate::address::Subnet4;
use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::ports::Protocol;

/// `NFNL_SUBSYS_CTNETLINK`, in a message type's high byte.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// `struct nfgenmsg` of family IPv4.
const IPV4: [u8; 4] = [2, 0, 0, 0];

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Tuple {
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    destination_port: u16,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Self {
        let mut tuple = Self::default();
        for (kind, part) in attributes(bytes) {
            for (field, value) in attributes(part) {
                match (kind, field, value) {
                    (1, 1, &[a, b, c, d]) => tuple.source = [a, b, c, d],
                    (1, 2, &[a, b, c, d]) => tuple.destination = [a, b, c, d],
                    (2, 1, &[number]) => tuple.protocol = number,
                    (2, 3, &[high, low]) => tuple.destination_port = u16::from_be_bytes([high, low]),
                    _ => {}
                }
            }
        }
        tuple
    }
}

/// Forgets the UDP flows to `ports` of this host that go to a container of `subnet`, or that were not redirected.
pub(crate) fn forget_udp(socket: &mut Socket, ports: &[u16], subnet: Subnet4) -> Result<()> {
    let mut question = Batch::new();
    question.message(GET, DUMP, &IPV4);
    let mut stale: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    socket.ask(&mut question, |answer| {
        if answer.kind != NEW {
            return;
        }
        let find = |wanted| attributes(answer.body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == wanted);
        let (Some((_, original)), Some((_, reply))) = (find(TUPLE_ORIGINAL), find(TUPLE_REPLY)) else { return };
        let (to, from) = (Tuple::read(original), Tuple::read(reply));
        let untouched = from.source == to.destination && from.destination == to.source;
        let ours = subnet.contains(Ipv4Addr::from(from.source)) && from.source != to.destination;
        if to.protocol == Protocol::Udp.number() && ports.contains(&to.destination_port) && (untouched || ours) {
            stale.push((original.to_vec(), find(ID).map(|(_, id)| id.to_vec()).unwrap_or_default()));
        }
    })?;
    for (original, id) in stale {
        let mut batch = Batch::new();
        batch.message(DELETE, ACK, &IPV4).nest(TUPLE_ORIGINAL, |b| {
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
