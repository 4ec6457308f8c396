//! Networks of containers: a bridge with its own subnets and nftables table, addresses, published ports, services'
//! virtual addresses, policy, and the texts of `/etc/hosts` and `/etc/resolv.conf`. (`host` and `none` need only
//! [`configure_inside`], or nothing.)
//!
//! ```text
//! node    Bridge::ensure ── publish, set_services, set_policy ── assert_rules when Bridge::watch hears a change
//! launch  Attacher::attach(netns, host_link(id), address)     both ends made; then what the port may do
//! child   configure_inside(address)                           one batch: loopback, addresses, routes, neighbour
//! launch  Attacher::settle(host_link(id))                     before exec: no first packet is lost
//! ```
//!
//! A container has an IPv4 address and, derived from it, a hardware address and an IPv6 one ([`Subnet6`]); all three of
//! its own alone, and the bridge as the way to everything. What containers send each other passes the host's IP stack,
//! where one place judges it; nothing else goes from port to port, and nobody is asked who has which address. That a
//! packet's source is its sender's is checked by its bytes, without a list, so that it costs a container's start nothing.
//!
//! Starting a container waits for this crate: no helper program, no thread, no dump of tables, no rule to write; four
//! system calls to attach, four to configure, four to settle. Netlink messages are built by hand because the crates that
//! do it are large, async or copyleft.
//!
//! Rules are in tables of our own; no other program's is read or changed, but for seeing whether one closes the way
//! through the machine, and where another flushes ours they are restored. A container cannot reach what listens on the
//! host's loopback, send with an address that is not its own, begin a connection that the policy denies, or be reached
//! from outside but by published ports; these see their clients' own addresses.
//!
//! It refuses: names the kernel would cut; subnets that overlap a route; ports on `::1`, which the kernel does not route
//! to containers (connections of the host's programs to it are refused, and those to 127.0.0.1 work). Needs Linux 5.18
//! for ports that take frames of one hardware address only.

mod address;
mod assert;
mod attach;
mod beyond;
mod bridge;
mod class;
mod conntrack;
mod elements;
mod error;
mod hosts;
mod intercept;
mod ipam;
mod link;
mod listing;
mod maglev;
mod netlink;
mod nft;
mod policy;
mod ports;
mod rules;
mod service;
mod survey;
mod sysctl;
mod trace;

pub use address::{Address, Address6, LinkName, Subnet4, Subnet6, host_link};
pub use assert::{Asserted, RulesWatch};
pub use attach::{Attacher, Netns, configure_inside};
pub use beyond::Beyond;
pub use bridge::{Bridge, BridgeConfig, Wanted};
pub use class::{TrafficClass, TrafficClasses};
pub use conntrack::StaleDatagrams;
pub use error::NetworkError;
pub use hosts::{hosts_file, resolv_conf};
pub use intercept::{Intercept, Intercepted};
pub use ipam::{Ipam, IpamError};
pub use maglev::maglev;
pub use policy::{Drops, Identity, Policy};
pub use ports::{Backend, HeldPort, PortError, PortKey, Protocol, Published, hold_port, port_is_free};
pub use service::VirtualService;
pub use survey::{LinkNow, RulesNow, Survey, link_now};
pub use trace::{Dropped, Trace};

use serde::{Deserialize, Serialize};

/// A sentence for the user: something of the machine that was changed or cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Word(pub String);

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
