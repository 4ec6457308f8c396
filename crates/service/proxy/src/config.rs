//! What the proxy is started with.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use coppice_spec::Cidr;

use crate::callers::Callers;
use crate::spans::SpanSink;
use crate::tls::TlsSettings;

pub struct Config {
    /// Already bound and listening, so that whoever keeps the sockets (a launcher, a daemon that returns) keeps the
    /// clients in their queues too.
    pub listeners: Vec<Listener>,
    /// Threads; 0: as many as the machine has processors.
    pub threads: usize,
    pub limits: Limits,
    /// For listeners with `tls`.
    pub tls: Option<Arc<dyn TlsSettings>>,
    /// Gets a JSON object a line for each request. Lines are dropped, and counted, when it is too slow.
    pub access_log: Option<Box<dyn Write + Send>>,
    /// Gets a span for each request of a trace that is kept. Spans are dropped, and counted, when it is too slow.
    pub spans: Option<SpanSink>,
    /// Whose X-Forwarded-*, Forwarded and X-Request-Id are believed: other proxies.
    pub trusted: Vec<Cidr>,
    /// What holds from the first request on, until [`crate::Proxy::set_callers`].
    pub callers: Callers,
    /// Answers of HTTP-01.
    pub challenges: Option<Arc<dyn Challenges>>,
    /// Names this proxy in the header by which it notices its own requests; equal proxies of one cluster must differ.
    pub node: String,
}

impl Config {
    /// Every default, for `listeners`.
    pub fn new(listeners: Vec<Listener>, node: impl Into<String>) -> Self {
        Self {
            listeners,
            threads: 0,
            limits: Limits::default(),
            tls: None,
            access_log: None,
            spans: None,
            trusted: Vec::new(),
            callers: Callers::default(),
            challenges: None,
            node: node.into(),
        }
    }
}

/// One port.
pub struct Listener {
    pub socket: TcpListener,
    pub tls: bool,
    /// Connections begin with a PROXY protocol header (version 1 or 2), else they are closed. Only for ports that nobody
    /// but the load balancer in front reaches: the header is believed.
    pub proxy_protocol: bool,
}

impl Listener {
    pub fn plain(socket: TcpListener) -> Self {
        Self { socket, tls: false, proxy_protocol: false }
    }

    pub fn tls(socket: TcpListener) -> Self {
        Self { socket, tls: true, proxy_protocol: false }
    }
}

/// Answers `/.well-known/acme-challenge/<token>` (RFC 8555, 8.3) before any route does.
pub trait Challenges: Send + Sync {
    /// The key authorization of `token` for `host`, if an order waits for it. Called on the request's path: no waiting.
    fn key_authorization(&self, host: &str, token: &str) -> Option<String>;
}

/// Bounds that hold for every route. Durations are kept to a tenth of a second.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Client connections; beyond, new ones are closed at once.
    pub connections: usize,
    /// A request's line and headers; 431 beyond. At most [`crate::buffer::SIZE`].
    pub head_bytes: usize,
    /// Header fields of a request; 431 beyond.
    pub headers: usize,
    /// From the first byte of a request (or of the connection) to the end of its headers, and for a TLS handshake.
    pub header_timeout: Duration,
    /// An idle connection is closed after.
    pub keep_alive: Duration,
    /// Bytes a second that a body of declared length must bring on average, after `header_timeout`; 0: any.
    pub body_rate: u64,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Upgraded connections and streams of an instance that leaves, or of a route that is gone, end after.
    pub drain: Duration,
    /// Idle connections kept to one instance, by each thread.
    pub idle_upstream: usize,
    /// An idle connection to an instance is closed after; less, where the instance says so in Keep-Alive.
    pub idle_upstream_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            head_bytes: 32 << 10,
            headers: 128,
            header_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            body_rate: 240,
            streams: 128,
            drain: Duration::from_secs(30),
            idle_upstream: 256,
            idle_upstream_timeout: Duration::from_secs(30),
        }
    }
}
