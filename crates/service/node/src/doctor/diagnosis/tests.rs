//! One thing broken at a time, and what is said of it.

use coppice_network::{Dropped, LinkNow};

use super::*;
use crate::doctor::facts::PolicyFacts;

const UP: LinkNow = LinkNow { index: 3, is_raised: true, is_up: true, master: None };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn end(key: &str, address: &str) -> End {
    End {
        name: format!("shop/{key}"),
        key: key.to_owned(),
        is_running: true,
        is_ready: true,
        state: "running".to_owned(),
        address: Some(address.parse().unwrap()),
        link: Some(UP),
        has_route: true,
        listens: Some(vec!["0.0.0.0:80".parse().unwrap()]),
        ..End::default()
    }
}

/// shop/web-1 asks for shop/db, and all is well.
fn well() -> Facts {
    Facts {
        bridge: Some(BridgeFacts {
            name: "copx".into(),
            link: Some(UP),
            table: "coppice-x".into(),
            rules: Ok(RulesNow::Intact),
            closed: Vec::new(),
            forwards: true,
            forwards6: Some(true),
            strict_sources: false,
            fast_path: FastPathState::InForce,
            names: true,
        }),
        from: Some(Speaker::Container(end("web-1", "10.88.0.2"))),
        to: Some(Target::Service(ServiceFacts {
            name: "shop/db".into(),
            replicas: 1,
            instances: vec![end("db-1", "10.88.0.3")],
            virtual_address: Some(ip("10.88.128.1")),
            balanced: vec!["10.88.0.3".parse().unwrap()],
            ..ServiceFacts::default()
        })),
        resolution: Some(Resolution {
            name: "db".into(),
            by: "its hosts file".into(),
            answers: vec![ip("10.88.128.1")],
            expected: vec![ip("10.88.128.1")],
            ..Resolution::default()
        }),
        policy: Some(PolicyFacts { is_allowed: true, by: "default".into(), remedy: "coppice policy allow".into() }),
        peer_tls: None,
        port: Some(80),
        probe: Some(probe(Outcome::Connected)),
    }
}

fn probe(outcome: Outcome) -> Probe {
    Probe { to: "10.88.128.1:80".parse().unwrap(), outcome, dropped: None, legacy_rules: false }
}

fn bridge(change: impl FnOnce(&mut BridgeFacts)) -> Facts {
    let mut facts = well();
    change(facts.bridge.as_mut().unwrap());
    facts
}

fn from(change: impl FnOnce(&mut End)) -> Facts {
    let mut facts = well();
    if let Some(Speaker::Container(end)) = &mut facts.from {
        change(end);
    }
    facts
}

fn to(change: impl FnOnce(&mut ServiceFacts)) -> Facts {
    let mut facts = well();
    if let Some(Target::Service(service)) = &mut facts.to {
        change(service);
    }
    facts
}

fn target(change: impl FnOnce(&mut End)) -> Facts {
    to(|service| change(&mut service.instances[0]))
}

fn name(change: impl FnOnce(&mut Resolution)) -> Facts {
    let mut facts = well();
    change(facts.resolution.as_mut().unwrap());
    facts
}

fn tried(change: impl FnOnce(&mut Probe)) -> Facts {
    let mut facts = well();
    change(facts.probe.as_mut().unwrap());
    facts
}

fn silent(dropped: Option<(&str, &str, Option<u64>)>) -> Facts {
    tried(|probe| {
        probe.outcome = Outcome::TimedOut;
        probe.dropped = dropped.map(|(table, chain, rule)| Dropped {
            family: "ip",
            table: table.into(),
            chain: chain.into(),
            rule,
        });
    })
}

fn beyond(strict: bool) -> Facts {
    let mut facts = silent(None);
    facts.to = Some(Target::Address(ip("192.0.2.1")));
    facts.resolution = None;
    facts.bridge.as_mut().unwrap().strict_sources = strict;
    facts
}

fn guarded(mode: PeerTls, is_of_app: bool, is_guarded: bool, outcome: Outcome) -> Facts {
    Facts { peer_tls: Some(PeerFacts { mode, is_of_app, is_guarded }), ..tried(|probe| probe.outcome = outcome) }
}

fn route(change: impl FnOnce(&mut RouteFacts)) -> Facts {
    let mut route = RouteFacts {
        host: "shop.example".into(),
        path: "/".into(),
        listens: vec!["[::]:80".parse().unwrap()],
        route: Some("shop/web/site".into()),
        hosts: vec!["shop.example".into()],
        backends: vec![("web-1".into(), Ok(()))],
    };
    change(&mut route);
    Facts {
        from: Some(Speaker::Host),
        to: Some(Target::Route(route)),
        resolution: None,
        policy: None,
        probe: Some(probe(Outcome::Connected)),
        ..well()
    }
}

