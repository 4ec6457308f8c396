//! What of this machine clients beyond it see: its addresses, and the links that they come by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::LinkName;
use crate::error::{NetworkError, cannot};
use crate::link;
use crate::netlink::Socket;

/// The machine as clients beyond it see it, at one moment, in the caller's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// Its addresses, but for those of loopback, of one link alone (fe80::), and of the bridge.
    pub addresses: Vec<IpAddr>,
    /// Ethernet links with such an address that carry packets as large as the bridge's. Bridges are none: what is behind
    /// them is of this machine, mostly.
    pub uplinks: Vec<LinkName>,
}

impl Beyond {
    /// Looks; `bridge` is the bridge's index.
    pub fn look(bridge: u32) -> Result<Self, NetworkError> {
        let mut socket = Socket::route().map_err(cannot("open a netlink socket"))?;
        let links = link::all(&mut socket).map_err(cannot("read this machine's links"))?;
        let addresses = link::addresses(&mut socket).map_err(cannot("read this machine's addresses"))?;
        let own = links.iter().find(|(link, _)| link.index == bridge);
        let largest = own.map_or(0, |(link, _)| link.mtu);
        let seen: Vec<(u32, IpAddr)> =
            addresses.into_iter().filter(|(index, address)| *index != bridge && is_seen(*address)).collect();
        let is_uplink = |link: &link::Link| {
            let has_address = seen.iter().any(|(index, _)| *index == link.index);
            link.is_ethernet && link.is_raised && link.kind != "bridge" && link.mtu >= largest && has_address
        };
        Ok(Self {
            uplinks: links.into_iter().filter(|(link, _)| is_uplink(link)).map(|(_, name)| name).collect(),
            addresses: seen.into_iter().map(|(_, address)| address).collect(),
        })
    }
}

fn is_seen(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && ip != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip != Ipv6Addr::LOCALHOST && !ip.is_unicast_link_local(),
    }
}
