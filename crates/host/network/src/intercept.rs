//! Connections that go to a proxy of the node instead of where they are going: those from containers to guarded
//! addresses, and those to published ports that lead to these. A table of its own, `coppice-<key>-peer`:
//!
//! ```text
//! prerouting   dstnat - 10   TCP from the bridge to a guarded address → the proxy; else ports
//! output       dstnat - 10   the host's own programs: ports
//! ports                      TCP to a guarded port of the host → the proxy
//! ```
//!
//! Before the table of the bridge looks, so that no port or virtual address leads around it. The proxy finds where a
//! connection was going by `SO_ORIGINAL_DST`. The table stays when its daemon ends: connections are refused then, since
//! nobody listens, and not let through. It is replaced whole at each change, in one transaction; connections that exist
//! are tracked and go on as they are.
//!
//! It relies on what containers send each other passing this host, and on their sources being checked: see the bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};

use rustix::io::Errno;

use crate::address::LinkName;
use crate::bridge::Asserted;
use crate::error::{NetworkError, cannot};
use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::nft::{self, Expressions, Hook, Load, Register, Transaction, Verdict};
use crate::ports::Protocol;

/// Just before the bridge's own.
const PRIORITY: i32 = -110;

const DESTINATION: Register = Register::word(0);
const PROTOCOL: Register = Register::word(4);
const PORT: Register = Register::word(5);
const TO_ADDRESS: Register = Register::word(8);
const TO_PORT: Register = Register::word(12);
const SCRATCH: Register = Register::word(0);

// nft's type numbers, six bits each, so that `nft list` prints the maps readably.
const TYPE_IP: u32 = 7;
const TYPE_IP6: u32 = 8;
const TYPE_PORT: u32 = 13;

/// What goes to the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// Where the proxy listens: addresses of the bridge.
    pub proxy: SocketAddrV4,
    /// The same for IPv6; without, guarded IPv6 addresses are closed to containers.
    pub proxy6: Option<SocketAddrV6>,
    /// Addresses, on every TCP port.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP ports of the host; `None`: on every IPv4 address of it.
    pub ports: BTreeSet<(Option<IpAddr>, u16)>,
}

/// The table, as long as somebody looks after it; dropping this leaves it.
#[derive(Debug)]
pub struct Intercept {
    table: String,
    bridge: LinkName,
    netfilter: Socket,
    wanted: Option<Intercepted>,
    known: Option<Known>,
}

/// What the kernel lists of the table, in a state of all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    generation: u32,
    listed: BTreeMap<&'static str, Vec<Vec<u8>>>,
}
