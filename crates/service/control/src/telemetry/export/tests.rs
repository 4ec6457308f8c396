//! What is sent, read by the types that OpenTelemetry generates from its own definitions.

use std::collections::BTreeMap;
use std::time::Duration;

use coppice_base::Name;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::{span, status};
use prost::Message;

use super::*;
use crate::metrics::tests::full;

fn teller() -> Teller {
    Teller { key: "abc123".into(), host: "machine".into(), version: "1.2.3" }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |of: &KeyValue| match of.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(whole)) => whole.to_string(),
        Some(any_value::Value::BoolValue(is)) => is.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|of| (of.key.clone(), value(of))).collect()
}

fn metrics() -> Vec<Metric> {
    let sent = teller().metrics(&full()).encode_to_vec();
    let mut read = ExportMetricsServiceRequest::decode(&sent[..]).unwrap();
    let mut of = read.resource_metrics.remove(0);
    let resource = texts(&of.resource.unwrap().attributes);
    assert_eq!((resource["service.name"].as_str(), resource["service.instance.id"].as_str()), ("coppice", "abc123"));
    assert_eq!((resource["host.name"].as_str(), resource["service.version"].as_str()), ("machine", "1.2.3"));
    of.scope_metrics.remove(0).metrics
}

#[test]
fn every_metric_has_the_name_kind_and_values_that_a_prometheus_reads() {
    let sent: BTreeMap<String, Metric> = metrics().into_iter().map(|metric| (metric.name.clone(), metric)).collect();
    let families = crate::metrics::families(&full());
    assert_eq!(sent.len(), families.len());
    let full = full();
    for family in families {
        let metric = &sent[family.name];
        assert_eq!(metric.description, family.help);
        let numbers = |points: &[opentelemetry_proto::tonic::metrics::v1::NumberDataPoint]| -> Vec<String> {
            let value = |value: &number_data_point::Value| match value {
                number_data_point::Value::AsInt(whole) => whole.to_string(),
                number_data_point::Value::AsDouble(fraction) => fraction.to_string(),
            };
            points.iter().map(|point| value(point.value.as_ref().unwrap())).collect()
        };
        let values =
            |samples: &[(Labels, Value)]| samples.iter().map(|(_, value)| value.to_string()).collect::<Vec<_>>();
        match (metric.data.as_ref().unwrap(), &family.samples) {
            (metric::Data::Gauge(gauge), Samples::Gauge(samples)) => {
                assert_eq!(numbers(&gauge.data_points), values(samples), "{}", family.name);
            }
            (metric::Data::Sum(sum), Samples::Counter(samples)) => {
                assert!(sum.is_monotonic, "{}", family.name);
                assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
                assert_eq!(numbers(&sum.data_points), values(samples), "{}", family.name);
                assert!(sum.data_points.iter().all(|point| point.time_unix_nano == full.at.0 * 1_000_000));
            }
            (metric::Data::Histogram(all), Samples::Histogram(samples)) => {
                assert_eq!(all.aggregation_temporality(), AggregationTemporality::Cumulative);
                for (point, (labels, histogram)) in all.data_points.iter().zip(samples) {
                    assert_eq!(point.count, histogram.count);
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "each bucket alone");
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    assert_eq!(point.explicit_bounds[0], histogram.buckets[0].le_us as f64 / 1e6, "seconds");
                    assert_eq!(texts(&point.attributes).len(), labels.len());
                }
            }
            (data, samples) => panic!("{}: {data:?} for {samples:?}", family.name),
        }
    }
    assert_eq!(sent["coppice_container_memory_bytes"].unit, "By");
    assert_eq!(sent["coppice_container_cpu_seconds_total"].unit, "s");
    assert_eq!(sent["coppice_apps"].unit, "1");
}

