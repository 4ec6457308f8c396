//! Encryption between the services of an app, done by the node: apps speak plain, and what goes over the wire is TLS 1.3
//! with the certificates of both services.
//!
//! ```text
//!  caller ──plain──▶ outbound half ═══ TLS: caller's certificate, ═══▶ inbound half ──plain──▶ instance
//!          (redirected by            service's certificate              of the node that
//!           nftables)                                                   runs the instance
//! ```
//!
//! The outbound half learns where a connection was going from `SO_ORIGINAL_DST`, and who calls from the source address,
//! which the bridge does not let a container choose. It shows the certificate of the calling service and demands that of
//! the service called. The inbound half demands a certificate of the app's own authority (`require`), or takes callers
//! without one and counts them (`warn`), and hands the connection to the instance. Both halves are on one node today and
//! speak over a real TCP connection anyway: which node runs an instance is data ([`Instance::node`]).
//!
//! Certificates are looked at in each handshake and made anew by their [`Identity`](coppice_acme::Identity), so rotation
//! restarts nothing and an open connection goes on. A connection that breaks on one side is reset on the other, never
//! ended as if it had been whole.
//!
//! It refuses: connections that were not redirected; those that the policy denies; callers that are not of the app, where it is required; destinations
//! that are not of the service whose certificate was asked for. UDP is not its business.

mod counts;
mod directory;
mod hello;
mod inbound;
mod outbound;
mod peers;
mod relay;

pub use counts::{PeerSnapshot, ServiceSnapshot};
pub use directory::{App, Instance, Published, Workload};
pub use peers::{Config, Denies, Limits, Peers, UpdateError};
