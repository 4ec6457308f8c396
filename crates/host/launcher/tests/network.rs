//! Containers on a bridge reach each other. The bridge is the test's own, made and removed by `ip`.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::net::Ipv4Addr;
use std::process::Command;

use coppice_container::{ContainerConfig, Network};
use rig::{Rig, why};

struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        let name = format!("clt{}", std::process::id());
        for arguments in [&["link", "add", &name, "type", "bridge"][..], &["link", "set", &name, "up"]] {
            assert!(Command::new("ip").args(arguments).status().expect("ip").success());
        }
        Self(name)
    }

    fn put(&self, config: &mut ContainerConfig, last: u8) {
        config.network = Network::Bridge {
            bridge: self.0.clone(),
            host_device: coppice_network::host_link(config.id.as_str()).as_str().to_owned(),
            address: Ipv4Addr::new(10, 213, 57, last),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 213, 57, 1),
        };
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[test]
fn containers_on_a_bridge_have_an_address_a_route_and_each_other() {
    let rig = Rig::new();
    let bridge = Bridge::new();
    let mut server = rig.config(&["/bin/nc", "-l", "-p", "8080", "-e", "echo", "hello"]);
    bridge.put(&mut server, 2);
    let mut daemon = rig.connect(true);
    daemon.start(&server);
    let script = "ip -4 -o addr show eth0 | awk '{print $4}'; ip route | head -1; \
                  for i in 1 2 3 4 5 6 7 8 9; do nc -w 2 10.213.57.2 8080 && break; done";
    let mut client = rig.config(&["/bin/sh", "-c", script]);
    bridge.put(&mut client, 3);
    let done = rig.run(&client);
    assert_eq!(done.ok(), "10.213.57.3/24\ndefault via 10.213.57.1 dev eth0 \nhello\n");
    assert_eq!(daemon.exit_of(&server.id).code, 0);
    // The links go with their namespaces.
    let links = || {
        String::from_utf8(
            Command::new("ip").args(["-o", "link", "show", "master", &bridge.0]).output().expect("ip").stdout,
        )
    };
    rig::wait_for("the links to go", || links().is_ok_and(|links| links.is_empty()));
}

#[test]
fn a_bridge_that_is_not_there_is_named() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/true"]);
    config.network = Network::Bridge {
        bridge: "nosuchbridge0".to_owned(),
        host_device: "cvnone".to_owned(),
        address: Ipv4Addr::new(10, 213, 58, 2),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 213, 58, 1),
    };
    let why = why(&rig.refused(&config));
    assert!(why.contains("network") && why.contains("nosuchbridge0"), "{why}");
    rig.nothing_left();
}
