//! `[telemetry]`: metrics and spans by OTLP, to a collector that the test runs in the node's network. It reads them by the
//! types that OpenTelemetry makes of its own definitions.

mod node;
mod project;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use node::{Node, Output};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use project::{Project, wait_for, wait_until};
use prost::Message;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const SITE: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo -n page > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.http_routes.site]
host = "site.example.com"
"#;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// What a collector was sent.
#[derive(Default)]
struct Got {
    metrics: Vec<Metric>,
    spans: Vec<Span>,
    /// Of the last request, by lower-case name.
    headers: BTreeMap<String, String>,
    requests: u64,
}

/// How a collector behaves.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// Takes connections and answers nothing.
    Hangs,
    /// 503.
    Busy,
}

struct Collector {
    got: Arc<Mutex<Got>>,
    mood: Arc<Mutex<Mood>>,
    /// Connections that wait for an answer.
    held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Collector {
    /// Listens on port 4318 of the node's own 127.0.0.1.
    fn start(node: &Node, mood: Mood) -> Self {
        let network = File::open(node.network()).unwrap();
        let bound = std::thread::spawn(move || {
            // A thread of its own, which ends in there; the socket stays.
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind("127.0.0.1:4318").unwrap()
        });
        let listener = bound.join().unwrap();
        let collector = Self { got: Arc::default(), mood: Arc::new(Mutex::new(mood)), held: Arc::default() };
        let (got, mood, held) = (collector.got.clone(), collector.mood.clone(), collector.held.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let now = *mood.lock().unwrap();
                if now == Mood::Hangs {
                    held.lock().unwrap().push(stream);
                } else {
                    take(stream, &got, now);
                }
            }
        });
        collector
    }

    fn see<T>(&self, look: impl FnOnce(&Got) -> T) -> T {
        look(&self.got.lock().unwrap())
    }
}

