//! Header fields on their way through: which belong to one hop, which are ours to say, and which pass.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::buffer::Span;
use crate::head::{name, tokens, value};

/// The fields of a message, wherever they are.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    Http1 { bytes: &'a [u8], spans: &'a [Span] },
    Http2(&'a HeaderMap),
}

impl<'a> View<'a> {
    pub(crate) fn each(&self, mut see: impl FnMut(&'a [u8], &'a [u8])) {
        match *self {
            Self::Http1 { bytes, spans } => spans.iter().for_each(|span| see(name(bytes, span), value(bytes, span))),
            Self::Http2(map) => map.iter().for_each(|(name, value)| see(name.as_str().as_bytes(), value.as_bytes())),
        }
    }

    /// Whether there is a field of this name (lower case) with exactly this value.
    pub(crate) fn has(&self, wanted: &str, exactly: &str) -> bool {
        let mut found = false;
        self.each(|name, value| found |= name.eq_ignore_ascii_case(wanted.as_bytes()) && value == exactly.as_bytes());
        found
    }

    /// The first field of this name.
    pub(crate) fn get(&self, wanted: &str) -> Option<&'a [u8]> {
        let mut found = None;
        self.each(|name, value| {
            if found.is_none() && name.eq_ignore_ascii_case(wanted.as_bytes()) {
                found = Some(value);
            }
        });
        found
    }
}

/// The field by which the proxy notices its own requests.
pub(crate) const LOOP: &str = "x-coppice-via";

/// What a field is to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Passes.
    Plain,
    Host,
    ContentLength,
    Connection,
    /// Of this hop only: Keep-Alive, Proxy-*, Transfer-Encoding, HTTP2-Settings.
    Hop,
    Te,
    Upgrade,
    Expect,
    Cookie,
    ContentType,
    Authorization,
    RequestId,
    Traceparent,
    Tracestate,
    Forwarded,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Loop,
}

/// By length first: most fields are settled by it.
pub(crate) fn classify(name: &[u8]) -> Field {
    let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
    match name.len() {
        2 if is("te") => Field::Te,
        4 if is("host") => Field::Host,
        6 if is("cookie") => Field::Cookie,
        6 if is("expect") => Field::Expect,
        7 if is("upgrade") => Field::Upgrade,
        9 if is("forwarded") => Field::Forwarded,
        10 if is("connection") => Field::Connection,
        10 if is("keep-alive") => Field::Hop,
        10 if is("tracestate") => Field::Tracestate,
        11 if is("traceparent") => Field::Traceparent,
        12 if is("content-type") => Field::ContentType,
        12 if is("x-request-id") => Field::RequestId,
        13 if is("authorization") => Field::Authorization,
        13 if is(LOOP) => Field::Loop,
        14 if is("content-length") => Field::ContentLength,
        14 if is("http2-settings") => Field::Hop,
        15 if is("x-forwarded-for") => Field::ForwardedFor,
        16 if is("proxy-connection") => Field::Hop,
        16 if is("x-forwarded-host") => Field::ForwardedHost,
        17 if is("transfer-encoding") => Field::Hop,
        17 if is("x-forwarded-proto") => Field::ForwardedProto,
        19 if is("proxy-authorization") => Field::Hop,
        _ => Field::Plain,
    }
}

/// What the proxy reads of a request's fields, in one pass.
#[derive(Default)]
pub(crate) struct Known<'a> {
    pub(crate) host: Option<&'a [u8]>,
    pub(crate) connection: Option<&'a [u8]>,
    /// A second Connection field.
    pub(crate) more_connections: bool,
    pub(crate) upgrade: Option<&'a [u8]>,
    pub(crate) expect: Option<&'a [u8]>,
    pub(crate) te: Option<&'a [u8]>,
    pub(crate) cookie: Option<&'a [u8]>,
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) authorization: Option<&'a [u8]>,
    pub(crate) request_id: Option<&'a [u8]>,
    pub(crate) traceparent: Option<&'a [u8]>,
    pub(crate) forwarded_for: Option<&'a [u8]>,
    pub(crate) forwarded_host: Option<&'a [u8]>,
    pub(crate) forwarded_proto: Option<&'a [u8]>,
    pub(crate) forwarded: Option<&'a [u8]>,
    pub(crate) via: Option<&'a [u8]>,
}

impl<'a> Known<'a> {
    pub(crate) fn of(view: View<'a>) -> Self {
        let mut known = Self::default();
        view.each(|name, value| {
            let place = match classify(name) {
                Field::Host => &mut known.host,
                Field::Connection => {
                    known.more_connections |= known.connection.is_some();
                    &mut known.connection
                }
                Field::Upgrade => &mut known.upgrade,
                Field::Expect => &mut known.expect,
                Field::Te => &mut known.te,
                Field::Cookie => &mut known.cookie,
                Field::ContentType => &mut known.content_type,
                Field::Authorization => &mut known.authorization,
                Field::RequestId => &mut known.request_id,
                Field::Traceparent => &mut known.traceparent,
                // Of several fields the last is the one that the nearest proxy wrote.
                Field::ForwardedFor => {
                    known.forwarded_for = Some(value);
                    return;
                }
                Field::ForwardedHost => &mut known.forwarded_host,
                Field::ForwardedProto => &mut known.forwarded_proto,
                Field::Forwarded => &mut known.forwarded,
                Field::Loop => &mut known.via,
                _ => return,
            };
            place.get_or_insert(value);
        });
        known
    }

    /// Whether Connection has this option.
    pub(crate) fn option(&self, wanted: &str) -> bool {
        self.connection.is_some_and(|list| tokens(list).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes())))
    }
}

/// Whether a plain field belongs to the connection because Connection names it. Asked for plain fields only, and never
/// true for those a client could harm itself or others by having taken away.
pub(crate) fn nominated(view: View<'_>, connection: Option<&[u8]>, name: &[u8]) -> bool {
    let Some(list) = connection else { return false };
    // The common values nominate nothing.
    if list.eq_ignore_ascii_case(b"keep-alive") || list.eq_ignore_ascii_case(b"close") {
        return false;
    }
    let kept = ["content-encoding", "range", "accept", "origin"];
    let kept = |token: &[u8]| kept.iter().any(|kept| token.eq_ignore_ascii_case(kept.as_bytes()));
    let mut found = false;
    view.each(|field, list| {
        if classify(field) == Field::Connection {
            found |= tokens(list).any(|token| token.eq_ignore_ascii_case(name) && !kept(token));
        }
    });
    found
}

/// The value of cookie `wanted` in a Cookie field.
pub(crate) fn cookie<'a>(field: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    field.split(|byte| *byte == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(wanted.as_bytes())?.strip_prefix(b"=")
    })
}

/// Where the fields of a head that is being built go.
pub(crate) enum Fields<'a> {
    Http1(&'a mut Vec<u8>),
    Http2(&'a mut HeaderMap),
}

impl Fields<'_> {
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        match self {
            Self::Http1(out) => {
                out.reserve(name.len() + value.len() + 4);
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
            Self::Http2(map) => {
                // Names and values were checked when they were read.
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                    map.append(name, value);
                }
            }
        }
    }
}
