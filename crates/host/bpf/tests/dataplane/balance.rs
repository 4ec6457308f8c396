//! Connections to a service's address: spread, translated both ways, kept, drained, cut.

use std::collections::BTreeSet;

use crate::machine::{Machine, WEB};

#[test]
fn a_connection_to_a_services_address_is_answered_by_a_backend_that_sees_who_asks() {
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.endpoints(&[&client, &backend]);
    assert!(client.space.tcp_fails(WEB, 80), "there is no service yet");
    machine.services(&[(WEB, &[&backend])]);
    assert_eq!(client.space.tcp(WEB, 80), format!("web {}", client.ip));
    assert_eq!(client.space.udp(WEB, 80, 1).unwrap(), format!("web {}", client.ip));
    let (web6, client6) = (machine.ip6(WEB), client.ip6);
    assert_eq!(client.space.tcp(web6, 80), format!("web {client6}"));
    assert_eq!(client.space.udp(web6, 80, 1).unwrap(), format!("web {client6}"));
}

#[test]
fn connections_are_spread_over_all_backends() {
    let mut machine = Machine::new();
    let client = machine.container();
    let backends = [machine.container(), machine.container(), machine.container()];
    for (name, backend) in ["a", "b", "c"].iter().zip(&backends) {
        backend.space.serve(80, name);
    }
    machine.endpoints(&[&client, &backends[0], &backends[1], &backends[2]]);
    machine.services(&[(WEB, &[&backends[0], &backends[1], &backends[2]])]);
    let seen: BTreeSet<String> = (0..60).map(|_| client.space.tcp(WEB, 80)).collect();
    assert_eq!(seen.len(), 3, "{seen:?}");
}
