//! What a test plays on: a proxy with one route, servers behind it, and clients that speak raw bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coppice_base::Name;
use coppice_proxy::{Backend, Caller, Callers, Config, Endpoint, Listener, Proxy, Route, Routes};
use coppice_spec::RouteSpec;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn socket() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A proxy that listens on one plain port.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
}

impl Stage {
    pub(crate) fn start() -> Self {
        Self::with(|_| ())
    }

    /// `change` edits the configuration.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(vec![Listener::plain(socket())], "test-node");
        config.threads = 2;
        change(&mut config);
        let proxy = Proxy::start(config).unwrap();
        let address = proxy.addresses()[0];
        Self { proxy, address }
    }

    /// A proxy that listens nowhere yet.
    pub(crate) fn without_sockets() -> Self {
        let mut config = Config::new(Vec::new(), "test-node");
        config.threads = 2;
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { proxy: Proxy::start(config).unwrap(), address }
    }

    /// Routes everything of `example.com` to `servers`, all ready.
    pub(crate) fn serving(servers: &[SocketAddr]) -> Self {
        let stage = Self::start();
        stage.route(spec(), servers);
        stage
    }

    pub(crate) fn route(&self, spec: RouteSpec, servers: &[SocketAddr]) {
        self.proxy.update(&routes(spec, servers)).unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Sends `request` on a new connection and reads what comes until the proxy closes or nothing comes for a while.
    pub(crate) fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        read_to_end(&mut stream)
    }

    /// One GET with these header lines (each with CRLF), on a connection of its own.
    pub(crate) fn get(&self, path: &str, headers: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n{headers}\r\n");
        Answer::of(&self.exchange(request.as_bytes()))
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

pub(crate) fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset or the timeout ends it too; the test looks at what there is.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until `wanted` is seen (and maybe more).
pub(crate) fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(wanted) {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => panic!("{wanted:?} did not come, but {:?}", String::from_utf8_lossy(&all)),
            Ok(count) => all.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// An answer in text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub(crate) fn spec() -> RouteSpec {
    RouteSpec::of(name("default"), "example.com")
}

pub(crate) fn endpoint(at: usize, address: SocketAddr) -> Endpoint {
    Endpoint { name: format!("web-{at}"), address, ready: true, draining: false, fresh: false }
}

pub(crate) fn route(spec: RouteSpec) -> Route {
    Route { app: name("shop"), service: name("web"), spec, https_only: false, send_proxy: None }
}

pub(crate) fn backend(service: &str, servers: &[SocketAddr]) -> Backend {
    let instances = servers.iter().enumerate().map(|(at, address)| endpoint(at, *address)).collect();
    Backend { app: name("shop"), service: name(service), instances, fresh_percent: None }
}

pub(crate) fn routes(spec: RouteSpec, servers: &[SocketAddr]) -> Routes {
    Routes { routes: vec![route(spec)], backends: vec![backend("web", servers)] }
}

/// A policy by which every address of this machine is a container's, 127.0.0.2 that of a service which may reach all, and
/// everybody else may not reach `services`.
pub(crate) fn denying(services: &[&str]) -> Callers {
    let denied = services.iter().map(|service| (name("shop"), name(service))).collect();
    Callers {
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        hosts: vec!["127.0.0.9".parse().unwrap()],
        members: HashMap::from([("127.0.0.2".parse().unwrap(), Caller(2))]),
        denied: BTreeMap::from([(Caller::OTHER, denied)]),
    }
}

/// A server that answers each request as `answer` says, keeping connections open, and remembers what it was sent.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// `answer` gets the request (head and body) and returns the bytes to send.
    pub(crate) fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |stream, request| stream.write_all(&answer(request)).is_ok())
    }

    /// Says `text` with its length, always.
    pub(crate) fn saying(text: &str) -> Self {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes();
        Self::start(move |_| answer.clone())
    }

    /// `act` answers by itself; false closes the connection.
    pub(crate) fn scripted(act: impl Fn(&mut TcpStream, &str) -> bool + Send + Sync + 'static) -> Self {
        let listener = socket();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (act, all, count) = (Arc::new(act), Arc::clone(&seen), Arc::clone(&connections));
        // Ends with the test's process; nothing else is waiting for it.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let (act, all) = (Arc::clone(&act), Arc::clone(&all));
                std::thread::spawn(move || converse(stream, &*act, &all));
            }
        });
        Self { address, seen, connections }
    }

    /// Requests so far, head and body as they came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn converse(mut stream: TcpStream, act: &dyn Fn(&mut TcpStream, &str) -> bool, seen: &Mutex<Vec<String>>) {
    stream.set_nodelay(true).unwrap();
    let mut held = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut held) {
        seen.lock().unwrap().push(request.clone());
        if !act(&mut stream, &request) {
            return;
        }
    }
}

/// One request with its body, framed by Content-Length or chunks.
fn read_request(stream: &mut TcpStream, held: &mut Vec<u8>) -> Option<String> {
    let mut piece = [0; 16_384];
    loop {
        let text = String::from_utf8_lossy(held).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let whole = match length {
                Some(length) => Some(end + 4 + length),
                None if head.contains("transfer-encoding: chunked") => chunks_end(&text, end),
                None => Some(end + 4),
            };
            if let Some(whole) = whole.filter(|whole| *whole <= held.len()) {
                return Some(String::from_utf8_lossy(&held.drain(..whole).collect::<Vec<_>>()).into_owned());
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => held.extend_from_slice(&piece[..count]),
        }
    }
}

/// Where the chunks after the head that ends at `end` have ended, trailers and all.
fn chunks_end(text: &str, end: usize) -> Option<usize> {
    let last = end + 2 + text[end + 2..].find("\r\n0\r\n")?;
    text[last + 3..].find("\r\n\r\n").map(|at| last + 3 + at + 4)
}

/// Waits until `holds`, looking often; panics with `what` after ten seconds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let by = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < by, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
