//! What a node has counted and measured. Numbers of counters only grow while the daemon runs, and begin again with it; those
//! of the kernel's programs (traffic of pairs and services, names answered in the server's place) and rules (dropped
//! packets) go on without it, and those of a container are as old as the container.

use coppice_base::{Name, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerState, HealthState};

/// Everything at one moment. Lists are in order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    #[schema(value_type = u64)]
    pub at: Timestamp,
    pub version: String,
    /// Of the daemon; counters of what it does itself begin here.
    #[schema(value_type = u64)]
    pub started_at: Timestamp,
    pub apps: u32,
    pub containers: Vec<ContainerMetrics>,
    /// `None`: no app has had routes since the daemon started, so the proxy does not run.
    pub proxy: Option<ProxyMetrics>,
    pub routes: Vec<RouteMetrics>,
    pub backends: Vec<BackendMetrics>,
    /// `None`: the name server does not run (no container has had a network yet, or its port was taken).
    pub dns: Option<DnsMetrics>,
    /// `None`: no service has had `tls.peer` since the daemon started.
    pub peer_tls: Option<PeerTlsMetrics>,
    /// Pairs that the policy denies, and what it has dropped between them.
    #[serde(default)]
    pub denied: Vec<DeniedMetrics>,
    /// Who spoke to whom, where the network has its fast path (BPF); else empty.
    #[serde(default)]
    pub pairs: Vec<PairMetrics>,
    /// What went to services' virtual addresses, where the network has its fast path (BPF); else empty.
    #[serde(default)]
    pub services: Vec<ServiceMetrics>,
    /// Certificates shown to clients.
    #[serde(default)]
    pub certificates: Vec<CertificateMetrics>,
}

/// From one service to another, since the fast path was first attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairMetrics {
    /// `shop/web`; `outside`: the host and all beyond it; `other`: containers of no app.
    pub from: String,
    pub to: String,
    /// As on a wire.
    pub packets: u64,
    /// Of IP packets.
    pub bytes: u64,
    /// Begun by `from`.
    pub connections: u64,
}

/// To and from a service's virtual address, from whomever, since the service has it or the fast path was first attached.
/// What goes to an instance's own address, or through the proxy, is not of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceMetrics {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub service: Name,
    /// The virtual address.
    pub address: String,
    /// Begun: TCP's, and flows of datagrams.
    pub connections: u64,
    /// To the service, as on a wire.
    pub received_packets: u64,
    /// Of IP packets.
    pub received_bytes: u64,
    /// From the service.
    pub sent_packets: u64,
    pub sent_bytes: u64,
}

/// Of one pair of services that is denied, now or since the proxy runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeniedMetrics {
    /// `shop/web`; `None`: containers of no app.
    pub from: Option<String>,
    pub to: String,
    /// Packets dropped since it is denied.
    pub packets: u64,
    /// Requests refused, or ended, by the proxy since it runs: those that came by a public route.
    #[serde(default)]
    pub requests: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateMetrics {
    /// The name it is kept under.
    pub domain: String,
    #[schema(value_type = u64)]
    pub not_after: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerMetrics {
    pub name: String,
    /// `None`: made by `run` or `create`.
    pub app: Option<String>,
    pub workload: Option<String>,
    pub state: ContainerState,
    pub health: HealthState,
    /// Restarts that nobody asked for.
    pub restarts: u32,
    /// While it runs, where the machine's cgroups count it.
    pub cpu_usec: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// While it runs, where the machine counts it.
    pub storage: Option<StorageMetrics>,
}

/// Requests to disks since a container's start. What the page cache writes back later is the container's only where
/// control groups are of version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageMetrics {
    pub read_bytes: u64,
    pub reads: u64,
    /// How long they took in all, waiting included; only where BPF counts.
    pub read_usec: Option<u64>,
    pub write_bytes: u64,
    pub writes: u64,
    pub write_usec: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProxyMetrics {
    /// Open client connections.
    pub connections: u64,
    pub accepted: u64,
    /// Closed at once: too many were open.
    pub refused: u64,
    pub tls_handshakes: u64,
    pub tls_handshake_failures: u64,
    /// Malformed requests.
    pub bad_requests: u64,
    /// Requests that no route takes.
    pub unrouted: u64,
    /// Lines of the access log that nobody took in time.
    pub log_lines_dropped: u64,
    /// Spans that were not brought to the collector; `None`: none are collected.
    #[serde(default)]
    pub spans_dropped: Option<u64>,
}

/// Encryption between services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerTlsMetrics {
    pub services: Vec<PeerServiceMetrics>,
    /// Connections that nothing had redirected, that spoke no TLS, or that asked for no service of here.
    pub strays: u64,
    /// Closed at once: too many were open.
    pub overloaded: u64,
}

