//! Spans: what a trace is told of each request, for whoever collects traces.
//!
//! A span is made when its request has ended, and only of traces that are kept (W3C's sampled flag; for traces that begin
//! here, a share of them). It is put into a queue with an end: where nobody takes spans as fast as they come, they are
//! dropped and counted, and requests go on.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coppice_base::{Name, SystemClock};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::access_log::Outcome;
use crate::headers::Known;
use crate::identity::{self, TRACEPARENT};
use crate::plan::Request;

/// Characters of a client's text that a span has.
const TEXT: usize = 1024;

/// One request, from its head to the end of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// The caller's span; `None`: the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// As it came; empty where the trace begins here.
    pub trace_state: String,
    /// Nanoseconds since 1970-01-01 UTC.
    pub started_at_ns: u64,
    pub took: Duration,
    pub method: String,
    /// Without its query, which may have secrets in it.
    pub path: String,
    pub host: String,
    pub client: IpAddr,
    /// It came over TLS.
    pub secure: bool,
    /// `1.1` or `2`.
    pub version: &'static str,
    /// 0: the client went away before there was any.
    pub status: u16,
    /// App, service and route; `None`: no route took it.
    pub route: Option<(Name, Name, Name)>,
    /// Who answered, as in `web-1`.
    pub instance: Option<String>,
    pub sent: u64,
    pub received: u64,
    /// The client went away first.
    pub aborted: bool,
}

/// Where the proxy puts spans.
#[derive(Clone, Debug)]
pub struct SpanSink {
    to: Sender<Span>,
    dropped: Arc<AtomicU64>,
    /// Of 2³² traces that begin here, so many are kept.
    kept: u64,
}

/// Where they are taken out.
#[derive(Debug)]
pub struct SpanSource {
    from: Receiver<Span>,
    dropped: Arc<AtomicU64>,
}

/// A queue for `capacity` spans. `share` of the traces that begin here are kept, from 0 to 1.
pub fn spans(capacity: usize, share: f64) -> (SpanSink, SpanSource) {
    let (to, from) = channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    let kept = (share.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64;
    (SpanSink { to, dropped: dropped.clone(), kept }, SpanSource { from, dropped })
}

impl SpanSink {
    /// Whether a trace that begins here is kept.
    pub(crate) fn keeps(&self, random: u64) -> bool {
        (random >> 32) < self.kept
    }

    fn put(&self, span: Span) {
        if self.to.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that nobody got.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl SpanSource {
    /// Adds up to `most` spans to `into`, as soon as there is one; how many. 0: no more will come.
    pub async fn take(&mut self, into: &mut Vec<Span>, most: usize) -> usize {
        self.from.recv_many(into, most).await
    }

    /// Counts spans that were taken out and not brought where they belong.
    pub fn lost(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }
}

/// What is known of a request that is traced when it comes.
pub(crate) struct Begun {
    trace: [u8; TRACEPARENT],
    parent: Option<[u8; 8]>,
    trace_state: String,
    method: String,
    path: String,
    host: String,
    client: IpAddr,
    secure: bool,
    version: &'static str,
}

impl Begun {
    /// `trace` is what an instance is sent; `None`: it is not kept.
    pub(crate) fn of(
        request: &Request<'_>,
        known: &Known<'_>,
        client: IpAddr,
        secure: bool,
        trace: [u8; TRACEPARENT],
    ) -> Option<Box<Self>> {
        if !identity::is_sampled(&trace) {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT)]).into_owned();
        // The same trace: then the caller's span is the parent.
        let before = known.traceparent.filter(|before| before.get(3..35) == Some(&trace[3..35]));
        let path = request.target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        let host = request.authority.map(str::as_bytes).or(known.host);
        Some(Box::new(Self {
            parent: before.and_then(|before| unhex(before.get(36..52)?)),
            trace_state: before.and_then(|_| request.view.get("tracestate")).map(text).unwrap_or_default(),
            trace,
            method: request.method.to_owned(),
            path: text(path),
            host: text(host.unwrap_or_default()),
            client,
            secure,
            version: if request.is_http2 { "2" } else { "1.1" },
        }))
    }

    pub(crate) fn end(self, outcome: &Outcome<'_>, sink: &SpanSink) {
        let took = u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX);
        let (Some(trace_id), Some(span_id)) = (unhex(&self.trace[3..35]), unhex(&self.trace[36..52])) else { return };
        sink.put(Span {
            trace_id,
            span_id,
            parent: self.parent,
            trace_state: self.trace_state,
            started_at_ns: SystemClock.unix_nanos().saturating_sub(took),
            took: outcome.took,
            method: self.method,
            path: self.path,
            host: self.host,
            client: self.client,
            secure: self.secure,
            version: self.version,
            status: outcome.status,
            route: outcome.route.map(|route| (route.app.clone(), route.service.clone(), route.spec.name.clone())),
            instance: outcome.instance.map(str::to_owned),
            sent: outcome.sent,
            received: outcome.received,
            aborted: outcome.aborted,
        });
    }
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_traces_that_begin_here_is_kept() {
        for (share, lowest, highest) in [(0.0, false, false), (0.5, true, false), (1.0, true, true), (7.0, true, true)]
        {
            let (sink, _source) = spans(1, share);
            assert_eq!((sink.keeps(0), sink.keeps(u64::MAX)), (lowest, highest), "{share}");
        }
    }
}
