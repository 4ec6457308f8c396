//! Published ports, as clients beyond the machine reach them.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use coppice_network::{Backend, PortKey, Protocol, Published};

use crate::netspace::{HOST, HOST6, Machine, OUTSIDE, OUTSIDE6, ask_by, wait_until};
use crate::{Container, Dataplane, policy};

const ALL: Option<IpAddr> = None;
const HOSTS: [IpAddr; 2] = [IpAddr::V4(HOST), IpAddr::V6(HOST6)];

/// TCP's and UDP's port of these addresses, to port 80 of these containers.
fn published(host_ip: Option<IpAddr>, host: u16, to: &[&Container]) -> [Published; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| Published {
        key: PortKey { host_ip, protocol, host },
        backends: to.iter().map(|of| Backend { ip: of.address.ip, port: 80 }).collect(),
    })
}

/// As the client is seen that asks this host's address.
fn outside(host: IpAddr) -> IpAddr {
    if host.is_ipv4() { OUTSIDE.into() } else { OUTSIDE6.into() }
}

pub(crate) fn clients_from_outside_reach_published_ports_and_are_seen_by_their_own_addresses(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let server = Container::new(machine, "server");
    plane.set_ports(machine, &published(ALL, 8080, &[&server]));
    for host in HOSTS {
        let from = outside(host);
        let mut connection = machine.outside.connect(host, 8080).unwrap();
        for _ in 0..20 {
            assert_eq!(connection.ask(), Some(format!("server {from}")));
        }
        assert_eq!(machine.outside.ask_udp(host, 8080, 1).unwrap(), format!("server {from}"));
        // By its own ways, too: the host's programs, and the container itself.
        assert!(machine.host.ask(host, 8080).is_some_and(|said| said.starts_with("server")), "{host}");
        assert!(server.space.ask(host, 8080).is_some_and(|said| said.starts_with("server")), "{host}");
    }
}

pub(crate) fn a_port_of_one_address_goes_before_the_same_port_of_all(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, all) = (Container::new(machine, "one"), Container::new(machine, "all"));
    for special in HOSTS {
        let ports = [published(Some(special), 8080, &[&one]), published(ALL, 8080, &[&all])].concat();
        plane.set_ports(machine, &ports);
        for host in HOSTS {
            let is = if host == special { "one" } else { "all" };
            assert_eq!(machine.outside.ask(host, 8080), Some(format!("{is} {}", outside(host))));
            assert!(machine.outside.ask_udp(host, 8080, 1).unwrap().starts_with(is), "{host}");
        }
    }
}

pub(crate) fn connections_stay_where_they_are_when_a_port_changes_and_datagrams_follow_it(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    for (host, any) in HOSTS.into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        plane.set_ports(machine, &published(ALL, 8080, &[&one]));
        let mut connection = machine.outside.connect(host, 8080).unwrap();
        let socket = machine.outside.run(move || UdpSocket::bind(any).unwrap());
        let ask = || ask_by(&socket, SocketAddr::new(host, 8080), 1);
        assert!(connection.ask().unwrap().starts_with("one") && ask().unwrap().starts_with("one"), "{host}");
        plane.set_ports(machine, &published(ALL, 8080, &[&other]));
        assert!(connection.ask().unwrap().starts_with("one"), "{host}: a connection stays");
        assert!(machine.outside.ask(host, 8080).unwrap().starts_with("other"), "{host}: a new one does not");
        assert!(ask().unwrap().starts_with("other"), "{host}: a datagram follows");
        plane.set_ports(machine, &[]);
        assert!(connection.ask().unwrap().starts_with("one"), "{host}: it stays to its end");
        assert_eq!(machine.outside.ask(host, 8080), None);
        wait_until("a datagram is refused", || ask().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
    }
}

