//! Carries bytes between two streams, both ways, until both have ended.
//!
//! As fast as the slower side takes them, and with no buffer of its own while nothing moves: what was read and could not be
//! written at once is kept (at most [`CHUNK`] bytes each way), else nothing. One end of a stream ends the other stream in
//! that direction alone. An error ends both, and the caller resets what must not look whole ([`reset`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as one TLS record carries.
const CHUNK: usize = 16 * 1024;

thread_local! {
    /// What is read lies here until it is written; one for a thread, since no read waits in between.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

#[derive(Default)]
struct Way {
    /// Read and not yet written, from `at` on.
    kept: Vec<u8>,
    at: usize,
    unflushed: bool,
    ended: bool,
    closed: bool,
}

impl Way {
    fn poll<R, W>(&mut self, context: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.at < self.kept.len() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, &self.kept[self.at..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.at += written;
                self.unflushed = true;
            }
            if !self.kept.is_empty() {
                (self.kept, self.at) = (Vec::new(), 0);
            }
            if self.ended {
                if !self.closed {
                    ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            match self.poll_move(context, from, to) {
                Poll::Ready(moved) => moved?,
                Poll::Pending => {
                    if self.unflushed && Pin::new(&mut *to).poll_flush(context)?.is_ready() {
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once, and writes what it can of it.
    fn poll_move<R, W>(&mut self, context: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(context, &mut read))?;
            let mut left = read.filled();
            self.ended = left.is_empty();
            while !left.is_empty() {
                match Pin::new(&mut *to).poll_write(context, left) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => {
                        left = &left[written..];
                        self.unflushed = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.kept = left.to_vec();
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// Resolves when both directions have ended, or one failed.
pub(crate) async fn relay<A, B>(a: &mut A, b: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|context| {
        let there = there.poll(context, a, b)?;
        let back = back.poll(context, b, a)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Lets the connection end with a reset when it is closed: its peer must not take it for ended well.
pub(crate) fn reset(socket: &impl AsFd) {
    // It may be gone already.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Notices peers that vanished, and sends small writes at once.
pub(crate) fn prepare(socket: &impl AsFd) {
    // Without these it works too.
    let _ = rustix::net::sockopt::set_socket_keepalive(socket, true);
    let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(socket, Duration::from_secs(60));
    let _ = rustix::net::sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_end_ends_its_own_way_alone() {
        let (mut left, mut a) = duplex(1000);
        let (mut b, mut right) = duplex(7);
        let relaying = tokio::spawn(async move { relay(&mut a, &mut b).await });
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let there = sent.clone();
        let sending = tokio::spawn(async move {
            left.write_all(&there).await.unwrap();
            left.shutdown().await.unwrap();
            let mut got = String::new();
            left.read_to_string(&mut got).await.unwrap();
            got
        });
        let mut got = Vec::new();
        right.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, sent);
        right.write_all(b"thank you").await.unwrap();
        right.shutdown().await.unwrap();
        assert_eq!(sending.await.unwrap(), "thank you");
        relaying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_end_that_is_gone_ends_the_relay_with_an_error() {
        let (mut left, mut a) = duplex(16);
        let (mut b, right) = duplex(16);
        drop(right);
        left.write_all(b"to nobody").await.unwrap();
        relay(&mut a, &mut b).await.unwrap_err();
    }
}
