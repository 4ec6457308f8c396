//! What the node counts and measures, in the API's words: read when asked, never sampled in the background.
//!
//! Whoever writes it as text, or works out rates and percentiles, does so from this. It refuses to keep anything: counts
//! are those of the proxy and the name server as long as these run, and begin again with a new daemon; those of the
//! kernel's programs and rules do not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coppice_api::{
    BackendMetrics, BreakerState, Bucket, CertificateMetrics, ContainerMetrics, DeniedMetrics, DnsMetrics, HealthState,
    Histogram, Metrics, PairMetrics, PeerServiceMetrics, PeerTlsMetrics, ProxyMetrics, RouteMetrics, ServiceMetrics,
};
use coppice_base::Timestamp;
use coppice_network::Identity;
use coppice_peer::{PeerSnapshot, ServiceSnapshot};
use coppice_proxy::{BUCKETS, BackendSnapshot, DeniedSnapshot, HistogramSnapshot, MetricsSnapshot, RouteSnapshot};

use crate::adhoc::AdHoc;
use crate::agent::Agent;
use crate::container::{Container, Owner};
use crate::containers::Containers;
use crate::storage::Counts;

/// Everything, now. Blocking: reads the cgroup of each container that runs.
pub(crate) fn read(containers: &Containers, agent: &Agent, adhoc: &AdHoc, started_at: Timestamp) -> Metrics {
    let restarts = |container: &Container| match &container.owner {
        Owner::AdHoc => adhoc.restarts(container),
        Owner::App { app, instance, .. } => agent.get(app.as_str()).map_or(0, |app| app.restarts(instance)),
    };
    let storage = containers.storage.read();
    let mut each: Vec<ContainerMetrics> =
        containers.table.all().iter().map(|one| container(containers, one, restarts(one), &storage)).collect();
    each.sort_by(|a, b| a.name.cmp(&b.name));
    let (traffic, names) = containers.traffic.metrics();
    let counted = containers.network.counted().unwrap_or_default();
    let of_proxy = traffic.as_ref().map(proxy);
    let MetricsSnapshot { routes, mut backends, denied: requests, .. } = traffic.unwrap_or_default();
    backends.sort_by(|a, b| (&a.app, &a.service, &a.instance).cmp(&(&b.app, &b.service, &b.instance)));
    Metrics {
        at: containers.clock.now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        apps: u32::try_from(agent.all().len()).unwrap_or(u32::MAX),
        containers: each,
        proxy: of_proxy,
        routes: routes.into_iter().map(route).collect(),
        backends: backends.into_iter().map(backend).collect(),
        dns: names.map(|names| dns(names, counted.names.iter().sum())),
        peer_tls: containers.traffic.peers().metrics().map(peer_tls),
        denied: denied(containers, requests),
        pairs: pairs(containers, counted.pairs),
        services: services(containers, &counted.services),
        certificates: certificates(containers),
    }
}

pub(crate) fn certificates(containers: &Containers) -> Vec<CertificateMetrics> {
    let node = containers.traffic.certificates();
    // Metrics are not what starts it.
    let Some(certificates) = node.is_needed().then(|| node.started().ok()).flatten() else { return Vec::new() };
    let of = |record: coppice_acme::CertificateRecord| CertificateMetrics {
        domain: record.domain,
        not_after: record.not_after,
    };
    certificates.list().into_iter().map(of).collect()
}

/// Nothing without the fast path.
fn pairs(containers: &Containers, counted: Vec<coppice_bpf::PairTraffic>) -> Vec<PairMetrics> {
    let text = |peer: coppice_bpf::Peer| match peer {
        coppice_bpf::Peer::Beyond => Some("outside".to_owned()),
        coppice_bpf::Peer::Container(coppice_network::Identity::OTHER) => Some("other".to_owned()),
        // A service that is no more is nobody's business.
        coppice_bpf::Peer::Container(identity) => {
            containers.policies.member(identity).map(|(app, workload)| format!("{app}/{workload}"))
        }
    };
    let mut pairs: Vec<PairMetrics> = counted
        .into_iter()
        .filter_map(|pair| {
            Some(PairMetrics {
                from: text(pair.from)?,
                to: text(pair.to)?,
                packets: pair.packets,
                bytes: pair.bytes,
                connections: pair.connections,
            })
        })
        .collect();
    pairs.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
    pairs
}

