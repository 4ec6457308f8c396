//! Answers from a [`Zone`]: which names are ours, what they have, and that there is none.
//!
//! Pure: a snapshot, a question and who asks go in; a message comes out, or that somebody else must be asked.

use std::net::IpAddr;

use crate::message::{Reply, Section, Transport, bare};
use crate::name;
use crate::query::{CLASS_IN, Code, HEADER, Key, Query, kind};
use crate::zone::{Node, Records, Zone};

/// How a question was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With records.
    Answered,
    /// The name exists, the type does not.
    NoData,
    NoName,
    /// Of a kind that is not answered.
    Refused,
    /// The answer does not fit: come over TCP.
    Truncated,
    /// The question is for other servers; nothing was written.
    NotOurs,
}

/// What the zone knows of a name.
enum Found<'z> {
    Node(&'z Node),
    /// Ours, and not there. With it, where in the name its zone begins.
    NoName(usize),
    /// Ours: it exists and has no record.
    Empty(usize),
    NotOurs,
}

/// Answers `query`, read from `packet` into `key`, for who asks from `client`. `turn` chooses which record is first.
pub(crate) fn answer(
    zone: &Zone,
    (query, packet, key): (&Query, &[u8], &Key),
    (client, transport): (IpAddr, Transport),
    turn: u32,
    out: &mut Vec<u8>,
) -> Verdict {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        bare(out, query, packet, Code::BadVers);
        return Verdict::Refused;
    }
    // Other classes do not exist here, and transfers are for secondaries, of which there is none.
    let is_meta = (kind::META_FIRST..kind::META_LAST).contains(&query.qtype) || query.qtype == kind::OPT;
    if query.class != CLASS_IN || is_meta {
        bare(out, query, packet, Code::Refused);
        return Verdict::Refused;
    }
    let found = find(zone, key, query.qtype, client);
    let mut reply = Reply::new(out, query, packet, transport);
    let soa_at = match found {
        Found::NotOurs if query.qtype != kind::ANY => return Verdict::NotOurs,
        Found::Node(_) | Found::NotOurs if query.qtype == kind::ANY => return refuse_any(zone, reply),
        Found::Node(node) => {
            if let Some(records) = node.records(query.qtype) {
                return write_records(reply, query, node, records, turn);
            }
            Ok(soa_offset(zone, key))
        }
        Found::Empty(at) => Ok(at),
        Found::NoName(at) => Err(at),
        Found::NotOurs => return Verdict::NotOurs,
    };
    reply.authoritative();
    if soa_at.is_err() {
        reply.code(Code::NxDomain);
    }
    let (Ok(at) | Err(at)) = soa_at;
    // The SOA's owner is an end of the name asked for, or the root.
    let pointer = (0xc000 | (HEADER + at) as u16).to_be_bytes();
    let owner: &[u8] = if at + 1 >= key.as_slice().len() { &[0] } else { &pointer };
    reply.records(Section::Authority, 1, &[owner, &zone.soa]);
    reply.finish();
    if soa_at.is_ok() { Verdict::NoData } else { Verdict::NoName }
}

/// "All you have" gets one small record that says why not (RFC 8482, 4.2).
fn refuse_any(zone: &Zone, mut reply: Reply<'_>) -> Verdict {
    let [hi, lo] = kind::HINFO.to_be_bytes();
    reply.records(
        Section::Answer,
        1,
        &[&[0xc0, 12, hi, lo, 0, 1], &zone.ttl_s.to_be_bytes(), &[0, 9, 7], b"RFC8482", &[0]],
    );
    reply.finish();
    Verdict::Refused
}

fn write_records(mut reply: Reply<'_>, query: &Query, node: &Node, records: &Records, turn: u32) -> Verdict {
    reply.authoritative();
    let count = records.ends.len();
    // Begin somewhere else each time, so that who takes the first spreads over all.
    let first = turn as usize % count;
    let cut = if first == 0 { 0 } else { records.ends[first - 1] as usize };
    let (last, begin) = records.bytes.split_at(cut);
    let fits = reply.records(Section::Answer, records.count(), &[begin, last]);
    if !fits {
        reply.truncate();
    }
    if fits && matches!(query.qtype, kind::SRV | kind::NS) {
        let mut from = 0;
        for end in &node.additional.ends {
            // What does not fit is asked for by name.
            if !reply.records(Section::Additional, 1, &[&node.additional.bytes[from..*end as usize]]) {
                break;
            }
            from = *end as usize;
        }
    }
    reply.finish();
    if fits { Verdict::Answered } else { Verdict::Truncated }
}

