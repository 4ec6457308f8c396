//! HTTP/2 with programs people use: curl, nghttp, and TLS with ALPN.

use std::process::Command;
use std::sync::Arc;

use coppice_proxy::{Listener, Routes, server_config};
use coppice_spec::BackendProtocol;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::stage::{Server, Stage, backend, name, route, socket, spec, wait_until};

fn curl(stage: &Stage, arguments: &[&str]) -> String {
    curl_at(&format!("http://example.com:{}/", stage.address.port()), stage, arguments)
}

fn curl_at(url: &str, stage: &Stage, arguments: &[&str]) -> String {
    let ports: Vec<_> =
        stage.proxy.addresses().iter().map(|at| format!("example.com:{}:127.0.0.1", at.port())).collect();
    let mut command = Command::new("curl");
    command.args(["-sS", "-m", "10"]).args(arguments);
    for port in &ports {
        command.args(["--resolve", port]);
    }
    let output = command.arg(url).output().expect("curl is installed on every machine that runs these tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_gets_an_answer_by_prior_knowledge_by_upgrade_and_in_plain_http1() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let write = ["-w", " %{http_version} %{http_code}"];
    assert_eq!(curl(&stage, &[&["--http2-prior-knowledge"][..], &write].concat()), "hello 2 200");
    assert_eq!(curl(&stage, &[&["--http2"][..], &write].concat()), "hello 2 200");
    assert_eq!(curl(&stage, &[&["--http1.1"][..], &write].concat()), "hello 1.1 200");
    assert!(server.seen().iter().all(|seen| !seen.to_ascii_lowercase().contains("upgrade")));
}

#[test]
fn bodies_go_up_and_come_down_over_http2() {
    let server = Server::start(|request| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        let body = if request.contains("chunked") { body.replace("\r\n", "") } else { body.to_owned() };
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let stage = Stage::serving(&[server.address]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "x".repeat(3_000_000)).unwrap();
    let upload = format!("@{}", file.path().display());
    let back = curl(&stage, &["--http2-prior-knowledge", "--data-binary", &upload]);
    assert_eq!(back.len(), 3_000_000);
}

#[test]
fn several_requests_of_one_http2_connection_run_at_once() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let url = format!("http://{}/", stage.address);
    let output = Command::new("nghttp")
        .args(["-n", "-m", "20", "-s", "--header=:authority: example.com"])
        .arg(&url)
        .output()
        .expect("nghttp is installed: apt-get install nghttp2-client");
    assert!(output.status.success());
    assert_eq!(server.seen().len(), 20);
    assert_eq!(stage.proxy.metrics().accepted, 1);
}

#[test]
fn an_http1_client_reaches_an_instance_that_speaks_only_http2() {
    // The instance is another proxy: whoever speaks HTTP/2 by prior knowledge is good enough.
    let server = Server::saying("hello");
    let inner = Stage::with(|config| config.node = "inner".to_owned());
    inner.route(spec(), &[server.address]);
    let stage = Stage::start();
    let mut spec = spec();
    spec.protocol = BackendProtocol::H2c;
    stage.route(spec, &[inner.address]);
    for _ in 0..20 {
        let answer = stage.get("/a", "");
        assert_eq!((answer.status, answer.body.contains("hello")), (200, true));
    }
    // One for each thread at most.
    assert!(inner.proxy.metrics().accepted <= 2);
    let post = "POST / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndata";
    assert!(stage.exchange(post.as_bytes()).contains("hello"));
    assert!(server.seen().last().unwrap().ends_with("\r\n\r\ndata"));
}

#[test]
fn a_mirror_that_speaks_only_http2_sees_copies_with_their_bodies() {
    // Both instances are proxies, each before a server that remembers what it was sent.
    let [(web, seen_by_web), (shadow, seen_by_shadow)] = ["web", "shadow"].map(|text| {
        let server = Server::saying(text);
        let inner = Stage::with(|config| config.node = format!("before-{text}"));
        inner.route(spec(), &[server.address]);
        (inner, server)
    });
    let stage = Stage::start();
    let mut spec = spec();
    (spec.protocol, spec.mirror) = (BackendProtocol::H2c, Some(name("shadow")));
    let backends = vec![backend("web", &[web.address]), backend("shadow", &[shadow.address])];
    stage.proxy.update(&Routes { routes: vec![route(spec)], backends }).unwrap();
    for _ in 0..10 {
        assert_eq!(stage.get("/a", "").status, 200);
    }
    let post = "POST /p HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndata";
    assert!(stage.exchange(post.as_bytes()).contains("web"));
    wait_until("the mirror got no copies", || seen_by_shadow.seen().len() == 11);
    assert_eq!(seen_by_web.seen().len(), 11);
    let copy = seen_by_shadow.seen().into_iter().find(|seen| seen.starts_with("POST /p ")).unwrap();
    assert!(copy.contains("host: example.com\r\n") && copy.ends_with("\r\n\r\ndata"), "{copy}");
}

/// An instance that ends each connection after three answers, as gRPC servers do that limit a connection's age.
async fn leaving_often() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut answered = 0;
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut body = request.into_body();
                    tokio::spawn(async move {
                        while let Some(Ok(piece)) = body.data().await {
                            body.flow_control().release_capacity(piece.len()).unwrap();
                        }
                        respond.send_response(http::Response::new(()), true).unwrap();
                    });
                    answered += 1;
                    if answered == 3 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_ends_its_connections_gracefully_fails_no_request_with_a_body() {
    let address = leaving_often().await;
    let stage = Stage::start();
    let mut spec = spec();
    spec.protocol = BackendProtocol::H2c;
    stage.route(spec, &[address]);
    let statuses = tokio::task::spawn_blocking(move || {
        let post = b"POST / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndata";
        let ask = |_| crate::stage::Answer::of(&stage.exchange(post)).status;
        let statuses: Vec<u16> = (0..60).map(ask).collect();
        (statuses, stage.proxy.metrics().backends[0].failures)
    });
    assert_eq!(statuses.await.unwrap(), (vec![200; 60], 0));
}

#[derive(Debug)]
struct ByName(Arc<CertifiedKey>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        (hello.server_name() == Some("example.com")).then(|| Arc::clone(&self.0))
    }
}

