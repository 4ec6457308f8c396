//! Who may speak to whom, end to end: the manifest's `[policy]` and `coppice policy`, on every way from one container to
//! another.

mod node;
mod project;

use node::{Node, Output};
use project::{Project, child, kill9, wait_until};

/// Two services that answer, and one that asks. `db` is published on the host, too.
const SHOP: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo web > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }

[service.db]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo db > /www/index.html && exec httpd -f -p 80 -h /www"]
ports = ["8080:80"]
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }
"#;

const STRANGER: &str = r#"
[service.client]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

/// Whether `instance` of `project` gets an answer from `place` (`HOST PORT`) within two seconds. By nc: busybox's static
/// wget falls over its own resolver when it has a timeout.
fn reaches(project: &Project<'_>, instance: &str, place: &str) -> bool {
    let ask =
        format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {place} | grep -q '200 OK' && echo answered; true");
    project.shell(instance, &ask) == "answered\n"
}

fn address(project: &Project<'_>, instance: &str) -> String {
    child(&project.status(), instance).address.clone().unwrap()
}

fn gateway(project: &Project<'_>) -> String {
    project.node_status().subnet.replace(".0.0/16", ".0.1")
}

#[test]
fn a_denied_service_reaches_another_by_no_way_and_an_allowed_one_by_all() {
    let node = Node::with_busybox();
    every_way_is_closed_and_opened(&node, &Project::new(&node, "shop", SHOP));
}

#[test]
fn the_fast_path_denies_what_the_rules_deny_and_counts_who_speaks_to_whom() {
    let node = Node::with_fast_path();
    let shop = Project::new(&node, "shop", SHOP);
    every_way_is_closed_and_opened(&node, &shop);
    let pairs = node.ok(["metrics", "--pairs"]);
    let row = |from: &str, to: &str| -> Vec<String> {
        let rows = pairs.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        rows.into_iter().find(|row| row[0] == from && row[1] == to).unwrap_or_else(|| panic!("{pairs}"))
    };
    assert!(row("shop/web", "shop/db")[2].parse::<u64>().unwrap() >= 4, "connections: {pairs}");
    assert!(row("shop/db", "shop/web")[2].parse::<u64>().unwrap() >= 1, "connections: {pairs}");
    let text = node.ok(["metrics", "--prometheus"]);
    assert!(text.contains("coppice_pair_connections_total{from=\"shop/web\",to=\"shop/db\"}"), "{text}");

    // Without it from the next daemon on, by the operator's word: the rules do the same.
    node.set("[network]\nbpf = false\n");
    node::kill_and_wait(node.daemon_pid(), "KILL");
    every_way_is_closed_and_opened(&node, &shop);
    assert_eq!(node.ok(["metrics", "--pairs"]).lines().count(), 1, "nothing counts");
}

fn every_way_is_closed_and_opened(node: &Node, shop: &Project<'_>) {
    shop.up();
    let ways = || {
        let direct = format!("{} 80", address(shop, "db-1"));
        let published = format!("{} 8080", gateway(shop));
        ["db 80".to_owned(), "0.db.shop 80".to_owned(), direct, published]
    };
    for way in ways() {
        assert!(reaches(shop, "web-1", &way), "{way}");
    }
    let said = shop.ok(&["policy", "deny", "web", "db"]);
    assert_eq!(said, "shop/web cannot connect to shop/db\n");
    for way in ways() {
        assert!(!reaches(shop, "web-1", &way), "{way} is a way around");
    }
    assert!(reaches(shop, "db-1", "web 80"), "a rule has a direction");
    let listed = shop.ok(&["policy", "list"]);
    let row = listed.lines().nth(1).unwrap();
    assert!(
        row.starts_with("shop/web") && row.contains("shop/db") && row.contains("deny") && row.contains("rule"),
        "{listed}"
    );

    // From the host, the published port is open: a rule is about services.
    let mut curl = node.inside("curl");
    curl.args(["-sS", "--max-time", "5", "http://127.0.0.1:8080/"]);
    assert_eq!(Output::of(curl).succeeded().stdout, "db\n");

    shop.ok(&["policy", "rm", "web", "db"]);
    for way in ways() {
        assert!(reaches(shop, "web-1", &way), "{way}");
    }
    shop.coppice(&["policy", "rm", "web", "db"]).ended_with(1).complained("no rule from shop/web to shop/db");
    shop.coppice(&["policy", "deny", "web", "shop/ghost"]).ended_with(1).complained("no workload ghost");
    shop.coppice(&["policy", "deny", "a/b/c", "db"]).ended_with(2).complained("APP/SERVICE");
}