fn first(facts: &Facts) -> Option<DoctorStep> {
    diagnose(facts).into_iter().find(|step| step.state == DoctorState::Broken)
}

#[test]
fn where_all_is_well_nothing_is_broken() {
    for facts in [well(), route(|_| {}), guarded(PeerTls::Require, true, true, Outcome::Connected), Facts::default()] {
        assert_eq!(first(&facts), None);
    }
    let at_large =
        Facts { to: None, resolution: None, policy: None, ..tried(|probe| probe.outcome = Outcome::Refused) };
    assert_eq!(first(&at_large), None, "a refusal shows that packets go both ways");
}

#[test]
fn each_thing_that_breaks_is_named_with_what_to_do() {
    let words = "Chain FORWARD of table filter forwards only what it knows: once `iptables -I FORWARD` was run.";
    let opened = |mut facts: Facts| {
        facts.bridge.as_mut().unwrap().closed.push(words.to_owned());
        facts
    };
    let loopback = vec!["127.0.0.1:80".parse().unwrap()];
    let other_port = vec!["0.0.0.0:8080".parse().unwrap()];
    let not_well = |end: &mut End| {
        (end.is_ready, end.state, end.reason) = (false, "unhealthy".into(), Some("tcp: port 80: no".into()));
    };
    let expected = Outcome::Unreachable("No route to host".into());
    for (what, facts, problem, says) in [
        ("bridge gone", bridge(|b| b.link = None), "bridge-missing", "copx"),
        (
            "bridge down",
            bridge(|b| b.link = Some(LinkNow { is_raised: false, ..UP })),
            "bridge-down",
            "ip link set copx up",
        ),
        ("not forwarding", bridge(|b| b.forwards = false), "forwarding-off", "sysctl -w net.ipv4.ip_forward=1"),
        ("not forwarding 6", bridge(|b| b.forwards6 = Some(false)), "forwarding-off", "ipv6"),
        ("flushed", bridge(|b| b.rules = Ok(RulesNow::Missing)), "rules-missing", "coppice-x"),
        ("changed", bridge(|b| b.rules = Ok(RulesNow::Changed)), "rules-changed", "coppice-x"),
        ("no names", bridge(|b| b.names = false), "no-name-server", "port 53"),
        ("from down", from(|e| (e.is_running, e.state) = (false, "backoff".into())), "from-not-running", "backoff"),
        ("from paused", from(|e| e.is_paused = true), "from-paused", "coppice unpause shop/web-1"),
        ("from alone", from(|e| e.network = NetworkMode::None), "from-without-network", "none"),
        ("link gone", from(|e| e.link = None), "link-missing", "eth0"),
        ("link down", from(|e| e.link = Some(LinkNow { is_up: false, ..UP })), "link-down", "ip link show master copx"),
        ("no way out", from(|e| e.has_route = false), "route-missing", "default route"),
        ("stopped", to(|s| (s.is_stopped, s.instances) = (true, vec![])), "stopped", "coppice start shop/db"),
        ("none wanted", to(|s| (s.replicas, s.instances) = (0, vec![])), "no-instances", "replicas"),
        (
            "not running",
            target(|e| (e.is_running, e.state) = (false, "backoff".into())),
            "not-running",
            "db-1 is backoff",
        ),
        ("paused", target(|e| e.is_paused = true), "paused", "coppice unpause shop/db-1"),
        ("loopback", target(|e| e.listens = Some(loopback)), "loopback-only", "listen on 0.0.0.0:80"),
        ("other port", target(|e| e.listens = Some(other_port)), "not-listening", "0.0.0.0:8080"),
        ("deaf", target(|e| e.listens = Some(vec![])), "not-listening", "port 80"),
        ("not ready", target(not_well), "not-ready", "unhealthy (tcp: port 80: no)"),
        (
            "no such name",
            name(|r| (r.answers, r.known_as) = (vec![], Some("db.shop".into()))),
            "unknown-name",
            "ask for db.shop",
        ),
        (
            "not asked",
            name(|r| (r.answers, r.error) = (vec![], Some("it does not answer".into()))),
            "name-unanswered",
            "name server",
        ),
        ("elsewhere", name(|r| r.answers = vec![ip("1.2.3.4")]), "name-elsewhere", "and not to 10.88.128.1"),
        ("not balanced", to(|s| s.balanced.clear()), "not-balanced", "leads nowhere"),
        ("refused", tried(|p| p.outcome = Outcome::Refused), "refused", "10.88.128.1:80"),
        ("lost", silent(None), "no-answer", "in the container"),
        ("no way", tried(|p| p.outcome = expected), "no-answer", "No route to host"),
        ("beyond", beyond(false), "no-answer", "the fault is beyond it"),
        ("beyond, strictly", beyond(true), "no-answer", "rp_filter"),
        ("by ours", silent(Some(("coppice-x", "between", Some(4)))), "dropped-by-node", "rule 4 of chain between"),
        (
            "by others",
            silent(Some(("hostile", "mean", Some(7)))),
            "dropped-by-other-rules",
            "nft -a list chain ip hostile mean",
        ),
        (
            "by policy of others",
            opened(silent(Some(("filter", "FORWARD", None)))),
            "dropped-by-other-rules",
            "`iptables -I FORWARD` opens it",
        ),
        ("legacy", tried(|p| (p.outcome, p.legacy_rules) = (Outcome::TimedOut, true)), "no-answer", "iptables-legacy"),
        ("stranger", guarded(PeerTls::Require, false, true, Outcome::Closed), "peer-tls-required", "its own app only"),
        ("not guarded", guarded(PeerTls::Require, true, false, Outcome::TimedOut), "peer-tls-not-in-force", "log"),
        ("halves", guarded(PeerTls::Warn, true, true, Outcome::Closed), "closed", "coppice metrics"),
        ("no proxy", route(|r| r.listens.clear()), "no-proxy", "http_routes"),
        ("no route", route(|r| r.route = None), "no-route", "shop.example/"),
        ("no backend", route(|r| r.backends[0].1 = Err("not ready".into())), "no-backend", "web-1 is not ready"),
        ("no instance", route(|r| r.backends.clear()), "no-backend", "no instance runs"),
    ] {
        let step = first(&facts).unwrap_or_else(|| panic!("{what}: nothing is broken"));
        assert_eq!(step.problem.as_deref(), Some(problem), "{what}: {step:?}");
        let said = format!("{} / {}", step.found, step.advice.as_deref().unwrap_or_default());
        assert!(said.contains(says), "{what}: {said}");
    }
}

