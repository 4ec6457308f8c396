//! A worker: one thread, its connections, and everything they use without asking another thread.
//!
//! All workers accept from the same sockets. The kernel wakes whichever is fastest, so a burst of connections can land on
//! one; a worker that has more than its share hands a new connection to the one that has least.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coppice_base::Timestamp;
use coppice_spec::Cidr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::access_log::{Log, Outcome, Record};
use crate::callers::Judge;
use crate::config::{Challenges, Limits};
use crate::connection;
use crate::deadline::{Deadlines, TICK};
use crate::dial::Pools;
use crate::metrics::WorkerCounts;
use crate::plan;
use crate::published::{Published, Reader};
use crate::routes::Snapshot;
use crate::spans::SpanSink;
use crate::tls::TlsSettings;

/// Connections a worker may have more than another before it hands over.
const SLACK: usize = 2;
/// After a failed accept: the machine is out of descriptors or memory, and asking again at once does not help.
const PAUSE: Duration = Duration::from_millis(50);
/// Ticks between two sweeps of idle upstream connections.
const SWEEP: u64 = 10;

/// What a listener does with its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) tls: bool,
    pub(crate) proxy_protocol: bool,
}

/// What a worker is given while it runs.
pub(crate) enum Handed {
    /// A connection on its way from one worker to another.
    Connection { stream: std::net::TcpStream, address: SocketAddr, kind: Kind },
    /// One more socket to accept from; non-blocking.
    Listener(std::net::TcpListener, Kind),
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) trusted: Vec<Cidr>,
    pub(crate) node: String,
    pub(crate) tls: Option<Arc<dyn TlsSettings>>,
    pub(crate) challenges: Option<Arc<dyn Challenges>>,
    pub(crate) spans: Option<SpanSink>,
    pub(crate) base: Instant,
    pub(crate) routes: Published<Snapshot>,
    pub(crate) callers: Published<Judge>,
    /// No connection is accepted any more; those there are end when they can.
    pub(crate) closing: AtomicBool,
    /// Everything ends now.
    pub(crate) ending: AtomicBool,
    /// Wakes workers for the two above.
    pub(crate) changed: Vec<Arc<Notify>>,
    /// Open client connections of each worker.
    pub(crate) open: Vec<AtomicUsize>,
    pub(crate) hand: Vec<UnboundedSender<Handed>>,
    pub(crate) counts: Vec<Arc<WorkerCounts>>,
}

impl Shared {
    pub(crate) fn connections(&self) -> usize {
        self.open.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }
}

pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) pools: Pools,
    pub(crate) counts: Arc<WorkerCounts>,
    pub(crate) mirrors: Cell<usize>,
    routes: Reader<Snapshot>,
    callers: Reader<Judge>,
    random: Cell<u64>,
    log: Option<Log>,
}

