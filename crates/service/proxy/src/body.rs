//! Bodies on their way: where they come from, where they go, and the pump between.
//!
//! A source lends what it has read and is told how much was taken, so a body crosses the proxy through one buffer without
//! being collected, and is read no faster than it is written. A sink gathers small pieces, so that a head and a short body
//! leave in one system call.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::buffer::{self, Buffer};
use crate::head::{self, Framing, HeadError};
use crate::io::Io;

/// Gathered bytes above which a sink waits for its peer.
const GATHER: usize = 16 << 10;
/// Pieces that are copied behind what is gathered; longer ones are written from where they are.
const SMALL: usize = 4 << 10;
/// Bytes of trailer fields.
const TRAILERS: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body's chunks are malformed")]
    Chunks,
    #[error("the trailer fields are malformed: {0}")]
    Trailers(HeadError),
    #[error("the connection ended before the body did")]
    Short,
    #[error("the body is larger than the route takes")]
    TooLarge,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the HTTP/2 stream ended: {0}")]
    H2(#[from] h2::Error),
}

/// Where a body comes from.
pub(crate) enum Source {
    Empty,
    /// In memory already.
    Whole(Bytes),
    Http1(Http1Source),
    Http2 {
        stream: RecvStream,
        chunk: Bytes,
        trailers: Option<HeaderMap>,
        ended: bool,
    },
}

pub(crate) struct Http1Source {
    pub(crate) io: Rc<Io>,
    pub(crate) buffer: Buffer,
    state: Reading,
    /// Boxed: few bodies have any.
    trailers: Option<Box<HeaderMap>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Close,
    Done,
}

pub(crate) enum Filled {
    Data,
    End,
}

impl Http1Source {
    pub(crate) fn new(io: Rc<Io>, buffer: Buffer) -> Self {
        Self { io, buffer, state: Reading::Done, trailers: None }
    }

    /// A body of this framing follows what was consumed.
    pub(crate) fn begin(&mut self, framing: Framing) {
        self.trailers = None;
        self.state = match framing {
            Framing::None | Framing::Length(0) => Reading::Done,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::ChunkSize,
            Framing::Close => Reading::Close,
        };
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == Reading::Done
    }

    /// Reads more; 0 is the connection's end.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.buffer.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let count = ready!(self.io.poll_read(cx, room))?;
        self.buffer.filled(count);
        Poll::Ready(Ok(count))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        loop {
            match self.state {
                Reading::Done => return Poll::Ready(Ok(Filled::End)),
                Reading::Length(_) | Reading::Close | Reading::Chunk(_) if !self.buffer.is_empty() => {
                    return Poll::Ready(Ok(Filled::Data));
                }
                Reading::Length(_) | Reading::Close | Reading::Chunk(_) => {}
                Reading::ChunkSize => {
                    if let Some((size, taken)) = chunk_size(self.buffer.bytes())? {
                        self.buffer.consume(taken);
                        self.state = if size == 0 { Reading::Trailers } else { Reading::Chunk(size) };
                        continue;
                    }
                }
                Reading::ChunkEnd => {
                    let bytes = self.buffer.bytes();
                    if bytes.len() >= 2 {
                        if !bytes.starts_with(b"\r\n") {
                            return Poll::Ready(Err(BodyError::Chunks));
                        }
                        self.buffer.consume(2);
                        self.state = Reading::ChunkSize;
                        continue;
                    }
                }
                Reading::Trailers => {
                    if let Some(end) = head::end(&mut self.buffer).map_err(BodyError::Trailers)? {
                        self.trailers = trailers(self.buffer.slice(0..end))?.map(Box::new);
                        self.buffer.consume(end);
                        self.state = Reading::Done;
                        continue;
                    }
                    if self.buffer.bytes().len() > TRAILERS {
                        return Poll::Ready(Err(BodyError::Trailers(HeadError::TooLarge)));
                    }
                }
            }
            if ready!(self.poll_more(cx))? == 0 {
                if self.state == Reading::Close {
                    self.state = Reading::Done;
                    continue;
                }
                return Poll::Ready(Err(BodyError::Short));
            }
        }
    }

    fn data(&self) -> &[u8] {
        let bytes = self.buffer.bytes();
        match self.state {
            Reading::Length(left) | Reading::Chunk(left) => {
                &bytes[..usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())]
            }
            Reading::Close => bytes,
            _ => &[],
        }
    }

    fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
        self.state = match self.state {
            Reading::Length(left) if left == count as u64 => Reading::Done,
            Reading::Length(left) => Reading::Length(left - count as u64),
            Reading::Chunk(left) if left == count as u64 => Reading::ChunkEnd,
            Reading::Chunk(left) => Reading::Chunk(left - count as u64),
            other => other,
        };
    }
}

