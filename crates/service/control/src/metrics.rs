//! The node's metrics by name: what a Prometheus reads and what is exported by OTLP is made of the same list.
//!
//! Each name is there once, with all its samples; the order is that of this file and of the API's lists, so two equal states
//! make equal lists. A name without samples is left out: a proxy that does not run has no counts, rather than counts of
//! nothing. Names and labels are in docs/metrics.md; a test compares.
//!
//! Without a registry (as the usual crates have), which would be a second place for every count.

mod prometheus;

use coppice_api::{
    BackendMetrics, BreakerState, ContainerMetrics, ContainerState, DeniedMetrics, DnsMetrics, HealthState, Histogram,
    Metrics, PairMetrics, PeerServiceMetrics, PeerTlsMetrics, ProxyMetrics, RouteMetrics, ServiceMetrics,
    StorageMetrics,
};
use coppice_base::Timestamp;

pub(crate) use prometheus::CONTENT_TYPE;

/// One name, and all there is of it.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) samples: Samples,
}

#[derive(Clone, Debug)]
pub(crate) enum Samples {
    Counter(Vec<(Labels, Value)>),
    Gauge(Vec<(Labels, Value)>),
    Histogram(Vec<(Labels, Histogram)>),
}

/// Writes everything in `metrics` for a Prometheus.
pub(crate) fn text(metrics: &Metrics) -> String {
    prometheus::write(&families(metrics))
}

/// Everything in `metrics`, each name once.
pub(crate) fn families(metrics: &Metrics) -> Vec<Family> {
    let mut found = Families(Vec::new());
    node(&mut found, metrics);
    containers(&mut found, &metrics.containers);
    if let Some(proxy) = &metrics.proxy {
        of_proxy(&mut found, proxy);
    }
    routes(&mut found, &metrics.routes);
    backends(&mut found, &metrics.backends);
    if let Some(names) = &metrics.dns {
        dns(&mut found, names);
    }
    if let Some(peers) = &metrics.peer_tls {
        peer_tls(&mut found, peers, metrics.at);
    }
    denied(&mut found, &metrics.denied);
    pairs(&mut found, &metrics.pairs);
    services(&mut found, &metrics.services);
    let ends =
        metrics.certificates.iter().map(|one| (label("domain", &one.domain), Value::Seconds(one.not_after.0 * 1000)));
    found.gauge(
        "coppice_certificate_expiry_timestamp_seconds",
        "When a certificate ends, in seconds since 1970.",
        ends,
    );
    found.0
}

/// Whether this counter begins at 0 with the daemon. Of the others it is not known when they began: what the kernel counts
/// goes on without a daemon, and a container's counts are as old as the container.
pub(crate) fn begins_with_the_daemon(family: &str, labels: &Labels) -> bool {
    match family {
        "coppice_dns_queries_total" => !labels.iter().any(|(key, value)| *key == "transport" && value == "kernel"),
        // The kernel's are among them.
        "coppice_dns_answered_total" => false,
        // By rules of nftables.
        "coppice_policy_dropped_packets_total" => false,
        name => !["coppice_pair_", "coppice_service_", "coppice_container_"].iter().any(|of| name.starts_with(of)),
    }
}

fn node(found: &mut Families, metrics: &Metrics) {
    found.gauge("coppice_build_info", "The version that runs; always 1.", [(label("version", &metrics.version), 1u32)]);
    let started = [(Labels::new(), Value::Seconds(metrics.started_at.0 * 1000))];
    found.gauge("coppice_start_time_seconds", "When the daemon started, in seconds since 1970.", started);
    found.gauge("coppice_apps", "Apps on this node.", [(Labels::new(), metrics.apps)]);
    let states = [
        ("created", ContainerState::Created),
        ("running", ContainerState::Running),
        ("paused", ContainerState::Paused),
        ("exited", ContainerState::Exited),
    ];
    let count = |state| metrics.containers.iter().filter(|one| one.state == state).count() as u64;
    let samples = states.map(|(word, state)| (label("state", word), count(state)));
    found.gauge("coppice_containers", "Containers of this node by state.", samples);
}

