//! Containers' addresses end to end: both families, who keeps one, who gets one next, and who may use it.

mod node;
mod project;

use node::{Node, Output, kill_and_wait};
use project::{Project, child, wait_for};

/// A web service that says its name and who asks, and a client of another app.
const SITE: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www/cgi-bin && printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' > /www/cgi-bin/who && chmod +x /www/cgi-bin/who && exec httpd -f -p 80 -h /www"]
ports = ["8080:80"]
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }
"#;
const CLIENT: &str = "[service.client]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"KILL\"\n";

/// Another machine: a network namespace behind a cable, with the node's end at 192.0.2.1 and 2001:db8::1; then
/// `bash -c "$1"` on it.
const ELSEWHERE: &str = r#"
unshare --net sleep 1000 & other=$!
trap 'kill $other; ip link delete near 2> /dev/null' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
there() { nsenter --target $other --net "$@"; }
ip link add near type veth peer name far && ip link set far netns $other
ip address add 192.0.2.1/24 dev near && ip address add 2001:db8::1/64 dev near nodad && ip link set near up
there ip address add 192.0.2.2/24 dev far && there ip address add 2001:db8::2/64 dev far nodad && there ip link set far up
there ip route add default via 192.0.2.1 && there ip -6 route add default via 2001:db8::1
there bash -c "$1"
"#;

fn ip(node: &Node, args: &str) -> String {
    let mut ip = node.inside("ip");
    ip.args(args.split(' '));
    Output::of(ip).succeeded().stdout
}

/// The IPv6 address of a container, by its own `ip`, as soon as it runs.
fn address6(project: &Project<'_>, instance: &str) -> String {
    let name = format!("{}/{instance}", project.app);
    let ask = ["exec", &name, "ip", "-6", "-o", "addr", "show", "dev", "eth0"];
    let said = wait_for("it runs", || Some(project.coppice(&ask)).filter(|done| done.code == 0)).stdout;
    let address = said.split_whitespace().find_map(|word| word.strip_suffix("/128")).expect("an address");
    address.to_owned()
}

fn dig(node: &Node, server: &str, args: &[&str]) -> Vec<String> {
    let mut dig = node.inside("dig");
    dig.args([&format!("@{server}"), "+short", "+time=2", "+tries=1"]).args(args);
    Output::of(dig).succeeded().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_service_is_reached_by_ipv4_and_ipv6_by_its_name_and_by_its_published_port() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let shop = Project::new(&node, "shop", CLIENT);
    shop.up();
    let web = child(&site.status(), "web-1").address.clone().unwrap();
    let web6 = address6(&site, "web-1");
    let (client, client6) = (child(&shop.status(), "client-1").address.clone().unwrap(), address6(&shop, "client-1"));
    assert!(web6.starts_with("fd"), "{web6}");
    // Its own names, those of its neighbours, and the name server's: all have both.
    let hosts = site.shell("web-1", "cat /etc/hosts");
    assert!(hosts.contains(&format!("{web}\tweb")) && hosts.contains(&format!("{web6}\tweb")), "{hosts}");
    let gateway = web.rsplit_once('.').map(|(net, _)| format!("{net}.1")).unwrap();
    let gateway6 = format!("{}1", &web6[..web6.rfind(':').unwrap() + 1]);
    for server in [&gateway, &gateway6] {
        assert_eq!(dig(&node, server, &["0.web.site"]), std::slice::from_ref(&web));
        assert_eq!(dig(&node, server, &["0.web.site", "AAAA"]), std::slice::from_ref(&web6));
        assert_eq!(dig(&node, server, &["-x", &web6]), ["0.web.site.coppice.internal."]);
    }
    // The service has addresses of its own, of both families.
    let [own] = &dig(&node, &gateway, &["web.site"])[..] else { panic!("not one address") };
    let [own6] = &dig(&node, &gateway, &["web.site", "AAAA"])[..] else { panic!("not one address") };
    assert!(own != &web && own6 != &web6 && own6.starts_with("fd"), "{own} {own6}");
    // A container sees who asks, whichever way it was asked.
    for (url, who) in [
        (format!("http://{own}/cgi-bin/who"), &client),
        (format!("http://[{own6}]/cgi-bin/who"), &client6),
        (format!("http://{web}/cgi-bin/who"), &client),
        (format!("http://[{web6}]/cgi-bin/who"), &client6),
        (format!("http://{gateway}:8080/cgi-bin/who"), &client),
        (format!("http://[{gateway6}]:8080/cgi-bin/who"), &client6),
    ] {
        let said = shop.shell("client-1", &format!("wget -q -O - '{url}'"));
        assert!(said.trim().trim_matches(['[', ']']).ends_with(who.as_str()), "{url}: {said}, not {who}");
    }
    for url in ["http://127.0.0.1:8080/cgi-bin/who", "http://localhost:8080/cgi-bin/who"] {
        assert!(node.http(url).is_some(), "{url}");
    }
    // And so it does when another machine asks.
    let asked = "for host in 192.0.2.1 '[2001:db8::1]'; do curl -sg --max-time 3 http://$host:8080/cgi-bin/who; done";
    let mut elsewhere = node.inside("bash");
    elsewhere.args(["-c", ELSEWHERE, "bash", asked]);
    let said = Output::of(elsewhere).succeeded().stdout;
    assert!(said.contains("192.0.2.2") && said.contains("2001:db8::2"), "{said}");
}

