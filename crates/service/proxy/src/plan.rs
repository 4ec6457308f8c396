//! What is to be done with a request: everything that is decided before a socket is touched.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use coppice_base::Timestamp;
use coppice_route::{Target, authority, hash, rewritten};
use coppice_spec::{BackendProtocol, RouteAction, Sticky};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Uri, request};

use crate::access_log::Record;
use crate::answer::Answer;
use crate::body::decimal;
use crate::buffer;
use crate::callers::Origin;
use crate::head::Framing;
use crate::headers::{self, Field, Fields, Known, View};
use crate::identity::{self, Peer, TRACEPARENT};
use crate::routes::Compiled;
use crate::spans::Begun;
use crate::worker::Worker;

/// A request's head, in whichever version it came.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a [u8],
    /// `:authority`.
    pub(crate) authority: Option<&'a str>,
    pub(crate) view: View<'a>,
    pub(crate) framing: Framing,
    pub(crate) is_http2: bool,
}

pub(crate) enum Plan {
    /// Answered here, on behalf of a route where one took it.
    Answer(Answer, Option<Arc<Compiled>>),
    Forward(Box<Forward>),
}

/// A planned request, with what is needed until its end.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) request_id: RequestId,
    pub(crate) started: Instant,
    pub(crate) record: Option<Box<Record>>,
    /// Of a trace that is kept.
    pub(crate) span: Option<Box<Begun>>,
}

/// A request on its way to an instance.
pub(crate) struct Forward {
    pub(crate) route: Arc<Compiled>,
    pub(crate) head: UpstreamHead,
    /// Sent where the route keeps the client's Host.
    pub(crate) host: Vec<u8>,
    pub(crate) framing: Framing,
    /// May be sent twice: GET, HEAD and OPTIONS without a body.
    pub(crate) repeatable: bool,
    pub(crate) is_head: bool,
    /// The protocol the client asks to change to.
    pub(crate) upgrade: bool,
    pub(crate) expects_continue: bool,
    /// Index into the route's backends.
    pub(crate) group: usize,
    pub(crate) sticky: Option<u64>,
    pub(crate) wanted: Option<u64>,
    pub(crate) authorization: Option<Vec<u8>>,
    pub(crate) peer: Rc<Peer>,
    pub(crate) origin: Origin,
    /// The `traceparent` that the instance gets.
    pub(crate) trace: [u8; TRACEPARENT],
}

/// The head as an instance will get it, but for Host.
pub(crate) enum UpstreamHead {
    /// The request line, and the fields with the empty line.
    Http1 {
        line: Vec<u8>,
        fields: Vec<u8>,
    },
    Http2(Box<request::Parts>),
}

impl Drop for Forward {
    fn drop(&mut self) {
        buffer::done(std::mem::take(&mut self.host));
    }
}

impl Drop for UpstreamHead {
    fn drop(&mut self) {
        if let Self::Http1 { line, fields } = self {
            buffer::done(std::mem::take(line));
            buffer::done(std::mem::take(fields));
        }
    }
}

/// The request with these parts, for an instance: unencrypted, and with `authority`, where it is one.
pub(crate) fn addressed(parts: &request::Parts, authority: Option<Authority>) -> http::Request<()> {
    let mut request = http::Request::from_parts(parts.clone(), ());
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    (uri.scheme, uri.authority) = (Some(Scheme::HTTP), authority);
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    request
}

/// A request's name: the client's own where it is a sane one, else 32 hex digits.
#[derive(Clone)]
pub(crate) enum RequestId {
    Made([u8; 32]),
    Given(Box<[u8]>),
}

impl RequestId {
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Self::Made(text) => text,
            Self::Given(text) => text,
        }
    }
}

pub(crate) fn plan(worker: &Worker, peer: &Rc<Peer>, request: &Request<'_>) -> Planned {
    let started = worker.look();
    let known = Known::of(request.view);
    let request_id = match known.request_id.filter(|id| identity::is_request_id(id)) {
        Some(given) => RequestId::Given(given.into()),
        None => RequestId::Made(identity::hex_digits(|| worker.random())),
    };
    let client = identity::client(peer, known.forwarded_for, &worker.shared.trusted);
    let record = worker.logs().then(|| Box::new(Record::of(request, &known, client, request_id.text())));
    let plan = decide(worker, peer, request, &known, client, &request_id);
    let span = worker.traces().then(|| {
        let trace = match &plan {
            Plan::Forward(request) => request.trace,
            Plan::Answer(..) => trace(worker, &known).0,
        };
        Begun::of(request, &known, client, peer.tls, trace)
    });
    Planned { plan, request_id, started, record, span: span.flatten() }
}