fn containers(found: &mut Families, all: &[ContainerMetrics]) {
    let labels = |one: &ContainerMetrics| {
        let app = one.app.iter().flat_map(|app| label("app", app));
        let service = one.workload.iter().flat_map(|workload| label("service", workload));
        app.chain(service).chain(label("container", &one.name)).collect::<Labels>()
    };
    let cpu = all.iter().filter_map(|one| Some((labels(one), Value::Seconds(one.cpu_usec?))));
    found.counter("coppice_container_cpu_seconds_total", "CPU time that a running container has used.", cpu);
    let memory = all.iter().filter_map(|one| Some((labels(one), one.memory_bytes?)));
    found.gauge("coppice_container_memory_bytes", "Memory that a running container uses, caches included.", memory);
    storage(found, all, labels);
    let restarts = all.iter().map(|one| (labels(one), one.restarts));
    found.counter("coppice_container_restarts_total", "Restarts of a container that nobody asked for.", restarts);
    let states =
        [("starting", HealthState::Starting), ("healthy", HealthState::Healthy), ("unhealthy", HealthState::Unhealthy)];
    let health = all
        .iter()
        .filter(|one| one.health != HealthState::None)
        .flat_map(|one| states.map(|(word, state)| (and(labels(one), "state", word), u64::from(one.health == state))));
    found.gauge("coppice_container_health", "1 for the state that a container's health check finds it in.", health);
}

/// Requests to disks, by what they ask for.
fn storage(found: &mut Families, all: &[ContainerMetrics], labels: impl Fn(&ContainerMetrics) -> Labels) {
    let each = |of: fn(&StorageMetrics) -> [Option<u64>; 2]| {
        let samples = all.iter().filter_map(|one| Some((one, of(one.storage.as_ref()?))));
        let samples = samples.flat_map(|(one, counts)| {
            let of = |(word, count): (_, Option<u64>)| Some((and(labels(one), "operation", word), count?));
            ["read", "write"].into_iter().zip(counts).filter_map(of).collect::<Vec<_>>()
        });
        samples.collect::<Vec<_>>()
    };
    let bytes = each(|of| [Some(of.read_bytes), Some(of.write_bytes)]);
    found.counter(
        "coppice_container_storage_bytes_total",
        "Bytes that a running container moved from and to disks.",
        bytes,
    );
    let operations = each(|of| [Some(of.reads), Some(of.writes)]);
    found.counter(
        "coppice_container_storage_operations_total",
        "Requests to disks of a running container.",
        operations,
    );
    let seconds = each(|of| [of.read_usec, of.write_usec]);
    let seconds = seconds.into_iter().map(|(labels, usec)| (labels, Value::Seconds(usec)));
    found.counter("coppice_container_storage_seconds_total", "Time those requests took, waiting included.", seconds);
}

fn of_proxy(found: &mut Families, proxy: &ProxyMetrics) {
    found.gauge("coppice_proxy_connections", "Open client connections.", [(Labels::new(), proxy.connections)]);
    let counts = [
        ("coppice_proxy_connections_accepted_total", "Client connections taken.", proxy.accepted),
        ("coppice_proxy_connections_refused_total", "Client connections closed at once: too many.", proxy.refused),
        ("coppice_proxy_tls_handshakes_total", "TLS handshakes that succeeded.", proxy.tls_handshakes),
        ("coppice_proxy_tls_handshake_failures_total", "TLS handshakes that failed.", proxy.tls_handshake_failures),
        ("coppice_proxy_bad_requests_total", "Malformed requests.", proxy.bad_requests),
        ("coppice_proxy_unrouted_requests_total", "Requests that no route takes.", proxy.unrouted),
        (
            "coppice_proxy_access_log_lines_dropped_total",
            "Lines of the access log that nobody took in time.",
            proxy.log_lines_dropped,
        ),
    ];
    for (name, help, count) in counts {
        found.counter(name, help, [(Labels::new(), count)]);
    }
    let spans = proxy.spans_dropped.map(|count| (Labels::new(), count));
    found.counter("coppice_proxy_spans_dropped_total", "Spans that were not brought to the collector.", spans);
}