#[test]
fn a_counter_that_is_older_than_the_daemon_does_not_say_that_it_began_with_it() {
    let start = |metric: &Metric, labels: &[(&str, &str)]| {
        let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{}", metric.name) };
        let is_it = |attributes: &[KeyValue]| {
            let texts = texts(attributes);
            labels.iter().all(|(key, value)| texts.get(*key).is_some_and(|text| text == value))
        };
        let found = sum.data_points.iter().find(|point| is_it(&point.attributes));
        found.unwrap_or_else(|| panic!("{} {labels:?}", metric.name)).start_time_unix_nano
    };
    let sent: BTreeMap<String, Metric> = metrics().into_iter().map(|metric| (metric.name.clone(), metric)).collect();
    let daemon = full().started_at.0 * 1_000_000;
    for (name, labels, expected) in [
        ("coppice_dns_queries_total", [("transport", "udp")].as_slice(), daemon),
        ("coppice_dns_queries_total", &[("transport", "tcp")], daemon),
        ("coppice_dns_queries_total", &[("transport", "kernel")], 0),
        ("coppice_dns_answered_total", &[], 0),
        ("coppice_dns_refused_total", &[], daemon),
        ("coppice_pair_packets_total", &[], 0),
        ("coppice_pair_connections_total", &[], 0),
        ("coppice_service_received_bytes_total", &[], 0),
        ("coppice_policy_dropped_packets_total", &[], 0),
        ("coppice_policy_refused_requests_total", &[], daemon),
        ("coppice_container_cpu_seconds_total", &[], 0),
        ("coppice_route_requests_total", &[], daemon),
        ("coppice_peer_strays_total", &[], daemon),
    ] {
        assert_eq!(start(&sent[name], labels), expected, "{name} {labels:?}");
    }
}

#[test]
fn a_span_has_its_trace_its_parent_and_the_words_of_the_conventions() {
    let name = |text| Name::new(text).unwrap();
    let span = Span {
        trace_id: [1; 16],
        span_id: [2; 8],
        parent: Some([3; 8]),
        trace_state: "a=b".into(),
        started_at_ns: 1_700_000_000_000_000_000,
        took: Duration::from_millis(5),
        method: "GET".into(),
        path: "/cart".into(),
        host: "shop.example".into(),
        client: "192.0.2.7".parse().unwrap(),
        secure: true,
        version: "2",
        status: 503,
        route: Some((name("shop"), name("web"), name("site"))),
        instance: Some("web-1".into()),
        sent: 10,
        received: 20,
        aborted: false,
    };
    let bare = Span { parent: None, route: None, instance: None, status: 0, aborted: true, ..span.clone() };
    let sent = teller().traces(&[span, bare]).encode_to_vec();
    let mut read = ExportTraceServiceRequest::decode(&sent[..]).unwrap();
    let spans = read.resource_spans.remove(0).scope_spans.remove(0).spans;
    let [first, second] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(
        (&first.trace_id[..], &first.span_id[..], &first.parent_span_id[..]),
        (&[1; 16][..], &[2; 8][..], &[3; 8][..])
    );
    assert_eq!((first.trace_state.as_str(), first.flags), ("a=b", 1));
    assert_eq!((first.name.as_str(), first.kind()), ("GET shop/web/site", span::SpanKind::Server));
    assert_eq!(first.end_time_unix_nano - first.start_time_unix_nano, 5_000_000);
    assert_eq!(first.status.as_ref().unwrap().code(), status::StatusCode::Error);
    let words = texts(&first.attributes);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.scheme", "https"),
        ("url.path", "/cart"),
        ("server.address", "shop.example"),
        ("client.address", "192.0.2.7"),
        ("http.response.status_code", "503"),
        ("network.protocol.version", "2"),
        ("http.request.body.size", "20"),
        ("http.response.body.size", "10"),
        ("coppice.app", "shop"),
        ("coppice.service", "web"),
        ("coppice.route", "site"),
        ("coppice.instance", "web-1"),
    ] {
        assert_eq!(words[key], value, "{key}");
    }
    assert!(second.parent_span_id.is_empty() && second.status.is_none());
    let words = texts(&second.attributes);
    assert!(!words.contains_key("http.response.status_code") && words["coppice.aborted"] == "true");
}
