//! Which names there are, for whom, and what they stand for.

use std::collections::BTreeSet;

use coppice_base::Name;
use coppice_dns::{App, Service, Zone, ZoneError, ZoneSpec};
use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused};
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, AXFR, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, RData};

use crate::world::{BLOG, SHOP, STRANGER, answer, app, ask, instance, ip, query, query_edns, service, spec, start};

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_name_without_an_app_is_a_service_of_the_askers_own_app() {
    let server = start(|_| {});
    assert_eq!(ask(&server, SHOP, "web", A), (NoError, texts(&["127.77.1.10", "127.77.1.11"])));
    assert_eq!(ask(&server, BLOG, "web", A), (NoError, texts(&["127.77.2.10"])));
    assert_eq!(ask(&server, BLOG, "db", A).0, NXDomain, "db is a service of another app");
    assert_eq!(ask(&server, STRANGER, "web", A).0, NXDomain, "no app, no service");
    // An instance that is not ready asks too, and so does a one-off command.
    assert_eq!(ask(&server, ip("127.77.1.12"), "db", A), (NoError, texts(&["127.77.1.30"])));
    let mut spec = spec();
    spec.apps[0].clients.push(ip("127.77.1.99"));
    server.update(Zone::new(&spec).unwrap());
    assert_eq!(ask(&server, ip("127.77.1.99"), "db", A), (NoError, texts(&["127.77.1.30"])));
}

#[test]
fn a_service_and_an_instance_have_full_short_and_searched_names() {
    let server = start(|_| {});
    for name in ["web.shop", "web.shop.coppice.internal", "wEb.SHOP", "WEB.shop.Coppice.INTERNAL"] {
        for client in [SHOP, BLOG, STRANGER] {
            assert_eq!(ask(&server, client, name, A), (NoError, texts(&["127.77.1.10", "127.77.1.11"])), "{name}");
        }
        assert_eq!(ask(&server, BLOG, name, AAAA), (NoError, texts(&["fd00:77:1::10", "fd00:77:1::11"])), "{name}");
    }
    for name in ["0.web.shop", "0.web.shop.coppice.internal"] {
        assert_eq!(ask(&server, BLOG, name, A), (NoError, texts(&["127.77.1.10"])));
    }
    assert_eq!(ask(&server, BLOG, "localhost", A), (NoError, texts(&["127.0.0.1"])));
}

#[test]
fn only_ready_instances_are_answered_and_a_stopped_one_never_after_the_update() {
    let server = start(|_| {});
    assert_eq!(ask(&server, SHOP, "2.web.shop", A), (NoError, vec![]), "there, and not ready");
    assert_eq!(ask(&server, SHOP, "3.web.shop", A), (NXDomain, vec![]), "not there");
    assert_eq!(ask(&server, SHOP, "idle", A), (NoError, vec![]), "a service without a ready instance exists");
    let mut spec = spec();
    for turn in 0..200u32 {
        // One of the two is ready, the other has stopped.
        let ready = (turn % 2) as usize;
        spec.apps[0].services[0].instances[ready].ready = true;
        spec.apps[0].services[0].instances[1 - ready].ready = false;
        server.update(Zone::new(&spec).unwrap());
        let expected = texts(&[["127.77.1.10", "127.77.1.11"][ready]]);
        assert_eq!(ask(&server, SHOP, "web", A), (NoError, expected));
    }
    spec.apps.clear();
    server.update(Zone::new(&spec).unwrap());
    assert_eq!(ask(&server, SHOP, "web.shop.coppice.internal", A), (NXDomain, vec![]));
}

#[test]
fn a_service_with_virtual_addresses_answers_them_unless_it_is_headless() {
    let server = start(|_| {});
    assert_eq!(ask(&server, SHOP, "api", A), (NoError, texts(&["127.77.200.1"])));
    assert_eq!(ask(&server, SHOP, "api", AAAA), (NoError, texts(&["fd00:77:200::1"])));
    assert_eq!(ask(&server, SHOP, "0.api.shop", A), (NoError, texts(&["127.77.1.20"])));
    assert_eq!(ask(&server, SHOP, "db", A), (NoError, texts(&["127.77.1.30"])));
    assert_eq!(ask(&server, SHOP, "db", AAAA), (NoError, vec![]));
}

