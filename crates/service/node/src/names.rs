//! The node's name server, at the bridge's own address: containers find it first in their resolv.conf.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coppice_base::Name;
use coppice_dns::{
    App, Config, Instance, ListenError, Listeners, Server, Service, StartError, Subnet, Zone, ZoneError, ZoneSpec,
};
use coppice_spec::{Protocol, ServiceSpec};

use crate::traffic::Present;

/// The port of DNS.
const PORT: u16 = 53;

/// A server that answers; dropped, it does no more.
pub(crate) struct NameServer {
    server: Server,
    subnet: Subnet,
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
    /// Answers at `gateway`, for the subnet of `prefix` bits around it.
    pub(crate) fn start(gateway: Ipv4Addr, prefix: u8, apps: &BTreeMap<Name, Present>) -> Result<Self, NameError> {
        let subnet = Subnet { address: IpAddr::V4(gateway), prefix };
        let listeners = Listeners::bind(&[SocketAddr::new(subnet.address, PORT)], 1)?;
        let server = Server::start(Config::new(listeners), zone(apps, subnet, 1)?)?;
        Ok(Self { server, subnet, serial: 1 })
    }

    pub(crate) fn metrics(&self) -> coppice_dns::Metrics {
        self.server.metrics()
    }

    pub(crate) fn update(&mut self, apps: &BTreeMap<Name, Present>) {
        self.serial = self.serial.wrapping_add(1);
        match zone(apps, self.subnet, self.serial) {
            Ok(zone) => self.server.update(zone),
            Err(error) => tracing::warn!(%error, "the names of before are answered"),
        }
    }
}

fn zone(apps: &BTreeMap<Name, Present>, subnet: Subnet, serial: u32) -> Result<Zone, ZoneError> {
    let app = |(name, present): (&Name, &Present)| App {
        name: name.clone(),
        services: present.spec().services.iter().map(|(name, service)| names_of(name, service, present)).collect(),
        // Workers ask too, but nobody asks for them.
        clients: (present.instances.iter())
            .filter(|(name, _)| !present.spec().services.contains_key(*name))
            .flat_map(|(_, here)| here.iter().map(|instance| IpAddr::V4(instance.address)))
            .collect(),
    };
    let apps = apps.iter().map(app).collect();
    Zone::new(&ZoneSpec { serial, servers: vec![subnet.address], subnets: vec![subnet], apps, ..ZoneSpec::default() })
}

fn names_of(name: &Name, service: &ServiceSpec, present: &Present) -> Service {
    let here = present.instances.get(name).map_or(&[][..], Vec::as_slice);
    let instance = here.iter().map(|instance| Instance {
        index: instance.index,
        addresses: vec![IpAddr::V4(instance.address)],
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
        virtual_addresses: Vec::new(),
        headless: service.headless,
        instances: instance.collect(),
        ports: port.collect(),
    }
}
