//! Virtual addresses: one address for all instances of a service, which stays while they come and go.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A service's own address. A new connection to any port of it goes to the same port of one backend, chosen by the
/// client's address and port; it stays there for as long as it lasts, also when the backend is no longer named here.
/// Without a backend, connections are refused at once.
///
/// All this holds for the IPv6 address that belongs to `address` too, and for containers as for the host's programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VirtualService {
    /// Of the upper half of the bridge's subnet: [`Subnet4::services`](crate::Subnet4::services).
    pub address: Ipv4Addr,
    /// Addresses of containers; none twice.
    pub backends: Vec<Ipv4Addr>,
}
