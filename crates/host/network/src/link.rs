//! Links, addresses, routes and neighbours by rtnetlink (layouts of `linux/rtnetlink.h`, `if_link.h`, `if_addr.h`,
//! `neighbour.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::address::{LinkName, Subnet4, Subnet6, mac};
use crate::error::{NetworkError, cannot};
use crate::netlink::{ACK, Answer, Batch, CREATE, DUMP, EXCLUSIVE, REPLACE, Socket, attributes};

pub(crate) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_AF_SPEC: u16 = 26;
pub(crate) const IFLA_EXT_MASK: u16 = 29;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(crate) const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

pub(crate) const IFF_UP: u32 = 1;
/// `IF_OPER_UP` of RFC 2863's states.
const OPERSTATE_UP: u8 = 6;
const IFA_F_NODAD: u8 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// The entry is for the bridge that the link is a port of.
const NTF_MASTER: u8 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
/// Of linux/if_arp.h; loopback and tunnels have others.
const ARPHRD_ETHER: u16 = 1;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
pub(crate) const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
pub(crate) const AF_INET6: u8 = 10;

/// `struct ifinfomsg`: family, type, index, flags, mask of flags to change.
pub(crate) fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`: family, prefix, flags, scope, link.
fn address_header(family: u8, prefix: u8, flags: u8, index: u32) -> [u8; 8] {
    let mut bytes = [family, prefix, flags, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// Family and bytes of an address.
fn parts(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    }
}

/// An IPv6 address is usable at once: nobody is asked whether it is another's.
pub(crate) fn add_address(batch: &mut Batch, ip: IpAddr, prefix: u8, index: u32, flags: u16) {
    let (family, bytes) = parts(ip);
    let unasked = if family == AF_INET6 { IFA_F_NODAD } else { 0 };
    batch
        .message(RTM_NEWADDR, CREATE | flags, &address_header(family, prefix, unasked, index))
        .attr(IFA_LOCAL, &bytes)
        .attr(IFA_ADDRESS, &bytes);
}

/// Has the machine take packets to this IPv6 address of the link for its own at once. With the address alone it does so
/// a moment later, in its background, and passes on or drops what comes before.
pub(crate) fn add_local_route(batch: &mut Batch, ip: Ipv6Addr, index: u32) {
    let header = [AF_INET6, 128, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_LOCAL, 0, 0, 0, 0];
    batch.message(RTM_NEWROUTE, CREATE, &header).attr(RTA_DST, &ip.octets()).u32(RTA_OIF, index);
}

/// The way to `gateway`, which is at the other end of the link, and through it to everything else.
pub(crate) fn add_default_route(batch: &mut Batch, gateway: IpAddr, index: u32) {
    let (family, bytes) = parts(gateway);
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags
    let header =
        |length: u8, scope: u8| [family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0];
    // IPv6 routes have no scope.
    let near = if family == AF_INET { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
    let whole = 8 * bytes.len() as u8;
    batch.message(RTM_NEWROUTE, CREATE, &header(whole, near)).attr(RTA_DST, &bytes).u32(RTA_OIF, index);
    let far = header(0, RT_SCOPE_UNIVERSE);
    batch.message(RTM_NEWROUTE, CREATE, &far).attr(RTA_GATEWAY, &bytes).u32(RTA_OIF, index);
}

/// `struct ndmsg`: family, link, state, flags.
fn neighbour_header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut bytes = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, 0];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes
}

/// On a link: who has this address, for good, so that nobody is asked and nobody can say another.
pub(crate) fn add_neighbour(batch: &mut Batch, index: u32, ip: IpAddr, mac: [u8; 6]) {
    let (family, bytes) = parts(ip);
    batch
        .message(RTM_NEWNEIGH, CREATE | REPLACE, &neighbour_header(family, index, NUD_PERMANENT, 0))
        .attr(NDA_DST, &bytes)
        .attr(NDA_LLADDR, &mac);
}

/// The containers' addresses on a bridge; those that it does not know are passed over when they go.
pub(crate) fn change_neighbours(
    socket: &mut Socket,
    bridge: u32,
    addresses: &[Ipv4Addr],
    subnet6: Option<Subnet6>,
    present: bool,
) -> Result<(), Errno> {
    for ip in addresses {
        for address in [Some(IpAddr::V4(*ip)), subnet6.map(|of| of.address(*ip).into())].into_iter().flatten() {
            let mut batch = Batch::new();
            if present {
                add_neighbour(&mut batch, bridge, address, mac(*ip));
            } else {
                let (family, bytes) = parts(address);
                batch.message(RTM_DELNEIGH, 0, &neighbour_header(family, bridge, 0, 0)).attr(NDA_DST, &bytes);
            }
            batch.acknowledge();
            match socket.exchange(&mut batch) {
                Err(Errno::NOENT) if !present => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// A bridge's port, and nothing else, has this hardware address, for as long as it is its port.
pub(crate) fn add_station(batch: &mut Batch, port: u32, mac: [u8; 6]) {
    batch
        .message(RTM_NEWNEIGH, CREATE | REPLACE, &neighbour_header(AF_BRIDGE, port, NUD_NOARP, NTF_MASTER))
        .attr(NDA_LLADDR, &mac);
}

/// A link shall have no IPv6 address but those it is given: none that its neighbours could use, and none that is
/// announced, asked about and waited for when it comes up.
pub(crate) fn no_link_local(batch: &mut Batch, index: u32) {
    batch.message(RTM_NEWLINK, 0, &link_header(index, 0, 0)).nest(IFLA_AF_SPEC, |families| {
        families.nest(u16::from(AF_INET6), |family| {
            family.attr(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
        });
    });
}

pub(crate) fn delete_link(socket: &mut Socket, name: &LinkName) -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    batch.message(RTM_DELLINK, ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name.as_str());
    match socket.exchange(&mut batch) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Ok(()),
        Err(errno) => Err(cannot("remove a network link")(errno)),
    }
}

/// A link as the kernel describes it.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    pub(crate) is_ethernet: bool,
    mac: [u8; 6],
    state: u8,
    /// Somebody set it up, whether or not its other end is there.
    pub(crate) is_raised: bool,
    /// The bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// Of a bridge: what it bridges passes IP's hooks, whatever the machine's setting.
    pub(crate) hooked: bool,
}

impl Link {
    pub(crate) fn is_up(&self) -> bool {
        self.state == OPERSTATE_UP
    }

    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let flags = u32::from_ne_bytes(body.get(8..12)?.try_into().ok()?);
        let is_ethernet = body.get(2..4)? == ARPHRD_ETHER.to_ne_bytes();
        let mut link = Self { index, is_ethernet, is_raised: flags & IFF_UP != 0, ..Self::default() };
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
                IFLA_MTU => link.mtu = u32::from_ne_bytes(value.try_into().ok()?),
                IFLA_MASTER => link.master = Some(u32::from_ne_bytes(value.try_into().ok()?)),
                IFLA_OPERSTATE => link.state = *value.first()?,
                IFLA_LINKINFO => {
                    let name = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    let text = name.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
                    text.trim_end_matches('\0').clone_into(&mut link.kind);
                    let data = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_DATA);
                    let hooks = data.into_iter().flat_map(|(_, data)| attributes(data));
                    link.hooked |= link.kind.starts_with("bridge")
                        && hooks.into_iter().any(|(kind, value)| kind == IFLA_BR_NF_CALL_IPTABLES && value == [1]);
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// The link of this name in the namespace of `socket`.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
    match ask_link(socket, &mut batch) {
        Err(Errno::NODEV) => Ok(None),
        found => found.map(Some),
    }
}

pub(crate) fn find_index(socket: &mut Socket, index: u32) -> Result<Link, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, ACK, &link_header(index, 0, 0));
    ask_link(socket, &mut batch)
}

fn ask_link(socket: &mut Socket, batch: &mut Batch) -> Result<Link, Errno> {
    let mut found = None;
    socket.ask(batch, |Answer { body, .. }| found = Link::read(body))?;
    found.ok_or(Errno::NODEV)
}

/// Makes a bridge that forwards at once (no spanning tree) and does not snoop multicast, whose timers and joins
/// would cost every container start.
pub(crate) fn add_bridge(
    socket: &mut Socket,
    name: &LinkName,
    gateway: Ipv4Addr,
    mtu: Option<u32>,
) -> Result<(), Errno> {
    let mut batch = Batch::new();
    batch
        .message(RTM_NEWLINK, CREATE | EXCLUSIVE | ACK, &link_header(0, IFF_UP, IFF_UP))
        .text(IFLA_IFNAME, name.as_str())
        .attr(IFLA_ADDRESS, &mac(gateway));
    batch.optional_u32(IFLA_MTU, mtu);
    batch.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.attr(IFLA_BR_MCAST_SNOOPING, &[0]);
        });
    });
    socket.exchange(&mut batch)
}

/// The ports of a bridge.
pub(crate) fn ports_of(socket: &mut Socket, bridge: u32) -> Result<Vec<u32>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, DUMP, &link_header(0, 0, 0));
    let mut found = Vec::new();
    socket.ask(&mut batch, |Answer { body, .. }| {
        let master = attributes(body.get(16..).unwrap_or_default()).find(|(kind, _)| *kind == IFLA_MASTER);
        if master.is_some_and(|(_, index)| index == bridge.to_ne_bytes()) {
            found.extend(Link::read(body).map(|link| link.index));
        }
    })?;
    Ok(found)
}

/// Every link, with its name.
pub(crate) fn all(socket: &mut Socket) -> Result<Vec<(Link, LinkName)>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, DUMP, &link_header(0, 0, 0));
    let mut found = Vec::new();
    socket.ask(&mut batch, |Answer { body, .. }| {
        let name = attributes(body.get(16..).unwrap_or_default()).find(|(kind, _)| *kind == IFLA_IFNAME);
        let name = name.and_then(|(_, text)| std::str::from_utf8(text.strip_suffix(b"\0").unwrap_or(text)).ok());
        found.extend(Link::read(body).zip(name.and_then(|name| LinkName::new(name).ok())));
    })?;
    Ok(found)
}

/// Every address of this machine, with its link.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, IpAddr)>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETADDR, DUMP, &address_header(0, 0, 0, 0));
    let mut found = Vec::new();
    socket.ask(&mut batch, |Answer { kind, body }| {
        if kind != RTM_NEWADDR || body.len() < 8 {
            return;
        }
        let index = u32::from_ne_bytes([body[4], body[5], body[6], body[7]]);
        let value = |wanted| attributes(&body[8..]).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        // Of two ends that have an address each, the second kind is the other's.
        let address = value(IFA_LOCAL).or_else(|| value(IFA_ADDRESS));
        let address = address.and_then(|bytes| match *bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        });
        found.extend(address.map(|address| (index, address)));
    })?;
    Ok(found)
}

/// Gives the bridge its IPv4 address and sets it up; both may be so already.
pub(crate) fn raise(socket: &mut Socket, index: u32, subnet: Subnet4) -> Result<(), Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_NEWLINK, ACK, &link_header(index, IFF_UP, IFF_UP));
    // Containers know it by heart. Set again, even to the same, it would have the bridge forget its neighbours.
    let mac = mac(subnet.gateway());
    if find_index(socket, index)?.mac != mac {
        batch.attr(IFLA_ADDRESS, &mac);
    }
    socket.exchange(&mut batch)?;
    ensure_address(socket, index, subnet.gateway().into(), subnet.prefix())
}

/// Gives the bridge its IPv6 address.
pub(crate) fn raise6(socket: &mut Socket, index: u32, subnet: Subnet6, gateway: Ipv4Addr) -> Result<(), Errno> {
    let gateway = subnet.address(gateway);
    ensure_address(socket, index, gateway.into(), subnet.prefix())?;
    let mut batch = Batch::new();
    add_local_route(&mut batch, gateway, index);
    batch.acknowledge();
    match socket.exchange(&mut batch) {
        Err(Errno::EXIST) => Ok(()),
        done => done,
    }
}

fn ensure_address(socket: &mut Socket, index: u32, ip: IpAddr, prefix: u8) -> Result<(), Errno> {
    let mut batch = Batch::new();
    add_address(&mut batch, ip, prefix, index, EXCLUSIVE | ACK);
    match socket.exchange(&mut batch) {
        Err(Errno::EXIST) => Ok(()),
        done => done,
    }
}

/// Has what the bridge bridges pass IP's hooks (br_netfilter), for this bridge alone and whatever the machine's
/// setting becomes.
pub(crate) fn hook(socket: &mut Socket, index: u32) -> Result<(), Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_NEWLINK, ACK, &link_header(index, 0, 0)).nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.attr(IFLA_BR_NF_CALL_IPTABLES, &[1]).attr(IFLA_BR_NF_CALL_IP6TABLES, &[1]);
        });
    });
    socket.exchange(&mut batch)
}

pub(crate) fn remove(socket: &mut Socket, name: &LinkName) -> Result<(), NetworkError> {
    delete_link(socket, name)
}

/// Every IPv4 subnet that an address of this machine is in, with the link's index.
pub(crate) fn address_subnets(socket: &mut Socket) -> Result<Vec<(u32, Ipv4Addr, Subnet4)>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETADDR, DUMP, &address_header(AF_INET, 0, 0, 0));
    let mut found = Vec::new();
    socket.ask(&mut batch, |Answer { kind, body }| {
        if kind != RTM_NEWADDR || body.len() < 8 || body[0] != AF_INET {
            return;
        }
        let index = u32::from_ne_bytes([body[4], body[5], body[6], body[7]]);
        if let Some(ip) = ip_attribute(&body[8..], IFA_LOCAL) {
            found.push((index, ip, Subnet4::any(ip, body[1])));
        }
    })?;
    Ok(found)
}

/// Every IPv4 subnet that a route of this machine leads to, default routes apart.
pub(crate) fn routed_subnets(socket: &mut Socket) -> Result<Vec<Subnet4>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETROUTE, DUMP, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut found = Vec::new();
    socket.ask(&mut batch, |Answer { kind, body }| {
        if kind != RTM_NEWROUTE || body.len() < 12 || body[0] != AF_INET || body[1] == 0 {
            return;
        }
        found.extend(ip_attribute(&body[12..], RTA_DST).map(|ip| Subnet4::any(ip, body[1])));
    })?;
    Ok(found)
}

fn ip_attribute(bytes: &[u8], wanted: u16) -> Option<Ipv4Addr> {
    let (_, value) = attributes(bytes).find(|(kind, value)| *kind == wanted && value.len() == 4)?;
    Some(Ipv4Addr::new(value[0], value[1], value[2], value[3]))
}
