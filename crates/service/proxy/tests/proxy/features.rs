//! What a route can be told to do, each asked over the wire.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use coppice_proxy::{Challenges, Listener, ProxyHeader, Routes};
use coppice_spec::{PathMatch, RateLimit, RouteAction, Sticky};

use crate::stage::{
    Answer, Server, Stage, backend, connect, name, read_to_end, route, routes, socket, spec, wait_until,
};

#[test]
fn a_rewrite_replaces_the_matched_prefix() {
    let server = Server::saying("ok");
    let stage = Stage::start();
    let mut spec = spec();
    (spec.path, spec.rewrite) = (PathMatch::Prefix("/api".to_owned()), Some("/v1".to_owned()));
    stage.route(spec, &[server.address]);
    stage.get("/api/users?x=1", "");
    assert!(server.seen()[0].starts_with("GET /v1/users?x=1 HTTP/1.1\r\n"));
    assert_eq!(stage.get("/apiary", "").status, 404);
}

#[test]
fn headers_are_set_and_removed_both_ways() {
    let server =
        Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver: secret\r\nx-a: 1\r\n\r\n".to_vec());
    let stage = Stage::start();
    let mut spec = spec();
    let map = |pairs: [(&str, &str); 2]| pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    spec.request_headers = map([("x-from", "proxy"), ("x-secret", "")]);
    spec.response_headers = map([("x-served", "yes"), ("server", "")]);
    stage.route(spec, &[server.address]);
    let answer = stage.get("/", "X-Secret: 1\r\nX-From: client\r\n");
    let seen = server.seen().remove(0).to_ascii_lowercase();
    assert!(seen.contains("x-from: proxy\r\n") && !seen.contains("client") && !seen.contains("x-secret"), "{seen}");
    assert_eq!(answer.header("x-served"), Some("yes"));
    assert_eq!((answer.header("server"), answer.header("x-a")), (None, Some("1")));
}

#[test]
fn without_preserve_host_an_instance_sees_its_own_address() {
    let server = Server::saying("ok");
    let stage = Stage::start();
    let mut spec = spec();
    spec.preserve_host = false;
    stage.route(spec, &[server.address]);
    stage.get("/", "");
    assert!(server.seen()[0].contains(&format!("\r\nhost: {}\r\n", server.address)));
    assert!(server.seen()[0].contains("\r\nx-forwarded-host: example.com\r\n"));
}

#[test]
fn a_redirect_and_a_maintenance_page_answer_instead_of_an_instance() {
    let stage = Stage::start();
    let mut moved = spec();
    moved.action = RouteAction::Redirect { to: "https://new.example.com{path}{query}".to_owned(), status: 301 };
    stage.route(moved, &[]);
    let answer = stage.get("/a?b=c", "");
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://new.example.com/a?b=c")));
    let mut closed = spec();
    closed.action = RouteAction::Maintenance { html: "<h1>Back soon</h1>".to_owned() };
    stage.route(closed, &[]);
    let answer = stage.get("/", "");
    assert_eq!((answer.status, answer.body.as_str()), (503, "<h1>Back soon</h1>"));
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn a_route_for_https_only_sends_plain_requests_there() {
    let server = Server::saying("ok");
    let stage = Stage::with(|config| config.trusted = vec!["127.0.0.0/8".parse().unwrap()]);
    let mut routes = routes(spec(), &[server.address]);
    routes.routes[0].https_only = true;
    stage.proxy.update(&routes).unwrap();
    let answer = stage.get("/a?b=c", "");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://example.com/a?b=c")));
    assert_eq!(stage.get("/", "x-forwarded-proto: https\r\n").status, 200);
}

struct Tokens;

impl Challenges for Tokens {
    fn key_authorization(&self, host: &str, token: &str) -> Option<String> {
        (host == "new.example.com" && token == "tok").then(|| "tok.thumb".to_owned())
    }
}

#[test]
fn a_challenge_of_http_01_is_answered_for_hosts_without_a_route() {
    let stage = Stage::with(|config| config.challenges = Some(Arc::new(Tokens)));
    let ask = |token: &str| {
        let path = format!("/.well-known/acme-challenge/{token}");
        let request = format!("GET {path} HTTP/1.1\r\nhost: new.example.com\r\nconnection: close\r\n\r\n");
        Answer::of(&stage.exchange(request.as_bytes()))
    };
    assert_eq!((ask("tok").status, ask("tok").body.trim()), (200, "tok.thumb"));
    assert_eq!(ask("other").status, 404);
}

#[test]
fn basic_auth_and_the_allowlist_keep_strangers_out() {
    let server = Server::saying("ok");
    let stage = Stage::start();
    let mut asked = spec();
    // SHA-256 of "secret".
    let hash = "{SHA256}2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    asked.basic_auth = BTreeMap::from([("ann".to_owned(), hash.to_owned())]);
    stage.route(asked, &[server.address]);
    let answer = stage.get("/", "");
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("basic realm="));
    assert_eq!(stage.get("/", "authorization: Basic YW5uOndyb25n\r\n").status, 401);
    assert_eq!(stage.get("/", "authorization: Basic YW5uOnNlY3JldA==\r\n").status, 200);
    assert!(!server.seen()[0].contains("authorization"), "the proxy's password went on to the instance");
    let mut listed = spec();
    listed.allow = vec!["192.0.2.0/24".parse().unwrap()];
    stage.route(listed.clone(), &[server.address]);
    assert_eq!(stage.get("/", "x-forwarded-for: 192.0.2.7\r\n").status, 403);
    listed.allow.push("127.0.0.0/8".parse().unwrap());
    stage.route(listed, &[server.address]);
    assert_eq!(stage.get("/", "").status, 200);
}

