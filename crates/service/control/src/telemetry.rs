//! Export by OTLP over HTTP with protobuf: the node's metrics every so often, and spans of requests in batches.
//!
//! ```text
//! proxy ─ spans ─▶ queue with an end ─▶ batches ─▶ POST /v1/traces     tried again with backoff, then given up
//! node  ─ metrics, every interval ────────────────▶ POST /v1/metrics    cumulative: the next one says it all
//! ```
//!
//! Nothing waits for a collector: where there is none, or a slow one, the queue fills and spans are dropped and counted
//! (`coppice_proxy_spans_dropped_total`). The log says once that it does not take what is sent, and once that it does again.

mod export;
mod message;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coppice_acme::{Https, HttpsError};
use coppice_base::{Random, SystemRandom};
use coppice_node::{Node, TelemetrySettings};
use coppice_proxy::{Span, SpanSource};
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use prost::Message;
use tokio::time::Instant;

use self::export::Teller;

/// A collector that takes longer is as good as none.
const ANSWER: Duration = Duration::from_secs(10);
/// Spans in one request.
const BATCH: usize = 512;
/// How long spans are gathered for a batch.
const GATHERING: Duration = Duration::from_secs(1);
/// Pauses between tries of one batch: the first, doubled until the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LONGEST: Duration = Duration::from_secs(15);
/// Then it is given up: newer spans say more.
const TRIES: u32 = 8;

/// Why a collector did not take something.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Unsent(#[from] HttpsError),
    #[error("it answers {0}")]
    Busy(StatusCode),
    /// The same would be refused again.
    #[error("it answers {0}: check telemetry.endpoint and telemetry.headers in node.toml")]
    Refused(StatusCode),
}

/// Sends until the node is stopped.
pub(crate) async fn run(node: Arc<Node>, settings: TelemetrySettings) {
    let https = match Https::new(&[], ANSWER) {
        Ok(https) => https.with_plain(),
        Err(error) => return tracing::error!(%error, "no telemetry is exported"),
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let teller = Teller { key: node.root().key(), host: host.trim().to_owned(), version: env!("CARGO_PKG_VERSION") };
    tracing::info!(endpoint = %settings.endpoint, "telemetry is exported");
    let collector = Collector { https, settings, lost: Lost::default() };
    let spans = node.take_spans();
    tokio::select! {
        () = metrics(&node, &teller, &collector) => {}
        () = traces(spans, &teller, &collector) => {}
        () = node.stopped() => {}
    }
}

async fn metrics(node: &Arc<Node>, teller: &Teller, collector: &Collector) {
    let mut next = tokio::time::interval(collector.settings.interval);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        let node = node.clone();
        // Cgroups are read on a thread that may wait.
        let Ok(metrics) = tokio::task::spawn_blocking(move || node.metrics()).await else { continue };
        // The next one says it all.
        let _ = collector.send(Kind::Metrics, teller.metrics(&metrics).encode_to_vec()).await;
    }
}

/// Without a source it has nothing to do, for ever.
async fn traces(spans: Option<SpanSource>, teller: &Teller, collector: &Collector) {
    let Some(mut spans) = spans else { return std::future::pending().await };
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        if spans.take(&mut batch, BATCH).await == 0 {
            return std::future::pending().await;
        }
        let until = Instant::now() + GATHERING;
        while batch.len() < BATCH {
            let most = BATCH - batch.len();
            if !matches!(tokio::time::timeout_at(until, spans.take(&mut batch, most)).await, Ok(1..)) {
                break;
            }
        }
        if !deliver(&batch, teller, collector).await {
            spans.lost(batch.len() as u64);
        }
        batch.clear();
    }
}

