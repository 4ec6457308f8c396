//! The bridge, its rules and published ports, by real packets between network namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::netspace::{HOST, Machine, Netspace, OUTSIDE, wait_until};
use coppice_network::{
    Asserted, Backend, Bridge, BridgeConfig, Identity, LinkName, Netns, NetworkError, Policy, PortKey, Protocol,
    Published, TrafficClass, VirtualService, Wanted, configure_inside, host_link,
};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ALL: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn key(host_ip: Option<Ipv4Addr>, host: u16) -> PortKey {
    PortKey { host_ip: host_ip.map(IpAddr::V4), protocol: Protocol::Tcp, host }
}

fn port(key: PortKey, ip: Ipv4Addr, port: u16) -> Published {
    Published { key, backends: vec![Backend { ip, port }] }
}

#[test]
fn a_published_port_is_reached_over_loopback_the_hosts_address_and_from_outside() {
    let mut machine = Machine::new();
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    assert!(machine.outside.tcp_fails(HOST, 8080), "nothing is published yet");
    let udp = PortKey { protocol: Protocol::Udp, ..key(None, 5353) };
    machine.bridge.publish(&[port(key(None, 8080), address.ip, 80), port(udp, address.ip, 80)]).unwrap();

    let gateway = machine.bridge.gateway();
    assert_eq!(machine.host.tcp(LOCALHOST, 8080), format!("web {gateway}"));
    assert_eq!(machine.host.tcp(HOST, 8080), format!("web {HOST}"));
    assert_eq!(machine.outside.tcp(HOST, 8080), format!("web {OUTSIDE}"), "the client's own address arrives");
    assert_eq!(machine.host.udp(LOCALHOST, 5353), format!("web {gateway}"));
    assert_eq!(machine.outside.udp(HOST, 5353), format!("web {OUTSIDE}"));

    machine.bridge.unpublish(&[key(None, 8080), udp]).unwrap();
    assert!(machine.host.tcp_fails(LOCALHOST, 8080));
    assert!(machine.outside.tcp_fails(HOST, 8080));
    assert!(machine.outside.udp_fails(HOST, 5353));
}

