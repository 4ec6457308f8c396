//! Connections to a service's address: spread, translated both ways, kept, drained, cut.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use coppice_bpf::Settings;

use crate::machine::{ANSWER, Container, Machine, WEB, ask_udp, hooks, wait_until};

/// A machine with a client and backends called "a", "b", … that answer at port 80, all known to it.
fn machine_of(count: usize) -> (Machine, Container, Vec<Container>) {
    let mut machine = Machine::new();
    let client = machine.container();
    let backends: Vec<Container> = (0..count).map(|_| machine.container()).collect();
    for (name, backend) in ["a", "b", "c"].iter().zip(&backends) {
        backend.space.serve(80, name);
    }
    machine.endpoints(&[&[&client][..], &backends.iter().collect::<Vec<_>>()].concat());
    (machine, client, backends)
}

#[test]
fn a_connection_to_a_services_address_is_answered_by_a_backend_that_sees_who_asks() {
    let (machine, client, backends) = machine_of(1);
    assert!(client.space.tcp_fails(WEB, 80), "there is no service yet");
    machine.services(&[(WEB, &[&backends[0]])]);
    assert_eq!(client.space.tcp(WEB, 80), format!("a {}", client.ip));
    assert_eq!(client.space.udp(WEB, 80, 1).unwrap(), format!("a {}", client.ip));
    let (web6, client6) = (machine.ip6(WEB), client.ip6);
    assert_eq!(client.space.tcp(web6, 80), format!("a {client6}"));
    assert_eq!(client.space.udp(web6, 80, 1).unwrap(), format!("a {client6}"));
}

#[test]
fn connections_are_spread_over_all_backends() {
    let (machine, client, backends) = machine_of(3);
    machine.services(&[(WEB, &[&backends[0], &backends[1], &backends[2]])]);
    let seen: BTreeSet<String> = (0..60).map(|_| client.space.tcp(WEB, 80)).collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn what_both_hooks_of_the_kernel_attach_works_alike() {
    for hook in hooks() {
        let mut machine = Machine::with(Settings { hook: Some(hook), ..Settings::default() });
        let (client, backend) = (machine.container(), machine.container());
        backend.space.serve(80, "web");
        machine.endpoints(&[&client, &backend]);
        machine.services(&[(WEB, &[&backend])]);
        assert_eq!(client.space.tcp(WEB, 80), format!("web {}", client.ip), "{hook:?}");
    }
}

#[test]
fn a_backend_that_left_keeps_its_connections_and_gets_no_new_one() {
    let (machine, client, backends) = machine_of(2);
    machine.services(&[(WEB, &[&backends[0]])]);
    let mut kept = client.space.connect(WEB, 80, ANSWER).unwrap();
    assert!(kept.ask().unwrap().starts_with("a "));
    machine.services(&[(WEB, &[&backends[1]])]);
    for _ in 0..20 {
        assert!(client.space.tcp(WEB, 80).starts_with("b "));
        assert!(kept.ask().unwrap().starts_with("a "), "the connection moved");
    }
}

#[test]
fn connections_to_a_backend_that_is_gone_are_over_at_once() {
    let (machine, client, backends) = machine_of(2);
    machine.services(&[(WEB, &[&backends[0]])]);
    let mut cut = client.space.connect(WEB, 80, ANSWER).unwrap();
    let datagrams = client.space.datagrams();
    let web = SocketAddr::new(WEB.into(), 80);
    assert!(cut.ask().unwrap().starts_with("a ") && ask_udp(&datagrams, web, 1).unwrap().starts_with("a "));
    machine.services(&[(WEB, &[&backends[1]])]);
    machine.endpoints(&[&client, &backends[1]]);
    let error = cut.0.write_all(b"\n").and_then(|()| cut.0.read_exact(&mut [0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the other backend refuses what it does not know");
    // The same socket: a flow of datagrams has no end, and moves on.
    assert!(ask_udp(&datagrams, web, 1).unwrap().starts_with("b "));
}

#[test]
fn connections_go_on_while_the_daemon_is_away_and_when_another_takes_over() {
    for hook in hooks() {
        let settings = Settings { hook: Some(hook), ..Settings::default() };
        let mut machine = Machine::with(settings.clone());
        let (client, old, new) = (machine.container(), machine.container(), machine.container());
        old.space.serve(80, "old");
        new.space.serve(80, "new");
        machine.endpoints(&[&client, &old, &new]);
        machine.services(&[(WEB, &[&old])]);
        let mut kept = client.space.connect(WEB, 80, ANSWER).unwrap();
        assert!(kept.ask().unwrap().starts_with("old "));
        machine.stop();
        assert!(kept.ask().unwrap().starts_with("old ") && client.space.tcp(WEB, 80).starts_with("old "));
        machine.start(settings);
        assert!(kept.ask().unwrap().starts_with("old ") && client.space.tcp(WEB, 80).starts_with("old "));
        // It knows what is there, and changes it.
        machine.services(&[(WEB, &[&new])]);
        assert!(kept.ask().unwrap().starts_with("old ") && client.space.tcp(WEB, 80).starts_with("new "));
        machine.services(&[]);
        assert!(client.space.tcp_fails(WEB, 80), "{hook:?}");
    }
}

#[test]
fn no_connection_fails_while_programs_are_exchanged_and_backends_change() {
    let (machine, client, backends) = machine_of(2);
    machine.services(&[(WEB, &[&backends[0]])]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = client.space.tcp(WEB, 80);
                assert!(answer.ends_with(&client.ip.to_string()), "round {rounds}: {answer}");
                rounds += 1;
            }
            rounds
        });
        for turn in 0..40 {
            machine.services(&[(WEB, &[&backends[turn % 2]])]);
            if turn % 8 == 7 {
                machine.stop();
                machine.start(Settings::default());
            }
        }
        over.store(true, Ordering::Relaxed);
        let rounds = asker.join().unwrap();
        assert!(rounds > 20, "{rounds} connections were too few to show anything");
    });
}

