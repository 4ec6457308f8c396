//! `Upgrade: h2c` (RFC 7540, 3.2): a request in HTTP/1.1 whose answer comes as stream 1 of HTTP/2.
//!
//! The HTTP/2 engine knows no streams it has not read. So it is given the request as if the client had sent it in HTTP/2:
//! after the client's preface and SETTINGS, a HEADERS frame for stream 1 is put in. HPACK literals without indexing leave the
//! client's compression state as it is. Only for requests without a body, over plain connections.

use std::future::poll_fn;
use std::task::Poll;

use base64::Engine;

use crate::body::{Http1Sink, Http1Source, Sink};
use crate::deadline::Watch;
use crate::head::Framing;
use crate::headers::{self, Field, View};
use crate::identity::Peer;
use crate::plan::Request;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head (RFC 9113, 4.1).
const FRAME: usize = 9;
/// Largest frame before SETTINGS say otherwise.
const LARGEST: usize = 16_384;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 0x1 | 0x4;

/// The HEADERS frame for a request that asks to go on in HTTP/2, and may.
pub(crate) fn accepts(request: &Request<'_>, peer: &Peer) -> Option<Vec<u8>> {
    let View::Http1 { .. } = request.view else { return None };
    let known = headers::Known::of(request.view);
    let asks = known.upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"h2c"));
    if !asks || peer.tls || !known.option("upgrade") || !known.option("http2-settings") {
        return None;
    }
    // The settings come again in the client's first frame; here they only have to be what they claim.
    let settings = request.view.get("http2-settings")?;
    let settings = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(settings).ok()?;
    if settings.len() % 6 != 0 {
        return None;
    }
    let mut block = Vec::with_capacity(256);
    let mut put = |name: &[u8], value: &[u8]| {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    };
    put(b":method", request.method.as_bytes());
    put(b":scheme", b"http");
    put(b":authority", known.host?);
    put(b":path", request.target);
    request.view.each(|name, value| match headers::classify(name) {
        Field::Host | Field::Connection | Field::Hop | Field::Upgrade | Field::Te | Field::Expect => {}
        _ => put(&name.to_ascii_lowercase(), value),
    });
    if block.len() > LARGEST {
        return None;
    }
    let mut frame = Vec::with_capacity(FRAME + block.len());
    frame.extend_from_slice(&u32::try_from(block.len()).ok()?.to_be_bytes()[1..]);
    frame.extend_from_slice(&[HEADERS, WHOLE, 0, 0, 0, 1]);
    frame.extend_from_slice(&block);
    Some(frame)
}

/// An HPACK string without Huffman coding (RFC 7541, 5.2).
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        out.push(length as u8);
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push((length % 128) as u8 | 128);
            length /= 128;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(text);
}

/// Answers 101 and waits for the client's preface and first SETTINGS; returns what the engine is to read first. `None`:
/// the client did not go on as it had to.
pub(crate) async fn switch(source: &mut Http1Source, frame: Vec<u8>, watch: &Watch) -> Option<Vec<u8>> {
    let out = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n".to_vec();
    let mut sink = Sink::Http1(Http1Sink::new(std::rc::Rc::clone(&source.io), out, Framing::None));
    poll_fn(|cx| match sink.poll_flush(cx) {
        Poll::Pending if watch.expired(cx) => Poll::Ready(None),
        other => other.map(Result::ok),
    })
    .await?;
    poll_fn(|cx| {
        loop {
            let bytes = source.buffer.bytes();
            if !PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
                return Poll::Ready(None);
            }
            if let Some(head) = bytes.get(PREFACE.len()..PREFACE.len() + FRAME) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if head[3] != SETTINGS || length > LARGEST {
                    return Poll::Ready(None);
                }
                let end = PREFACE.len() + FRAME + length;
                if bytes.len() >= end {
                    return Poll::Ready(Some([&bytes[..end], &frame, &bytes[end..]].concat()));
                }
            }
            match source.poll_more(cx) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if watch.expired(cx) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
