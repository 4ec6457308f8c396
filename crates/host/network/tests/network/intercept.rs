//! Connections that go to a proxy of the node instead of where they are going.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, SocketAddrV6};

use coppice_network::{Asserted, Backend, Intercept, Intercepted, PortKey, Protocol, Published};

use crate::netspace::{HOST, Machine, OUTSIDE};

const PROXY: u16 = 15001;

/// Answers connections to `at` in the machine's namespace with where they were going.
fn proxy(machine: &Machine, at: impl Into<IpAddr>) {
    let at = at.into();
    let listener = machine.host.run(move || std::net::TcpListener::bind((at, PROXY)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let from = stream.peer_addr().unwrap().ip();
            let to = match at {
                IpAddr::V4(_) => rustix::net::sockopt::ip_original_dst(&stream).unwrap().to_string(),
                IpAddr::V6(_) => rustix::net::sockopt::ipv6_original_dst(&stream).unwrap().to_string(),
            };
            let _ = write!(stream, "{from} to {to}");
        }
    });
}

#[test]
fn what_containers_send_to_a_guarded_address_or_port_goes_to_the_proxy_until_it_is_removed() {
    let mut machine = Machine::new();
    let ((client, from), (server, to), (other, elsewhere)) =
        (machine.container(), machine.container(), machine.container());
    server.serve(to.ip, 80, "server");
    other.serve(elsewhere.ip, 80, "other");
    let gateway = machine.bridge.gateway();
    let key = |host_ip, host| PortKey { host_ip, protocol: Protocol::Tcp, host };
    let backends = vec![Backend { ip: to.ip, port: 80 }];
    let ports = [
        Published { key: key(None, 8080), backends: backends.clone() },
        Published { key: key(Some(HOST.into()), 8081), backends: backends.clone() },
        Published { key: key(None, 9090), backends },
        Published { key: key(None, 9091), backends: vec![Backend { ip: elsewhere.ip, port: 80 }] },
    ];
    machine.bridge.publish(&ports).unwrap();
    proxy(&machine, gateway);
    let (direct, through) = (format!("server {}", from.ip), format!("{} to {}:80", from.ip, to.ip));
    assert_eq!(client.tcp(to.ip, 80), direct);

    let bridge = machine.bridge.name().clone();
    let open = move || Intercept::open("t1", &bridge).unwrap();
    let mut intercept = machine.host.run(open.clone());
    let wanted = Intercepted {
        proxy: SocketAddrV4::new(gateway, PROXY),
        proxy6: None,
        addresses: [IpAddr::V4(to.ip)].into(),
        closed: [].into(),
        ports: [(None, 8080), (Some(HOST.into()), 8081)].into(),
    };
    intercept.set(&wanted).unwrap();
    // People can read it.
    let listed = machine.host.program("nft list table inet coppice-t1-peer");
    for part in [&to.ip.to_string(), "8080", &format!("{HOST} . 8081"), "dnat ip to"] {
        assert!(listed.contains(part), "no {part} in {listed}");
    }
    assert_eq!(client.tcp(to.ip, 80), through);
    assert_eq!(client.tcp(to.ip, 81), format!("{} to {}:81", from.ip, to.ip), "every port");
    assert_eq!(client.tcp(elsewhere.ip, 80), format!("other {}", from.ip), "nobody else's");
    assert_eq!(client.udp(to.ip, 80), direct, "UDP is not TCP");
    assert_eq!(machine.host.tcp(to.ip, 80), format!("server {gateway}"), "the node's own go their way");
    let target = to.ip;
    let of_nobody = machine.host.run(move || {
        // A thread that becomes nobody, for good.
        let asks = std::thread::spawn(move || {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
            let mut answer = String::new();
            std::net::TcpStream::connect((target, 80)).unwrap().read_to_string(&mut answer).unwrap();
            answer
        });
        asks.join().unwrap()
    });
    // From which of the host's addresses is its own matter.
    let (source, went) = of_nobody.split_once(' ').unwrap();
    assert_eq!(went, format!("to {target}:80"), "other users' programs are strangers");
    assert!([gateway, HOST].contains(&source.parse().unwrap()), "{source}");
    assert_eq!(machine.outside.tcp(HOST, 8080), format!("{OUTSIDE} to {HOST}:8080"));
    assert_eq!(machine.outside.tcp(HOST, 8081), format!("{OUTSIDE} to {HOST}:8081"));
    assert_eq!(machine.outside.tcp(HOST, 9091), format!("other {OUTSIDE}"), "a port that is not guarded");
    assert!(machine.outside.tcp_fails(HOST, 9090), "one that leads around the proxy");
    assert!(client.tcp_fails(HOST, 9090), "and so it does for containers");
    assert_eq!(machine.host.tcp(Ipv4Addr::LOCALHOST, 8080), "127.0.0.1 to 127.0.0.1:8080");
    assert_eq!(client.tcp(HOST, 8080), format!("{} to {HOST}:8080", from.ip));

    // It outlives whoever made it, and is found and replaced by the next.
    drop(intercept);
    assert_eq!(client.tcp(to.ip, 80), through);
    let mut intercept = machine.host.run(open);
    assert_eq!(intercept.assert_rules().unwrap(), Asserted::Intact, "nothing is wanted yet");
    let fewer = Intercepted { ports: [].into(), closed: wanted.addresses.clone(), ..wanted.clone() };
    intercept.set(&fewer).unwrap();
    assert!(client.udp_fails(to.ip, 80), "what cannot go to the proxy goes nowhere");
    assert_eq!(client.udp(elsewhere.ip, 80), format!("other {}", from.ip));
    assert_eq!(server.udp(elsewhere.ip, 80), format!("other {}", to.ip), "what it begins itself is answered");
    assert!(machine.outside.tcp_fails(HOST, 8080), "nothing leads there any more but around the proxy");
    assert_eq!(client.tcp(to.ip, 80), through);

    // Somebody flushes all rules.
    assert_eq!(intercept.assert_rules().unwrap(), Asserted::Intact);
    machine.host.program("nft flush ruleset");
    machine.bridge.assert_rules().unwrap();
    assert_eq!(intercept.assert_rules().unwrap(), Asserted::Restored);
    assert_eq!(client.tcp(to.ip, 80), through);
    machine.host.program("nft flush set inet coppice-t1-peer guarded");
    assert_eq!(intercept.assert_rules().unwrap(), Asserted::Restored);
    assert_eq!(intercept.assert_rules().unwrap(), Asserted::Intact);
    assert_eq!(client.tcp(to.ip, 80), through);

    intercept.remove().unwrap();
    assert_eq!(client.tcp(to.ip, 80), direct);
    let gone = machine
        .host
        .run(|| std::process::Command::new("nft").args(["list", "table", "inet", "coppice-t1-peer"]).output());
    assert!(String::from_utf8(gone.unwrap().stderr).unwrap().contains("No such file"), "the table is there");
}

