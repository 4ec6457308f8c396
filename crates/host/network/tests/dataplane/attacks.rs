//! What a container with all rights in its own network may try.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::netspace::{Machine, Netspace, wait_until};
use crate::packets::{Header4, datagram, fragment6, packet6};
use crate::{Container, Dataplane, both, policy};

/// How long what must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(3);

/// Where datagrams are waited for.
const PORT: u16 = 7000;

fn listen(space: &Netspace) -> UdpSocket {
    space.run(|| UdpSocket::bind(("::", PORT)).unwrap())
}

fn arrives(socket: &UdpSocket, wait: Duration) -> bool {
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

fn ip4(container: &Container) -> Ipv4Addr {
    container.address.ip
}

fn ip6(container: &Container) -> Ipv6Addr {
    container.address.v6.unwrap().ip
}

/// Ways to send a datagram: a name, where to, and the packets it becomes.
type Way = (&'static str, IpAddr, Vec<Vec<u8>>);

fn ways(from: &Container, to: &Container) -> Vec<Way> {
    let header = Header4::of(ip4(from), ip4(to));
    let body = datagram(ip4(from).into(), ip4(to).into(), PORT, &[b'x'; 40]);
    let part = |offset: u16, more, bytes: &[u8]| Header4 { fragment: (offset, more), ..header }.before(bytes);
    let four = [
        ("plain", vec![header.before(&body)]),
        ("a TTL of 2", vec![Header4 { ttl: 2, ..header }.before(&body)]),
        ("a TTL of 255", vec![Header4 { ttl: 255, ..header }.before(&body)]),
        ("options", vec![Header4 { options: &[1, 1, 1, 0], ..header }.before(&body)]),
        ("fragments", vec![part(0, true, &body[..24]), part(3, false, &body[24..])]),
        ("the last fragment first, and a tiny one", vec![part(1, false, &body[8..]), part(0, true, &body[..8])]),
    ];
    let body = datagram(ip6(from).into(), ip6(to).into(), PORT, &[b'x'; 40]);
    let with = |hops, next, chain: &[u8]| packet6(ip6(from), ip6(to), hops, next, chain);
    let padding = |next: u8| [&[next, 0, 1, 4][..], &[0; 4]].concat();
    let after = |headers: Vec<u8>| [headers, body.clone()].concat();
    let many: Vec<u8> = (0..7).flat_map(|turn| padding(if turn < 6 { 60 } else { 17 })).collect();
    let six = [
        ("plain", vec![with(64, 17, &body)]),
        ("a hop limit of 255", vec![with(255, 17, &body)]),
        ("hop-by-hop options", vec![with(64, 0, &after(padding(17)))]),
        ("seven headers", vec![with(64, 60, &after(many))]),
        (
            "fragments",
            vec![
                with(64, 44, &fragment6(17, 0, true, &body[..24])),
                with(64, 44, &fragment6(17, 3, false, &body[24..])),
            ],
        ),
        ("an atomic fragment", vec![with(64, 44, &fragment6(17, 0, false, &body))]),
    ];
    let four = four.into_iter().map(|(name, packets)| (name, ip4(to).into(), packets));
    four.chain(six.into_iter().map(|(name, packets)| (name, ip6(to).into(), packets))).collect()
}

pub(crate) fn nothing_that_a_packet_says_of_itself_leads_around_a_denial(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    let socket = listen(&other.space);
    let ways = ways(&one, &other);
    let plain = ways.iter().filter(|(name, ..)| ["plain", "fragments", "a TTL of 2"].contains(name));
    for (name, to, packets) in plain {
        one.space.send_raw(*to, packets.clone());
        assert!(arrives(&socket, ANSWER), "{name} to {to} must arrive as long as nothing is denied");
    }
    plane.set_policy(machine, &policy(&[&one, &other], &[(1, 2)]));
    for (name, to, packets) in &ways {
        one.space.send_raw(*to, packets.clone());
        assert!(!arrives(&socket, SILENCE), "{name} to {to} arrived");
    }
    // Past the host, to its neighbour's hardware address.
    let mac = other.address.mac().map(|byte| format!("{byte:02x}")).join(":");
    for (name, to, packets) in ways.iter().filter(|(name, ..)| ["plain", "fragments"].contains(name)) {
        one.space.program(&format!("ip route replace {to} dev eth0"));
        one.space.program(&format!("ip neigh replace {to} lladdr {mac} dev eth0 nud permanent"));
        one.space.send_raw(*to, packets.clone());
        assert!(!arrives(&socket, SILENCE), "{name} directly to {to} arrived");
    }
    // A source route that leads there by the host.
    let gateway = machine.bridge.gateway();
    let [a, b, c, d] = ip4(&other).octets();
    let routed = Header4 { options: &[131, 7, 4, a, b, c, d, 0], ..Header4::of(ip4(&one), gateway) };
    one.space
        .send_raw(gateway.into(), vec![routed.before(&datagram(ip4(&one).into(), ip4(&other).into(), PORT, b"x"))]);
    assert!(!arrives(&socket, SILENCE), "a source route");
}

/// Counts the frames of `space` that pass `hook` of its `eth0` and are `what`.
fn count_frames(space: &Netspace, hook: &str, what: &str) {
    space.program("nft add table netdev count");
    space.program(&format!("nft add chain netdev count frames {{ type filter hook {hook} device eth0 priority 0; }}"));
    space.program(&format!("nft add rule netdev count frames {what} counter"));
}

fn counted(space: &Netspace) -> u64 {
    let listed = space.program("nft list chain netdev count frames");
    let (_, counted) = listed.split_once("counter packets ").expect("a counter");
    counted.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

pub(crate) fn nothing_for_all_reaches_another_container(machine: &mut Machine, _: &mut impl Dataplane) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    // A socket of IPv6 gets no multicast of IPv4.
    let (port4, port6) = (PORT, PORT + 1);
    let (socket4, socket6) = other
        .space
        .run(move || (UdpSocket::bind(("0.0.0.0", port4)).unwrap(), UdpSocket::bind(("::", port6)).unwrap()));
    let near6: Ipv6Addr = "ff02::1".parse().unwrap();
    let wide6: Ipv6Addr = "ff05::1:3".parse().unwrap();
    let described = other.space.program("ip -o link show eth0");
    let index: u32 = described.split(':').next().unwrap().parse().unwrap();
    [near6, wide6].iter().for_each(|group| socket6.join_multicast_v6(group, index).unwrap());
    for space in [&one.space, &other.space] {
        space.program("ip route add 224.0.0.0/4 dev eth0");
        space.program("ip route add broadcast 10.88.255.255 dev eth0 table local");
        space.program("ip -6 route add ff00::/8 dev eth0 table local");
    }
    count_frames(&one.space, "egress", &format!("udp dport {{ {port4}, {port6} }}"));
    let send = |space: &Netspace, to: IpAddr| {
        let port = if to.is_ipv4() { port4 } else { port6 };
        space.run(move || {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            if to.is_ipv4() {
                socket.set_broadcast(true).unwrap();
            }
            socket.send_to(b"?", SocketAddr::new(to, port)).unwrap();
        });
    };
    let groups = [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(10, 88, 255, 255), Ipv4Addr::BROADCAST];
    for to in groups.map(IpAddr::from).into_iter().chain([near6.into(), wide6.into()]) {
        let (socket, alone) =
            if to.is_ipv4() { (&socket4, ip4(&other).into()) } else { (&socket6, ip6(&other).into()) };
        // It would be taken: what is sent to all at the place itself is.
        send(&other.space, to);
        assert!(arrives(socket, ANSWER), "{to} is nothing that the socket gets");
        let before = counted(&one.space);
        send(&one.space, to);
        wait_until("it leaves its sender", || counted(&one.space) == before + 1);
        assert!(!arrives(socket, SILENCE), "{to}");
        send(&one.space, alone);
        assert!(arrives(socket, ANSWER), "what is sent to it alone must arrive");
        assert!(!arrives(socket, SILENCE), "{to}, late");
    }
}

pub(crate) fn a_container_does_not_send_with_the_address_of_another(machine: &mut Machine, _: &mut impl Dataplane) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    let third = Container::new(machine, "third");
    let sockets = [listen(&third.space), listen(&machine.host)];
    let ends = [(ip4(&third), ip6(&third)), {
        let gateway = machine.bridge.gateway();
        (gateway, machine.bridge.subnet6().unwrap().address(gateway))
    }];
    let send = |from: (Ipv4Addr, Ipv6Addr), to: (Ipv4Addr, Ipv6Addr)| {
        let four = datagram(from.0.into(), to.0.into(), PORT, b"?");
        one.space.send_raw(to.0.into(), vec![Header4::of(from.0, to.0).before(&four)]);
        let six = datagram(from.1.into(), to.1.into(), PORT, b"?");
        one.space.send_raw(to.1.into(), vec![packet6(from.1, to.1, 64, 17, &six)]);
    };
    for (socket, to) in sockets.iter().zip(ends) {
        send((ip4(&one), ip6(&one)), to);
        assert!(arrives(socket, ANSWER) && arrives(socket, ANSWER), "its own");
        let near: Ipv6Addr = "fe80::bad".parse().unwrap();
        for (name, from) in [
            ("another's", (ip4(&other), ip6(&other))),
            ("the gateway's", (ends[1].0, ends[1].1)),
            ("one outside", (Ipv4Addr::new(203, 0, 113, 9), "2001:db8:9::9".parse().unwrap())),
            ("the host's", (crate::netspace::HOST, crate::netspace::HOST6)),
            ("loopback", (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)),
            ("none, and a near one", (Ipv4Addr::UNSPECIFIED, near)),
        ] {
            send(from, to);
            assert!(!arrives(socket, SILENCE), "{name} to {to:?}");
        }
    }
}

pub(crate) fn a_container_that_takes_anothers_hardware_address_sends_nothing(
    machine: &mut Machine,
    _: &mut impl Dataplane,
) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    let third = Container::new(machine, "third");
    let socket = listen(&third.space);
    let mac = one.address.mac().map(|byte| format!("{byte:02x}")).join(":");
    let mac_of_other = other.address.mac().map(|byte| format!("{byte:02x}")).join(":");
    let send = |from: Ipv4Addr| {
        let body = datagram(from.into(), ip4(&third).into(), PORT, b"?");
        one.space.send_raw(ip4(&third).into(), vec![Header4::of(from, ip4(&third)).before(&body)]);
    };
    for false_mac in [mac_of_other.as_str(), "02:c0:0a:58:00:99"] {
        one.space.program(&format!("ip link set eth0 address {false_mac}"));
        for from in [ip4(&one), ip4(&other), Ipv4Addr::new(10, 88, 0, 0x99)] {
            send(from);
            assert!(!arrives(&socket, SILENCE), "{from} by {false_mac}");
        }
    }
    // The owner of the address is reached as before, and so is the culprit once it is itself again.
    assert!(third.space.ask(ip4(&other), 80).is_some_and(|said| said.starts_with("other")));
    one.space.program(&format!("ip link set eth0 address {mac}"));
    send(ip4(&one));
    assert!(arrives(&socket, ANSWER));
}

