//! Virtual addresses.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use coppice_network::VirtualService;

use crate::netspace::{Machine, ask_by, wait_until};
use crate::{Container, Dataplane, WEB, both, web};

pub(crate) fn every_port_of_a_service_is_a_backends_own_and_it_sees_who_asks(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (client, server) = (Container::new(machine, "client"), Container::new(machine, "server"));
    server.space.serve_both(5432, "server's other port");
    plane.set_services(machine, &web(&[&server]));
    for (to, from) in both(machine, WEB).into_iter().zip(client.ips()) {
        assert_eq!(client.space.ask(to, 80), Some(format!("server {from}")));
        assert_eq!(client.space.ask(to, 5432), Some(format!("server's other port {from}")));
        for length in [1, 4000] {
            assert_eq!(client.space.ask_udp(to, 80, length).unwrap(), format!("server {from}"), "{length} bytes");
        }
    }
    for (to, from) in both(machine, WEB).into_iter().zip(both(machine, machine.bridge.gateway())) {
        assert_eq!(machine.host.ask(to, 80), Some(format!("server {from}")), "from the host");
        assert_eq!(machine.host.ask_udp(to, 80, 1).unwrap(), format!("server {from}"));
    }
}

pub(crate) fn connections_are_spread_over_all_backends(machine: &mut Machine, plane: &mut impl Dataplane) {
    let client = Container::new(machine, "client");
    let servers = ["a", "b", "c"].map(|name| Container::new(machine, name));
    plane.set_services(machine, &web(&servers.each_ref()));
    for space in [&client.space, &machine.host] {
        for to in both(machine, WEB) {
            let seen: BTreeSet<String> = (0..60).filter_map(|_| space.ask(to, 80)).collect();
            assert_eq!(seen.len(), 3, "60 connections leave one of 3 out once in 10^10 runs: {seen:?}");
        }
    }
}

pub(crate) fn a_backend_that_leaves_keeps_its_connections_and_gets_no_new_one(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let client = Container::new(machine, "client");
    let (stays, leaves) = (Container::new(machine, "stays"), Container::new(machine, "leaves"));
    plane.set_services(machine, &web(&[&leaves]));
    for to in both(machine, WEB) {
        let mut connection = client.space.connect(to, 80).unwrap();
        assert!(connection.ask().unwrap().starts_with("leaves"));
        plane.set_services(machine, &web(&[&stays, &leaves]));
        plane.set_services(machine, &web(&[&stays]));
        assert!(connection.ask().unwrap().starts_with("leaves"));
        for _ in 0..20 {
            assert!(client.space.ask(to, 80).unwrap().starts_with("stays"));
        }
        plane.set_services(machine, &[]);
        assert!(connection.ask().unwrap().starts_with("leaves"), "also when the whole service is no more");
        plane.set_services(machine, &web(&[&leaves]));
    }
}

pub(crate) fn without_a_backend_a_service_refuses_at_once(machine: &mut Machine, plane: &mut impl Dataplane) {
    let (client, server) = (Container::new(machine, "client"), Container::new(machine, "server"));
    let refused = |machine: &Machine| {
        for space in [&client.space, &machine.host] {
            for to in both(machine, WEB) {
                let started = Instant::now();
                let error = space.connect(to, 80).map(|_| ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
                assert!(started.elapsed() < Duration::from_millis(250), "{to}: {:?}", started.elapsed());
                // Words about datagrams are rationed by the kernel, and those about shorter ways use up of them. The
                // host's own datagrams are not let out in the first place.
                wait_until("a datagram is refused", || {
                    let error = space.ask_udp(to, 80, 1).unwrap_err();
                    [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied].contains(&error.kind())
                });
            }
        }
    };
    refused(machine);
    plane.set_services(machine, &[VirtualService { address: WEB, backends: vec![] }]);
    refused(machine);
    plane.set_services(machine, &web(&[&server]));
    assert!(client.space.ask(WEB, 80).is_some());
    plane.set_services(machine, &[VirtualService { address: WEB, backends: vec![] }]);
    refused(machine);
}

pub(crate) fn a_container_reaches_itself_by_its_services_address(machine: &mut Machine, plane: &mut impl Dataplane) {
    let one = Container::new(machine, "itself");
    plane.set_services(machine, &web(&[&one]));
    for to in both(machine, WEB) {
        assert!(one.space.ask(to, 80).unwrap().starts_with("itself"), "{to}");
        assert!(one.space.ask_udp(to, 80, 4000).unwrap().starts_with("itself"), "{to}");
    }
}

pub(crate) fn datagrams_leave_a_backend_that_is_none_any_more(machine: &mut Machine, plane: &mut impl Dataplane) {
    let client = Container::new(machine, "client");
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    for (to, any) in both(machine, WEB).into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let socket = client.space.run(move || UdpSocket::bind(any).unwrap());
        let ask = || ask_by(&socket, SocketAddr::new(to, 80), 1);
        for server in [&one, &other, &one] {
            plane.set_services(machine, &web(&[server]));
            let said = ask().unwrap();
            assert!(said.starts_with(if std::ptr::eq(server, &one) { "one" } else { "other" }), "{to}: {said}");
        }
        plane.set_services(machine, &[]);
        wait_until("a datagram is refused", || ask().unwrap_err().kind() == ErrorKind::ConnectionRefused);
    }
}

pub(crate) fn a_large_body_passes_both_ways(machine: &mut Machine, plane: &mut impl Dataplane) {
    const SIZE: usize = 4 << 20;
    let (client, server) = (Container::new(machine, "client"), Container::new(machine, "server"));
    plane.set_services(machine, &web(&[&server]));
    let listener = server.space.run(|| std::net::TcpListener::bind("[::]:81").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut back = stream.try_clone().unwrap();
            let mut stream = stream;
            let _ = std::io::copy(&mut stream, &mut back); // the client closes when it has all
        }
    });
    let body: Vec<u8> = (0..SIZE).map(|n| (n / 7) as u8).collect();
    for to in both(machine, WEB) {
        let mut stream = client.space.connect(to, 81).unwrap().0;
        let mut sending = stream.try_clone().unwrap();
        let sent = body.clone();
        let sender = std::thread::spawn(move || sending.write_all(&sent).unwrap());
        let mut back = vec![0; SIZE];
        stream.read_exact(&mut back).unwrap();
        assert!(back == body, "{to}: what came back is not what was sent");
        sender.join().unwrap();
    }
}

pub(crate) fn from_outside_a_services_address_is_nobodys(machine: &mut Machine, plane: &mut impl Dataplane) {
    let server = Container::new(machine, "server");
    plane.set_services(machine, &web(&[&server]));
    machine.outside.program("ip route add 10.88.0.0/16 via 192.0.2.1");
    let subnet6 = machine.bridge.subnet6().unwrap();
    machine.outside.program(&format!("ip route add {subnet6} via {}", crate::netspace::HOST6));
    for to in both(machine, WEB).into_iter().chain(server.ips()) {
        assert_eq!(machine.outside.ask(to, 80), None, "{to}");
    }
}
