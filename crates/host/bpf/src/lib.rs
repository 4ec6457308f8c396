//! The network's BPF data plane: policy, balancing, names, classes of traffic and counting on a node's bridge, in the kernel,
//! before its stack.
//!
//! ```text
//! Dataplane::load(&BridgeInfo, folder, Settings)    the programs, and the maps that an earlier process left in `folder`
//!   set_endpoints, set_services, set_policy,
//!   set_names, set_classes                        what they work by; each call replaces all, and is cheap if little changed
//!   attach                                          in force; where an earlier process's are, exchanged at once
//!   set_ports                                       published ports led into containers, from the machine's links
//!   metrics                                         what was counted
//!   detach                                          as if it had never been
//! ```
//!
//! Programs are C (`programs/`), compiled to `objects/`, which are in the repository so that building Coppice needs no
//! clang; `cargo xtask tidy` compiles them again and compares. Two programs sit on the bridge's own device, none on a
//! container's link: with addresses of their own alone (/32, /128), containers reach each other only through it.
//!
//! nftables stays in force behind it, with the same services and the same policy. What the programs do not handle
//! (other protocols, a service without a backend, the host's own connections) they leave to it, and when BPF cannot be
//! had, [`BpfError`] says why and nothing else changes. Dropping a [`Dataplane`] leaves it in force, connections
//! included: a node's daemon may die.
//!
//! Where [`Settings::ports`] says so, programs sit on the machine's links, too, and what comes to a published port goes into
//! its container and back without the stack: XDP decides, and TC carries it out, since only there a checksum that is still
//! to be made is told from one that is whole.
//!
//! [`StorageMeter`] has nothing to do with the bridge: it counts what control groups read from and write to disks.
//!
//! Call from a thread in the bridge's network namespace. It refuses: more than [`SERVICES_MAX`] services. It drops from
//! containers what they have no use for and the stack would judge otherwise later: VLAN tags, IPv4 options, IPv6 routing
//! headers, more than six extension headers, addresses that are not the sender's.

mod attachment;
mod bpffs;
mod dataplane;
mod error;
mod metrics;
mod names;
mod ports;
mod services;
mod storage;

pub use dataplane::{BridgeInfo, Dataplane, Endpoint, Hook, Settings};
pub use error::BpfError;
pub use metrics::{Metrics, PairTraffic, Peer, ServiceTraffic};
pub use names::{Answer, View};
pub use services::SERVICES_MAX;
pub use storage::{Requests, StorageMeter, StorageTraffic};