#[test]
fn rules_hold_while_there_is_no_daemon_and_in_the_next_one_and_after_a_flush_of_all_rules() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    shop.ok(&["policy", "deny", "web", "db"]);
    let db = address(&shop, "db-1");
    let pid = shop.pid("web-1");
    let from_web = || {
        // Without the daemon there is no `exec`.
        let mut enter = node.inside("nsenter");
        enter.args(["-t", &pid.to_string(), "-n", "curl", "-sS", "--max-time", "2", &format!("http://{db}/")]);
        Output::of(enter).code == 0
    };
    assert!(!from_web());
    node::kill_and_wait(node.daemon_pid(), "KILL");
    assert!(!from_web(), "without a daemon");
    shop.ok(&["ps"]);
    assert!(!from_web(), "with the next daemon");
    let mut flush = node.inside("nft");
    flush.args(["flush", "ruleset"]);
    Output::of(flush).succeeded();
    wait_until("the rules are back", || {
        let mut list = node.inside("nft");
        list.args(["list", "ruleset"]);
        Output::of(list).succeeded().stdout.contains("denied")
    });
    assert!(!from_web(), "after a flush");

    // An instance that takes the other's place is under the same rule from its first packet.
    kill9(pid);
    shop.wait_child("web-1", "is there again", |child| child.ready && child.pid != Some(pid));
    assert!(!reaches(&shop, "web-1", &format!("{db} 80")));
}

#[test]
fn an_app_that_denies_by_default_is_open_to_what_its_manifest_allows_only() {
    let node = Node::with_busybox();
    let closed = format!("{SHOP}\n[policy]\ndefault = \"deny\"\nallow = [\"web -> db\"]\n");
    let shop = Project::new(&node, "shop", &closed);
    shop.up();
    let other = Project::new(&node, "other", STRANGER);
    other.up();
    assert!(reaches(&shop, "web-1", "db 80"));
    assert!(!reaches(&shop, "db-1", "web 80"));
    assert!(!reaches(&other, "client-1", "web.shop 80"), "another app");
    let web = address(&shop, "web-1");
    let run = node.coppice(["run", "--rm", "box", "nc", "-w", "2", web.as_str(), "80"]);
    assert_ne!(run.code, 0, "a container of no app");
    assert!(reaches(&shop, "web-1", "localhost 80"), "itself");

    // By hand, one more is let in; the manifest can be changed without a restart.
    shop.ok(&["policy", "allow", "other", "web"]);
    assert!(reaches(&other, "client-1", "web.shop 80"));
    let pids = shop.pids();
    shop.write(SHOP);
    let plan = shop.ok(&["plan"]);
    assert!(plan.contains("policy"), "{plan}");
    shop.up();
    assert_eq!(shop.pids(), pids);
    assert!(reaches(&shop, "db-1", "web 80"));
}

#[test]
fn a_connection_that_exists_ends_with_the_rule_that_denies_it() {
    let node = Node::with_busybox();
    let talk = SHOP.replace(
        "exec httpd -f -p 80 -h /www\"]\nports",
        "{ (while true; do nc -l -p 9000 -e cat; done) & exec httpd -f -p 80 -h /www; }\"]\nports",
    );
    let shop = Project::new(&node, "shop", &talk);
    shop.up();
    let command = "(i=0; while true; do echo $i; i=$((i+1)); usleep 100000; done) | nc db 9000 > /tmp/heard 2>&1 &";
    shop.shell("web-1", command);
    let heard = || shop.shell("web-1", "wc -l < /tmp/heard").trim().parse::<u64>().unwrap();
    wait_until("the connection carries something", || heard() > 3);
    shop.ok(&["policy", "deny", "web", "db"]);
    let at = heard();
    std::thread::park_timeout(std::time::Duration::from_secs(1));
    assert!(heard() <= at + 1, "it goes on");
}