#[test]
fn a_rate_limit_answers_429_and_says_when_to_come_again() {
    let server = Server::saying("ok");
    let stage = Stage::start();
    let mut spec = spec();
    spec.rate_limit = Some(RateLimit { per_second: 1, burst: 3 });
    stage.route(spec, &[server.address]);
    let answers: Vec<_> = (0..6).map(|_| stage.get("/", "")).collect();
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 3);
    assert_eq!(answers[5].header("retry-after"), Some("1"));
}

#[test]
fn a_body_over_the_limit_is_refused_whether_or_not_its_length_was_told() {
    let server = Server::saying("ok");
    let stage = Stage::start();
    let mut spec = spec();
    spec.max_body = Some(coppice_base::Bytes(10));
    stage.route(spec, &[server.address]);
    let head = "POST / HTTP/1.1\r\nhost: example.com\r\n";
    let told = stage.exchange(format!("{head}content-length: 11\r\n\r\n12345678901").as_bytes());
    assert_eq!(Answer::of(&told).status, 413);
    let untold =
        stage.exchange(format!("{head}transfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n").as_bytes());
    assert_eq!(Answer::of(&untold).status, 413);
    let fits = stage.exchange(format!("{head}connection: close\r\ncontent-length: 10\r\n\r\n1234567890").as_bytes());
    assert_eq!(Answer::of(&fits).status, 200);
}

#[test]
fn shares_of_services_are_kept_and_a_mirror_sees_what_nobody_answers_from() {
    let (web, canary, shadow) = (Server::saying("web"), Server::saying("canary"), Server::saying("shadow"));
    let stage = Stage::start();
    let mut spec = spec();
    spec.backends = BTreeMap::from([(name("web"), 90), (name("canary"), 10)]);
    spec.mirror = Some(name("shadow"));
    let backends =
        [("web", &web), ("canary", &canary), ("shadow", &shadow)].map(|(of, server)| backend(of, &[server.address]));
    stage.proxy.update(&Routes { routes: vec![route(spec)], backends: backends.into() }).unwrap();
    let bodies: Vec<_> = (0..100).map(|_| stage.get("/", "").body).collect();
    assert_eq!(bodies.iter().filter(|body| *body == "canary").count(), 10);
    assert!(bodies.iter().all(|body| body != "shadow"));
    wait_until("the mirror got no copies", || shadow.seen().len() >= 90);
    let with_body = "POST /p HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndata";
    stage.exchange(with_body.as_bytes());
    wait_until("the mirror got no body", || shadow.seen().iter().any(|seen| seen.ends_with("\r\n\r\ndata")));
}

#[test]
fn sticky_clients_stay_by_cookie_header_or_address() {
    let servers: Vec<_> = (0..4).map(|at| Server::saying(&format!("server {at}"))).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let stage = Stage::start();
    let mut by_cookie = spec();
    by_cookie.sticky = Some(Sticky::Cookie("stay".to_owned()));
    stage.route(by_cookie, &addresses);
    let first = stage.get("/", "");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..10 {
        let again = stage.get("/", &format!("cookie: a=b; {cookie}\r\n"));
        assert_eq!((again.body.as_str(), again.header("set-cookie")), (first.body.as_str(), None));
    }
    let mut by_header = spec();
    by_header.sticky = Some(Sticky::Header("x-user".to_owned()));
    stage.route(by_header, &addresses);
    let of = |user: &str| stage.get("/", &format!("x-user: {user}\r\n")).body;
    assert!((0..10).all(|_| of("ann") == of("ann")));
    let users: std::collections::BTreeSet<_> = (0..40).map(|user| of(&user.to_string())).collect();
    assert_eq!(users.len(), 4);
    let mut by_address = spec();
    by_address.sticky = Some(Sticky::Client);
    stage.route(by_address, &addresses);
    let bodies: std::collections::BTreeSet<_> = (0..10).map(|_| stage.get("/", "").body).collect();
    assert_eq!(bodies.len(), 1);
}

