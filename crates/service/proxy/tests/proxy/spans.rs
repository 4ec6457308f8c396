//! Spans of requests: one for each of a trace that is kept, and none that holds a request up.

use coppice_proxy::{Span, SpanSource, spans};

use crate::stage::{Server, Stage, spec};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn traced(capacity: usize, share: f64) -> (Stage, SpanSource) {
    let (sink, source) = spans(capacity, share);
    (Stage::with(|config| config.spans = Some(sink)), source)
}

/// The next span; they come when their requests have ended, which clients may learn first.
fn next(source: &mut SpanSource) -> Span {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut taken = Vec::new();
    runtime.block_on(source.take(&mut taken, 1));
    taken.remove(0)
}

#[test]
fn a_span_goes_on_with_the_callers_trace_and_is_the_parent_of_the_instances() {
    let server = Server::saying("hello");
    let (stage, mut source) = traced(16, 0.0);
    stage.route(spec(), &[server.address]);
    let answer = stage.get("/a/b?token=secret", &format!("traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: a=b\r\n"));
    assert_eq!(answer.status, 200);
    let span = next(&mut source);
    assert_eq!((hex::encode(span.trace_id), span.parent.map(hex::encode)), (TRACE.to_owned(), Some(CALLER.to_owned())));
    assert_eq!(span.trace_state, "a=b");
    let seen = server.seen().remove(0);
    assert!(seen.contains(&format!("traceparent: 00-{TRACE}-{}-01\r\n", hex::encode(span.span_id))), "{seen}");
    assert_eq!((span.method.as_str(), span.path.as_str(), span.host.as_str()), ("GET", "/a/b", "example.com"));
    assert_eq!((span.status, span.sent, span.instance.as_deref(), span.version), (200, 5, Some("web-0"), "1.1"));
    let route = span.route.unwrap();
    assert_eq!((route.0.as_str(), route.1.as_str(), route.2.as_str()), ("shop", "web", "default"));
    assert!(span.started_at_ns > 1_600_000_000_000_000_000 && !span.aborted && !span.secure);
}

#[test]
fn a_trace_that_its_caller_does_not_keep_has_no_span_and_new_ones_are_kept_by_their_share() {
    let server = Server::saying("hello");
    let (stage, mut source) = traced(16, 1.0);
    stage.route(spec(), &[server.address]);
    stage.get("/first", &format!("traceparent: 00-{TRACE}-{CALLER}-00\r\n"));
    stage.get("/second", "");
    let span = next(&mut source);
    assert_eq!((span.path.as_str(), span.parent), ("/second", None), "the first has none");
    let seen = server.seen().remove(1);
    let sent = format!("traceparent: 00-{}-{}-01\r\n", hex::encode(span.trace_id), hex::encode(span.span_id));
    assert!(seen.contains(&sent), "{seen}");

    let (stage, mut source) = traced(16, 0.0);
    stage.route(spec(), &[server.address]);
    stage.get("/third", "");
    assert!(server.seen().remove(2).contains("-00\r\n"), "not kept, and said so");
    stage.get("/fourth", &format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n"));
    assert_eq!(next(&mut source).path, "/fourth");
}

#[test]
fn what_the_proxy_answers_itself_has_a_span_too() {
    let (stage, mut source) = traced(16, 1.0);
    assert_eq!(stage.get("/nowhere", "").status, 404);
    let span = next(&mut source);
    assert_eq!((span.status, span.route, span.instance), (404, None, None));
}

#[test]
fn where_nobody_takes_spans_they_are_dropped_and_counted_and_requests_go_on() {
    let server = Server::saying("hello");
    let (stage, mut source) = traced(2, 1.0);
    stage.route(spec(), &[server.address]);
    for _ in 0..10 {
        assert_eq!(stage.get("/", "").status, 200);
    }
    let begin = std::time::Instant::now();
    while stage.proxy.metrics().spans_dropped != Some(8) {
        assert!(begin.elapsed().as_secs() < 10, "{:?}", stage.proxy.metrics().spans_dropped);
        std::thread::yield_now();
    }
    next(&mut source);
    source.lost(1);
    assert_eq!(stage.proxy.metrics().spans_dropped, Some(9));
    assert_eq!(Stage::start().proxy.metrics().spans_dropped, None, "none are collected");
}
