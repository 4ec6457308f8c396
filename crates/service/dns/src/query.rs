//! A question as it lies in a packet: a strict parser for the one shape that nearly all queries have.
//!
//! It takes a header, one question with an uncompressed name, at most one OPT record, and nothing after it. It borrows
//! and allocates nothing. What is well-formed but of another shape is [`Reject::Unusual`], which a whole parser judges.

use crate::name::{LABEL_MAX, WIRE_MAX};

/// Bytes of a message's header.
pub(crate) const HEADER: usize = 12;

/// Types of records, as far as this server knows them.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    /// The first of the types that only questions have: transfers and the like (RFC 6895, 3.1).
    pub(crate) const META_FIRST: u16 = 128;
    pub(crate) const META_LAST: u16 = 255;
    pub(crate) const ANY: u16 = 255;
}

/// The class of the internet; the server knows no other.
pub(crate) const CLASS_IN: u16 = 1;

/// How an answer went (RFC 1035, 4.1.1; RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    /// The EDNS version is not ours; its upper bits go into the OPT record.
    BadVers,
}

impl Code {
    /// All bits: four are in the header, the rest in OPT.
    pub(crate) fn bits(self) -> u16 {
        match self {
            Code::NoError => 0,
            Code::FormErr => 1,
            Code::ServFail => 2,
            Code::NxDomain => 3,
            Code::NotImp => 4,
            Code::Refused => 5,
            Code::BadVers => 16,
        }
    }
}

/// What the asker's OPT record says (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest datagram it takes.
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// A question, without the packet it lies in. The question section is `packet[HEADER..end]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) qtype: u16,
    pub(crate) class: u16,
    /// Where the question section ends.
    pub(crate) end: usize,
    pub(crate) edns: Option<Edns>,
}

/// A name in lower-case wire form, on the stack. Its second half has room for a name made of two.
#[derive(Clone)]
pub(crate) struct Key {
    bytes: [u8; WIRE_MAX],
    len: u8,
}

impl Key {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; WIRE_MAX], len: 0 }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// This name's labels before those of `suffix`; none when that is too long.
    pub(crate) fn with_suffix(&self, suffix: &[u8]) -> Option<Key> {
        let at = usize::from(self.len.checked_sub(1)?);
        let mut joined = self.clone();
        joined.bytes.get_mut(at..at + suffix.len())?.copy_from_slice(suffix);
        joined.len = u8::try_from(at + suffix.len()).ok()?;
        Some(joined)
    }
}

/// Why a packet is not answered as a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// Not even a header, or itself a response: an answer could go around for ever.
    Silent,
    /// Answered with the header alone.
    Code(Code),
    /// Its question is fine; what follows is for the whole parser.
    Unusual(Query),
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

/// Reads `packet`; its name goes into `key`, which is unspecified when this fails.
pub(crate) fn parse(packet: &[u8], key: &mut Key) -> Result<Query, Reject> {
    let Some(header) = packet.first_chunk::<HEADER>() else { return Err(Reject::Silent) };
    if header[2] & 0x80 != 0 {
        return Err(Reject::Silent);
    }
    if header[2] & 0x78 != 0 {
        return Err(Reject::Code(Code::NotImp));
    }
    let malformed = Reject::Code(Code::FormErr);
    if header[4..6] != [0, 1] {
        return Err(malformed);
    }
    let name_end = read_name(packet, key).ok_or(malformed)?;
    let qtype = u16_at(packet, name_end).ok_or(malformed)?;
    let class = u16_at(packet, name_end + 2).ok_or(malformed)?;
    let mut query = Query {
        id: u16::from_be_bytes([header[0], header[1]]),
        recursion_desired: header[2] & 0x01 != 0,
        checking_disabled: header[3] & 0x10 != 0,
        qtype,
        class,
        end: name_end + 4,
        edns: None,
    };
    let rest = &packet[query.end..];
    match header[6..12] {
        [0, 0, 0, 0, 0, 0] if rest.is_empty() => Ok(query),
        [0, 0, 0, 0, 0, 0] => Err(malformed),
        [0, 0, 0, 0, 0, 1] => {
            let Some(fixed) = rest.first_chunk::<11>() else { return Err(malformed) };
            if fixed[0] != 0 || u16::from_be_bytes([fixed[1], fixed[2]]) != kind::OPT {
                return Err(Reject::Unusual(query));
            }
            let options = &rest[11..];
            if usize::from(u16::from_be_bytes([fixed[9], fixed[10]])) != options.len() || !are_options(options) {
                return Err(malformed);
            }
            query.edns = Some(Edns {
                payload: u16::from_be_bytes([fixed[3], fixed[4]]),
                version: fixed[6],
                dnssec_ok: fixed[7] & 0x80 != 0,
            });
            Ok(query)
        }
        _ => Err(Reject::Unusual(query)),
    }
}

/// Reads the name of the question, in lower case, into `key`; returns where it ends. None for pointers, the reserved
/// kinds of label, names over 255 bytes and names that run out of the packet.
fn read_name(packet: &[u8], key: &mut Key) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let len = usize::from(*packet.get(at)?);
        if len > LABEL_MAX {
            return None;
        }
        at += 1 + len;
        if at - HEADER > WIRE_MAX {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    let wire = packet.get(HEADER..at)?;
    let own = key.bytes.get_mut(..wire.len())?;
    // Lengths are below 64, so folding all bytes changes letters only.
    for (to, from) in own.iter_mut().zip(wire) {
        *to = from.to_ascii_lowercase();
    }
    key.len = u8::try_from(wire.len()).ok()?;
    Some(at)
}

/// Whether `bytes` are whole EDNS options.
fn are_options(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some(len) = u16_at(bytes, 2) else { return false };
        match bytes.get(4 + usize::from(len)..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    true
}
