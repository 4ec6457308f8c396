//! Starting, stopping and handing sockets on.

use std::os::fd::{AsFd, OwnedFd};

use coppice_dns::{ListenError, Listeners, Server, Zone};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType::A;

use crate::world::{SHOP, SOON, ask, config, query, socket, spec, start};

#[test]
fn what_is_asked_while_no_server_runs_is_answered_by_the_next_from_its_own_zone() {
    let first = config();
    // What a launcher does: it keeps the sockets beside who serves on them.
    let held: Vec<OwnedFd> = first.listeners.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    let server = Server::start(first, Zone::empty()).unwrap();
    let address = crate::world::address(&server);
    assert_eq!(ask(&server, SHOP, "web.shop", A).1.len(), 0, "an empty zone has no names");
    drop(server);
    let clients: Vec<_> = (0..20).map(|_| socket(SHOP)).collect();
    for client in &clients {
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(&query("web", A), address).unwrap();
    }
    let mut second = config();
    second.listeners = Listeners::from_fds(held).unwrap();
    let server = Server::start(second, Zone::new(&spec()).unwrap()).unwrap();
    for client in clients {
        let mut buffer = [0; 512];
        let len = client.recv(&mut buffer).expect("the question waited in the socket");
        assert_eq!(Message::from_vec(&buffer[..len]).unwrap().answers.len(), 2);
    }
    assert_eq!(server.addresses(), [address]);
    assert!(std::net::TcpStream::connect(address).is_ok());
}

#[test]
fn a_dropped_server_lets_go_of_its_address_and_threads() {
    let server = start(|_| {});
    let address = crate::world::address(&server);
    drop(server);
    let again = Listeners::bind(&[address], 2).expect("nobody listens any more");
    assert_eq!(again.addresses(), [address]);
}

#[test]
fn an_address_the_machine_does_not_have_yet_can_be_bound_and_a_taken_one_is_said() {
    let free = Listeners::bind(&["192.0.2.77:0".parse().unwrap(), "[2001:db8::77]:0".parse().unwrap()], 1).unwrap();
    assert_eq!(free.addresses().len(), 2);
    let serving = config();
    let error = Listeners::bind(&serving.listeners.addresses(), 2).unwrap_err();
    assert!(error.to_string().contains("(udp)"), "another server is not joined unseen: {error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Listeners::bind(&[taken.local_addr().unwrap()], 1).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ListenError::Bind { .. }) && text.contains("(tcp)") && text.contains("ss -lnp"), "{text}");
}

#[test]
fn only_sockets_that_can_be_served_are_taken_over() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Listeners::from_fds(vec![file.into()]), Err(ListenError::Kind(_))));
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let connected = one.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(Listeners::from_fds(vec![connected]), Err(ListenError::Kind(_))));
}

#[test]
fn both_families_are_served_and_a_client_is_known_by_either_address() {
    let mut both = config();
    both.listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()], 1).unwrap();
    let mut spec = spec();
    // The only IPv6 address a loopback surely has.
    spec.apps[1].clients.push("::1".parse().unwrap());
    let server = Server::start(both, Zone::new(&spec).unwrap()).unwrap();
    let [v4, v6] = server.addresses() else { panic!("{:?}", server.addresses()) };
    for (address, client) in [(*v4, crate::world::BLOG), (*v6, "::1".parse().unwrap())] {
        let bytes = crate::world::exchange(address, client, &query("web", A), SOON).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.answers[0].data.to_string(), "127.77.2.10", "{address}");
        assert!(std::net::TcpStream::connect(address).is_ok());
    }
}
