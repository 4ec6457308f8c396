//! Questions over TCP: many on a connection, answered in order, with little patience for who is slow.
//!
//! A message comes after its length (RFC 1035, 4.2.2). A connection may be quiet for a while between messages, but a
//! message once begun must come, and an answer must be taken, soon. Too many connections of one client, or in all, are
//! closed at once: who floods the server loses its own first.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::forward::Destination;
use crate::message::Transport;
use crate::metrics::Counters;
use crate::query::HEADER;
use crate::service::{Outcome, Service};

/// How much patience connections get, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one address.
    pub connections_per_client: usize,
    /// Quiet between messages.
    pub idle: Duration,
    /// For the rest of a message once it began, and for an answer to be taken.
    pub transfer: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_client: 32,
            idle: Duration::from_secs(10),
            transfer: Duration::from_secs(3),
        }
    }
}

/// Connections there are.
#[derive(Default)]
pub(crate) struct Census {
    by_client: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One connection's place in the census; leaves it when dropped.
struct Seat {
    census: Arc<Census>,
    client: IpAddr,
}

impl Census {
    fn enter(self: &Arc<Self>, client: IpAddr, limits: &TcpLimits) -> Option<Seat> {
        let mut guard = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, by_client) = &mut *guard;
        let own = by_client.get(&client).copied().unwrap_or(0);
        if *count >= limits.connections || own >= limits.connections_per_client {
            return None;
        }
        *count += 1;
        by_client.insert(client, own + 1);
        Some(Seat { census: self.clone(), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guard = self.census.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, by_client) = &mut *guard;
        *count -= 1;
        if let Some(own) = by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

/// Takes connections for as long as it is polled.
pub(crate) async fn listen(
    service: Arc<Service>,
    listener: TcpListener,
    census: Arc<Census>,
    limits: TcpLimits,
    counters: Arc<Counters>,
) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of fds or memory: others must end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(seat) = census.enter(peer.ip(), &limits) else {
            counters.tcp_refused.add(1);
            continue;
        };
        counters.tcp_connections.add(1);
        let (service, counters) = (service.clone(), counters.clone());
        tokio::spawn(async move {
            let _seat = seat;
            converse(&service, stream, peer, &limits, &counters).await;
        });
    }
}

/// Answers until the client ends, is too slow, or sends what is no message. Nobody is told why: it is the client's.
async fn converse(
    service: &Service,
    mut stream: TcpStream,
    peer: SocketAddr,
    limits: &TcpLimits,
    counters: &Counters,
) -> Option<()> {
    let client = peer.ip();
    let mut desk = service.desk();
    let mut packet = Vec::new();
    let mut out = Vec::with_capacity(2048);
    let _ = stream.set_nodelay(true);
    loop {
        let first = timeout(limits.idle, stream.read_u8()).await.ok()?.ok()?;
        let rest = async {
            let len = usize::from(first) << 8 | usize::from(stream.read_u8().await?);
            packet.resize(len, 0);
            stream.read_exact(&mut packet).await
        };
        timeout(limits.transfer, rest).await.ok()?.ok()?;
        if packet.len() < HEADER {
            counters.dropped.add(1);
            return None;
        }
        counters.tcp_queries.add(1);
        service.refresh(&mut desk);
        let context = (client, Transport::Tcp, Instant::now());
        match service.handle(&mut desk, &packet, context, counters, &mut out) {
            Outcome::Reply => {}
            // Over its rate, or a response: no conversation.
            Outcome::Silent => return None,
            Outcome::Forward(question, query) => {
                let (sender, answer) = oneshot::channel();
                let destination = Destination::Tcp(client, sender);
                if !service.forward((question, query), &packet, destination, counters, &mut out) {
                    out = answer.await.ok()?;
                }
            }
        }
        let mut framed = u16::try_from(out.len()).ok()?.to_be_bytes().to_vec();
        framed.extend_from_slice(&out);
        timeout(limits.transfer, stream.write_all(&framed)).await.ok()?.ok()?;
    }
}
