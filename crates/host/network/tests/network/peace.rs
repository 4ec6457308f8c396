//! Beside other programs' rules: neither changes the other's, and what theirs close is said with what opens it.

use std::net::{IpAddr, Ipv4Addr};

use coppice_network::{Asserted, Backend, Bridge, BridgeConfig, PortKey, Protocol, Published, Wanted};

use crate::netspace::{HOST, HOST6, Machine, Netspace, OUTSIDE, OUTSIDE6};

/// What docker 20 sets by iptables-nft when it starts, for its own bridge (`iptables-save` beside a started daemon).
const DOCKER: [&str; 10] = [
    "iptables -N DOCKER",
    "iptables -N DOCKER-USER",
    "iptables -A FORWARD -j DOCKER-USER",
    "iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "iptables -A FORWARD -o docker0 -j DOCKER",
    "iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    "iptables -A DOCKER-USER -j RETURN",
    "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    "iptables -P FORWARD DROP",
    "ip6tables -P FORWARD DROP",
];

/// What `ufw enable` leaves, as far as forwarding goes: a policy of drop, and a chain for its users' routes.
const UFW: [&str; 8] = [
    "iptables -N ufw-before-forward",
    "iptables -N ufw-user-forward",
    "iptables -A FORWARD -j ufw-before-forward",
    "iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "iptables -A ufw-before-forward -j ufw-user-forward",
    "iptables -P FORWARD DROP",
    "iptables -P INPUT DROP",
    "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
];

const FIREWALLD: [&str; 5] = [
    "nft add table inet firewalld",
    "nft add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }",
    "nft add rule inet firewalld filter_FORWARD ct state { established, related } accept",
    "nft add rule inet firewalld filter_FORWARD ct status dnat accept",
    "nft add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited",
];

fn run(space: &Netspace, lines: &[&str]) {
    for line in lines {
        space.program(line);
    }
}

fn web(to: Ipv4Addr) -> Published {
    let key = PortKey { host_ip: None, protocol: Protocol::Tcp, host: 8080 };
    Published { key, backends: vec![Backend { ip: to, port: 80 }] }
}

/// The rules of everybody but us, without what they counted.
fn others(space: &Netspace) -> String {
    let mut text = String::new();
    for table in space.program("nft -s list tables").lines().filter(|line| !line.contains("coppice")) {
        text.push_str(&space.program(&format!("nft -s list {table}")));
    }
    text
}

/// Whether containers reach each other and the outside, and are reached by a published port.
fn works(machine: &Machine, client: &Netspace, server: Ipv4Addr) -> [bool; 3] {
    [client.ask(server, 80).is_some(), client.ask(OUTSIDE, 81).is_some(), machine.outside.ask(HOST, 8080).is_some()]
}

/// Words of a daemon that returns.
fn words(machine: &Machine, port: Published) -> Vec<String> {
    let wanted = Wanted { published: vec![port], ..Wanted::default() };
    machine.host.run(move || {
        let (_, words) = Bridge::ensure_with(&BridgeConfig::of("t1").unwrap(), &wanted).unwrap();
        words.into_iter().map(|word| word.0).collect()
    })
}

/// What stands between the backticks of the one word about a closed chain.
fn command(words: &[String], chain: &str) -> String {
    let word = words.iter().find(|word| word.contains(chain)).unwrap_or_else(|| panic!("no {chain} in {words:?}"));
    word.split('`').nth(1).expect("a command").to_owned()
}

#[test]
fn beside_docker_what_the_word_says_opens_its_chain_and_nothing_else_changes() {
    for hooked in [false, true] {
        let mut machine = Machine::prepared(hooked, |_| {});
        run(&machine.host, &DOCKER);
        let before = others(&machine.host);
        let ((client, _), (server, address)) = (machine.container(), machine.container());
        server.serve_both(80, "web");
        machine.outside.serve_both(81, "outside");
        machine.bridge.publish(&[web(address.ip)]).unwrap();
        assert_eq!(works(&machine, &client, address.ip), [false; 3], "docker's chain drops what it does not know");
        let words = words(&machine, web(address.ip));
        assert_eq!(others(&machine.host), before, "theirs is as it was");
        let opens = command(&words, "Chain FORWARD of table filter");
        assert_eq!(opens, "iptables -I DOCKER-USER -i copt1 -j ACCEPT && iptables -I DOCKER-USER -o copt1 -j ACCEPT");
        run(&machine.host, &opens.split(" && ").collect::<Vec<_>>());
        assert_eq!(works(&machine, &client, address.ip), [true; 3], "hooked: {hooked}");
        // Of IPv6 there is a chain too.
        let six = words.iter().find(|word| word.contains("ip6tables")).expect("a word");
        run(&machine.host, &six.split('`').nth(1).unwrap().split(" && ").collect::<Vec<_>>());
        assert_eq!(machine.outside.ask(HOST6, 8080), Some(format!("web {OUTSIDE6}")));
    }
}

#[test]
fn beside_ufw_the_word_names_its_own_command() {
    let mut machine = Machine::new();
    run(&machine.host, &UFW);
    let before = others(&machine.host);
    let (_server, address) = machine.container();
    machine.bridge.publish(&[web(address.ip)]).unwrap();
    let words = words(&machine, web(address.ip));
    assert!(before.contains("chain ufw-user-forward") && others(&machine.host) == before, "theirs is as it was");
    let opens = command(&words, "Chain FORWARD of table filter");
    assert_eq!(opens, "ufw route allow in on copt1 && ufw route allow out on copt1");
}

