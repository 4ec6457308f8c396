//! Containers on a bridge reach each other and the host. The bridge is the test's own, made and removed by `ip`.

#[path = "rig/bridge.rs"]
#[allow(dead_code, unreachable_pub)]
mod bridge;
#[allow(dead_code, unreachable_pub)]
mod rig;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use bridge::Bridge;
use coppice_container::Network;
use coppice_launcher::protocol::Request;
use rig::{Rig, why};

/// A packet that is lost is sent again after a second; on a busy machine, a whole start takes a fraction of that.
const PROMPT: Duration = Duration::from_millis(700);

#[test]
fn containers_on_a_bridge_have_an_address_a_route_and_each_other() {
    let rig = Rig::new();
    let bridge = Bridge::new(57);
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
            Command::new("ip").args(["-o", "link", "show", "master", &bridge.name]).output().expect("ip").stdout,
        )
    };
    rig::wait_for("the links to go", || links().is_ok_and(|links| links.is_empty()));
}

#[test]
fn a_container_loses_no_packet_however_early_it_sends() {
    let rig = Rig::new();
    let bridge = Bridge::new(58);
    let listener = TcpListener::bind((bridge.gateway(), 0)).expect("the gateway's address");
    let port = listener.local_addr().expect("a port").port().to_string();
    // It ends with the test's process.
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"hello"))));
    let gateway = bridge.gateway().to_string();
    for _ in 0..30 {
        // The first action of the container's first program, on a bridge that has no other link.
        let mut config = rig.config(&["/bin/nc", &gateway, &port]);
        bridge.put(&mut config, 2);
        let begun = Instant::now();
        assert_eq!(rig.run(&config).ok(), "hello\n");
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    }
    let mut other = rig.config(&["/bin/sleep", "1000"]);
    bridge.put(&mut other, 3);
    rig.connect(true).start(&other);
    for _ in 0..30 {
        let mut config = rig.config(&["/bin/nc", "10.213.58.3", "80"]);
        bridge.put(&mut config, 2);
        let begun = Instant::now();
        // Nothing listens there, which the other's kernel says at once when it is asked.
        let done = rig.run(&config);
        assert!(done.stderr.contains("refused"), "{}", done.stderr);
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_container_is_reached_as_soon_as_it_is_said_to_have_started() {
    let rig = Rig::new();
    let bridge = Bridge::new(59);
    let mut daemon = rig.connect(true);
    for _ in 0..30 {
        let mut config = rig.config(&["/bin/sleep", "1000"]);
        bridge.put(&mut config, 2);
        daemon.start(&config);
        // Nothing listens there, which the container says at once when it is asked.
        let begun = Instant::now();
        let refused = TcpStream::connect_timeout(&SocketAddr::new(bridge.address(2).into(), 80), PROMPT);
        assert_eq!(refused.map_err(|e| e.kind()).err(), Some(std::io::ErrorKind::ConnectionRefused));
        assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        let id = config.id.clone();
        daemon.ask(Request::Signal { id, exec: None, signal: libc::SIGKILL, all: false });
        daemon.exit_of(&config.id);
    }
}

#[test]
fn a_start_that_fails_on_a_bridge_says_why() {
    let rig = Rig::new();
    let bridge = Bridge::new(56);
    // It fails between configuring its network and hearing that it is settled, in either order.
    for _ in 0..30 {
        let mut config = rig.config(&["/bin/true"]);
        bridge.put(&mut config, 2);
        config.process.user = "nosuchuser".to_owned();
        let why = why(&rig.refused(&config));
        assert!(why.contains("nosuchuser"), "{why}");
    }
    rig.nothing_left();
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