#[test]
fn a_port_of_the_loopback_address_is_reached_from_the_host_only() {
    let mut machine = Machine::new();
    let (web, address) = machine.container();
    let (other, _) = machine.container();
    web.serve(ALL, 80, "web");
    machine.bridge.publish(&[port(key(Some(LOCALHOST), 8080), address.ip, 80)]).unwrap();
    let gateway = machine.bridge.gateway();
    assert_eq!(machine.host.tcp(LOCALHOST, 8080), format!("web {gateway}"));
    assert!(machine.host.tcp_fails(HOST, 8080));
    assert!(machine.outside.tcp_fails(HOST, 8080));
    assert!(other.tcp_fails(gateway, 8080));
    // Even when the client routes 127.0.0.1 to the host.
    machine.outside.program("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    machine.outside.program("ip route add 127.0.0.1/32 via 192.0.2.1 table 7");
    machine.outside.program("ip rule add from 192.0.2.2 table 7 pref 0");
    machine.host.program("sysctl -qw net.ipv4.conf.up0.route_localnet=1");
    assert!(machine.outside.tcp_fails(LOCALHOST, 8080));
}

#[test]
fn containers_reach_each_other_the_outside_and_a_published_port_of_their_own() {
    let mut machine = Machine::new();
    let (one, first) = machine.container();
    let (two, second) = machine.container();
    one.serve(ALL, 80, "one");
    machine.outside.serve(ALL, 81, "outside");
    machine.bridge.publish(&[port(key(None, 8080), first.ip, 80)]).unwrap();
    assert_eq!(two.tcp(first.ip, 80), format!("one {}", second.ip), "directly, with its own address");
    two.program("ip route get 192.0.2.2");
    assert_eq!(two.udp(first.ip, 80), format!("one {}", second.ip));
    let gateway = machine.bridge.gateway();
    assert_eq!(two.tcp(gateway, 8080), format!("one {}", second.ip), "by the host's port, with its own address too");
    assert_eq!(one.tcp(HOST, 8080), format!("one {gateway}"), "even to itself");
    machine.outside.program("ip route show");
    assert_eq!(two.tcp(OUTSIDE, 81), format!("outside {HOST}"), "out as the host");
    assert_eq!(two.udp(OUTSIDE, 81), format!("outside {HOST}"));
}

#[test]
fn without_nat_containers_do_not_reach_the_outside_but_published_ports_work() {
    let mut machine = Machine::with(|config| config.nat = false);
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    machine.outside.serve(ALL, 81, "outside");
    machine.outside.program("ip route add 10.0.0.0/8 via 192.0.2.1");
    assert!(inside.tcp_fails(OUTSIDE, 81));
    machine.bridge.publish(&[port(key(None, 8080), address.ip, 80)]).unwrap();
    assert_eq!(machine.outside.tcp(HOST, 8080), format!("web {OUTSIDE}"));
}

#[test]
fn an_unpublished_port_is_not_reached_from_outside_by_routing_to_the_container() {
    let mut machine = Machine::new();
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    machine.outside.program("ip route add 10.0.0.0/8 via 192.0.2.1");
    assert!(machine.outside.tcp_fails(address.ip, 80));
    assert!(machine.outside.udp_fails(address.ip, 80));
    assert_eq!(machine.host.tcp(address.ip, 80), format!("web {}", machine.bridge.gateway()));
}

#[test]
fn a_container_does_not_reach_what_listens_on_the_hosts_loopback() {
    let mut machine = Machine::new();
    machine.host.serve(LOCALHOST, 6379, "secret");
    let (inside, _) = machine.container();
    // Send 127.0.0.1 to the gateway in place of its own loopback, as a hostile root in a container may.
    inside.program("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    inside.program(&format!("ip route add 127.0.0.1/32 via {} table 7", machine.bridge.gateway()));
    inside.program("ip rule add pref 1 table local");
    inside.program("ip rule add pref 0 to 127.0.0.1 table 7");
    inside.program("ip rule del pref 0 table local");
    assert!(inside.tcp_fails(LOCALHOST, 6379));
    assert!(inside.udp_fails(LOCALHOST, 6379));
    // The test would see it if the rules did not hold it back.
    machine.host.program("nft delete table inet coppice-t1");
    assert_eq!(inside.tcp(LOCALHOST, 6379), format!("secret {}", machine.bridge.address_for([10, 88, 0, 2].into()).ip));
}

#[test]
fn a_container_does_not_send_from_addresses_outside_its_subnet() {
    let mut machine = Machine::new();
    let (inside, _) = machine.container();
    machine.host.serve(ALL, 81, "host");
    let gateway = machine.bridge.gateway();
    inside.program("ip address add 203.0.113.9/32 dev lo");
    inside.program(&format!("ip route replace default via {gateway} src 203.0.113.9"));
    machine.host.program(&format!("ip route add 203.0.113.9/32 dev {}", machine.bridge.name()));
    inside.program(&format!("ip route replace {gateway}/32 dev eth0 src 203.0.113.9"));
    assert!(inside.tcp_fails(gateway, 81));
    machine.host.program("nft delete table inet coppice-t1");
    assert_eq!(inside.tcp(gateway, 81), "host 203.0.113.9", "the test would see it");
}

#[test]
fn connections_are_spread_over_all_backends_of_a_port_and_move_with_it() {
    let mut machine = Machine::new();
    let containers: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let (space, address) = machine.container();
            space.serve(ALL, 80, name);
            (space, Backend { ip: address.ip, port: 80 })
        })
        .collect();
    let all: Vec<Backend> = containers.iter().map(|(_, backend)| *backend).collect();
    for host_ip in [None, Some(HOST)] {
        let key = key(host_ip, 8080);
        machine.bridge.publish(&[Published { key, backends: all.clone() }]).unwrap();
        let mut seen: Vec<String> = (0..60).map(|_| machine.outside.tcp(HOST, 8080)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 3, "60 connections leave one of 3 out once in 10^10 runs: {seen:?}");
        machine.bridge.publish(&[Published { key, backends: vec![all[1]] }]).unwrap();
        for _ in 0..5 {
            assert_eq!(machine.outside.tcp(HOST, 8080), format!("b {OUTSIDE}"));
        }
    }
    assert_eq!(machine.bridge.published().count(), 2);
    machine.bridge.set_published(&[]).unwrap();
    assert!(machine.outside.tcp_fails(HOST, 8080));
}

