//! What can go wrong with a node's network.

use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::io::Errno;

use crate::address::Subnet4;

/// Why an operation on links, addresses or rules failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{0:?} cannot name a network link: use 1 to 15 of a-z, A-Z, 0-9, '-', '_' and '.'")]
    BadLinkName(String),
    #[error("{0:?} cannot be the key of a node's rules: use 1 to 64 of a-z, A-Z, 0-9, '-' and '_'")]
    BadKey(String),
    #[error("{0:?} is not a subnet such as 10.88.0.0/16, with a prefix of 8 to 29")]
    BadSubnet(String),
    #[error("link {0} exists and is not a bridge; choose another bridge name")]
    NotABridge(String),
    #[error("bridge {bridge} has the subnet {has}, not {wanted}; remove it, or ask for the one it has")]
    OtherSubnet { bridge: String, has: Subnet4, wanted: Subnet4 },
    #[error("subnet {wanted} overlaps {taken}, which this machine has a route to; choose another")]
    SubnetTaken { wanted: Subnet4, taken: Subnet4 },
    #[error("every subnet from 10.88.0.0/16 to 10.127.0.0/16 overlaps a route of this machine; set one yourself")]
    NoFreeSubnet,
    #[error("host port {port} has {count} backends; at most {max} can share one")]
    TooManyBackends { port: u16, count: usize, max: usize },
    #[error("host port {0} is published without a backend; unpublish it instead")]
    NoBackend(u16),
    #[error("port {0} cannot be published on ::1, which the kernel does not route to containers; publish on 127.0.0.1")]
    Loopback6(u16),
    #[error("{address} cannot be a service's address: those of this bridge are in {subnet}")]
    NotVirtual { address: Ipv4Addr, subnet: Subnet4 },
    #[error("{address} cannot be a service's instance: containers of this bridge are in {subnet}")]
    NotAContainer { address: Ipv4Addr, subnet: Subnet4 },
    #[error("the service at {address} has {count} instances on this node; at most {max} can share an address")]
    TooManyInstances { address: Ipv4Addr, count: usize, max: usize },
    #[error("the container's network link did not appear within {0:?}; its creation failed or was never asked for")]
    NoLink(Duration),
    #[error("cannot write {path}: {errno}; it needs root in the machine's own network namespace")]
    Sysctl { path: String, errno: Errno },
    #[error("cannot {action}: {errno}{}", hint(*.errno))]
    Kernel { action: &'static str, errno: Errno },
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => "; it needs CAP_NET_ADMIN",
        Errno::OPNOTSUPP => "; the kernel lacks the feature or its module is not loaded",
        _ => "",
    }
}

/// `map_err` for "the kernel did not do it".
pub(crate) fn cannot(action: &'static str) -> impl FnOnce(Errno) -> NetworkError {
    move |errno| NetworkError::Kernel { action, errno }
}
