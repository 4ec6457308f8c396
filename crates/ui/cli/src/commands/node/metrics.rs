//! `metrics`: what services answered and how fast, by route and by instance, and what went to their addresses.
//!
//! Percentiles are estimated as Prometheus' `histogram_quantile` does it: a bucket's answers are taken to lie evenly
//! between its bounds. Those over the last bound are said to be over it, no more.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use coppice_api::{BackendMetrics, BreakerState, Histogram, Metrics, PeerTlsMetrics, ProxyMetrics, RouteMetrics};
use coppice_base::Bytes;

use crate::args::MetricsArgs;
use crate::daemon;
use crate::error::{CommandError, CommandResult};
use crate::output::{Table, moment};
use crate::settings::Settings;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// A rate needs two looks: the first answer is only the start to measure from.
pub(crate) async fn run(settings: &Settings, args: MetricsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    if args.prometheus {
        settings.print(&client.metrics_text().await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let look = async || -> Result<Metrics, CommandError> {
        let mut metrics = client.metrics().await?;
        match &args.service {
            Some(service) => only(&mut metrics, service).map(|()| metrics),
            None => Ok(metrics),
        }
    };
    let mut before = look().await?;
    if settings.json && !args.watch {
        settings.print_json(&before)?;
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        if args.pairs {
            settings.print(&pairs(&before))?;
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(INTERVAL).await;
        let now = look().await?;
        if settings.json {
            settings.print_json_line(&now)?;
        } else {
            // Home, then clear to the end: the table renews itself in place.
            let clear = if settings.stdout.terminal && args.watch { "\x1b[H\x1b[J" } else { "" };
            settings.print(&format!("{clear}{}", text(&before, &now)))?;
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

/// Who spoke to whom, and between whom the policy dropped packets or refused requests.
fn pairs(metrics: &Metrics) -> String {
    let mut rows: BTreeMap<(&str, &str), [u64; 4]> = BTreeMap::new();
    for pair in &metrics.pairs {
        rows.entry((&pair.from, &pair.to)).or_default()[..3].copy_from_slice(&[
            pair.connections,
            pair.packets,
            pair.bytes,
        ]);
    }
    for denied in &metrics.denied {
        rows.entry((denied.from.as_deref().unwrap_or("other"), &denied.to)).or_default()[3] =
            denied.packets + denied.requests;
    }
    let mut table = Table::new(&["FROM", "TO", "CONNECTIONS", "PACKETS", "BYTES", "DENIED"]);
    for ((from, to), [connections, packets, bytes, denied]) in rows {
        let counts = [connections.to_string(), packets.to_string(), Bytes(bytes).to_string(), denied.to_string()];
        table.row([from.to_owned(), to.to_owned()].into_iter().chain(counts).collect());
    }
    table.render()
}

/// Leaves of `metrics` what is of `service`: `web`, or `shop/web`.
fn only(metrics: &mut Metrics, service: &str) -> Result<(), CommandError> {
    let is_wanted = |app: &str, name: &str| match service.split_once('/') {
        Some((of, wanted)) => of == app && wanted == name,
        None => service == name,
    };
    metrics.routes.retain(|route| is_wanted(route.app.as_str(), route.service.as_str()));
    metrics.backends.retain(|backend| is_wanted(backend.app.as_str(), backend.service.as_str()));
    if let Some(peers) = &mut metrics.peer_tls {
        peers.services.retain(|one| is_wanted(one.app.as_str(), one.service.as_str()));
    }
    let of_pair = |text: &str| text.split_once('/').is_some_and(|(app, name)| is_wanted(app, name));
    metrics.services.retain(|one| is_wanted(one.app.as_str(), one.service.as_str()));
    metrics.pairs.retain(|pair| of_pair(&pair.from) || of_pair(&pair.to));
    metrics.denied.retain(|pair| of_pair(&pair.to) || pair.from.as_deref().is_some_and(of_pair));
    metrics.containers.retain(|one| match (&one.app, &one.workload) {
        (Some(app), Some(workload)) => is_wanted(app, workload),
        _ => false,
    });
    if metrics.routes.is_empty() && metrics.backends.is_empty() && metrics.containers.is_empty() {
        return Err(CommandError::Failed {
            what: format!("there is no service {service} on this node"),
            help: Some("`coppice metrics` shows all of them; write APP/SERVICE where several apps have one".into()),
        });
    }
    Ok(())
}

fn text(before: &Metrics, now: &Metrics) -> String {
    let peers = now.peer_tls.as_ref().filter(|peers| !peers.services.is_empty());
    let has_storage = now.containers.iter().any(|one| one.storage.is_some());
    let parts = [
        now.proxy.as_ref().map(|proxy| traffic(before, now, proxy)),
        (!now.services.is_empty()).then(|| addresses(before, now)),
        peers.map(encrypted),
        has_storage.then(|| storage(before, now)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        return "no app has routes yet: there is nothing to show\n".to_owned();
    }
    parts.join("\n")
}

/// What went to services' virtual addresses.
fn addresses(before: &Metrics, now: &Metrics) -> String {
    let seconds = now.at.since(before.at).as_secs_f64();
    let mut table = Table::new(&["SERVICE", "ADDRESS", "CONNECTIONS", "CONN/S", "PACKETS IN / OUT", "BYTES IN / OUT"]);
    for one in &now.services {
        let first = before.services.iter().find(|first| (&first.app, &first.service) == (&one.app, &one.service));
        table.row(vec![
            format!("{}/{}", one.app, one.service),
            one.address.clone(),
            one.connections.to_string(),
            rate(first.map(|first| first.connections), one.connections, seconds),
            format!("{} / {}", one.received_packets, one.sent_packets),
            format!("{} / {}", Bytes(one.received_bytes), Bytes(one.sent_bytes)),
        ]);
    }
    table.render()
}

/// Services with `tls.peer`.
fn encrypted(peers: &PeerTlsMetrics) -> String {
    let mut table =
        Table::new(&["ENCRYPTED", "CONNECTIONS", "HANDSHAKES", "FAILED", "REFUSED", "WARNED", "CERTIFICATE UNTIL"]);
    for one in &peers.services {
        table.row(vec![
            format!("{}/{}", one.app, one.service),
            one.connections.to_string(),
            one.handshakes.to_string(),
            one.handshake_failures.to_string(),
            one.refused.to_string(),
            one.warned.to_string(),
            one.certificate_ends_at.map_or_else(|| "-".to_owned(), moment),
        ]);
    }
    table.render()
}

/// Requests to disks.
fn storage(before: &Metrics, now: &Metrics) -> String {
    let seconds = now.at.since(before.at).as_secs_f64();
    let mut table = Table::new(&["CONTAINER", "READ", "READS", "READS/S", "WRITTEN", "WRITES", "WRITES/S"]);
    for one in &now.containers {
        let Some(of) = &one.storage else { continue };
        let earlier = before.containers.iter().find(|earlier| earlier.name == one.name);
        let earlier = earlier.and_then(|earlier| earlier.storage.as_ref());
        table.row(vec![
            one.name.clone(),
            Bytes(of.read_bytes).to_string(),
            of.reads.to_string(),
            rate(earlier.map(|earlier| earlier.reads), of.reads, seconds),
            Bytes(of.write_bytes).to_string(),
            of.writes.to_string(),
            rate(earlier.map(|earlier| earlier.writes), of.writes, seconds),
        ]);
    }
    table.render()
}

/// What the proxy does.
fn traffic(before: &Metrics, now: &Metrics, proxy: &ProxyMetrics) -> String {
    let seconds = now.at.since(before.at).as_secs_f64();
    let mut routes =
        Table::new(&["ROUTE", "REQUESTS", "REQ/S", "5XX", "P50", "P95", "P99", "RETRIES", "BYTES IN / OUT"]);
    for route in &now.routes {
        let key =
            |one: &&RouteMetrics| (&one.app, &one.service, &one.route) == (&route.app, &route.service, &route.route);
        let first = before.routes.iter().find(key).map(total);
        let mut cells = vec![
            format!("{}/{} {}", route.app, route.service, route.route),
            total(route).to_string(),
            rate(first, total(route), seconds),
            share(route.classes[4], total(route)),
        ];
        cells.extend(percentiles(&route.duration));
        cells.push(route.retries.to_string());
        cells.push(format!("{} / {}", Bytes(route.received_bytes), Bytes(route.sent_bytes)));
        routes.row(cells);
    }
    let mut backends =
        Table::new(&["INSTANCE", "REQUESTS", "REQ/S", "FAILED", "P50", "P95", "P99", "IN FLIGHT", "STATE"]);
    for backend in &now.backends {
        let key = |one: &&BackendMetrics| (&one.app, &one.instance) == (&backend.app, &backend.instance);
        let first = before.backends.iter().find(key).map(|one| one.requests);
        let mut cells = vec![
            format!("{}/{}", backend.app, backend.instance),
            backend.requests.to_string(),
            rate(first, backend.requests, seconds),
            share(backend.failures, backend.requests),
        ];
        cells.extend(percentiles(&backend.duration));
        cells.push(backend.in_flight.to_string());
        cells.push(state(backend));
        backends.row(cells);
    }
    format!(
        "{}\n{}\n{} connections; {} requests without a route, {} malformed\n",
        routes.render(),
        backends.render(),
        proxy.connections,
        proxy.unrouted,
        proxy.bad_requests
    )
}

fn total(route: &RouteMetrics) -> u64 {
    route.classes.iter().sum()
}

/// Per second; `-` without an earlier count, or when counting began anew.
fn rate(before: Option<u64>, now: u64, seconds: f64) -> String {
    match before.and_then(|before| now.checked_sub(before)).filter(|_| seconds > 0.0) {
        Some(more) => format!("{:.1}", more as f64 / seconds),
        None => "-".to_owned(),
    }
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", part as f64 * 100.0 / whole as f64) }
}

fn state(backend: &BackendMetrics) -> String {
    let words = [
        (backend.draining, "draining"),
        (!backend.ready, "not ready"),
        (backend.ejected, "ejected"),
        (backend.breaker == BreakerState::Open, "breaker open"),
        (backend.breaker == BreakerState::HalfOpen, "breaker half open"),
    ];
    let said: Vec<&str> = words.into_iter().filter_map(|(holds, word)| holds.then_some(word)).collect();
    if said.is_empty() { "ready".to_owned() } else { said.join(", ") }
}

fn percentiles(histogram: &Histogram) -> [String; 3] {
    [50, 95, 99].map(|percent| match quantile(histogram, percent) {
        Some(Quantile::About(micros)) => short(micros),
        Some(Quantile::Over(micros)) => format!(">{}", short(micros)),
        None => "-".to_owned(),
    })
}

#[derive(Debug, PartialEq)]
enum Quantile {
    /// Microseconds.
    About(u64),
    /// Slower than the last bound.
    Over(u64),
}

fn quantile(histogram: &Histogram, percent: u64) -> Option<Quantile> {
    if histogram.count == 0 {
        return None;
    }
    let rank = histogram.count as f64 * percent as f64 / 100.0;
    let (mut below, mut lower) = (0, 0);
    for bucket in &histogram.buckets {
        if bucket.count as f64 >= rank && bucket.count > below {
            let inside = (rank - below as f64) / (bucket.count - below) as f64;
            return Some(Quantile::About(lower + ((bucket.le_us - lower) as f64 * inside) as u64));
        }
        (below, lower) = (bucket.count, bucket.le_us);
    }
    Some(Quantile::Over(lower))
}

/// Two or three digits: `0.45ms`, `12ms`, `1.5s`.
fn short(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2}ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{}ms", micros / 1000),
        _ => format!("{:.1}s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use coppice_api::Bucket;
    use coppice_base::{Name, Timestamp};

    use super::*;

    fn histogram(counts: &[(u64, u64)], count: u64) -> Histogram {
        let buckets = counts.iter().map(|(le_us, count)| Bucket { le_us: *le_us, count: *count }).collect();
        Histogram { buckets, sum_us: 0, count }
    }

    fn metrics(at: u64, requests: u64, failed: u64) -> Metrics {
        let name = |text| Name::new(text).unwrap();
        let duration = histogram(&[(1000, 50), (10_000, 100)], 100);
        Metrics {
            at: Timestamp(at),
            version: String::new(),
            started_at: Timestamp(0),
            apps: 1,
            containers: Vec::new(),
            proxy: Some(ProxyMetrics { unrouted: 3, ..ProxyMetrics::default() }),
            routes: vec![RouteMetrics {
                app: name("shop"),
                service: name("web"),
                route: name("site"),
                classes: [0, requests - failed, 0, 0, failed],
                aborted: 0,
                received_bytes: 0,
                sent_bytes: 2048,
                retries: 4,
                mirrored: 0,
                limited: 0,
                refused: 0,
                unavailable: 0,
                duration: duration.clone(),
            }],
            backends: vec![BackendMetrics {
                app: name("shop"),
                service: name("web"),
                instance: "web-1".to_owned(),
                address: "10.0.0.2:80".to_owned(),
                requests,
                failures: failed,
                connects: 1,
                in_flight: 2,
                ready: true,
                draining: false,
                ejected: true,
                breaker: BreakerState::Open,
                duration,
            }],
            dns: None,
            peer_tls: None,
            denied: Vec::new(),
            pairs: Vec::new(),
            services: Vec::new(),
            certificates: Vec::new(),
        }
    }

    #[test]
    fn a_percentile_lies_in_its_bucket_and_what_is_slower_than_all_is_over_the_last() {
        let even = histogram(&[(1000, 50), (10_000, 100)], 100);
        assert_eq!(quantile(&even, 50), Some(Quantile::About(1000)));
        assert_eq!(quantile(&even, 95), Some(Quantile::About(9100)));
        assert_eq!(quantile(&histogram(&[(1000, 0), (10_000, 1)], 4), 50), Some(Quantile::Over(10_000)));
        assert_eq!(quantile(&histogram(&[(1000, 0)], 0), 50), None);
        // Empty buckets below do not count as bounds of what is above them.
        assert_eq!(quantile(&histogram(&[(1000, 0), (2000, 4)], 4), 50), Some(Quantile::About(1500)));
    }

    #[test]
    fn the_table_shows_rates_shares_and_the_state_of_instances() {
        let text = text(&metrics(1000, 100, 0), &metrics(2000, 120, 30));
        let cells: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").filter(|c| !c.is_empty()).collect()).collect();
        let trimmed = |line: usize| cells[line].iter().map(|cell| cell.trim()).collect::<Vec<_>>();
        assert_eq!(
            trimmed(1),
            ["shop/web site", "120", "20.0", "25.0%", "1.00ms", "9.10ms", "9.82ms", "4", "0B / 2KiB"],
            "{text}"
        );
        assert_eq!(trimmed(4)[..4], ["shop/web-1", "120", "20.0", "25.0%"], "{text}");
        assert_eq!(trimmed(4)[7..], ["2", "ejected, breaker open"], "{text}");
        assert!(text.ends_with("0 connections; 3 requests without a route, 0 malformed\n"), "{text}");
    }

    #[test]
    fn what_went_to_a_services_address_has_a_row_of_its_own_and_its_rate() {
        let with = |at, connections| {
            let name = |text| Name::new(text).unwrap();
            let mut metrics = metrics(at, 0, 0);
            metrics.services = ["db", "web"]
                .map(|service| coppice_api::ServiceMetrics {
                    app: name("shop"),
                    service: name(service),
                    address: "10.88.128.2".to_owned(),
                    connections,
                    received_packets: 50,
                    received_bytes: 2048,
                    sent_packets: 40,
                    sent_bytes: 4096,
                })
                .into();
            only(&mut metrics, "web").unwrap();
            metrics
        };
        let text = text(&with(1000, 5), &with(3000, 9));
        let row = text.lines().find(|line| line.contains("10.88.128.2")).unwrap();
        let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["shop/web", "10.88.128.2", "9", "2.0", "50 / 40", "2KiB / 4KiB"], "{text}");
        assert_eq!(text.matches("10.88.128.2").count(), 1, "only the service asked for: {text}");
    }

    #[test]
    fn a_count_that_began_anew_has_no_rate() {
        assert_eq!(rate(Some(10), 4, 1.0), "-");
        assert_eq!(rate(None, 4, 1.0), "-");
        assert_eq!(rate(Some(1), 4, 2.0), "1.5");
    }

    #[test]
    fn one_service_is_found_by_its_name_or_with_its_app_and_another_is_missed_by_name() {
        for (service, found) in [("web", true), ("shop/web", true), ("blog/web", false), ("db", false)] {
            let mut all = metrics(1, 1, 0);
            assert_eq!(only(&mut all, service).is_ok(), found, "{service}");
            assert_eq!(all.routes.len(), usize::from(found));
        }
    }
}
