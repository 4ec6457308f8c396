//! Who may connect to whom on a bridge.
//!
//! Containers have identities (a service of an app has one, whatever its instances); what is denied are pairs of
//! them, from → to. A pair is about who begins: what answers a connection that is let through is let through too.
//! Programs of the host, and clients beyond it that come by a published port, are no containers: nothing here is
//! about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Who a container is, as far as policy goes. Numbers are the node's own and mean nothing elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub u32);

impl Identity {
    /// Containers of the bridge that are no [member](Policy::members): those started ad hoc.
    pub const OTHER: Self = Self(0);
}

/// What a bridge enforces, for IPv4 and IPv6 alike (an IPv6 address is its IPv4 one's, see
/// [`Subnet6`](crate::Subnet6)). The default lets everybody through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Containers that have an identity of their own, by their address.
    pub members: BTreeMap<Ipv4Addr, Identity>,
    /// From → to.
    pub denied: BTreeSet<(Identity, Identity)>,
}

/// Packets that were dropped, for each denied pair.
pub type Drops = Vec<((Identity, Identity), u64)>;

impl Policy {
    pub fn identity(&self, address: Ipv4Addr) -> Identity {
        self.members.get(&address).copied().unwrap_or_default()
    }

    /// Whether a container at `from` may not begin a connection to one at `to`.
    pub fn denies(&self, from: Ipv4Addr, to: Ipv4Addr) -> bool {
        self.denied.contains(&(self.identity(from), self.identity(to)))
    }
}
