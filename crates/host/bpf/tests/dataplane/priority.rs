//! Priorities of what leaves by a link, seen by a queueing discipline that sorts by them.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use coppice_bpf::{LinkHeader, Settings};
use coppice_network::{Identity, LinkName};

use crate::machine::{Machine, Netspace, hooks, wait_until};

/// Packets that a class of the link `up0` sent.
fn sent(machine: &Machine, class: &str) -> u64 {
    let said = machine.host.program("tc -s class show dev up0");
    let mut lines = said.lines().skip_while(|line| !line.contains(&format!("class htb {class} ")));
    let line = lines.find(|line| line.contains("Sent")).unwrap_or_else(|| panic!("no class {class} in {said}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    words[3].parse().unwrap()
}

#[test]
fn what_a_container_sends_waits_in_its_identitys_class() {
    for hook in hooks() {
        let mut machine = Machine::with(Settings { hook: Some(hook), ..Settings::default() });
        let (fast, plain, far) = (machine.container(), machine.container(), Netspace::new());
        machine.host.program(&format!("ip link add up0 type veth peer name up1 netns {}", far.path()));
        for line in [
            "ip address add 192.0.2.1/24 dev up0",
            "ip link set up0 up",
            "tc qdisc add dev up0 root handle 1: htb default 20",
            "tc class add dev up0 parent 1: classid 1:10 htb rate 10gbit",
            "tc class add dev up0 parent 1: classid 1:20 htb rate 10gbit",
        ] {
            machine.host.program(line);
        }
        far.program("ip address add 192.0.2.2/24 dev up1");
        far.program("ip link set up1 up");
        machine.policy(&[&fast, &plain], &[]);
        let priorities = BTreeMap::from([(Identity(1), 0x0001_0010)]); // class 1:10
        machine.plane(move |plane| {
            let link = LinkName::new("up0").unwrap();
            plane.set_priorities(&link, LinkHeader::Ethernet, &priorities).unwrap();
            plane.set_priorities(&link, LinkHeader::Ethernet, &priorities).unwrap(); // exchanged
        });
        let send = |from: &Netspace| {
            let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
            for _ in 0..10 {
                socket.send_to(b"?", "192.0.2.2:9").unwrap();
            }
        };
        let before = (sent(&machine, "1:10"), sent(&machine, "1:20"));
        send(&fast.space);
        wait_until("ten packets in the identity's class", || sent(&machine, "1:10") == before.0 + 10);
        send(&plain.space);
        wait_until("the others in the default one", || sent(&machine, "1:20") >= before.1 + 10);
        assert_eq!(sent(&machine, "1:10"), before.0 + 10);
    }
}