#[test]
fn many_ports_with_many_backends_are_published_at_once() {
    let mut machine = Machine::new();
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    let backend = Backend { ip: address.ip, port: 80 };
    let other = Backend { ip: address.ip, port: 80 };
    let ports: Vec<Published> =
        (1..=300).map(|n| Published { key: key(None, 8000 + n), backends: vec![backend, other] }).collect();
    machine.bridge.set_published(&ports).unwrap();
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    for host in [8001, 8300] {
        assert_eq!(machine.outside.tcp(HOST, host), format!("web {OUTSIDE}"));
    }
    machine.bridge.set_published(&[]).unwrap();
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
}

#[test]
fn a_refused_port_publishes_none_of_those_with_it() {
    let mut machine = Machine::new();
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    let none = Published { key: key(None, 8081), backends: vec![] };
    let refused = machine.bridge.publish(&[port(key(None, 8080), address.ip, 80), none]);
    assert!(matches!(refused, Err(NetworkError::NoBackend(8081))));
    assert_eq!(machine.bridge.published().count(), 0);
    assert!(machine.host.tcp_fails(LOCALHOST, 8080));
}

#[test]
fn a_bridges_packet_size_is_its_containers_too() {
    let mut machine = Machine::with(|config| config.mtu = Some(1400));
    let (inside, _) = machine.container();
    assert!(inside.program("ip link show eth0").contains("mtu 1400"));
    assert!(machine.host.program("ip link show master copt1").contains("mtu 1400"));
    assert!(machine.host.program("ip link show copt1").contains("mtu 1400"));
}

#[test]
fn a_udp_client_that_keeps_its_port_follows_the_port_to_its_next_backend() {
    let mut machine = Machine::new();
    let (one, first) = machine.container();
    let (two, second) = machine.container();
    one.serve(ALL, 53, "one");
    two.serve(ALL, 53, "two");
    let key = PortKey { protocol: Protocol::Udp, ..key(None, 53) };
    let client = machine.outside.run(|| std::net::UdpSocket::bind("0.0.0.0:5353").unwrap());
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // So that no packet of the test waits for an address to be resolved.
    machine.host.serve(ALL, 9, "host");
    machine.outside.udp(HOST, 9);
    let ask = || {
        let mut buffer = [0; 64];
        client.send_to(b"?", (HOST, 53)).unwrap();
        client.recv_from(&mut buffer).ok().map(|(n, _)| String::from_utf8_lossy(&buffer[..n]).into_owned())
    };
    assert_eq!(ask(), None, "nothing is published, and the flow is tracked so");
    machine.bridge.publish(&[port(key, first.ip, 53)]).unwrap();
    assert_eq!(ask(), Some(format!("one {OUTSIDE}")));
    machine.bridge.publish(&[port(key, second.ip, 53)]).unwrap();
    assert_eq!(ask(), Some(format!("two {OUTSIDE}")));
    machine.bridge.unpublish(&[key]).unwrap();
    assert_eq!(ask(), None);
}

#[test]
fn a_container_does_not_get_out_by_ipv6_it_gave_itself() {
    let mut machine = Machine::new();
    let (inside, _) = machine.container();
    for (space, lines) in [
        (
            &machine.host,
            &[
                "sysctl -qw net.ipv6.conf.all.forwarding=1",
                "ip address add fd01::1/64 dev copt1 nodad",
                "ip address add fd02::1/64 dev up0 nodad",
            ][..],
        ),
        (&machine.outside, &["ip address add fd02::2/64 dev up1 nodad", "ip route add fd01::/64 via fd02::1"]),
        (&inside, &["ip address add fd01::2/64 dev eth0 nodad", "ip route replace default via fd01::1"]),
    ] {
        for line in lines {
            space.program(line);
        }
    }
    let listener = machine.outside.run(|| std::net::TcpListener::bind("[::]:81").unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(drop));
    let out: std::net::Ipv6Addr = "fd02::2".parse().unwrap();
    assert!(inside.tcp_fails(out, 81));
    machine.host.program("nft delete table inet coppice-t1");
    // It asks, and is asked, who has which address, which its port does not pass on.
    machine.host.program("ip neigh replace fd01::2 lladdr 02:c0:0a:58:00:02 dev copt1");
    assert_eq!(inside.tcp(out, 81), "", "the test would see it");
}

