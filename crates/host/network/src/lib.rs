//! Networks of containers: a bridge with its own subnet and nftables table, addresses, published ports, and the
//! texts of `/etc/hosts` and `/etc/resolv.conf`. (`host` and `none` need only [`configure_inside`], or nothing.)
//!
//! ```text
//! node    Bridge::ensure ── publish, unpublish ── assert_rules when Bridge::watch hears a change
//! launch  Attacher::attach(netns, host_link(id), address)     one message: both ends made, up, enslaved
//! child   configure_inside(address)                           one batch: loopback, address, default route
//! launch  Attacher::settle(host_link(id))                     before exec: no first packet is lost
//! ```
//!
//! Starting a container waits for this crate: no helper program, no thread, no dump of tables, two system calls to
//! attach, four to configure, four to settle. Netlink messages are built by hand because the crates that do it are
//! large, async or copyleft.
//!
//! Rules are one table of our own; no other program's is read or changed, and where another flushes ours it is
//! restored. A container cannot reach what listens on the host's loopback, send with an address outside its subnet,
//! or be reached from outside but by published ports.
//!
//! It refuses: names the kernel would cut; subnets that overlap a route; IPv6, so far. Containers on one bridge can
//! reach each other, and it does not keep one from using the address of another.

mod address;
mod assert;
mod attach;
mod bridge;
mod conntrack;
mod elements;
mod error;
mod hosts;
mod intercept;
mod ipam;
mod link;
mod maglev;
mod netlink;
mod nft;
mod policy;
mod ports;
mod rules;
mod service;
mod sysctl;

pub use address::{Address, Address6, LinkName, Subnet4, Subnet6, host_link};
pub use assert::{Asserted, RulesWatch};
pub use attach::{Attacher, Netns, configure_inside};
pub use bridge::{Bridge, BridgeConfig};
pub use error::NetworkError;
pub use hosts::{hosts_file, resolv_conf};
pub use intercept::{Intercept, Intercepted};
pub use ipam::{Ipam, IpamError};
pub use maglev::maglev;
pub use policy::{Drops, Identity, Policy};
pub use ports::{Backend, HeldPort, PortError, PortKey, Protocol, Published, hold_port, port_is_free};
pub use service::VirtualService;

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