#[test]
fn a_denied_pair_is_told_by_its_rule_before_the_connection_that_fails_for_it() {
    let policy =
        PolicyFacts { is_allowed: false, by: "the rule a -> b".into(), remedy: "coppice policy rm a b".into() };
    // By a rule that the kernel tells of, and by a BPF program of which it does not.
    let by_rule = Facts { policy: Some(policy.clone()), ..silent(Some(("coppice-x", "between", Some(4)))) };
    let by_program = Facts { policy: Some(policy), ..silent(None) };
    let mut broken = Vec::new();
    for facts in [by_rule, by_program] {
        broken = diagnose(&facts).into_iter().filter(|step| step.state == DoctorState::Broken).collect();
        let problems: Vec<_> = broken.iter().filter_map(|step: &DoctorStep| step.problem.as_deref()).collect();
        assert_eq!(problems, ["policy-denied", "dropped-by-node"]);
    }
    assert!(
        broken[0].found.contains("a -> b") && broken[0].advice.as_deref().unwrap().contains("coppice policy rm a b")
    );
}

#[test]
fn a_closed_chain_is_a_doubt_only_where_connections_do_not_go_through() {
    let closed = || "Chain FORWARD of table filter forwards only what it knows: `x`.".to_owned();
    let doubts = |facts: &Facts| diagnose(facts).iter().filter(|step| step.state == DoctorState::Doubtful).count();
    let mut facts = well();
    facts.bridge.as_mut().unwrap().closed.push(closed());
    assert_eq!(doubts(&facts), 0);
    facts.probe = None;
    assert_eq!(doubts(&facts), 1);
}

#[test]
fn a_service_of_which_some_instances_run_is_there() {
    let facts = to(|service| {
        let mut gone = end("db-2", "10.88.0.4");
        (gone.is_running, gone.is_ready, gone.listens) = (false, false, None);
        service.instances.push(gone);
    });
    assert_eq!(first(&facts), None);
    let of_the_other = to(|service| {
        let mut gone = end("db-2", "10.88.0.4");
        gone.is_running = false;
        service.instances.push(gone);
        service.instance = Some("db-2".into());
    });
    assert_eq!(first(&of_the_other).unwrap().problem.as_deref(), Some("not-running"));
}