#[test]
fn rules_that_another_program_flushed_are_restored() {
    let mut machine = Machine::new();
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    machine.bridge.publish(&[port(key(None, 8080), address.ip, 80)]).unwrap();
    let mut watch = machine.host.run(|| Bridge::watch().unwrap());
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    assert!(!watch.changed().unwrap(), "nothing happened");
    // A change that is not about us.
    machine.host.program("nft add table ip other");
    assert!(watch.changed().unwrap());
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    for harm in [
        "nft flush ruleset",
        "nft flush map inet coppice-t1 any",
        "nft flush chain inet coppice-t1 guard",
        "nft add rule inet coppice-t1 inward accept",
        "nft flush set inet coppice-t1 same",
        "nft delete table inet coppice-t1",
    ] {
        machine.host.program(harm);
        assert!(watch.changed().unwrap(), "{harm}");
        assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Restored, "{harm}");
        assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact, "{harm}");
        assert_eq!(machine.outside.tcp(HOST, 8080), format!("web {OUTSIDE}"), "{harm}");
    }
    assert!(watch.changed().unwrap(), "the last repair");
    // What the bridge does itself it knows.
    watch.overlook(&machine.bridge).unwrap();
    machine.bridge.publish(&[port(key(None, 8082), address.ip, 80)]).unwrap();
    assert!(!watch.changed().unwrap());
    machine.bridge.unpublish(&[key(None, 8082)]).unwrap();
    machine.host.program("nft flush map inet coppice-t1 any");
    assert!(watch.changed().unwrap());
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Restored);
    // Publishing alone heals as well.
    machine.host.program("nft flush ruleset");
    machine.bridge.publish(&[port(key(None, 8080), address.ip, 81), port(key(None, 8081), address.ip, 80)]).unwrap();
    assert_eq!(machine.outside.tcp(HOST, 8081), format!("web {OUTSIDE}"));
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
}

