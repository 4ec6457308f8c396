//! A bridge of a test's own, made by `ip` in a network namespace of the test's own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use coppice_container::{ContainerConfig, Network};
use coppice_linux::NamespaceFlags;
use coppice_network::{Address6, Subnet6};

/// A bridge at 10.213.0.1/24, and the IPv6 address that belongs to it.
pub struct Bridge {
    pub name: String,
}

impl Bridge {
    /// Moves this thread, and the launcher and servers it starts from now on, into a new network namespace and makes
    /// the bridge there: two tests, or two runs of the same, cannot take each other's packets. Goes with the namespace.
    pub fn new() -> Self {
        coppice_linux::unshare(NamespaceFlags::NET).expect("a network namespace");
        // Containers reach each other through the machine, which forwards for them on a node. A new namespace has what the
        // machine's first has, so it is not to be relied on. This is the namespace's own.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        let bridge = Self { name: "clt0".to_owned() };
        let gateway = format!("{}/24", bridge.gateway());
        ip(&["link", "set", "lo", "up"]);
        // Without an address of its own, as a node's bridge has, it takes a port's, and another's when that port goes:
        // what is on its way to the old one then is lost.
        ip(&["link", "add", &bridge.name, "address", "02:c0:0a:d5:00:01", "type", "bridge"]);
        ip(&["address", "add", &gateway, "dev", &bridge.name]);
        let gateway6 = format!("{}/64", bridge.address6(1));
        ip(&["address", "add", &gateway6, "dev", &bridge.name, "nodad"]);
        ip(&["link", "set", &bridge.name, "up"]);
        bridge
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, 0, last)
    }

    pub fn address6(&self, last: u8) -> Ipv6Addr {
        Subnet6::of_key(&self.name).address(self.address(last))
    }

    /// Puts a container on the bridge.
    pub fn put(&self, config: &mut ContainerConfig, last: u8) {
        config.network = Network::Bridge {
            bridge: self.name.clone(),
            host_device: coppice_network::host_link(config.id.as_str()).as_str().to_owned(),
            address: self.address(last),
            prefix: 24,
            gateway: self.gateway(),
            v6: Some(Address6 { ip: self.address6(last), gateway: self.address6(1) }),
        };
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().expect("ip").success(), "ip {arguments:?}");
}
