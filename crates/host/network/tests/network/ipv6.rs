//! Containers over IPv6: out, in by published ports, and on machines that have none.

use std::net::{IpAddr, Ipv6Addr};

use coppice_network::{Asserted, Backend, Bridge, BridgeConfig, NetworkError, PortKey, Protocol, Published};

use crate::netspace::{HOST, HOST6, Machine, Netspace, OUTSIDE, OUTSIDE6};

fn published(host_ip: Option<IpAddr>, protocol: Protocol, host: u16, to: std::net::Ipv4Addr) -> Published {
    Published { key: PortKey { host_ip, protocol, host }, backends: vec![Backend { ip: to, port: 80 }] }
}

#[test]
fn containers_reach_the_outside_as_the_host_by_ipv6_too() {
    let mut machine = Machine::new();
    let (inside, _) = machine.container();
    machine.outside.serve_both(81, "outside");
    for (to, from) in [(IpAddr::from(OUTSIDE), IpAddr::from(HOST)), (OUTSIDE6.into(), HOST6.into())] {
        assert_eq!(inside.ask(to, 81), Some(format!("outside {from}")));
        assert_eq!(inside.ask_udp(to, 81, 4000).unwrap(), format!("outside {from}"));
    }
}

#[test]
fn without_nat_no_ipv6_leaves_but_published_ports_are_answered() {
    let mut machine = Machine::with(|config| config.nat = false);
    let (inside, address) = machine.container();
    let (other, _) = machine.container();
    inside.serve_both(80, "web");
    machine.outside.serve_both(81, "outside");
    let subnet6 = machine.bridge.subnet6().unwrap();
    machine.outside.program(&format!("ip route add {subnet6} via {HOST6}"));
    assert_eq!(inside.ask(OUTSIDE6, 81), None);
    assert!(other.ask(address.v6.unwrap().ip, 80).is_some(), "neighbours are reached");
    machine.bridge.publish(&[published(None, Protocol::Tcp, 8080, address.ip)]).unwrap();
    assert_eq!(machine.outside.ask(HOST6, 8080), Some(format!("web {OUTSIDE6}")));
}

#[test]
fn a_port_published_on_all_addresses_is_reached_by_both_families_and_sees_who_asks() {
    let mut machine = Machine::new();
    let (web, address) = machine.container();
    let (other, from) = machine.container();
    web.serve_both(80, "web");
    let all = [None, Some("0.0.0.0".parse().unwrap()), Some("::".parse().unwrap())];
    for (host, host_ip) in (8080..).zip(all) {
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| published(host_ip, protocol, host, address.ip));
        machine.bridge.publish(&ports).unwrap();
        assert_eq!(machine.outside.ask(HOST6, host), Some(format!("web {OUTSIDE6}")));
        assert_eq!(machine.outside.ask(HOST, host), Some(format!("web {OUTSIDE}")));
        assert_eq!(machine.outside.ask_udp(HOST6, host, 4000).unwrap(), format!("web {OUTSIDE6}"));
        assert_eq!(other.ask(HOST6, host), Some(format!("web {}", from.v6.unwrap().ip)), "its neighbour");
        let gateway = from.v6.unwrap().gateway;
        assert_eq!(machine.host.ask(HOST6, host), Some(format!("web {HOST6}")), "the host");
        let refused = machine.host.connect(Ipv6Addr::LOCALHOST, host).map(|_| ()).unwrap_err();
        assert_eq!(
            refused.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "its loopback: who tries IPv4 next is served"
        );
        assert_eq!(web.ask(HOST6, host), Some(format!("web {gateway}")), "even itself");
    }
    machine.bridge.set_published(&[]).unwrap();
    assert_eq!(machine.outside.ask(HOST6, 8080), None);
}

#[test]
fn a_port_of_one_ipv6_address_is_reached_there_only_and_spread_over_its_backends() {
    let mut machine = Machine::new();
    let containers = ["a", "b"].map(|name| {
        let (space, address) = machine.container();
        space.serve_both(80, name);
        (space, Backend { ip: address.ip, port: 80 })
    });
    let key = PortKey { host_ip: Some(HOST6.into()), protocol: Protocol::Tcp, host: 8080 };
    let backends = containers.iter().map(|(_, backend)| *backend).collect();
    machine.bridge.publish(&[Published { key, backends }]).unwrap();
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    let mut seen: Vec<String> = (0..60).filter_map(|_| machine.outside.ask(HOST6, 8080)).collect();
    assert_eq!(seen.len(), 60);
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [format!("a {OUTSIDE6}"), format!("b {OUTSIDE6}")]);
    assert_eq!(machine.outside.ask(HOST, 8080), None);
    assert_eq!(machine.host.ask(Ipv6Addr::LOCALHOST, 8080), None);
    let loopback = PortKey { host_ip: Some(Ipv6Addr::LOCALHOST.into()), protocol: Protocol::Tcp, host: 8081 };
    let refused = machine.bridge.publish(&[Published { key: loopback, backends: vec![containers[0].1] }]);
    assert!(matches!(refused, Err(NetworkError::Loopback6(8081))), "{refused:?}");
}

#[test]
fn a_machine_without_ipv6_has_ipv4_and_is_told() {
    let host = Netspace::new();
    host.program("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let (mut bridge, words) = host.run(|| Bridge::ensure(&BridgeConfig::of("t1").unwrap()).unwrap());
    assert!(words.iter().any(|word| word.0.contains("no IPv6 address")), "{words:?}");
    assert_eq!((bridge.subnet6(), bridge.address_for([10, 88, 0, 2].into()).v6), (None, None));
    assert_eq!(bridge.assert_rules().unwrap(), Asserted::Intact);
    let mut attacher = host.run({
        let index = bridge.index();
        move || coppice_network::Attacher::open(index).unwrap()
    });
    let inside = Netspace::new();
    let address = bridge.address_for([10, 88, 0, 2].into());
    let link = coppice_network::host_link("only4");
    attacher.attach(coppice_network::Netns::Fd(inside.fd()), &link, &address).unwrap();
    inside.run(move || coppice_network::configure_inside(Some(&address), std::time::Duration::ZERO).unwrap());
    host.serve(std::net::Ipv4Addr::UNSPECIFIED, 81, "host");
    assert_eq!(inside.tcp(bridge.gateway(), 81), "host 10.88.0.2");
}

#[test]
fn a_machine_that_learns_its_route_from_a_router_goes_on_learning_it() {
    let host = Netspace::new();
    host.program("sysctl -qw net.ipv6.conf.all.forwarding=0");
    host.program("ip link add up0 type veth peer name up1");
    host.program("sysctl -qw net.ipv6.conf.up0.accept_ra=1 net.ipv6.conf.up1.accept_ra=0");
    let (_, words) = host.run(|| Bridge::ensure(&BridgeConfig::of("t1").unwrap()).unwrap());
    let said = words.iter().find(|word| word.0.contains("net.ipv6.conf.all.forwarding")).expect("a word");
    assert!(said.0.ends_with("accept_ra is 2 now on up0."), "{said}");
    let read = |link: &str| host.program(&format!("sysctl -n net.ipv6.conf.{link}.accept_ra")).trim().to_owned();
    assert_eq!(["up0", "up1", "copt1"].map(read), ["2", "0", "0"]);
    let (_, words) = host.run(|| Bridge::ensure(&BridgeConfig::of("t1").unwrap()).unwrap());
    assert_eq!(words, []);
}