/// Sends a message of ICMPv6 from `from` to `to` on `eth0`, with the hop limit of 255 that neighbours insist on.
fn send_icmp6(space: &Netspace, from: Ipv6Addr, to: Ipv6Addr, message: Vec<u8>) {
    space.program(&format!("ip address replace {from}/128 dev eth0 nodad"));
    let described = space.program("ip -o link show eth0");
    let index: u32 = described.split(':').next().unwrap().parse().unwrap();
    space.run(move || {
        let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        rustix::net::sockopt::set_ipv6_unicast_hops(&raw, Some(255)).unwrap();
        rustix::net::sockopt::set_ipv6_multicast_hops(&raw, 255).unwrap();
        rustix::net::bind(&raw, &SocketAddrV6::new(from, 0, 0, index)).unwrap();
        sendto(&raw, &message, SendFlags::empty(), &SocketAddrV6::new(to, 0, 0, index)).unwrap();
    });
}

pub(crate) fn false_answers_about_addresses_change_nothing(machine: &mut Machine, _: &mut impl Dataplane) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    let third = Container::new(machine, "third");
    let gateway = machine.bridge.gateway();
    let gateway6 = machine.bridge.subnet6().unwrap().address(gateway);
    let known = |space: &Netspace| space.program("ip neigh show nud permanent");
    let before = (known(&machine.host), known(&third.space));
    // It says, asked by nobody, that the addresses of the other and of the gateway are its own.
    for claimed in [ip4(&other), gateway] {
        one.space.program(&format!("ip address add {claimed}/32 dev lo"));
        one.space.program(&format!("busybox arping -U -c 2 -w 1 -I eth0 -s {claimed} {claimed}"));
        one.space.program(&format!("ip address del {claimed}/32 dev lo"));
    }
    for claimed in [ip6(&other), gateway6] {
        for to in ["ff02::1".parse().unwrap(), gateway6, ip6(&third)] {
            // A neighbour advertisement that overrides, with its own hardware address.
            let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            message.extend(claimed.octets());
            message.extend([2, 1]);
            message.extend(one.address.mac());
            send_icmp6(&one.space, ip6(&one), to, message);
        }
    }
    assert_eq!((known(&machine.host), known(&third.space)), before);
    for space in [&machine.host, &third.space] {
        for to in other.ips() {
            assert!(space.ask(to, 80).is_some_and(|said| said.starts_with("other")), "{to}");
        }
    }
    machine.host.serve_both(81, "host");
    for to in both(machine, gateway) {
        assert!(third.space.ask(to, 81).is_some_and(|said| said.starts_with("host")), "{to}");
    }
}