/// Nothing without the fast path, nor of addresses that are no service's any more.
fn services(containers: &Containers, counted: &[coppice_bpf::ServiceTraffic]) -> Vec<ServiceMetrics> {
    let mut services = containers.traffic.each(|app, present| {
        let of = present.addresses.iter().filter_map(|(service, addresses)| {
            let one = counted.iter().find(|one| addresses.contains(&IpAddr::V4(one.address)))?;
            Some(ServiceMetrics {
                app: app.clone(),
                service: service.clone(),
                address: one.address.to_string(),
                connections: one.connections,
                received_packets: one.packets_in,
                received_bytes: one.bytes_in,
                sent_packets: one.packets_out,
                sent_bytes: one.bytes_out,
            })
        });
        of.collect()
    });
    services.sort_by(|a: &ServiceMetrics, b| (&a.app, &a.service).cmp(&(&b.app, &b.service)));
    services
}

/// What bridge and proxy have refused. Of the bridge nothing while its rules cannot be read.
fn denied(containers: &Containers, requests: Vec<DeniedSnapshot>) -> Vec<DeniedMetrics> {
    let drops = containers.network.drops().unwrap_or_else(|error| {
        tracing::warn!(%error, "what the policy dropped is not known");
        Vec::new()
    });
    let text = |identity| containers.policies.member(identity).map(|(app, workload)| format!("{app}/{workload}"));
    let mut pairs: BTreeMap<(Option<String>, String), (u64, u64)> = BTreeMap::new();
    for ((from, to), packets) in drops {
        if let Some(to) = text(to) {
            pairs.entry((text(from), to)).or_default().0 += packets;
        }
    }
    for one in requests {
        let from = Identity(one.from.0);
        if from != Identity::OTHER && text(from).is_none() {
            continue;
        }
        let to = format!("{}/{}", one.app, one.service);
        pairs.entry((text(from), to)).or_default().1 += one.requests;
    }
    let of = |((from, to), (packets, requests))| DeniedMetrics { from, to, packets, requests };
    pairs.into_iter().map(of).collect()
}

fn container(containers: &Containers, container: &Container, restarts: u32, storage: &Counts) -> ContainerMetrics {
    let phase = container.phase();
    let (app, workload) = match &container.owner {
        Owner::AdHoc => (None, None),
        Owner::App { app, workload, .. } => (Some(app.to_string()), Some(workload.to_string())),
    };
    // One that ends meanwhile has no usage any more.
    let cgroup = phase.is_running().then(|| containers.cgroup(&container.id).ok()).flatten();
    let usage = cgroup.as_ref().and_then(|cgroup| cgroup.usage().ok());
    ContainerMetrics {
        name: container.name(),
        app,
        workload,
        state: phase.state(),
        health: if phase.is_running() { container.health() } else { HealthState::None },
        restarts,
        cpu_usec: usage.as_ref().and_then(|usage| usage.cpu_usec),
        memory_bytes: usage.as_ref().and_then(|usage| usage.memory_bytes),
        storage: cgroup.zip(usage).and_then(|(cgroup, usage)| storage.of(&cgroup, &usage)),
    }
}

fn proxy(snapshot: &MetricsSnapshot) -> ProxyMetrics {
    ProxyMetrics {
        connections: snapshot.connections,
        accepted: snapshot.accepted,
        refused: snapshot.refused,
        tls_handshakes: snapshot.tls_handshakes,
        tls_handshake_failures: snapshot.tls_handshake_failures,
        bad_requests: snapshot.bad_requests,
        unrouted: snapshot.unrouted,
        log_lines_dropped: snapshot.log_lines_dropped,
        spans_dropped: snapshot.spans_dropped,
    }
}

