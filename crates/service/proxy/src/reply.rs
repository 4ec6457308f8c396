//! The way back to the client: a head is built field by field in the client's version of HTTP, then a sink takes the body.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::answer::{self, Answer};
use crate::body::{BodyError, Http1Sink, Sink, decimal};
use crate::buffer;
use crate::head::Framing;
use crate::headers::Fields;
use crate::io::Io;

pub(crate) enum Reply {
    Http1(Http1Reply),
    Http2 {
        respond: SendResponse<Bytes>,
        is_head: bool,
        /// It is a gRPC call: our own answers must be statuses of gRPC.
        grpc: bool,
    },
}

pub(crate) struct Http1Reply {
    pub(crate) io: Rc<Io>,
    pub(crate) minor: u8,
    pub(crate) is_head: bool,
    /// Whether the connection may go on after this answer. Set to false before the head says so.
    pub(crate) keep_alive: bool,
}

/// A head that is being built.
pub(crate) enum ReplyHead {
    Http1(Vec<u8>),
    Http2(HeaderMap),
}

impl ReplyHead {
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        let mut fields = match self {
            Self::Http1(out) => Fields::Http1(out),
            Self::Http2(map) => Fields::Http2(map),
        };
        fields.put(name, value);
    }
}

impl Reply {
    /// `reason` is told to HTTP/1 clients.
    pub(crate) fn head(&self, status: u16, reason: &[u8]) -> ReplyHead {
        match self {
            Self::Http1(_) => {
                let mut out = buffer::writer();
                out.extend_from_slice(b"HTTP/1.1 ");
                out.extend_from_slice(decimal(u64::from(status)).text());
                out.push(b' ');
                out.extend_from_slice(reason);
                out.extend_from_slice(b"\r\n");
                ReplyHead::Http1(out)
            }
            Self::Http2 { .. } => ReplyHead::Http2(HeaderMap::with_capacity(16)),
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        match self {
            Self::Http1(reply) => reply.is_head,
            Self::Http2 { is_head, .. } => *is_head,
        }
    }

    /// Nothing may follow this answer on an HTTP/1 connection.
    pub(crate) fn close(&mut self) {
        if let Self::Http1(reply) = self {
            reply.keep_alive = false;
        }
    }

    /// Sends `head`. `framing` is of what follows: [`Framing::Close`] says that the length is not known.
    pub(crate) fn send(&mut self, head: ReplyHead, status: u16, framing: Framing) -> Result<Sink, BodyError> {
        match (self, head) {
            (Self::Http1(reply), ReplyHead::Http1(mut out)) => {
                let mut framing = framing;
                match framing {
                    Framing::None => {}
                    Framing::Length(length) => {
                        out.extend_from_slice(b"content-length: ");
                        out.extend_from_slice(decimal(length).text());
                        out.extend_from_slice(b"\r\n");
                    }
                    Framing::Chunked | Framing::Close if reply.minor == 1 => {
                        framing = Framing::Chunked;
                        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                    }
                    Framing::Chunked | Framing::Close => {
                        framing = Framing::Close;
                        reply.keep_alive = false;
                    }
                }
                match (status, reply.keep_alive, reply.minor) {
                    (101, ..) | (_, true, 1) => {}
                    (_, true, _) => out.extend_from_slice(b"connection: keep-alive\r\n"),
                    (_, false, _) => out.extend_from_slice(b"connection: close\r\n"),
                }
                out.extend_from_slice(b"\r\n");
                Ok(Sink::Http1(Http1Sink::new(Rc::clone(&reply.io), out, framing)))
            }
            (Self::Http2 { respond, .. }, ReplyHead::Http2(mut map)) => {
                if let Framing::Length(length) = framing {
                    map.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
                }
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                *response.headers_mut() = map;
                let end = matches!(framing, Framing::None | Framing::Length(0));
                let stream = respond.send_response(response, end)?;
                Ok(if end { Sink::Nowhere } else { Sink::Http2 { stream, reserved: false, held: Bytes::new() } })
            }
            _ => Ok(Sink::Nowhere),
        }
    }

    /// Ready when an HTTP/2 client no longer wants the answer.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(_) => Poll::Pending,
            Self::Http2 { respond, .. } => respond.poll_reset(cx).map(|_| ()),
        }
    }

    /// Sends a whole answer; `request_id` goes with it.
    pub(crate) fn begin_answer(&mut self, answer: &Answer, request_id: &[u8]) -> Result<Sink, BodyError> {
        if answer.close {
            self.close();
        }
        if let Self::Http2 { grpc: true, .. } = self
            && answer.status >= 400
        {
            return self.begin_grpc(answer, request_id);
        }
        let mut head = self.head(answer.status, answer::reason(answer.status).as_bytes());
        head.field(b"content-type", answer.content_type.as_bytes());
        for (name, value) in &answer.fields {
            head.field(name.as_bytes(), value.as_bytes());
        }
        if !request_id.is_empty() {
            head.field(b"x-request-id", request_id);
        }
        let length = answer.body.len() as u64;
        if self.is_head() {
            head.field(b"content-length", decimal(length).text());
            return self.send(head, answer.status, Framing::None);
        }
        self.send(head, answer.status, Framing::Length(length))
    }

    /// An answer of headers alone, as gRPC wants it ("Trailers-Only" in its specification of HTTP/2).
    fn begin_grpc(&mut self, answer: &Answer, request_id: &[u8]) -> Result<Sink, BodyError> {
        // The mapping of gRPC's own `http-grpc-status-mapping.md`, and RESOURCE_EXHAUSTED for what we limit.
        let status: &[u8] = match answer.status {
            400 => b"13",
            401 => b"16",
            403 => b"7",
            404 => b"12",
            408 => b"4",
            413 | 429 => b"8",
            502..=504 => b"14",
            _ => b"2",
        };
        let mut head = self.head(200, b"");
        head.field(b"content-type", b"application/grpc");
        head.field(b"grpc-status", status);
        head.field(b"grpc-message", answer.body.trim_end().replace('%', "%25").as_bytes());
        head.field(b"x-request-id", request_id);
        self.send(head, 200, Framing::None)
    }
}
