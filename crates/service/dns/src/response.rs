//! Other servers' answers: judged byte by byte before anything of them is kept or passed on.
//!
//! The records' data is passed on as it is, so that types this program has never heard of work. What is checked is
//! that the answer is one to our question, that names and records lie within the message, and that no pointer leads
//! forward or in a circle. Their OPT record is theirs alone and left away.

use crate::message::{Reply, Transport};
use crate::query::{CLASS_IN, Code, HEADER, Query, kind};

/// The longest any answer is kept, whatever its TTL says: a day, as others do.
const LIFETIME_MAX_S: u32 = 86_400;
/// The longest an answer that there is none is kept (RFC 2308, 5, suggests one to three hours; a new name is then
/// missing for that long).
const LIFETIME_NEGATIVE_MAX_S: u32 = 300;

/// A checked answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// The whole message without OPT; its id and flags mean nothing.
    wire: Vec<u8>,
    /// Where the sections begin: after the question.
    sections_at: usize,
    counts: [u16; 3],
    /// Where the TTLs are.
    ttls: Vec<u16>,
    /// Seconds it may be kept; 0: not at all.
    pub(crate) lifetime_s: u32,
    pub(crate) code: Code,
    /// Only its beginning came: it must be asked for over TCP.
    pub(crate) truncated: bool,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Not an answer to this question: somebody else's, or a forgery.
    Foreign,
    /// An answer to this question which is malformed.
    Malformed,
    /// The server says that it cannot or will not, with its code.
    Failed(u16),
}

struct Reader<'a> {
    wire: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let bytes = self.wire.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// Skips a name. Pointers must lead back to before the part they are in, so that none can go in a circle.
    fn skip_name(&mut self) -> Option<()> {
        let mut at = self.at;
        let mut part = self.at;
        let mut end = None;
        let mut len = 0;
        loop {
            let byte = *self.wire.get(at)?;
            match byte {
                0 => break,
                1..=63 => {
                    at += 1 + usize::from(byte);
                    len += 1 + usize::from(byte);
                    if len >= crate::name::WIRE_MAX {
                        return None;
                    }
                }
                0xc0.. => {
                    let to = usize::from(byte & 0x3f) << 8 | usize::from(*self.wire.get(at + 1)?);
                    if to >= part || to < HEADER {
                        return None;
                    }
                    end.get_or_insert(at + 2);
                    part = to;
                    at = to;
                }
                _ => return None,
            }
        }
        self.at = end.unwrap_or(at + 1);
        Some(())
    }
}

/// Reads `wire` as the answer to the question (`name` in lower case, type) that was asked with `id`.
pub(crate) fn read(mut wire: Vec<u8>, id: u16, name: &[u8], qtype: u16) -> Result<Response, Invalid> {
    let header = *wire.first_chunk::<HEADER>().ok_or(Invalid::Foreign)?;
    let sections_at = HEADER + name.len() + 4;
    let question = wire.get(HEADER..sections_at);
    let is_ours = header[..2] == id.to_be_bytes()
        && header[2] & 0xf8 == 0x80
        && header[4..6] == [0, 1]
        && question.is_some_and(|it| {
            let (own, rest) = it.split_at(name.len());
            own.eq_ignore_ascii_case(name) && rest == [qtype.to_be_bytes(), CLASS_IN.to_be_bytes()].concat()
        });
    if !is_ours {
        // A server that cannot read the question may answer with its header alone.
        let is_failure = header[..2] == id.to_be_bytes() && header[2] & 0x80 != 0 && wire.len() == HEADER;
        let code = u16::from(header[3] & 0x0f);
        return Err(if is_failure && code != 0 { Invalid::Failed(code) } else { Invalid::Foreign });
    }
    let truncated = header[2] & 0x02 != 0;
    let mut response = Response {
        wire: Vec::new(),
        sections_at,
        counts: [0; 3],
        ttls: Vec::new(),
        lifetime_s: 0,
        code: Code::NoError,
        truncated,
    };
    if truncated {
        return Ok(response);
    }
    let read = read_sections(&mut response, &wire, &header, qtype).ok_or(Invalid::Malformed)?;
    wire.truncate(read.end);
    match read.extended << 4 | u16::from(header[3] & 0x0f) {
        0 => {}
        3 => response.code = Code::NxDomain,
        failed => return Err(Invalid::Failed(failed)),
    }
    response.wire = wire;
    Ok(response)
}

