//! Links, addresses and routes by rtnetlink (layouts of `linux/rtnetlink.h`, `if_link.h`, `if_addr.h`).
//!
//! A container's link is one message on the host: a veth pair whose near end is born up and enslaved to the
//! bridge, and whose far end is born inside the container's namespace with its name. The container's side is
//! one question (its link's index, which the kernel lets only both ends' maker choose) and one batch.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::address::{Address, LinkName, Subnet4, mac};
use crate::error::{NetworkError, cannot};
use crate::netlink::{ACK, Answer, Batch, CREATE, DUMP, EXCLUSIVE, Socket, attributes};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;
/// `IF_OPER_UP` of RFC 2863's states.
const OPERSTATE_UP: u8 = 6;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const RTMGRP_LINK: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;

/// The loopback link's index in every network namespace.
const LOOPBACK: u32 = 1;
/// What the kernel gives Ethernet links (`ETH_DATA_LEN`).
const DEFAULT_MTU: u32 = 1500;
/// The name of a container's link, inside.
const INSIDE: &str = "eth0";

/// `struct ifinfomsg`: family, type, index, flags, mask of flags to change.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`: family, prefix, flags, scope, link.
fn address_header(prefix: u8, index: u32) -> [u8; 8] {
    let mut bytes = [AF_INET, prefix, 0, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

fn add_address(batch: &mut Batch, ip: Ipv4Addr, prefix: u8, index: u32, flags: u16) {
    batch
        .message(RTM_NEWADDR, CREATE | flags, &address_header(prefix, index))
        .attr(IFA_LOCAL, &ip.octets())
        .attr(IFA_ADDRESS, &ip.octets());
}

/// A container's network namespace: of a process, or an open `/proc/…/ns/net`.
#[derive(Clone, Copy, Debug)]
pub enum Netns<'a> {
    Pid(Pid),
    Fd(BorrowedFd<'a>),
}

/// Makes and removes containers' links on a bridge. Owns one socket; one per thread that attaches.
#[derive(Debug)]
pub struct Attacher {
    socket: Socket,
    bridge: u32,
    /// The bridge's, where it is not the kernel's default.
    mtu: Option<u32>,
    hairpin: bool,
}

impl Attacher {
    /// For the bridge with this index in the calling thread's network namespace.
    pub fn open(bridge_index: u32) -> Result<Self, NetworkError> {
        let mut socket = Socket::route().map_err(cannot("open a netlink socket"))?;
        let bridge = find_index(&mut socket, bridge_index).map_err(cannot("find the bridge"))?;
        let mtu = Some(bridge.mtu).filter(|mtu| *mtu != DEFAULT_MTU);
        // Where bridged packets pass IP's hooks (br_netfilter), one that is redirected to its sender is sent back by
        // the bridge itself, which it only does for ports that are told to.
        let hairpin = std::fs::read("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|text| text != b"0\n");
        Ok(Self { socket, bridge: bridge_index, mtu, hairpin })
    }

    /// Makes the link of a container: `host_end` on the bridge and up, `eth0` inside. The container's side is
    /// then to be done by [`configure_inside`]. Two system calls.
    pub fn attach(&mut self, netns: Netns<'_>, host_end: &LinkName, address: &Address) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        batch
            .message(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, IFF_UP, IFF_UP))
            .text(IFLA_IFNAME, host_end.as_str())
            .u32(IFLA_MASTER, self.bridge)
            .u32(IFLA_NUM_TX_QUEUES, 1)
            .u32(IFLA_NUM_RX_QUEUES, 1)
            .optional_u32(IFLA_MTU, self.mtu)
            .nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        // Not up: veth refuses that before the pair is whole.
                        peer.raw(&link_header(0, 0, 0))
                            .text(IFLA_IFNAME, INSIDE)
                            .attr(IFLA_ADDRESS, &address.mac())
                            .u32(IFLA_NUM_TX_QUEUES, 1)
                            .u32(IFLA_NUM_RX_QUEUES, 1)
                            .optional_u32(IFLA_MTU, self.mtu);
                        match netns {
                            Netns::Pid(pid) => peer.u32(IFLA_NET_NS_PID, pid.as_raw_nonzero().get() as u32),
                            Netns::Fd(fd) => peer.u32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32),
                        };
                    });
                });
            });
        if self.hairpin {
            batch.message(RTM_NEWLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, host_end.as_str()).nest(
                IFLA_LINKINFO,
                |info| {
                    info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                        data.attr(IFLA_BRPORT_MODE, &[1]);
                    });
                },
            );
        }
        batch.acknowledge();
        self.socket.exchange(&mut batch).map_err(cannot("make a container's network link"))
    }

    /// Makes a link pass packets, once [`configure_inside`] is done. Without it what is sent in the first moments may
    /// be lost, and is sent again only after a second.
    ///
    /// When both ends are up, the kernel connects them to their queues, the host's end to the bridge, and the bridge
    /// itself (when this is its first link) only in its background. Since Linux 6.8, asking for a link does that
    /// link's share at once, so this asks for the host's end, which makes the bridge's share due, and then for the
    /// bridge: one system call to ask. Older kernels are waited for, for at most `wait`; false when that was too short,
    /// or the bridge or the container's end is not up.
    pub fn settle(&mut self, host_end: &LinkName, wait: Duration) -> Result<bool, NetworkError> {
        let (socket, bridge) = (&mut self.socket, self.bridge);
        let looked = match settled(socket, host_end, bridge) {
            Ok(false) => retry_on_link_changes(wait, || settled(socket, host_end, bridge)),
            done => done,
        };
        let looked = match looked {
            // The container has ended meanwhile.
            Err(Errno::NODEV) => Ok(false),
            looked => looked,
        };
        looked.map_err(cannot("look at a container's network link"))
    }

    /// Removes a container's link, both ends. One that is gone is fine. The end of the namespace does it too, but
    /// later, in the kernel's background.
    pub fn detach(&mut self, host_end: &LinkName) -> Result<(), NetworkError> {
        delete_link(&mut self.socket, host_end)
    }
}