#[test]
fn a_large_body_arrives_whole_both_ways_over_ipv4_and_ipv6() {
    const LENGTH: usize = 20 << 20;
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    machine.endpoints(&[&client, &backend]);
    machine.services(&[(WEB, &[&backend])]);
    let body: Vec<u8> = (0..LENGTH as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let server = backend.space.run(|| TcpListener::bind("[::]:80").unwrap());
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut whole = vec![0; LENGTH];
            stream.read_exact(&mut whole).unwrap();
            stream.write_all(&whole).unwrap();
        }
    });
    for to in [WEB.into(), std::net::IpAddr::from(machine.ip6(WEB))] {
        let mut stream = client.space.connect(to, 80, ANSWER).unwrap().0;
        stream.write_all(&body).unwrap();
        let mut back = vec![0; LENGTH];
        stream.read_exact(&mut back).unwrap();
        assert!(back == body, "{to}");
    }
    // Left joined by the sender's kernel on their way: not cut to the link's size between the two.
    let counted = machine.plane(|plane| plane.metrics().unwrap()).services;
    assert!(counted[0].bytes_in > 2 * LENGTH as u64 && counted[0].packets_in > (2 * LENGTH / 1500) as u64);
}

#[test]
fn datagrams_in_fragments_arrive_and_are_answered_in_fragments() {
    let (machine, client, backends) = machine_of(2);
    machine.services(&[(WEB, &[&backends[0], &backends[1]])]);
    let web6 = machine.ip6(WEB);
    for length in [1400, 1473, 4000, 60_000] {
        let answer = client.space.udp(WEB, 80, length).unwrap_or_else(|| panic!("no answer to {length} bytes"));
        assert!(answer.ends_with(&client.ip.to_string()), "{answer}");
        let answer = client.space.udp(web6, 80, length).unwrap_or_else(|| panic!("no answer to {length} bytes"));
        assert!(answer.ends_with(&client.ip6.to_string()), "{answer}");
    }
}

#[test]
fn a_datagram_to_a_closed_port_is_refused_in_the_services_name() {
    let (machine, client, backends) = machine_of(1);
    machine.services(&[(WEB, &[&backends[0]])]);
    let web6 = machine.ip6(WEB);
    for to in [SocketAddr::new(WEB.into(), 81), SocketAddr::new(web6.into(), 81)] {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = client.space.run(move || UdpSocket::bind(any).unwrap());
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket.send(b"?").unwrap();
        let error = socket.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    }
}

