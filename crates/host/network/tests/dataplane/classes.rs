//! Classes of what leaves the machine: the queue it waits in, and what its header says.

use std::net::IpAddr;

use coppice_network::{TrafficClass, TrafficClasses};

use crate::netspace::{HOST, HOST6, Machine, OUTSIDE, OUTSIDE6};
use crate::{Container, Dataplane};

/// Packets in a list of rules with counters, of those that match on `what`.
fn counted(list: &str, what: &str) -> u64 {
    let rules = list.lines().filter(|line| line.contains(&format!(" {what} ")));
    let counts = rules.map(|line| line.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap());
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

/// Packets that left by the uplink with each priority: urgent, usual, and what can wait.
fn queued(machine: &Machine) -> [u64; 3] {
    let list = machine.host.program("nft list chain inet seen out");
    ["0:6", "none", "0:2"].map(|priority| counted(&list, &format!("meta priority {priority}")))
}

/// Packets that came in outside with this differentiated services code point.
fn marked(machine: &Machine, code: u8) -> u64 {
    counted(&machine.outside.program("nft list chain inet seen in"), &format!("dscp 0x{code:02x}"))
}

pub(crate) fn what_a_container_sends_beyond_the_machine_waits_in_its_class_and_says_so(
    machine: &mut Machine,
    plane: &mut dyn Dataplane,
) {
    machine.host.program("nft add table inet seen");
    machine.host.program("nft add chain inet seen out { type filter hook postrouting priority 300 ; }");
    for priority in ["0:6", "none", "0:2"] {
        machine.host.program(&format!("nft add rule inet seen out oifname up0 meta priority {priority} counter"));
    }
    machine.outside.program("nft add table inet seen");
    machine.outside.program("nft add chain inet seen in { type filter hook input priority 0 ; }");
    for family in ["ip", "ip6"] {
        for code in [2, 4] {
            machine.outside.program(&format!("nft add rule inet seen in {family} dscp {code} counter"));
        }
    }
    let containers = ["fast", "slow", "plain"].map(|name| Container::new(machine, name));
    let [fast, slow, plain] = &containers;
    machine.outside.serve_both(80, "outside");
    let set = |plane: &mut dyn Dataplane, machine: &mut Machine, of: &[(&Container, TrafficClass)]| {
        let classes: TrafficClasses = of.iter().map(|(of, class)| (of.address.ip, *class)).collect();
        plane.set_classes(machine, &classes);
    };
    set(plane, machine, &[(fast, TrafficClass::High), (slow, TrafficClass::Low)]);
    let send = |machine: &Machine, from: &Container, to: IpAddr| {
        let before = (queued(machine), marked(machine, 4), marked(machine, 2));
        for _ in 0..10 {
            let host = if to.is_ipv4() { IpAddr::from(HOST) } else { HOST6.into() };
            assert!(from.space.udp(to, 80).starts_with(&format!("outside {host}")), "as the host, whatever the class");
        }
        let after = queued(machine);
        let sent = [0, 1, 2].map(|class| after[class] - before.0[class]);
        (sent.map(|sent| sent >= 10), marked(machine, 4) - before.1, marked(machine, 2) - before.2)
    };
    for to in [OUTSIDE.into(), OUTSIDE6.into()] {
        assert_eq!(send(machine, fast, to), ([true, false, false], 10, 0), "{to}");
        assert_eq!(send(machine, plain, to), ([false, true, false], 0, 0), "{to}");
        assert_eq!(send(machine, slow, to), ([false, false, true], 0, 10), "{to}");
        assert!([fast, slow].iter().all(|of| of.space.ask(to, 80).is_some()), "TCP's checksums hold, too");
    }
    // What comes to a container, and what goes from one to another, has none.
    let before = (marked(machine, 4), marked(machine, 2));
    for [of_fast, of_plain] in [0, 1].map(|family| [fast, plain].map(|of| of.ips()[family])) {
        assert!(plain.space.ask(of_fast, 80).is_some_and(|said| said.starts_with("fast")));
        assert!(fast.space.ask(of_plain, 80).is_some_and(|said| said.starts_with("plain")));
    }
    assert_eq!((marked(machine, 4), marked(machine, 2)), before);
    // One that changes its class, and one that has none any more.
    set(plane, machine, &[(fast, TrafficClass::Low)]);
    for to in [OUTSIDE.into(), OUTSIDE6.into()] {
        assert_eq!(send(machine, fast, to), ([false, false, true], 0, 10), "{to}");
        assert_eq!(send(machine, slow, to), ([false, true, false], 0, 0), "{to}");
    }
}
