//! Published ports led into containers by XDP, with no rules that could do it instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use coppice_bpf::{Dataplane, Settings};
use coppice_network::{Backend, Beyond, LinkName, PortKey, Protocol, Published};

use crate::machine::{ANSWER, Container, Machine, Netspace, hooks, wait_until};
use crate::raw::{self, Header4};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
const ENDS: [(IpAddr, IpAddr); 2] = [(HOST, FAR), (HOST6, FAR6)];

/// Another machine, at the other end of the link `up0`.
fn far(machine: &Machine) -> Netspace {
    let far = Netspace::new();
    machine.host.program(&format!("ip link add up0 type veth peer name up1 netns {}", far.path()));
    for (space, link, ends) in [(&machine.host, "up0", [HOST, HOST6]), (&far, "up1", [FAR, FAR6])] {
        space.program(&format!("ip address add {}/24 dev {link}", ends[0]));
        space.program(&format!("ip link set {link} up"));
        space.program(&format!("ip address add {}/64 dev {link} nodad", ends[1]));
    }
    // So that no packet of the test waits for an address to be resolved.
    machine.host.serve(9, "host");
    for (host, far_end) in ENDS {
        wait_until("the link's first packet", || far.udp(host, 9, 1) == Some(format!("host {far_end}")));
    }
    far
}

fn beyond() -> Beyond {
    Beyond { addresses: vec![HOST, HOST6], uplinks: vec![LinkName::new("up0").unwrap()] }
}

/// Has port 8080 lead to port 80 of these.
fn publish(machine: &Machine, containers: &[&Container]) {
    let backends: Vec<Backend> = containers.iter().map(|of| Backend { ip: of.ip, port: 80 }).collect();
    let ports = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| Published { key: PortKey { host_ip: None, protocol, host: 8080 }, backends: backends.clone() });
    let ports = if containers.is_empty() { Vec::new() } else { ports.to_vec() };
    machine.plane(move |plane| plane.set_ports(&ports, &beyond()).unwrap());
}

fn with_ports() -> Settings {
    Settings { ports: true, ..Settings::default() }
}

#[test]
fn a_port_leads_into_its_container_without_rules_and_through_the_death_and_return_of_who_set_it() {
    for hook in hooks() {
        let settings = Settings { hook: Some(hook), ..with_ports() };
        let mut machine = Machine::with(settings.clone());
        let (server, far) = (machine.container(), far(&machine));
        server.space.serve(80, "server");
        for (host, _) in ENDS {
            assert!(far.tcp_fails(host, 8080), "{hook:?} {host}: nothing is published");
        }
        machine.endpoints(&[&server]);
        publish(&machine, &[&server]);
        let connections = ENDS.map(|(host, _)| far.connect(host, 8080, ANSWER).expect("a connection"));
        let mut connections = connections.into_iter().zip(ENDS).collect::<Vec<_>>();
        let mut all_answer = |machine: &Machine, far: &Netspace, moment: &str| {
            let _ = machine;
            for (connection, (host, from)) in &mut connections {
                let answer = format!("server {from}");
                assert_eq!(connection.ask(), Some(answer.clone()), "{hook:?}, {moment}: what there was");
                assert_eq!(far.tcp(*host, 8080), answer, "{hook:?}, {moment}");
                assert_eq!(far.udp(*host, 8080, 1000), Some(answer), "{hook:?}, {moment}");
            }
        };
        all_answer(&machine, &far, "set");
        machine.stop();
        all_answer(&machine, &far, "without its process");
        machine.start(settings.clone());
        all_answer(&machine, &far, "exchanged");
        machine.endpoints(&[&server]);
        publish(&machine, &[&server]);
        all_answer(&machine, &far, "told again");

        publish(&machine, &[]);
        for (host, _) in ENDS {
            assert!(far.tcp_fails(host, 8080), "{hook:?} {host}: nothing is published any more");
        }
        let plane = machine.take_plane();
        machine.host.run(move || plane.detach().unwrap());
        let link = machine.host.program("ip -details link show up0");
        assert!(!link.contains("xdp"), "{hook:?}: {link}");
    }
}

#[test]
fn a_container_learns_from_routers_beyond_how_large_its_answers_may_be() {
    let mut machine = Machine::with(with_ports());
    let (server, far) = (machine.container(), far(&machine));
    server.space.serve(80, "server");
    machine.endpoints(&[&server]);
    publish(&machine, &[&server]);
    let ports = |local: u16| [8080_u16.to_be_bytes(), local.to_be_bytes()].concat();
    for (host, from) in ENDS {
        let socket = far.datagrams();
        let local = socket.local_addr().unwrap().port();
        assert_eq!(crate::machine::ask_udp(&socket, (host, 8080).into(), 1), Some(format!("server {from}")));
        // What the container answered, as a router saw it that could not pass it on.
        let quoted = [ports(local), vec![0, 100, 0, 0]].concat();
        let (packet, way) = match (host, from) {
            (IpAddr::V4(host), IpAddr::V4(from)) => {
                let mut error = vec![3, 4, 0, 0, 0, 0];
                error.extend(1300_u16.to_be_bytes());
                error.extend(Header4 { protocol: 17, ..Header4::of(host, from) }.before(&quoted));
                let sum = raw::checksum(&error);
                error[2..4].copy_from_slice(&sum.to_be_bytes());
                (Header4 { protocol: 1, ..Header4::of(from, host) }.before(&error), "ip route get 192.0.2.2")
            }
            (IpAddr::V6(host), IpAddr::V6(from)) => {
                let mut error = vec![2, 0, 0, 0];
                error.extend(1300_u32.to_be_bytes());
                error.extend(raw::ipv6(host, from, 60, 17, &quoted));
                let length = (error.len() as u32).to_be_bytes();
                let pseudo = [&from.octets()[..], &host.octets(), &length, &[0, 0, 0, 58], &error].concat();
                let sum = raw::checksum(&pseudo);
                error[2..4].copy_from_slice(&sum.to_be_bytes());
                (raw::ipv6(from, host, 64, 58, &error), "ip route get 2001:db8::2")
            }
            _ => unreachable!("both are of one family"),
        };
        far.send_raw(host, vec![packet]);
        wait_until("the container knows", || server.space.program(way).contains("mtu 1300"));
        assert_eq!(crate::machine::ask_udp(&socket, (host, 8080).into(), 1400), Some(format!("server {from}")));
    }
}

#[test]
fn a_link_with_another_program_is_left_to_the_rules() {
    let mut machine = Machine::with(with_ports());
    let (server, _far) = (machine.container(), far(&machine));
    machine.endpoints(&[&server]);
    // Somebody else's: another data plane's of this machine.
    let (info, folder) = (machine.info.clone(), tempfile::tempdir().unwrap());
    let path = folder.path().join("bpf");
    let other = machine.host.run(move || {
        let mut other = Dataplane::load(&info, &path, with_ports()).unwrap();
        other.set_ports(&[], &beyond()).unwrap();
        assert_eq!(other.uplinks(), beyond().uplinks);
        other
    });
    let words = |machine: &Machine| machine.plane(|plane| plane.set_ports(&[], &beyond()).unwrap());
    let [word] = &words(&machine)[..] else { panic!("it is said") };
    assert!(word.0.contains("up0"), "{word}");
    assert_eq!(words(&machine), [], "once");
    publish(&machine, &[&server]);
    assert_eq!(machine.plane(|plane| plane.uplinks()), []);
    machine.host.run(move || other.detach().unwrap());
    publish(&machine, &[&server]);
    assert_eq!(machine.plane(|plane| plane.uplinks()), beyond().uplinks);
}