/// A chunk's size and the bytes of its line, or `None` when the line is not whole.
fn chunk_size(bytes: &[u8]) -> Result<Option<(u64, usize)>, BodyError> {
    // 16 digits of size and this much of extensions, which nobody uses and we drop.
    const LINE: usize = 256;
    let Some(feed) = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE)]) else {
        return if bytes.len() >= LINE { Err(BodyError::Chunks) } else { Ok(None) };
    };
    let line = bytes[..feed].strip_suffix(b"\r").ok_or(BodyError::Chunks)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 15 {
        return Err(BodyError::Chunks);
    }
    let extension = line[digits..].trim_ascii_start();
    if !extension.is_empty() && extension[0] != b';' || extension.iter().any(|byte| *byte < 0x20 && *byte != b'\t') {
        return Err(BodyError::Chunks);
    }
    let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or(0));
    Ok(Some((line[..digits].iter().fold(0, |sum, byte| sum * 16 + digit(byte)), feed + 1)))
}

/// Trailer fields that may travel on: what would change framing, routing or credentials is dropped (RFC 9110, 6.5.1).
fn trailers(bytes: &[u8]) -> Result<Option<HeaderMap>, BodyError> {
    if bytes == b"\r\n" {
        return Ok(None);
    }
    // `fields` starts at a line end.
    let whole = [b"\r\n", bytes].concat();
    let mut spans = Vec::new();
    head::fields(&whole, 0, &mut spans, 64).map_err(BodyError::Trailers)?;
    let mut map = HeaderMap::new();
    for span in &spans {
        let (name, value) = (head::name(&whole, span), head::value(&whole, span));
        let name = HeaderName::from_bytes(name).map_err(|_| BodyError::Chunks)?;
        let refused = ["content-length", "transfer-encoding", "host", "connection", "trailer", "te", "authorization"];
        if !refused.contains(&name.as_str()) && !name.as_str().starts_with("x-forwarded-") {
            map.append(name, HeaderValue::from_bytes(value).map_err(|_| BodyError::Chunks)?);
        }
    }
    Ok(Some(map).filter(|map| !map.is_empty()))
}

impl Source {
    pub(crate) fn http2(stream: RecvStream) -> Self {
        if stream.is_end_stream() {
            return Self::Empty;
        }
        Self::Http2 { stream, chunk: Bytes::new(), trailers: None, ended: false }
    }

    /// Ready with data ([`Source::data`]) or at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        match self {
            Self::Empty => Poll::Ready(Ok(Filled::End)),
            Self::Whole(data) => Poll::Ready(Ok(if data.is_empty() { Filled::End } else { Filled::Data })),
            Self::Http1(source) => source.poll_fill(cx),
            Self::Http2 { stream, chunk, trailers, ended } => loop {
                if !chunk.is_empty() {
                    return Poll::Ready(Ok(Filled::Data));
                }
                if *ended {
                    return Poll::Ready(Ok(Filled::End));
                }
                match ready!(stream.poll_data(cx)) {
                    Some(data) => *chunk = data?,
                    None => {
                        *trailers = ready!(stream.poll_trailers(cx))?;
                        *ended = true;
                    }
                }
            },
        }
    }

    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Whole(data) => data,
            Self::Http1(source) => source.data(),
            Self::Http2 { chunk, .. } => chunk,
        }
    }

    pub(crate) fn consume(&mut self, count: usize) {
        match self {
            Self::Empty => {}
            Self::Whole(data) => data.advance(count),
            Self::Http1(source) => source.consume(count),
            Self::Http2 { stream, chunk, .. } => {
                chunk.advance(count);
                // The window opens as bytes leave: backpressure reaches the sender. It fails only for a stream that is gone.
                let _ = stream.flow_control().release_capacity(count);
            }
        }
    }

    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Empty | Self::Whole(_) => None,
            Self::Http1(source) => source.trailers.take().map(|trailers| *trailers),
            Self::Http2 { trailers, .. } => trailers.take(),
        }
    }

    /// Whether the body has been read to its end.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(data) => data.is_empty(),
            Self::Http1(source) => source.is_done(),
            Self::Http2 { chunk, ended, .. } => *ended && chunk.is_empty(),
        }
    }

    /// After the body: ready when the peer is gone. Keeps what a pipelining client sends early, up to the buffer.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(source) => loop {
                if source.buffer.is_full() {
                    return Poll::Pending;
                }
                // Wait before the read: an idle connection must not take a buffer for it.
                if ready!(source.io.poll_readable(cx)).is_err() {
                    return Poll::Ready(());
                }
                match ready!(source.poll_more(cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_) => {}
                }
            },
            Self::Empty | Self::Whole(_) | Self::Http2 { .. } => Poll::Pending,
        }
    }
}