/// Whether the collector took them.
async fn deliver(batch: &[Span], teller: &Teller, collector: &Collector) -> bool {
    let body = Bytes::from(teller.traces(batch).encode_to_vec());
    let mut pause = PAUSE_FIRST;
    for _ in 0..TRIES {
        match collector.send(Kind::Traces, body.clone()).await {
            Ok(()) => return true,
            Err(ExportError::Refused(_)) => return false,
            Err(ExportError::Unsent(_) | ExportError::Busy(_)) => {}
        }
        // Nodes that lost their collector at one moment do not come back at one.
        let spread = SystemRandom.below(u64::try_from(pause.as_millis() / 2).unwrap_or(1));
        tokio::time::sleep(pause + Duration::from_millis(spread)).await;
        pause = PAUSE_LONGEST.min(pause * 2);
    }
    false
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Metrics,
    Traces,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Traces => "/v1/traces",
        }
    }
}

/// What a collector does not take now. Both are one thing to say, unless it takes one of them.
#[derive(Default)]
struct Lost([AtomicBool; 2]);

/// What is new about that.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost,
    Found,
    None,
}

impl Lost {
    fn hear(&self, kind: Kind, taken: bool) -> News {
        let (own, other) = match kind {
            Kind::Metrics => (&self.0[0], &self.0[1]),
            Kind::Traces => (&self.0[1], &self.0[0]),
        };
        let was_lost = own.swap(!taken, Ordering::Relaxed);
        match (was_lost, taken) {
            _ if other.load(Ordering::Relaxed) => News::None,
            (false, false) => News::Lost,
            (true, true) => News::Found,
            _ => News::None,
        }
    }
}

struct Collector {
    https: Https,
    settings: TelemetrySettings,
    lost: Lost,
}

impl Collector {
    /// The log hears of what has changed.
    async fn send(&self, kind: Kind, body: impl Into<Bytes>) -> Result<(), ExportError> {
        let sent = self.post(kind, body.into()).await;
        let endpoint = self.address(kind);
        match (self.lost.hear(kind, sent.is_ok()), &sent) {
            (News::Lost, Err(error)) => {
                tracing::warn!(%endpoint, %error, "the collector of telemetry does not take it: spans wait, then are dropped and counted; this is said once, until it does")
            }
            (News::Found, _) => tracing::info!(%endpoint, "the collector of telemetry takes it again"),
            _ => {}
        }
        sent
    }

    async fn post(&self, kind: Kind, body: Bytes) -> Result<(), ExportError> {
        let mut request = Request::post(self.address(kind)).header(header::CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).expect("settings hold a URL and headers that are some");
        let status = self.https.send(request).await?.status();
        match status {
            _ if status.is_success() => Ok(()),
            // Those that OTLP says to try again (opentelemetry.io/docs/specs/otlp, "Retryable Response Codes").
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(ExportError::Busy(status)),
            _ => Err(ExportError::Refused(status)),
        }
    }

    fn address(&self, kind: Kind) -> Uri {
        let text = format!("{}{}", self.settings.endpoint.to_string().trim_end_matches('/'), kind.path());
        text.parse().expect("a path after a URL without a query is a URL")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_takes_nothing_is_told_of_once_and_one_that_takes_half_of_it_is_too() {
        let lost = Lost::default();
        let (metrics, traces) = (Kind::Metrics, Kind::Traces);
        let heard = |of: &[(Kind, bool)]| of.iter().map(|(kind, taken)| lost.hear(*kind, *taken)).collect::<Vec<_>>();
        assert_eq!(heard(&[(metrics, true), (traces, true)]), [News::None, News::None]);
        assert_eq!(heard(&[(metrics, false), (traces, false), (metrics, false)]), [News::Lost, News::None, News::None]);
        assert_eq!(heard(&[(metrics, true), (traces, true), (traces, true)]), [News::None, News::Found, News::None]);
        let half = [(traces, false), (metrics, true), (traces, false), (metrics, true), (traces, true)];
        assert_eq!(heard(&half), [News::Lost, News::None, News::None, News::None, News::Found]);
    }
}
