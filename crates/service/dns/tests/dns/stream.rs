//! TCP: long answers, many questions on a connection, and clients that are slow or lie about lengths.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use coppice_dns::{Server, TcpLimits, Zone, ZoneSpec};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, SRV};

use crate::world::{SHOP, SOON, address, app, ask, instance, query, query_edns, service, spec, start, wait_until};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(address(server)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes(), packet].concat()
}

fn receive(stream: &mut TcpStream) -> Message {
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// Whether the server has ended the connection, without a word.
fn assert_closed(mut stream: TcpStream, what: &str) {
    let mut rest = Vec::new();
    // An end and a reset are the same to the client.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{what}: {rest:?}");
}

fn limits(server: TcpLimits) -> impl FnOnce(&mut coppice_dns::Config) {
    move |config| config.tcp = server
}

#[test]
fn many_questions_on_one_connection_are_answered_in_order() {
    let server = start(|_| {});
    let mut stream = connect(&server);
    // All are written before any answer is read, some cut in the middle.
    let mut all = Vec::new();
    for at in 0..500u16 {
        let mut packet = query(if at % 2 == 0 { "web.shop" } else { "nothing.shop" }, A);
        packet[..2].copy_from_slice(&at.to_be_bytes());
        all.extend_from_slice(&framed(&packet));
    }
    for part in all.chunks(7777) {
        stream.write_all(part).unwrap();
    }
    for at in 0..500u16 {
        let message = receive(&mut stream);
        let code = if at % 2 == 0 { ResponseCode::NoError } else { ResponseCode::NXDomain };
        assert_eq!((message.metadata.id, message.metadata.response_code), (at, code));
    }
    assert_eq!(server.metrics().tcp_queries, 500);
}

#[test]
fn what_does_not_fit_a_datagram_comes_whole_over_tcp() {
    let many: Vec<_> = (0..200).map(|at| instance(at, &[&format!("127.77.5.{at}")], true)).collect();
    let zone_spec = ZoneSpec { apps: vec![app("shop", vec![service("web", many)])], ..ZoneSpec::default() };
    let server = start(|_| {});
    server.update(Zone::new(&zone_spec).unwrap());
    assert!(crate::world::answer(&server, SHOP, &query_edns("web.shop", A, 4096)).metadata.truncation);
    let mut stream = connect(&server);
    for (name, kind, beside) in [("web.shop", A, 0), ("_http._tcp.web.shop", SRV, 200)] {
        stream.write_all(&framed(&query(name, kind))).unwrap();
        let message = receive(&mut stream);
        assert!(!message.metadata.truncation);
        assert_eq!((message.answers.len(), message.additionals.len()), (200, beside));
    }
}

#[test]
fn lies_about_lengths_end_the_connection_and_nothing_else() {
    let quick = TcpLimits { transfer: Duration::from_millis(200), ..TcpLimits::default() };
    let server = start(limits(quick));
    for (what, bytes) in [
        ("a length of zero", vec![0, 0]),
        ("a length below a header's", [&[0, 5][..], &[1; 5]].concat()),
        ("a length beyond what follows", [&[0xff, 0xff][..], &query("web.shop", A)].concat()),
        ("half a length", vec![0]),
        ("no DNS at all", b"GET / HTTP/1.1\r\nHost: web.shop\r\n\r\n".to_vec()),
    ] {
        let mut stream = connect(&server);
        stream.write_all(&bytes).unwrap();
        assert_closed(stream, what);
    }
    let mut stream = connect(&server);
    let short = [&[0, 20][..], &query("web.shop", A)].concat();
    stream.write_all(&short).unwrap();
    assert_eq!(receive(&mut stream).metadata.response_code, ResponseCode::FormErr, "a length that cuts the question");
    assert_eq!(ask(&server, SHOP, "web", A).1.len(), 2);
}

#[test]
fn slow_clients_are_left_and_keep_no_other_waiting() {
    let quick =
        TcpLimits { idle: Duration::from_millis(300), transfer: Duration::from_millis(200), ..TcpLimits::default() };
    let server = start(limits(quick));
    let idle = connect(&server);
    let mut begun = connect(&server);
    begun.write_all(&[0, 30, 0x12]).unwrap();
    let mut busy = connect(&server);
    busy.write_all(&framed(&query("web.shop", A))).unwrap();
    assert_eq!(receive(&mut busy).answers.len(), 2);
    assert_closed(idle, "a connection on which nothing comes");
    assert_closed(begun, "a message that does not go on");
}

#[test]
fn connections_are_bounded_for_each_client_and_free_again_when_closed() {
    let few = TcpLimits { connections_per_client: 3, ..TcpLimits::default() };
    let server = start(limits(few));
    let held: Vec<_> = (0..3).map(|_| connect(&server)).collect();
    wait_until("three are taken", || server.metrics().tcp_connections == 3);
    assert_closed(connect(&server), "the fourth of one client");
    assert_eq!(server.metrics().tcp_refused, 1);
    // Another client is not concerned.
    let other = socket_from("127.77.2.10", &server);
    assert_eq!(other.answers.len(), 2);
    drop(held);
    wait_until("a place is free again", || {
        let mut stream = connect(&server);
        let sent = stream.write_all(&framed(&query("web.shop", A)));
        sent.is_ok() && matches!(stream.read(&mut [0; 2]), Ok(2))
    });
}

/// Asks for `web.shop` over TCP from another address.
fn socket_from(client: &str, server: &Server) -> Message {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let client: std::net::SocketAddr = format!("{client}:0").parse().unwrap();
    rustix::net::bind(&socket, &client).unwrap();
    rustix::net::connect(&socket, &address(server)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(&framed(&query("web.shop", A))).unwrap();
    receive(&mut stream)
}

#[test]
fn a_connection_sees_the_zone_of_the_moment_it_asks() {
    let server = start(|_| {});
    let mut stream = connect(&server);
    stream.write_all(&framed(&query("web.shop", A))).unwrap();
    assert_eq!(receive(&mut stream).answers.len(), 2);
    let mut spec = spec();
    spec.apps[0].services[0].instances[0].ready = false;
    server.update(Zone::new(&spec).unwrap());
    stream.write_all(&framed(&query("web.shop", A))).unwrap();
    assert_eq!(receive(&mut stream).answers.len(), 1);
}