#[test]
fn srv_records_lead_to_ports_of_instances_or_of_the_virtual_address() {
    let server = start(|_| {});
    let (code, records) = ask(&server, BLOG, "_http._tcp.web.shop", SRV);
    let targets = ["0 0 8080 0.web.shop.coppice.internal.", "0 0 8080 1.web.shop.coppice.internal."];
    assert_eq!((code, records), (NoError, texts(&targets)));
    let message = answer(&server, BLOG, &query_edns("_http._tcp.web.shop", SRV, 1232));
    let mut beside: Vec<_> = message.additionals.iter().map(|it| format!("{} {}", it.name, it.data)).collect();
    beside.sort();
    assert_eq!(beside.len(), 4, "{beside:?}");
    assert_eq!(beside[0], "0.web.shop.coppice.internal. 127.77.1.10");
    let (_, records) = ask(&server, BLOG, "_http._tcp.api.shop", SRV);
    assert_eq!(records, texts(&["0 0 8080 api.shop.coppice.internal."]));
    assert_eq!(ask(&server, BLOG, "_tcp.web.shop", SRV), (NoError, vec![]), "a name with something below it");
    assert_eq!(ask(&server, BLOG, "_ftp._tcp.web.shop", SRV), (NXDomain, vec![]));
    assert_eq!(ask(&server, BLOG, "_http._udp.web.shop", SRV), (NXDomain, vec![]));
}

#[test]
fn addresses_lead_back_to_names() {
    let server = start(|_| {});
    let reverse = |name: &str| ask(&server, BLOG, name, PTR);
    assert_eq!(reverse("10.1.77.127.in-addr.arpa"), (NoError, texts(&["0.web.shop.coppice.internal."])));
    assert_eq!(reverse("1.200.77.127.in-addr.arpa"), (NoError, texts(&["api.shop.coppice.internal."])));
    assert_eq!(reverse("1.0.77.127.in-addr.arpa"), (NoError, texts(&["ns.coppice.internal."])));
    assert_eq!(reverse("12.1.77.127.in-addr.arpa"), (NXDomain, vec![]), "not ready");
    assert_eq!(reverse("1.77.127.in-addr.arpa"), (NoError, vec![]), "a part of our subnet");
    assert_eq!(reverse("x.10.1.77.127.in-addr.arpa"), (NXDomain, vec![]));
    let nibbles = "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.7.7.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(reverse(nibbles), (NoError, texts(&["0.web.shop.coppice.internal."])));
    assert_eq!(reverse("1.0.0.10.in-addr.arpa").0, Refused, "not ours, and nobody to ask");
}

#[test]
fn an_answer_that_there_is_none_carries_the_zones_soa_and_may_be_kept_shortly() {
    let server = start(|_| {});
    for (name, owner) in [
        ("nothing.shop.coppice.internal", "coppice.internal."),
        ("shop.coppice.internal", "coppice.internal."),
        ("nothing.shop", "shop."),
        ("2.web.shop", "shop."),
        ("nothing", "."),
        ("12.1.77.127.in-addr.arpa", "77.127.in-addr.arpa."),
    ] {
        let message = answer(&server, SHOP, &query(name, A));
        assert!(message.metadata.authoritative && message.answers.is_empty(), "{name}");
        let [soa] = message.authorities.as_slice() else { panic!("{name}: {message:?}") };
        assert_eq!((soa.name.to_string().as_str(), soa.ttl <= 5), (owner, true), "{name}");
        let RData::SOA(data) = &soa.data else { panic!("{name}: {soa:?}") };
        assert_eq!((data.minimum <= 5, data.serial), (true, 7));
    }
    assert_eq!(ask(&server, SHOP, "shop.coppice.internal", A).0, NoError, "something is below it");
    assert_eq!(ask(&server, SHOP, "web.shop", TXT), (NoError, vec![]));
    assert_eq!(ask(&server, SHOP, "coppice.internal", SOA).1.len(), 1);
    assert_eq!(ask(&server, SHOP, "coppice.internal", RecordType::NS).1, texts(&["ns.coppice.internal."]));
    assert_eq!(ask(&server, SHOP, "ns.coppice.internal", A).1, texts(&["127.77.0.1"]));
}

