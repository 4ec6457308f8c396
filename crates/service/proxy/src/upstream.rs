//! An instance's side of an exchange, in either version of HTTP: the wait for its answer's head, then its body.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::response;

use crate::body::{Http1Source, Source};
use crate::buffer::{Buffer, Span};
use crate::config::Limits;
use crate::dial::Place;
use crate::head::{self, Framing};
use crate::headers::View;
use crate::io::Io;

/// A connection that a request can be sent on.
pub(crate) enum Upstream {
    Http1(Rc<Io>),
    Http2(SendRequest<Bytes>, Place),
}

/// An exchange whose request is under way.
pub(crate) enum Awaiting {
    Http1 { source: Http1Source, spans: Vec<Span>, reason: std::ops::Range<usize> },
    Http2 { response: ResponseFuture, place: Place, parts: Option<Box<(response::Parts, RecvStream)>> },
}

/// What an answer's head says.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    /// How long the instance keeps an idle connection, less a second for the way.
    pub(crate) stays: Option<Duration>,
    len: usize,
}

/// How an exchange ended before its answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nothing had come: on a kept connection it may have been closed before it was used.
    Silent,
    /// The instance says that it has not begun (RFC 9113, 8.7): the request may be sent elsewhere, whatever it is.
    Refused,
    /// The answer had begun, or was malformed.
    Broken,
}

/// What is held until the body has ended.
pub(crate) enum Kept {
    Http1,
    Http2(#[allow(dead_code, reason = "its end is what counts")] Place),
}

impl Awaiting {
    pub(crate) fn http1(io: Rc<Io>) -> Self {
        Self::Http1 { source: Http1Source::new(io, Buffer::default()), spans: Vec::with_capacity(16), reason: 0..0 }
    }

    pub(crate) fn http2(response: ResponseFuture, place: Place) -> Self {
        Self::Http2 { response, place, parts: None }
    }

    /// Ready with the head of the final answer; interim ones are swallowed.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>, limits: &Limits) -> Poll<Result<Answered, Lost>> {
        match self {
            Self::Http1 { source, spans, reason } => loop {
                if let Some(end) = head::end(&mut source.buffer).map_err(|_| Lost::Broken)? {
                    // An instance may have more header fields than a client.
                    let read = head::response(source.buffer.slice(0..end), spans, limits.headers.max(256));
                    let read = read.map_err(|error| {
                        tracing::debug!(%error, "an instance's answer is malformed");
                        Lost::Broken
                    })?;
                    if (100..200).contains(&read.status) && read.status != 101 {
                        source.buffer.consume(end);
                        continue;
                    }
                    let bytes = source.buffer.slice(0..end);
                    let stays = View::Http1 { bytes, spans }.get("keep-alive").and_then(timeout);
                    *reason = read.reason.clone();
                    return Poll::Ready(Ok(Answered {
                        status: read.status,
                        framing: read.framing,
                        keep_alive: read.keep_alive,
                        stays,
                        len: read.len,
                    }));
                }
                if source.buffer.is_full() {
                    return Poll::Ready(Err(Lost::Broken));
                }
                let lost = if source.buffer.is_empty() { Lost::Silent } else { Lost::Broken };
                match ready!(source.poll_more(cx)) {
                    Ok(count) if count > 0 => {}
                    Ok(_) | Err(_) => return Poll::Ready(Err(lost)),
                }
            },
            Self::Http2 { response, parts, .. } => {
                let answer = ready!(Pin::new(response).poll(cx)).map_err(|error| {
                    tracing::debug!(%error, "an instance's stream failed");
                    match error.reason() {
                        Some(h2::Reason::REFUSED_STREAM) => Lost::Refused,
                        // Streams it will not answer are told so; this is one that it saw, or the connection was cut.
                        _ => Lost::Silent,
                    }
                })?;
                let (head, body) = answer.into_parts();
                let length =
                    head.headers.get(http::header::CONTENT_LENGTH).and_then(|text| head::number(text.as_bytes()));
                let framing = match (body.is_end_stream(), length) {
                    (true, _) => Framing::Length(0),
                    (false, Some(length)) => Framing::Length(length),
                    (false, None) => Framing::Close,
                };
                let status = head.status.as_u16();
                *parts = Some(Box::new((head, body)));
                Poll::Ready(Ok(Answered { status, framing, keep_alive: true, stays: None, len: 0 }))
            }
        }
    }

    pub(crate) fn view(&self, head: &Answered) -> View<'_> {
        match self {
            Self::Http1 { source, spans, .. } => View::Http1 { bytes: source.buffer.slice(0..head.len), spans },
            Self::Http2 { parts: Some(parts), .. } => View::Http2(&parts.0.headers),
            Self::Http2 { parts: None, .. } => View::Http1 { bytes: &[], spans: &[] },
        }
    }

    pub(crate) fn reason(&self, head: &Answered) -> &[u8] {
        match self {
            Self::Http1 { source, reason, .. } => source.buffer.slice(reason.clone()),
            Self::Http2 { .. } => crate::answer::reason(head.status).as_bytes(),
        }
    }

    /// The body after the head.
    pub(crate) fn into_source(self, head: &Answered, framing: Framing) -> (Source, Kept) {
        match self {
            Self::Http1 { mut source, .. } => {
                source.buffer.consume(head.len);
                source.begin(framing);
                (Source::Http1(source), Kept::Http1)
            }
            Self::Http2 { place, parts: Some(parts), .. } => (Source::http2(parts.1), Kept::Http2(place)),
            Self::Http2 { place, parts: None, .. } => (Source::Empty, Kept::Http2(place)),
        }
    }
}

/// `timeout=N` of a Keep-Alive field, less a second: the instance counts from when it sent.
fn timeout(field: &[u8]) -> Option<Duration> {
    let seconds = head::tokens(field).find_map(|token| head::number(token.strip_prefix(b"timeout=")?))?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}