#[test]
fn forwarded_fields_of_strangers_are_replaced_and_of_trusted_proxies_continued() {
    let server = Server::saying("ok");
    let lies =
        "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil\r\nforwarded: for=6.6.6.6\r\n";
    let stage = Stage::serving(&[server.address]);
    stage.get("/", lies);
    let seen = server.seen().remove(0);
    assert!(
        seen.contains("x-forwarded-for: 127.0.0.1\r\n") && !seen.contains("6.6.6.6") && !seen.contains("evil"),
        "{seen}"
    );
    let trusting = Stage::with(|config| config.trusted = vec!["127.0.0.1".parse().unwrap()]);
    trusting.route(spec(), &[server.address]);
    trusting.get("/", lies);
    let seen = server.seen().remove(1);
    for line in [
        "x-forwarded-for: 6.6.6.6, 127.0.0.1\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: evil\r\n",
        "forwarded: for=6.6.6.6, for=127.0.0.1;proto=http\r\n",
    ] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
}

#[test]
fn a_request_id_and_a_trace_go_on_or_begin_here() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let answer = stage.get("/", "");
    let id = answer.header("x-request-id").unwrap();
    assert!(id.len() == 32 && server.seen()[0].contains(&format!("x-request-id: {id}\r\n")));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let given = stage.get("/", &format!("X-Request-Id: mine-1\r\ntraceparent: {trace}\r\ntracestate: a=b\r\n"));
    assert_eq!(given.header("x-request-id"), Some("mine-1"));
    let seen = server.seen().remove(1);
    assert!(seen.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-") && seen.contains("tracestate: a=b"));
    assert!(!seen.contains("b7ad6b7169203331"), "the proxy's own span is the parent now");
    stage.get("/", "x-request-id: <script>\r\ntraceparent: nonsense\r\ntracestate: a=b\r\n");
    let seen = server.seen().remove(2);
    assert!(!seen.contains("script") && !seen.contains("nonsense") && !seen.contains("tracestate"), "{seen}");
}

#[test]
fn a_request_that_comes_round_again_is_stopped() {
    let stage = Stage::start();
    stage.route(spec(), &[stage.address]);
    assert_eq!(stage.get("/", "").status, 508);
}

#[test]
fn the_proxy_protocol_is_taken_where_configured_and_sent_where_configured() {
    let server = Server::scripted(|stream, request| {
        let told = request.split("\r\n").next().unwrap().to_owned();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{told}", told.len()).is_ok()
    });
    let stage = Stage::with(|config| {
        config.listeners = vec![Listener { socket: socket(), tls: false, proxy_protocol: true }];
    });
    stage.route(spec(), &[server.address]);
    let request = b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x10\0\0\x50";
    for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 4096 80\r\n"[..], v2] {
        let mut client = connect(stage.address);
        client.write_all(&[header, request].concat()).unwrap();
        assert_eq!(Answer::of(&read_to_end(&mut client)).status, 200);
        assert!(server.seen().last().unwrap().contains("x-forwarded-for: 192.0.2.1\r\n"));
    }
    assert_eq!(stage.exchange(request), "", "a connection without the header is closed");
    let mut sending = routes(spec(), &[server.address]);
    sending.routes[0].send_proxy = Some(ProxyHeader::V1);
    stage.proxy.update(&sending).unwrap();
    let mut client = connect(stage.address);
    client.write_all(&[b"PROXY TCP4 192.0.2.1 192.0.2.2 4096 80\r\n", &request[..]].concat()).unwrap();
    assert!(read_to_end(&mut client).ends_with("PROXY TCP4 192.0.2.1 192.0.2.2 4096 80"));
}

/// The status and body of a request without a body, by HTTP/1.1 and by HTTP/2, which must agree.
fn by_both(stage: &Stage, method: &str, host: &str, headers: &[&str]) -> (u16, String) {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("{method} / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}\r\n");
    let one = Answer::of(&stage.exchange(request.as_bytes()));
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-m", "10", "--http2-prior-knowledge", "-X", method, "-w", "\n%{http_version} %{http_code}"]);
    curl.args(["-H", &format!("host: {host}")]).args(headers.iter().flat_map(|line| ["-H", line]));
    let output = curl.arg(format!("http://{}/", stage.address)).output().expect("curl is installed");
    let two = String::from_utf8(output.stdout).unwrap();
    let (body, status) = two.rsplit_once('\n').expect("curl says the status");
    assert_eq!(status, format!("2 {}", one.status), "{method} {host} {headers:?}");
    assert_eq!(body, one.body, "{method} {host} {headers:?}");
    (one.status, one.body)
}