/// `db` by its public route, too: plain and encrypted, and one that talks on and on.
const PUBLIC: &str = r#"
[service.web]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"

[service.db]
image = "box"
command = ["sh", "-c", '''
mkdir -p /www && echo db > /www/index.html
printf '#!/bin/sh\nprintf "HTTP/1.1 200 OK\\r\\n\\r\\n"\nwhile echo on; do usleep 50000; done\n' > /on && chmod +x /on
while true; do nc -l -p 81 -e /on; done &
exec httpd -f -p 80 -h /www''']
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }

[service.db.http_routes.page]
host = "db.example.com"

[service.db.http_routes.on]
host = "on.example.com"
port = 81

[service.db.tls]
domain = "db.example.com"
redirect = false
"#;

/// `curl ARGS` in an instance's network: what it printed, and the status.
fn curl_of(node: &Node, pid: u32, args: &[&str]) -> String {
    let mut curl = node.inside("nsenter");
    curl.args(["-t", &pid.to_string(), "-n", "curl", "-sS", "-m", "5", "--noproxy", "*", "-w", "%{http_code}"]);
    curl.args(args);
    Output::of(curl).stdout
}

#[test]
fn a_denied_service_does_not_reach_another_by_its_public_route_either() {
    let node = Node::with_busybox();
    let made = rcgen::generate_simple_self_signed(["db.example.com".to_owned()]).unwrap();
    node.file("db.pem", made.cert.pem());
    node.file("db.key", made.signing_key.serialize_pem());
    let shop = Project::new(&node, "shop", PUBLIC);
    let other = Project::new(&node, "other", STRANGER);
    shop.up();
    other.up();
    node.ok(["cert", "install", "--cert", "db.pem", "--key", "db.key"]);
    let (web, stranger) = (shop.pid("web-1"), other.pid("client-1"));
    let gateway = gateway(&shop);
    let gateway6 = {
        // Its default way.
        let mut route = node.inside("nsenter");
        route.args(["-t", &web.to_string(), "-n", "ip", "-6", "route", "show", "default"]);
        Output::of(route).succeeded().stdout.split_whitespace().nth(2).unwrap().to_owned()
    };
    let ways: Vec<Vec<String>> = [gateway.clone(), format!("[{gateway6}]")]
        .iter()
        .flat_map(|at| {
            let to = |port: u16| format!("db.example.com:{port}:{at}");
            let (plain, tls) = ("http://db.example.com/", "https://db.example.com/");
            [
                vec!["--resolve".to_owned(), to(80), plain.to_owned()],
                vec!["--http2-prior-knowledge".to_owned(), "--resolve".to_owned(), to(80), plain.to_owned()],
                vec!["-k".to_owned(), "--resolve".to_owned(), to(443), tls.to_owned()],
                vec!["-k".to_owned(), "--http1.1".to_owned(), "--resolve".to_owned(), to(443), tls.to_owned()],
            ]
        })
        .collect();
    let on_every_way = |pid: u32, expected: &str| {
        for way in &ways {
            let args: Vec<&str> = way.iter().map(String::as_str).collect();
            let got = curl_of(&node, pid, &args);
            assert!(got.ends_with(expected), "{args:?} gave {got:?} where {expected:?} was due");
        }
    };
    on_every_way(web, "db\n200");
    on_every_way(stranger, "db\n200");

    // It streams while it may, and no longer.
    let mut on = node.inside("nsenter");
    on.args([
        "-t",
        &web.to_string(),
        "-n",
        "curl",
        "-sS",
        "-N",
        "-H",
        "Host: on.example.com",
        &format!("http://{gateway}/"),
    ]);
    let mut on = on.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let carried = || node.json(["metrics"])["backends"].as_array().unwrap().iter().any(|one| one["in_flight"] == 1);
    wait_until("the stream is open", carried);
    shop.ok(&["policy", "deny", "web", "db"]);
    wait_until("the stream has ended", || on.try_wait().unwrap().is_some());

    on_every_way(web, "does not let this container speak to this service.\n403");
    on_every_way(stranger, "db\n200");
    let mut curl = node.inside("curl");
    curl.args(["-sS", "-m", "5", "-H", "Host: db.example.com", "http://127.0.0.1/"]);
    assert_eq!(Output::of(curl).succeeded().stdout, "db\n", "the host is no container");
    let pairs = node.ok(["metrics", "--pairs"]);
    let row = pairs.lines().find(|line| line.starts_with("shop/web")).unwrap_or_else(|| panic!("{pairs}"));
    assert!(row.split_whitespace().last().unwrap().parse::<u64>().unwrap() >= 8, "{pairs}");

    // The next daemon's first answer is a refusal, too.
    node::kill_and_wait(node.daemon_pid(), "KILL");
    let asking = std::thread::scope(|scope| {
        let next = scope.spawn(|| shop.ok(&["ps"]));
        let mut answers = Vec::new();
        while !next.is_finished() || answers.is_empty() {
            let args = ["-o", "/dev/null", "-H", "Host: db.example.com", &format!("http://{gateway}/")];
            answers.push(curl_of(&node, web, &args));
        }
        answers
    });
    assert!(asking.iter().all(|status| status == "403"), "{asking:?}");

    shop.ok(&["policy", "rm", "web", "db"]);
    on_every_way(web, "db\n200");

    // By default closed: neither another app's service nor a container of no app comes by the route.
    shop.write(&format!("{PUBLIC}\n[policy]\ndefault = \"deny\"\nallow = [\"web -> db\"]\n"));
    shop.up();
    on_every_way(web, "db\n200");
    on_every_way(stranger, "403");
    let ask = format!("printf 'GET / HTTP/1.0\\r\\nHost: db.example.com\\r\\n\\r\\n' | nc -w 2 {gateway} 80");
    let run = node.coppice(["run", "--rm", "box", "sh", "-c", &ask]);
    assert!(run.stdout.contains("403 Forbidden"), "{}", run.stdout);
}

