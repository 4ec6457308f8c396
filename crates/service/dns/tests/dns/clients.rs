//! Clients that ask more than their share.

use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode::NoError;
use hickory_proto::rr::RecordType::{A, AAAA};

use crate::world::{BLOG, NEVER, SHOP, SOON, address, ask, exchange, query, socket, start, wait_until};

#[test]
fn a_client_over_its_rate_is_not_answered_and_others_are() {
    let server = start(|config| config.client_rate = Some(10));
    let flood = socket(SHOP);
    for _ in 0..500 {
        flood.send_to(&query("web", A), address(&server)).unwrap();
    }
    wait_until("all are answered, or not", || {
        let metrics = server.metrics();
        metrics.answered + metrics.limited == 500
    });
    let metrics = server.metrics();
    assert!(metrics.answered <= 40, "10 a second and 20 at once: {metrics:?}");
    assert_eq!(ask(&server, BLOG, "web", A).0, NoError);
}

#[test]
fn made_up_sources_cost_no_memory_and_do_not_lock_out_who_is_real() {
    let server = start(|config| config.client_rate = Some(100));
    assert_eq!(ask(&server, SHOP, "web", A).0, NoError);
    for at in 0..2000u16 {
        let [hi, lo] = at.to_be_bytes();
        let source = socket(std::net::IpAddr::from([127, 78, hi, lo]));
        source.send_to(&query("web", A), address(&server)).unwrap();
    }
    wait_until("all are received", || server.metrics().udp_queries == 2001);
    assert_eq!(ask(&server, SHOP, "web", A).0, NoError);
}

#[test]
fn questions_asked_at_once_from_one_socket_each_get_their_own_answer() {
    // As a C library asks for both kinds of address of a few names, before it reads anything.
    let server = start(|_| {});
    let sockets: Vec<_> = (0..4).map(|_| socket(SHOP)).collect();
    let asked = [("web", A), ("web", AAAA), ("0.web.shop", A), ("api", AAAA), ("nothing.shop", A), ("idle", AAAA)];
    for round in 0..50u8 {
        for (at, (name, kind)) in asked.iter().enumerate() {
            for socket in &sockets {
                let mut packet = query(name, *kind);
                (packet[0], packet[1]) = (round, at as u8);
                socket.send_to(&packet, address(&server)).unwrap();
            }
        }
        for socket in &sockets {
            socket.set_read_timeout(Some(SOON)).unwrap();
            let mut seen = [false; 6];
            for _ in &asked {
                let mut buffer = [0; 1500];
                let len = socket.recv(&mut buffer).unwrap();
                let message = Message::from_vec(&buffer[..len]).unwrap();
                let (name, kind) = asked[usize::from(buffer[1])];
                assert_eq!(buffer[0], round);
                assert_eq!(message.queries[0].name().to_string(), format!("{name}."));
                assert_eq!(message.queries[0].query_type(), kind);
                assert!(!std::mem::replace(&mut seen[usize::from(buffer[1])], true), "answered twice");
            }
        }
    }
}

#[test]
fn an_answer_goes_to_nobody_but_who_asked() {
    let server = start(|_| {});
    let other = socket(SHOP);
    other.set_read_timeout(Some(NEVER)).unwrap();
    assert!(exchange(address(&server), SHOP, &query("web", A), NEVER * 10).is_some());
    assert!(other.recv(&mut [0; 512]).is_err());
}
