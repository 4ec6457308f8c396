//! The L7 proxy: takes HTTP/1.1, HTTP/2 and upgraded connections on the node's public ports and hands each request to
//! a ready instance of the service its route names.
//!
//! ```text
//! listener ─▶ worker (one thread each) ─▶ connection ─▶ HTTP/1.1 engine ─┐
//!                                          TLS, PROXY    HTTP/2 (h2)     ├▶ plan ─▶ forward ─▶ instance
//!                                                                        ┘  (pure: coppice-route)
//! ```
//!
//! - A connection lives on one thread with its upstream connections; threads share only atomics, so no request waits for
//!   another thread. Routes are swapped whole ([`Proxy::update`]) and seen by the next request.
//! - HTTP/1.1 is our own engine: what it forwards it writes anew from what it understood, so nothing it did not understand
//!   gets through; and a connection between requests holds no buffer. HTTP/2 is the `h2` crate.
//! - Bodies go through a buffer of [`buffer::SIZE`] bytes each way, as fast as the slower side takes them.
//!
//! Refused: forward proxying (CONNECT, absolute targets), anything whose framing has two readings, paths with dot
//! segments. Caching and compression are not its business.

mod access_log;
mod answer;
mod auth;
mod body;
pub mod buffer;
mod callers;
mod config;
mod connection;
mod deadline;
mod dial;
mod forward;
mod head;
mod headers;
mod http1;
mod http2;
mod identity;
mod io;
mod metrics;
mod mirror;
mod plan;
mod proxy;
mod proxy_protocol;
mod published;
mod reply;
mod routes;
mod spans;
mod tls;
mod tunnel;
mod upgrade_h2c;
mod upstream;
mod worker;

pub use callers::{Caller, Callers, DeniedSnapshot};
pub use config::{Challenges, Config, Limits, Listener};
pub use coppice_route::breaker::BreakerState;
pub use metrics::{BUCKETS, BackendSnapshot, HistogramSnapshot, MetricsSnapshot, RouteSnapshot};
pub use proxy::{Proxy, StartError};
pub use proxy_protocol::ProxyHeader;
pub use routes::{Backend, Endpoint, Route, Routes, UpdateError};
pub use spans::{Span, SpanSink, SpanSource, spans};
pub use tls::{ClientName, TlsSettings, server_config};