#[test]
fn while_nobody_listens_connections_are_refused_and_not_let_through() {
    let mut machine = Machine::new();
    let ((client, _), (server, to)) = (machine.container(), machine.container());
    server.serve(to.ip, 80, "server");
    let (bridge, gateway) = (machine.bridge.name().clone(), machine.bridge.gateway());
    let mut intercept = machine.host.run(move || Intercept::open("t1", &bridge).unwrap());
    let proxy = SocketAddrV4::new(gateway, PROXY);
    let addresses = [IpAddr::V4(to.ip)].into();
    intercept.set(&Intercepted { proxy, proxy6: None, addresses, closed: [].into(), ports: [].into() }).unwrap();
    drop(intercept);
    assert!(client.tcp_fails(to.ip, 80));
}

#[test]
fn ipv6_goes_to_the_proxy_too_and_nowhere_where_that_has_none() {
    let mut machine = Machine::new();
    let ((client, from), (server, to)) = (machine.container(), machine.container());
    let (from, to) = (from.v6.unwrap().ip, to.v6.unwrap());
    let serve = server.run(move || std::net::TcpListener::bind((to.ip, 80)).unwrap());
    std::thread::spawn(move || serve.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"server"))));
    proxy(&machine, to.gateway);
    assert_eq!(client.tcp(to.ip, 80), "server");
    let (bridge, gateway) = (machine.bridge.name().clone(), machine.bridge.gateway());
    let mut intercept = machine.host.run(move || Intercept::open("t1", &bridge).unwrap());
    let mut wanted = Intercepted {
        proxy: SocketAddrV4::new(gateway, PROXY),
        proxy6: Some(SocketAddrV6::new(to.gateway, PROXY, 0, 0)),
        addresses: [IpAddr::V6(to.ip)].into(),
        closed: [].into(),
        ports: [(Some(IpAddr::V6(to.gateway)), 8080), (None, 8081)].into(),
    };
    intercept.set(&wanted).unwrap();
    assert_eq!(client.tcp(to.ip, 80), format!("{from} to [{}]:80", to.ip));
    for port in [8080, 8081] {
        assert_eq!(client.tcp(to.gateway, port), format!("{from} to [{}]:{port}", to.gateway));
    }
    wanted.proxy6 = None;
    intercept.set(&wanted).unwrap();
    assert!(client.tcp_fails(to.ip, 80));
}

#[test]
fn a_firewall_that_closes_the_machine_is_told_with_what_opens_it_for_the_proxy() {
    let mut machine = Machine::new();
    let ((client, from), (_server, to)) = (machine.container(), machine.container());
    let (bridge, gateway) = (machine.bridge.name().clone(), machine.bridge.gateway());
    proxy(&machine, gateway);
    let mut intercept = machine.host.run(move || Intercept::open("t1", &bridge).unwrap());
    let addresses = [IpAddr::V4(to.ip)].into();
    let proxy = SocketAddrV4::new(gateway, PROXY);
    intercept.set(&Intercepted { proxy, proxy6: None, addresses, closed: [].into(), ports: [].into() }).unwrap();
    assert_eq!(intercept.closed_input(PROXY).unwrap(), []);
    for close in [
        "iptables -P INPUT DROP",
        "nft add table inet own",
        "nft add chain inet own mine { type filter hook input priority 5; policy drop; }",
    ] {
        machine.host.program(close);
    }
    assert!(client.tcp_fails(to.ip, 80));
    let words = intercept.closed_input(PROXY).unwrap();
    assert_eq!(words.len(), 2, "{words:?}");
    for word in words {
        machine.host.program(word.0.split('`').nth(1).unwrap());
    }
    assert_eq!(client.tcp(to.ip, 80), format!("{} to {}:80", from.ip, to.ip));
    assert!(client.tcp_fails(gateway, PROXY), "what nothing redirected is still kept out");
}