/// The `traceparent` to send on, and whether `tracestate` goes with it.
fn trace(worker: &Worker, known: &Known<'_>) -> ([u8; TRACEPARENT], bool) {
    identity::traceparent(known.traceparent, worker.keeps_trace(), || worker.random())
}

fn decide(
    worker: &Worker,
    peer: &Rc<Peer>,
    request: &Request<'_>,
    known: &Known<'_>,
    client: IpAddr,
    request_id: &RequestId,
) -> Plan {
    let refuse = |answer: Answer| {
        worker.counts.bad_requests.add(1);
        Plan::Answer(answer, None)
    };
    if request.method == "CONNECT" {
        return refuse(Answer::text(405, "CONNECT is refused: this is not a forward proxy.").closing());
    }
    let target = match Target::parse(request.target) {
        Ok(target) => target,
        Err(error) => return refuse(Answer::text(400, format!("Bad request target: {error}.")).closing()),
    };
    let written = request.authority.map(str::as_bytes).or(known.host);
    let host = match authority(written.unwrap_or_default()) {
        Ok(host) => host,
        Err(error) => return refuse(Answer::text(400, format!("Bad request: {error}.")).closing()),
    };
    if request.authority.is_some()
        && known.host.is_some_and(|other| authority(other).ok().is_none_or(|other| other != host))
    {
        return refuse(Answer::text(400, "Bad request: Host and :authority differ.").closing());
    }
    if known.via.is_some_and(|via| headers_name(via, &worker.shared.node)) {
        return refuse(Answer::text(
            508,
            "This request went through this proxy already: a service calls its own route.",
        ));
    }
    if let Some(token) = target.path.strip_prefix("/.well-known/acme-challenge/")
        && let Some(challenges) = &worker.shared.challenges
        && let Some(authorization) = challenges.key_authorization(&host, token)
    {
        let mut answer = Answer::text(200, authorization);
        answer.content_type = "application/octet-stream";
        return Plan::Answer(answer, None);
    }
    let has = |name: &str, value: &str| request.view.has(name, value);
    let found = worker.with_snapshot(|snapshot| {
        let entry = snapshot.table.find(&host, &target.path, request.method, has);
        entry.map(|entry| Arc::clone(&entry.value))
    });
    let Some(route) = found else {
        worker.counts.unrouted.add(1);
        return Plan::Answer(Answer::text(404, "No route takes this request."), None);
    };
    let counts = &route.state.counts[worker.index];
    let spec = &route.spec;
    let secure = peer.tls || (peer.trusted && known.forwarded_proto.is_some_and(|proto| proto == b"https"));
    let refused = |answer| {
        counts.refused.add(1);
        answer
    };
    let forwards = matches!(spec.action, RouteAction::Forward);
    let early = if forwards && worker.denies(&Origin::of(peer, client), &route) {
        Some(Answer::denied())
    } else if !spec.allow.is_empty() && !spec.allow.iter().any(|network| network.contains(client)) {
        Some(refused(Answer::text(403, "This address may not come in here.")))
    } else if route.https_only && !secure {
        let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
        Some(Answer::redirect(308, format!("https://{host}{}{query}", target.path)))
    } else if let Some(wait) = spec.rate_limit.and_then(|limit| {
        let mut buckets = route.state.limiter(client).lock().ok()?;
        buckets.take(client, limit, worker.now()).err()
    }) {
        counts.limited.add(1);
        Some(Answer::text(429, "Too many requests.").retry_after(wait))
    } else if let (Some(most), Framing::Length(length)) = (spec.max_body, request.framing)
        && length > most.0
    {
        Some(Answer::text(413, format!("The body is larger than {most}.")).closing())
    } else {
        match &spec.action {
            RouteAction::Forward => None,
            RouteAction::Redirect { to, status } => {
                let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
                let to = to.replace("{host}", &host).replace("{path}", &target.path).replace("{query}", &query);
                Some(Answer::redirect(*status, to))
            }
            RouteAction::Maintenance { html } => {
                Some(Answer::page(503, html).retry_after(std::time::Duration::from_secs(60)))
            }
        }
    };
    // Who may come in is asked before what is said to them; a redirect or a page tells nothing and needs no password.
    if let Some(answer) = early {
        let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
        return Plan::Answer(if has_body { answer.closing() } else { answer }, Some(route));
    }
    Plan::Forward(Box::new(forward(worker, peer, request, known, client, request_id, &target, route)))
}

