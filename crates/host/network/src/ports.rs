//! Published ports: what they are, and whether one can be had on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// One address of the host; `None`: all of them, of IPv4 and IPv6. `0.0.0.0` and `::` are all of them too.
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
    /// One of each family when it is of all addresses.
    _sockets: Vec<OwnedFd>,
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

/// How often a port that the kernel picked for IPv4 may be another's for IPv6.
const PICKS: usize = 20;

/// Takes a host port, of IPv4 and IPv6 both where no address is given; 0 lets the kernel pick a free one.
pub fn hold_port(host_ip: Option<IpAddr>, protocol: Protocol, port: u16) -> Result<HeldPort, PortError> {
    if let Some(host) = host_ip.filter(|host| !host.is_unspecified()) {
        let (socket, port) = bind(host, protocol, port)?;
        return Ok(HeldPort { _sockets: vec![socket], port });
    }
    let mut picks = 0;
    loop {
        picks += 1;
        let (four, found) = bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED), protocol, port)?;
        match bind(IpAddr::V6(Ipv6Addr::UNSPECIFIED), protocol, found) {
            Ok((six, _)) => return Ok(HeldPort { _sockets: vec![four, six], port: found }),
            // A machine without IPv6.
            Err(PortError::Kernel { errno: Errno::AFNOSUPPORT, .. } | PortError::NotHere(_)) => {
                return Ok(HeldPort { _sockets: vec![four], port: found });
            }
            Err(PortError::InUse { .. }) if port == 0 && picks < PICKS => {}
            Err(error) => return Err(error),
        }
    }
}

fn bind(host: IpAddr, protocol: Protocol, port: u16) -> Result<(OwnedFd, u16), PortError> {
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let bind = |reuse: bool| {
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if host.is_ipv6() {
            // IPv4's is another socket's.
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
        if reuse {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        rustix::net::bind(&socket, &SocketAddr::new(host, port))?;
        if reuse {
            // Without SO_REUSEADDR from here on, another bind is refused although we do not listen.
            rustix::net::sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok((socket, bound.port()))
    };
    let bound = match bind(false) {
        // Connections that ended a moment ago do not keep the port; a listener or a holder still does. Not asked for
        // at once, because kernels up to at least 6.1 remember it and let others that ask for it share the port.
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => bind(true),
        other => other,
    };
    bound.map_err(|errno| match errno {
        Errno::ADDRINUSE => PortError::InUse { host, port },
        Errno::ADDRNOTAVAIL => PortError::NotHere(host),
        errno => PortError::Kernel { host, port, errno },
    })
}

/// Whether a host port could be published now. Only [`hold_port`] keeps it so.
pub fn port_is_free(host_ip: Option<IpAddr>, protocol: Protocol, port: u16) -> bool {
    hold_port(host_ip, protocol, port).is_ok()
}