#[test]
fn an_address_that_was_given_back_is_nobodys_for_a_while_whatever_becomes_of_the_daemon() {
    let node = Node::with_settings("[network]\nsubnet = \"10.77.0.0/28\"\n");
    node.busybox_image();
    let run =
        |name: &str| node.coppice(["run", "--rm", "--name", name, "box", "ip", "-4", "-o", "addr", "show", "eth0"]);
    let mut given = Vec::new();
    for turn in 0..6 {
        if turn == 3 {
            kill_and_wait(node.daemon_pid(), "KILL");
        }
        let said = run(&format!("c{turn}")).succeeded().stdout;
        given.extend(said.split_whitespace().find_map(|word| word.strip_suffix("/32")).map(str::to_owned));
    }
    // The lower half of the subnet, without its first two.
    assert_eq!(given, (2..8).map(|n| format!("10.77.0.{n}")).collect::<Vec<_>>());
    run("late").complained("were given back moments ago").complained("larger subnet");
    kill_and_wait(node.daemon_pid(), "KILL");
    run("later").complained("were given back moments ago");
}

#[test]
fn an_instance_keeps_its_addresses_over_restarts_of_itself_and_of_the_daemon() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", CLIENT);
    shop.up();
    let addresses = || {
        let six = address6(&shop, "client-1");
        (shop.wait_child("client-1", "has an address", |child| child.address.is_some()).address, six)
    };
    let before = addresses();
    shop.ok(&["restart", "shop/client"]);
    assert_eq!(addresses(), before);
    kill_and_wait(node.daemon_pid(), "KILL");
    shop.ok(&["restart", "shop/client"]);
    assert_eq!(addresses(), before);
}

#[test]
fn a_container_with_all_rights_over_its_network_speaks_for_itself_alone() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let web = child(&site.status(), "web-1").address.clone().unwrap();
    node.ok(["run", "-d", "--name", "victim", "box", "sleep", "1000"]);
    let victim = node.inspect("victim")["address"].as_str().expect("an address").to_owned();
    node.ok(["run", "-d", "--name", "evil", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW", "box", "sleep", "1000"]);
    let evil = |script: &str| node.coppice(["exec", "evil", "sh", "-c", script]);
    let asks = format!("timeout 2 wget -q -O - http://{web}/cgi-bin/who");
    evil(&asks).succeeded();
    // Its neighbour's address, and then the hardware address that belongs to it too.
    evil(&format!("ip addr add {victim}/32 dev eth0")).succeeded();
    evil(&format!(
        "ip route change default via $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p') src {victim}"
    ))
    .succeeded();
    assert_ne!(evil(&asks).code, 0, "with its neighbour's address");
    let bytes: Vec<u8> = victim.split('.').map(|byte| byte.parse().unwrap()).collect();
    let mac = format!("02:c0:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3]);
    evil(&format!("ip link set eth0 address {mac}")).succeeded();
    assert_ne!(evil(&asks).code, 0, "with its neighbour's hardware address");
    // The neighbour goes on unharmed.
    let said = node.ok(["exec", "victim", "sh", "-c", &asks]);
    assert!(said.trim_matches(['[', ']']).ends_with(&victim), "{said}");
}

#[test]
fn a_node_that_stops_leaves_no_rule_link_or_address() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "one", "box", "sleep", "1000"]);
    assert!(ip(&node, "-br link").contains("cop"));
    node.ok(["node", "stop", "--all"]);
    let mut nft = node.inside("nft");
    nft.args(["list", "ruleset"]);
    assert_eq!(Output::of(nft).succeeded().stdout.trim(), "");
    assert_eq!(ip(&node, "-br link").lines().filter(|line| !line.starts_with("lo")).count(), 0);
    assert_eq!(ip(&node, "neigh show nud permanent").trim(), "");
}

/// A service whose traffic goes before others', one whose can wait, and one of the usual kind.
const CLASSES: &str = r#"
[service.fast]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
network_priority = "high"

[service.slow]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
network_priority = "low"

[service.plain]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

/// A link that leads nowhere.
const NOWHERE: &str = r#"
ip link add near type veth peer name far && ip link set near up && ip link set far up
ip address add 192.0.2.1/24 dev near && ip address add 2001:db8::1/64 dev near nodad
for nobody in 192.0.2.2 2001:db8::2; do
  ip neighbour add $nobody lladdr 02:00:00:00:00:02 dev near nud permanent
done
nft add table inet watch
nft add chain inet watch out '{ type filter hook postrouting priority 300; }'
"#;

