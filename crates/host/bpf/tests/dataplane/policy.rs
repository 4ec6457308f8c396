//! Who may begin talking to whom, and that there is no way around it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use coppice_bpf::Peer;
use coppice_network::Identity;

use crate::machine::{ANSWER, Container, GATEWAY, Machine, NO_ANSWER, Netspace, WEB, wait_until};
use crate::raw::{Header4, fragment6, ipv6, udp};

/// A machine with two containers that answer at port 80; neither is an endpoint, so all goes through the stack.
fn machine_of_two() -> (Machine, Container, Container) {
    let mut machine = Machine::new();
    let (one, other) = (machine.container(), machine.container());
    one.space.serve(80, "one");
    other.space.serve(80, "other");
    (machine, one, other)
}

fn pings(space: &Netspace, to: impl Into<IpAddr>) -> bool {
    let to = to.into();
    space.run(move || {
        let line = ["-c", "1", "-W", "1", &to.to_string()].map(str::to_owned);
        std::process::Command::new("busybox").arg("ping").args(line).output().unwrap().status.success()
    })
}

#[test]
fn a_denied_pair_cannot_begin_and_the_other_way_works_with_all_its_answers() {
    let (machine, one, other) = machine_of_two();
    machine.policy(&[&one, &other], &[(1, 2)]);
    assert!(one.space.tcp_fails(other.ip, 80) && one.space.tcp_fails(other.ip6, 80));
    assert!(!pings(&one.space, other.ip) && !pings(&one.space, other.ip6));
    for (from, to) in [(IpAddr::from(other.ip), IpAddr::from(one.ip)), (other.ip6.into(), one.ip6.into())] {
        assert_eq!(other.space.tcp(to, 80), format!("one {from}"));
        assert_eq!(other.space.udp(to, 80, 4000).unwrap(), format!("one {from}"));
        assert!(pings(&other.space, to));
    }
    machine.policy(&[&one, &other], &[]);
    assert_eq!(one.space.tcp(other.ip, 80), format!("other {}", one.ip));
}