fn delete_link(socket: &mut Socket, name: &LinkName) -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    batch.message(RTM_DELLINK, ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name.as_str());
    match socket.exchange(&mut batch) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Ok(()),
        Err(errno) => Err(cannot("remove a network link")(errno)),
    }
}

/// Configures the calling thread's network namespace from inside: loopback up and, with an `address`, `eth0` given
/// it and the default route. Waits up to `wait` for `eth0` when [`Attacher::attach`] has not made it yet.
/// Needs to be root of the user namespace that owns the network namespace.
pub fn configure_inside(address: Option<&Address>, wait: Duration) -> Result<(), NetworkError> {
    let mut socket = Socket::route().map_err(cannot("open a netlink socket"))?;
    match configure(&mut socket, address) {
        Err(Errno::NODEV) => {}
        done => return done.map_err(cannot("configure the container's network")),
    }
    let done = retry_on_link_changes(wait, || match configure(&mut socket, address) {
        Err(Errno::NODEV) => Ok(false),
        done => done.map(|()| true),
    });
    match done.map_err(cannot("configure the container's network"))? {
        true => Ok(()),
        false => Err(NetworkError::NoLink(wait)),
    }
}

/// Whether a container's link and the bridge it is on pass packets.
fn settled(socket: &mut Socket, host_end: &LinkName, bridge: u32) -> Result<bool, Errno> {
    let mut batch = Batch::new();
    let without_counters = RTEXT_FILTER_SKIP_STATS;
    batch.message(RTM_GETLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, host_end.as_str());
    batch.u32(IFLA_EXT_MASK, without_counters);
    batch.message(RTM_GETLINK, ACK, &link_header(bridge, 0, 0)).u32(IFLA_EXT_MASK, without_counters);
    let mut up = 0;
    socket.exchange_with(&mut batch, |Answer { body, .. }| {
        up += usize::from(Link::read(body).is_some_and(|link| link.state == OPERSTATE_UP));
    })?;
    Ok(up == 2)
}

/// Between looks that nothing asked for: changes are heard of in the caller's namespace only, and links may be in
/// another.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Tries until `attempt` gives true, again at every change of a link, for at most `wait`.
fn retry_on_link_changes(wait: Duration, mut attempt: impl FnMut() -> Result<bool, Errno>) -> Result<bool, Errno> {
    // Listen first, then look: what comes after the look is heard.
    let mut listener = Socket::open(None, RTMGRP_LINK)?;
    let started = Instant::now();
    loop {
        if attempt()? {
            return Ok(true);
        }
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        let pause = left.min(LOOK_AGAIN);
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        let fd = listener.as_fd();
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => {
                listener.drain()?;
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// `NODEV` when `eth0` is not there.
fn configure(socket: &mut Socket, address: Option<&Address>) -> Result<(), Errno> {
    let mut batch = Batch::new();
    let Some(address) = address else {
        batch.message(RTM_NEWLINK, ACK, &link_header(LOOPBACK, IFF_UP, IFF_UP));
        return socket.exchange(&mut batch);
    };
    let inside = find(socket, INSIDE)?.ok_or(Errno::NODEV)?.index;
    add_address(&mut batch, address.ip, address.prefix, inside, 0);
    batch.message(RTM_NEWLINK, 0, &link_header(inside, IFF_UP, IFF_UP));
    batch.message(RTM_NEWLINK, 0, &link_header(LOOPBACK, IFF_UP, IFF_UP));
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags
    let header = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
    batch
        .message(RTM_NEWROUTE, CREATE | ACK, &header)
        .attr(RTA_GATEWAY, &address.gateway.octets())
        .u32(RTA_OIF, inside);
    socket.exchange(&mut batch)
}

/// A link as the kernel describes it.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) kind: String,
    mtu: u32,
    state: u8,
}

impl Link {
    fn read(body: &[u8]) -> Option<Self> {
        let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let mut link = Self { index, ..Self::default() };
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                IFLA_MTU => link.mtu = u32::from_ne_bytes(value.try_into().ok()?),
                IFLA_OPERSTATE => link.state = *value.first()?,
                IFLA_LINKINFO => {
                    let name = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    let text = name.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
                    text.trim_end_matches('\0').clone_into(&mut link.kind);
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

fn find_index(socket: &mut Socket, index: u32) -> Result<Link, Errno> {
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

/// Gives the bridge its address and sets it up; both may be so already.
pub(crate) fn raise(socket: &mut Socket, index: u32, subnet: Subnet4) -> Result<(), Errno> {
    let mut batch = Batch::new();
    add_address(&mut batch, subnet.gateway(), subnet.prefix(), index, EXCLUSIVE | ACK);
    match socket.exchange(&mut batch) {
        Ok(()) => {}
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let mut batch = Batch::new();
    batch.message(RTM_NEWLINK, ACK, &link_header(index, IFF_UP, IFF_UP));
    socket.exchange(&mut batch)
}

pub(crate) fn remove(socket: &mut Socket, name: &LinkName) -> Result<(), NetworkError> {
    delete_link(socket, name)
}

/// Every IPv4 subnet that an address of this machine is in, with the link's index.
pub(crate) fn address_subnets(socket: &mut Socket) -> Result<Vec<(u32, Ipv4Addr, Subnet4)>, Errno> {
    let mut batch = Batch::new();
    batch.message(RTM_GETADDR, DUMP, &address_header(0, 0));
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
