//! What the policy denies to callers that are containers, on every way a request takes.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use coppice_proxy::{Caller, Callers, Listener, Routes};

use crate::features::Written;
use crate::stage::{
    Answer, Server, Stage, backend, connect, denying, name, read_to_end, read_until, route, routes, socket, spec,
    wait_until,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";

/// What curl gets, from `source`: status, a space, and the body.
fn curl(stage: &Stage, source: &str, arguments: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "10", "--interface", source, "-H", "host: example.com", "-w", " %{http_code}"]);
    let output = curl.args(arguments).arg(format!("http://{}/", stage.address)).output().expect("curl is installed");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_denied_container_gets_403_and_neither_others_nor_the_host_do() {
    let server = Server::saying("hello");
    let stage = Stage::with(|config| config.callers = denying(&["web"]));
    stage.route(spec(), &[server.address]);
    // From the first request on.
    let refused = stage.get("/", "");
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("The policy of this node"), "{refused:?}");
    assert!(server.seen().is_empty());
    for version in ["--http1.1", "--http2-prior-knowledge", "--http2"] {
        for (source, status) in [("127.0.0.1", " 403"), ("127.0.0.2", "hello 200"), ("127.0.0.9", "hello 200")] {
            let got = curl(&stage, source, &[version]);
            assert!(got.ends_with(status), "{version} from {source}: {got}");
        }
    }
    let denied = stage.proxy.metrics().denied;
    assert_eq!(denied.len(), 1);
    assert_eq!((denied[0].from, denied[0].service.as_str(), denied[0].requests), (Caller::OTHER, "web", 4));
}

#[test]
fn each_request_of_a_connection_is_judged_by_the_policy_of_its_time() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let mut stream = stage.connect();
    for (services, status) in
        [(&[][..], "200"), (&["web"][..], "403"), (&["db"][..], "200"), (&["db", "web"][..], "403")]
    {
        stage.proxy.set_callers(denying(services));
        stream.write_all(GET).unwrap();
        let end = if status == "200" { "hello" } else { "service.\n" };
        let answer = read_until(&mut stream, end);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    stage.proxy.set_callers(Callers::default());
    stream.write_all(GET).unwrap();
    assert!(read_until(&mut stream, "hello").starts_with("HTTP/1.1 200 "));
}

