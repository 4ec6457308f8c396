//! The node's API: HTTP/1.1 on a Unix socket, for its owner and (if set) one group.
//!
//! The socket's mode is the first guard and the peer's credentials are the second: a socket that was made readable
//! by mistake still answers only its owner, root and the group. Requests with a `Host` that is not this socket's or
//! an `Origin` are refused, so that no web page reaches it through a proxy (DNS rebinding).

mod answer;
mod metrics;
mod openapi;
mod peer;
mod query;
mod routes;
mod scrape;
mod serve;
mod telemetry;

pub use openapi::document;
pub use serve::{ServeError, serve, stop_on_signal};