#[test]
fn tls_offers_http2_and_http1_and_knows_no_other_name() {
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certified = CertifiedKey::new(vec![made.cert.der().clone()], key);
    let settings = server_config(Arc::new(ByName(Arc::new(certified)))).unwrap();
    let server = Server::saying("hello");
    let stage = Stage::with(|config| {
        config.tls = Some(Arc::new(Arc::new(settings)));
        config.listeners.push(Listener::tls(socket()));
    });
    stage.route(spec(), &[server.address]);
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), made.cert.pem()).unwrap();
    let trusted = authority.path().to_str().unwrap();
    let port = stage.proxy.addresses()[1].port();
    let url = format!("https://example.com:{port}/");
    let asks = |version| curl_at(&url, &stage, &["--cacert", trusted, version, "-w", " %{http_version}"]);
    assert_eq!(asks("--http2"), "hello 2");
    assert_eq!(asks("--http1.1"), "hello 1.1");
    assert!(server.seen().iter().all(|seen| seen.contains("x-forwarded-proto: https\r\n")));
    let other = Command::new("curl")
        .args(["-sS", "-k", "-m", "10", "--resolve", &format!("other.com:{port}:127.0.0.1")])
        .arg(format!("https://other.com:{port}/"))
        .output()
        .unwrap();
    assert!(!other.status.success());
    // The client has its alert before the proxy counts.
    wait_until("a failed handshake was never counted", || stage.proxy.metrics().tls_handshake_failures == 1);
    assert_eq!(stage.proxy.metrics().tls_handshakes, 2);
}
