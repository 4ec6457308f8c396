//! What was counted, against what is known to have been sent.

use coppice_bpf::{PairTraffic, Peer, Settings};
use coppice_network::Identity;

use crate::machine::{GATEWAY, Machine, WEB, ask_udp};

fn between(pairs: &[PairTraffic], from: Peer, to: Peer) -> PairTraffic {
    let found = pairs.iter().find(|pair| pair.from == from && pair.to == to);
    found.copied().unwrap_or(PairTraffic { from, to, packets: 0, bytes: 0, connections: 0, denied: 0 })
}

#[test]
fn packets_and_bytes_are_counted_by_service_and_by_pair_both_ways_and_none_twice() {
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.policy(&[&client, &backend], &[]);
    let (one, other) = (Peer::Container(Identity(1)), Peer::Container(Identity(2)));
    let before = machine.plane(|plane| plane.metrics().unwrap());
    assert!(before.services.is_empty());
    for (turn, endpoints) in [&[&client, &backend][..], &[]].into_iter().enumerate() {
        machine.endpoints(endpoints);
        machine.services(&[(WEB, &[&backend])]);
        let counted = machine.plane(|plane| plane.metrics().unwrap());
        let (from, to) = (between(&counted.pairs, one, other), between(&counted.pairs, other, one));
        let socket = client.space.datagrams();
        for _ in 0..10 {
            ask_udp(&socket, (WEB, 80).into(), 100).unwrap();
        }
        let now = machine.plane(|plane| plane.metrics().unwrap());
        let there = between(&now.pairs, one, other);
        assert_eq!((there.packets - from.packets, there.bytes - from.bytes), (10, 10 * 128), "turn {turn}");
        assert_eq!(there.connections - from.connections, 1);
        let back = between(&now.pairs, other, one);
        assert_eq!((back.packets - to.packets, back.bytes - to.bytes), (10, 10 * 128), "turn {turn}");
        let service = now.services[0];
        let rounds = turn as u64 + 1;
        assert_eq!((service.address, service.connections), (WEB, rounds));
        assert_eq!((service.packets_in, service.bytes_in), (rounds * 10, rounds * 1280));
        assert_eq!((service.packets_out, service.bytes_out), (rounds * 10, rounds * 1280));
    }
}

#[test]
fn the_next_service_of_an_address_begins_with_counts_of_its_own() {
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.endpoints(&[&client, &backend]);
    machine.services(&[(WEB, &[&backend])]);
    client.space.udp(WEB, 80, 1).unwrap();
    let counted = || machine.plane(|plane| plane.metrics().unwrap()).services;
    let first = counted();
    assert_eq!((first.len(), first[0].connections), (1, 1));
    machine.services(&[(WEB, &[])]);
    assert_eq!(counted(), first, "backends come and go");
    machine.services(&[]);
    machine.services(&[(WEB, &[&backend])]);
    assert_eq!(counted(), []);
    client.space.udp(WEB, 80, 1).unwrap();
    assert_eq!(counted()[0].connections, 1);
}

#[test]
fn what_a_container_has_to_do_with_the_host_is_counted_as_beyond() {
    let mut machine = Machine::new();
    let container = machine.container();
    container.space.serve(80, "inside");
    machine.host.serve(80, "host");
    machine.policy(&[&container], &[]);
    let inside = Peer::Container(Identity(1));
    let pairs = || machine.plane(|plane| plane.metrics().unwrap()).pairs;
    let before = pairs();
    container.space.tcp(GATEWAY, 80);
    let after = pairs();
    let begun = |pairs: &[PairTraffic], from, to| between(pairs, from, to).connections;
    assert_eq!(begun(&after, inside, Peer::Beyond) - begun(&before, inside, Peer::Beyond), 1);
    assert!(between(&after, Peer::Beyond, inside).packets > between(&before, Peer::Beyond, inside).packets);
    machine.host.tcp(container.ip, 80);
    assert_eq!(begun(&pairs(), Peer::Beyond, inside) - begun(&after, Peer::Beyond, inside), 1);
}

#[test]
fn counters_outlive_the_daemon_and_can_be_off() {
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.endpoints(&[&client, &backend]);
    machine.services(&[(WEB, &[&backend])]);
    client.space.udp(WEB, 80, 1).unwrap(); // nothing of it comes later, as a connection's end does
    let before = machine.plane(|plane| plane.metrics().unwrap());
    machine.stop();
    machine.start(Settings { metrics: false, ..Settings::default() });
    client.space.udp(WEB, 80, 1).unwrap();
    let after = machine.plane(|plane| plane.metrics().unwrap());
    assert_eq!((before.services.len(), before.services), (1, after.services));
    let total = |pairs: &[PairTraffic]| pairs.iter().map(|pair| pair.packets).sum::<u64>();
    assert!(total(&before.pairs) > 0);
}
