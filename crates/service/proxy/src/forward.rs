//! A request's way to an instance and its answer's way back.
//!
//! ```text
//! choose ─▶ connect ─▶ upload ∥ wait for the head ─▶ head to the client ─▶ upload ∥ download ─▶ connection kept
//!   ▲          │               │ (request timeout)          │
//!   └──────────┴── again, elsewhere, where nothing is lost ─┘
//! ```
//!
//! Sent again: any request that no instance has seen (no connection); a repeatable one on a kept connection that turned out
//! to be closed (no failure of the instance: not counted); and, as the route's `retry` says and its budget allows, a
//! repeatable one whose instance failed or answered 5xx. Nothing is sent again once the client has part of an answer.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coppice_route::{Chosen, Picking, choose};
use coppice_spec::Sticky;
use http::uri::Authority;

use crate::answer::Answer;
use crate::body::{BodyError, Http1Sink, Pump, PumpError, Sink, Source};
use crate::buffer;
use crate::callers::Leave;
use crate::deadline::Watch;
use crate::dial::{self, DialError, Stay};
use crate::head::Framing;
use crate::headers::{self, Field};
use crate::io::Io;
use crate::mirror::Mirror;
use crate::plan::{Forward, UpstreamHead, addressed};
use crate::reply::Reply;
use crate::routes::{Compiled, Group, Member};
use crate::tunnel;
use crate::upstream::{Awaiting, Kept, Lost, Upstream};
use crate::worker::Worker;

/// How often a request may move on because an instance took no connection, beside the route's retries.
const MOVES: usize = 3;
/// A body of declared length may stand still for so long (nginx's `client_body_timeout`).
const STALL: Duration = Duration::from_secs(60);
/// Between two looks at whether a stream must end with its route or instance.
const LOOK: Duration = Duration::from_secs(1);

/// How a request ended.
pub(crate) struct Ended {
    pub(crate) status: u16,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) instance: Option<Arc<Member>>,
    /// The client's connection cannot take another request.
    pub(crate) broken: bool,
    /// The client went away.
    pub(crate) aborted: bool,
}

enum Failure {
    /// Before any byte of an answer.
    Upstream {
        timeout: bool,
        /// On a kept connection, which may have been closed before it was used.
        stale: bool,
        /// Surely not begun by the instance.
        unseen: bool,
        answered: Option<u16>,
    },
    Client(BodyError),
    Gone,
    /// The policy has come to deny it.
    Denied,
    /// After the head went out: both connections are done for.
    Midway {
        status: u16,
        by_client: bool,
        sent: u64,
    },
}