#[test]
fn two_services_with_one_backend_are_told_apart_by_a_client_that_uses_one_port_for_both() {
    let other = Ipv4Addr::new(10, 77, 128, 2);
    let (machine, client, backends) = machine_of(1);
    machine.services(&[(WEB, &[&backends[0]]), (other, &[&backends[0]])]);
    let socket = client.space.datagrams();
    for _ in 0..3 {
        for to in [WEB, other] {
            // Checks that the answer comes from whom was asked.
            assert!(ask_udp(&socket, SocketAddr::new(to.into(), 80), 1).is_some());
        }
    }
    // TCP likewise: two connections from one port, at once.
    let from = SocketAddr::new(client.ip.into(), 40_000);
    let connect = |to: Ipv4Addr| {
        client.space.run(move || {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            sockopt::set_socket_reuseaddr(&fd, true).unwrap();
            sockopt::set_socket_reuseport(&fd, true).unwrap();
            bind(&fd, &from).unwrap();
            connect(&fd, &SocketAddr::new(to.into(), 80)).unwrap();
            crate::machine::Connection(fd.into())
        })
    };
    let (mut first, mut second) = (connect(WEB), connect(other));
    for _ in 0..3 {
        assert!(first.ask().unwrap().starts_with("a ") && second.ask().unwrap().starts_with("a "));
    }
}

#[test]
fn a_container_may_be_its_own_services_client() {
    let (machine, _client, backends) = machine_of(2);
    machine.services(&[(WEB, &[&backends[0], &backends[1]])]);
    let seen: BTreeSet<String> = (0..40).map(|_| backends[0].space.tcp(WEB, 80)).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn a_service_of_which_nothing_is_left_is_left_to_the_stack() {
    let (machine, client, backends) = machine_of(1);
    machine.services(&[(WEB, &[])]);
    // No rule of ours is on this machine: what does for it here is a local address that refuses.
    machine.host.program("ip address add 10.77.128.1/32 dev lo");
    let error = client.space.run(|| std::net::TcpStream::connect_timeout(&(WEB, 80).into(), ANSWER)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    machine.services(&[(WEB, &[&backends[0]])]);
    assert!(client.space.tcp(WEB, 80).starts_with("a "));
}

#[test]
fn a_client_or_a_backend_that_is_no_endpoint_is_served_through_the_stack() {
    let (machine, client, backends) = machine_of(1);
    machine.services(&[(WEB, &[&backends[0]])]);
    machine.endpoints(&[&client]);
    let web6 = machine.ip6(WEB);
    assert_eq!(client.space.tcp(WEB, 80), format!("a {}", client.ip));
    assert_eq!(client.space.tcp(web6, 80), format!("a {}", client.ip6));
    assert_eq!(client.space.udp(WEB, 80, 4000).unwrap(), format!("a {}", client.ip));
    machine.endpoints(&[&backends[0]]);
    assert_eq!(client.space.tcp(WEB, 80), format!("a {}", client.ip));
    assert_eq!(client.space.udp(web6, 80, 4000).unwrap(), format!("a {}", client.ip6));
}

#[test]
fn nothing_is_left_once_the_data_plane_is_taken_off() {
    for hook in hooks() {
        let machine = Machine::with(Settings { hook: Some(hook), ..Settings::default() });
        let folder = machine.folder.path().join("bpf");
        let place = folder.clone();
        assert!(machine.host.run(move || std::fs::read_dir(place).unwrap().count()) > 0);
        let plane = machine.take_plane();
        machine.host.run(move || plane.detach().unwrap());
        assert!(!folder.exists());
        let filters = || {
            let ingress = machine.host.program("tc filter show dev br0 ingress");
            ingress + &machine.host.program("tc filter show dev br0 egress")
        };
        assert_eq!(filters(), "", "{hook:?}");
        let attached = machine.host.run(|| {
            use aya::programs::{SchedClassifier, TcAttachType};
            let of = |way| SchedClassifier::query_tcx("br0", way).map_or(0, |(_, programs)| programs.len());
            of(TcAttachType::Ingress) + of(TcAttachType::Egress)
        });
        assert_eq!(attached, 0, "{hook:?}");
    }
}

#[test]
fn the_programs_are_far_from_what_the_kernels_verifier_gives_up_at() {
    let _machine = Machine::new();
    // Those of tests beside this one too; some are gone before they are looked at.
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let ours = programs.filter(|program| matches!(program.name(), b"from_containers" | b"to_containers"));
    let counts: Vec<u32> = ours.filter_map(|program| program.verified_instruction_count()).collect();
    // A million; how many a program takes differs from kernel to kernel.
    assert!(counts.len() >= 2 && counts.iter().all(|count| *count < 100_000), "{counts:?}");
}

#[test]
fn a_bridge_that_was_made_anew_under_the_same_name_gets_the_programs_too() {
    let mut machine = Machine::new();
    machine.stop();
    machine.remake_bridge();
    machine.start(Settings::default());
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.endpoints(&[&client, &backend]);
    machine.services(&[(WEB, &[&backend])]);
    wait_until("the service", || client.space.tcp(WEB, 80).starts_with("web "));
}