pub(crate) fn large_bodies_and_datagrams_pass_a_port_both_ways(machine: &mut Machine, plane: &mut impl Dataplane) {
    const SIZE: usize = 4 << 20;
    let server = Container::new(machine, "server");
    let mut ports = published(ALL, 8080, &[&server]).to_vec();
    ports.extend(published(ALL, 8081, &[&server]));
    ports[2].backends[0].port = 81;
    plane.set_ports(machine, &ports);
    let listener = server.space.run(|| std::net::TcpListener::bind("[::]:81").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut back = stream.try_clone().unwrap();
            let mut stream = stream;
            let _ = std::io::copy(&mut stream, &mut back); // the client closes when it has all
        }
    });
    let body: Vec<u8> = (0..SIZE).map(|n| (n / 7) as u8).collect();
    for host in HOSTS {
        let mut stream = machine.outside.connect(host, 8081).unwrap().0;
        let mut sending = stream.try_clone().unwrap();
        let sent = body.clone();
        let sender = std::thread::spawn(move || sending.write_all(&sent).unwrap());
        let mut back = vec![0; SIZE];
        stream.read_exact(&mut back).unwrap();
        assert!(back == body, "{host}: what came back is not what was sent");
        sender.join().unwrap();
        // From one socket: those that fit into a packet, and those that do not.
        let any = if host.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = machine.outside.run(move || UdpSocket::bind(any).unwrap());
        for length in [1, 1400, 4000, 1, 30_000, 1400] {
            let said = ask_by(&socket, SocketAddr::new(host, 8080), length);
            assert_eq!(said.unwrap(), format!("server {}", outside(host)), "{host}: {length} bytes");
        }
    }
}

pub(crate) fn connections_are_spread_over_all_backends_of_a_port(machine: &mut Machine, plane: &mut impl Dataplane) {
    let servers = ["a", "b", "c"].map(|name| Container::new(machine, name));
    plane.set_ports(machine, &published(ALL, 8080, &servers.each_ref()));
    for host in HOSTS {
        let mut seen = BTreeSet::new();
        wait_until("each has answered", || {
            seen.extend(machine.outside.ask(host, 8080).and_then(|said| said.chars().next()));
            seen.len() == 3
        });
    }
}

pub(crate) fn one_socket_reaches_a_container_by_two_ports(machine: &mut Machine, plane: &mut impl Dataplane) {
    let server = Container::new(machine, "server");
    let ports = [published(ALL, 8080, &[&server]), published(ALL, 8081, &[&server])].concat();
    plane.set_ports(machine, &ports);
    for (host, any) in HOSTS.into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let socket = machine.outside.run(move || UdpSocket::bind(any).unwrap());
        for port in [8080, 8081, 8080, 8081] {
            // An answer that comes from the other port is not taken.
            let said = ask_by(&socket, SocketAddr::new(host, port), 1);
            assert_eq!(said.unwrap(), format!("server {}", outside(host)), "{host}:{port}");
        }
    }
}

pub(crate) fn what_is_not_published_is_not_reached_from_outside(machine: &mut Machine, plane: &mut impl Dataplane) {
    let server = Container::new(machine, "server");
    plane.set_ports(machine, &published(Some(HOST.into()), 8080, &[&server]));
    machine.outside.program("ip route add 10.88.0.0/16 via 192.0.2.1");
    let subnet6 = machine.bridge.subnet6().unwrap();
    machine.outside.program(&format!("ip route add {subnet6} via {HOST6}"));
    machine.outside.program(&format!("ip route add 198.51.100.0/24 via {HOST}"));
    for to in server.ips() {
        assert_eq!((machine.outside.ask(to, 80), machine.outside.ask(to, 8080)), (None, None), "{to}");
    }
    // Another port, another address of the machine, and an address that is not the machine's.
    let elsewhere = IpAddr::from([198, 51, 100, 1]);
    for (to, port) in [(HOSTS[0], 80), (HOSTS[1], 8080), (elsewhere, 8080)] {
        assert_eq!(machine.outside.ask(to, port), None, "{to}:{port}");
    }
    assert!(machine.outside.ask(HOST, 8080).is_some());
}

pub(crate) fn a_published_port_is_no_way_around_a_denial(machine: &mut Machine, plane: &mut impl Dataplane) {
    let (client, server) = (Container::new(machine, "client"), Container::new(machine, "server"));
    plane.set_ports(machine, &published(ALL, 8080, &[&server]));
    for host in HOSTS {
        assert!(client.space.ask(host, 8080).is_some(), "{host}");
    }
    plane.set_policy(machine, &policy(&[&client, &server], &[(1, 2)]));
    for host in HOSTS {
        assert_eq!(client.space.ask(host, 8080), None, "{host}");
        assert!(client.space.ask_udp(host, 8080, 1).is_err(), "{host}");
        assert!(machine.outside.ask(host, 8080).is_some(), "{host}: clients from outside are no containers");
    }
}
