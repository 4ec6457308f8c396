//! Packets as no program would send them, made byte by byte. What a raw socket sends goes out as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::machine::Netspace;

const UDP: u8 = 17;

/// A datagram of UDP with its checksum.
pub(crate) fn udp(from: IpAddr, to: IpAddr, ports: (u16, u16), body: &[u8]) -> Vec<u8> {
    let length = (8 + body.len()) as u16;
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    datagram.extend(body);
    let mut pseudo = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => pseudo.extend([from.octets(), to.octets()].concat()),
        (IpAddr::V6(from), IpAddr::V6(to)) => pseudo.extend([from.octets(), to.octets()].concat()),
        _ => panic!("{from} and {to} are of two families"),
    }
    pseudo.extend([[0, UDP], length.to_be_bytes()].concat());
    pseudo.extend(&datagram);
    let sum = checksum(&pseudo);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// What of an IPv4 header a test chooses.
#[derive(Clone, Copy)]
pub(crate) struct Header4<'a> {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) ttl: u8,
    /// Offset in eights of bytes, and whether more follow.
    pub(crate) fragment: (u16, bool),
    /// A multiple of four bytes.
    pub(crate) options: &'a [u8],
    pub(crate) protocol: u8,
}

impl<'a> Header4<'a> {
    pub(crate) fn of(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self { from, to, ttl: 64, fragment: (0, false), options: &[], protocol: UDP }
    }

    pub(crate) fn before(self, payload: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let (offset, more) = self.fragment;
        let mut packet = vec![0x40 | (length / 4) as u8, 0];
        packet.extend(((length + payload.len()) as u16).to_be_bytes());
        packet.extend(0x4d2_u16.to_be_bytes());
        packet.extend((offset | u16::from(more) << 13).to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        packet.extend(self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

/// An IPv6 packet: `chain` is the first next-header number and all that follows.
pub(crate) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, hops: u8, next: u8, chain: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((chain.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(chain);
    packet
}

/// A fragment header before a part of what is fragmented; offset in eights of bytes.
pub(crate) fn fragment6(next: u8, offset: u16, more: bool, part: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend(0x0102_0304_u32.to_be_bytes());
    bytes.extend(part);
    bytes
}

impl Netspace {
    /// Sends packets as they are, to where the way to `to` leads.
    pub(crate) fn send_raw(&self, to: IpAddr, packets: Vec<Vec<u8>>) {
        self.run(move || {
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let raw = socket(family, SocketType::RAW, Some(ipproto::RAW)).unwrap();
            for packet in packets {
                sendto(&raw, &packet, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
            }
        });
    }
}
