//! The outbound half: takes a redirected connection of a container, and carries it to the inbound half of the node that
//! runs its destination, in the name of the service that calls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coppice_spec::PeerTls;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::counts::{Open, count};
use crate::directory::{Caller, Target};
use crate::hello::{self, Outcome};
use crate::peers::Shared;
use crate::relay::{prepare, relay, reset};

pub(crate) async fn serve(shared: Arc<Shared>, mut plain: TcpStream, from: SocketAddr) {
    let Some(to) = original_destination(&plain) else {
        count(&shared.strays);
        return reset(&plain);
    };
    let directory = shared.directory();
    let Some(target) = directory.target(to) else {
        count(&shared.strays);
        tracing::debug!(%from, %to, "a redirected connection is to nobody who is called with TLS any more");
        return reset(&plain);
    };
    let service = target.service.clone();
    if shared.denies(from.ip(), target.to.ip()) {
        count(&service.counts.refused);
        tracing::debug!(app = %service.app, service = %service.name, %from, to = %target.to, "denied by the policy");
        return reset(&plain);
    }
    let caller = directory.caller(from.ip());
    let member = caller.filter(|caller| caller.app == service.app && caller.identity.is_some());
    if member.is_none() && !admits(&target, caller, from) {
        return reset(&plain);
    }
    let config = match service.client(member) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(app = %service.app, service = %service.name, %error, "it cannot be called with TLS");
            return reset(&plain);
        }
    };
    // A connection may outlive the directory it was looked up in.
    drop(directory);
    let _open = Open::of(&service.counts);
    let node = target.node.unwrap_or(shared.inbound);
    let reaching = timeout(shared.limits.handshake + shared.limits.connect, reach(config, &target, node));
    let why = match reaching.await {
        Ok(Ok((tls, Outcome::Connected))) => {
            let mut tls = tls;
            prepare(&plain);
            if relay(&mut plain, &mut tls).await.is_err() {
                // Dropped without the end that TLS has: the other half resets its side too.
                reset(&plain);
            }
            return;
        }
        // The other half has counted it.
        Ok(Ok((_, outcome))) => format!("{outcome:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it takes too long".to_owned(),
    };
    if service.counts.told_failed.is_due() {
        tracing::warn!(app = %service.app, service = %service.name, %from, to = %target.to, why, "not reached with TLS");
    }
    reset(&plain);
}

/// Whether somebody who is not of the app gets through, counted and told.
fn admits(target: &Target, caller: Option<&Caller>, from: SocketAddr) -> bool {
    let service = &target.service;
    let let_in = service.mode != PeerTls::Require;
    // Those that are let in are counted by the inbound half, which knows what they showed.
    if !let_in {
        count(&service.counts.refused);
    }
    let told = if let_in { &service.counts.told_warned } else { &service.counts.told_refused };
    if told.is_due() {
        let who = match caller {
            Some(caller) => format!("{}/{}", caller.app, caller.instance),
            None => "no instance of an app".to_owned(),
        };
        let mode = if let_in { "warn: let through" } else { "require: refused" };
        tracing::warn!(app = %service.app, service = %service.name, to = %target.to, %from, who, "tls.peer = {mode}");
    }
    let_in
}

async fn reach(
    config: Arc<rustls::ClientConfig>,
    target: &Target,
    node: SocketAddr,
) -> io::Result<(TlsStream<TcpStream>, Outcome)> {
    let stream = TcpStream::connect(node).await?;
    prepare(&stream);
    let mut tls = TlsConnector::from(config).connect(target.service.server_name.clone(), stream).await?;
    hello::ask(&mut tls, target.to).await?;
    let outcome = hello::answered(&mut tls).await?;
    Ok((tls, outcome))
}

/// Where a connection was going before it was redirected; `None`: nowhere else.
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let own = stream.local_addr().ok()?;
    let to: SocketAddr = match own.ip().to_canonical() {
        IpAddr::V4(_) => rustix::net::sockopt::ip_original_dst(stream).ok()?.into(),
        IpAddr::V6(_) => rustix::net::sockopt::ipv6_original_dst(stream).ok()?.into(),
    };
    let same = to.port() == own.port() && to.ip().to_canonical() == own.ip().to_canonical();
    (!same).then_some(to)
}
