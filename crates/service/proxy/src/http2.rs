//! A client's HTTP/2 connection: each request a task of its own on this thread.
//!
//! Floods are bounded by the engine and by what it is told here: streams at a time, bytes of headers (with the CONTINUATION
//! frames that carry them), streams that were reset before they were begun or while they ran, frames that wait.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;

use crate::body::Source;
use crate::deadline::Watch;
use crate::head::{self, Framing};
use crate::headers::View;
use crate::http1::carry_out;
use crate::identity::Peer;
use crate::io::Stream;
use crate::plan::{self, Request};
use crate::reply::Reply;
use crate::worker::Worker;

/// What may wait in memory for a slow instance: a stream's, and all of a connection's.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes that may wait for a slow client on one stream: times the streams, what a client that reads nothing costs.
const SEND_BUFFER: usize = 32 << 10;
/// Streams a client resets before the proxy began them, waiting to be seen: more end the connection (CVE-2023-44487).
const RESET_UNSEEN: usize = 20;
/// Streams a client made the proxy reset, over the connection's life (CVE-2025-8671).
const RESET_BY_ERROR: usize = 128;

pub(crate) async fn serve(worker: Rc<Worker>, io: Stream, peer: Rc<Peer>, watch: Watch) {
    let limits = &worker.shared.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(Some(RESET_BY_ERROR))
        .max_concurrent_reset_streams(RESET_UNSEEN);
    watch.set(limits.header_timeout);
    let gathered = io.gathered();
    let mut shaking = pin!(builder.handshake::<_, Bytes>(io));
    let shaken = poll_fn(|cx| match shaking.as_mut().poll(cx) {
        Poll::Pending if watch.expired(cx) => Poll::Ready(None),
        other => other.map(Result::ok),
    })
    .await;
    let Some(mut connection) = shaken else { return };
    gathered.begin();
    let active = Rc::new(Cell::new(0usize));
    let (mut leaving, mut was_idle) = (false, false);
    loop {
        let next = poll_fn(|cx| {
            if worker.closing() && !leaving {
                leaving = true;
                connection.graceful_shutdown();
            }
            if let Poll::Ready(next) = Pin::new(&mut connection).poll_accept(cx) {
                return Poll::Ready(next);
            }
            // All streams' frames in one piece.
            if let Poll::Ready(Err(_)) = gathered.poll_flush(cx) {
                return Poll::Ready(None);
            }
            // Polled again when a stream ends (it writes through the connection), so that idle time begins there.
            match (active.get(), was_idle) {
                (0, false) => {
                    was_idle = true;
                    watch.set(limits.keep_alive);
                }
                (0, true) => {}
                _ => {
                    was_idle = false;
                    watch.clear();
                }
            }
            if watch.expired(cx) {
                if leaving {
                    return Poll::Ready(None);
                }
                // Told first, and cut when that does not end it.
                leaving = true;
                connection.graceful_shutdown();
                watch.set(limits.header_timeout);
                watch.expired(cx);
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        match next {
            Some(Ok((request, respond))) => {
                active.set(active.get() + 1);
                let (worker, peer, active) = (Rc::clone(&worker), Rc::clone(&peer), Active(Rc::clone(&active)));
                tokio::task::spawn_local(async move {
                    stream(&worker, &peer, request, respond).await;
                    drop(active);
                });
            }
            Some(Err(_)) | None => return,
        }
    }
}

struct Active(Rc<Cell<usize>>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn stream(
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (parts, body) = request.into_parts();
    let mut body = Source::http2(body);
    let length = parts.headers.get(http::header::CONTENT_LENGTH).and_then(|text| head::number(text.as_bytes()));
    let framing = match (&body, length) {
        (Source::Empty, None) => Framing::None,
        (Source::Empty, Some(_)) => Framing::Length(0),
        (_, Some(length)) => Framing::Length(length),
        (_, None) => Framing::Chunked,
    };
    let asked = Request {
        method: parts.method.as_str(),
        target: parts.uri.path_and_query().map_or(&b""[..], |target| target.as_str().as_bytes()),
        authority: parts.uri.authority().map(http::uri::Authority::as_str),
        view: View::Http2(&parts.headers),
        framing,
        is_http2: true,
    };
    let planned = plan::plan(worker, peer, &asked);
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    let grpc = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut reply = Reply::Http2 { respond, is_head: parts.method == http::Method::HEAD, grpc };
    drop(parts);
    let watch = worker.deadlines.watch();
    carry_out(worker, planned, &mut body, &mut reply, &watch).await;
}
