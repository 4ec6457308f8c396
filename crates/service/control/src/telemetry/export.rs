//! From what the node knows to messages of OTLP. Pure.
//!
//! Metrics have the names and labels that a Prometheus reads at `/metrics`; counters are cumulative sums since the daemon
//! began; those that are older than it say no start, which means that it is not known. Spans have the attributes of OpenTelemetry's conventions for HTTP servers, and `coppice.*` for what those have
//! no word for.

use coppice_api::Metrics;
use coppice_base::Timestamp;
use coppice_proxy::Span;

use super::message::{
    CUMULATIVE, Data, ERROR, ExportMetrics, ExportTraces, Gauge, Histogram, HistogramPoint, KeyValue, Metric, Number,
    NumberPoint, Resource, ResourceMetrics, ResourceSpans, SERVER, Scope, ScopeMetrics, ScopeSpans, SpanMessage,
    Status, Sum,
};
use crate::metrics::{Family, Labels, Samples, Value, begins_with_the_daemon, families};

/// The flag of a trace that is kept, which all are that get here.
const SAMPLED: u32 = 1;

/// OTLP's word for a start that is not known, and that of a gauge.
const UNKNOWN: u64 = 0;

/// Who it is that tells.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    /// Of the node's root: another root of this machine is another one.
    pub(super) key: String,
    pub(super) host: String,
    pub(super) version: &'static str,
}

impl Teller {
    fn resource(&self) -> Resource {
        Resource {
            attributes: vec![
                KeyValue::text("service.name", "coppice"),
                KeyValue::text("service.version", self.version),
                KeyValue::text("service.instance.id", self.key.clone()),
                KeyValue::text("host.name", self.host.clone()),
            ],
        }
    }

    fn scope(&self) -> Scope {
        Scope { name: "coppice".to_owned(), version: self.version.to_owned() }
    }

    pub(super) fn metrics(&self, metrics: &Metrics) -> ExportMetrics {
        let nanos = |at: Timestamp| at.0.saturating_mul(1_000_000);
        let (start, time) = (nanos(metrics.started_at), nanos(metrics.at));
        let metrics = families(metrics).into_iter().map(|family| metric(family, start, time)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: Some(self.scope()), metrics }];
        ExportMetrics { resource_metrics: vec![ResourceMetrics { resource: Some(self.resource()), scope_metrics }] }
    }

    pub(super) fn traces(&self, spans: &[Span]) -> ExportTraces {
        let spans = spans.iter().map(message).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(self.scope()), spans }];
        ExportTraces { resource_spans: vec![ResourceSpans { resource: Some(self.resource()), scope_spans }] }
    }
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    labels.into_iter().map(|(key, value)| KeyValue::text(key, value)).collect()
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn metric(family: Family, start_time: u64, time: u64) -> Metric {
    let unit = match family.name.trim_end_matches("_total") {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "1",
    };
    let points = |samples: Vec<(Labels, Value)>, is_counter: bool| -> Vec<NumberPoint> {
        let point = |(labels, value)| NumberPoint {
            start_time: if is_counter && begins_with_the_daemon(family.name, &labels) { start_time } else { UNKNOWN },
            attributes: attributes(labels),
            time,
            value: Some(match value {
                Value::Whole(whole) => Number::Whole(i64::try_from(whole).unwrap_or(i64::MAX)),
                Value::Seconds(micros) => Number::Fraction(seconds(micros)),
            }),
        };
        samples.into_iter().map(point).collect()
    };
    let data = match family.samples {
        Samples::Gauge(samples) => Data::Gauge(Gauge { data_points: points(samples, false) }),
        Samples::Counter(samples) => Data::Sum(Sum {
            data_points: points(samples, true),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        Samples::Histogram(samples) => {
            let point = |(labels, histogram): (Labels, coppice_api::Histogram)| {
                let mut below = 0;
                let mut counts: Vec<u64> = Vec::with_capacity(histogram.buckets.len() + 1);
                for bucket in &histogram.buckets {
                    counts.push(bucket.count.saturating_sub(below));
                    below = bucket.count;
                }
                counts.push(histogram.count.saturating_sub(below));
                HistogramPoint {
                    attributes: attributes(labels),
                    start_time,
                    time,
                    // Workers count while they are read: the buckets are what adds up.
                    count: counts.iter().sum(),
                    sum: Some(seconds(histogram.sum_us)),
                    bucket_counts: counts,
                    explicit_bounds: histogram.buckets.iter().map(|bucket| seconds(bucket.le_us)).collect(),
                }
            };
            let data_points = samples.into_iter().map(point).collect();
            Data::Histogram(Histogram { data_points, aggregation_temporality: CUMULATIVE })
        }
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
    }
}

fn message(span: &Span) -> SpanMessage {
    let mut attributes = vec![
        KeyValue::text("http.request.method", &span.method),
        KeyValue::text("url.scheme", if span.secure { "https" } else { "http" }),
        KeyValue::text("url.path", &span.path),
        KeyValue::text("server.address", &span.host),
        KeyValue::text("client.address", span.client.to_string()),
        KeyValue::text("network.protocol.version", span.version),
        KeyValue::whole("http.request.body.size", span.received),
        KeyValue::whole("http.response.body.size", span.sent),
    ];
    if span.status > 0 {
        attributes.push(KeyValue::whole("http.response.status_code", span.status.into()));
    }
    let mut name = span.method.clone();
    if let Some((app, service, route)) = &span.route {
        name = format!("{} {app}/{service}/{route}", span.method);
        attributes.push(KeyValue::text("coppice.app", app.as_str()));
        attributes.push(KeyValue::text("coppice.service", service.as_str()));
        attributes.push(KeyValue::text("coppice.route", route.as_str()));
    }
    attributes.extend(span.instance.as_ref().map(|instance| KeyValue::text("coppice.instance", instance)));
    if span.aborted {
        attributes.push(KeyValue::bool("coppice.aborted", true));
    }
    // By the conventions a server's span is an error from 500 on: a client's mistake is not the server's.
    let status = (span.status >= 500).then(|| Status { message: format!("answered {}", span.status), code: ERROR });
    let took = u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX);
    SpanMessage {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: span.trace_state.clone(),
        parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        name,
        kind: SERVER,
        start_time: span.started_at_ns,
        end_time: span.started_at_ns.saturating_add(took),
        attributes,
        status,
        flags: SAMPLED,
    }
}

#[cfg(test)]
mod tests;
