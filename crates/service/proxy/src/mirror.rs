//! Copies of requests for a service whose answers nobody sees.
//!
//! Best effort: a copy never delays its original. Each thread runs at most [`MOST`] at a time, each holds at most [`HELD`]
//! bytes of body; one that would need more is dropped.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coppice_route::{Chosen, Picking, choose};
use http::uri::Authority;
use tokio::sync::mpsc;

use crate::body::{Http1Sink, Pump, Sink, Source};
use crate::buffer;
use crate::callers::Leave;
use crate::deadline::Watch;
use crate::dial::{self, DialError, Stay};
use crate::head::Framing;
use crate::io::Io;
use crate::plan::{Forward, UpstreamHead, addressed};
use crate::routes::{Compiled, Member};
use crate::upstream::Awaiting;
use crate::worker::Worker;

/// Copies at a time, a thread.
const MOST: usize = 128;
/// Bytes of a copy's body that may wait.
const HELD: usize = 256 << 10;

/// The sending end of a copy's body.
pub(crate) struct Mirror {
    pieces: mpsc::UnboundedSender<Option<Bytes>>,
    held: Rc<Cell<usize>>,
}

struct Running(Rc<Worker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

impl Mirror {
    /// Begins a copy where the route has a mirror with a ready instance, in the version of HTTP that the original has there.
    pub(crate) fn start(worker: &Rc<Worker>, forward: &Forward) -> Option<Self> {
        let group = forward.route.mirror.as_ref()?;
        if forward.upgrade || worker.mirrors.get() >= MOST {
            return None;
        }
        if !worker.admits(&forward.origin, &forward.route.app, &group.service) {
            return None;
        }
        let how = Picking {
            breaker: &forward.route.spec.breaker,
            now: worker.now(),
            random: worker.random(),
            sticky: None,
            wanted: None,
            tried: &[],
        };
        let Chosen::At(at) = choose(&group.members, how) else { return None };
        let member = Arc::clone(&group.members[at]);
        let head = match &forward.head {
            UpstreamHead::Http1 { line, fields } => {
                let mut out = buffer::writer();
                out.extend_from_slice(line);
                out.extend_from_slice(b"host: ");
                out.extend_from_slice(&forward.host);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(fields);
                Head::Http1(out)
            }
            UpstreamHead::Http2(parts) => {
                Head::Http2(Box::new(addressed(parts, Authority::try_from(&forward.host[..]).ok())))
            }
        };
        worker.mirrors.set(worker.mirrors.get() + 1);
        let (sender, pieces) = mpsc::unbounded_channel();
        let held = Rc::new(Cell::new(0));
        let copy = Copy {
            running: Running(Rc::clone(worker)),
            timeouts: forward.route.spec.timeouts,
            framing: forward.framing,
            is_head: forward.is_head,
            route: Arc::clone(&forward.route),
            held: Rc::clone(&held),
            leave: Leave::new(forward.origin),
            member,
            head,
        };
        tokio::task::spawn_local(copy.run(pieces));
        Some(Self { pieces: sender, held })
    }

    /// Adds to the body; false when the copy is given up.
    pub(crate) fn piece(&self, piece: &[u8]) -> bool {
        let held = self.held.get() + piece.len();
        self.held.set(held);
        held <= HELD && self.pieces.send(Some(Bytes::copy_from_slice(piece))).is_ok()
    }

    /// The body is whole. A mirror that is dropped without it is given up.
    pub(crate) fn finish(self) {
        let _ = self.pieces.send(None);
    }
}

struct Copy {
    running: Running,
    member: Arc<Member>,
    route: Arc<Compiled>,
    timeouts: coppice_spec::RouteTimeouts,
    framing: Framing,
    is_head: bool,
    held: Rc<Cell<usize>>,
    leave: Leave,
    head: Head,
}

/// What a copy begins with.
enum Head {
    Http1(Vec<u8>),
    Http2(Box<http::Request<()>>),
}

/// A copy on its way: where its body goes and where its answer comes from.
struct Sent {
    sink: Sink,
    awaiting: Awaiting,
    /// To be kept for the next, where it is one's own.
    io: Option<Rc<Io>>,
}

impl Copy {
    async fn run(mut self, mut pieces: mpsc::UnboundedReceiver<Option<Bytes>>) {
        let worker = Rc::clone(&self.running.0);
        let watch = worker.deadlines.watch();
        let Some(_stay) = Stay::at(&self.member) else { return };
        let Ok(Sent { mut sink, mut awaiting, io }) =
            send(&worker, &self.member, self.head, self.framing, self.timeouts.connect.0, &watch).await
        else {
            return;
        };
        self.route.state.counts[worker.index].mirrored.add(1);
        let mut piece = Source::Whole(Bytes::new());
        let mut whole = false;
        watch.set(self.timeouts.request.0);
        let limits = &worker.shared.limits;
        let head = std::future::poll_fn(|cx| {
            use std::task::Poll;
            loop {
                if watch.expired(cx) || self.leave.is_revoked(&worker, &self.member) {
                    return Poll::Ready(None);
                }
                if !piece.is_done() {
                    let data = piece.data();
                    match sink.poll_send(cx, data) {
                        Poll::Ready(Ok(count)) => piece.consume(count),
                        Poll::Ready(Err(_)) => return Poll::Ready(None),
                        Poll::Pending => break,
                    }
                    continue;
                }
                if whole {
                    if sink.poll_flush(cx).is_pending() {
                        break;
                    }
                    return awaiting.poll_head(cx, limits).map(Result::ok);
                }
                match pieces.poll_recv(cx) {
                    Poll::Ready(Some(Some(data))) => {
                        self.held.set(self.held.get().saturating_sub(data.len()));
                        piece = Source::Whole(data);
                    }
                    Poll::Ready(Some(None)) => {
                        whole = true;
                        if sink.end(None).is_err() {
                            return Poll::Ready(None);
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await;
        let Some(head) = head else { return };
        let framing = if self.is_head || matches!(head.status, 204 | 304) { Framing::None } else { head.framing };
        let (mut source, _kept) = awaiting.into_source(&head, framing);
        let (mut pump, mut nowhere) = (Pump::new(None), Sink::Nowhere);
        let read = std::future::poll_fn(|cx| match pump.poll(cx, &mut source, &mut nowhere, |_| ()) {
            std::task::Poll::Pending if watch.expired(cx) => std::task::Poll::Ready(false),
            other => other.map(|done| done.is_ok()),
        })
        .await;
        if let (Source::Http1(mut source), Some(io)) = (source, io)
            && read
            && head.keep_alive
            && framing != Framing::Close
            && source.buffer.is_empty()
        {
            source.buffer.rest();
            let until = worker.now().plus(head.stays.unwrap_or(limits.idle_upstream_timeout));
            worker.pools.put(&self.member, io, until, limits.idle_upstream);
        }
    }
}

/// Sends a copy's head to `member`, or has it wait for the body's first bytes.
async fn send(
    worker: &Rc<Worker>,
    member: &Arc<Member>,
    head: Head,
    framing: Framing,
    connect_timeout: Duration,
    watch: &Watch,
) -> Result<Sent, DialError> {
    match head {
        Head::Http1(out) => {
            let io = match worker.pools.take(member, worker.recent()) {
                Some(io) => io,
                None => dial::connect(worker, member, connect_timeout, None, watch).await?,
            };
            let sink = Sink::Http1(Http1Sink::new(Rc::clone(&io), out, framing));
            Ok(Sent { sink, awaiting: Awaiting::http1(Rc::clone(&io)), io: Some(io) })
        }
        Head::Http2(request) => {
            watch.set(connect_timeout);
            let (mut send, place) = dial::http2(worker, member, connect_timeout, None, false, watch).await?;
            let end = matches!(framing, Framing::None | Framing::Length(0));
            let (response, stream) = send.send_request(*request, end)?;
            let sink = if end { Sink::Nowhere } else { Sink::Http2 { stream, reserved: false, held: Bytes::new() } };
            Ok(Sent { sink, awaiting: Awaiting::http2(response, place), io: None })
        }
    }
}