#[test]
fn an_error_about_a_datagram_that_was_let_through_comes_back() {
    let (machine, one, other) = machine_of_two();
    machine.policy(&[&one, &other], &[(1, 2)]);
    for to in [SocketAddr::new(one.ip.into(), 9), SocketAddr::new(one.ip6.into(), 9)] {
        let socket = other.space.run(move || {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket.send(b"?").unwrap();
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn containers_without_an_identity_have_the_one_of_all_others() {
    let (machine, one, other) = machine_of_two();
    machine.policy(&[&one], &[(0, 1)]);
    assert!(other.space.tcp_fails(one.ip, 80));
    assert!(one.space.tcp(other.ip, 80).starts_with("other"));
    machine.policy(&[&one], &[(1, 0)]);
    assert!(one.space.tcp_fails(other.ip, 80));
    assert!(other.space.tcp(one.ip, 80).starts_with("one"));
}

#[test]
fn a_group_may_be_denied_to_itself() {
    let (machine, one, other) = machine_of_two();
    machine.policy(&[], &[(0, 0)]);
    assert!(one.space.tcp_fails(other.ip, 80) && other.space.tcp_fails(one.ip, 80));
}

#[test]
fn what_is_denied_is_denied_by_a_services_address_too() {
    let (machine, one, other) = machine_of_two();
    for endpoints in [&[&one, &other][..], &[]] {
        machine.endpoints(endpoints);
        machine.services(&[(WEB, &[&other])]);
        machine.policy(&[&one, &other], &[]);
        assert_eq!(one.space.tcp(WEB, 80), format!("other {}", one.ip));
        machine.policy(&[&one, &other], &[(1, 2)]);
        assert!(one.space.tcp_fails(WEB, 80) && one.space.tcp_fails(machine.ip6(WEB), 80));
        // And its answers pass where only the other way is denied.
        machine.policy(&[&one, &other], &[(2, 1)]);
        assert_eq!(one.space.tcp(WEB, 80), format!("other {}", one.ip));
        assert_eq!(one.space.tcp(machine.ip6(WEB), 80), format!("other {}", one.ip6));
        assert!(one.space.udp(WEB, 80, 4000).is_some());
        assert!(other.space.tcp_fails(one.ip, 80));
    }
}

#[test]
fn a_connection_that_is_denied_later_ends_and_one_whose_answers_are_goes_on() {
    let (machine, one, other) = machine_of_two();
    let mut ends = one.space.connect(other.ip, 80, NO_ANSWER).unwrap();
    let mut goes_on = other.space.connect(one.ip, 80, ANSWER).unwrap();
    assert!(ends.ask().is_some() && goes_on.ask().is_some());
    machine.policy(&[&one, &other], &[(1, 2)]);
    assert!(goes_on.ask().is_some());
    assert!(ends.ask().is_none());
}

#[test]
fn the_host_reaches_containers_and_they_reach_it_whatever_is_denied() {
    let (machine, one, other) = machine_of_two();
    machine.host.serve(80, "host");
    machine.policy(&[&one, &other], &[(0, 0), (0, 1), (1, 0), (1, 2), (2, 1)]);
    assert_eq!(one.space.tcp(GATEWAY, 80), format!("host {}", one.ip));
    assert_eq!(machine.host.tcp(one.ip, 80), format!("one {GATEWAY}"));
    assert_eq!(machine.host.tcp(one.ip6, 80), format!("one {}", machine.ip6(GATEWAY)));
}

#[test]
fn a_services_address_that_the_data_plane_does_not_have_is_nobodys() {
    let (machine, one, other) = machine_of_two();
    machine.policy(&[&one, &other], &[(1, 0), (0, 0), (2, 0)]);
    // Somebody else answers for it: here the host.
    machine.host.serve(80, "host");
    machine.host.program(&format!("ip address add {WEB}/32 dev lo"));
    assert_eq!(one.space.tcp(WEB, 80), format!("host {}", one.ip));
}

#[test]
fn drops_are_counted_by_pair() {
    let (machine, one, other) = machine_of_two();
    machine.policy(&[&one, &other], &[(1, 2)]);
    assert!(one.space.tcp_fails(other.ip, 80));
    let pair = |from, to| (Peer::Container(Identity(from)), Peer::Container(Identity(to)));
    let denied = machine.plane(|plane| plane.metrics().unwrap()).pairs;
    let denied: Vec<_> = denied.iter().filter(|of| of.denied > 0).map(|of| (of.from, of.to)).collect();
    assert_eq!(denied, [pair(1, 2)]);
}

/// A way to send a datagram: its name, and the packets it becomes.
type Way = (&'static str, Vec<Vec<u8>>);

/// A way, and the address it is tried at.
type Tried = (Way, IpAddr);

/// Ways that a datagram to `port` could try; those of the second list are dropped whether they are denied or not.
fn ways(from: &Container, to: &Container, port: u16) -> (Vec<Tried>, Vec<Tried>) {
    let header = Header4::of(from.ip, to.ip);
    let datagram = udp(from.ip.into(), to.ip.into(), (4000, port), &[b'x'; 40]);
    let loose = [131, 7, 4, 10, 77, 0, 1, 0]; // loose source route
    let four = vec![
        ("plain", vec![header.before(&datagram)]),
        ("a TTL of 2", vec![Header4 { ttl: 2, ..header }.before(&datagram)]),
        ("a TTL of 255", vec![Header4 { ttl: 255, ..header }.before(&datagram)]),
        (
            "fragments",
            vec![
                Header4 { fragment: (0, true), ..header }.before(&datagram[..24]),
                Header4 { fragment: (3, false), ..header }.before(&datagram[24..]),
            ],
        ),
        (
            "the last fragment first, and a tiny one",
            vec![
                Header4 { fragment: (1, false), ..header }.before(&datagram[8..]),
                Header4 { fragment: (0, true), ..header }.before(&datagram[..8]),
            ],
        ),
    ];
    let closed = vec![
        ("options", vec![Header4 { options: &[1, 1, 1, 0], ..header }.before(&datagram)]),
        ("a source route", vec![Header4 { options: &loose, ..header }.before(&datagram)]),
    ];
    let datagram = udp(from.ip6.into(), to.ip6.into(), (4000, port), &[b'x'; 40]);
    let with = |hops, next, chain: &[u8]| ipv6(from.ip6, to.ip6, hops, next, chain);
    let empty = |next: u8| [&[next, 0, 1, 4][..], &[0; 4]].concat(); // an option of padding
    let chained = |first: Vec<u8>| [first, datagram.clone()].concat();
    let six = vec![
        ("plain", vec![with(64, 17, &datagram)]),
        ("a hop limit of 255", vec![with(255, 17, &datagram)]),
        ("hop-by-hop options", vec![with(64, 0, &chained(empty(17)))]),
        ("destination options", vec![with(64, 60, &chained(empty(17)))]),
        ("options before options", vec![with(64, 0, &chained([empty(60), empty(17)].concat()))]),
        (
            "fragments",
            vec![
                with(64, 44, &fragment6(17, 0, true, &datagram[..24])),
                with(64, 44, &fragment6(17, 3, false, &datagram[24..])),
            ],
        ),
        ("an atomic fragment", vec![with(64, 44, &fragment6(17, 0, false, &datagram))]),
        (
            "fragments of options",
            vec![
                with(64, 44, &fragment6(60, 0, true, &chained(empty(17))[..24])),
                with(64, 44, &fragment6(60, 3, false, &chained(empty(17))[24..])),
            ],
        ),
    ];
    let routed = [&[17, 2, 0, 1, 0, 0, 0, 0][..], &to.ip6.octets()].concat(); // a routing header of type 0
    let many = (0..7).flat_map(|turn| empty(if turn < 6 { 60 } else { 17 })).collect();
    let closed6 = vec![
        ("a routing header", vec![with(64, 43, &chained(routed))]),
        ("seven headers", vec![with(64, 60, &chained(many))]),
    ];
    let to4 = |ways: Vec<Way>| ways.into_iter().map(|way| (way, IpAddr::from(to.ip))).collect::<Vec<_>>();
    let to6 = |ways: Vec<Way>| ways.into_iter().map(|way| (way, IpAddr::from(to.ip6))).collect::<Vec<_>>();
    ([to4(four), to6(six)].concat(), [to4(closed), to6(closed6)].concat())
}

fn arrives(socket: &UdpSocket, wait: Duration) -> bool {
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

#[test]
fn nothing_that_a_packet_says_of_itself_leads_around_a_denial() {
    let (machine, one, other) = machine_of_two();
    let socket = other.space.run(|| UdpSocket::bind("[::]:7000").unwrap());
    let (open, closed) = ways(&one, &other, 7000);
    for ((name, packets), to) in &open {
        one.space.send_raw(*to, packets.clone());
        assert!(arrives(&socket, ANSWER), "{name} to {to} must arrive as long as nothing is denied");
    }
    machine.policy(&[&one, &other], &[(1, 2)]);
    for ((name, packets), to) in open.iter().chain(&closed) {
        one.space.send_raw(*to, packets.clone());
        assert!(!arrives(&socket, Duration::from_millis(60)), "{name} to {to} arrived");
    }
    // They were seen, not lost on the way.
    let pairs = machine.plane(|plane| plane.metrics().unwrap()).pairs;
    let denied: u64 = pairs.iter().map(|pair| pair.denied).sum();
    let sent: usize = open.iter().map(|((_, packets), _)| packets.len()).sum();
    assert!(denied >= sent as u64, "{denied} drops for {sent} packets");
}

#[test]
fn nothing_for_all_reaches_another_container() {
    let (_machine, one, other) = machine_of_two();
    let socket = other.space.run(|| UdpSocket::bind("0.0.0.0:7000").unwrap());
    for space in [&one.space, &other.space] {
        space.program("ip route add 224.0.0.0/4 dev eth0");
        space.program("ip route add broadcast 10.77.255.255 dev eth0 table local");
    }
    one.space.program("nft add table netdev count");
    one.space.program("nft add chain netdev count frames { type filter hook egress device eth0 priority 0; }");
    one.space.program("nft add rule netdev count frames udp dport 7000 counter");
    let left = |count: u64| {
        let listed = one.space.program("nft list chain netdev count frames");
        listed.contains(&format!("counter packets {count} "))
    };
    let send = |from: &Container, to: Ipv4Addr| {
        from.space.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"?", (to, 7000)).unwrap();
        });
    };
    for (to, sent) in
        [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(10, 77, 255, 255), Ipv4Addr::BROADCAST].into_iter().zip(0..)
    {
        // It would be taken: what is sent to all at the place itself is.
        send(&other, to);
        assert!(arrives(&socket, ANSWER), "{to} is nothing that the socket gets");
        send(&one, to);
        wait_until("it leaves its sender", || left(2 * sent + 1));
        assert!(!arrives(&socket, Duration::from_millis(60)), "{to}");
        send(&one, other.ip);
        assert!(arrives(&socket, ANSWER), "what is sent to it alone must arrive");
        assert!(!arrives(&socket, Duration::from_millis(60)), "{to}, late");
    }
}

#[test]
fn a_container_cannot_send_with_anothers_address() {
    let mut machine = Machine::new();
    let (one, other, third) = (machine.container(), machine.container(), machine.container());
    let socket = third.space.run(|| UdpSocket::bind("[::]:7000").unwrap());
    let send = |from: &Container| {
        let four = udp(from.ip.into(), third.ip.into(), (4000, 7000), b"?");
        one.space.send_raw(third.ip.into(), vec![Header4::of(from.ip, third.ip).before(&four)]);
        let six = udp(from.ip6.into(), third.ip6.into(), (4000, 7000), b"?");
        one.space.send_raw(third.ip6.into(), vec![ipv6(from.ip6, third.ip6, 64, 17, &six)]);
    };
    send(&one);
    assert!(arrives(&socket, ANSWER) && arrives(&socket, ANSWER));
    send(&other);
    assert!(!arrives(&socket, NO_ANSWER));
}

#[test]
fn packets_that_are_cut_short_are_dropped_and_the_programs_go_on() {
    let (machine, one, other) = machine_of_two();
    machine.endpoints(&[&one, &other]);
    machine.services(&[(WEB, &[&other])]);
    machine.policy(&[&one, &other], &[(2, 1)]);
    let header = Header4::of(one.ip, WEB);
    let whole = udp(one.ip.into(), WEB.into(), (4000, 80), b"?");
    for length in 0..8 {
        one.space.send_raw(WEB.into(), vec![header.before(&whole[..length])]);
        one.space.send_raw(WEB.into(), vec![Header4 { protocol: 6, ..header }.before(&whole[..length])]);
        one.space.send_raw(WEB.into(), vec![Header4 { protocol: 1, ..header }.before(&whole[..length])]);
        let web6 = machine.ip6(WEB);
        for next in [0, 6, 17, 43, 44, 51, 58, 60] {
            one.space.send_raw(web6.into(), vec![ipv6(one.ip6, web6, 64, next, &whole[..length])]);
        }
    }
    // A later fragment of nothing.
    one.space.send_raw(WEB.into(), vec![Header4 { fragment: (100, false), ..header }.before(&[0; 8])]);
    // An error about a packet that nobody sent.
    let quoted = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &Header4::of(other.ip, one.ip).before(&whole)].concat();
    one.space.send_raw(other.ip.into(), vec![Header4 { protocol: 1, ..Header4::of(one.ip, other.ip) }.before(&quoted)]);
    wait_until("an answer", || one.space.udp(WEB, 80, 1).is_some());
    assert_eq!(one.space.tcp(WEB, 80), format!("other {}", one.ip));
}
