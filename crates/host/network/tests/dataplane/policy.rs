//! Who may begin talking to whom.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use coppice_network::{Backend, Identity, Policy, PortKey, Protocol, Published};

use crate::netspace::{HOST, HOST6, Machine};
use crate::{Container, Dataplane, WEB, both, policy, web};

/// The first denied two are both ways of one pair of containers.
fn pair(machine: &mut Machine) -> (Container, Container) {
    (Container::new(machine, "one"), Container::new(machine, "other"))
}

fn pings(from: &Container, to: IpAddr) -> bool {
    from.space.run(move || {
        let line = ["ping".to_owned(), "-c1".to_owned(), "-W1".to_owned(), to.to_string()];
        std::process::Command::new("busybox").args(line).output().unwrap().status.success()
    })
}

pub(crate) fn a_denied_pair_cannot_begin_by_any_way_and_the_other_direction_works_with_its_answers(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = pair(machine);
    let third = Container::new(machine, "third");
    plane.set_services(machine, &web(&[&other]));
    let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| Published {
        key: PortKey { host_ip: None, protocol, host: 8080 },
        backends: vec![Backend { ip: other.address.ip, port: 80 }],
    });
    machine.bridge.publish(&ports).unwrap();
    let direct = other.ips().map(|ip| (ip, 80));
    let service = both(machine, WEB).map(|ip| (ip, 80));
    let gateways = both(machine, machine.bridge.gateway());
    let published = gateways.into_iter().chain([HOST.into(), HOST6.into()]).map(|ip| (ip, 8080));
    let ways: Vec<(IpAddr, u16)> = direct.into_iter().chain(service).chain(published).collect();
    for (to, port) in &ways {
        assert!(one.space.ask(*to, *port).is_some_and(|said| said.starts_with("other")), "{to}:{port}");
    }
    plane.set_policy(machine, &policy(&[&one, &other], &[(1, 2)]));
    for (to, port) in &ways {
        assert_eq!(one.space.ask(*to, *port), None, "{to}:{port}");
        assert!(one.space.ask_udp(*to, *port, 1).is_err(), "{to}:{port}");
        assert!(third.space.ask(*to, *port).is_some_and(|said| said.starts_with("other")), "{to}:{port}");
    }
    for to in other.ips() {
        assert!(!pings(&one, to), "{to}");
    }
    for (to, from) in one.ips().into_iter().zip(other.ips()) {
        assert_eq!(other.space.ask(to, 80), Some(format!("one {from}")));
        assert_eq!(other.space.ask_udp(to, 80, 4000).unwrap(), format!("one {from}"));
        assert!(pings(&other, to), "{to}");
    }
    plane.set_policy(machine, &Policy::default());
    for (to, port) in &ways {
        assert!(one.space.ask(*to, *port).is_some(), "{to}:{port}");
    }
}

pub(crate) fn a_connection_that_is_denied_later_ends_and_one_that_is_not_goes_on(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = pair(machine);
    for (to, back) in other.ips().into_iter().zip(one.ips()) {
        let mut ends = one.space.connect(to, 80).unwrap();
        let mut goes_on = other.space.connect(back, 80).unwrap();
        assert!(ends.ask().is_some() && goes_on.ask().is_some());
        plane.set_policy(machine, &policy(&[&one, &other], &[(1, 2)]));
        ends.0.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(goes_on.ask().is_some());
        assert!(ends.ask().is_none());
        plane.set_policy(machine, &Policy::default());
    }
}

pub(crate) fn containers_that_are_no_members_are_one_identity(machine: &mut Machine, plane: &mut impl Dataplane) {
    let (one, other) = pair(machine);
    plane.set_policy(machine, &policy(&[&one], &[(0, 1)]));
    for (to, back) in one.ips().into_iter().zip(other.ips()) {
        assert_eq!(other.space.ask(to, 80), None);
        assert!(one.space.ask(back, 80).is_some());
    }
    plane.set_policy(machine, &policy(&[&one], &[(1, 0)]));
    for (to, back) in one.ips().into_iter().zip(other.ips()) {
        assert_eq!(one.space.ask(back, 80), None);
        assert!(other.space.ask(to, 80).is_some());
    }
    // Once it is a member, what is denied to others is nothing to it.
    plane.set_policy(machine, &policy(&[&one, &other], &[(1, 0), (0, 1)]));
    assert!(one.space.ask(other.address.ip, 80).is_some() && other.space.ask(one.address.ip, 80).is_some());
}

pub(crate) fn a_group_may_be_denied_to_itself(machine: &mut Machine, plane: &mut impl Dataplane) {
    let (one, other) = pair(machine);
    let both_members = |denied| Policy {
        members: [&one, &other].map(|of| (of.address.ip, Identity(5))).into(),
        denied: [denied].into(),
    };
    plane.set_policy(machine, &both_members((Identity(5), Identity(5))));
    assert_eq!((one.space.ask(other.ips()[0], 80), other.space.ask(one.ips()[1], 80)), (None, None));
    plane.set_policy(machine, &both_members((Identity(5), Identity(6))));
    assert!(one.space.ask(other.ips()[0], 80).is_some());
    let strangers = Policy { denied: [(Identity::OTHER, Identity::OTHER)].into(), ..Policy::default() };
    plane.set_policy(machine, &strangers);
    assert_eq!((one.space.ask(other.ips()[0], 80), other.space.ask(one.ips()[1], 80)), (None, None));
}

