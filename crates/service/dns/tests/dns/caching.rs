//! Other servers' answers are kept as long as they say, no longer, and in bounded memory.

use std::time::Duration;

use hickory_proto::op::ResponseCode::{NXDomain, NoError};
use hickory_proto::rr::RecordType::{A, AAAA};

use crate::upstream::{Upstream, asking, honest, reply};
use crate::world::{BLOG, SHOP, answer, ask, query, start, wait_until};

/// Data of a SOA record: root names, and the time "there is none" may be kept.
fn soa(minimum_s: u32) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend_from_slice(&[0; 16]);
    data.extend_from_slice(&minimum_s.to_be_bytes());
    data
}

#[test]
fn an_answer_is_kept_for_all_clients_and_its_ttl_runs_down() {
    let upstream = Upstream::new(|query, _| vec![honest(query, [192, 0, 2, 1])]);
    let server = start(asking(&[&upstream]));
    assert_eq!(ask(&server, SHOP, "example.com", A).0, NoError);
    wait_until("a second is over", || answer(&server, BLOG, &query("EXAMPLE.com", A)).answers[0].ttl < 60);
    assert_eq!(upstream.asked(), 1);
    assert!(server.metrics().cache_hits >= 1 && server.metrics().cache_entries == 1);
    assert_eq!(ask(&server, SHOP, "example.com", AAAA).0, NoError);
    assert_eq!(upstream.asked(), 2, "another type is another question");
    assert_eq!(server.metrics().cache_entries, 1, "without an AAAA record or a SOA, nothing says how long");
    server.clear_cache();
    assert_eq!(server.metrics().cache_entries, 0);
}

#[test]
fn an_answer_whose_time_is_over_or_was_never_given_is_asked_for_again() {
    let upstream = Upstream::new(|query, _| {
        let ttl_s = if query[13] == b's' { 1 } else { 0 };
        vec![reply(query, 0, &[(1, ttl_s, &[192, 0, 2, 2])], &[])]
    });
    let server = start(asking(&[&upstream]));
    ask(&server, SHOP, "none.example.com", A);
    ask(&server, SHOP, "none.example.com", A);
    assert_eq!(upstream.asked(), 2, "a TTL of zero");
    ask(&server, SHOP, "short.example.com", A);
    wait_until("a second is over", || {
        ask(&server, SHOP, "short.example.com", A);
        upstream.asked() == 4
    });
}

#[test]
fn that_there_is_none_is_kept_as_long_as_the_soa_says_and_not_without_one() {
    let upstream = Upstream::new(|query, _| {
        vec![match query[13] {
            b'n' => reply(query, 3, &[], &[(6, 3600, &soa(300))]),
            b'd' => reply(query, 0, &[], &[(6, 3600, &soa(300))]),
            b'z' => reply(query, 3, &[], &[(6, 3600, &soa(0))]),
            _ => reply(query, 3, &[], &[]),
        }]
    });
    let server = start(asking(&[&upstream]));
    for (name, code, asked) in [
        ("name.example", NXDomain, 1),
        ("data.example", NoError, 1),
        ("zero.example", NXDomain, 2),
        ("bare.example", NXDomain, 2),
    ] {
        let before = upstream.asked();
        for _ in 0..2 {
            assert_eq!(ask(&server, SHOP, name, A), (code, vec![]), "{name}");
        }
        assert_eq!(upstream.asked() - before, asked, "{name}");
    }
}

#[test]
fn the_cache_keeps_to_its_memory_and_what_is_asked_for_stays() {
    let upstream = Upstream::new(|query, _| vec![honest(query, [192, 0, 2, 3])]);
    let bytes = 64 << 10;
    let server = start(|config| {
        asking(&[&upstream])(config);
        config.cache_bytes = bytes;
        config.upstream_patience = Duration::from_secs(5);
        config.upstream_deadline = Duration::from_secs(5);
    });
    for at in 0..600 {
        assert_eq!(ask(&server, SHOP, &format!("name-{at}.example.com"), A).0, NoError);
        assert_eq!(ask(&server, SHOP, "popular.example.com", A).0, NoError);
    }
    let metrics = server.metrics();
    assert!(metrics.cache_bytes <= bytes as u64 && metrics.cache_entries > 20, "{metrics:?}");
    assert_eq!(upstream.asked(), 601, "the popular one was asked for once");
}