pub(crate) async fn forward(
    worker: &Rc<Worker>,
    forward: &Forward,
    request_id: &[u8],
    body: &mut Source,
    reply: &mut Reply,
    watch: &Watch,
) -> Ended {
    let spec = &forward.route.spec;
    let counts = &forward.route.state.counts[worker.index];
    let budget = &forward.route.state.budget;
    budget.request(worker.recent());
    if forward.expects_continue
        && let Reply::Http1(reply) = &*reply
        && go_on(&reply.io, watch, spec.timeouts.idle.0).await.is_err()
    {
        return Ended::broken(499);
    }
    let mut mirror = Mirror::start(worker, forward);
    let mut retries = if forward.repeatable { spec.retry.count } else { 0 };
    let (mut moves, mut fresh, mut again) = (MOVES, false, false);
    let mut tried: Vec<u64> = Vec::new();
    let mut last = None;
    let mut route = Arc::clone(&forward.route);
    let answer = loop {
        let Some(member) = pick(worker, forward, &route, &tried, again || fresh) else {
            // The routes may have been replaced, with all their instances, since the request was planned.
            let newest = worker.with_snapshot(|snapshot| snapshot.again(&route));
            if let Some(newest) = newest.filter(|newest| !Arc::ptr_eq(newest, &route)) {
                route = newest;
                continue;
            }
            if let Some(answer) = last.take() {
                if !again && retries > 0 && budget.take(spec.retry.budget_percent, worker.now()) {
                    retries -= 1;
                    counts.retries.add(1);
                    again = true;
                    last = Some(answer);
                    continue;
                }
                break answer;
            }
            if worker.denies(&forward.origin, &route) {
                break Answer::denied();
            }
            counts.unavailable.add(1);
            let answer = Answer::text(503, "No instance is ready to answer.");
            break answer.retry_after(Duration::from_secs(1));
        };
        let Some(stay) = Stay::at(&member) else { continue };
        let begun = Instant::now();
        let may_retry = retries > 0;
        let dialed = dial(worker, forward, &member, fresh, watch).await;
        let (upstream, reused) = match dialed {
            Ok(dialed) => dialed,
            Err(error) => {
                report(worker, &member, false, begun);
                tried.push(member.instance.id);
                tracing::debug!(instance = member.name, %error, "no connection");
                let status = if matches!(error, DialError::Timeout) { 504 } else { 502 };
                last = Some(Answer::text(status, "The instance takes no connection."));
                // Nobody has seen the request: it may go elsewhere whatever it is, as long as there is an elsewhere.
                if moves > 0 {
                    moves -= 1;
                    again = false;
                    continue;
                }
                break last.take().unwrap_or_else(|| Answer::text(502, "No connection."));
            }
        };
        let mut attempt =
            Attempt { worker, forward, request_id, member: &member, body, reply, watch, mirror: &mut mirror };
        let done = attempt.run(upstream, reused, may_retry && spec.retry.on_5xx).await;
        drop(stay);
        let failure = match done {
            Ok(ended) => {
                report(worker, &member, ended.status < 500, begun);
                return ended;
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Upstream { stale: true, unseen, .. } if (forward.repeatable || unseen) && !fresh => fresh = true,
            Failure::Upstream { timeout, answered, .. } => {
                report(worker, &member, false, begun);
                tried.push(member.instance.id);
                last = Some(match (answered, timeout) {
                    (Some(status), _) => Answer::text(status, "The instance failed."),
                    (None, true) => Answer::text(504, "The instance did not answer in time."),
                    (None, false) => Answer::text(502, "The instance closed the connection without an answer."),
                });
                if may_retry && budget.take(spec.retry.budget_percent, worker.now()) {
                    retries -= 1;
                    counts.retries.add(1);
                    again = true;
                    continue;
                }
                break last.take().unwrap_or_else(|| Answer::text(502, "The instance failed."));
            }
            Failure::Client(error) => {
                break match error {
                    BodyError::TooLarge => Answer::text(413, "The body is too large."),
                    BodyError::Chunks | BodyError::Trailers(_) => Answer::text(400, format!("Bad request: {error}.")),
                    BodyError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                        Answer::text(408, "The body came too slowly.")
                    }
                    _ => return Ended::gone(),
                };
            }
            Failure::Gone => return Ended::gone(),
            Failure::Denied => break Answer::denied(),
            Failure::Midway { status, by_client, sent } => {
                if !by_client {
                    report(worker, &member, false, begun);
                }
                let mut ended = Ended::broken(status);
                (ended.aborted, ended.sent, ended.instance) = (by_client, sent, Some(member));
                return ended;
            }
        }
    };
    let done = body.is_done();
    let answer = if done { answer } else { answer.closing() };
    let mut ended = send_answer(&answer, request_id, reply, watch, spec.timeouts.idle.0).await;
    ended.broken |= !done;
    ended
}

impl Ended {
    fn broken(status: u16) -> Self {
        Self { status, sent: 0, received: 0, instance: None, broken: true, aborted: false }
    }

    fn gone() -> Self {
        // nginx's number for it, which people know from its logs; never sent.
        Self { aborted: true, ..Self::broken(499) }
    }
}