pub(crate) fn the_host_and_clients_from_outside_reach_containers_whatever_is_denied(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = pair(machine);
    machine.host.serve_both(80, "host");
    plane.set_services(machine, &web(&[&one]));
    plane.set_policy(machine, &policy(&[&one, &other], &[(0, 0), (0, 1), (1, 0), (1, 2), (2, 1)]));
    let key = PortKey { host_ip: None, protocol: Protocol::Tcp, host: 8080 };
    let backends = vec![Backend { ip: one.address.ip, port: 80 }];
    machine.bridge.publish(&[Published { key, backends }]).unwrap();
    for to in one.ips().into_iter().chain(both(machine, WEB)) {
        assert!(machine.host.ask(to, 80).is_some_and(|said| said.starts_with("one")), "{to}");
    }
    for to in both(machine, machine.bridge.gateway()) {
        assert!(one.space.ask(to, 80).is_some_and(|said| said.starts_with("host")), "{to}");
    }
    for (to, from) in
        [(IpAddr::from(HOST), IpAddr::from(crate::netspace::OUTSIDE)), (HOST6.into(), crate::netspace::OUTSIDE6.into())]
    {
        assert_eq!(machine.outside.ask(to, 8080), Some(format!("one {from}")));
    }
}

pub(crate) fn an_error_about_a_datagram_that_was_let_through_comes_back(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = pair(machine);
    plane.set_policy(machine, &policy(&[&one, &other], &[(1, 2)]));
    for to in one.ips() {
        assert_eq!(other.space.ask_udp(to, 9, 1).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

pub(crate) fn drops_are_counted_by_pair_and_go_on_when_the_policy_changes(
    machine: &mut Machine,
    plane: &mut impl Dataplane,
) {
    let (one, other) = pair(machine);
    let denied = |pairs: &[(u32, u32)]| policy(&[&one, &other], pairs);
    plane.set_policy(machine, &denied(&[(1, 2), (2, 1)]));
    let send = |machine: &mut Machine, plane: &mut dyn FnMut(&mut Machine) -> coppice_network::Drops| {
        for to in other.ips() {
            one.space.run(move || {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any).unwrap().send_to(b"?", SocketAddr::new(to, 80)).unwrap();
            });
        }
        plane(machine)
    };
    let pair = |from, to| (Identity(from), Identity(to));
    assert_eq!(send(machine, &mut |machine| plane.drops(machine)), [(pair(1, 2), 2), (pair(2, 1), 0)]);
    // A third appears, which is another's.
    plane.set_policy(machine, &denied(&[(1, 2), (3, 1)]));
    assert_eq!(send(machine, &mut |machine| plane.drops(machine)), [(pair(1, 2), 4), (pair(3, 1), 0)]);
    // Somebody flushes the rules, and they are made anew.
    machine.host.program("nft flush ruleset");
    machine.bridge.assert_rules().unwrap();
    assert_eq!(send(machine, &mut |machine| plane.drops(machine)), [(pair(1, 2), 6), (pair(3, 1), 0)]);
    plane.set_policy(machine, &denied(&[]));
    assert_eq!(plane.drops(machine), []);
}

pub(crate) fn ten_thousand_pairs_are_set_and_changed(machine: &mut Machine, plane: &mut impl Dataplane) {
    let (one, other) = pair(machine);
    // A hundred services of one instance each, none of which may begin to talk to any.
    let mut members: std::collections::BTreeMap<Ipv4Addr, Identity> =
        (1..=100).map(|n| (Ipv4Addr::new(10, 88, 1, n), Identity(u32::from(n)))).collect();
    members.insert(one.address.ip, Identity(1));
    members.insert(other.address.ip, Identity(2));
    let denied = (1..=100).flat_map(|from| (1..=100).map(move |to| (Identity(from), Identity(to)))).collect();
    let mut policy = Policy { members, denied };
    plane.set_policy(machine, &policy);
    assert_eq!((one.space.ask(other.ips()[0], 80), one.space.ask(other.ips()[1], 80)), (None, None));
    policy.denied.remove(&(Identity(1), Identity(2)));
    plane.set_policy(machine, &policy);
    assert!(other.ips().into_iter().all(|to| one.space.ask(to, 80).is_some()));
    assert_eq!(other.space.ask(one.address.ip, 80), None);
    assert_eq!(plane.drops(machine).len(), 9999);
    machine.bridge.assert_rules().unwrap();
    assert!(one.space.ask(other.address.ip, 80).is_some());
}
