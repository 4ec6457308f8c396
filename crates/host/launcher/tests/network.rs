//! Containers on a bridge reach each other and the host. The bridge is the test's own, made and removed by `ip`.

#[path = "rig/bridge.rs"]
#[allow(dead_code, unreachable_pub)]
mod bridge;
#[allow(dead_code, unreachable_pub)]
mod rig;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use bridge::Bridge;
use coppice_container::Network;
use coppice_launcher::protocol::Request;
use rig::{Rig, why};

/// What a network namespace sends once to a neighbour it does not know, as the kernel counts it: from 3 on, which is
/// `ucast_solicit`.
const ASKED_ONCE: u64 = 4;

/// How many packets of a network namespace were lost, by its `/proc/net/snmp` and `ip -s neigh`: TCP sends one again
/// after a second, and so does ARP, whatever else the machine has to do meanwhile.
fn lost(said: &str) -> u64 {
    let mut tcp = said.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(|line| line.split(' '));
    let (names, values) = (tcp.next().expect("names"), tcp.next().expect("values"));
    let (_, value) = names.zip(values).find(|(name, _)| *name == "RetransSegs").expect("RetransSegs");
    let number =
        |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    let asked: Vec<u64> = said.split("probes ").skip(1).map(number).collect();
    assert!(!asked.is_empty(), "no neighbour in {said}");
    number(value) + asked.iter().map(|times| times.saturating_sub(ASKED_ONCE)).sum::<u64>()
}

/// Connects, and says of its own network namespace what it counted until the connection stood.
fn connects_to<'a>(address: &'a str, port: &'a str) -> [&'a str; 7] {
    ["/bin/nc", address, port, "-e", "/bin/sh", "-c", "(cat /proc/net/snmp; ip neigh) >&2"]
}

#[test]
fn containers_on_a_bridge_have_an_address_a_route_and_each_other() {
    let bridge = Bridge::new();
    let rig = Rig::new();
    let mut server = rig.config(&["/bin/nc", "-l", "-p", "8080", "-e", "echo", "hello"]);
    bridge.put(&mut server, 2);
    let mut daemon = rig.connect(true);
    daemon.start(&server);
    let gateway6 = bridge.address6(1);
    let listener = TcpListener::bind((gateway6, 0)).expect("the gateway's IPv6 address");
    let port = listener.local_addr().expect("a port").port();
    // It ends with the test's process.
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"six\n"))));
    let script = format!(
        "ip -o addr show eth0 | awk '{{print $4}}'; ip route | head -1; nc -w 5 {gateway6} {port}; \
         for i in $(seq 100); do nc -w 2 10.213.0.2 8080 && break; sleep 0.1; done"
    );
    let mut client = rig.config(&["/bin/sh", "-c", &script]);
    bridge.put(&mut client, 3);
    let done = rig.run(&client);
    let address6 = bridge.address6(3);
    assert_eq!(done.ok(), format!("10.213.0.3/32\n{address6}/128\ndefault via 10.213.0.1 dev eth0 \nsix\nhello\n"));
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
    let bridge = Bridge::new();
    let rig = Rig::new();
    let listener = TcpListener::bind((bridge.gateway(), 0)).expect("the gateway's address");
    let port = listener.local_addr().expect("a port").port().to_string();
    // It ends with the test's process.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let gateway = bridge.gateway().to_string();
    for _ in 0..30 {
        // The first action of the container's first program, on a bridge that has no other link.
        let mut config = rig.config(&connects_to(&gateway, &port));
        bridge.put(&mut config, 2);
        assert_eq!(lost(&rig.run(&config).stderr), 0);
    }
    let mut other = rig.config(&["/bin/nc", "-ll", "-p", "80", "-e", "/bin/true"]);
    bridge.put(&mut other, 3);
    rig.connect(true).start(&other);
    rig::wait_for("the other to listen", || TcpStream::connect((bridge.address(3), 80)).is_ok());
    for _ in 0..30 {
        let mut config = rig.config(&connects_to("10.213.0.3", "80"));
        bridge.put(&mut config, 2);
        assert_eq!(lost(&rig.run(&config).stderr), 0);
    }
}

#[test]
fn a_container_is_reached_as_soon_as_it_is_said_to_have_started() {
    let bridge = Bridge::new();
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    for _ in 0..30 {
        let mut config = rig.config(&["/bin/sleep", "1000"]);
        bridge.put(&mut config, 2);
        daemon.start(&config);
        // What the kernel has learnt and counted of the last container, which had the same address.
        Command::new("ip").args(["neigh", "flush", "dev", &bridge.name]).status().expect("ip");
        // Nothing listens there, which the container says at once when it is asked.
        let refused = TcpStream::connect(SocketAddr::new(bridge.address(2).into(), 80));
        assert_eq!(refused.map_err(|e| e.kind()).err(), Some(std::io::ErrorKind::ConnectionRefused));
        // Nobody else sends in this thread's namespace.
        let counted = std::fs::read("/proc/thread-self/net/snmp").expect("snmp");
        let neighbours = Command::new("ip").args(["-s", "neigh"]).output().expect("ip").stdout;
        assert_eq!(lost(&String::from_utf8_lossy(&[counted, neighbours].concat())), 0);
        let id = config.id.clone();
        daemon.ask(Request::Signal { id, exec: None, signal: libc::SIGKILL, all: false });
        daemon.exit_of(&config.id);
    }
}

#[test]
fn a_start_that_fails_on_a_bridge_says_why() {
    let bridge = Bridge::new();
    let rig = Rig::new();
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
        address: Ipv4Addr::new(10, 213, 0, 2),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 213, 0, 1),
        v6: None,
    };
    let why = why(&rig.refused(&config));
    assert!(why.contains("network") && why.contains("nosuchbridge0"), "{why}");
    rig.nothing_left();
}