fn routes(found: &mut Families, all: &[RouteMetrics]) {
    type Count = fn(&RouteMetrics) -> u64;
    let labels = |one: &RouteMetrics| -> Labels {
        [("app", &one.app), ("service", &one.service), ("route", &one.route)]
            .into_iter()
            .flat_map(|(key, value)| label(key, value.as_str()))
            .collect()
    };
    let requests = all.iter().flat_map(|one| {
        let class = (1..).zip(one.classes).map(move |(digit, count)| (format!("{digit}xx"), count));
        class.map(move |(class, count)| (and(labels(one), "class", &class), count))
    });
    found.counter("coppice_route_requests_total", "Requests answered, by class of the status.", requests);
    let durations = all.iter().map(|one| (labels(one), &one.duration));
    found.histogram(
        "coppice_route_request_duration_seconds",
        "From a request's head to the end of its answer.",
        durations,
    );
    let counts: [(&str, &str, Count); 8] = [
        ("coppice_route_requests_aborted_total", "Requests whose client went away first.", |one| one.aborted),
        ("coppice_route_received_bytes_total", "Bytes of requests' bodies.", |one| one.received_bytes),
        ("coppice_route_sent_bytes_total", "Bytes of answers' bodies.", |one| one.sent_bytes),
        ("coppice_route_retries_total", "Tries after the first.", |one| one.retries),
        ("coppice_route_requests_mirrored_total", "Copies of requests sent to a mirror.", |one| one.mirrored),
        ("coppice_route_requests_limited_total", "Answers 429 by the rate limit.", |one| one.limited),
        ("coppice_route_requests_refused_total", "Answers 401 and 403 by basic auth and allowlist.", |one| one.refused),
        ("coppice_route_requests_unavailable_total", "Answers 503: no instance could answer.", |one| one.unavailable),
    ];
    for (name, help, count) in counts {
        found.counter(name, help, all.iter().map(|one| (labels(one), count(one))));
    }
}

fn backends(found: &mut Families, all: &[BackendMetrics]) {
    type Look = fn(&BackendMetrics) -> u64;
    let labels = |one: &BackendMetrics| -> Labels {
        [("app", one.app.as_str()), ("service", one.service.as_str()), ("backend", &one.instance)]
            .into_iter()
            .flat_map(|(key, value)| label(key, value))
            .collect()
    };
    let counts: [(&str, &str, Look); 3] = [
        ("coppice_backend_requests_total", "Requests sent to an instance.", |one| one.requests),
        ("coppice_backend_failures_total", "Of these, no connection, no answer, or 5xx.", |one| one.failures),
        ("coppice_backend_connects_total", "New connections to an instance.", |one| one.connects),
    ];
    for (name, help, count) in counts {
        found.counter(name, help, all.iter().map(|one| (labels(one), count(one))));
    }
    let gauges: [(&str, &str, Look); 4] = [
        ("coppice_backend_requests_in_flight", "Requests at an instance now.", |one| one.in_flight.into()),
        ("coppice_backend_ready", "1 when an instance is ready.", |one| one.ready.into()),
        ("coppice_backend_draining", "1 when an instance only finishes what it has.", |one| one.draining.into()),
        ("coppice_backend_ejected", "1 when an instance is left out for its failures.", |one| one.ejected.into()),
    ];
    for (name, help, look) in gauges {
        found.gauge(name, help, all.iter().map(|one| (labels(one), look(one))));
    }
    let states =
        [("closed", BreakerState::Closed), ("open", BreakerState::Open), ("half_open", BreakerState::HalfOpen)];
    let breaker = all
        .iter()
        .flat_map(|one| states.map(|(word, state)| (and(labels(one), "state", word), u64::from(one.breaker == state))));
    found.gauge("coppice_backend_breaker_state", "1 for the state of an instance's circuit breaker.", breaker);
    let durations = all.iter().map(|one| (labels(one), &one.duration));
    found.histogram(
        "coppice_backend_request_duration_seconds",
        "From sending a request to an instance to the end of its answer.",
        durations,
    );
}