/// Sends an answer of our own, whole.
pub(crate) async fn send_answer(
    answer: &Answer,
    request_id: &[u8],
    reply: &mut Reply,
    watch: &Watch,
    idle: Duration,
) -> Ended {
    let Ok(mut sink) = reply.begin_answer(answer, request_id) else { return Ended::broken(answer.status) };
    let is_head = reply.is_head();
    watch.set(idle);
    let whole = if is_head { Bytes::new() } else { Bytes::copy_from_slice(answer.body.as_bytes()) };
    let mut source = Source::Whole(whole);
    let mut pump = Pump::new(None);
    let sent = poll_fn(|cx| match pump.poll(cx, &mut source, &mut sink, |_| ()) {
        Poll::Ready(done) => Poll::Ready(done.is_ok()),
        Poll::Pending if watch.expired(cx) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await;
    Ended { sent: pump.moved, broken: !sent, ..Ended::broken(answer.status) }
}

async fn go_on(io: &Rc<Io>, watch: &Watch, idle: Duration) -> Result<(), BodyError> {
    let out = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let mut sink = Sink::Http1(Http1Sink::new(Rc::clone(io), out, Framing::None));
    watch.set(idle);
    poll_fn(|cx| match sink.poll_flush(cx) {
        Poll::Pending if watch.expired(cx) => Poll::Ready(Err(BodyError::Short)),
        other => other,
    })
    .await
}

fn report(worker: &Worker, member: &Member, ok: bool, begun: Instant) {
    member.instance.report(ok, worker.recent());
    let counts = &member.counts[worker.index];
    counts.requests.add(1);
    if !ok {
        counts.failures.add(1);
    }
    counts.latency.record(begun.elapsed());
}

/// The instance for the next attempt: of the chosen service, else of another of the route's.
fn pick(worker: &Worker, forward: &Forward, route: &Compiled, tried: &[u64], again: bool) -> Option<Arc<Member>> {
    let from = |group: &Group| {
        if !worker.admits(&forward.origin, &route.app, &group.service) {
            return None;
        }
        let how = Picking {
            breaker: &route.spec.breaker,
            now: worker.recent(),
            random: worker.random(),
            sticky: forward.sticky,
            wanted: forward.wanted,
            tried,
        };
        match choose(&group.members, how) {
            Chosen::At(at) => Some((true, Arc::clone(&group.members[at]))),
            Chosen::OnlyTried(at) if again => Some((false, Arc::clone(&group.members[at]))),
            Chosen::OnlyTried(_) | Chosen::None => None,
        }
    };
    let backends = &route.backends;
    let first = backends.get(forward.group).and_then(&from);
    let others =
        || backends.iter().enumerate().filter(|(at, _)| *at != forward.group).filter_map(|(_, group)| from(group));
    match first {
        Some((true, member)) => Some(member),
        Some((false, tried)) => Some(others().find(|(new, _)| *new).map_or(tried, |(_, member)| member)),
        None => others().next().map(|(_, member)| member),
    }
}

async fn dial(
    worker: &Rc<Worker>,
    forward: &Forward,
    member: &Arc<Member>,
    fresh: bool,
    watch: &Watch,
) -> Result<(Upstream, bool), DialError> {
    let before = dial::proxy_header(forward.route.send_proxy, &forward.peer);
    let timeout = forward.route.spec.timeouts.connect.0;
    match &forward.head {
        UpstreamHead::Http1 { .. } => {
            if before.is_none()
                && !fresh
                && let Some(io) = worker.pools.take(member, worker.recent())
            {
                return Ok((Upstream::Http1(io), true));
            }
            Ok((Upstream::Http1(dial::connect(worker, member, timeout, before, watch).await?), false))
        }
        UpstreamHead::Http2(_) => {
            watch.set(timeout);
            let (send, place) = dial::http2(worker, member, timeout, before, fresh, watch).await?;
            Ok((Upstream::Http2(send, place), true))
        }
    }
}

/// One try with one instance.
struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    forward: &'a Forward,
    request_id: &'a [u8],
    member: &'a Arc<Member>,
    body: &'a mut Source,
    reply: &'a mut Reply,
    watch: &'a Watch,
    mirror: &'a mut Option<Mirror>,
}

impl Attempt<'_> {
    async fn run(&mut self, upstream: Upstream, reused: bool, retry_5xx: bool) -> Result<Ended, Failure> {
        let spec = &self.forward.route.spec;
        let (mut awaiting, mut sink) = self.send_head(upstream).map_err(|_| {
            // Not even its head was taken.
            Failure::Upstream { timeout: false, stale: reused, unseen: true, answered: None }
        })?;
        let mut pump = Pump::new(spec.max_body.map(|most| most.0));
        let (watch, limits) = (self.watch, &self.worker.shared.limits);
        let begun = self.worker.recent();
        let paced = matches!(self.forward.framing, Framing::Length(_)) && limits.body_rate > 0;
        let (body, mirror, reply) = (&mut *self.body, &mut *self.mirror, &mut *self.reply);
        let (idle, patience) = (spec.timeouts.idle.0, spec.timeouts.request.0);
        let body_wait = if paced { idle.min(STALL) } else { idle };
        watch.set(body_wait);
        let (mut uploaded, mut upload_failed) = (false, false);
        let mut leave = Leave::new(self.forward.origin);
        let head = poll_fn(|cx| {
            if leave.is_revoked(self.worker, self.member) {
                return Poll::Ready(Err(Failure::Denied));
            }
            if !uploaded && !upload_failed {
                let before = pump.moved;
                let moved = pump.poll(cx, body, &mut sink, |piece| tee(mirror, piece));
                if pump.moved != before {
                    watch.set(body_wait);
                }
                match moved {
                    Poll::Ready(Ok(())) => {
                        uploaded = true;
                        if let Some(mirror) = mirror.take() {
                            mirror.finish();
                        }
                        watch.set(patience);
                    }
                    Poll::Ready(Err(PumpError::From(error))) => return Poll::Ready(Err(Failure::Client(error))),
                    // It may have answered already and closed because it wants no more.
                    Poll::Ready(Err(PumpError::To)) => upload_failed = true,
                    Poll::Pending => {
                        let wanted = self.worker.now().since(begun).saturating_sub(limits.header_timeout).as_secs();
                        if paced && pump.moved != before && pump.moved < wanted.saturating_mul(limits.body_rate) {
                            let slow = std::io::Error::from(std::io::ErrorKind::TimedOut);
                            return Poll::Ready(Err(Failure::Client(BodyError::Io(slow))));
                        }
                    }
                }
            }
            match awaiting.poll_head(cx, limits) {
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(lost)) => {
                    // A body that has begun to move is not there any more to be sent again.
                    let whole = pump.moved == 0;
                    return Poll::Ready(Err(Failure::Upstream {
                        timeout: false,
                        stale: reused && whole && lost != Lost::Broken,
                        unseen: whole && lost == Lost::Refused,
                        answered: None,
                    }));
                }
                Poll::Pending => {}
            }
            if (uploaded && body.poll_gone(cx).is_ready()) || reply.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Failure::Gone));
            }
            if watch.expired(cx) {
                return Poll::Ready(Err(match uploaded {
                    true => Failure::Upstream { timeout: true, stale: false, unseen: false, answered: None },
                    false => Failure::Client(BodyError::Io(std::io::ErrorKind::TimedOut.into())),
                }));
            }
            Poll::Pending
        })
        .await?;
        if head.status >= 500 && retry_5xx {
            return Err(Failure::Upstream { timeout: false, stale: false, unseen: false, answered: Some(head.status) });
        }
        let switches = head.status == 101;
        if switches && !self.forward.upgrade {
            return Err(Failure::upstream(false));
        }
        let framing = match head.status {
            101 | 204 | 304 => Framing::None,
            _ if self.forward.is_head => Framing::None,
            _ => head.framing,
        };
        if !uploaded {
            // What is left of the request's body would be taken for the next request.
            self.reply.close();
        }
        let mut out = self.reply.head(head.status, awaiting.reason(&head));
        self.fields(&mut out, &awaiting, &head, framing);
        let (mut source, kept) = awaiting.into_source(&head, framing);
        let failed = |by_client, sent| Failure::Midway { status: head.status, by_client, sent };
        let mut down = self.reply.send(out, head.status, framing).map_err(|_| failed(true, 0))?;
        if switches {
            let Source::Http1(upstream) = source else { return Err(failed(false, 0)) };
            let Source::Http1(client) = &mut *self.body else { return Err(failed(true, 0)) };
            let (route, member) = (&self.forward.route, self.member);
            let ended = tunnel::run(client, upstream, down, self.watch, route, member, &mut leave, self.worker).await;
            let (sent, received) = ended;
            let member = Some(Arc::clone(self.member));
            return Ok(Ended { status: 101, sent, received, instance: member, broken: true, aborted: false });
        }
        let mut back = Pump::new(None);
        let (route, member) = (&self.forward.route.state, self.member);
        let body = &mut *self.body;
        let mut moved_at = self.worker.recent();
        let done = poll_fn(|cx| {
            let before = (back.moved, pump.moved);
            match back.poll(cx, &mut source, &mut down, |_| ()) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(PumpError::From(_))) => return Poll::Ready(Err(false)),
                Poll::Ready(Err(PumpError::To)) => return Poll::Ready(Err(true)),
                Poll::Pending => {}
            }
            if !uploaded && !upload_failed {
                match pump.poll(cx, body, &mut sink, |_| ()) {
                    Poll::Ready(Ok(())) => uploaded = true,
                    Poll::Ready(Err(PumpError::From(_))) => return Poll::Ready(Err(true)),
                    Poll::Ready(Err(PumpError::To)) => upload_failed = true,
                    Poll::Pending => {}
                }
            } else if uploaded && body.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(true));
            }
            if down.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(true));
            }
            if before != (back.moved, pump.moved) {
                moved_at = self.worker.now();
            }
            let now = self.worker.now();
            if now.since(moved_at) >= idle
                || overstays(now, route.leave_by(), member.leave_by())
                || leave.is_revoked(self.worker, member)
            {
                return Poll::Ready(Err(false));
            }
            // Not a deadline but a time to look again; asking is what registers for it.
            watch.set(LOOK.min(idle));
            watch.expired(cx);
            Poll::Pending
        })
        .await;
        if let Err(by_client) = done {
            if !by_client {
                // What did come of the answer is sent, and then nothing that would end it well.
                watch.set(LOOK);
                poll_fn(|cx| match down.poll_flush(cx) {
                    Poll::Pending if !watch.expired(cx) => Poll::Pending,
                    _ => Poll::Ready(()),
                })
                .await;
            }
            return Err(failed(by_client, back.moved));
        }
        self.keep(source, &head, kept, uploaded);
        let (sent, received) = (back.moved, pump.moved);
        let member = Some(Arc::clone(self.member));
        Ok(Ended { status: head.status, sent, received, instance: member, broken: !uploaded, aborted: false })
    }

    /// Sends the head (or lets it wait for the body's first bytes).
    fn send_head(&self, upstream: Upstream) -> Result<(Awaiting, Sink), h2::Error> {
        let forward = self.forward;
        match (upstream, &forward.head) {
            (Upstream::Http2(mut send, place), UpstreamHead::Http2(parts)) => {
                let authority = match forward.route.spec.preserve_host {
                    true => Authority::try_from(&forward.host[..]).ok(),
                    false => Authority::try_from(self.member.address.to_string()).ok(),
                };
                let request = addressed(parts, authority);
                let end = matches!(forward.framing, Framing::None | Framing::Length(0));
                let (response, stream) = send.send_request(request, end)?;
                let sink =
                    if end { Sink::Nowhere } else { Sink::Http2 { stream, reserved: false, held: Bytes::new() } };
                Ok((Awaiting::http2(response, place), sink))
            }
            (Upstream::Http1(io), UpstreamHead::Http1 { line, fields }) => {
                let mut out = buffer::writer();
                out.extend_from_slice(line);
                out.extend_from_slice(b"host: ");
                match forward.route.spec.preserve_host {
                    true => out.extend_from_slice(&forward.host),
                    false => out.extend_from_slice(self.member.address.to_string().as_bytes()),
                }
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(fields);
                let sink = Sink::Http1(Http1Sink::new(Rc::clone(&io), out, forward.framing));
                Ok((Awaiting::http1(io), sink))
            }
            _ => Err(h2::Reason::HTTP_1_1_REQUIRED.into()),
        }
    }

    /// The fields the client gets: the instance's, without those of the hop, the route's edits, and ours.
    fn fields(
        &self,
        out: &mut crate::reply::ReplyHead,
        awaiting: &Awaiting,
        head: &crate::upstream::Answered,
        framing: Framing,
    ) {
        let spec = &self.forward.route.spec;
        let edits = &spec.response_headers;
        let edited = |name: &[u8]| edits.keys().any(|of_route| name.eq_ignore_ascii_case(of_route.as_bytes()));
        let view = awaiting.view(head);
        let mut connection = None;
        view.each(|name, value| {
            if name.len() == "connection".len() && headers::classify(name) == Field::Connection {
                connection = Some(value);
            }
        });
        view.each(|name, value| {
            let passes = match headers::classify(name) {
                // Only what means nothing to us can be of the connection because Connection says so.
                Field::Plain => !headers::nominated(view, connection, name),
                Field::Connection | Field::Hop | Field::RequestId | Field::Te | Field::Loop => false,
                Field::Upgrade => head.status == 101,
                // Without a body it says what there would be; with one it is said by the framing.
                Field::ContentLength => framing == Framing::None && head.status != 204,
                _ => true,
            };
            if passes && (edits.is_empty() || !edited(name)) {
                out.field(name, value);
            }
        });
        if head.status == 101 {
            out.field(b"connection", b"upgrade");
        }
        out.field(b"x-request-id", self.request_id);
        if let Some(Sticky::Cookie(name)) = &spec.sticky
            && self.forward.wanted != Some(self.member.instance.id)
        {
            let secure = if self.forward.peer.tls { "; Secure" } else { "" };
            let cookie = format!("{name}={:016x}; Path=/; HttpOnly; SameSite=Lax{secure}", self.member.instance.id);
            out.field(b"set-cookie", cookie.as_bytes());
        }
        for (name, value) in edits.iter().filter(|(_, value)| !value.is_empty()) {
            out.field(name.as_bytes(), value.as_bytes());
        }
    }

    /// Keeps the instance's connection for the next request, where both ends know where that begins.
    fn keep(&self, source: Source, head: &crate::upstream::Answered, kept: Kept, uploaded: bool) {
        let (Source::Http1(mut source), Kept::Http1) = (source, kept) else { return };
        let limits = &self.worker.shared.limits;
        let clean = uploaded && source.is_done() && source.buffer.is_empty();
        if clean && head.keep_alive && head.framing != Framing::Close && self.forward.route.send_proxy.is_none() {
            source.buffer.rest();
            let stays = head.stays.unwrap_or(limits.idle_upstream_timeout).min(limits.idle_upstream_timeout);
            let until = self.worker.recent().plus(stays);
            self.worker.pools.put(self.member, Rc::clone(&source.io), until, limits.idle_upstream);
        }
    }
}

impl Failure {
    fn upstream(stale: bool) -> Self {
        Self::Upstream { timeout: false, stale, unseen: false, answered: None }
    }
}

fn tee(mirror: &mut Option<Mirror>, piece: &[u8]) {
    if let Some(to) = mirror
        && !to.piece(piece)
    {
        *mirror = None;
    }
}

/// Whether a stream has outlived its route or its instance.
pub(crate) fn overstays(
    now: coppice_base::Timestamp,
    route: Option<coppice_base::Timestamp>,
    member: Option<coppice_base::Timestamp>,
) -> bool {
    route.is_some_and(|by| now >= by) || member.is_some_and(|by| now >= by)
}
