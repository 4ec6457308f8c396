//! Queries of unusual shape: a whole parser judges whether they are well-formed.
//!
//! Signed ones (TSIG, SIG(0)), ones with records beside the question, and the like. The question is then answered as
//! any other; what came with it is not acted upon.

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::query::{Code, Edns, Query, Reject};

/// Judges a packet in which the strict parser found `query` and then more than it takes.
pub(crate) fn judge(packet: &[u8], query: Query) -> Result<Query, Reject> {
    let malformed = Reject::Code(Code::FormErr);
    let mut decoder = BinDecoder::new(packet);
    let message = Message::read(&mut decoder).map_err(|_| malformed)?;
    if !decoder.is_empty() {
        return Err(malformed);
    }
    let edns = message.edns.as_ref().map(|edns| Edns {
        payload: edns.max_payload(),
        version: edns.version(),
        dnssec_ok: edns.flags().dnssec_ok,
    });
    Ok(Query { edns, ..query })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::{Key, parse};
    use crate::response::read;

    /// Messages that look like DNS: a header with small counts, then bytes of which names and records are made.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            3 => Just(0u8),
            3 => Just(1u8),
            2 => 2u8..8,
            1 => Just(41u8),
            1 => Just(0xc0u8),
            1 => Just(12u8),
            2 => b'A'..=b'z',
            1 => any::<u8>(),
        ];
        let flags = prop_oneof![4 => Just([1u8, 0u8]), 1 => any::<[u8; 2]>()];
        let counts = prop_oneof![2 => Just([1u8, 0, 0, 0]), 2 => Just([1, 0, 0, 1]), 1 => [0u8..3, 0..3, 0..3, 0..3]];
        let whole = prop_oneof![Just(b"\x03web\x04SHOP\x00\x00\x01\x00\x01".to_vec()), Just(vec![])];
        (any::<[u8; 2]>(), flags, counts, whole, prop::collection::vec(byte, 0..40)).prop_map(
            |(id, flags, [qd, an, ns, ar], whole, rest)| {
                [&id[..], &flags, &[0, qd, 0, an, 0, ns, 0, ar], &whole, &rest].concat()
            },
        )
    }

    /// The name of hickory's as lower-case wire bytes.
    fn wire(name: &hickory_proto::rr::Name) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.iter() {
            bytes.push(label.len() as u8);
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.push(0);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_the_strict_parser_takes_hickory_reads_alike(packet in packets()) {
            let mut key = Key::new();
            if let Ok(query) = parse(&packet, &mut key) {
                let message = Message::from_vec(&packet);
                prop_assert!(message.is_ok(), "{:02x?}: {:?}", packet, message);
                let message = message.unwrap();
                prop_assert_eq!(message.queries.len(), 1);
                prop_assert_eq!(wire(message.queries[0].name()), key.as_slice());
                prop_assert_eq!(u16::from(message.queries[0].query_type()), query.qtype);
                prop_assert_eq!(message.edns.is_some(), query.edns.is_some());
                // And the question taken by itself is the same question.
                prop_assert_eq!(judge(&packet, query).map(|it| (it.qtype, it.end)), Ok((query.qtype, query.end)));
            }
        }

        #[test]
        fn whatever_an_upstream_sends_is_refused_or_can_be_passed_on(packet in packets(), cut in 0usize..4) {
            let mut wire = packet;
            wire.truncate(wire.len().saturating_sub(cut));
            if let Some(byte) = wire.get_mut(2) {
                *byte |= 0x80;
            }
            let asked = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04shop\x00\x00\x01\x00\x01";
            let mut key = Key::new();
            let query = parse(asked, &mut key).expect("a question");
            let id = wire.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id));
            if let Ok(response) = read(wire, id, key.as_slice(), query.qtype) {
                let mut out = Vec::new();
                response.write((&query, asked), crate::message::Transport::Udp, 7, &mut out);
                prop_assert_eq!(&out[12..asked.len()], &asked[12..]);
                prop_assert!(out.len() <= 512);
            }
        }
    }
}
