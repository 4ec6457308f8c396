//! A connection, plain or TLS, that its reader and its writer share.
//!
//! Both live in one task of one thread, so a cell is all the sharing takes. Reading goes through tokio's `poll_read` of an
//! exclusive stream: unlike `try_read` it remembers after a short read that the socket is empty, which saves a system call
//! a request.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

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

/// The connection as `h2` wants it, after bytes that were read already.
pub(crate) struct Stream {
    io: Rc<Io>,
    before: Vec<u8>,
    at: usize,
}

impl Stream {
    pub(crate) fn new(io: Rc<Io>, before: Vec<u8>) -> Self {
        Self { io, before, at: 0 }
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
        match &mut *self.io.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.io.poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self.io.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_shutdown(cx)
    }
}