/// A connection that counts as open until it is dropped.
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.shared.open[self.0.index].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, seed: u64, log: Option<Log>) -> Rc<Self> {
        Rc::new(Self {
            index,
            deadlines: Deadlines::new(shared.base),
            pools: Pools::default(),
            counts: Arc::clone(&shared.counts[index]),
            mirrors: Cell::new(0),
            routes: shared.routes.reader(),
            callers: shared.callers.reader(),
            random: Cell::new(seed),
            log,
            shared,
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        plan::since(self.shared.base)
    }

    /// Looks at the clock, for [`Worker::recent`] too.
    pub(crate) fn look(&self) -> Instant {
        let now = Instant::now();
        self.deadlines.note(plan::between(self.shared.base, now));
        now
    }

    /// When somebody last looked at the clock: at the last request's begin, and at least a tick ago. For whatever is kept to
    /// a tick anyway; to look at the clock ten times a request costs more than to read its head.
    pub(crate) fn recent(&self) -> Timestamp {
        self.deadlines.noted()
    }

    /// Shows the newest routes.
    pub(crate) fn with_snapshot<T>(&self, see: impl FnOnce(&Snapshot) -> T) -> T {
        self.routes.see(&self.shared.routes, see)
    }

    /// Shows the newest policy.
    pub(crate) fn with_judge<T>(&self, see: impl FnOnce(&Judge) -> T) -> T {
        self.callers.see(&self.shared.callers, see)
    }

    /// splitmix64: good enough to spread load and to name requests, and guessed by nobody who gains by it.
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        coppice_route::hash::mix(state)
    }

    pub(crate) fn closing(&self) -> bool {
        self.shared.closing.load(Ordering::Relaxed)
    }

    pub(crate) fn must_end(&self) -> bool {
        self.shared.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn logs(&self) -> bool {
        self.log.is_some()
    }

    /// Spans are collected.
    pub(crate) fn traces(&self) -> bool {
        self.shared.spans.is_some()
    }

    /// Whether a trace that begins now is kept.
    pub(crate) fn keeps_trace(&self) -> bool {
        self.shared.spans.as_ref().is_some_and(|spans| spans.keeps(self.random()))
    }

    pub(crate) fn log(&self, record: &Record, outcome: &Outcome<'_>) {
        if let Some(log) = &self.log {
            self.counts.log_lines_dropped.add(log.write(record, outcome));
        }
    }

    /// Runs until the proxy ends. Must be called within a `LocalSet`.
    pub(crate) async fn run(
        self: Rc<Self>,
        listeners: Vec<(TcpListener, Kind)>,
        mut handed: UnboundedReceiver<Handed>,
    ) {
        let changed = Arc::clone(&self.shared.changed[self.index]);
        let start = |listener, kind| tokio::task::spawn_local(Rc::clone(&self).accept(listener, kind));
        let accepting: Vec<_> = listeners.into_iter().map(|(listener, kind)| start(listener, kind)).collect();
        let accepting = Rc::new(RefCell::new(accepting));
        let (taking, more) = (Rc::clone(&self), Rc::clone(&accepting));
        let taking = tokio::task::spawn_local(async move {
            while let Some(handed) = handed.recv().await {
                match handed {
                    // Counted by whoever handed it over; given back here when it cannot be served.
                    Handed::Connection { stream, address, kind } => match TcpStream::from_std(stream) {
                        Ok(stream) => taking.serve(stream, address, kind),
                        Err(_) => drop(Open(Rc::clone(&taking))),
                    },
                    Handed::Listener(socket, kind) => match TcpListener::from_std(socket) {
                        Ok(listener) => {
                            let accept = tokio::task::spawn_local(Rc::clone(&taking).accept(listener, kind));
                            more.borrow_mut().push(accept);
                        }
                        Err(error) => tracing::error!(%error, "a worker cannot listen: the others go on"),
                    },
                }
            }
        });
        let newest = || (self.shared.routes.number(), self.shared.callers.number());
        let (mut turn, mut version, mut told) = (0u64, newest(), false);
        loop {
            let idle = self.deadlines.is_empty();
            // Without connections there is nothing to watch; a second is for the log and the pools.
            let pause = if idle { Duration::from_secs(1) } else { TICK };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed.notified() => {}
            }
            let (newest, closing) = (newest(), self.closing());
            self.deadlines.tick(self.now(), newest != version || closing != told || self.must_end());
            (version, told) = (newest, closing);
            if closing {
                accepting.borrow().iter().for_each(tokio::task::JoinHandle::abort);
                let open = self.shared.open[self.index].load(Ordering::Relaxed);
                if self.must_end() || (open == 0 && self.shared.connections() == 0) {
                    break;
                }
            }
            turn += 1;
            if let Some(log) = &self.log {
                self.counts.log_lines_dropped.add(log.hand_over());
            }
            if turn.is_multiple_of(SWEEP) || idle {
                self.with_snapshot(|snapshot| {
                    let there = |uid| snapshot.members().binary_search_by_key(&uid, |member| member.uid).is_ok();
                    self.pools.sweep(self.now(), there);
                });
            }
        }
        taking.abort();
    }

    async fn accept(self: Rc<Self>, listener: TcpListener, kind: Kind) {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if self.shared.connections() >= self.shared.limits.connections {
                self.counts.refused.add(1);
                continue;
            }
            self.counts.accepted.add(1);
            let own = self.shared.open[self.index].load(Ordering::Relaxed);
            let least = (0..self.shared.open.len()).min_by_key(|at| self.shared.open[*at].load(Ordering::Relaxed));
            let least = least.unwrap_or(self.index);
            let other = self.shared.open[least].load(Ordering::Relaxed);
            // One that ends takes nothing more.
            let gives = own >= other + SLACK && !self.closing();
            let stream = if gives { self.give(least, stream, address, kind) } else { Some(stream) };
            if let Some(stream) = stream {
                self.shared.open[self.index].fetch_add(1, Ordering::Relaxed);
                self.serve(stream, address, kind);
            }
        }
    }

    /// Hands a connection to another worker; gives it back when that one has ended.
    fn give(&self, to: usize, stream: TcpStream, address: SocketAddr, kind: Kind) -> Option<TcpStream> {
        let stream = stream.into_std().ok()?;
        self.shared.open[to].fetch_add(1, Ordering::Relaxed);
        let given = self.shared.hand[to].send(Handed::Connection { stream, address, kind });
        let Err(refused) = given else { return None };
        self.shared.open[to].fetch_sub(1, Ordering::Relaxed);
        match refused.0 {
            Handed::Connection { stream, .. } => TcpStream::from_std(stream).ok(),
            Handed::Listener(..) => None,
        }
    }

    /// Serves a connection that is counted as open already.
    fn serve(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, kind: Kind) {
        let open = Open(Rc::clone(self));
        if self.deadlines.is_empty() {
            // The clock ticks slowly while nobody watches it.
            self.shared.changed[self.index].notify_one();
        }
        tokio::task::spawn_local(async move {
            connection::serve(Rc::clone(&open.0), stream, address, kind).await;
            drop(open);
        });
    }
}
