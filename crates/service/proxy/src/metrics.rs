//! What the proxy counts, by route and by instance.
//!
//! Each worker has its own set of counters that only it writes, with plain loads and stores; a snapshot adds them up. Names
//! in a text format are the reader's business.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coppice_base::Name;
use coppice_route::breaker::BreakerState;

use crate::callers::DeniedSnapshot;

/// Upper bounds of a latency histogram's buckets; one more bucket has no bound.
pub const BUCKETS: [Duration; 13] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
];

/// A counter that one thread writes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        // The only writer: no locked instruction is needed.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let bucket = BUCKETS.iter().position(|bound| took <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket].add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// One worker's counts of one route. Aligned so that two workers never write one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RouteCounts {
    /// By first digit of the status, 1 to 5.
    pub(crate) classes: [Counter; 5],
    /// The client went away before its answer.
    pub(crate) aborted: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) retries: Counter,
    pub(crate) mirrored: Counter,
    pub(crate) limited: Counter,
    pub(crate) refused: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) latency: Histogram,
}

/// One worker's counts of one instance.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct BackendCounts {
    pub(crate) requests: Counter,
    pub(crate) failures: Counter,
    pub(crate) connects: Counter,
    pub(crate) latency: Histogram,
}

/// One worker's counts of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerCounts {
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) handshake_failures: Counter,
    pub(crate) bad_requests: Counter,
    pub(crate) unrouted: Counter,
    pub(crate) log_lines_dropped: Counter,
}

/// Everything counted since the start.
#[derive(Clone, Debug, Default)]
pub struct MetricsSnapshot {
    /// Open client connections.
    pub connections: u64,
    pub accepted: u64,
    /// Closed at once: over [`crate::Limits::connections`].
    pub refused: u64,
    pub tls_handshakes: u64,
    pub tls_handshake_failures: u64,
    /// Malformed requests.
    pub bad_requests: u64,
    /// Requests that no route takes.
    pub unrouted: u64,
    pub log_lines_dropped: u64,
    /// Spans that nobody got; `None`: none are collected.
    pub spans_dropped: Option<u64>,
    pub routes: Vec<RouteSnapshot>,
    pub backends: Vec<BackendSnapshot>,
    /// Requests that the policy refused, by pair; pairs without any are left out.
    pub denied: Vec<DeniedSnapshot>,
}

/// Durations by bucket of [`BUCKETS`] (not cumulative; the last has no bound), their sum and number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    pub counts: [u64; BUCKETS.len() + 1],
    pub sum: Duration,
    pub count: u64,
}

#[derive(Clone, Debug)]
pub struct RouteSnapshot {
    pub app: Name,
    pub service: Name,
    pub route: Name,
    /// Answers by first digit of the status, 1 to 5.
    pub classes: [u64; 5],
    pub aborted: u64,
    /// Bytes of request bodies.
    pub received: u64,
    /// Bytes of answers' bodies.
    pub sent: u64,
    pub retries: u64,
    pub mirrored: u64,
    /// 429 by the rate limit.
    pub limited: u64,
    /// 401 and 403 by basic auth and allowlist.
    pub refused: u64,
    /// 503 because no instance could answer.
    pub unavailable: u64,
    pub latency: HistogramSnapshot,
}

#[derive(Clone, Debug)]
pub struct BackendSnapshot {
    pub app: Name,
    pub service: Name,
    pub instance: String,
    pub address: std::net::SocketAddr,
    pub requests: u64,
    /// No connection, no answer, or 5xx.
    pub failures: u64,
    /// New connections.
    pub connects: u64,
    pub in_flight: u32,
    pub ready: bool,
    pub draining: bool,
    pub ejected: bool,
    pub breaker: BreakerState,
    pub latency: HistogramSnapshot,
}

fn sum<'a, T: 'a>(shards: &'a [T], of: impl Fn(&'a T) -> &'a Counter) -> u64 {
    shards.iter().map(|shard| of(shard).get()).sum()
}

pub(crate) fn histogram<'a, T: 'a>(shards: &'a [T], of: impl Fn(&'a T) -> &'a Histogram) -> HistogramSnapshot {
    let counts = std::array::from_fn(|bucket| sum(shards, |shard| &of(shard).counts[bucket]));
    HistogramSnapshot {
        counts,
        sum: Duration::from_micros(sum(shards, |shard| &of(shard).micros)),
        count: counts.iter().sum(),
    }
}

impl MetricsSnapshot {
    pub(crate) fn of_workers(shards: &[std::sync::Arc<WorkerCounts>], connections: u64) -> Self {
        Self {
            connections,
            accepted: sum(shards, |shard| &shard.accepted),
            refused: sum(shards, |shard| &shard.refused),
            tls_handshakes: sum(shards, |shard| &shard.handshakes),
            tls_handshake_failures: sum(shards, |shard| &shard.handshake_failures),
            bad_requests: sum(shards, |shard| &shard.bad_requests),
            unrouted: sum(shards, |shard| &shard.unrouted),
            spans_dropped: None,
            log_lines_dropped: sum(shards, |shard| &shard.log_lines_dropped),
            routes: Vec::new(),
            backends: Vec::new(),
            denied: Vec::new(),
        }
    }
}

impl RouteSnapshot {
    pub(crate) fn of(names: (Name, Name, Name), shards: &[RouteCounts]) -> Self {
        Self {
            app: names.0,
            service: names.1,
            route: names.2,
            classes: std::array::from_fn(|class| sum(shards, |shard| &shard.classes[class])),
            aborted: sum(shards, |shard| &shard.aborted),
            received: sum(shards, |shard| &shard.received),
            sent: sum(shards, |shard| &shard.sent),
            retries: sum(shards, |shard| &shard.retries),
            mirrored: sum(shards, |shard| &shard.mirrored),
            limited: sum(shards, |shard| &shard.limited),
            refused: sum(shards, |shard| &shard.refused),
            unavailable: sum(shards, |shard| &shard.unavailable),
            latency: histogram(shards, |shard| &shard.latency),
        }
    }
}

/// Requests, failures and new connections of an instance.
pub(crate) fn backend_totals(shards: &[BackendCounts]) -> (u64, u64, u64) {
    (sum(shards, |shard| &shard.requests), sum(shards, |shard| &shard.failures), sum(shards, |shard| &shard.connects))
}
