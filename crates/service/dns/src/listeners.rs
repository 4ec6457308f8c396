//! The sockets questions come to. They can outlive a server: another process may hold them while ours restarts, and
//! what is asked meanwhile waits in them instead of being lost.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// Bytes of questions (as the kernel counts them) that may wait in each UDP socket: some thousands, so that a burst of
/// all clients is not lost.
const WAITING_BYTES: usize = 4 << 20;
/// Ports tried when any will do (port 0, for tests): one free for UDP may be taken for TCP.
const PORT_TRIES: usize = 32;
/// Connections that may wait to be taken.
const BACKLOG: i32 = 128;

/// Bound sockets of a server.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: Vec<TcpListener>,
}

/// Why sockets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen for DNS on {address} ({protocol}): {source}; see who does with `ss -lnp sport = :{}`", .address.port())]
    Bind { address: SocketAddr, protocol: &'static str, source: io::Error },
    #[error("a socket handed over for DNS is neither UDP nor listening TCP: {0}")]
    Kind(io::Error),
}

impl Listeners {
    /// Binds each address for UDP, `threads` (at least 1) sockets each, and TCP. The kernel spreads clients over the
    /// sockets of one address. An address that the machine is about to get may be bound already; one that somebody
    /// else serves may not.
    pub fn bind(addresses: &[SocketAddr], threads: usize) -> Result<Self, ListenError> {
        let mut own = Self { udp: Vec::new(), tcp: Vec::new() };
        for address in addresses {
            let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
            let bound = loop {
                tries -= 1;
                match Self::bind_one(*address, threads) {
                    Err(ListenError::Bind { source, .. }) if tries > 0 && source.kind() == io::ErrorKind::AddrInUse => {
                    }
                    other => break other?,
                }
            };
            own.udp.extend(bound.udp);
            own.tcp.extend(bound.tcp);
        }
        Ok(own)
    }

    fn bind_one(mut address: SocketAddr, threads: usize) -> Result<Self, ListenError> {
        let failed = |address, protocol| move |source| ListenError::Bind { address, protocol, source };
        let mut udp = Vec::new();
        for at in 0..threads.max(1) {
            // The first shares with nobody, so that a second server is not let in unseen; then the others join it.
            let socket = bind(address, SocketType::DGRAM, at > 0).map_err(failed(address, "udp"))?;
            sockopt::set_socket_reuseport(&socket, true).map_err(io::Error::from).map_err(failed(address, "udp"))?;
            let socket = UdpSocket::from(socket);
            address = socket.local_addr().map_err(failed(address, "udp"))?;
            udp.push(socket);
        }
        let socket = bind(address, SocketType::STREAM, false).map_err(failed(address, "tcp"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(io::Error::from).map_err(failed(address, "tcp"))?;
        Ok(Self { udp, tcp: vec![TcpListener::from(socket)] })
    }

    /// Sockets that another process held, as [`Listeners::fds`] gave them.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, ListenError> {
        let mut own = Self { udp: Vec::new(), tcp: Vec::new() };
        for fd in fds {
            let failed = |error: rustix::io::Errno| ListenError::Kind(error.into());
            rustix::io::ioctl_fionbio(&fd, true).map_err(failed)?;
            match sockopt::socket_type(&fd).map_err(failed)? {
                SocketType::DGRAM => own.udp.push(UdpSocket::from(fd)),
                SocketType::STREAM if sockopt::socket_acceptconn(&fd).map_err(failed)? => {
                    own.tcp.push(TcpListener::from(fd));
                }
                _ => return Err(ListenError::Kind(io::ErrorKind::InvalidInput.into())),
            }
        }
        Ok(own)
    }

    /// The sockets, to hand to who will hold them. All must be handed on together: the kernel goes on spreading
    /// clients over all that are open.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.udp.iter().map(AsFd::as_fd).chain(self.tcp.iter().map(AsFd::as_fd)).collect()
    }

    /// The addresses they are bound to, each once.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let udp = self.udp.iter().filter_map(|socket| socket.local_addr().ok());
        let mut all: Vec<_> = udp.chain(self.tcp.iter().filter_map(|socket| socket.local_addr().ok())).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The same sockets again, in fds of their own.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            udp: self.udp.iter().map(UdpSocket::try_clone).collect::<Result<_, _>>()?,
            tcp: self.tcp.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?,
        })
    }
}

fn bind(address: SocketAddr, kind: SocketType, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = if kind == SocketType::DGRAM { ipproto::UDP } else { ipproto::TCP };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    match address.ip() {
        IpAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        IpAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    if kind == SocketType::DGRAM {
        sockopt::set_socket_reuseport(&socket, shared)?;
        // Beyond the machine's limit where we may; else as much as it lets us.
        sockopt::set_socket_recv_buffer_size_force(&socket, WAITING_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, WAITING_BYTES))?;
    } else {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
