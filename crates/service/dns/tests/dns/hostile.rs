//! Packets that no honest client sends: each gets an error or nothing, and the next honest question its answer.

use coppice_dns::Server;
use hickory_proto::op::ResponseCode::{FormErr, NXDomain, NoError, NotImp};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, AAAA};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use crate::world::{NEVER, SHOP, SOON, address, answer, ask, exchange, query, query_edns, start};

/// A header that announces sections of these lengths.
fn header(counts: [u8; 4]) -> Vec<u8> {
    let [qd, an, ns, ar] = counts;
    vec![0x12, 0x34, 0x01, 0, 0, qd, 0, an, 0, ns, 0, ar]
}

fn assert_code(server: &Server, packet: &[u8], code: ResponseCode, what: &str) {
    let bytes = exchange(address(server), SHOP, packet, SOON).unwrap_or_else(|| panic!("{what}: no answer"));
    let message = Message::from_vec(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((message.metadata.id, message.metadata.response_code), (0x1234, code), "{what}");
    assert!(message.answers.is_empty(), "{what}");
    assert!(bytes.len() <= packet.len().max(12), "{what}: an error is no longer than what caused it");
}

fn assert_silent(server: &Server, packet: &[u8], what: &str) {
    assert_eq!(exchange(address(server), SHOP, packet, NEVER), None, "{what}");
}

fn assert_lives(server: &Server) {
    assert_eq!(ask(server, SHOP, "web", A).1.len(), 2);
}

#[test]
fn a_name_that_points_at_itself_or_anywhere_is_malformed() {
    let server = start(|_| {});
    let pointers: [&[u8]; 5] = [
        &[0xc0, 12],                      // at itself
        &[0xc0, 14, 0xc0, 12],            // in a circle
        &[0xc0, 0],                       // at the header
        &[0xc0, 200],                     // past the end
        &[3, b'w', b'e', b'b', 0xc0, 12], // a label, and back to it
    ];
    for pointer in pointers {
        let packet = [header([1, 0, 0, 0]).as_slice(), pointer, &[0, 1, 0, 1]].concat();
        assert_code(&server, &packet, FormErr, &format!("{pointer:?}"));
    }
    // A loop in a record beside the question, which only the whole parser reads.
    let mut packet = query("web.shop", A);
    packet[9] = 1;
    packet.extend_from_slice(&[0xc0, packet.len() as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_code(&server, &packet, FormErr, "a loop in the authority section");
    assert_lives(&server);
}

#[test]
fn names_and_labels_that_are_too_long_or_of_unknown_kind_are_malformed() {
    let server = start(|_| {});
    let label = [&[63u8][..], &[b'a'; 63]].concat();
    let named = |name: &[u8]| [header([1, 0, 0, 0]).as_slice(), name, &[0, 1, 0, 1]].concat();
    // 4 × 64 + 1 = 257 bytes.
    assert_code(&server, &named(&[label.repeat(4).as_slice(), &[0]].concat()), FormErr, "257 bytes");
    // 3 × 64 + 62 + 1 = 255 bytes: the longest there is.
    let longest = [label.repeat(3).as_slice(), &[61], &[b'a'; 61], &[0]].concat();
    assert_eq!(longest.len(), 255);
    let message = answer(&server, SHOP, &named(&longest));
    assert_ne!(message.metadata.response_code, FormErr);
    for first in [0x40, 0x80, 0xbf] {
        assert_code(&server, &named(&[first, b'a', 0]), FormErr, "a label of unknown kind");
    }
    assert_code(&server, &named(&[30, b'a']), FormErr, "a label that runs out of the packet");
    assert_code(&server, &[header([1, 0, 0, 0]).as_slice(), &[1; 4000]].concat(), FormErr, "a name without end");
    // The longest name an app's asker can make: the suffix does not fit behind it, and nothing breaks.
    let single = [&[63u8][..], &[b'z'; 63], &[0]].concat();
    assert_eq!(answer(&server, SHOP, &named(&single)).metadata.response_code, NXDomain);
    assert_lives(&server);
}

#[test]
fn no_question_many_questions_and_trailing_bytes_are_malformed() {
    let server = start(|_| {});
    assert_code(&server, &header([0, 0, 0, 0]), FormErr, "no question");
    let question = query("web.shop", A)[12..].to_vec();
    assert_code(&server, &[header([2, 0, 0, 0]), question.clone(), question.clone()].concat(), FormErr, "two");
    let many = [header([255, 0, 0, 0]), question.repeat(255)].concat();
    assert_code(&server, &many, FormErr, "255 questions");
    assert_code(&server, &header([1, 0, 0, 0]), FormErr, "a question that is not there");
    let mut trailing = query("web.shop", A);
    trailing.push(0);
    assert_code(&server, &trailing, FormErr, "one byte too many");
    let mut missing = query("web.shop", A);
    missing[11] = 1;
    assert_code(&server, &missing, FormErr, "an OPT record that is not there");
    let mut short = query("web.shop", A);
    short.pop();
    assert_code(&server, &short, FormErr, "one byte too few");
    let mut trailing = query_edns("web.shop", A, 1232);
    trailing.push(7);
    assert_code(&server, &trailing, FormErr, "a byte after OPT");
    let mut lie = query_edns("web.shop", A, 1232);
    let at = lie.len() - 1;
    lie[at] = 200;
    assert_code(&server, &lie, FormErr, "options longer than the packet");
    let mut option = query_edns("web.shop", A, 1232);
    let at = option.len() - 1;
    option[at] = 4;
    option.extend_from_slice(&[0, 10, 0, 8]);
    assert_code(&server, &option, FormErr, "an option longer than its record");
    assert_lives(&server);
}

#[test]
fn responses_and_scraps_are_not_answered() {
    let server = start(|_| {});
    let mut response = query("web.shop", A);
    response[2] |= 0x80;
    assert_silent(&server, &response, "a response: answering it could go on for ever");
    assert_silent(&server, &[], "nothing");
    assert_silent(&server, &[0x12], "one byte");
    assert_silent(&server, &header([1, 0, 0, 0])[..11], "most of a header");
    assert_eq!(server.metrics().dropped, 4);
    assert_lives(&server);
}

#[test]
fn updates_notifications_and_unknown_operations_are_not_implemented() {
    let server = start(|_| {});
    for operation in [1u8, 2, 4, 5, 15] {
        let mut packet = query("web.shop", A);
        packet[2] |= operation << 3;
        assert_code(&server, &packet, NotImp, &format!("operation {operation}"));
    }
    assert_lives(&server);
}

#[test]
fn a_well_formed_query_of_unusual_shape_is_answered() {
    let server = start(|_| {});
    // A record beside the question, as an IXFR or a signed query has; and OPT after another record.
    let mut packet = query("web.shop", A);
    packet[11] = 2;
    packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]);
    packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let message = answer(&server, SHOP, &packet);
    assert_eq!((message.metadata.response_code, message.answers.len()), (NoError, 2));
    assert!(message.edns.is_some());
    // Two OPT records are none (RFC 6891, 6.1.1).
    let mut packet = query_edns("web.shop", A, 1232);
    packet[11] = 2;
    packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    assert_code(&server, &packet, FormErr, "two OPT records");
}

/// Random bytes, and honest queries with a few bytes changed, cut or added.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let honest = prop_oneof![
        Just(query("web.shop", A)),
        Just(query_edns("0.web.shop.coppice.internal", AAAA, 1232)),
        Just(query("10.1.77.127.in-addr.arpa", A)),
        Just(query("x.7.7.0.0.0.0.d.f.ip6.arpa", A)),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (honest, changes, 0usize..8).prop_map(|(mut packet, changes, cut)| {
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet.truncate(packet.len() - cut);
        packet
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..600), 4 => changed]
}

#[test]
fn whatever_comes_every_answer_is_a_message_and_the_server_lives() {
    let server = start(|_| {});
    let socket = crate::world::socket(SHOP);
    socket.connect(address(&server)).unwrap();
    let mut runner = TestRunner::new(Cases { cases: 3000, failure_persistence: None, ..Cases::default() });
    let checked = runner.run(&packets(), |packet| {
        socket.send(&packet).unwrap();
        // What answers come are read without waiting for them: not every packet has one.
        let mut buffer = [0; 4096];
        socket.set_nonblocking(true).unwrap();
        while let Ok(len) = socket.recv(&mut buffer) {
            prop_assert!(buffer[2] & 0x80 != 0, "a response");
            prop_assert!(Message::from_vec(&buffer[..len]).is_ok(), "{:02x?}", &buffer[..len]);
        }
        Ok(())
    });
    checked.unwrap();
    assert_lives(&server);
}