#[test]
fn answers_may_be_kept_five_seconds_at_most_and_are_final() {
    let server = start(|_| {});
    let message = answer(&server, SHOP, &query("web", A));
    assert!(message.answers.iter().all(|record| record.ttl <= 5));
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert_eq!(Zone::new(&ZoneSpec { ttl_s: 6, ..ZoneSpec::default() }).unwrap_err(), ZoneError::Ttl(6));
}

#[test]
fn the_asker_gets_its_question_back_letter_by_letter() {
    let server = start(|_| {});
    for name in ["wEB.sHoP", "NoThInG.sHOp", "WeB"] {
        let packet = query(name, A);
        let bytes = crate::world::exchange(crate::world::address(&server), SHOP, &packet, crate::world::SOON).unwrap();
        assert_eq!(bytes[..2], packet[..2]);
        assert_eq!(bytes[12..packet.len()], packet[12..], "{name}");
    }
}

#[test]
fn each_of_many_addresses_comes_first_in_turn() {
    let server = start(|_| {});
    let firsts: BTreeSet<String> =
        (0..64).map(|_| answer(&server, SHOP, &query("web", A)).answers[0].data.to_string()).collect();
    assert_eq!(firsts, BTreeSet::from(["127.77.1.10".to_owned(), "127.77.1.11".to_owned()]));
}

#[test]
fn any_transfers_and_other_classes_are_refused() {
    let server = start(|_| {});
    let message = answer(&server, SHOP, &query("web.shop", ANY));
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.answers[0].record_type(), RecordType::HINFO, "RFC 8482");
    assert_eq!(ask(&server, SHOP, "coppice.internal", AXFR), (Refused, vec![]));
    let mut chaos = query("version.bind", TXT);
    let at = chaos.len() - 1;
    chaos[at] = u16::from(DNSClass::CH) as u8;
    assert_eq!(answer(&server, SHOP, &chaos).metadata.response_code, Refused);
}

#[test]
fn names_that_two_services_claim_are_answered_for_neither() {
    let dotted = |app_name: &str, service_name: &str, address: &str| {
        app(app_name, vec![service(service_name, vec![instance(0, &[address], true)])])
    };
    let zone_spec = ZoneSpec {
        apps: vec![dotted("x.y", "web", "127.77.3.1"), dotted("y", "web.x", "127.77.3.2")],
        ..ZoneSpec::default()
    };
    let zone = Zone::new(&zone_spec).unwrap();
    assert_eq!(zone.unanswered().len(), 3, "the service, its instance and its port: {:?}", zone.unanswered());
    let server = start(|_| {});
    server.update(zone);
    for client in ["127.77.3.1", "127.77.3.2"] {
        assert_eq!(ask(&server, ip(client), "web.x.y.coppice.internal", A), (NoError, vec![]));
    }
}

#[test]
fn a_service_that_is_called_like_an_instance_is_not_answered_with_that_instance() {
    let mut spec = spec();
    spec.apps[0].services.push(service("0.web", vec![instance(0, &["127.77.1.50"], true)]));
    let server = start(|_| {});
    server.update(Zone::new(&spec).unwrap());
    assert_eq!(ask(&server, SHOP, "0.web.shop", A), (NoError, texts(&["127.77.1.50"])));
}

#[test]
fn an_app_that_is_called_like_anothers_full_name_takes_nothing_from_it() {
    let mut spec = spec();
    let thief = |name: &str, of: &str| app(name, vec![service(of, vec![instance(0, &["127.77.9.9"], true)])]);
    spec.apps.extend([
        thief("shop.coppice.internal", "web"),
        thief("internal", "coppice"),
        thief("arpa", "in-addr"),
        thief("com", "example"),
    ]);
    let server = start(|_| {});
    server.update(Zone::new(&spec).unwrap());
    assert_eq!(ask(&server, BLOG, "web.shop.coppice.internal", A).1, texts(&["127.77.1.10", "127.77.1.11"]));
    assert_eq!(ask(&server, BLOG, "coppice.internal", SOA).1.len(), 1);
    assert_eq!(ask(&server, BLOG, "10.1.77.127.in-addr.arpa", PTR).1, texts(&["0.web.shop.coppice.internal."]));
}

