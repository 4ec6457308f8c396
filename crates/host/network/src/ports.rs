//! Published ports: what they are, and whether one can be had on the host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// A transport protocol; numbers are IANA's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// One address of the host; `None`: all of them.
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
    pub host: u16,
}

/// Where a connection goes: a container's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub ip: Ipv4Addr,
    pub port: u16,
}

/// A published port. New connections are spread evenly over the backends, by chance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub key: PortKey,
    pub backends: Vec<Backend>,
}

/// A host port that this process keeps others from binding. It does not listen: connections are redirected before
/// they would reach it. Given back when dropped.
#[derive(Debug)]
pub struct HeldPort {
    _socket: OwnedFd,
    port: u16,
}

impl HeldPort {
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A host port that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("port {port} of {host} is in use by another program; choose another, or 0 for any free one")]
    InUse { host: IpAddr, port: u16 },
    #[error("{0} is not an address of this machine; publish on one it has, or on all")]
    NotHere(IpAddr),
    #[error("cannot bind port {port} of {host}: {errno}")]
    Kernel { host: IpAddr, port: u16, errno: Errno },
}

/// Takes a host port; 0 lets the kernel pick a free one.
pub fn hold_port(host_ip: Option<IpAddr>, protocol: Protocol, port: u16) -> Result<HeldPort, PortError> {
    let host = host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let bind = |reuse: bool| {
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if reuse {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        rustix::net::bind(&socket, &SocketAddr::new(host, port))?;
        if reuse {
            // Without SO_REUSEADDR from here on, another bind is refused although we do not listen.
            rustix::net::sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(HeldPort { _socket: socket, port: bound.port() })
    };
    let held = match bind(false) {
        // Connections that ended a moment ago do not keep the port; a listener or a holder still does. Not asked for
        // at once, because kernels up to at least 6.1 remember it and let others that ask for it share the port.
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => bind(true),
        other => other,
    };
    held.map_err(|errno| match errno {
        Errno::ADDRINUSE => PortError::InUse { host, port },
        Errno::ADDRNOTAVAIL => PortError::NotHere(host),
        errno => PortError::Kernel { host, port, errno },
    })
}

/// Whether a host port could be published now. Only [`hold_port`] keeps it so.
pub fn port_is_free(host_ip: Option<IpAddr>, protocol: Protocol, port: u16) -> bool {
    hold_port(host_ip, protocol, port).is_ok()
}
