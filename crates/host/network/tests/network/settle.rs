//! No first packet of a container is lost: one that is takes a second to be sent again.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::netspace::{Machine, Netspace};
use coppice_network::{Netns, configure_inside, host_link};

const ALL: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Below the second after which a lost packet is sent again, above what a busy machine takes.
const PROMPT: Duration = Duration::from_millis(500);

fn promptly<T>(act: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = act();
    assert!(started.elapsed() < PROMPT, "it took {:?}", started.elapsed());
    done
}

#[test]
fn a_container_reaches_the_gateway_as_soon_as_it_is_configured() {
    let mut machine = Machine::new();
    machine.host.serve(ALL, 9, "host");
    let gateway = machine.bridge.gateway();
    for _ in 0..100 {
        let (inside, _) = machine.container();
        promptly(|| inside.tcp(gateway, 9));
    }
}

#[test]
fn a_container_is_reached_by_the_host_as_soon_as_it_is_configured() {
    let mut machine = Machine::new();
    for _ in 0..100 {
        let (inside, address) = machine.container();
        let _listener = inside.run(|| TcpListener::bind((ALL, 9)).unwrap());
        promptly(|| machine.host.run(move || TcpStream::connect((address.ip, 9)).unwrap()));
    }
}

#[test]
fn a_container_reaches_one_that_is_there_as_soon_as_it_is_configured() {
    let mut machine = Machine::new();
    let (other, address) = machine.container();
    other.serve(ALL, 9, "other");
    for _ in 0..100 {
        let (inside, _) = machine.container();
        promptly(|| inside.tcp(address.ip, 9));
    }
}

#[test]
fn the_first_container_of_a_new_bridge_loses_no_packet_either() {
    for _ in 0..10 {
        let mut machine = Machine::new();
        machine.host.serve(ALL, 9, "host");
        let gateway = machine.bridge.gateway();
        let (inside, _) = machine.container();
        promptly(|| inside.tcp(gateway, 9));
    }
}

#[test]
fn a_link_settles_only_once_its_container_has_configured_it_and_while_it_is_there() {
    let mut machine = Machine::new();
    let space = Netspace::new();
    let link = host_link("cafe");
    let address = machine.bridge.address_for(Ipv4Addr::new(10, 88, 0, 77));
    assert!(!machine.attacher.settle(&link, Duration::from_secs(60)).unwrap(), "no link, nothing to wait for");
    machine.attacher.attach(Netns::Fd(space.fd()), &link, &address).unwrap();
    assert!(!machine.attacher.settle(&link, Duration::from_millis(5)).unwrap(), "the container's end is down");
    space.run(move || configure_inside(Some(&address), Duration::ZERO).unwrap());
    assert!(machine.attacher.settle(&link, Duration::from_secs(5)).unwrap());
}
