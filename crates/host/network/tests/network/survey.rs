//! What a survey and a trace find, when somebody has broken what a bridge needs.

use coppice_network::{Bridge, BridgeConfig, Dropped, LinkName, RulesNow, Trace, Wanted, link_now};

use crate::netspace::{Machine, Netspace, wait_until};

#[test]
fn a_survey_finds_rules_that_were_changed_or_flushed_and_a_bridge_that_was_set_down_or_removed() {
    let space = Netspace::new();
    let (rules, links) = space.run(|| {
        let (mut bridge, _) = Bridge::ensure_with(&BridgeConfig::of("t1").unwrap(), &Wanted::default()).unwrap();
        let program = |line: &str| {
            let mut words = line.split_whitespace();
            let out = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
            assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        };
        let mut rules = Vec::new();
        let mut look = |bridge: &mut Bridge| rules.push(bridge.survey().unwrap().rules);
        look(&mut bridge);
        program("nft add chain inet coppice-t1 foreign");
        look(&mut bridge);
        bridge.assert_rules().unwrap();
        look(&mut bridge);
        program("nft flush ruleset");
        look(&mut bridge);

        let name = LinkName::new("copt1").unwrap();
        let mut links = vec![bridge.survey().unwrap().link.map(|link| link.is_raised)];
        program("ip link set copt1 down");
        links.push(bridge.survey().unwrap().link.map(|link| link.is_raised));
        program("ip link del copt1");
        links.push(bridge.survey().unwrap().link.map(|link| link.is_raised));
        assert_eq!(link_now(&name).unwrap(), None);
        assert!(link_now(&LinkName::new("lo").unwrap()).unwrap().is_some_and(|lo| lo.is_raised && lo.master.is_none()));
        (rules, links)
    });
    assert_eq!(rules, [RulesNow::Intact, RulesNow::Changed, RulesNow::Intact, RulesNow::Missing]);
    assert_eq!(links, [Some(true), Some(false), None]);
}

#[test]
fn a_trace_names_the_rule_or_policy_of_another_program_that_ends_a_packets_way() {
    let mut machine = Machine::new();
    let ((client, from), (server, to)) = (machine.container(), machine.container());
    server.serve_both(80, "web");
    let traced = |machine: &Machine| {
        let from = from.ip.into();
        let mut trace = machine.host.run(move || Trace::begin("t1", from, 80).unwrap());
        let answered = client.ask(to.ip, 80).is_some();
        let mut dropped = None;
        if !answered {
            wait_until("the kernel told of it", || {
                dropped = dropped.take().or(trace.dropped().unwrap());
                dropped.is_some()
            });
        }
        (answered, dropped)
    };
    assert_eq!(traced(&machine), (true, None));

    machine.host.program("nft add table inet hostile");
    machine.host.program("nft add chain inet hostile mean { type filter hook forward priority 0; policy drop; }");
    let by_policy = Dropped { family: "inet", table: "hostile".into(), chain: "mean".into(), rule: None };
    assert_eq!(traced(&machine), (false, Some(by_policy.clone())));

    machine.host.program("nft add rule inet hostile mean tcp dport 80 reject");
    let (answered, dropped) = traced(&machine);
    let listed = machine.host.program("nft -a list chain inet hostile mean");
    let handle = listed.lines().find(|line| line.contains("reject")).and_then(|line| line.rsplit(' ').next());
    assert!(!answered);
    assert_eq!(dropped, Some(Dropped { rule: handle.and_then(|handle| handle.parse().ok()), ..by_policy }));

    // Packets of others, which somebody else traces, are not taken for ours.
    for line in [
        "nft flush chain inet hostile mean",
        "nft add chain inet hostile mean { policy accept; }",
        "nft add rule inet hostile mean tcp dport 81 drop",
        "nft add table inet watcher",
        "nft add chain inet watcher every { type filter hook prerouting priority raw - 200; }",
        "nft add rule inet watcher every meta nftrace set 1",
    ] {
        machine.host.program(line);
    }
    let source = from.ip.into();
    let mut trace = machine.host.run(move || Trace::begin("t1", source, 80).unwrap());
    assert!(client.ask(to.ip, 81).is_none());
    assert!(client.ask(to.ip, 80).is_some());
    assert_eq!(trace.dropped().unwrap(), None);
    drop(trace);
    assert!(!machine.host.program("nft list tables").contains("trace"), "nothing is left of it");
}