/// Whether a Via-like list names `node`.
fn headers_name(list: &[u8], node: &str) -> bool {
    crate::head::tokens(list).any(|token| token == node.as_bytes())
}

#[allow(clippy::too_many_arguments)] // one call: what `decide` has worked out
fn forward(
    worker: &Worker,
    peer: &Rc<Peer>,
    request: &Request<'_>,
    known: &Known<'_>,
    client: IpAddr,
    request_id: &RequestId,
    target: &Target<'_>,
    route: Arc<Compiled>,
) -> Forward {
    let spec = &route.spec;
    let grpc = request.is_http2 && known.content_type.is_some_and(|of| of.starts_with(b"application/grpc"));
    let http2 = grpc || spec.protocol == BackendProtocol::H2c;
    let upgrade = !http2 && !request.is_http2 && known.upgrade.is_some() && known.option("upgrade");
    let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
    let path = match &spec.rewrite {
        Some(rewrite) => rewritten(&target.path, spec.path.text(), rewrite).into(),
        None => target.path.clone(),
    };
    let written_host = request.authority.map(str::as_bytes).or(known.host).unwrap_or_default();
    let trace;
    let head = if http2 {
        let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(request.method.as_bytes()).unwrap_or(Method::GET);
        // The authority is set when the instance is known.
        parts.uri = Uri::try_from(format!("{path}{query}")).unwrap_or_default();
        parts.version = http::Version::HTTP_2;
        let mut fields = Fields::Http2(&mut parts.headers);
        trace = emit(worker, peer, request, known, request_id, &route, &mut fields);
        if let Framing::Length(length) = request.framing {
            parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        UpstreamHead::Http2(Box::new(parts))
    } else {
        let mut line = buffer::writer();
        line.extend_from_slice(request.method.as_bytes());
        line.push(b' ');
        line.extend_from_slice(path.as_bytes());
        if let Some(query) = target.query {
            line.push(b'?');
            line.extend_from_slice(query.as_bytes());
        }
        line.extend_from_slice(b" HTTP/1.1\r\n");
        let mut out = buffer::writer();
        trace = emit(worker, peer, request, known, request_id, &route, &mut Fields::Http1(&mut out));
        match request.framing {
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(decimal(length).text());
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked | Framing::Close => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::None => {}
        }
        if upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            out.extend_from_slice(known.upgrade.unwrap_or_default());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        UpstreamHead::Http1 { line, fields: out }
    };
    let (sticky, wanted) = match &spec.sticky {
        None => (None, None),
        Some(Sticky::Client) => (Some(hash::mix(coppice_route::limit::key(client))), None),
        Some(Sticky::Header(name)) => (request.view.get(name).map(|value| hash::stable(&[value])), None),
        Some(Sticky::Cookie(name)) => {
            let value = known.cookie.and_then(|field| headers::cookie(field, name));
            let id = value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<HexId>().ok());
            (None, id.map(|id| id.0))
        }
    };
    let holds = |wanted: u64, group: &crate::routes::Group| group.members.iter().any(|one| one.instance.id == wanted);
    let group = match (sticky, wanted.and_then(|id| route.backends.iter().position(|group| holds(id, group)))) {
        (_, Some(group)) => group,
        (Some(key), None) => route.choice.by_hash(key),
        (None, None) => route.choice.next(),
    };
    let safe = matches!(request.method, "GET" | "HEAD" | "OPTIONS");
    let expects = known.expect.is_some_and(|expect| expect.eq_ignore_ascii_case(b"100-continue"));
    Forward {
        head,
        host: {
            let mut host = buffer::writer();
            host.extend_from_slice(written_host);
            host
        },
        framing: request.framing,
        repeatable: safe && !has_body && !upgrade,
        is_head: request.method == "HEAD",
        upgrade,
        expects_continue: expects && has_body && !request.is_http2,
        group: group.min(route.backends.len().saturating_sub(1)),
        sticky,
        wanted,
        authorization: (!route.passwords.is_open()).then(|| known.authorization.map(<[u8]>::to_vec)).flatten(),
        peer: Rc::clone(peer),
        origin: Origin::of(peer, client),
        trace,
        route,
    }
}