#[test]
fn an_app_with_a_domains_name_hides_the_domain_from_nobody() {
    let mut spec = spec();
    spec.apps.push(app("example.com", vec![service("web", vec![instance(0, &["127.77.4.1"], true)])]));
    let server = start(|_| {});
    server.update(Zone::new(&spec).unwrap());
    assert_eq!(ask(&server, ip("127.77.4.1"), "web.example.com", A), (NoError, texts(&["127.77.4.1"])));
    assert_eq!(ask(&server, ip("127.77.4.1"), "web", A), (NoError, texts(&["127.77.4.1"])));
    // Refused: they would be forwarded, and there is nobody to ask.
    assert_eq!(ask(&server, ip("127.77.4.1"), "example.com", A).0, Refused);
    assert_eq!(ask(&server, ip("127.77.4.1"), "www.example.com", A).0, Refused);
    assert_eq!(ask(&server, SHOP, "web.example.com", A).0, Refused);
    assert_eq!(ask(&server, SHOP, "web.example.com.coppice.internal", A).1, texts(&["127.77.4.1"]));
}

#[test]
fn names_that_dns_cannot_have_are_said_and_harm_no_other() {
    let bad = |name: &str| Service { name: Name::new(name).unwrap(), ..service("x", vec![]) };
    let long = "a23456789.".repeat(6) + "abc";
    let apps = vec![
        app("shop", vec![bad("a..b"), bad("c."), service("web", vec![instance(0, &["127.77.1.10"], true)])]),
        App { name: Name::new("d..e").unwrap(), ..app("x", vec![]) },
        app(&long, vec![bad(&long)]),
    ];
    let zone = Zone::new(&ZoneSpec { apps, ..ZoneSpec::default() }).unwrap();
    assert_eq!(zone.unanswered().len(), 3, "{:?}", zone.unanswered());
    let server = start(|_| {});
    server.update(zone);
    assert_eq!(ask(&server, SHOP, "web", A), (NoError, texts(&["127.77.1.10"])));
    for domain in ["", ".", "a..b", "x."] {
        let spec = ZoneSpec { domain: domain.to_owned(), ..ZoneSpec::default() };
        assert_eq!(Zone::new(&spec).unwrap_err(), ZoneError::Domain(domain.to_owned()));
    }
}

#[test]
fn long_answers_are_cut_to_what_the_asker_takes_and_whole_within_it() {
    let many: Vec<_> = (0..70).map(|at| instance(at, &[&format!("127.77.5.{at}")], true)).collect();
    let zone_spec = ZoneSpec { apps: vec![app("shop", vec![service("web", many)])], ..ZoneSpec::default() };
    let server = start(|_| {});
    server.update(Zone::new(&zone_spec).unwrap());
    let name = "web.shop";
    let plain = answer(&server, SHOP, &query(name, A));
    assert!(plain.metadata.truncation && plain.answers.is_empty(), "70 addresses are over 512 bytes");
    let small = answer(&server, SHOP, &query_edns(name, A, 0));
    assert!(small.metadata.truncation, "less than 512 means 512");
    let large = answer(&server, SHOP, &query_edns(name, A, 1232));
    assert_eq!((large.metadata.truncation, large.answers.len()), (false, 70));
    let packet = query_edns("_http._tcp.web.shop", SRV, 65535);
    let bytes = crate::world::exchange(crate::world::address(&server), SHOP, &packet, crate::world::SOON).unwrap();
    assert!(bytes.len() <= 1232, "no datagram is longer, whatever the asker takes: {}", bytes.len());
}

#[test]
fn an_edns_version_of_the_future_is_told_ours() {
    let server = start(|_| {});
    let mut packet = query_edns("web", A, 1232);
    let at = packet.len() - 5;
    packet[at] = 1;
    let message = answer(&server, SHOP, &packet);
    // 16 is BADSIG too.
    assert_eq!(u16::from(message.metadata.response_code), 16);
    assert_eq!(message.edns.unwrap().version(), 0);
    assert!(answer(&server, SHOP, &query("web", A)).edns.is_none(), "who sends none gets none");
}