#[test]
fn nft_lists_the_table_as_it_is_meant() {
    let mut machine = Machine::new();
    let (_inside, address) = machine.container();
    machine
        .bridge
        .publish(&[port(key(None, 8080), address.ip, 80), port(key(Some(HOST), 53), address.ip, 53)])
        .unwrap();
    let listed = machine.host.program("nft list table inet coppice-t1");
    for line in [
        "elements = { tcp . 8080 : 10.88.0.2 . 80 }",
        "elements = { 192.0.2.1 . tcp . 53 : 10.88.0.2 . 53 }",
        "iifname \"copt1\" jump from_bridge",
        "ip daddr 127.0.0.0/8 drop",
        "fib daddr type local jump publish",
        "ct state established,related accept",
        "ct status dnat accept",
        "iifname \"copt1\" oifname != \"copt1\" jump leaving",
        "ip saddr 10.88.0.0/16 oifname != \"copt1\" masquerade",
        "type nat hook prerouting priority dstnat; policy accept;",
        "type filter hook prerouting priority raw; policy accept;",
    ] {
        assert!(listed.contains(line), "no {line:?} in\n{listed}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&machine.host.program("nft -j list table inet coppice-t1")).unwrap();
    let count =
        |kind: &str| json["nftables"].as_array().unwrap().iter().filter(|item| item.get(kind).is_some()).count();
    assert_eq!((count("chain"), count("map"), count("set")), (12, 7, 8));
}

#[test]
fn a_node_that_comes_back_adopts_its_bridge_and_its_containers() {
    let mut machine = Machine::new();
    assert!(machine.words.iter().any(|word| word.0.contains("ip_forward")), "turning forwarding on is said");
    let (inside, address) = machine.container();
    inside.serve(ALL, 80, "web");
    let (index, subnet) = (machine.bridge.index(), machine.bridge.subnet());
    let (mut again, words) = machine.host.run(|| Bridge::ensure(&BridgeConfig::of("t1").unwrap()).unwrap());
    assert_eq!((again.index(), again.subnet(), words.len()), (index, subnet, 0));
    again.set_published(&[port(key(None, 8080), address.ip, 80)]).unwrap();
    assert_eq!(machine.outside.tcp(HOST, 8080), format!("web {OUTSIDE}"));
    again.remove().unwrap();
    assert!(!machine.host.program("ip -br link").contains("copt1"));
    assert!(!machine.host.program("nft list tables").contains("coppice"));
}

#[test]
fn a_node_that_comes_back_lets_nothing_pass_that_was_denied_and_closes_nothing() {
    let mut machine = Machine::new();
    let ((client, from), (server, to)) = (machine.container(), machine.container());
    server.serve_both(80, "web");
    let web = Ipv4Addr::new(10, 88, 128, 1);
    let wanted = Wanted {
        published: vec![port(key(None, 8080), to.ip, 80)],
        services: vec![VirtualService { address: web, backends: vec![to.ip] }],
        policy: Policy {
            members: [(from.ip, Identity(1)), (to.ip, Identity(2))].into(),
            denied: [(Identity(1), Identity(2))].into(),
        },
        classes: [(from.ip, TrafficClass::High)].into(),
    };
    for _ in 0..3 {
        let wanted = wanted.clone();
        machine.bridge =
            machine.host.run(move || Bridge::ensure_with(&BridgeConfig::of("t1").unwrap(), &wanted).unwrap().0);
        assert_eq!((client.ask(web, 80), client.ask(to.ip, 80), client.ask(HOST, 8080)), (None, None, None));
        assert!(machine.host.ask(web, 80).is_some() && machine.outside.ask(HOST, 8080).is_some());
        assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    }
    let outside = VirtualService { address: to.ip, backends: vec![] };
    assert!(matches!(machine.bridge.set_services(&[outside]), Err(NetworkError::NotVirtual { .. })));
    let elsewhere = VirtualService { address: web, backends: vec![OUTSIDE] };
    assert!(matches!(machine.bridge.set_services(&[elsewhere]), Err(NetworkError::NotAContainer { .. })));
    let many = VirtualService { address: web, backends: (1..=252).map(|n| Ipv4Addr::new(10, 88, 1, n)).collect() };
    assert!(matches!(machine.bridge.set_services(&[many]), Err(NetworkError::TooManyInstances { .. })));
    assert!(machine.host.ask(web, 80).is_some(), "a refusal changes nothing");
}

#[test]
fn a_subnet_is_chosen_that_no_route_or_address_overlaps() {
    let host = Netspace::new();
    host.program("ip address add 10.88.5.1/24 dev lo");
    host.program("ip route add 10.89.0.0/17 dev lo");
    let ensure = |key: &str, subnet: Option<&str>| {
        let mut config = BridgeConfig::of(key).unwrap();
        config.subnet = subnet.map(|text| text.parse().unwrap());
        host.run(move || Bridge::ensure(&config).map(|(bridge, _)| bridge.subnet().to_string()))
    };
    assert_eq!(ensure("a", None).unwrap(), "10.90.0.0/16");
    assert_eq!(ensure("b", None).unwrap(), "10.91.0.0/16");
    assert_eq!(ensure("c", Some("172.30.0.0/24")).unwrap(), "172.30.0.0/24");
    assert!(matches!(ensure("d", Some("10.88.0.0/16")), Err(NetworkError::SubnetTaken { .. })));
    assert!(matches!(ensure("a", Some("10.99.0.0/16")), Err(NetworkError::OtherSubnet { .. })));
    assert!(!host.program("ip -br link").contains("copd"), "a refusal leaves nothing");
    host.program("ip link add cope type veth peer name cope1");
    assert!(matches!(ensure("e", None), Err(NetworkError::NotABridge(_))));
    host.program("ip route add 10.64.0.0/10 dev lo");
    assert!(matches!(ensure("f", None), Err(NetworkError::NoFreeSubnet)));
}

#[test]
fn another_programs_closed_forwarding_is_said() {
    let host = Netspace::new();
    host.program("nft add table ip filter");
    host.program("nft add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
    let (_, words) = host.run(|| Bridge::ensure(&BridgeConfig::of("t1").unwrap()).unwrap());
    let open = "`iptables -I FORWARD -i copt1 -j ACCEPT && iptables -I FORWARD -o copt1 -j ACCEPT`";
    assert!(
        words.iter().any(|word| word.0.contains("Chain FORWARD of table filter") && word.0.contains(open)),
        "{words:?}"
    );
    host.program("nft chain ip filter FORWARD { policy accept; }");
    let (_, words) = host.run(|| Bridge::ensure(&BridgeConfig::of("t1").unwrap()).unwrap());
    assert_eq!(words, []);
}

#[test]
fn two_nodes_on_one_machine_do_not_see_each_others_containers() {
    let mut machine = Machine::new();
    let (one, first) = machine.container();
    one.serve(ALL, 80, "one");
    let (bridge, mut attacher) = machine.host.run(|| {
        let (bridge, _) = Bridge::ensure(&BridgeConfig::of("t2").unwrap()).unwrap();
        let attacher = bridge.attacher().unwrap();
        (bridge, attacher)
    });
    let two = Netspace::new();
    let address = bridge.address_for([10, 89, 0, 2].into());
    attacher.attach(Netns::Fd(two.fd()), &host_link("other"), &address).unwrap();
    two.run(move || configure_inside(Some(&address), Duration::ZERO).unwrap());
    assert!(two.tcp_fails(first.ip, 80));
    machine.bridge.publish(&[port(key(None, 8080), first.ip, 80)]).unwrap();
    assert!(two.tcp(bridge.gateway(), 8080).starts_with("one "), "but by a published port");
}

#[test]
fn a_container_waits_for_its_link_and_gives_up_after_its_time() {
    let mut machine = Machine::new();
    let space = Netspace::new();
    let address = machine.bridge.address_for([10, 88, 0, 9].into());
    let missing = space.run(move || configure_inside(Some(&address), Duration::from_millis(20)));
    assert!(matches!(missing, Err(NetworkError::NoLink(_))), "{missing:?}");
    let file = space.file.try_clone().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| space.run(move || configure_inside(Some(&address), Duration::from_secs(5))));
        let netns = std::os::fd::AsFd::as_fd(&file);
        machine.attacher.attach(Netns::Fd(netns), &host_link("late"), &address).unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert!(space.program("ip -br address show eth0").contains("10.88.0.9/32"));
}

#[test]
fn two_hundred_attached_and_detached_links_leave_nothing() {
    let mut machine = Machine::new();
    let links = |machine: &Machine| machine.host.program("ip -br link").lines().count();
    let before = links(&machine);
    let space = Netspace::new();
    let address = machine.bridge.address_for([10, 88, 1, 1].into());
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let name = LinkName::new("cvtest").unwrap();
    let open_before = descriptors();
    for _ in 0..200 {
        machine.attacher.attach(Netns::Fd(space.fd()), &name, &address).unwrap();
        let again = machine.attacher.attach(Netns::Fd(space.fd()), &name, &address);
        assert!(again.is_err(), "a link's name is taken once");
        machine.attacher.detach(&name).unwrap();
    }
    machine.attacher.detach(&name).unwrap();
    assert_eq!(links(&machine), before);
    assert!(descriptors() < open_before + 50, "other tests open some in parallel, 200 would be ours");
    // The end of a container's namespace takes the host's end with it.
    machine.attacher.attach(Netns::Fd(space.fd()), &name, &address).unwrap();
    drop(space);
    wait_until("the removal by the kernel", || !machine.host.program("ip -br link").contains("cvtest"));
}
