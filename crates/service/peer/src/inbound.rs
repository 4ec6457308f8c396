//! The inbound half: ends the TLS of another half, or of its own node's, and hands what is in it to an instance here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use coppice_spec::PeerTls;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::counts::count;
use crate::directory::Service;
use crate::hello::{self, Outcome};
use crate::peers::Shared;
use crate::relay::{prepare, relay, reset};

pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    if !shared.halves.contains(&from.ip().to_canonical()) {
        count(&shared.strays);
        return reset(&stream);
    }
    prepare(&stream);
    let Ok(Some((mut tls, service, to))) = timeout(shared.limits.handshake, take(&shared, stream, from)).await else {
        return;
    };
    let connected = if service.has(to.ip()) {
        match timeout(shared.limits.connect, TcpStream::connect(to)).await {
            Ok(Ok(plain)) => Ok(plain),
            Ok(Err(_)) | Err(_) => Err(Outcome::Unreachable),
        }
    } else {
        Err(Outcome::NotHere)
    };
    let mut plain = match connected {
        Ok(plain) => plain,
        Err(outcome) => {
            count(&service.counts.unreachable);
            // It has gone, or hears it and resets its side.
            let _ = hello::answer(&mut tls, outcome).await;
            return;
        }
    };
    prepare(&plain);
    let relayed = match hello::answer(&mut tls, Outcome::Connected).await {
        Ok(()) => relay(&mut tls, &mut plain).await,
        Err(error) => Err(error),
    };
    if relayed.is_err() {
        reset(&plain);
    }
}

/// The handshake, and where the caller wants to go; `None`: it was refused, and counted.
async fn take(
    shared: &Shared,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Arc<Service>, SocketAddr)> {
    let Ok(start) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await else {
        count(&shared.strays);
        return None;
    };
    let service = start.client_hello().server_name().and_then(|name| shared.directory().by_server_name(name).cloned());
    let Some(service) = service else {
        count(&shared.strays);
        return None;
    };
    let shaken = async {
        let tls = start.into_stream(service.server.clone()).await?;
        let caller = service.identity.caller(tls.get_ref().1.peer_certificates());
        Ok::<_, io::Error>((tls, caller))
    };
    let (mut tls, caller) = match shaken.await {
        Ok(shaken) => shaken,
        Err(error) => {
            count(&service.counts.handshake_failures);
            if service.counts.told_failed.is_due() {
                tracing::warn!(app = %service.app, service = %service.name, %from, %error, "a handshake failed");
            }
            return None;
        }
    };
    match caller {
        Ok(_) => count(&service.counts.handshakes),
        // The handshake has refused those without one already; a mode that changed since is looked at here.
        Err(_) if service.mode == PeerTls::Require => {
            count(&service.counts.refused);
            return None;
        }
        Err(error) => {
            count(&service.counts.warned);
            tracing::debug!(app = %service.app, service = %service.name, %from, %error, "let through");
        }
    }
    let to = hello::asked(&mut tls).await.inspect_err(|_| count(&shared.strays)).ok()?;
    Some((tls, service, to))
}
