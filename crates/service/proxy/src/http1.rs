//! A client's HTTP/1.1 connection: request after request, and no memory between them.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::access_log::Outcome;
use crate::answer::Answer;
use crate::body::{Http1Source, Source};
use crate::buffer::{Buffer, SIZE, Span};
use crate::deadline::Watch;
use crate::forward::{self, Ended, send_answer};
use crate::head::{self, HeadError, RequestHead};
use crate::headers::View;
use crate::http2;
use crate::identity::Peer;
use crate::io::{Io, Stream};
use crate::plan::{self, Plan, Planned, Request};
use crate::reply::{Http1Reply, Reply};
use crate::upgrade_h2c;
use crate::worker::Worker;

/// What a refused client may still send before the connection is cut, so that it reads the refusal.
const LINGER_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(2);
/// How long an idle connection stays when the proxy ends: a request may be on its way.
const LAST_CALL: Duration = Duration::from_secs(1);
/// The first line of HTTP/2 (RFC 9113, 3.4), as far as it looks like a head.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How a connection goes on after a request.
enum Next {
    Request,
    /// Answered; what the client still sends is of no interest.
    Close {
        linger: bool,
    },
    Http2(Vec<u8>),
}

/// How it goes on when nothing more was sent.
enum After {
    Idle,
    Over,
    Http2(Vec<u8>),
}

pub(crate) async fn serve(worker: Rc<Worker>, io: Rc<Io>, peer: Rc<Peer>, watch: Watch) {
    let mut first = true;
    loop {
        if !idle(&worker, &io, &watch, first).await {
            return;
        }
        // Boxed: what requests need is not held by a connection that has none.
        match Box::pin(requests(&worker, &io, &peer, &watch, first)).await {
            After::Idle => first = false,
            After::Over => return,
            After::Http2(before) => {
                return Box::pin(http2::serve(worker, Stream::new(io, before), peer, watch)).await;
            }
        }
    }
}

/// Serves what has been sent, to the last byte.
async fn requests(worker: &Rc<Worker>, io: &Rc<Io>, peer: &Rc<Peer>, watch: &Watch, mut first: bool) -> After {
    let mut source = Http1Source::new(Rc::clone(io), Buffer::default());
    loop {
        let (back, next) = request(worker, io, peer, watch, source, first).await;
        source = back;
        first = false;
        match next {
            Next::Request if source.buffer.is_empty() => return After::Idle,
            Next::Request => {}
            Next::Close { linger: true } => {
                lingering(source, watch).await;
                return After::Over;
            }
            Next::Close { linger: false } => return After::Over,
            Next::Http2(before) => return After::Http2(before),
        }
    }
}

