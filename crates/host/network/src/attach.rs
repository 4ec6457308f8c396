//! A container's link to a bridge.
//!
//! Two exchanges on the host make it: a veth pair whose near end is born enslaved to the bridge, and whose far end is born
//! inside the container's namespace with its name; then what the near end's port may do. The container's side is one
//! question (its link's index, which the kernel lets only both ends' maker choose) and one batch.
//!
//! Nothing is asked or announced on the link: both ends know each other's hardware address, which follows from the
//! IPv4 one. The port takes frames from that hardware address alone (LOCKED, with the one entry of its table), so that
//! who sends is known by it, and passes none to other ports (ISOLATED): containers reach each other through the host's
//! IP stack only. Where bridged frames pass IP's hooks themselves (br_netfilter, `bridge-nf-call-iptables`), a packet
//! whose destination is rewritten to another port of the bridge is bridged there and then; an isolated port would lose
//! it. There, ports are not isolated, the bridge's frames are made to pass the hooks for good, and the rules see to
//! what does not pass through the host.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::address::{Address, LinkName};
use crate::error::{NetworkError, cannot};
use crate::link::{
    IFF_UP, IFLA_ADDRESS, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, Link, RTM_GETLINK, RTM_NEWLINK, add_address,
    add_default_route, add_local_route, add_neighbour, add_station, delete_link, find, find_index, link_header,
    no_link_local,
};
use crate::netlink::{ACK, Answer, Batch, CREATE, EXCLUSIVE, Socket};
use crate::sysctl::Hooks;

const IFLA_NET_NS_PID: u16 = 19;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const VETH_INFO_PEER: u16 = 1;
/// Send back by the port what came from it.
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_GUARD: u16 = 5;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_ISOLATED: u16 = 33;
/// Since Linux 5.18.
const IFLA_BRPORT_LOCKED: u16 = 39;

const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const RTMGRP_LINK: u32 = 1;
/// The loopback link's index in every network namespace.
const LOOPBACK: u32 = 1;
/// What the kernel gives Ethernet links (`ETH_DATA_LEN`).
const DEFAULT_MTU: u32 = 1500;
/// The name of a container's link, inside.
const INSIDE: &str = "eth0";

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
    hooked: bool,
}

impl Attacher {
    /// For the bridge with this index in the calling thread's network namespace.
    pub fn open(bridge_index: u32) -> Result<Self, NetworkError> {
        let mut socket = Socket::route().map_err(cannot("open a netlink socket"))?;
        let bridge = find_index(&mut socket, bridge_index).map_err(cannot("find the bridge"))?;
        let mtu = Some(bridge.mtu).filter(|mtu| *mtu != DEFAULT_MTU);
        Ok(Self { socket, bridge: bridge_index, mtu, hooked: Hooks::open().are_on() })
    }

    /// Makes the link of a container: `host_end` on the bridge and up, `eth0` inside. The container's side is
    /// then to be done by [`configure_inside`]. Four system calls.
    pub fn attach(&mut self, netns: Netns<'_>, host_end: &LinkName, address: &Address) -> Result<(), NetworkError> {
        let failed = cannot("make a container's network link");
        let mut batch = Batch::new();
        batch
            .message(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, host_end.as_str())
            .u32(IFLA_MASTER, self.bridge)
            // How rules know the ports of a bridge.
            .u32(IFLA_GROUP, self.bridge)
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
        add_neighbour(&mut batch, self.bridge, address.ip.into(), address.mac());
        if let Some(v6) = address.v6 {
            add_neighbour(&mut batch, self.bridge, v6.ip.into(), address.mac());
        }
        ask_ends(&mut batch, host_end, self.bridge);
        let (mut port, mut hooked) = (None, self.hooked);
        let bridge = self.bridge;
        let made = self.socket.exchange_with(&mut batch, |Answer { body, .. }| match Link::read(body) {
            Some(link) if link.index == bridge => hooked |= link.hooked,
            Some(link) => port = Some(link.index),
            None => {}
        });
        let port = match (made, port) {
            (Ok(()), Some(port)) => port,
            (Ok(()), None) => return Err(failed(Errno::NODEV)),
            (Err(errno), _) => return Err(failed(errno)),
        };
        let mut batch = Batch::new();
        // Up only now: it would join groups and look for routers, in the container's ear.
        no_link_local(&mut batch, port);
        set_port(&mut batch, port, hooked);
        add_station(&mut batch, port, address.mac());
        batch.acknowledge();
        self.socket.exchange(&mut batch).map_err(|errno| {
            // Not left to pass more than it may. If this fails too, the namespace's end removes it.
            let _ = self.detach(host_end);
            failed(errno)
        })
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

/// Asks for a container's link and the bridge.
fn ask_ends(batch: &mut Batch, host_end: &LinkName, bridge: u32) {
    let without_counters = RTEXT_FILTER_SKIP_STATS;
    batch.message(RTM_GETLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, host_end.as_str());
    batch.u32(IFLA_EXT_MASK, without_counters);
    batch.message(RTM_GETLINK, ACK, &link_header(bridge, 0, 0)).u32(IFLA_EXT_MASK, without_counters);
}

/// Sets a container's port up, and what it may do; `hooked`: bridged frames pass IP's hooks.
pub(crate) fn set_port(batch: &mut Batch, port: u32, hooked: bool) {
    batch.message(RTM_NEWLINK, 0, &link_header(port, IFF_UP, IFF_UP)).nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            for no in
                [IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD]
            {
                data.attr(no, &[0]);
            }
            for yes in [IFLA_BRPORT_LOCKED, IFLA_BRPORT_GUARD] {
                data.attr(yes, &[1]);
            }
            data.attr(IFLA_BRPORT_ISOLATED, &[u8::from(!hooked)]).attr(IFLA_BRPORT_MODE, &[u8::from(hooked)]);
        });
    });
}

/// Whether a container's link and the bridge it is on pass packets.
fn settled(socket: &mut Socket, host_end: &LinkName, bridge: u32) -> Result<bool, Errno> {
    let mut batch = Batch::new();
    ask_ends(&mut batch, host_end, bridge);
    let mut up = 0;
    socket.exchange_with(&mut batch, |Answer { body, .. }| {
        up += usize::from(Link::read(body).is_some_and(|link| link.is_up()));
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
                listener.drain(None)?;
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
    let addresses = [
        Some((IpAddr::V4(address.ip), 32, IpAddr::V4(address.gateway))),
        address.v6.map(|v6| (v6.ip.into(), 128, v6.gateway.into())),
    ];
    if address.v6.is_some() {
        no_link_local(&mut batch, inside);
    }
    batch.message(RTM_NEWLINK, 0, &link_header(inside, IFF_UP, IFF_UP));
    for (ip, prefix, gateway) in addresses.into_iter().flatten() {
        add_address(&mut batch, ip, prefix, inside, 0);
        if let IpAddr::V6(ip) = ip {
            add_local_route(&mut batch, ip, inside);
        }
        add_neighbour(&mut batch, inside, gateway, address.gateway_mac());
        add_default_route(&mut batch, gateway, inside);
    }
    batch.message(RTM_NEWLINK, ACK, &link_header(LOOPBACK, IFF_UP, IFF_UP));
    socket.exchange(&mut batch)
}