fn dns(found: &mut Families, dns: &DnsMetrics) {
    let queries = [("udp", dns.udp_queries), ("tcp", dns.tcp_queries), ("kernel", dns.kernel_queries)]
        .map(|(transport, count)| (label("transport", transport), count));
    found.counter(
        "coppice_dns_queries_total",
        "Messages that came, by transport, or were answered in the kernel.",
        queries,
    );
    let counts = [
        ("coppice_dns_answered_total", "Answers with records of our own names.", dns.answered),
        ("coppice_dns_no_data_total", "Answers that a name of ours has nothing of the type.", dns.no_data),
        ("coppice_dns_no_name_total", "Answers that a name of ours does not exist.", dns.no_name),
        ("coppice_dns_refused_total", "Refusals.", dns.refused),
        ("coppice_dns_truncated_total", "Answers that asked to come over TCP.", dns.truncated),
        ("coppice_dns_malformed_total", "Malformed queries.", dns.malformed),
        ("coppice_dns_dropped_total", "Packets not answered: too short, or themselves responses.", dns.dropped),
        ("coppice_dns_limited_total", "Questions over their client's rate, not answered.", dns.limited),
        ("coppice_dns_cache_hits_total", "Questions for others, answered from the cache.", dns.cache_hits),
        ("coppice_dns_cache_misses_total", "Questions for others, not in the cache.", dns.cache_misses),
        ("coppice_dns_joined_total", "Questions that waited for an equal one on its way.", dns.joined),
        ("coppice_dns_overloaded_total", "Questions for others turned away: too many on their way.", dns.overloaded),
        ("coppice_dns_unresolved_total", "Questions for others that no server answered.", dns.unresolved),
        ("coppice_dns_upstream_queries_total", "Questions sent to other servers, each try.", dns.upstream_queries),
    ];
    for (name, help, count) in counts {
        found.counter(name, help, [(Labels::new(), count)]);
    }
    let failures = [
        (label("reason", "timeout"), dns.upstream_timeouts),
        (label("reason", "rejected"), dns.upstream_rejected),
        (label("reason", "failed"), dns.upstream_failed),
    ];
    let help = "Tries without an answer in time, with one that is none, and with a failure.";
    found.counter("coppice_dns_upstream_failures_total", help, failures);
    let connections = [(Labels::new(), dns.tcp_connections)];
    found.counter("coppice_dns_tcp_connections_total", "TCP connections taken.", connections);
    let refused = [(Labels::new(), dns.tcp_refused)];
    found.counter("coppice_dns_tcp_connections_refused_total", "TCP connections closed at once: too many.", refused);
    let entries = [(Labels::new(), dns.cache_entries)];
    found.gauge("coppice_dns_cache_entries", "Answers of other servers kept now.", entries);
    found.gauge("coppice_dns_cache_bytes", "Bytes that kept answers take.", [(Labels::new(), dns.cache_bytes)]);
}

