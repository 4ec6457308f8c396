//! Copies of requests for a service whose answers nobody sees.
//!
//! Best effort: a copy never delays its original. Each thread runs at most [`MOST`] at a time, each holds at most [`HELD`]
//! bytes of body; one that would need more is dropped.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use coppice_route::{Chosen, Picking, choose};
use tokio::sync::mpsc;

use crate::body::{Http1Sink, Pump, Sink, Source};
use crate::buffer;
use crate::dial::{self, Stay};
use crate::head::Framing;
use crate::plan::{Forward, UpstreamHead};
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
    /// Begins a copy where the route has a mirror with a ready instance. Only for HTTP/1.1 instances.
    pub(crate) fn start(worker: &Rc<Worker>, forward: &Forward) -> Option<Self> {
        let group = forward.route.mirror.as_ref()?;
        let UpstreamHead::Http1 { line, fields } = &forward.head else { return None };
        if forward.upgrade || worker.mirrors.get() >= MOST {
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
        let member = std::sync::Arc::clone(&group.members[at]);
        let mut out = buffer::writer();
        out.extend_from_slice(line);
        out.extend_from_slice(b"host: ");
        out.extend_from_slice(&forward.host);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(fields);
        worker.mirrors.set(worker.mirrors.get() + 1);
        let (sender, pieces) = mpsc::unbounded_channel();
        let held = Rc::new(Cell::new(0));
        let copy = Copy {
            running: Running(Rc::clone(worker)),
            timeouts: forward.route.spec.timeouts,
            framing: forward.framing,
            is_head: forward.is_head,
            route: std::sync::Arc::clone(&forward.route),
            held: Rc::clone(&held),
            member,
            out,
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
    member: std::sync::Arc<crate::routes::Member>,
    route: std::sync::Arc<crate::routes::Compiled>,
    timeouts: coppice_spec::RouteTimeouts,
    framing: Framing,
    is_head: bool,
    held: Rc<Cell<usize>>,
    out: Vec<u8>,
}

impl Copy {
    async fn run(self, mut pieces: mpsc::UnboundedReceiver<Option<Bytes>>) {
        let worker = Rc::clone(&self.running.0);
        let watch = worker.deadlines.watch();
        let Some(_stay) = Stay::at(&self.member) else { return };
        let kept = worker.pools.take(&self.member, worker.now());
        let io = match kept {
            Some(io) => io,
            None => match dial::connect(&worker, &self.member, self.timeouts.connect.0, None, &watch).await {
                Ok(io) => io,
                Err(_) => return,
            },
        };
        self.route.state.counts[worker.index].mirrored.add(1);
        let mut sink = Sink::Http1(Http1Sink::new(Rc::clone(&io), self.out, self.framing));
        let mut piece = Source::Whole(Bytes::new());
        let mut whole = false;
        watch.set(self.timeouts.request.0);
        let mut awaiting = Awaiting::http1(Rc::clone(&io));
        let limits = &worker.shared.limits;
        let head = std::future::poll_fn(|cx| {
            use std::task::Poll;
            loop {
                if watch.expired(cx) {
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
        let (mut source, _) = awaiting.into_source(&head, framing);
        let (mut pump, mut nowhere) = (Pump::new(None), Sink::Nowhere);
        let read = std::future::poll_fn(|cx| match pump.poll(cx, &mut source, &mut nowhere, |_| ()) {
            std::task::Poll::Pending if watch.expired(cx) => std::task::Poll::Ready(false),
            other => other.map(|done| done.is_ok()),
        })
        .await;
        if let Source::Http1(mut source) = source
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
