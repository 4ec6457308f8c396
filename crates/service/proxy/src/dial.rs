//! Connections to instances: kept by each thread for its own use, newest first.
//!
//! The newest is the likeliest to be alive and warm; the oldest age out. One that has anything to read while it is idle has
//! been closed, or speaks out of turn: it is dropped, never used.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use coppice_base::Timestamp;
use h2::client::SendRequest;
use tokio::net::TcpStream;

use crate::deadline::Watch;
use crate::io::Io;
use crate::proxy_protocol::ProxyHeader;
use crate::routes::Member;
use crate::worker::Worker;

/// HTTP/2 windows of a stream and of a connection to an instance: what may wait in memory for a slow client.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Requests on one HTTP/2 connection beyond which another is opened, where the instance allows more.
const STREAMS: usize = 100;

/// One thread's connections.
#[derive(Default)]
pub(crate) struct Pools {
    pools: RefCell<HashMap<u64, Pool, BuildHasherDefault<Numbers>>>,
}

/// Numbers that we gave ourselves, one after the other, need no hash that strangers cannot guess.
#[derive(Default)]
struct Numbers(u64);

impl Hasher for Numbers {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = coppice_route::hash::mix(number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Pool {
    idle: Vec<Idle>,
    http2: Vec<Http2>,
}

struct Idle {
    io: Rc<Io>,
    until: Timestamp,
}

#[derive(Clone)]
struct Http2 {
    send: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
    ended: Rc<Cell<bool>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("it did not accept within the connect timeout")]
    Timeout,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not speak HTTP/2: {0}")]
    Http2(#[from] h2::Error),
}

/// A request's stay at an instance: counted as in flight until it is dropped.
pub(crate) struct Stay(pub(crate) Arc<Member>);

impl Stay {
    /// `None`: the instance has begun to drain since it was chosen.
    pub(crate) fn at(member: &Arc<Member>) -> Option<Self> {
        member.enter().then(|| Self(Arc::clone(member)))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A stream's place on a shared connection.
pub(crate) struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Pools {
    /// An idle connection to `member`, if one is fit.
    pub(crate) fn take(&self, member: &Member, now: Timestamp) -> Option<Rc<Io>> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(&member.uid)?;
        while let Some(idle) = pool.idle.pop() {
            if idle.until > now && !idle.io.is_stale() {
                return Some(idle.io);
            }
        }
        None
    }

    /// Keeps a connection between requests.
    pub(crate) fn put(&self, member: &Member, io: Rc<Io>, until: Timestamp, most: usize) {
        if member.leave_by().is_some() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(member.uid).or_default();
        if pool.idle.len() < most {
            pool.idle.push(Idle { io, until });
        }
    }

    /// Drops what is over, closed, or of an instance that has left (`keeps` says no).
    pub(crate) fn sweep(&self, now: Timestamp, keeps: impl Fn(u64) -> bool) {
        self.pools.borrow_mut().retain(|uid, pool| {
            let kept = keeps(*uid);
            pool.idle.retain(|idle| kept && idle.until > now && !idle.io.is_stale());
            pool.http2.retain(|http2| kept && !http2.ended.get());
            !pool.idle.is_empty() || !pool.http2.is_empty()
        });
    }

    /// Streams that run on them end as they can; no new one begins.
    fn forget_http2(&self, member: &Member) {
        if let Some(pool) = self.pools.borrow_mut().get_mut(&member.uid) {
            pool.http2.clear();
        }
    }

    fn http2(&self, member: &Member) -> Option<Http2> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(&member.uid)?;
        pool.http2.retain(|http2| !http2.ended.get());
        let fits = |http2: &&Http2| http2.streams.get() < STREAMS.min(http2.send.current_max_send_streams());
        pool.http2.iter().find(fits).cloned()
    }
}

/// A new connection to `member`, within `timeout`.
pub(crate) async fn connect(
    worker: &Worker,
    member: &Member,
    timeout: Duration,
    before: Option<Vec<u8>>,
    watch: &Watch,
) -> Result<Rc<Io>, DialError> {
    watch.set(timeout);
    let mut dialing = pin!(TcpStream::connect(member.address));
    let stream = std::future::poll_fn(|cx| match dialing.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done.map_err(DialError::Io)),
        Poll::Pending if watch.expired(cx) => Poll::Ready(Err(DialError::Timeout)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    member.counts[worker.index].connects.add(1);
    stream.set_nodelay(true)?;
    let io = Io::plain(stream);
    if let Some(header) = before {
        let mut sent = 0;
        while sent < header.len() {
            sent += std::future::poll_fn(|cx| match io.poll_write(cx, &header[sent..]) {
                Poll::Pending if watch.expired(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                other => other,
            })
            .await?;
        }
    }
    Ok(io)
}

/// A place on an HTTP/2 connection to `member`: on one there is, else (or when it must be `fresh`) on a new one.
pub(crate) async fn http2(
    worker: &Rc<Worker>,
    member: &Arc<Member>,
    timeout: Duration,
    before: Option<Vec<u8>>,
    fresh: bool,
    watch: &Watch,
) -> Result<(SendRequest<Bytes>, Place), DialError> {
    let shared = before.is_none();
    if fresh {
        // The one there is has just failed: no other request is to try it.
        worker.pools.forget_http2(member);
    } else if shared && let Some(http2) = worker.pools.http2(member) {
        let ended = Rc::clone(&http2.ended);
        match place(http2, watch).await {
            Ok(placed) => return Ok(placed),
            // It is about to end (GOAWAY), or has: nobody's failure.
            Err(_) => ended.set(true),
        }
    }
    let io = connect(worker, member, timeout, before, watch).await?;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(worker.shared.limits.head_bytes).unwrap_or(u32::MAX))
        .enable_push(false);
    let stream = crate::io::Stream::new(io, Vec::new());
    let gathered = stream.gathered();
    let (send, connection) = builder.handshake::<_, Bytes>(stream).await?;
    gathered.begin();
    let ended = Rc::new(Cell::new(false));
    let over = Rc::clone(&ended);
    tokio::task::spawn_local(async move {
        // How it ended is told to each of its streams.
        let mut connection = pin!(connection);
        std::future::poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => match gathered.poll_flush(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            },
        })
        .await;
        over.set(true);
    });
    let http2 = Http2 { send, streams: Rc::default(), ended };
    if shared {
        worker.pools.pools.borrow_mut().entry(member.uid).or_default().http2.push(http2.clone());
    }
    place(http2, watch).await
}

async fn place(http2: Http2, watch: &Watch) -> Result<(SendRequest<Bytes>, Place), DialError> {
    http2.streams.set(http2.streams.get() + 1);
    let place = Place(http2.streams);
    let mut ready = pin!(http2.send.ready());
    let send = std::future::poll_fn(|cx| match ready.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done.map_err(DialError::Http2)),
        Poll::Pending if watch.expired(cx) => Poll::Ready(Err(DialError::Timeout)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((send, place))
}

/// The PROXY header for a connection on behalf of `peer`.
pub(crate) fn proxy_header(kind: Option<ProxyHeader>, peer: &crate::identity::Peer) -> Option<Vec<u8>> {
    kind.map(|kind| kind.write(peer.address, peer.local))
}