/// A service whose `tls.peer` is not off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerServiceMetrics {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub service: Name,
    /// Connections now.
    pub connections: u64,
    /// Callers of the app that showed who they are.
    pub handshakes: u64,
    pub handshake_failures: u64,
    /// Callers that are not of the app, turned away.
    pub refused: u64,
    /// Callers that are not of the app, let through.
    pub warned: u64,
    /// Connections whose instance did not answer.
    pub unreachable: u64,
    #[schema(value_type = Option<u64>)]
    pub certificate_made_at: Option<Timestamp>,
    #[schema(value_type = Option<u64>)]
    pub certificate_ends_at: Option<Timestamp>,
    /// Certificates of the app that were due and could not be made.
    pub rotation_failures: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteMetrics {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub service: Name,
    #[schema(value_type = String)]
    pub route: Name,
    /// Answers by first digit of the status, 1 to 5.
    pub classes: [u64; 5],
    /// Requests whose client went away before the answer; in no class.
    pub aborted: u64,
    /// Bytes of requests' bodies.
    pub received_bytes: u64,
    /// Bytes of answers' bodies.
    pub sent_bytes: u64,
    pub retries: u64,
    pub mirrored: u64,
    /// 429 by the rate limit.
    pub limited: u64,
    /// 401 and 403 by basic auth and allowlist.
    pub refused: u64,
    /// 503 because no instance could answer.
    pub unavailable: u64,
    pub duration: Histogram,
}

/// An instance, as the proxy knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendMetrics {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub service: Name,
    /// As in `web-1`.
    pub instance: String,
    pub address: String,
    pub requests: u64,
    /// No connection, no answer, or 5xx.
    pub failures: u64,
    /// New connections.
    pub connects: u64,
    pub in_flight: u32,
    pub ready: bool,
    /// It is being stopped: it finishes what it has.
    pub draining: bool,
    /// Taken out for a while because it answers worse than the others.
    pub ejected: bool,
    pub breaker: BreakerState,
    pub duration: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Requests go through.
    Closed,
    /// It failed too often: none do, for now.
    Open,
    /// The next one tries.
    HalfOpen,
}

/// Durations, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Histogram {
    pub buckets: Vec<Bucket>,
    pub sum_us: u64,
    pub count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// Upper bound.
    pub le_us: u64,
    /// How many took at most so long, those of lower buckets included.
    pub count: u64,
}

/// What the name server has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsMetrics {
    pub udp_queries: u64,
    pub tcp_queries: u64,
    /// Questions answered by the kernel, in the server's place; none of them is in `udp_queries`.
    #[serde(default)]
    pub kernel_queries: u64,
    /// Answers with records of our own names, the kernel's too.
    pub answered: u64,
    /// Answers that a name of ours has nothing of the type.
    pub no_data: u64,
    /// Answers that a name of ours does not exist.
    pub no_name: u64,
    pub refused: u64,
    /// Answers that asked to come over TCP.
    pub truncated: u64,
    pub malformed: u64,
    /// Packets not answered: too short, or themselves responses.
    pub dropped: u64,
    /// Questions over their client's rate, not answered.
    pub limited: u64,
    /// Questions for others, answered from the cache.
    pub cache_hits: u64,
    pub cache_misses: u64,
    /// Answers of other servers kept now.
    pub cache_entries: u64,
    pub cache_bytes: u64,
    /// Questions that waited for an equal one already on its way.
    pub joined: u64,
    /// Questions for others turned away because too many were on their way.
    pub overloaded: u64,
    pub upstream_queries: u64,
    pub upstream_timeouts: u64,
    /// Messages from other servers that were no answer to the question.
    pub upstream_rejected: u64,
    pub upstream_failed: u64,
    /// Questions for others that no server answered.
    pub unresolved: u64,
    pub tcp_connections: u64,
    /// TCP connections closed at once: too many.
    pub tcp_refused: u64,
}