#[test]
fn beside_firewalld_the_word_says_to_trust_the_bridge() {
    let mut machine = Machine::new();
    run(&machine.host, &FIREWALLD);
    let before = others(&machine.host);
    let ((client, _), (server, address)) = (machine.container(), machine.container());
    server.serve_both(80, "web");
    machine.outside.serve_both(81, "outside");
    machine.bridge.publish(&[web(address.ip)]).unwrap();
    assert_eq!(works(&machine, &client, address.ip), [false, false, true], "it lets redirected connections through");
    let words = words(&machine, web(address.ip));
    assert!(before.contains("table inet firewalld") && others(&machine.host) == before, "theirs is as it was");
    let opens = command(&words, "Chain filter_FORWARD of table firewalld");
    assert_eq!(opens, "firewall-cmd --permanent --zone=trusted --add-interface=copt1 && firewall-cmd --reload");
    // What a trusted zone amounts to.
    for way in ["iifname", "oifname"] {
        machine.host.program(&format!("nft insert rule inet firewalld filter_FORWARD {way} copt1 accept"));
    }
    assert_eq!(works(&machine, &client, address.ip), [true; 3]);
}

#[test]
fn any_other_closed_chain_is_opened_by_what_the_word_says() {
    let mut machine = Machine::new();
    machine.host.program("nft add table ip mine");
    machine.host.program("nft add chain ip mine through { type filter hook forward priority 5; policy drop; }");
    let before = others(&machine.host);
    let ((client, _), (server, address)) = (machine.container(), machine.container());
    server.serve_both(80, "web");
    machine.bridge.publish(&[web(address.ip)]).unwrap();
    assert_eq!(client.ask(address.ip, 80), None);
    let words = words(&machine, web(address.ip));
    assert!(before.contains("chain through") && others(&machine.host) == before, "theirs is as it was");
    let opens = command(&words, "Chain through of table mine");
    run(&machine.host, &opens.split(" && ").collect::<Vec<_>>());
    assert!(client.ask(address.ip, 80).is_some());
}

#[test]
fn a_flush_by_another_program_while_traffic_flows_costs_no_connection_once_it_is_made_good() {
    let mut machine = Machine::new();
    let ((client, _), (server, address)) = (machine.container(), machine.container());
    server.serve_both(80, "web");
    machine.bridge.publish(&[web(address.ip)]).unwrap();
    let mut connections: Vec<_> = [IpAddr::from(HOST), HOST6.into()]
        .into_iter()
        .flat_map(|to| [machine.outside.connect(to, 8080).unwrap(), client.connect(to, 8080).unwrap()])
        .collect();
    for _ in 0..10 {
        machine.host.program("nft flush ruleset");
        assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Restored);
        for connection in &mut connections {
            assert!(connection.ask().is_some_and(|said| said.starts_with("web")));
        }
        assert_eq!(machine.outside.ask(HOST, 8080), Some(format!("web {OUTSIDE}")));
    }
}

#[test]
fn what_bridges_pass_to_ips_hooks_may_change_under_a_running_bridge() {
    let mut machine = Machine::new();
    let ((client, from), (server, address)) = (machine.container(), machine.container());
    server.serve_both(80, "web");
    machine.bridge.publish(&[web(address.ip)]).unwrap();
    let said = Some(format!("web {}", from.ip));
    assert_eq!(client.ask(HOST, 8080), said);
    // As when docker or kubernetes loads br_netfilter.
    machine.host.hook_bridges(true);
    machine.bridge.assert_rules().unwrap();
    assert_eq!(client.ask(HOST, 8080), said, "a container that was there");
    let (later, _) = machine.container();
    assert!(later.ask(HOST, 8080).is_some(), "one that starts after");
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    // And it stays so for our bridge when the machine's setting goes back.
    machine.host.hook_bridges(false);
    assert_eq!(machine.bridge.assert_rules().unwrap(), Asserted::Intact);
    assert_eq!(client.ask(HOST, 8080), said);
}

#[test]
fn the_rules_are_read_by_everybodys_tools() {
    let mut machine = Machine::prepared(true, |_| {});
    let (_inside, address) = machine.container();
    machine.bridge.publish(&[web(address.ip)]).unwrap();
    let service = coppice_network::VirtualService { address: [10, 88, 128, 1].into(), backends: vec![address.ip] };
    let _ = machine.bridge.set_services(&[service]).unwrap();
    let denied = [(coppice_network::Identity(0), coppice_network::Identity(1))].into();
    let members = [(address.ip, coppice_network::Identity(1))].into();
    machine.bridge.set_policy(&coppice_network::Policy { members, denied }).unwrap();
    let (listed, complaints) = machine.host.run(|| {
        let done = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    });
    assert_eq!(complaints, "");
    assert!(listed.contains("table inet coppice-t1") && listed.contains("table bridge coppice-t1"));
    serde_json::from_str::<serde_json::Value>(&machine.host.program("nft -j list ruleset")).unwrap();
}