/// Waits for a request's first bytes, without a buffer; false when the connection is over.
async fn idle(worker: &Worker, io: &Io, watch: &Watch, first: bool) -> bool {
    let limits = &worker.shared.limits;
    watch.set(if first { limits.header_timeout } else { limits.keep_alive });
    let mut called = false;
    poll_fn(|cx| {
        if let Poll::Ready(ready) = io.poll_readable(cx) {
            return Poll::Ready(ready.is_ok());
        }
        if worker.closing() && !called {
            called = true;
            watch.set(LAST_CALL);
        }
        if watch.expired(cx) { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

async fn request(
    worker: &Rc<Worker>,
    io: &Rc<Io>,
    peer: &Rc<Peer>,
    watch: &Watch,
    mut source: Http1Source,
    first: bool,
) -> (Http1Source, Next) {
    let mut spans = Vec::with_capacity(16);
    watch.set(worker.shared.limits.header_timeout);
    let read = read_head(worker, &mut source, watch, first, &mut spans).await;
    let mut reply = Http1Reply { io: Rc::clone(io), minor: 1, is_head: false, keep_alive: true };
    let head = match read {
        Ok(Some(head)) => head,
        Ok(None) => {
            let next = match first && source.buffer.bytes().starts_with(PREFACE) {
                true => Next::Http2(source.buffer.bytes().to_vec()),
                false => Next::Close { linger: false },
            };
            return (source, next);
        }
        Err(refusal) => {
            worker.counts.bad_requests.add(1);
            let idle = worker.shared.limits.header_timeout;
            send_answer(&refusal.closing(), b"", &mut Reply::Http1(reply), watch, idle).await;
            return (source, Next::Close { linger: true });
        }
    };
    let bytes = source.buffer.slice(0..head.len);
    let view = View::Http1 { bytes, spans: &spans };
    // Tokens are ASCII.
    let method = std::str::from_utf8(&bytes[head.method.clone()]).unwrap_or_default();
    let asked = Request {
        method,
        target: &bytes[head.target.clone()],
        authority: None,
        view,
        framing: head.framing,
        is_http2: false,
    };
    reply.minor = head.minor;
    reply.is_head = method == "HEAD";
    reply.keep_alive = keeps_alive(view, head.minor) && !worker.closing();
    if head.framing == head::Framing::None
        && let Some(before) = upgrade_h2c::accepts(&asked, peer)
    {
        source.buffer.consume(head.len);
        return match upgrade_h2c::switch(&mut source, before, watch).await {
            Some(before) => (source, Next::Http2(before)),
            None => (source, Next::Close { linger: false }),
        };
    }
    let planned = plan::plan(worker, peer, &asked);
    source.buffer.consume(head.len);
    source.begin(head.framing);
    let (mut body, mut reply) = (Source::Http1(source), Reply::Http1(reply));
    let ended = carry_out(worker, planned, &mut body, &mut reply, watch).await;
    let Source::Http1(source) = body else {
        // It was made three lines above and nothing puts another in its place.
        return (Http1Source::new(Rc::clone(io), Buffer::default()), Next::Close { linger: false });
    };
    let keep = matches!(&reply, Reply::Http1(reply) if reply.keep_alive);
    let next = match (ended.broken, keep) {
        (false, true) => Next::Request,
        // What is still coming of a body that nobody wanted would reset the connection under its answer.
        _ => Next::Close {
            linger: !ended.aborted && ended.status != 101 && !(source.is_done() && ended.instance.is_some()),
        },
    };
    (source, next)
}

/// Does what was planned, then counts and logs it. The same for both versions of HTTP.
pub(crate) async fn carry_out(
    worker: &Rc<Worker>,
    planned: Planned,
    body: &mut Source,
    reply: &mut Reply,
    watch: &Watch,
) -> Ended {
    let Planned { plan, request_id, started, record, span } = planned;
    let idle = worker.shared.limits.keep_alive;
    let (ended, route) = match plan {
        Plan::Answer(answer, route) => {
            let answer = if body.is_done() { answer } else { answer.closing() };
            (send_answer(&answer, request_id.text(), reply, watch, idle).await, route)
        }
        Plan::Forward(mut request) => {
            let route = std::sync::Arc::clone(&request.route);
            let admitted = route.passwords.is_open() || route.passwords.admits(request.authorization.take()).await;
            let ended = if admitted {
                forward::forward(worker, &request, request_id.text(), body, reply, watch).await
            } else {
                route.state.counts[worker.index].refused.add(1);
                let realm = format!("Basic realm=\"{}\", charset=\"UTF-8\"", route.service);
                let answer = Answer::text(401, "A user name and password are needed.").with("www-authenticate", realm);
                let answer = if body.is_done() { answer } else { answer.closing() };
                send_answer(&answer, request_id.text(), reply, watch, idle).await
            };
            (ended, Some(route))
        }
    };
    let took = started.elapsed();
    if let Some(route) = &route {
        let counts = &route.state.counts[worker.index];
        if ended.aborted {
            counts.aborted.add(1);
        } else {
            counts.classes[usize::from(ended.status / 100).clamp(1, 5) - 1].add(1);
        }
        counts.sent.add(ended.sent);
        counts.received.add(ended.received);
        // How long a tunnel was open says nothing of how fast anything is.
        if ended.status != 101 {
            counts.latency.record(took);
        }
    }
    if record.is_some() || span.is_some() {
        let outcome = Outcome {
            status: ended.status,
            route: route.as_deref(),
            instance: ended.instance.as_ref().map(|member| member.name.as_str()),
            sent: ended.sent,
            received: ended.received,
            took,
            aborted: ended.aborted,
        };
        if let Some(record) = record {
            worker.log(&record, &outcome);
        }
        if let Some((span, sink)) = span.zip(worker.shared.spans.as_ref()) {
            span.end(&outcome, sink);
        }
    }
    ended
}

/// The next head; `None` when the client has left, or speaks HTTP/2; an answer when it is refused.
async fn read_head(
    worker: &Worker,
    source: &mut Http1Source,
    watch: &Watch,
    first: bool,
    spans: &mut Vec<Span>,
) -> Result<Option<RequestHead>, Answer> {
    let limits = &worker.shared.limits;
    let refusal = |error: HeadError| Answer::text(error.status(), format!("Bad request: {error}."));
    let most = limits.head_bytes.min(SIZE);
    let mut blank = false;
    poll_fn(|cx| {
        loop {
            // One empty line before a request is let pass (RFC 9112, 2.2).
            if !blank && source.buffer.bytes().starts_with(b"\r\n") {
                source.buffer.consume(2);
                blank = true;
            }
            if let Some(end) = head::end(&mut source.buffer).map_err(refusal)? {
                if end > most {
                    return Poll::Ready(Err(refusal(HeadError::TooLarge)));
                }
                let bytes = source.buffer.slice(0..end);
                if first && bytes == PREFACE {
                    return Poll::Ready(Ok(None));
                }
                return Poll::Ready(head::request(bytes, spans, limits.headers).map(Some).map_err(refusal));
            }
            if source.buffer.bytes().len() >= most {
                return Poll::Ready(Err(refusal(HeadError::TooLarge)));
            }
            match source.poll_more(cx) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Ok(None)),
                Poll::Pending if watch.expired(cx) => {
                    return Poll::Ready(match source.buffer.is_empty() {
                        true => Ok(None),
                        false => Err(Answer::text(408, "The request's head came too slowly.")),
                    });
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

fn keeps_alive(view: View<'_>, minor: u8) -> bool {
    let mut keep = minor == 1;
    view.each(|name, value| {
        if name.eq_ignore_ascii_case(b"connection") {
            for token in head::tokens(value) {
                if token.eq_ignore_ascii_case(b"close") {
                    keep = false;
                } else if minor == 0 && token.eq_ignore_ascii_case(b"keep-alive") {
                    keep = true;
                }
            }
        }
    });
    keep
}

/// Ends our side, then reads what the client was still sending: closing at once would reset the connection, and the
/// client might lose the answer it has not read (RFC 9112, 9.6).
async fn lingering(mut source: Http1Source, watch: &Watch) {
    watch.set(LINGER);
    let mut read = 0;
    let mut ended = false;
    poll_fn(|cx| {
        loop {
            if !ended {
                match source.io.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => ended = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            let held = source.buffer.bytes().len();
            source.buffer.consume(held);
            match source.poll_more(cx) {
                Poll::Ready(Ok(count)) if count > 0 && read < LINGER_BYTES => read += count,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if watch.expired(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
