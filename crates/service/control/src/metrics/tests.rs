//! The text, read back by a strict parser of the format's own rules, and compared with the document.

use std::collections::{BTreeMap, BTreeSet};

use coppice_api::{Bucket, CertificateMetrics};
use coppice_base::{Name, Timestamp};

use super::*;

const DOCUMENT: &str = include_str!("../../../../../docs/metrics.md");

/// A name's type, help and samples: name as written, labels, value.
struct Family {
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// The format as strictly as it can be read: each name whole, once, headed by HELP and TYPE; no sample twice.
fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    let body = text.strip_suffix('\n').ok_or("the last line does not end")?;
    let mut lines = body.split('\n');
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').ok_or("HELP without words")?;
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")).map(str::to_owned));
            let kind = kind.ok_or(format!("{name}: HELP without TYPE"))?;
            if words.is_empty() || !is_name(name) || !["counter", "gauge", "histogram"].contains(&kind.as_str()) {
                return Err(format!("bad head: {line}"));
            }
            current = name.to_owned();
            if families.insert(current.clone(), Family { kind, samples: Vec::new() }).is_some() {
                return Err(format!("{name} is written twice"));
            }
            continue;
        }
        let (name, labels, value) = sample(line).ok_or(format!("not a sample: {line:?}"))?;
        let family = families.get_mut(&current).ok_or("a sample before any head")?;
        let suffix = name.strip_prefix(current.as_str()).ok_or(format!("{name} is not of {current}"))?;
        let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        if !suffixes.contains(&suffix) || !seen.insert((name.clone(), labels.clone())) {
            return Err(format!("not of its kind, or twice: {line}"));
        }
        family.samples.push((name, labels, value));
    }
    match families.iter().find(|(_, family)| family.samples.is_empty()) {
        Some((name, _)) => Err(format!("{name} has no samples")),
        None => Ok(families),
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let closed = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        same @ ('\\' | '"') => same,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            if !is_name(key) || labels.insert(key.to_owned(), value).is_some() {
                return None;
            }
            rest = &after[closed + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    is_name(name).then(|| (name.to_owned(), labels, value))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn histogram() -> Histogram {
    let buckets = vec![Bucket { le_us: 500, count: 1 }, Bucket { le_us: 2_500_000, count: 3 }];
    Histogram { buckets, sum_us: 20_001_250, count: 4 }
}

/// Something of everything that is written.
pub(crate) fn full() -> Metrics {
    let container = ContainerMetrics {
        name: "shop.web-1".to_owned(),
        app: Some("shop".to_owned()),
        workload: Some("web".to_owned()),
        state: ContainerState::Running,
        health: HealthState::Healthy,
        restarts: 2,
        cpu_usec: Some(1_500_000),
        memory_bytes: Some(4096),
        storage: Some(StorageMetrics {
            read_bytes: 8192,
            reads: 2,
            read_usec: Some(1500),
            write_bytes: 512,
            writes: 1,
            write_usec: Some(0),
        }),
    };
    let adhoc = ContainerMetrics {
        name: "odd \"one\"\\\n".to_owned(),
        app: None,
        workload: None,
        state: ContainerState::Exited,
        health: HealthState::None,
        restarts: 0,
        cpu_usec: None,
        memory_bytes: None,
        storage: None,
    };
    Metrics {
        at: Timestamp(5000),
        version: "1.2.3".to_owned(),
        started_at: Timestamp(1_500),
        apps: 1,
        containers: vec![adhoc, container],
        proxy: Some(ProxyMetrics { connections: 3, unrouted: 7, spans_dropped: Some(9), ..ProxyMetrics::default() }),
        routes: vec![RouteMetrics {
            app: name("shop"),
            service: name("web"),
            route: name("site"),
            classes: [0, 5, 0, 1, 2],
            aborted: 1,
            received_bytes: 10,
            sent_bytes: 1000,
            retries: 3,
            mirrored: 0,
            limited: 4,
            refused: 6,
            unavailable: 8,
            duration: histogram(),
        }],
        backends: vec![BackendMetrics {
            app: name("shop"),
            service: name("web"),
            instance: "web-1".to_owned(),
            address: "10.88.0.2:80".to_owned(),
            requests: 9,
            failures: 2,
            connects: 1,
            in_flight: 4,
            ready: true,
            draining: false,
            ejected: true,
            breaker: BreakerState::HalfOpen,
            duration: histogram(),
        }],
        dns: Some(DnsMetrics { udp_queries: 11, tcp_queries: 2, kernel_queries: 3, ..DnsMetrics::default() }),
        peer_tls: Some(PeerTlsMetrics {
            services: vec![PeerServiceMetrics {
                app: name("shop"),
                service: name("db"),
                connections: 2,
                handshakes: 40,
                handshake_failures: 0,
                refused: 3,
                warned: 0,
                unreachable: 1,
                certificate_made_at: Some(Timestamp(2_000)),
                certificate_ends_at: Some(Timestamp(65_000)),
                rotation_failures: 0,
            }],
            strays: 9,
            overloaded: 0,
        }),
        denied: vec![
            DeniedMetrics { from: None, to: "shop/db".to_owned(), packets: 2, requests: 0 },
            DeniedMetrics { from: Some("blog/web".to_owned()), to: "shop/db".to_owned(), packets: 12, requests: 4 },
        ],
        pairs: vec![PairMetrics {
            from: "shop/web".to_owned(),
            to: "shop/db".to_owned(),
            packets: 30,
            bytes: 4_000,
            connections: 3,
        }],
        services: vec![ServiceMetrics {
            app: name("shop"),
            service: name("db"),
            address: "10.88.128.2".to_owned(),
            connections: 5,
            received_packets: 50,
            received_bytes: 6_000,
            sent_packets: 40,
            sent_bytes: 70_000,
        }],
        certificates: vec![CertificateMetrics { domain: "shop.example.com".to_owned(), not_after: Timestamp(9_000) }],
    }
}

fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let samples = families.values().flat_map(|family| &family.samples);
    samples.into_iter().find(|(of, labels, _)| of == name && *labels == wanted).map(|(_, _, value)| *value)
}

#[test]
fn the_text_is_what_a_strict_reader_takes_and_says_what_was_counted() {
    let families = parse(&text(&full())).unwrap();
    let denied = [("from", "blog/web"), ("to", "shop/db")];
    assert_eq!(value(&families, "coppice_policy_dropped_packets_total", &denied), Some(12.0));
    assert_eq!(value(&families, "coppice_policy_refused_requests_total", &denied), Some(4.0));
    let pair = [("from", "shop/web"), ("to", "shop/db")];
    assert_eq!(value(&families, "coppice_pair_bytes_total", &pair), Some(4000.0));
    let ends = value(&families, "coppice_certificate_expiry_timestamp_seconds", &[("domain", "shop.example.com")]);
    assert_eq!(ends, Some(9.0));
    let route = [("app", "shop"), ("service", "web"), ("route", "site")];
    let with = |key, value| [&route[..], &[(key, value)]].concat();
    let at = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    assert_eq!(at("coppice_build_info", &[("version", "1.2.3")]), Some(1.0));
    assert_eq!(at("coppice_start_time_seconds", &[]), Some(1.5));
    assert_eq!(at("coppice_containers", &[("state", "running")]), Some(1.0));
    assert_eq!(at("coppice_route_requests_total", &with("class", "2xx")), Some(5.0));
    assert_eq!(at("coppice_route_requests_total", &with("class", "5xx")), Some(2.0));
    assert_eq!(at("coppice_route_sent_bytes_total", &route), Some(1000.0));
    assert_eq!(at("coppice_route_request_duration_seconds_bucket", &with("le", "0.0005")), Some(1.0));
    assert_eq!(at("coppice_route_request_duration_seconds_bucket", &with("le", "2.5")), Some(3.0));
    assert_eq!(at("coppice_route_request_duration_seconds_bucket", &with("le", "+Inf")), Some(4.0));
    assert_eq!(at("coppice_route_request_duration_seconds_sum", &route), Some(20.001_25));
    assert_eq!(at("coppice_route_request_duration_seconds_count", &route), Some(4.0));
    let web = [("app", "shop"), ("service", "web"), ("container", "shop.web-1")];
    assert_eq!(at("coppice_container_cpu_seconds_total", &web), Some(1.5));
    assert_eq!(at("coppice_container_restarts_total", &web), Some(2.0));
    let backend = [("app", "shop"), ("service", "web"), ("backend", "web-1")];
    let breaker = |state| [&backend[..], &[("state", state)]].concat();
    assert_eq!(at("coppice_backend_ejected", &backend), Some(1.0));
    assert_eq!(at("coppice_backend_breaker_state", &breaker("half_open")), Some(1.0));
    assert_eq!(at("coppice_backend_breaker_state", &breaker("open")), Some(0.0));
    assert_eq!(at("coppice_proxy_unrouted_requests_total", &[]), Some(7.0));
    assert_eq!(at("coppice_dns_queries_total", &[("transport", "tcp")]), Some(2.0));
    assert_eq!(at("coppice_dns_queries_total", &[("transport", "kernel")]), Some(3.0));
    let db = [("app", "shop"), ("service", "db")];
    assert_eq!(at("coppice_peer_refused_total", &db), Some(3.0));
    assert_eq!(at("coppice_service_connections_total", &db), Some(5.0));
    assert_eq!(at("coppice_service_received_bytes_total", &db), Some(6_000.0));
    assert_eq!(at("coppice_service_sent_packets_total", &db), Some(40.0));
    assert_eq!(at("coppice_peer_certificate_age_seconds", &db), Some(3.0));
    assert_eq!(at("coppice_peer_certificate_left_seconds", &db), Some(60.0));
    assert_eq!(at("coppice_peer_strays_total", &[]), Some(9.0));
}

#[test]
fn a_name_cannot_break_out_of_its_quotes() {
    let text = text(&full());
    assert!(text.contains(r#"{container="odd \"one\"\\\n"} 0"#), "{text}");
    let families = parse(&text).unwrap();
    assert_eq!(value(&families, "coppice_container_restarts_total", &[("container", "odd \"one\"\\\n")]), Some(0.0));
}

#[test]
fn names_end_as_their_type_and_unit_say() {
    for (name, family) in parse(&text(&full())).unwrap() {
        assert!(name.starts_with("coppice_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
        for (of, labels, value) in &family.samples {
            assert!(value.is_finite() && *value >= 0.0, "{of} {labels:?}");
            assert_eq!(labels.contains_key("le"), of.ends_with("_bucket"), "{of}");
            // Prometheus' own names for what it scrapes.
            assert!(!labels.contains_key("instance") && !labels.contains_key("job"), "{of}");
        }
    }
}

#[test]
fn what_does_not_run_is_left_out() {
    let idle = Metrics {
        containers: vec![],
        proxy: None,
        routes: vec![],
        backends: vec![],
        dns: None,
        peer_tls: None,
        denied: Vec::new(),
        pairs: Vec::new(),
        services: Vec::new(),
        certificates: Vec::new(),
        ..full()
    };
    let families = parse(&text(&idle)).unwrap();
    let names: Vec<&str> = families.keys().map(String::as_str).collect();
    assert_eq!(names, ["coppice_apps", "coppice_build_info", "coppice_containers", "coppice_start_time_seconds"]);
}

#[test]
fn the_document_lists_exactly_the_names_types_and_labels_that_are_written() {
    let written: BTreeSet<String> = parse(&text(&full()))
        .unwrap()
        .into_iter()
        .map(|(name, family)| {
            let mut labels = BTreeSet::new();
            for (_, of_sample, _) in &family.samples {
                labels.extend(of_sample.keys().filter(|key| *key != "le").cloned());
            }
            let labels: Vec<String> = labels.into_iter().collect();
            format!("{name} {} {}", family.kind, labels.join(" ")).trim_end().to_owned()
        })
        .collect();
    let documented: BTreeSet<String> = DOCUMENT
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `coppice_")?.split('|').map(|cell| cell.replace(['`', ','], ""));
            let (name, kind, labels) = (cells.next()?, cells.next()?, cells.next()?);
            let mut labels: Vec<&str> = labels.split_whitespace().collect();
            labels.sort_unstable();
            Some(format!("coppice_{} {} {}", name.trim(), kind.trim(), labels.join(" ")).trim_end().to_owned())
        })
        .collect();
    let missing: Vec<_> = written.difference(&documented).collect();
    let extra: Vec<_> = documented.difference(&written).collect();
    assert!(missing.is_empty() && extra.is_empty(), "docs/metrics.md lacks {missing:#?} and has {extra:#?}");
}

#[test]
fn the_reader_of_these_tests_refuses_what_the_format_does() {
    let head = "# HELP a b\n# TYPE a counter\n";
    for bad in [
        "a 1\n".to_owned(),
        format!("{head}a 1"),
        format!("{head}a 1\na 1\n"),
        format!("{head}a 1\n{head}a{{x=\"y\"}} 1\n"),
        format!("{head}a{{x=\"y\" 1\n"),
        format!("{head}a{{x=\"\\y\"}} 1\n"),
        format!("{head}b 1\n"),
        format!("{head}a one\n"),
        head.to_owned(),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
    assert!(parse(&format!("{head}a{{x=\"y\"}} 1\n")).is_ok());
}
