//! The node's name server, at the bridge's own addresses: containers find the IPv4 one first in their resolv.conf.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use coppice_base::Name;
use coppice_dns::{
    App, Config, Instance, ListenError, Listeners, Server, Service, StartError, Subnet, Zone, ZoneError, ZoneSpec,
};
use coppice_network::Subnet6;
use coppice_spec::{Protocol, ServiceSpec};

use crate::traffic::Present;

/// The port of DNS.
const PORT: u16 = 53;

/// A server that answers; dropped, it does no more.
pub(crate) struct NameServer {
    server: Server,
    subnets: Vec<Subnet>,
    subnet6: Option<Subnet6>,
    serial: u32,
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
}

impl NameServer {
    /// Answers at `gateway`, for the subnet of `prefix` bits around it, and at `gateway6` for the one around that.
    pub(crate) fn start(
        gateway: Ipv4Addr,
        prefix: u8,
        gateway6: Option<Ipv6Addr>,
        apps: &BTreeMap<Name, Present>,
    ) -> Result<Self, NameError> {
        let subnet6 = gateway6.and_then(|gateway| Subnet6::around(gateway).ok());
        let mut subnets = vec![Subnet { address: IpAddr::V4(gateway), prefix }];
        let six = gateway6.zip(subnet6);
        subnets.extend(six.map(|(gateway, of)| Subnet { address: IpAddr::V6(gateway), prefix: of.prefix() }));
        let at: Vec<SocketAddr> = subnets.iter().map(|subnet| SocketAddr::new(subnet.address, PORT)).collect();
        let listeners = Listeners::bind(&at, 1)?;
        let server = Server::start(Config::new(listeners), zone(apps, &subnets, subnet6, 1)?)?;
        Ok(Self { server, subnets, subnet6, serial: 1 })
    }

    pub(crate) fn metrics(&self) -> coppice_dns::Metrics {
        self.server.metrics()
    }

    pub(crate) fn update(&mut self, apps: &BTreeMap<Name, Present>) {
        self.serial = self.serial.wrapping_add(1);
        match zone(apps, &self.subnets, self.subnet6, self.serial) {
            Ok(zone) => self.server.update(zone),
            Err(error) => tracing::warn!(%error, "the names of before are answered"),
        }
    }
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
    let here = present.instances.get(name).map_or(&[][..], Vec::as_slice);
    let instance = here.iter().map(|instance| Instance {
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
