//! Where metrics and spans are sent, as the operator set it. Who sends them is the control crate.
//!
//! Refused: an endpoint that is no `http://` or `https://` URL, headers that are none, and an interval of nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use coppice_proxy::{SpanSink, SpanSource};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::node::Node;

/// Spans that wait to be sent; one takes about 500 bytes.
const SPANS_WAITING: usize = 4096;

/// `[telemetry]`: export by OTLP over HTTP (protobuf). Absent: nothing is sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct TelemetrySettings {
    /// Where a collector takes OTLP; `/v1/metrics` and `/v1/traces` are added.
    pub endpoint: Uri,
    /// Sent with every request, as for an API key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Between two exports of metrics.
    pub interval: Duration,
    /// Of traces that begin at the node's proxy, this share is kept, from 0 to 1; those that a caller began are kept when
    /// the caller says so.
    pub sample: f64,
}

impl Eq for TelemetrySettings {}

/// As it stands in node.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    endpoint: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "interval_secs")]
    interval_secs: u64,
    #[serde(default = "sample")]
    sample: f64,
}

fn interval_secs() -> u64 {
    15
}

fn sample() -> f64 {
    1.0
}

impl TryFrom<Written> for TelemetrySettings {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = written.endpoint.trim_end_matches('/');
        let endpoint: Uri = text.parse().map_err(|error| format!("telemetry.endpoint {text:?} is no URL: {error}"))?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) || endpoint.host().is_none() {
            return Err(format!("telemetry.endpoint {text:?} is no URL of a collector: write http://HOST:4318"));
        }
        if endpoint.query().is_some() {
            return Err(format!("telemetry.endpoint {text:?} has a query: /v1/metrics and /v1/traces are added to it"));
        }
        let header = |(name, value): (&String, &String)| {
            let wrong = |why: String| format!("telemetry.headers: {name:?} is no header: {why}");
            let parsed = HeaderName::try_from(name.as_str()).map_err(|error| wrong(error.to_string()))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| wrong(error.to_string()))?;
            Ok::<_, String>((parsed, value))
        };
        if written.interval_secs == 0 {
            return Err("telemetry.interval_secs is 0: 1 is the least".to_owned());
        }
        if !(0.0..=1.0).contains(&written.sample) {
            return Err(format!("telemetry.sample is {}: it is a share, from 0.0 to 1.0", written.sample));
        }
        Ok(Self {
            endpoint,
            headers: written.headers.iter().map(header).collect::<Result<_, _>>()?,
            interval: Duration::from_secs(written.interval_secs),
            sample: written.sample,
        })
    }
}

/// The queue between the proxy and whoever sends its spans.
pub(crate) fn queue(settings: &TelemetrySettings) -> (SpanSink, SpanSource) {
    coppice_proxy::spans(SPANS_WAITING, settings.sample)
}

impl Node {
    /// Spans of requests through the proxy, once: `None` without `[telemetry]`, and when they were taken before.
    pub fn take_spans(&self) -> Option<SpanSource> {
        self.containers.traffic.take_spans()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TelemetrySettings, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_enough_and_the_rest_has_defaults() {
        let settings = read("endpoint = \"http://127.0.0.1:4318/\"\n").unwrap();
        assert_eq!(settings.endpoint, "http://127.0.0.1:4318");
        assert_eq!((settings.interval, settings.sample, settings.headers.len()), (Duration::from_secs(15), 1.0, 0));
        let all =
            "endpoint = \"https://otlp.example/base\"\ninterval_secs = 3\nsample = 0.25\n[headers]\nx-key = \"a\"\n";
        let settings = read(all).unwrap();
        assert_eq!((settings.interval, settings.sample), (Duration::from_secs(3), 0.25));
        assert_eq!(settings.headers[0].0.as_str(), "x-key");
    }

    #[test]
    fn what_cannot_be_is_refused_with_why() {
        let with = |more: &str| format!("endpoint = \"http://c:4318\"\n{more}");
        for (text, why) in [
            ("endpoint = \"collector:4318\"".to_owned(), "http://HOST:4318"),
            ("endpoint = \"grpc://c:4317\"".to_owned(), "http://HOST:4318"),
            ("endpoint = \"http://c/?a=b\"".to_owned(), "query"),
            ("endpoint = \"\"".to_owned(), "no URL"),
            (with("interval_secs = 0"), "1 is the least"),
            (with("sample = 2.0"), "a share"),
            (with("headers = { \"a b\" = \"c\" }"), "no header"),
            (with("headers = { a = \"b\\nc\" }"), "no header"),
            (with("intervall = 3"), "intervall"),
        ] {
            let said = read(&text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