/// The classes, of IPv4 and IPv6, of what leaves when an instance calls whom nobody is: by the kernel's priority and the
/// mark in the header. Calls that are sent again later are of another port.
fn class(node: &Node, app: &Project<'_>, instance: &str, port: u16) -> Vec<String> {
    for (class, priority, code) in [("high", "0:6", 4), ("low", "0:2", 2), ("usual", "none", 0)] {
        for family in ["ip", "ip6"] {
            let rule = format!(
                "add rule inet watch out oifname near tcp dport {port} meta priority {priority} {family} dscp {code} \
                 counter comment \"{class} {port}\""
            );
            let mut nft = node.inside("nft");
            nft.arg(rule);
            Output::of(nft).succeeded();
        }
    }
    let call = format!("for to in 192.0.2.2 2001:db8::2; do nc -w 1 $to {port} < /dev/null > /dev/null 2>&1 & done");
    app.shell(instance, &call);
    wait_for("both calls have left", || {
        let mut nft = node.inside("nft");
        nft.args(["list", "chain", "inet", "watch", "out"]);
        let list = Output::of(nft).succeeded().stdout;
        let counted = list.lines().filter(|line| !line.contains("packets 0 "));
        let classes = counted.filter_map(|line| line.split('"').rev().nth(1)?.strip_suffix(&format!(" {port}")));
        let classes: Vec<String> = classes.map(str::to_owned).collect();
        (classes.len() >= 2).then_some(classes)
    })
}

#[test]
fn what_a_service_sends_beyond_the_machine_waits_in_the_class_its_manifest_says() {
    for settings in ["", "[network]\nbpf = false\n"] {
        let node = Node::with_fast_path();
        node.set(settings);
        kill_and_wait(node.daemon_pid(), "KILL");
        let mut watch = node.inside("bash");
        watch.args(["-c", NOWHERE]);
        Output::of(watch).succeeded();
        let app = Project::new(&node, "train", CLASSES);
        app.up();
        for turn in 0..2 {
            for (place, (instance, is)) in (0..).zip([("fast-1", "high"), ("slow-1", "low"), ("plain-1", "usual")]) {
                let port = 1000 + 10 * turn + place;
                assert_eq!(class(&node, &app, instance, port), [is, is], "{settings:?}, turn {turn}: {instance}");
            }
            kill_and_wait(node.daemon_pid(), "KILL");
        }
    }
}

/// Asks from elsewhere whenever a line comes in, by TCP over both families, and says what was answered in one line.
const ASKER: &str = r#"
echo ready
while read -r; do
  for host in 192.0.2.1 '[2001:db8::1]'; do curl -sg --max-time 3 http://$host:8080/cgi-bin/who || echo nothing; done | xargs
done
"#;

#[test]
fn published_ports_are_led_into_instances_by_xdp_where_the_operator_says_so_and_by_rules_else() {
    for (settings, by_xdp) in [("xdp = true\n", true), ("xdp = true\nbpf = false\n", false)] {
        let node = Node::with_fast_path();
        node.set(&format!("[network]\n{settings}"));
        kill_and_wait(node.daemon_pid(), "KILL"); // it had begun without
        let mut elsewhere = node.inside("bash");
        elsewhere.args(["-c", ELSEWHERE, "bash", ASKER]);
        let mut elsewhere = Asker::start(elsewhere);
        let site = Project::new(&node, "site", SITE);
        site.up();
        let both = "192.0.2.2 2001:db8::2";
        let seen = |said: &str| said.replace("::ffff:", "").replace(['[', ']'], "");
        assert_eq!(seen(&elsewhere.ask()), both, "{settings}");
        let link = || ip(&node, "-details link show near");
        if !by_xdp {
            assert!(!link().contains("xdp"), "{}", link());
            continue;
        }
        wait_for("the programs are there", || link().contains("xdp").then_some(()));
        // Without the daemon, and without the rules that would do it else.
        kill_and_wait(node.daemon_pid(), "KILL");
        let mut nft = node.inside("nft");
        nft.args(["flush", "ruleset"]);
        Output::of(nft).succeeded();
        assert_eq!(seen(&elsewhere.ask()), both, "by the programs alone");
        // The next daemon goes on with them; the one after it does without, as it is told.
        site.ok(&["status"]);
        assert_eq!(seen(&elsewhere.ask()), both);
        node.set("");
        kill_and_wait(node.daemon_pid(), "KILL");
        site.ok(&["status"]);
        wait_for("the programs are gone", || (!link().contains("xdp")).then_some(()));
        assert_eq!(seen(&elsewhere.ask()), both, "by the rules again");
    }
}

/// A program that answers each line with one.
struct Asker {
    child: std::process::Child,
    said: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Asker {
    fn start(mut command: std::process::Command) -> Self {
        use std::io::BufRead;
        let piped = std::process::Stdio::piped;
        let mut child = command.stdin(piped()).stdout(piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        Self { child, said }
    }

    fn ask(&mut self) -> String {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.said.next().unwrap().unwrap()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // It ends when nobody asks any more.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