#[test]
fn methods_headers_and_hosts_choose_the_route_in_both_versions() {
    let stage = Stage::start();
    let wanted = |host: &str, methods: &[&str], headers: &[(&str, &str)]| {
        let mut spec = spec();
        spec.hosts = vec![host.to_owned()];
        spec.methods = methods.iter().map(|method| (*method).to_owned()).collect();
        spec.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        spec
    };
    let all = [
        ("reads", wanted("example.com", &["GET"], &[])),
        ("writes", wanted("example.com", &["POST", "PUT"], &[])),
        ("beta", wanted("example.com", &[], &[("x-beta", "yes")])),
        ("both", wanted("example.com", &["GET"], &[("x-beta", "yes"), ("x-team", "a")])),
        ("wild", wanted("*.example.com", &[], &[])),
        ("exact", wanted("api.example.com", &[], &[])),
        ("exact-reads", wanted("api.example.com", &["GET"], &[])),
    ];
    let servers: Vec<Server> = all.iter().map(|(of, _)| Server::saying(of)).collect();
    let backends = all.iter().zip(&servers).map(|((of, _), server)| backend(of, &[server.address])).collect();
    let routes = all.into_iter().map(|(of, spec)| coppice_proxy::Route { service: name(of), ..route(spec) }).collect();
    stage.proxy.update(&Routes { routes, backends }).unwrap();
    let (beta, team) = ("x-beta: yes", "x-team: a");
    for (method, host, headers, service) in [
        ("GET", "example.com", &[][..], "reads"),
        ("POST", "example.com", &[], "writes"),
        ("PUT", "example.com", &[], "writes"),
        ("GET", "example.com", &[beta], "beta"),
        ("POST", "example.com", &["X-Beta: yes"], "beta"),
        ("DELETE", "example.com", &[beta], "beta"),
        ("GET", "example.com", &[beta, team], "both"),
        ("POST", "example.com", &[beta, team], "beta"),
        ("GET", "example.com", &[team], "reads"),
        ("GET", "example.com", &["x-beta: YES"], "reads"),
        ("GET", "example.com", &["x-beta: yes, no"], "reads"),
        ("GET", "a.example.com", &[], "wild"),
        ("DELETE", "A.Example.COM:8080", &[beta], "wild"),
        ("POST", "api.example.com", &[], "exact"),
        ("GET", "api.example.com", &[], "exact-reads"),
    ] {
        assert_eq!(by_both(&stage, method, host, headers), (200, service.to_owned()), "{method} {host} {headers:?}");
    }
    let asked: usize = servers.iter().map(|server| server.seen().len()).sum();
    for (method, host, headers) in [
        ("DELETE", "example.com", &[][..]),
        ("PATCH", "example.com", &["x-beta: no"]),
        // Methods are as they are written.
        ("get", "example.com", &[]),
        ("GET", "a.b.example.com", &[]),
        ("GET", "notexample.com", &[]),
        ("GET", "*.example.com", &[]),
        ("GET", "example.com.evil.net", &[]),
    ] {
        let (status, _) = by_both(&stage, method, host, headers);
        assert!(matches!(status, 404 | 400), "{method} {host} {headers:?}: {status}");
    }
    assert_eq!(servers.iter().map(|server| server.seen().len()).sum::<usize>(), asked, "one reached an instance");
}

/// What was written to it.
#[derive(Clone, Default)]
pub(crate) struct Written(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_access_log_has_a_line_of_json_for_each_request() {
    let server = Server::saying("hello");
    let log = Written::default();
    let to = log.clone();
    let stage = Stage::with(|config| config.access_log = Some(Box::new(to)));
    stage.route(spec(), &[server.address]);
    stage.get("/a?b", "user-agent: a\"b\r\n");
    stage.get("/../x", "");
    let lines = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    wait_until("no lines were written", || lines().lines().count() == 2);
    assert!(lines().lines().all(|line| line.starts_with('{') && line.ends_with('}')));
    for part in [r#""status":200"#, r#""target":"/a?b""#, r#""route":"shop/web/default""#, r#""instance":"web-0""#] {
        assert!(lines().contains(part), "{part} in {}", lines());
    }
    assert!(lines().contains(r#""status":400"#) && lines().contains(r#""user_agent":"a\"b""#));
}

#[test]
fn metrics_count_by_route_and_instance() {
    let server = Server::start(|request| match request.contains("/bad") {
        true => b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec(),
    });
    let stage = Stage::serving(&[server.address]);
    (0..5).for_each(|_| drop(stage.get("/", "")));
    stage.get("/bad", "");
    let metrics = stage.proxy.metrics();
    let route = &metrics.routes[0];
    assert_eq!((route.classes, route.sent, route.latency.count), ([0, 5, 0, 0, 1], 25, 6));
    let backend = &metrics.backends[0];
    assert_eq!((backend.requests, backend.failures, backend.in_flight), (6, 1, 0));
    assert_eq!(metrics.accepted, 6);
}
