//! The first moments of a client's connection: PROXY header, TLS, and which version of HTTP it is.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::deadline::Watch;
use crate::identity::Peer;
use crate::io::{Io, Stream};
use crate::proxy_protocol::{self, Read};
use crate::tls::{ACME, ClientName};
use crate::worker::{Kind, Worker};
use crate::{http1, http2};

/// A connection whose first moments are over.
struct Begun {
    io: Rc<Io>,
    peer: Rc<Peer>,
    watch: Watch,
    is_http2: bool,
}

/// Serves one connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr, kind: Kind) {
    // Boxed: what a beginning needs (a TLS handshake is large) is not held for the connection's whole life.
    let Some(begun) = Box::pin(begin(&worker, stream, address, kind)).await else { return };
    let Begun { io, peer, watch, is_http2 } = begun;
    if is_http2 {
        return Box::pin(http2::serve(worker, Stream::new(io, Vec::new()), peer, watch)).await;
    }
    http1::serve(worker, io, peer, watch).await;
}

async fn begin(worker: &Worker, mut stream: TcpStream, mut address: SocketAddr, kind: Kind) -> Option<Begun> {
    let watch = worker.deadlines.watch();
    watch.set(worker.shared.limits.header_timeout);
    let far_end = address.ip();
    let mut local = stream.local_addr().ok()?;
    // Fails only for a connection that is gone, which reading will tell.
    let _ = stream.set_nodelay(true);
    if kind.proxy_protocol
        && let Some((from, to)) = within(&watch, proxied(&mut stream)).await.flatten()?
    {
        (address, local) = (from, to);
    }
    let trusted = worker.shared.trusted.iter().any(|network| network.contains(address.ip()));
    let peer = Rc::new(Peer::new(far_end, address, local, kind.tls, trusted));
    if !kind.tls {
        return Some(Begun { io: Io::plain(stream), peer, watch, is_http2: false });
    }
    let Some(stream) = within(&watch, handshake(worker, stream)).await.flatten() else {
        worker.counts.handshake_failures.add(1);
        return None;
    };
    worker.counts.handshakes.add(1);
    let protocol = stream.get_ref().1.alpn_protocol();
    // An authority that validates a name has seen the certificate; that was all.
    if protocol == Some(ACME) {
        return None;
    }
    let is_http2 = protocol == Some(b"h2");
    Some(Begun { io: Io::tls(stream), peer, watch, is_http2 })
}

/// `work`, unless the watch's deadline is over first.
async fn within<T>(watch: &Watch, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if watch.expired(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Reads the PROXY header, and not a byte more: what follows may be TLS. The outer `None` is a header that is none.
async fn proxied(stream: &mut TcpStream) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let mut header = Vec::with_capacity(128);
    loop {
        match proxy_protocol::read(&header) {
            Read::Header(addresses, _) => return Some(addresses),
            Read::Malformed => return None,
            // A header is read once a connection and is short: a byte at a time needs no second guess of where it ends.
            Read::More => header.push(stream.read_u8().await.ok()?),
        }
    }
}

async fn handshake(worker: &Worker, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let settings = worker.shared.tls.as_ref()?;
    let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.ok()?;
    let hello = begun.client_hello();
    let client = ClientName {
        server_name: hello.server_name().map(str::to_ascii_lowercase),
        acme: hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME)),
    };
    let config = settings.settings(client).await?;
    begun.into_stream(config).await.ok()
}
