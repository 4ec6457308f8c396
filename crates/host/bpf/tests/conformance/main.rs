//! The cases that hold for every data plane of a bridge (see `coppice-network`'s tests), over this one with the bridge's
//! rules behind it, as on a node.

#[path = "../../../network/tests/dataplane/attacks.rs"]
mod attacks;
#[path = "../../../network/tests/dataplane/classes.rs"]
mod classes;
#[path = "../../../network/tests/network/netspace.rs"]
#[allow(dead_code, reason = "a module of several test targets, each using a part")]
mod netspace;
#[path = "../../../network/tests/dataplane/packets.rs"]
mod packets;
#[path = "../../../network/tests/dataplane/policy.rs"]
mod policy;
#[path = "../../../network/tests/dataplane/ports.rs"]
mod ports;
#[path = "../../../network/tests/dataplane/services.rs"]
mod services;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use coppice_bpf::{BridgeInfo, Endpoint, Peer, Settings};
use coppice_network::{
    Address, Beyond, Drops, Identity, LinkName, Policy, Published, TrafficClasses, VirtualService, host_link,
};
use netspace::{Machine, Netspace};

/// What the cases know of a data plane.
pub(crate) trait Dataplane {
    fn set_services(&mut self, machine: &mut Machine, services: &[VirtualService]);
    fn set_policy(&mut self, machine: &mut Machine, policy: &Policy);
    fn set_classes(&mut self, machine: &mut Machine, classes: &TrafficClasses);
    fn set_ports(&mut self, machine: &mut Machine, ports: &[Published]);
    fn drops(&mut self, machine: &mut Machine) -> Drops;
}

/// The programs, loaded when they are first told something; and the rules, told the same.
struct Programs {
    plane: Arc<Mutex<Option<coppice_bpf::Dataplane>>>,
    folder: tempfile::TempDir,
    bridge: Option<LinkName>,
    /// Whether containers are endpoints: what is between them does not pass the stack.
    direct: bool,
    /// Whether published ports are theirs, too.
    ports: bool,
}

impl Programs {
    fn new(direct: bool) -> Self {
        Self { plane: Arc::default(), folder: tempfile::tempdir().unwrap(), bridge: None, direct, ports: false }
    }

    fn with<T: Send + 'static>(
        &mut self,
        machine: &Machine,
        job: impl FnOnce(&mut coppice_bpf::Dataplane) -> T + Send + 'static,
    ) -> T {
        let info = BridgeInfo {
            name: machine.bridge.name().clone(),
            subnet: machine.bridge.subnet(),
            subnet6: machine.bridge.subnet6(),
        };
        self.bridge = Some(info.name.clone());
        let (place, folder, direct) = (self.plane.clone(), self.folder.path().join("bpf"), self.direct);
        let settings = Settings { ports: self.ports, ..Settings::default() };
        machine.host.run(move || {
            let mut place = place.lock().unwrap();
            let plane = place.get_or_insert_with(|| {
                let mut plane = coppice_bpf::Dataplane::load(&info, &folder, settings).unwrap();
                plane.attach().unwrap();
                plane
            });
            if direct {
                // Of those that there may be; the rest has no link.
                let [a, b, ..] = info.subnet.network().octets();
                let endpoint = |last: u8| Endpoint {
                    address: Ipv4Addr::new(a, b, 0, last),
                    link: host_link(&format!("{:016x}", u64::from(last) << 32)),
                };
                plane.set_endpoints(&(2..40).map(endpoint).collect::<Vec<_>>()).unwrap();
            }
            job(plane)
        })
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // The bridge went with its namespace.
        let removed =
            self.bridge.as_ref().map(|bridge| coppice_bpf::Dataplane::remove(bridge, &self.folder.path().join("bpf")));
        if !std::thread::panicking() {
            removed.transpose().unwrap();
        }
    }
}

impl Dataplane for Programs {
    fn set_services(&mut self, machine: &mut Machine, services: &[VirtualService]) {
        if let Some(stale) = machine.bridge.set_services(services).unwrap() {
            machine.host.run(move || stale.forget().unwrap());
        }
        let services = services.to_vec();
        self.with(machine, move |plane| plane.set_services(&services).unwrap());
    }

    fn set_policy(&mut self, machine: &mut Machine, policy: &Policy) {
        machine.bridge.set_policy(policy).unwrap();
        let policy = policy.clone();
        self.with(machine, move |plane| plane.set_policy(&policy).unwrap());
    }

    fn set_ports(&mut self, machine: &mut Machine, ports: &[Published]) {
        self.ports = true;
        machine.bridge.set_published(ports).unwrap();
        let (ports, bridge) = (ports.to_vec(), machine.bridge.index());
        self.with(machine, move |plane| {
            plane.set_ports(&ports, &Beyond::look(bridge).unwrap()).unwrap();
            assert_eq!(plane.uplinks().len(), 1);
        });
    }