struct Sections {
    /// Where what is kept ends.
    end: usize,
    /// Upper bits of the code, from OPT.
    extended: u16,
}

fn read_sections(response: &mut Response, wire: &[u8], header: &[u8; HEADER], qtype: u16) -> Option<Sections> {
    let mut reader = Reader { wire, at: response.sections_at };
    let mut lifetime_s = LIFETIME_MAX_S;
    let mut negative_s = None;
    let mut has_type = false;
    let mut opt = None;
    for section in 0..3 {
        let count = u16::from_be_bytes([header[6 + 2 * section], header[7 + 2 * section]]);
        for _ in 0..count {
            let begin = reader.at;
            reader.skip_name()?;
            let record_type = reader.u16()?;
            let _class = reader.u16()?;
            let ttl_at = reader.at;
            // The top bit has no meaning but zero (RFC 2181, 8).
            let ttl_s = reader.u32().map(|ttl_s| if ttl_s > i32::MAX as u32 { 0 } else { ttl_s })?;
            let len = usize::from(reader.u16()?);
            let data = wire.get(reader.at..reader.at + len)?;
            reader.at += len;
            if record_type == kind::OPT {
                if section != 2 || opt.is_some() {
                    return None;
                }
                opt = Some(Sections { end: begin, extended: u16::from(wire[ttl_at]) });
                continue;
            }
            // Records after OPT go with it: taking it out from between would move what pointers point at.
            if opt.is_some() {
                continue;
            }
            response.counts[section] += 1;
            response.ttls.push(u16::try_from(ttl_at).ok()?);
            lifetime_s = lifetime_s.min(ttl_s);
            has_type |= section == 0 && record_type == qtype;
            if section == 1 && record_type == kind::SOA {
                let minimum = data.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))?;
                negative_s = Some(minimum.min(ttl_s).min(LIFETIME_NEGATIVE_MAX_S));
            }
        }
    }
    if reader.at != wire.len() {
        return None;
    }
    // That there is none may be kept only as long as a SOA says (RFC 2308, 5).
    response.lifetime_s = if has_type { lifetime_s } else { negative_s.map_or(0, |it| it.min(lifetime_s)) };
    Some(opt.unwrap_or(Sections { end: wire.len(), extended: 0 }))
}

impl Response {
    /// That the name could not be resolved, to be kept `lifetime_s` seconds (RFC 9520).
    pub(crate) fn failure(lifetime_s: u32) -> Self {
        Self {
            wire: Vec::new(),
            sections_at: 0,
            counts: [0; 3],
            ttls: Vec::new(),
            lifetime_s,
            code: Code::ServFail,
            truncated: false,
        }
    }

    /// Bytes it takes in memory, about.
    pub(crate) fn weight(&self) -> usize {
        self.wire.capacity() + 2 * self.ttls.capacity() + size_of::<Self>()
    }

    /// Writes it as the answer to `query`, `age_s` seconds after it came; says whether it was too long.
    pub(crate) fn write(
        &self,
        (query, packet): (&Query, &[u8]),
        transport: Transport,
        age_s: u32,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut reply = Reply::new(out, query, packet, transport);
        reply.code(self.code);
        let fits = reply.sections(self.wire.get(self.sections_at..).unwrap_or_default(), self.counts);
        if fits {
            for at in &self.ttls {
                let at = usize::from(*at);
                let Some(Some(bytes)) = self.wire.get(at..).map(<[u8]>::first_chunk::<4>) else { continue };
                let ttl_s = u32::from_be_bytes(*bytes);
                let kept = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s };
                reply.ttl(at, kept.saturating_sub(age_s));
            }
        } else {
            reply.truncate();
        }
        reply.finish();
        !fits
    }
}