/// Where a body goes.
pub(crate) enum Sink {
    Http1(Http1Sink),
    Http2 {
        stream: SendStream<Bytes>,
        reserved: bool,
        /// The last piece taken: it may be the one that ends the stream, which is then said with it.
        held: Bytes,
    },
    /// The stream was ended with its head, or what is written is of no interest.
    Nowhere,
}

pub(crate) struct Http1Sink {
    pub(crate) io: Rc<Io>,
    pub(crate) out: Vec<u8>,
    sent: usize,
    chunked: bool,
}

impl Http1Sink {
    /// `out` holds what goes before the body: the head.
    pub(crate) fn new(io: Rc<Io>, out: Vec<u8>, framing: Framing) -> Self {
        Self { io, out, sent: 0, chunked: framing == Framing::Chunked }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let count = ready!(self.io.poll_write(cx, &self.out[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.chunked {
            if self.out.len() >= GATHER {
                ready!(self.poll_write_out(cx))?;
            }
            let size = format_hex(data.len() as u64);
            self.out.extend_from_slice(size.text());
            self.out.extend_from_slice(b"\r\n");
            self.out.extend_from_slice(data);
            self.out.extend_from_slice(b"\r\n");
            return Poll::Ready(Ok(data.len()));
        }
        if data.len() <= SMALL && self.out.len() < GATHER {
            self.out.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        if self.out.is_empty() {
            return self.io.poll_write(cx, data);
        }
        let waiting = self.out.len() - self.sent;
        let count = ready!(self.io.poll_write_two(cx, &self.out[self.sent..], data))?;
        if count < waiting {
            self.sent += count;
            ready!(self.poll_write_out(cx))?;
            return Poll::Ready(Ok(0));
        }
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(count - waiting))
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        if !self.chunked {
            return;
        }
        self.out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().flatten() {
            self.out.extend_from_slice(name.as_str().as_bytes());
            self.out.extend_from_slice(b": ");
            self.out.extend_from_slice(value.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

impl Drop for Http1Sink {
    fn drop(&mut self) {
        buffer::done(std::mem::take(&mut self.out));
    }
}

impl Sink {
    /// Takes some of `data`, at least a byte of it or (when it first had to send what was gathered) none.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, BodyError>> {
        match self {
            Self::Http1(sink) => sink.poll_send(cx, data).map_err(BodyError::Io),
            Self::Nowhere => Poll::Ready(Ok(data.len())),
            Self::Http2 { stream, reserved, held } => {
                if !held.is_empty() {
                    stream.send_data(std::mem::take(held), false)?;
                }
                if !*reserved {
                    stream.reserve_capacity(data.len());
                    *reserved = true;
                }
                let capacity = match stream.capacity() {
                    0 => match ready!(stream.poll_capacity(cx)) {
                        Some(capacity) => capacity?,
                        None => return Poll::Ready(Err(BodyError::Short)),
                    },
                    some => some,
                };
                let count = capacity.min(data.len());
                if count > 0 {
                    *reserved = false;
                    *held = Bytes::copy_from_slice(&data[..count]);
                }
                Poll::Ready(Ok(count))
            }
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            Self::Http1(sink) => {
                ready!(sink.poll_write_out(cx))?;
                sink.io.poll_flush(cx).map_err(BodyError::Io)
            }
            Self::Http2 { stream, held, .. } => {
                if !held.is_empty() {
                    stream.send_data(std::mem::take(held), false)?;
                }
                Poll::Ready(Ok(()))
            }
            Self::Nowhere => Poll::Ready(Ok(())),
        }
    }

    /// The body is whole: what ends it is gathered too.
    pub(crate) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        match self {
            Self::Http1(sink) => sink.finish(trailers),
            Self::Http2 { stream, held, .. } => match (std::mem::take(held), trailers) {
                (last, None) => stream.send_data(last, true)?,
                (last, Some(trailers)) => {
                    if !last.is_empty() {
                        stream.send_data(last, false)?;
                    }
                    stream.send_trailers(trailers)?;
                }
            },
            Self::Nowhere => {}
        }
        Ok(())
    }

    /// Ready when the receiver has given up on an HTTP/2 stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http2 { stream, .. } => stream.poll_reset(cx).map(|_| ()),
            Self::Http1(_) | Self::Nowhere => Poll::Pending,
        }
    }
}

/// Which side a pump failed on.
#[derive(Debug)]
pub(crate) enum PumpError {
    From(BodyError),
    To,
}

/// Moves one body.
#[derive(Debug)]
pub(crate) struct Pump {
    state: Pumping,
    /// Bytes taken from the source.
    pub(crate) moved: u64,
    most: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pumping {
    Moving,
    Finishing,
    Done,
}

impl Pump {
    /// Fails with [`BodyError::TooLarge`] after `most` bytes.
    pub(crate) fn new(most: Option<u64>) -> Self {
        Self { state: Pumping::Moving, moved: 0, most: most.unwrap_or(u64::MAX) }
    }

    /// Moves what can be moved now. `tee` sees each piece that was moved.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Source,
        to: &mut Sink,
        mut tee: impl FnMut(&[u8]),
    ) -> Poll<Result<(), PumpError>> {
        loop {
            match self.state {
                Pumping::Done => return Poll::Ready(Ok(())),
                Pumping::Finishing => {
                    ready!(to.poll_flush(cx)).map_err(|_| PumpError::To)?;
                    self.state = Pumping::Done;
                }
                Pumping::Moving => match from.poll_fill(cx) {
                    Poll::Pending => {
                        let _ = to.poll_flush(cx).map_err(|_| PumpError::To)?;
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::From(error))),
                    Poll::Ready(Ok(Filled::End)) => {
                        to.end(from.take_trailers()).map_err(|_| PumpError::To)?;
                        self.state = Pumping::Finishing;
                    }
                    Poll::Ready(Ok(Filled::Data)) => {
                        let data = from.data();
                        if self.moved + data.len() as u64 > self.most {
                            return Poll::Ready(Err(PumpError::From(BodyError::TooLarge)));
                        }
                        let count = ready!(to.poll_send(cx, data)).map_err(|_| PumpError::To)?;
                        tee(&data[..count]);
                        self.moved += count as u64;
                        from.consume(count);
                    }
                },
            }
        }
    }
}

/// Digits of a number, without a `String`.
pub(crate) struct Digits {
    bytes: [u8; 20],
    from: usize,
}

impl Digits {
    pub(crate) fn text(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

fn format_hex(number: u64) -> Digits {
    digits(number, 16)
}

/// `number` in decimal.
pub(crate) fn decimal(number: u64) -> Digits {
    digits(number, 10)
}

fn digits(mut number: u64, base: u64) -> Digits {
    let mut digits = Digits { bytes: [0; 20], from: 20 };
    loop {
        digits.from -= 1;
        digits.bytes[digits.from] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
        if number == 0 {
            return digits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunks_line_is_hex_digits_with_nothing_before_them() {
        for (line, size) in [("0\r\n", 0), ("1f\r\n", 31), ("0005;a=b\r\n", 5), ("A ;x\r\n", 10)] {
            assert_eq!(chunk_size(line.as_bytes()).unwrap(), Some((size, line.len())), "{line:?}");
            assert_eq!(chunk_size(&line.as_bytes()[..line.len() - 1]).unwrap(), None, "{line:?} without its end");
        }
        for bad in ["\r\n", "g\r\n", " 5\r\n", "+5\r\n", "5\n", "5 5\r\n", "5;\0\r\n", "1000000000000000\r\n"] {
            assert!(chunk_size(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_as_a_chunks_line_is_what_the_standard_says(line in "[0-9a-fA-F]{0,18}[ ;x+\r\n\t\u{0}]{0,4}\r?\n?") {
            if let Ok(Some((size, taken))) = chunk_size(line.as_bytes()) {
                let line = &line[..taken];
                let digits = line.find(|c: char| !c.is_ascii_hexdigit()).unwrap();
                prop_assert_eq!(u64::from_str_radix(&line[..digits], 16), Ok(size));
                let rest = line[digits..].strip_suffix("\r\n").unwrap().trim_start();
                prop_assert!(rest.is_empty() || rest.starts_with(';'));
                prop_assert!(!rest.contains(['\r', '\n', '\0']));
            }
        }

        #[test]
        fn numbers_are_written_as_everyone_writes_them(number in any::<u64>()) {
            prop_assert_eq!(decimal(number).text().to_vec(), number.to_string().into_bytes());
            prop_assert_eq!(format_hex(number).text().to_vec(), format!("{number:x}").into_bytes());
        }
    }
}
