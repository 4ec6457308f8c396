//! The DNS server of a node: names of services and instances, and everything else asked further up.
//!
//! ```text
//! Zone::new(&ZoneSpec)                 all names at one moment, in wire form
//! Listeners::bind / from_fds           sockets, perhaps held by another process while the daemon restarts
//! Server::start(Config, Zone)          threads for UDP, one for TCP and for asking others
//! server.update(Zone)                  all names at once; server.metrics() what was done
//! zone.entries(), zone.clients()       what a zone answers with addresses, for who answers in the server's place
//! ```
//!
//! The path of nearly all questions is our own: a strict parser that allocates nothing, one look into a table keyed by
//! the name as it lies in the packet, one copy of ready records. Queries of unusual shape are judged by hickory's
//! parser, and tests compare ours with it.
//!
//! It refuses: transfers, "any" (RFC 8482), classes but IN, dynamic updates, questions over a client's rate. It does
//! not check DNSSEC signatures (who wants to can: they are passed on), keeps no answer of a stopped instance, and
//! never asks others about names that can only be ours.

mod answer;
mod cache;
mod entry;
mod forward;
mod limit;
mod listeners;
mod message;
mod metrics;
mod name;
mod odd;
mod query;
mod response;
mod server;
mod service;
mod tcp;
mod udp;
mod upstream;
mod zone;

pub use entry::Entry;
pub use listeners::{ListenError, Listeners};
pub use metrics::Metrics;
pub use server::{Config, Server, StartError};
pub use tcp::TcpLimits;
pub use upstream::{Upstreams, parse_resolv_conf};
pub use zone::{App, DOMAIN, Instance, Port, Protocol, Service, Subnet, TTL_MAX_S, Zone, ZoneError, ZoneSpec};
