//! Both halves of a node, running: their sockets, and who is whom.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::counts::{PeerSnapshot, ServiceSnapshot, count};
use crate::directory::{App, Directory};
use crate::{inbound, outbound};

/// How often certificates are looked at, beside each handshake: those of services that nobody calls are made anew too, and
/// what fails is told.
const LOOK: Duration = Duration::from_secs(30);

/// Pause after a connection could not be taken, as where no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that the kernel keeps until they are taken; `net.core.somaxconn` is another bound.
const BACKLOG: i32 = 4096;

/// What [`Peers::start`] needs.
pub struct Config {
    /// Where redirected connections come to: the bridge's own addresses.
    pub outbound: Vec<TcpListener>,
    /// Where other halves come to.
    pub inbound: TcpListener,
    /// Where the outbound halves are that may come to it, this node's included: with `warn` it takes callers without a
    /// certificate, and only a half is to bring those.
    pub halves: Vec<IpAddr>,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of each half at a time; further ones are closed.
    pub connections: usize,
    /// For a handshake, with the few bytes after it.
    pub handshake: Duration,
    /// For an instance to take a connection.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 16_384, handshake: Duration::from_secs(10), connect: Duration::from_secs(10) }
    }
}

/// Why a change was not taken; what was before goes on.
#[derive(Debug, thiserror::Error)]
#[error("TLS between services cannot be set up: {0}; is there randomness?")]
pub struct UpdateError(#[from] rustls::Error);

/// Whether somebody at the first address may not begin a connection to an instance at the second.
pub type Denies = Arc<dyn Fn(IpAddr, IpAddr) -> bool + Send + Sync>;

pub(crate) struct Shared {
    directory: RwLock<Arc<Directory>>,
    denies: RwLock<Option<Denies>>,
    /// This node's inbound half.
    pub(crate) inbound: SocketAddr,
    pub(crate) halves: Vec<IpAddr>,
    pub(crate) limits: Limits,
    pub(crate) strays: AtomicU64,
    overloaded: AtomicU64,
}

impl Shared {
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.read().expect("no panic holds this lock").clone()
    }

    pub(crate) fn denies(&self, from: IpAddr, to: IpAddr) -> bool {
        let denies = self.denies.read().expect("no panic holds this lock");
        denies.as_ref().is_some_and(|denies| denies(from.to_canonical(), to))
    }
}

/// The halves; dropped, they take no connection any more, and those they have end.
pub struct Peers {
    shared: Arc<Shared>,
    outbound: Vec<SocketAddr>,
    updating: Mutex<()>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Peers {
    /// Begins to listen; nobody is known until [`update`](Self::update). Must be called within a tokio runtime.
    pub fn start(config: Config) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            directory: RwLock::default(),
            denies: RwLock::default(),
            inbound: config.inbound.local_addr()?,
            halves: config.halves,
            limits: config.limits,
            strays: AtomicU64::new(0),
            overloaded: AtomicU64::new(0),
        });
        let mut addresses = Vec::new();
        let mut tasks = Vec::new();
        for listener in config.outbound {
            addresses.push(listener.local_addr()?);
            tasks.push(listen(shared.clone(), listener, Half::Outbound)?);
        }
        tasks.push(listen(shared.clone(), config.inbound, Half::Inbound)?);
        tasks.push(tokio::spawn(look_after(shared.clone())).abort_handle());
        Ok(Self { shared, outbound: addresses, updating: Mutex::default(), tasks })
    }

    /// These are all apps there are. Connections that exist go on.
    pub fn update(&self, apps: Vec<App>) -> Result<(), UpdateError> {
        let _updating = self.updating.lock().expect("no panic holds this lock");
        let next = Arc::new(Directory::of(apps, &self.shared.directory())?);
        *self.shared.directory.write().expect("no panic holds this lock") = next;
        refresh(&self.shared);
        Ok(())
    }

    /// New connections must pass this, too: a redirected one does not come by the rules of the bridge, which see who
    /// begins it at whom. It is asked again for each, so it may look at what changes.
    pub fn set_policy(&self, denies: Denies) {
        *self.shared.denies.write().expect("no panic holds this lock") = Some(denies);
    }

    /// Where redirected connections are to come.
    pub fn outbound(&self) -> &[SocketAddr] {
        &self.outbound
    }

    pub fn inbound(&self) -> SocketAddr {
        self.shared.inbound
    }

    pub fn snapshot(&self) -> PeerSnapshot {
        let directory = self.shared.directory();
        let services = directory.services().iter().map(|service| {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let dates = service.identity.dates();
            ServiceSnapshot {
                app: service.app.clone(),
                service: service.name.clone(),
                mode: service.mode,
                open: read(&service.counts.open),
                handshakes: read(&service.counts.handshakes),
                handshake_failures: read(&service.counts.handshake_failures),
                refused: read(&service.counts.refused),
                warned: read(&service.counts.warned),
                unreachable: read(&service.counts.unreachable),
                certificate_made_at: dates.map(|(made, _)| made),
                certificate_ends_at: dates.map(|(_, ends)| ends),
                rotation_failures: service.authority.failures(),
            }
        });
        let mut services: Vec<ServiceSnapshot> = services.collect();
        services.sort_by(|a, b| (&a.app, &a.service).cmp(&(&b.app, &b.service)));
        PeerSnapshot {
            services,
            strays: self.shared.strays.load(Ordering::Relaxed),
            overloaded: self.shared.overloaded.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Copy)]
enum Half {
    Outbound,
    Inbound,
}

fn listen(shared: Arc<Shared>, listener: TcpListener, half: Half) -> std::io::Result<AbortHandle> {
    listener.set_nonblocking(true)?;
    // The one it was made with is for servers with one kind of client.
    rustix::net::listen(&listener, BACKLOG)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(tokio::spawn(accept(shared, listener, half)).abort_handle())
}

async fn accept(shared: Arc<Shared>, listener: tokio::net::TcpListener, half: Half) {
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    // Its tasks end with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted: (TcpStream, SocketAddr) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection between services");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = accepted;
        let Ok(place) = places.clone().try_acquire_owned() else {
            count(&shared.overloaded);
            crate::relay::reset(&stream);
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            match half {
                Half::Outbound => outbound::serve(shared, stream, from).await,
                Half::Inbound => inbound::serve(shared, stream, from).await,
            }
            drop(place);
        });
    }
}

async fn look_after(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        refresh(&shared);
    }
}

/// Makes certificates anew that are due.
fn refresh(shared: &Shared) {
    for identity in shared.directory().identities() {
        if let Err(error) = identity.not_after() {
            tracing::error!(%error, "a service has no certificate to show");
        }
    }
}
