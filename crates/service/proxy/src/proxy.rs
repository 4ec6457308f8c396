//! The proxy as its owner sees it: started, updated, looked at, drained.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coppice_base::{Random, SystemRandom};
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;

use crate::access_log::{self, Log};
use crate::callers::{Callers, Refusals};
use crate::config::{Config, Listener};
use crate::metrics::{BackendSnapshot, MetricsSnapshot, RouteSnapshot, WorkerCounts, backend_totals, histogram};
use crate::plan;
use crate::published::Published;
use crate::routes::{Compiler, Member, Routes, UpdateError};
use crate::spans::SpanSink;
use crate::worker::{Handed, Kind, Shared, Worker};

/// By how much its threads come before the instances they serve. Measured: without, requests wait for those; with 5 a thread
/// breaks in upon them for each single one, and its 99th percentile is worse than without.
const FIRST_BY: u8 = 2;

/// A running proxy. Dropping it ends every connection; [`Proxy::drain`] first is kinder.
pub struct Proxy {
    shared: Arc<Shared>,
    compiler: Mutex<Compiler>,
    refusals: Mutex<Refusals>,
    listeners: Mutex<Vec<TcpListener>>,
    threads: Vec<JoinHandle<()>>,
}

/// Why the proxy does not run. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a listening socket cannot be used: is it bound, and are there file descriptors left? ({0})")]
    Listener(#[source] io::Error),
    #[error("a thread of the proxy cannot be started: raise the limit of processes or memory ({0})")]
    Thread(#[source] io::Error),
    #[error("a listener wants TLS but there are no TLS settings: give some, or make it plain")]
    NoTls,
}

impl Proxy {
    /// Starts the workers; they serve no routes until [`Proxy::update`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        let count = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        };
        if config.tls.is_none() && config.listeners.iter().any(|listener| listener.tls) {
            return Err(StartError::NoTls);
        }
        let (mut compiler, mut refusals) = (Compiler::default(), Refusals::default());
        let base = Instant::now();
        let empty = compiler.compile(&Routes::default(), count, plan::since(base));
        let (empty, _) = empty.map_err(|error| StartError::Thread(io::Error::other(error)))?;
        let log = config.access_log.map(access_log::start).transpose().map_err(StartError::Thread)?;
        let (hand, handed): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded_channel()).unzip();
        let shared = Arc::new(Shared {
            limits: config.limits,
            trusted: config.trusted,
            node: config.node,
            tls: config.tls,
            challenges: config.challenges,
            spans: config.spans,
            base,
            routes: Published::new(empty),
            callers: Published::new(refusals.judge(config.callers)),
            closing: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            changed: (0..count).map(|_| Arc::new(Notify::new())).collect(),
            open: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            hand,
            counts: (0..count).map(|_| Arc::new(WorkerCounts::default())).collect(),
        });
        let listeners: Vec<_> = config
            .listeners
            .into_iter()
            .map(|one| (one.socket, Kind { tls: one.tls, proxy_protocol: one.proxy_protocol }))
            .collect();
        let mut proxy = Self {
            shared,
            compiler: Mutex::new(compiler),
            refusals: Mutex::new(refusals),
            listeners: Mutex::default(),
            threads: Vec::new(),
        };
        let mut random = SystemRandom;
        for (index, handed) in handed.into_iter().enumerate() {
            let mut own = Vec::with_capacity(listeners.len());
            for (socket, kind) in &listeners {
                own.push((duplicate(socket)?, *kind));
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                // Far between: the tasks that are ready come first, and each round of events is a system call.
                .event_interval(61)
                .max_blocking_threads(4)
                .build()
                .map_err(StartError::Thread)?;
            let (shared, seed) = (Arc::clone(&proxy.shared), random.next_u64());
            let log = log.clone().map(Log::new);
            let run = move || {
                coppice_linux::come_first(FIRST_BY);
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    let mut listeners = Vec::with_capacity(own.len());
                    for (socket, kind) in own {
                        match tokio::net::TcpListener::from_std(socket) {
                            Ok(listener) => listeners.push((listener, kind)),
                            Err(error) => tracing::error!(%error, "a worker cannot listen: the others go on"),
                        }
                    }
                    Worker::new(index, shared, seed, log).run(listeners, handed).await;
                });
            };
            let thread = std::thread::Builder::new().name(format!("proxy-{index}")).spawn(run);
            proxy.threads.push(thread.map_err(StartError::Thread)?);
        }
        proxy.listeners = Mutex::new(listeners.into_iter().map(|(socket, _)| socket).collect());
        Ok(proxy)
    }

    /// Accepts from one more socket, beside those there are. On an error nothing was changed.
    pub fn listen(&self, listener: Listener) -> Result<(), StartError> {
        if listener.tls && self.shared.tls.is_none() {
            return Err(StartError::NoTls);
        }
        let kind = Kind { tls: listener.tls, proxy_protocol: listener.proxy_protocol };
        let sockets = self.shared.hand.iter().map(|_| duplicate(&listener.socket)).collect::<Result<Vec<_>, _>>()?;
        for (hand, socket) in self.shared.hand.iter().zip(sockets) {
            // A worker that is gone has told why; the others accept.
            let _ = hand.send(Handed::Listener(socket, kind));
        }
        self.sockets().push(listener.socket);
        Ok(())
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<TcpListener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves `routes` from the next request on. Requests that are under way go on as they began; streams and upgraded
    /// connections whose route or instance is gone have [`crate::Limits::drain`] to end.
    pub fn update(&self, routes: &Routes) -> Result<(), UpdateError> {
        let leave_by = plan::since(self.shared.base).plus(self.shared.limits.drain);
        let mut compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let (snapshot, changes) = compiler.compile(routes, self.shared.open.len(), leave_by)?;
        self.shared.routes.publish(snapshot);
        changes.apply();
        Ok(())
    }

    /// Judges by `callers` from the next request on, and ends what is under way and would be refused now.
    pub fn set_callers(&self, callers: Callers) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.callers.publish(refusals.judge(callers));
        drop(refusals);
        self.wake();
    }

    /// Requests that instances of this name are answering, at all ports. A draining instance may be stopped at 0.
    pub fn in_flight(&self, app: &str, service: &str, instance: &str) -> u32 {
        self.named(app, service, instance).iter().map(|member| member.instance.in_flight()).sum()
    }

    /// Waits until instances of this name answer no request, at any port: then they may be stopped. To be asked after an
    /// [`Proxy::update`] by which they drain or are gone; others may never be told. Needs no runtime of the proxy's, and does
    /// not hold the proxy.
    pub fn drained(&self, app: &str, service: &str, instance: &str) -> impl Future<Output = ()> + Send + use<> {
        let members = self.named(app, service, instance);
        async move {
            for member in members {
                member.drained().await;
            }
        }
    }

    fn named(&self, app: &str, service: &str, instance: &str) -> Vec<Arc<Member>> {
        let compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |member: &&Arc<Member>| {
            member.app.as_str() == app && member.service.as_str() == service && member.name == instance
        };
        compiler.members().filter(named).cloned().collect()
    }

    pub fn metrics(&self) -> MetricsSnapshot {
        let mut metrics = MetricsSnapshot::of_workers(&self.shared.counts, self.shared.connections() as u64);
        metrics.spans_dropped = self.shared.spans.as_ref().map(SpanSink::dropped);
        let now = plan::since(self.shared.base);
        let compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let mut routes: Vec<_> =
            compiler.states().map(|(names, state)| RouteSnapshot::of(names.clone(), &state.counts)).collect();
        drop(compiler);
        routes.sort_by(|a, b| (&a.app, &a.service, &a.route).cmp(&(&b.app, &b.service, &b.route)));
        metrics.routes = routes;
        metrics.denied = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).snapshot();
        let snapshot = self.shared.routes.newest();
        let breaker_of = |member: &Member| {
            let route = snapshot.table.entries().find(|entry| {
                let groups = entry.value.backends.iter().chain(&entry.value.mirror);
                groups.flat_map(|group| &group.members).any(|one| one.uid == member.uid)
            });
            let spec = route.map(|entry| entry.spec.breaker).unwrap_or_default();
            member.instance.breaker.state(&spec, now)
        };
        metrics.backends = snapshot
            .members()
            .iter()
            .map(|member| {
                let (requests, failures, connects) = backend_totals(&member.counts);
                BackendSnapshot {
                    app: member.app.clone(),
                    service: member.service.clone(),
                    instance: member.name.clone(),
                    address: member.address,
                    requests,
                    failures,
                    connects,
                    in_flight: member.instance.in_flight(),
                    ready: member.instance.is_ready(),
                    draining: member.instance.is_draining(),
                    ejected: member.instance.outlier.ejected(now),
                    breaker: breaker_of(member),
                    latency: histogram(&member.counts, |shard| &shard.latency),
                }
            })
            .collect();
        metrics
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets().iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The listening sockets, for a successor: what waits in their queues is not lost when this proxy ends.
    pub fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        self.sockets().iter().map(TcpListener::try_clone).collect()
    }

    /// Accepts nothing more and tells clients to go (`Connection: close`, GOAWAY); returns at once. What waits in the queues
    /// of the listening sockets is left there, for whoever holds these.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// After [`Proxy::close`]: the last connection has gone, and none was accepted since.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// [Closes](Proxy::close), and waits until the last connection has gone, at most for `deadline`; then cuts. Blocks the
    /// thread. Returns how many connections were cut.
    pub fn drain(mut self, deadline: Duration) -> usize {
        self.close();
        let by = Instant::now() + deadline;
        while Instant::now() < by && !self.has_ended() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let left = self.shared.connections();
        self.end();
        left
    }

    fn end(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.ending.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads.drain(..) {
            // A worker that panicked has told it already.
            let _ = thread.join();
        }
    }

    fn wake(&self) {
        self.shared.changed.iter().for_each(|changed| changed.notify_one());
    }
}

/// A descriptor of one worker's own for `socket`, non-blocking.
fn duplicate(socket: &TcpListener) -> Result<TcpListener, StartError> {
    let own = socket.try_clone().map_err(StartError::Listener)?;
    own.set_nonblocking(true).map_err(StartError::Listener)?;
    Ok(own)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}