/// One request of a connection, which is closed after.
fn take(stream: TcpStream, got: &Mutex<Got>, mood: Mood) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let status = if mood == Mood::Busy { "503 Service Unavailable" } else { "200 OK" };
    let mut got = got.lock().unwrap();
    got.requests += 1;
    got.headers = headers;
    if mood == Mood::Well {
        match lines[0].as_str() {
            "POST /v1/metrics HTTP/1.1" => {
                let sent = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
                let scopes = sent.resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
                got.metrics = scopes.flat_map(|scope| scope.metrics).collect();
            }
            "POST /v1/traces HTTP/1.1" => {
                let sent = ExportTraceServiceRequest::decode(&body[..]).unwrap();
                let scopes = sent.resource_spans.into_iter().flat_map(|of| of.scope_spans);
                got.spans.extend(scopes.flat_map(|scope| scope.spans));
            }
            other => panic!("nobody asks for {other}"),
        }
    }
    drop(got);
    let _ = write!(reader.into_inner(), "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

fn node(more: &str) -> Node {
    let node = Node::with_settings(&format!(
        "[telemetry]\nendpoint = \"http://127.0.0.1:4318\"\ninterval_secs = 1\nheaders = {{ x-key = \"secret\" }}\n{more}"
    ));
    node.busybox_image();
    node
}

/// A request through the proxy; its status.
fn ask(node: &Node, args: &[&str]) -> String {
    let mut command = node.inside("curl");
    command.args(["-sS", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: site.example.com"]);
    command.args(args).arg("http://127.0.0.1/cart?token=secret");
    Output::of(command).succeeded().stdout
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|of| of.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(whole) => whole.to_string(),
        other => panic!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log(node: &Node) -> String {
    std::fs::read_to_string(node.see(&node.root().join("log/node.log"))).unwrap()
}

#[test]
fn a_collector_gets_the_metrics_and_a_span_of_the_trace_that_the_caller_began() {
    let node = node("sample = 0.0\n");
    let collector = Collector::start(&node, Mood::Well);
    let site = Project::new(&node, "site", SITE);
    site.up();
    assert_eq!(ask(&node, &["-H", &format!("traceparent: 00-{TRACE}-{CALLER}-01")]), "404");
    assert_eq!(ask(&node, &[]), "404", "of a trace that nobody keeps");
    let span = wait_for("a span came", || collector.see(|got| got.spans.first().cloned()));
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, CALLER));
    assert_eq!(span.name, "GET site/web/site");
    for (key, value) in [
        ("url.path", "/cart"),
        ("http.response.status_code", "404"),
        ("coppice.instance", "web-1"),
        ("server.address", "site.example.com"),
    ] {
        assert_eq!(text(&span.attributes, key).as_deref(), Some(value), "{span:?}");
    }
    assert!(!format!("{span:?}").contains("secret"), "what a query has is nobody's business");

    // The metrics are those that a Prometheus reads.
    let requests = |got: &Got| -> Option<i64> {
        let metric = got.metrics.iter().find(|metric| metric.name == "coppice_route_requests_total")?;
        let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        assert!(sum.is_monotonic);
        let wanted = [("app", "site"), ("service", "web"), ("route", "site"), ("class", "4xx")];
        let is_it =
            |attributes: &[KeyValue]| wanted.iter().all(|(key, value)| text(attributes, key).as_deref() == Some(value));
        let point = sum.data_points.iter().find(|point| is_it(&point.attributes))?;
        match point.value.as_ref()? {
            number_data_point::Value::AsInt(count) => Some(*count),
            number_data_point::Value::AsDouble(_) => panic!("{point:?}"),
        }
    };
    wait_until("both requests are counted", || collector.see(requests) == Some(2));
    let names: Vec<String> = collector.see(|got| got.metrics.iter().map(|metric| metric.name.clone()).collect());
    let page = node.ok(["metrics", "--prometheus"]);
    let of_page: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(names, of_page);
    collector.see(|got| {
        assert_eq!(got.headers["x-key"], "secret");
        assert_eq!(got.headers["content-type"], "application/x-protobuf");
        assert_eq!(got.spans.len(), 1, "{:?}", got.spans);
    });
}

#[test]
fn a_collector_that_hangs_or_is_not_there_costs_no_request_and_is_told_of_once() {
    let node = node("");
    let site = Project::new(&node, "site", SITE);
    site.up();
    // Nobody listens.
    for _ in 0..5 {
        assert_eq!(ask(&node, &[]), "404");
    }
    wait_until("the log says so", || log(&node).contains("does not take it"));
    // One that takes connections and says nothing; requests are answered all the same.
    let collector = Collector::start(&node, Mood::Hangs);
    wait_until("something is sent and waits", || !collector.held.lock().unwrap().is_empty());
    for _ in 0..5 {
        assert_eq!(ask(&node, &[]), "404");
    }
    *collector.mood.lock().unwrap() = Mood::Busy;
    collector.held.lock().unwrap().clear();
    wait_until("it was asked again", || collector.see(|got| got.requests > 1));
    assert_eq!(log(&node).matches("does not take it").count(), 1, "{}", log(&node));

    // Back again, it gets what waited: nothing was lost meanwhile.
    *collector.mood.lock().unwrap() = Mood::Well;
    wait_until("all spans came", || collector.see(|got| got.spans.len()) == 10);
    wait_until("the log says so", || log(&node).contains("takes it again"));
    let dropped = "coppice_proxy_spans_dropped_total 0";
    assert!(node.ok(["metrics", "--prometheus"]).contains(dropped));
}

#[test]
fn without_telemetry_nothing_is_sent_and_a_wrong_one_is_bad_input() {
    let node = Node::with_busybox();
    let collector = Collector::start(&node, Mood::Well);
    let site = Project::new(&node, "site", SITE);
    site.up();
    assert_eq!(ask(&node, &["-H", &format!("traceparent: 00-{TRACE}-{CALLER}-01")]), "404");
    assert!(!node.ok(["metrics", "--prometheus"]).contains("spans_dropped"));
    assert_eq!(collector.see(|got| got.requests), 0);

    let wrong = Node::with_settings("[telemetry]\nendpoint = \"collector:4318\"\n");
    wrong.coppice(["ps"]).ended_with(2).complained("http://HOST:4318");
}