pub(crate) fn a_routers_advertisement_of_a_container_reaches_neither_host_nor_neighbour(
    machine: &mut Machine,
    _: &mut impl Dataplane,
) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    // A router with a lifetime of half an hour, and the prefix 2001:db8:bad::/64.
    let prefix: Ipv6Addr = "2001:db8:bad::".parse().unwrap();
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 0, 0x07, 0x08, 0, 0, 0x07, 0x08, 0, 0, 0, 0]);
    message.extend(prefix.octets());
    let all = "ff02::1".parse().unwrap();
    for to in [all, ip6(&other), machine.bridge.subnet6().unwrap().address(machine.bridge.gateway())] {
        send_icmp6(&one.space, "fe80::bad".parse().unwrap(), to, message.clone());
    }
    // What was sent is dealt with before what is sent now.
    assert!(one.space.ask(ip4(&other), 80).is_some());
    for space in [&machine.host, &other.space] {
        let (routes, addresses) = (space.program("ip -6 route show"), space.program("ip -6 address show"));
        assert!(!routes.contains("fe80::bad") && !(routes + &addresses).contains("2001:db8:bad"));
    }
}

pub(crate) fn the_hosts_loopback_is_not_reached_and_not_spoken_for(machine: &mut Machine, _: &mut impl Dataplane) {
    let one = Container::new(machine, "one");
    let socket = machine.host.run(|| UdpSocket::bind(("127.0.0.1", PORT)).unwrap());
    let socket6 = machine.host.run(|| UdpSocket::bind(("::1", PORT)).unwrap());
    let gateway = machine.bridge.gateway();
    // To the host's hardware address, for its loopback one.
    one.space.program("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    one.space.program("ip rule add pref 1 table local");
    one.space.program(&format!("ip route add 127.0.0.1/32 via {gateway} dev eth0 table 7"));
    one.space.program("ip rule add pref 0 to 127.0.0.1 table 7");
    one.space.program("ip rule del pref 0 table local");
    for from in [ip4(&one), Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let body = datagram(from.into(), Ipv4Addr::LOCALHOST.into(), PORT, b"?");
        one.space.send_raw(Ipv4Addr::LOCALHOST.into(), vec![Header4::of(from, Ipv4Addr::LOCALHOST).before(&body)]);
        assert!(!arrives(&socket, SILENCE), "from {from}");
    }
    let body = datagram(ip6(&one).into(), Ipv6Addr::LOCALHOST.into(), PORT, b"?");
    one.space.send_raw(ip6(&one).into(), vec![packet6(ip6(&one), Ipv6Addr::LOCALHOST, 64, 17, &body)]);
    assert!(!arrives(&socket6, SILENCE));
}

pub(crate) fn no_frame_goes_from_port_to_port(machine: &mut Machine, _: &mut impl Dataplane) {
    let (one, other) = (Container::new(machine, "one"), Container::new(machine, "other"));
    let mac = |of: &Container| of.address.mac().map(|byte| format!("{byte:02x}")).join(":");
    // What the one sends, and what of it the other gets.
    for (space, hook) in [(&one.space, "egress"), (&other.space, "ingress")] {
        count_frames(space, hook, &format!("ether saddr {}", mac(&one)));
    }
    // To its neighbour's hardware address: what it says of addresses, asked by nobody, and packets of no container's.
    let to = ip4(&other);
    one.space.program(&format!("ip route add {to}/32 dev eth0"));
    one.space.program(&format!("ip neigh replace {to} lladdr {} dev eth0 nud permanent", mac(&other)));
    one.space.try_program(&format!("busybox arping -c 2 -w 1 -I eth0 {to}"));
    one.space.send_raw(to.into(), vec![Header4::of(Ipv4Addr::new(203, 0, 113, 9), to).before(&[0; 40])]);
    // And tagged frames, where the kernel has such links.
    let tagged = one.space.try_program("ip link add link eth0 name eth0.7 type vlan id 7");
    if tagged {
        one.space.program("ip link set eth0.7 up");
        one.space.program("ip address add 10.99.0.1/24 dev eth0.7");
        one.space.program(&format!("ip neigh replace 10.99.0.2 lladdr {} dev eth0.7 nud permanent", mac(&other)));
        one.space.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"?", "10.99.0.2:7000").unwrap();
        });
    }
    wait_until("frames are sent", || counted(&one.space) >= if tagged { 4 } else { 3 });
    // What it sends to the host after that arrives after that.
    machine.host.serve_both(81, "host");
    assert!(one.space.ask(machine.bridge.gateway(), 81).is_some());
    assert_eq!(counted(&other.space), 0, "frames of its neighbour arrived");
}
