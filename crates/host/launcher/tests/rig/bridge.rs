//! A bridge of a test's own, made and removed by `ip`.

use std::net::Ipv4Addr;
use std::process::Command;

use coppice_container::{ContainerConfig, Network};

/// A bridge at 10.213.`net`.1/24.
pub struct Bridge {
    pub name: String,
    net: u8,
}

impl Bridge {
    /// `net`: no two tests have the same, because they run at the same time on one machine.
    pub fn new(net: u8) -> Self {
        let bridge = Self { name: format!("clt{net}-{}", std::process::id()), net };
        let name = bridge.name.as_str();
        let gateway = format!("{}/24", bridge.gateway());
        ip(&["link", "add", name, "type", "bridge"]);
        ip(&["address", "add", &gateway, "dev", name]);
        ip(&["link", "set", name, "up"]);
        bridge
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.net, last)
    }

    /// Puts a container on the bridge.
    pub fn put(&self, config: &mut ContainerConfig, last: u8) {
        config.network = Network::Bridge {
            bridge: self.name.clone(),
            host_device: coppice_network::host_link(config.id.as_str()).as_str().to_owned(),
            address: self.address(last),
            prefix: 24,
            gateway: self.gateway(),
        };
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().expect("ip").success(), "ip {arguments:?}");
}