/// An instance's id in a sticky cookie.
pub(crate) struct HexId(pub(crate) u64);

impl std::str::FromStr for HexId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// Writes the fields an instance gets: the client's, without those of the hop, and ours. The `traceparent` among them.
fn emit(
    worker: &Worker,
    peer: &Peer,
    request: &Request<'_>,
    known: &Known<'_>,
    request_id: &RequestId,
    route: &Compiled,
    out: &mut Fields<'_>,
) -> [u8; TRACEPARENT] {
    let edits = &route.spec.request_headers;
    let edited = |name: &[u8]| edits.keys().any(|of_route| name.eq_ignore_ascii_case(of_route.as_bytes()));
    let (trace, continued) = trace(worker, known);
    request.view.each(|name, value| {
        let passes = match headers::classify(name) {
            Field::Plain => !headers::nominated(request.view, known.connection, name),
            Field::ContentType => true,
            // Several Cookie fields of HTTP/2 are one in HTTP/1.1; that is done below.
            Field::Cookie => !(request.is_http2 && matches!(out, Fields::Http1(_))),
            Field::Authorization => route.passwords.is_open(),
            Field::Tracestate => continued,
            _ => false,
        };
        if passes && (edits.is_empty() || !edited(name)) {
            out.put(name, value);
        }
    });
    if request.is_http2 && matches!(out, Fields::Http1(_)) && known.cookie.is_some() && !edited(b"cookie") {
        let mut all = Vec::new();
        request.view.each(|name, value| {
            if headers::classify(name) == Field::Cookie {
                if !all.is_empty() {
                    all.extend_from_slice(b"; ");
                }
                all.extend_from_slice(value);
            }
        });
        out.put(b"cookie", &all);
    }
    if matches!(out, Fields::Http2(_))
        && known.te.is_some_and(|te| crate::head::tokens(te).any(|token| token.eq_ignore_ascii_case(b"trailers")))
    {
        out.put(b"te", b"trailers");
    }
    forwarded(peer, request, known, out);
    for (name, value) in [(&b"x-request-id"[..], request_id.text()), (b"traceparent", &trace[..])] {
        if !edited(name) {
            out.put(name, value);
        }
    }
    match known.via {
        Some(before) => out.put(headers::LOOP.as_bytes(), &[before, b", ", worker.shared.node.as_bytes()].concat()),
        None => out.put(headers::LOOP.as_bytes(), worker.shared.node.as_bytes()),
    }
    for (name, value) in edits.iter().filter(|(_, value)| !value.is_empty()) {
        out.put(name.as_bytes(), value.as_bytes());
    }
    trace
}

/// X-Forwarded-For, -Host and -Proto; Forwarded goes on only where a trusted proxy has begun it.
fn forwarded(peer: &Peer, request: &Request<'_>, known: &Known<'_>, out: &mut Fields<'_>) {
    let address = peer.text.as_bytes();
    let before = known.forwarded_for.filter(|_| peer.trusted);
    match before {
        Some(before) => out.put(b"x-forwarded-for", &[before, b", ", address].concat()),
        None => out.put(b"x-forwarded-for", address),
    }
    let host = request.authority.map(str::as_bytes).or(known.host).unwrap_or_default();
    out.put(b"x-forwarded-host", known.forwarded_host.filter(|_| peer.trusted).unwrap_or(host));
    let scheme: &[u8] = if peer.tls { b"https" } else { b"http" };
    out.put(b"x-forwarded-proto", known.forwarded_proto.filter(|_| peer.trusted).unwrap_or(scheme));
    if let Some(before) = known.forwarded.filter(|_| peer.trusted) {
        let ip = peer.address.ip().to_canonical();
        let hop = if ip.is_ipv6() { format!("for=\"[{ip}]\"") } else { format!("for={ip}") };
        let scheme = String::from_utf8_lossy(scheme);
        out.put(b"forwarded", &[before, format!(", {hop};proto={scheme}").as_bytes()].concat());
    }
}

/// Milliseconds of the proxy's own clock.
pub(crate) fn since(base: Instant) -> Timestamp {
    between(base, Instant::now())
}

/// The same for a moment that is known already.
pub(crate) fn between(base: Instant, now: Instant) -> Timestamp {
    Timestamp(u64::try_from(now.saturating_duration_since(base).as_millis()).unwrap_or(u64::MAX))
}