fn route(route: RouteSnapshot) -> RouteMetrics {
    RouteMetrics {
        app: route.app,
        service: route.service,
        route: route.route,
        classes: route.classes,
        aborted: route.aborted,
        received_bytes: route.received,
        sent_bytes: route.sent,
        retries: route.retries,
        mirrored: route.mirrored,
        limited: route.limited,
        refused: route.refused,
        unavailable: route.unavailable,
        duration: histogram(&route.latency),
    }
}

fn backend(backend: BackendSnapshot) -> BackendMetrics {
    BackendMetrics {
        app: backend.app,
        service: backend.service,
        instance: backend.instance,
        address: backend.address.to_string(),
        requests: backend.requests,
        failures: backend.failures,
        connects: backend.connects,
        in_flight: backend.in_flight,
        ready: backend.ready,
        draining: backend.draining,
        ejected: backend.ejected,
        breaker: match backend.breaker {
            coppice_proxy::BreakerState::Closed => BreakerState::Closed,
            coppice_proxy::BreakerState::Open => BreakerState::Open,
            coppice_proxy::BreakerState::HalfOpen => BreakerState::HalfOpen,
        },
        duration: histogram(&backend.latency),
    }
}

/// From counts of each bucket to counts of it and all below.
fn histogram(snapshot: &HistogramSnapshot) -> Histogram {
    let mut below = 0;
    let bucket = BUCKETS.iter().zip(snapshot.counts).map(|(bound, count)| {
        below += count;
        Bucket { le_us: micros(*bound), count: below }
    });
    Histogram { buckets: bucket.collect(), sum_us: micros(snapshot.sum), count: snapshot.count }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What the name server has counted, and how many answers the kernel gave in its place.
fn dns(counts: coppice_dns::Metrics, by_kernel: u64) -> DnsMetrics {
    DnsMetrics {
        udp_queries: counts.udp_queries,
        tcp_queries: counts.tcp_queries,
        kernel_queries: by_kernel,
        answered: counts.answered + by_kernel,
        no_data: counts.no_data,
        no_name: counts.no_name,
        refused: counts.refused,
        truncated: counts.truncated,
        malformed: counts.malformed,
        dropped: counts.dropped,
        limited: counts.limited,
        cache_hits: counts.cache_hits,
        cache_misses: counts.cache_misses,
        cache_entries: counts.cache_entries,
        cache_bytes: counts.cache_bytes,
        joined: counts.joined,
        overloaded: counts.overloaded,
        upstream_queries: counts.upstream_queries,
        upstream_timeouts: counts.upstream_timeouts,
        upstream_rejected: counts.upstream_rejected,
        upstream_failed: counts.upstream_failed,
        unresolved: counts.unresolved,
        tcp_connections: counts.tcp_connections,
        tcp_refused: counts.tcp_refused,
    }
}

fn peer_tls(snapshot: PeerSnapshot) -> PeerTlsMetrics {
    let service = |one: ServiceSnapshot| PeerServiceMetrics {
        app: one.app,
        service: one.service,
        connections: one.open,
        handshakes: one.handshakes,
        handshake_failures: one.handshake_failures,
        refused: one.refused,
        warned: one.warned,
        unreachable: one.unreachable,
        certificate_made_at: one.certificate_made_at,
        certificate_ends_at: one.certificate_ends_at,
        rotation_failures: one.rotation_failures,
    };
    PeerTlsMetrics {
        services: snapshot.services.into_iter().map(service).collect(),
        strays: snapshot.strays,
        overloaded: snapshot.overloaded,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn buckets_count_what_is_below_them_and_the_slowest_only_in_the_total() {
        let mut snapshot = HistogramSnapshot { sum: Duration::from_millis(20_002), count: 3, ..Default::default() };
        (snapshot.counts[0], snapshot.counts[2], snapshot.counts[BUCKETS.len()]) = (1, 1, 1);
        let histogram = histogram(&snapshot);
        let counts: Vec<u64> = histogram.buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!(counts, [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!((histogram.buckets[0].le_us, histogram.sum_us, histogram.count), (500, 20_002_000, 3));
    }
}