fn peer_tls(found: &mut Families, peers: &PeerTlsMetrics, now: Timestamp) {
    type Look = fn(&PeerServiceMetrics) -> u64;
    let labels = |one: &PeerServiceMetrics| -> Labels {
        [("app", &one.app), ("service", &one.service)]
            .into_iter()
            .flat_map(|(key, value)| label(key, value.as_str()))
            .collect()
    };
    let all = &peers.services;
    let open = all.iter().map(|one| (labels(one), one.connections));
    found.gauge("coppice_peer_connections", "Encrypted connections to a service now.", open);
    let counts: [(&str, &str, Look); 6] = [
        ("coppice_peer_handshakes_total", "Callers of the app that showed who they are.", |one| one.handshakes),
        ("coppice_peer_handshake_failures_total", "Handshakes that failed.", |one| one.handshake_failures),
        ("coppice_peer_refused_total", "Callers that are not of the app, turned away.", |one| one.refused),
        ("coppice_peer_warned_total", "Callers that are not of the app, let through.", |one| one.warned),
        ("coppice_peer_unreachable_total", "Connections whose instance did not answer.", |one| one.unreachable),
        ("coppice_peer_rotation_failures_total", "Certificates of the app that were due and not made.", |one| {
            one.rotation_failures
        }),
    ];
    for (name, help, look) in counts {
        found.counter(name, help, all.iter().map(|one| (labels(one), look(one))));
    }
    let seconds = |span: std::time::Duration| Value::Seconds(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    let age = all.iter().filter_map(|one| Some((labels(one), seconds(now.since(one.certificate_made_at?)))));
    found.gauge("coppice_peer_certificate_age_seconds", "Since a service's certificate was made.", age);
    let left = all.iter().filter_map(|one| Some((labels(one), seconds(one.certificate_ends_at?.since(now)))));
    found.gauge("coppice_peer_certificate_left_seconds", "Until a service's certificate ends.", left);
    let strays = [(Labels::new(), peers.strays)];
    found.counter("coppice_peer_strays_total", "Connections for no service, not redirected, or without TLS.", strays);
    let overloaded = [(Labels::new(), peers.overloaded)];
    found.counter("coppice_peer_overloaded_total", "Connections closed at once: too many.", overloaded);
}

fn denied(found: &mut Families, all: &[DeniedMetrics]) {
    let labels = |one: &DeniedMetrics| and(label("from", one.from.as_deref().unwrap_or("")), "to", &one.to);
    let packets = all.iter().map(|one| (labels(one), one.packets));
    found.counter("coppice_policy_dropped_packets_total", "Packets between services that the policy denies.", packets);
    let requests = all.iter().map(|one| (labels(one), one.requests));
    found.counter("coppice_policy_refused_requests_total", "Requests by a public route that it denies.", requests);
}

fn pairs(found: &mut Families, all: &[PairMetrics]) {
    type Look = fn(&PairMetrics) -> u64;
    let counts: [(&str, &str, Look); 3] = [
        ("coppice_pair_packets_total", "Packets from one service to another.", |one| one.packets),
        ("coppice_pair_bytes_total", "Bytes of IP packets from one service to another.", |one| one.bytes),
        ("coppice_pair_connections_total", "Connections that one service began to another.", |one| one.connections),
    ];
    for (name, help, look) in counts {
        found.counter(name, help, all.iter().map(|one| (and(label("from", &one.from), "to", &one.to), look(one))));
    }
}

/// What went to services' virtual addresses, and came from them.
fn services(found: &mut Families, all: &[ServiceMetrics]) {
    type Look = fn(&ServiceMetrics) -> u64;
    let labels = |one: &ServiceMetrics| and(label("app", one.app.as_str()), "service", one.service.as_str());
    let counts: [(&str, &str, Look); 5] = [
        ("coppice_service_connections_total", "Connections begun to a service's address.", |one| one.connections),
        ("coppice_service_received_packets_total", "Packets to a service's address.", |one| one.received_packets),
        ("coppice_service_received_bytes_total", "Bytes of these, as IP packets.", |one| one.received_bytes),
        ("coppice_service_sent_packets_total", "Packets from a service's address.", |one| one.sent_packets),
        ("coppice_service_sent_bytes_total", "Bytes of these, as IP packets.", |one| one.sent_bytes),
    ];
    for (name, help, look) in counts {
        found.counter(name, help, all.iter().map(|one| (labels(one), look(one))));
    }
}

/// Names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn and(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Whole(u64),
    /// Microseconds, written as seconds.
    Seconds(u64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Seconds(micros) => f.write_str(&seconds(*micros)),
        }
    }
}

/// Exact, without zeros at the end.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What was found so far. A name without samples is left out.
struct Families(Vec<Family>);

impl Families {
    fn counter<V: Into<Value>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        self.add(name, help, Samples::Counter(valued(samples)));
    }

    fn gauge<V: Into<Value>>(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) {
        self.add(name, help, Samples::Gauge(valued(samples)));
    }

    fn histogram<'a>(
        &mut self,
        name: &'static str,
        help: &'static str,
        all: impl IntoIterator<Item = (Labels, &'a Histogram)>,
    ) {
        let all = all.into_iter().map(|(labels, histogram)| (labels, histogram.clone()));
        self.add(name, help, Samples::Histogram(all.collect()));
    }

    fn add(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        let is_empty = match &samples {
            Samples::Counter(samples) | Samples::Gauge(samples) => samples.is_empty(),
            Samples::Histogram(samples) => samples.is_empty(),
        };
        if !is_empty {
            self.0.push(Family { name, help, samples });
        }
    }
}

fn valued<V: Into<Value>>(samples: impl IntoIterator<Item = (Labels, V)>) -> Vec<(Labels, Value)> {
    samples.into_iter().map(|(labels, value)| (labels, value.into())).collect()
}

#[cfg(test)]
pub(crate) mod tests;