    /// The rules are told nothing: they would do the same after the programs, and nothing would be shown.
    fn set_classes(&mut self, machine: &mut Machine, classes: &TrafficClasses) {
        let classes = classes.clone();
        self.with(machine, move |plane| plane.set_classes(&classes).unwrap());
    }

    fn drops(&mut self, machine: &mut Machine) -> Drops {
        let counted = self.with(machine, |plane| plane.metrics().unwrap()).pairs;
        let mut drops = machine.bridge.drops().unwrap();
        for (pair, count) in &mut drops {
            let (from, to) = (Peer::Container(pair.0), Peer::Container(pair.1));
            *count += counted.iter().filter(|of| of.from == from && of.to == to).map(|of| of.denied).sum::<u64>();
        }
        drops
    }
}

/// A container that serves at port 80 under its name.
pub(crate) struct Container {
    pub(crate) space: Netspace,
    pub(crate) address: Address,
}

impl Container {
    pub(crate) fn new(machine: &mut Machine, name: &'static str) -> Self {
        let (space, address) = machine.container();
        space.serve_both(80, name);
        Self { space, address }
    }

    pub(crate) fn ips(&self) -> [IpAddr; 2] {
        [self.address.ip.into(), self.address.v6.expect("the machine has IPv6").ip.into()]
    }
}

/// A service's address of the first bridge there is.
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(10, 88, 128, 1);

/// The address, and the IPv6 one that belongs to it.
pub(crate) fn both(machine: &Machine, ip: Ipv4Addr) -> [IpAddr; 2] {
    [ip.into(), machine.bridge.subnet6().expect("the machine has IPv6").address(ip).into()]
}

/// A service at [`WEB`] with these instances.
pub(crate) fn web(instances: &[&Container]) -> [VirtualService; 1] {
    [VirtualService { address: WEB, backends: instances.iter().map(|of| of.address.ip).collect() }]
}

/// Members have the identities 1, 2, … in their order.
pub(crate) fn policy(members: &[&Container], denied: &[(u32, u32)]) -> Policy {
    let members = members.iter().zip(1..).map(|(of, number)| (of.address.ip, Identity(number))).collect();
    let denied = denied.iter().map(|(from, to)| (Identity(*from), Identity(*to))).collect();
    Policy { members, denied }
}

/// Runs cases with and without the stack between containers.
macro_rules! hold {
    ($($file:ident: $($case:ident)*;)*) => {
        mod direct {
            $($(#[test] fn $case() {
                let mut machine = crate::Machine::new();
                crate::$file::$case(&mut machine, &mut crate::Programs::new(true));
            })*)*
        }
        mod through_the_stack {
            $($(#[test] fn $case() {
                let mut machine = crate::Machine::new();
                crate::$file::$case(&mut machine, &mut crate::Programs::new(false));
            })*)*
        }
    };
}

hold! {
    services:
        every_port_of_a_service_is_a_backends_own_and_it_sees_who_asks
        connections_are_spread_over_all_backends
        a_backend_that_leaves_keeps_its_connections_and_gets_no_new_one
        without_a_backend_a_service_refuses_at_once
        a_container_reaches_itself_by_its_services_address
        datagrams_leave_a_backend_that_is_none_any_more
        a_large_body_passes_both_ways
        from_outside_a_services_address_is_nobodys;
    policy:
        a_denied_pair_cannot_begin_by_any_way_and_the_other_direction_works_with_its_answers
        a_connection_that_is_denied_later_ends_and_one_that_is_not_goes_on
        containers_that_are_no_members_are_one_identity
        a_group_may_be_denied_to_itself
        the_host_and_clients_from_outside_reach_containers_whatever_is_denied
        an_error_about_a_datagram_that_was_let_through_comes_back
        drops_are_counted_by_pair_and_go_on_when_the_policy_changes
        ten_thousand_pairs_are_set_and_changed;
    classes:
        what_a_container_sends_beyond_the_machine_waits_in_its_class_and_says_so;
    ports:
        clients_from_outside_reach_published_ports_and_are_seen_by_their_own_addresses
        a_port_of_one_address_goes_before_the_same_port_of_all
        connections_stay_where_they_are_when_a_port_changes_and_datagrams_follow_it
        large_bodies_and_datagrams_pass_a_port_both_ways
        connections_are_spread_over_all_backends_of_a_port
        one_socket_reaches_a_container_by_two_ports
        what_is_not_published_is_not_reached_from_outside
        a_published_port_is_no_way_around_a_denial;
    attacks:
        nothing_that_a_packet_says_of_itself_leads_around_a_denial
        nothing_for_all_reaches_another_container
        a_container_does_not_send_with_the_address_of_another
        a_container_that_takes_anothers_hardware_address_sends_nothing
        false_answers_about_addresses_change_nothing
        a_routers_advertisement_of_a_container_reaches_neither_host_nor_neighbour
        the_hosts_loopback_is_not_reached_and_not_spoken_for
        no_frame_goes_from_port_to_port;
}