fn find<'z>(zone: &'z Zone, key: &Key, qtype: u16, client: IpAddr) -> Found<'z> {
    let name = key.as_slice();
    if let Some(node) = zone.nodes.get(name) {
        return Found::Node(node);
    }
    let root = name.len() - 1;
    let labels = name::labels(name);
    let app = zone.clients.get(&client);
    if labels == 1 {
        let own = app.and_then(|app| key.with_suffix(app)?.with_suffix(&zone.domain));
        if let Some(node) = own.and_then(|own| zone.nodes.get(own.as_slice())) {
            return Found::Node(node);
        }
        // Hosts are never top-level names: such a question would only tell others how our services are called. Types
        // that the top level has (NS, DS, …) are others' matter.
        let is_host = matches!(qtype, kind::A | kind::AAAA | kind::SRV | kind::ANY);
        return if is_host { Found::NoName(root) } else { Found::NotOurs };
    }
    if let Some(at) = name::offset_of(name, &zone.domain) {
        return Found::NoName(at);
    }
    if let Some(reverse) = name::parse_reverse(name) {
        return find_reverse(zone, name, reverse);
    }
    if let Some(dotted) = app.filter(|app| name::offset_of(name, app).is_some_and(|at| at > 0))
        && name::labels(dotted) > 1
    {
        let own = key.with_suffix(&zone.domain);
        return own.and_then(|own| zone.nodes.get(own.as_slice())).map_or(Found::NotOurs, Found::Node);
    }
    find_gone(zone, name, labels)
}

/// A short name that is not there: ours when it can only have meant a service of one of our apps. Asking others for a
/// service that has just gone would get a stranger's address wherever an app is called like a top-level domain.
fn find_gone<'z>(zone: &'z Zone, name: &[u8], labels: usize) -> Found<'z> {
    let mut rest = name;
    while let Some(above) = name::parent(rest) {
        let at = name.len() - above.len();
        if name::labels(above) > 1 && zone.nodes.contains_key(above) && name::parse_reverse(above).is_none() {
            return Found::NoName(at);
        }
        if name::is_single_label(above) && zone.apps.contains(above) {
            let first = &name[1..=usize::from(name[0])];
            let is_part = first.iter().all(u8::is_ascii_digit) || first[0] == b'_';
            return if labels == 2 || is_part { Found::NoName(at) } else { Found::NotOurs };
        }
        rest = above;
    }
    Found::NotOurs
}

/// A reverse name without a pointer.
fn find_reverse<'z>(zone: &'z Zone, name: &[u8], reverse: name::ReverseName) -> Found<'z> {
    let Some(subnet) = zone.subnets.iter().find(|it| it.contains(reverse.address) && reverse.bits >= it.prefix) else {
        return Found::NotOurs;
    };
    // The zone is cut at the first whole octet or nibble within the subnet.
    let (step, tail) = if subnet.address.is_ipv4() { (8, 14) } else { (4, 10) };
    let mut kept = name;
    let keep = usize::from(subnet.prefix.div_ceil(step));
    while name::labels(kept) > keep + 2 {
        kept = name::parent(kept).unwrap_or(&[0]);
    }
    let at = name.len().saturating_sub(kept.len().max(tail));
    let whole = if subnet.address.is_ipv4() { 32 } else { 128 };
    if reverse.below || reverse.bits == whole { Found::NoName(at) } else { Found::Empty(at) }
}

/// Where in a name that exists its zone begins.
fn soa_offset(zone: &Zone, key: &Key) -> usize {
    let name = key.as_slice();
    if let Some(at) = name::offset_of(name, &zone.domain) {
        return at;
    }
    if let Some(reverse) = name::parse_reverse(name)
        && let Found::NoName(at) | Found::Empty(at) = find_reverse(zone, name, reverse)
    {
        return at;
    }
    // A short name's zone is its app: the last label. A single label's is the root.
    let mut rest = name;
    while name::labels(rest) > 1 {
        rest = name::parent(rest).unwrap_or(&[0]);
    }
    if rest.len() == name.len() { name.len() - 1 } else { name.len() - rest.len() }
}
