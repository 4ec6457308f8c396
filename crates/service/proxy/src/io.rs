//! A connection, plain or TLS, that its reader and its writer share.
//!
//! Both live in one task of one thread, so a cell is all the sharing takes. Reading goes through tokio's `poll_read` of an
//! exclusive stream: unlike `try_read` it remembers after a short read that the socket is empty, which saves a system call
//! a request.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::buffer;

pub(crate) struct Io {
    transport: RefCell<Transport>,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    pub(crate) fn plain(stream: TcpStream) -> Rc<Self> {
        Rc::new(Self { transport: RefCell::new(Transport::Plain(stream)) })
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Rc<Self> {
        Rc::new(Self { transport: RefCell::new(Transport::Tls(Box::new(stream))) })
    }

    /// Ready when something can be read, the peer has closed, or the connection failed. Reads nothing of a plain stream.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => stream.poll_read_ready(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_fill_buf(cx).map_ok(|_| ()),
        }
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => ready!(Pin::new(stream).poll_read(cx, &mut into))?,
            Transport::Tls(stream) => ready!(Pin::new(stream).poll_read(cx, &mut into))?,
        }
        Poll::Ready(Ok(into.filled().len()))
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    pub(crate) fn poll_write_two(&self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let both = [io::IoSlice::new(first), io::IoSlice::new(second)];
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, &both),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, &both),
        }
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Whether an idle connection has something to read: bytes nobody asked for, or its end.
    pub(crate) fn is_stale(&self) -> bool {
        self.poll_readable(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }
}

/// Bytes that are gathered before they are written.
const GATHER: usize = 16 << 10;

/// What an engine has written and nobody has sent: `h2` flushes after each frame with data, and one frame a TLS record, a
/// system call and a packet is a third of what a small answer costs. Whoever drives the connection flushes, when the engine
/// has nothing more to say.
pub(crate) struct Gathered {
    io: Rc<Io>,
    out: RefCell<Vec<u8>>,
    sent: Cell<usize>,
    /// Not before the connection is driven.
    begun: Cell<bool>,
}

impl Gathered {
    pub(crate) fn begin(&self) {
        self.begun.set(true);
    }

    /// Sends what was gathered.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        self.io.poll_flush(cx)
    }

    /// Writes what was gathered, and gives the memory back.
    fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.borrow_mut();
        while self.sent.get() < out.len() {
            let count = ready!(self.io.poll_write(cx, &out[self.sent.get()..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent.set(self.sent.get() + count);
        }
        self.sent.set(0);
        buffer::done(std::mem::take(&mut *out));
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if self.begun.get() && self.out.borrow().len() + length <= GATHER {
            let mut out = self.out.borrow_mut();
            if out.capacity() == 0 {
                *out = buffer::writer();
            }
            pieces.iter().for_each(|piece| out.extend_from_slice(piece));
            return Poll::Ready(Ok(length));
        }
        ready!(self.poll_out(cx))?;
        match &mut *self.io.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        buffer::done(std::mem::take(&mut *self.out.borrow_mut()));
    }
}

/// The connection as `h2` wants it, after bytes that were read already.
pub(crate) struct Stream {
    gathered: Rc<Gathered>,
    before: Vec<u8>,
    at: usize,
}

impl Stream {
    pub(crate) fn new(io: Rc<Io>, before: Vec<u8>) -> Self {
        let gathered = Gathered { io, out: RefCell::default(), sent: Cell::new(0), begun: Cell::new(false) };
        Self { gathered: Rc::new(gathered), before, at: 0 }
    }

    pub(crate) fn gathered(&self) -> Rc<Gathered> {
        Rc::clone(&self.gathered)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.at < self.before.len() {
            let count = into.remaining().min(self.before.len() - self.at);
            into.put_slice(&self.before[self.at..self.at + count]);
            self.at += count;
            if self.at == self.before.len() {
                self.before = Vec::new();
                self.at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        match &mut *self.gathered.io.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.gathered.poll_write(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gathered.poll_write(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.gathered.begun.get() {
            true => Poll::Ready(Ok(())),
            false => self.gathered.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.gathered.poll_flush(cx))?;
        self.gathered.io.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{ErrorKind, Read};
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn frames_are_gathered_until_the_driver_flushes_and_long_ones_keep_their_place() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut stream = Stream::new(Io::plain(ours), Vec::new());
        let gathered = stream.gathered();
        let arrives = |mut theirs: &std::net::TcpStream, wanted: &[u8]| {
            let mut all = vec![0; wanted.len()];
            theirs.read_exact(&mut all).unwrap();
            assert!(all == wanted, "{:?}", String::from_utf8_lossy(&all));
        };

        // What shakes hands is sent as it is flushed.
        stream.write_all(b"hello ").await.unwrap();
        stream.flush().await.unwrap();
        arrives(&theirs, b"hello ");

        gathered.begin();
        for piece in ["a", "b", "c"] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(theirs.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing is sent yet");
        theirs.set_nonblocking(false).unwrap();
        poll_fn(|cx| gathered.poll_flush(cx)).await.unwrap();
        arrives(&theirs, b"abc");
        assert_eq!(gathered.out.borrow().capacity(), 0, "nothing is held between");

        stream.write_all(b"before ").await.unwrap();
        let long = vec![b'x'; GATHER + 1];
        stream.write_all(&long).await.unwrap();
        arrives(&theirs, &[b"before ", &long[..]].concat());

        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        arrives(&theirs, b"last");
        assert_eq!((&theirs).read(&mut [0]).unwrap(), 0);
    }
}
