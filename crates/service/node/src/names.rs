//! The node's name server, at the bridge's own addresses: containers find the IPv4 one first in their resolv.conf.

mod kernel;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use coppice_base::Name;
use coppice_dns::{
    App, Config, Instance, ListenError, Listeners, Server, Service, StartError, Subnet, Zone, ZoneError, ZoneSpec,
};
use coppice_network::Subnet6;
use coppice_spec::{Protocol, ServiceSpec};

pub(crate) use crate::names::kernel::KernelNames;
use crate::traffic::Present;

/// The port of DNS.
const PORT: u16 = 53;
/// Most threads for each of its addresses: as many as containers of one machine keep busy.
const THREADS_MAX: usize = 4;

/// A server that answers; dropped, it does no more.
pub(crate) struct NameServer {
    server: Server,
    /// The same sockets once more, for whoever holds them while there is no daemon.
    sockets: Listeners,
    subnets: Vec<Subnet>,
    subnet6: Option<Subnet6>,
    serial: u32,
    /// The same names, for the kernel.
    kernel: Arc<KernelNames>,
}

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Zone(#[from] ZoneError),
    #[error("no descriptors are left: {0}")]
    Descriptors(#[from] std::io::Error),
}

impl NameServer {
    /// Answers at `gateway`, for the subnet of `prefix` bits around it, and at `gateway6` for the one around that; through
    /// those of `sockets` that are at these addresses: an earlier server's.
    pub(crate) fn start(
        gateway: Ipv4Addr,
        prefix: u8,
        gateway6: Option<Ipv6Addr>,
        apps: &BTreeMap<Name, Present>,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, NameError> {
        let subnet6 = gateway6.and_then(|gateway| Subnet6::around(gateway).ok());
        let mut subnets = vec![Subnet { address: IpAddr::V4(gateway), prefix }];
        let six = gateway6.zip(subnet6);
        subnets.extend(six.map(|(gateway, of)| Subnet { address: IpAddr::V6(gateway), prefix: of.prefix() }));
        let mut at: Vec<SocketAddr> = subnets.iter().map(|subnet| SocketAddr::new(subnet.address, PORT)).collect();
        let mut sockets: Vec<OwnedFd> = sockets.into_iter().filter(|socket| is_at(socket, &at)).collect();
        at.retain(|address| !sockets.iter().any(|socket| is_at(socket, &[*address])));
        // A thread for each processor: the kernel spreads askers over them.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        sockets.extend(owned(&Listeners::bind(&at, threads)?)?);
        let listeners = Listeners::from_fds(sockets)?;
        let sockets = listeners.try_clone()?;
        let zone = zone(apps, &subnets, subnet6, 1)?;
        let kernel = Arc::new(KernelNames::of(&zone));
        let server = Server::start(Config::new(listeners), zone)?;
        Ok(Self { server, sockets, subnets, subnet6, serial: 1, kernel })
    }

    /// What the kernel is to answer.
    pub(crate) fn kernel(&self) -> Arc<KernelNames> {
        self.kernel.clone()
    }

    pub(crate) fn sockets(&self) -> std::io::Result<Vec<OwnedFd>> {
        owned(&self.sockets)
    }

    pub(crate) fn metrics(&self) -> coppice_dns::Metrics {
        self.server.metrics()
    }

    pub(crate) fn update(&mut self, apps: &BTreeMap<Name, Present>) {
        self.serial = self.serial.wrapping_add(1);
        match zone(apps, &self.subnets, self.subnet6, self.serial) {
            Ok(zone) => {
                self.kernel = Arc::new(KernelNames::of(&zone));
                self.server.update(zone);
            }
            Err(error) => tracing::warn!(%error, "the names of before are answered"),
        }
    }
}

fn is_at(socket: &OwnedFd, addresses: &[SocketAddr]) -> bool {
    let address = rustix::net::getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
    address.is_some_and(|address| addresses.contains(&address))
}

fn owned(listeners: &Listeners) -> std::io::Result<Vec<OwnedFd>> {
    listeners.fds().iter().map(BorrowedFd::try_clone_to_owned).collect()
}

/// A container's addresses.
fn addresses(address: Ipv4Addr, subnet6: Option<Subnet6>) -> impl Iterator<Item = IpAddr> {
    [Some(IpAddr::V4(address)), subnet6.map(|of| of.address(address).into())].into_iter().flatten()
}

fn zone(
    apps: &BTreeMap<Name, Present>,
    subnets: &[Subnet],
    subnet6: Option<Subnet6>,
    serial: u32,
) -> Result<Zone, ZoneError> {
    let app = |(name, present): (&Name, &Present)| App {
        name: name.clone(),
        services: (present.spec().services.iter())
            .map(|(name, service)| names_of(name, service, present, subnet6))
            .collect(),
        // Workers ask too, but nobody asks for them.
        clients: (present.instances.iter())
            .filter(|(name, _)| !present.spec().services.contains_key(*name))
            .flat_map(|(_, here)| here.iter().flat_map(|instance| addresses(instance.address, subnet6)))
            .collect(),
    };
    let apps = apps.iter().map(app).collect();
    let servers = subnets.iter().map(|subnet| subnet.address).collect();
    Zone::new(&ZoneSpec { serial, servers, subnets: subnets.to_vec(), apps, ..ZoneSpec::default() })
}

fn names_of(name: &Name, service: &ServiceSpec, present: &Present, subnet6: Option<Subnet6>) -> Service {
    let instance = present.own(name.as_str()).map(|instance| Instance {
        index: instance.index,
        addresses: addresses(instance.address, subnet6).collect(),
        ready: instance.ready && !instance.leaving,
    });
    let port = service.ports.iter().map(|port| coppice_dns::Port {
        // Ports have no names of their own; a number makes `_8080._tcp.web`.
        name: port.container.to_string(),
        protocol: match port.protocol {
            Protocol::Tcp => coppice_dns::Protocol::Tcp,
            Protocol::Udp => coppice_dns::Protocol::Udp,
        },
        port: port.container,
    });
    Service {
        name: name.clone(),
        virtual_addresses: present.addresses.get(name).cloned().unwrap_or_default(),
        headless: service.headless,
        instances: instance.collect(),
        ports: port.collect(),
    }
}