#[test]
fn what_is_under_way_ends_with_the_policy_that_comes_to_deny_it() {
    // One has not begun to answer, the other goes on and on.
    let server = Server::scripted(|stream, request| {
        if request.starts_with("GET /silent") {
            return true;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").is_ok()
    });
    let stage = Stage::serving(&[server.address]);
    let mut silent = stage.connect();
    silent.write_all(b"GET /silent HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    let mut events = stage.connect();
    events.write_all(GET).unwrap();
    read_until(&mut events, "first");
    wait_until("the request is at the instance", || server.seen().len() == 2);
    stage.proxy.set_callers(denying(&["web"]));
    assert_eq!(Answer::of(&read_until(&mut silent, "service.\n")).status, 403);
    let rest = read_to_end(&mut events);
    assert!(!rest.contains("0\r\n\r\n"), "it ended as if it were whole: {rest:?}");
    wait_until("nothing is left there", || stage.proxy.in_flight("shop", "web", "web-0") == 0);
}

#[test]
fn of_a_routes_services_a_caller_gets_those_it_may_reach_and_a_mirror_only_if_it_may() {
    let (web, canary, shadow) = (Server::saying("web"), Server::saying("canary"), Server::saying("shadow"));
    let stage = Stage::start();
    let mut spec = spec();
    spec.backends = BTreeMap::from([(name("web"), 50), (name("canary"), 50)]);
    spec.mirror = Some(name("shadow"));
    let backends =
        [("web", &web), ("canary", &canary), ("shadow", &shadow)].map(|(name, of)| backend(name, &[of.address]));
    stage.proxy.update(&Routes { routes: vec![route(spec)], backends: backends.into() }).unwrap();
    stage.proxy.set_callers(denying(&["canary", "shadow"]));
    for _ in 0..20 {
        assert_eq!(stage.get("/", "").body, "web");
    }
    stage.proxy.set_callers(denying(&["web", "canary"]));
    assert_eq!(stage.get("/", "").status, 403);
    assert!(canary.seen().is_empty() && shadow.seen().is_empty());
    stage.proxy.set_callers(denying(&["web"]));
    assert_eq!(stage.get("/", "").body, "canary");
    wait_until("the mirror gets a copy", || shadow.seen().len() == 1);
}

#[test]
fn an_instance_that_is_denied_is_not_tried_when_another_fails() {
    let dead = socket().local_addr().unwrap();
    let canary = Server::saying("canary");
    let stage = Stage::start();
    let mut spec = spec();
    spec.backends = BTreeMap::from([(name("web"), 100), (name("canary"), 0)]);
    let backends = vec![backend("web", &[dead]), backend("canary", &[canary.address])];
    stage.proxy.update(&Routes { routes: vec![route(spec)], backends }).unwrap();
    stage.proxy.set_callers(denying(&["canary"]));
    assert_eq!(stage.get("/", "").status, 502);
    assert!(canary.seen().is_empty());
}

#[test]
fn neither_a_proxy_header_nor_a_forwarded_address_takes_a_container_for_somebody_else() {
    let server = Server::saying("hello");
    let stage = Stage::with(|config| {
        config.trusted = vec!["127.0.0.0/8".parse().unwrap()];
        config.listeners.push(Listener { socket: socket(), tls: false, proxy_protocol: true });
        config.callers = denying(&["web"]);
    });
    stage.route(spec(), &[server.address]);
    assert_eq!(stage.get("/", "x-forwarded-for: 192.0.2.1\r\n").status, 403);
    // Nor does a proxy that may speak to the service lend that to a container that may not.
    assert!(curl(&stage, "127.0.0.2", &["-H", "x-forwarded-for: 127.0.0.1"]).ends_with(" 403"));
    assert!(curl(&stage, "127.0.0.2", &["-H", "x-forwarded-for: 192.0.2.1"]).ends_with("hello 200"));
    let behind: SocketAddr = stage.proxy.addresses()[1];
    let from = |source: &str| {
        let mut stream: TcpStream = connect(behind);
        stream.write_all(format!("PROXY TCP4 {source} 127.0.0.1 9 9\r\n").as_bytes()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").unwrap();
        Answer::of(&read_to_end(&mut stream)).status
    };
    assert_eq!(from("192.0.2.1"), 403, "the far end is a container");
    let mut callers = denying(&["web"]);
    callers.hosts.push("127.0.0.1".parse().unwrap());
    stage.proxy.set_callers(callers);
    assert_eq!(from("192.0.2.1"), 200);
    assert_eq!(from("127.0.0.5"), 403, "it speaks for a container");
}

#[test]
fn a_refusal_is_in_the_access_log_with_its_route() {
    let (server, lines) = (Server::saying("hello"), Written::default());
    let to = lines.clone();
    let stage = Stage::with(|config| config.access_log = Some(Box::new(to)));
    stage.proxy.set_callers(denying(&["web"]));
    stage.proxy.update(&routes(spec(), &[server.address])).unwrap();
    assert_eq!(stage.get("/", "").status, 403);
    wait_until("the line is written", || lines.0.lock().unwrap().ends_with(b"\n"));
    let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
    assert_eq!((line["status"].as_u64(), line["route"].as_str()), (Some(403), Some("shop/web/default")));
    assert_eq!((line["client"].as_str(), line["instance"].as_str()), (Some("127.0.0.1"), None));
}

#[test]
fn redirects_are_nobodys_service() {
    let stage = Stage::start();
    let mut spec = spec();
    spec.action = coppice_spec::RouteAction::Redirect { to: "https://example.com{path}".to_owned(), status: 308 };
    stage.route(spec, &[]);
    stage.proxy.set_callers(denying(&["web"]));
    assert_eq!(stage.get("/", "").status, 308);
}

#[test]
fn a_change_of_the_policy_holds_for_the_next_request_of_every_thread() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    for _ in 0..100 {
        stage.proxy.set_callers(denying(&["web"]));
        let before = server.seen().len();
        assert_eq!(stage.get("/", "").status, 403);
        assert_eq!(server.seen().len(), before);
        stage.proxy.set_callers(denying(&[]));
        assert_eq!(stage.get("/", "").status, 200);
    }
}