/// One on the host's network beside one that is not.
const AGENT: &str = r#"
[service.agent]
image = "box"
command = ["sleep", "1000"]
network = "host"
stop_signal = "KILL"

[service.db]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo db > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }
"#;

#[test]
fn what_policy_cannot_hold_on_the_hosts_network_is_refused_and_where_it_cannot_be_the_node_says_so() {
    let node = Node::with_busybox();
    let watch = Project::new(&node, "watch", AGENT);
    for policy in ["deny = [\"agent -> db\"]", "deny = [\"db -> agent\"]", "default = \"deny\""] {
        watch.write(&format!("{AGENT}\n[policy]\n{policy}\n"));
        let refused = watch.coppice(&["up"]);
        refused.ended_with(2).complained("agent is on the host's network").complained("network = \"bridge\"");
        assert!(watch.try_status().is_none(), "nothing of it is there");
    }
    watch.write(AGENT);
    watch.up();
    for (from, to) in [("agent", "db"), ("db", "agent"), ("watch", "db")] {
        let refused = watch.coppice(&["policy", "deny", from, to]);
        refused.ended_with(2).complained("watch/agent is on the host's network");
    }
    assert_eq!(watch.ok(&["policy", "list"]).lines().count(), 1, "nothing is recorded");

    // Another app's default is its own: it is told what that does not keep out, and the way to say that it may.
    let shop = Project::new(&node, "shop", &format!("{STRANGER}\n[policy]\ndefault = \"deny\"\n"));
    shop.up();
    let words = || shop.node_status().words.join("\n");
    assert!(words().contains("watch/agent is on the host's network"), "{}", words());
    shop.ok(&["policy", "allow", "watch/agent", "shop"]);
    assert!(!words().contains("watch/agent"), "{}", words());
}
