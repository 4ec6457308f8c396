//! The running server: its threads, started with a zone and stopped when dropped.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc, oneshot};

use crate::cache::{Cache, Question};
use crate::forward::Forwarder;
use crate::limit::Limiter;
use crate::listeners::Listeners;
use crate::metrics::{Counters, Metrics};
use crate::service::Service;
use crate::tcp::{Census, TcpLimits, listen};
use crate::udp;
use crate::upstream::{Pool, Upstreams};
use crate::zone::Zone;

/// Stack of a thread that answers: buffers of a few KiB, and a whole parser's recursion.
const STACK: usize = 256 << 10;

/// How a server runs.
#[derive(Debug)]
pub struct Config {
    pub listeners: Listeners,
    pub upstreams: Upstreams,
    /// Memory for other servers' answers, in bytes; 0 keeps none.
    pub cache_bytes: usize,
    /// Questions one client may ask in a second (and twice that at once, after a rest); none: any number.
    pub client_rate: Option<u32>,
    /// How long one upstream server has for one try.
    pub upstream_patience: Duration,
    /// How long all tries of one question may take. Clients ask again after 5 s (resolv.conf(5)).
    pub upstream_deadline: Duration,
    pub tcp: TcpLimits,
}

impl Config {
    /// With the host's own upstream servers, and what suits a node with hundreds of containers.
    pub fn new(listeners: Listeners) -> Self {
        Self {
            listeners,
            upstreams: Upstreams::ResolvConf("/etc/resolv.conf".into()),
            cache_bytes: 4 << 20,
            client_rate: Some(5000),
            upstream_patience: Duration::from_millis(1500),
            upstream_deadline: Duration::from_millis(4500),
            tcp: TcpLimits::default(),
        }
    }
}

/// Why the server did not start. Its sockets are closed, unless somebody else holds them too.
#[derive(Debug, thiserror::Error)]
#[error("the DNS server did not start ({what}): {source}; see `ulimit -a` for limits on threads and files")]
pub struct StartError {
    what: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |source| StartError { what, source: source.into() }
}

/// A running server. It needs no runtime of its owner's.
pub struct Server {
    service: Arc<Service>,
    counters: Vec<Arc<Counters>>,
    addresses: Vec<SocketAddr>,
    stop: Arc<OwnedFd>,
    stop_tasks: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts to answer from `zone`. No question is answered from any other state: what arrived before waits.
    pub fn start(config: Config, zone: Zone) -> Result<Self, StartError> {
        let addresses = config.listeners.addresses();
        let (forwarder, questions) = Forwarder::new();
        let limiter = config.client_rate.map(|rate| Limiter::new(rate, rate.saturating_mul(2), Instant::now()));
        let pool = Pool::new(config.upstreams, addresses.clone(), config.upstream_patience, config.upstream_deadline);
        let service = Arc::new(Service::new(zone, Cache::new(config.cache_bytes), limiter, forwarder, pool));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("eventfd"))?);
        let (stop_tasks, stopped) = oneshot::channel();
        let mut server =
            Self { service, counters: Vec::new(), addresses, stop, stop_tasks: Some(stop_tasks), threads: Vec::new() };
        for (at, socket) in config.listeners.udp.into_iter().enumerate() {
            let (service, stop) = (server.service.clone(), server.stop.clone());
            let counters = server.counter_set();
            let socket = Arc::new(socket);
            server.thread(format!("dns-udp-{at}"), move || udp::serve(&service, &socket, &stop, &counters))?;
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("event loop"))?;
        let listeners: Vec<tokio::net::TcpListener> = {
            let _inside = runtime.enter();
            let own = config.listeners.tcp.into_iter().map(tokio::net::TcpListener::from_std);
            own.collect::<Result<_, _>>().map_err(failed("TCP listener"))?
        };
        let service = server.service.clone();
        let counters = server.counter_set();
        server.thread("dns-tasks".to_owned(), move || {
            runtime.block_on(async {
                let census = Arc::new(Census::default());
                for listener in listeners {
                    let (service, census, counters) = (service.clone(), census.clone(), counters.clone());
                    tokio::spawn(listen(service, listener, census, config.tcp, counters));
                }
                tokio::select! {
                    () = resolve_all(service, questions, counters) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(server)
    }

    fn counter_set(&mut self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.push(counters.clone());
        counters
    }

    fn thread(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(name).stack_size(STACK).spawn(run).map_err(failed("thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Replaces all names at once: what is received after this returns is answered from `zone`.
    pub fn update(&self, zone: Zone) {
        self.service.update(zone);
    }

    /// What was done so far.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::sum(self.counters.iter().map(|counters| &**counters));
        (metrics.cache_entries, metrics.cache_bytes) = self.service.cache.size();
        metrics
    }

    /// Forgets other servers' answers.
    pub fn clear_cache(&self) {
        self.service.cache.clear();
    }

    /// The addresses it answers on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both are only ever full or gone when the threads have been told already.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        drop(self.stop_tasks.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Has each question that comes answered by an upstream server, all at a time.
async fn resolve_all(service: Arc<Service>, mut questions: mpsc::UnboundedReceiver<Question>, counters: Arc<Counters>) {
    while let Some(question) = questions.recv().await {
        let (service, counters) = (service.clone(), counters.clone());
        tokio::spawn(async move {
            let response = Arc::new(service.pool.resolve(&question, &counters).await);
            service.cache.put(&question, &response, Instant::now());
            counters.truncated.add(service.forwarder.land(&question, &response));
        });
    }
}
