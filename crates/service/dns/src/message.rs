//! Writing responses: the header, the asker's own question with its case kept, and our OPT record.

use crate::query::{Code, HEADER, Query, kind};

/// The largest datagram sent or asked for: fits any path of IPv6 without fragments (DNS flag day 2020).
pub(crate) const PAYLOAD: u16 = 1232;
/// The largest datagram for who does not speak EDNS (RFC 1035, 2.3.4).
const PAYLOAD_PLAIN: u16 = 512;
/// Bytes of our OPT record, which has no options.
const OPT_LEN: usize = 11;

/// How a question came, and so how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

impl Query {
    /// The most bytes an answer may have.
    pub(crate) fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => usize::from(PAYLOAD_PLAIN),
            (Transport::Udp, Some(edns)) => usize::from(edns.payload.clamp(PAYLOAD_PLAIN, PAYLOAD)),
        }
    }
}

/// A response being written. [`Reply::finish`] adds what is known last.
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    query: &'a Query,
    code: Code,
    authoritative: bool,
    truncated: bool,
    counts: [u16; 3],
    limit: usize,
}

/// The sections after the question.
#[derive(Clone, Copy)]
pub(crate) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

impl<'a> Reply<'a> {
    /// Begins with the question section of `packet`, in which `query` was read. `out` is emptied first.
    pub(crate) fn new(out: &'a mut Vec<u8>, query: &'a Query, packet: &[u8], transport: Transport) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(packet.get(HEADER..query.end).unwrap_or_default());
        let limit = query.limit(transport) - if query.edns.is_some() { OPT_LEN } else { 0 };
        Self { out, query, code: Code::NoError, authoritative: false, truncated: false, counts: [0; 3], limit }
    }

    pub(crate) fn code(&mut self, code: Code) {
        self.code = code;
    }

    pub(crate) fn authoritative(&mut self) {
        self.authoritative = true;
    }

    /// Adds `count` whole records, or none of them when they do not fit; says which.
    pub(crate) fn records(&mut self, section: Section, count: u16, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.out.len() + len > self.limit {
            return false;
        }
        for part in parts {
            self.out.extend_from_slice(part);
        }
        self.counts[section as usize] += count;
        true
    }

    /// Takes over the sections of another's answer, or nothing when they do not fit; says which.
    pub(crate) fn sections(&mut self, bytes: &[u8], counts: [u16; 3]) -> bool {
        let fits = self.records(Section::Answer, 0, &[bytes]);
        if fits {
            self.counts = counts;
        }
        fits
    }

    /// Writes a TTL over the one at `at`, counted from the message's begin.
    pub(crate) fn ttl(&mut self, at: usize, ttl_s: u32) {
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&ttl_s.to_be_bytes());
        }
    }

    /// Says that records were left out, so that the asker comes again over TCP.
    pub(crate) fn truncate(&mut self) {
        self.truncated = true;
    }

    /// Writes OPT (when the asker sent one) and the header.
    pub(crate) fn finish(self) {
        let bits = self.code.bits();
        let mut counts = self.counts;
        if let Some(edns) = self.query.edns {
            let payload = PAYLOAD.to_be_bytes();
            let kind = kind::OPT.to_be_bytes();
            let flags = if edns.dnssec_ok { 0x80 } else { 0 };
            self.out.extend_from_slice(&[
                0,
                kind[0],
                kind[1],
                payload[0],
                payload[1],
                (bits >> 4) as u8,
                0,
                flags,
                0,
                0,
                0,
            ]);
            counts[Section::Additional as usize] += 1;
        }
        let [an, ns, ar] = counts.map(u16::to_be_bytes);
        let id = self.query.id.to_be_bytes();
        let first = 0x80
            | if self.authoritative { 0x04 } else { 0 }
            | if self.truncated { 0x02 } else { 0 }
            | u8::from(self.query.recursion_desired);
        let second = 0x80 | if self.query.checking_disabled { 0x10 } else { 0 } | (bits & 0x0f) as u8;
        let questions = u8::from(self.out.len() > HEADER);
        self.out[..HEADER]
            .copy_from_slice(&[id[0], id[1], first, second, 0, questions, an[0], an[1], ns[0], ns[1], ar[0], ar[1]]);
    }
}

/// An answer without any record.
pub(crate) fn bare(out: &mut Vec<u8>, query: &Query, packet: &[u8], code: Code) {
    let mut reply = Reply::new(out, query, packet, Transport::Udp);
    reply.code(code);
    reply.finish();
}

/// The answer to a packet whose question cannot be read: its header alone. `packet` has one.
pub(crate) fn header_only(out: &mut Vec<u8>, packet: &[u8], code: Code) {
    out.clear();
    let Some(header) = packet.first_chunk::<HEADER>() else { return };
    // The operation and the wish for recursion are kept as asked.
    out.extend_from_slice(&[header[0], header[1], 0x80 | header[2] & 0x79, 0x80 | (code.bits() & 0x0f) as u8]);
    out.extend_from_slice(&[0; 8]);
}
