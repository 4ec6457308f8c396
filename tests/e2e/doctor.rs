//! `coppice net doctor`: one thing is broken at a time, for real, and the doctor names it. And `coppice status --network`:
//! what there is.

mod node;
mod project;

use coppice_api::{DoctorReport, DoctorState, DoctorStep, NetworkStatus, ServiceNetwork};
use node::{Node, Output};
use project::{Project, wait_until};

/// `web` asks; `db` answers; `shy` listens on loopback alone and `late` never becomes ready.
const SHOP: &str = r#"
[service.web]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"

[service.db]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo db > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }

[service.db.http_routes.site]
host = "shop.example"
path_prefix = "/cart"

[service.shy]
image = "box"
command = ["sh", "-c", "exec httpd -f -p 127.0.0.1:8080 -h /"]
stop_signal = "KILL"

[service.late]
image = "box"
command = ["sh", "-c", "exec httpd -f -p 80 -h /"]
stop_signal = "KILL"
health = { type = "exec", command = ["false"], interval = "100ms", start_period = "1h" }
"#;

/// Takes callers of its app only.
const VAULT: &str = r#"
[service.vault]
image = "box"
command = ["sh", "-c", "exec httpd -f -p 80 -h /"]
stop_signal = "KILL"
health = { type = "tcp", port = 80, interval = "100ms" }
tls = { peer = "require" }

[service.user]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

/// What the doctor says; it must end with 1 when something is broken, and with 0 else.
fn doctor(node: &Node, ends: &[&str]) -> DoctorReport {
    let mut args = vec!["net", "doctor", "--json"];
    args.extend(ends);
    let output = node.coppice(args);
    let report: DoctorReport = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", output.stdout, output.stderr));
    assert_eq!(output.code, i32::from(!report.well), "{report:#?}");
    report
}

/// The first thing that is broken, which is to be this.
#[track_caller]
fn broken(node: &Node, ends: &[&str], problem: &str) -> DoctorStep {
    let report = doctor(node, ends);
    assert_eq!(report.problem.as_deref(), Some(problem), "{ends:?}: {report:#?}");
    report.steps.into_iter().find(|step| step.state == DoctorState::Broken).unwrap()
}

#[track_caller]
fn well(node: &Node, ends: &[&str]) -> DoctorReport {
    let report = doctor(node, ends);
    assert!(report.well, "{ends:?}: {report:#?}");
    report
}

#[track_caller]
fn says(step: &DoctorStep, text: &str) {
    let said = format!("{} / {}", step.found, step.advice.as_deref().unwrap_or_default());
    assert!(said.contains(text), "{said}");
}

#[track_caller]
fn run(node: &Node, line: &str) {
    let mut words = line.split_whitespace();
    let mut command = node.inside(words.next().unwrap());
    command.args(words);
    Output::of(command).succeeded();
}

/// Everything runs; `late` is not ready, and is not waited for.
fn shop(node: &Node) -> Project<'_> {
    let shop = Project::new(node, "shop", SHOP);
    shop.ok(&["up", "--detach"]);
    for instance in ["web-1", "db-1", "shy-1"] {
        shop.wait_child(instance, "is ready", |child| child.ready);
    }
    shop.wait_child("late-1", "runs", |child| child.state == "running");
    shop
}

#[test]
fn what_is_well_is_said_to_be_well_by_every_name_and_the_connection_was_made() {
    let node = Node::with_busybox();
    assert!(well(&node, &[]).steps.iter().any(|step| step.found.contains("no bridge")), "an idle node");
    let shop = shop(&node);
    for (from, to) in [
        ("web", "db"),
        ("web-1", "db-1"),
        ("shop/web", "shop/db:80"),
        ("web", "db.shop"),
        ("web", "0.db.shop:80"),
        ("host", "db"),
    ] {
        let report = well(&node, &[from, to]);
        let last = report.steps.last().unwrap();
        assert_eq!((last.step.as_str(), last.state), ("connection", DoctorState::Fine), "{report:#?}");
    }
    let address = project::child(&shop.status(), "db-1").address.clone().unwrap();
    let by_address = well(&node, &["web", &format!("{address}:80")]);
    assert_eq!(by_address.to.as_deref(), Some("shop/db-1"));
    assert_eq!(well(&node, &[]).from, None);
    assert_eq!(well(&node, &["web"]).from.as_deref(), Some("shop/web-1"));

    // Requests from outside, by the route.
    let report = well(&node, &["host", "http://shop.example/cart/1"]);
    assert!(report.steps.iter().any(|step| step.found.contains("shop/db/site takes shop.example/cart/1")));
    says(&broken(&node, &["host", "http://shop.example/"], "no-route"), "hosts with routes: shop.example");
    says(&broken(&node, &["host", "http://elsewhere.example/"], "no-route"), "shop.example");

    // For people.
    let said = shop.ok(&["net", "doctor", "web", "db"]);
    assert!(said.ends_with("shop/web-1 -> shop/db: all is well\n"), "{said}");
    // What cannot be understood is bad input.
    for (ends, why) in [
        (&["ghost", "db"][..], "nobody is called ghost"),
        (&["web", "db:http"], "a port is a number"),
        (&["web", "[::1"], "not closed"),
        (&["web", "db", "db"], "unexpected argument"),
    ] {
        let mut args = vec!["net", "doctor"];
        args.extend(ends);
        node.coppice(args).ended_with(2).complained(why);
    }
    assert!(
        !Output::of({
            let mut list = node.inside("nft");
            list.args(["list", "tables"]);
            list
        })
        .succeeded()
        .stdout
        .contains("trace")
    );
}

#[test]
fn what_an_app_has_wrong_is_named() {
    let node = Node::with_busybox();
    let shop = shop(&node);
    shop.ok(&["policy", "deny", "web", "db"]);
    let denied = broken(&node, &["web", "db"], "policy-denied");
    says(&denied, "the rule shop/web -> shop/db");
    says(&denied, "`coppice policy rm shop/web shop/db` lets it through");
    let report = doctor(&node, &["web", "db"]);
    let problems: Vec<&str> = report.steps.iter().filter_map(|step| step.problem.as_deref()).collect();
    assert_eq!(problems, ["policy-denied", "dropped-by-node"], "the packets' end is what the policy said");
    shop.ok(&["policy", "rm", "web", "db"]);
    well(&node, &["web", "db"]);

    let loopback = broken(&node, &["web", "shy"], "loopback-only");
    says(&loopback, "shy-1 listens on 127.0.0.1:8080 only");
    says(&loopback, "0.0.0.0:8080");
    says(&broken(&node, &["web", "db:81"], "not-listening"), "but on");
    says(&broken(&node, &["web", "late"], "not-ready"), "late runs, and is not ready");
    says(&broken(&node, &["web", "ghost"], "unknown-name"), "shop/db");
    let other = Project::new(&node, "other", "[service.client]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\n");
    other.up();
    says(&broken(&node, &["other/client", "db"], "unknown-name"), "ask for db.shop");
    well(&node, &["other/client", "db.shop"]);

    let vault = Project::new(&node, "vault", VAULT);
    vault.up();
    says(&broken(&node, &["other/client", "vault.vault"], "peer-tls-required"), "its own app only");
    let inside = well(&node, &["vault/user", "vault"]);
    assert!(
        inside.steps.iter().any(|step| step.step == "tls.peer" && step.found.starts_with("encrypted")),
        "{inside:#?}"
    );

    shop.ok(&["pause", "shop/db-1"]);
    says(&broken(&node, &["web", "db"], "paused"), "coppice unpause shop/db-1");
    shop.ok(&["unpause", "shop/db-1"]);
    shop.ok(&["stop", "db"]);
    shop.wait_child("db-1", "is stopped", |child| child.state == "stopped");
    says(&broken(&node, &["web", "db"], "stopped"), "coppice start shop/db");
    says(&broken(&node, &["host", "http://shop.example/cart"], "no-backend"), "shop/db/site");
    shop.ok(&["stop", "web"]);
    shop.wait_child("web-1", "is stopped", |child| child.state == "stopped");
    says(&broken(&node, &["web", "shy"], "from-not-running"), "shop/web");

    node.ok(["run", "-d", "--name", "alone", "--network", "none", "box", "sleep", "1000"]);
    broken(&node, &["alone", "shy"], "from-without-network");
    let subnet = shop.node_status().subnet;
    let vacant = subnet.replace(".0.0/16", ".77.77");
    says(&broken(&node, &["other/client", &format!("{vacant}:80")], "vacant-address"), &vacant);
}

#[test]
fn the_same_is_said_where_bpf_programs_carry_the_packets() {
    let node = Node::with_fast_path();
    let shop = shop(&node);
    wait_until("the fast path is in force", || {
        well(&node, &["web", "db"]).steps.iter().any(|step| step.found.contains("balanced by BPF programs"))
    });
    shop.ok(&["policy", "deny", "web", "db"]);
    let report = doctor(&node, &["web", "db"]);
    let problems: Vec<&str> = report.steps.iter().filter_map(|step| step.problem.as_deref()).collect();
    assert_eq!(problems, ["policy-denied", "dropped-by-node"], "{report:#?}");
    shop.ok(&["policy", "rm", "web", "db"]);
    well(&node, &["web", "db"]);
    broken(&node, &["web", "shy"], "loopback-only");
}

#[test]
fn what_somebody_did_to_the_machine_is_named() {
    // BPF programs would bring packets past what other programs' rules see.
    let node = Node::with_settings("[network]\nbpf = false\n");
    node.busybox_image();
    let shop = shop(&node);
    let bridge = shop.node_status().bridge;
    well(&node, &["web", "db"]);

    // Another program's rules: a policy, and a rule of one.
    run(&node, "nft add table inet hostile");
    run(&node, "nft add chain inet hostile mean { type filter hook forward priority 0; policy drop; }");
    let by_policy = broken(&node, &["web", "db"], "dropped-by-other-rules");
    says(&by_policy, "the policy of chain mean of table inet hostile");
    says(&by_policy, &bridge);
    // The network as a whole is looked at by packets, too.
    says(&broken(&node, &[], "dropped-by-other-rules"), "table inet hostile");
    run(&node, "nft add chain inet hostile mean { policy accept; }");
    run(&node, "nft add rule inet hostile mean tcp dport 80 drop");
    says(&broken(&node, &["web", "db"], "dropped-by-other-rules"), "nft -a list chain inet hostile mean");
    run(&node, "nft delete table inet hostile");
    well(&node, &["web", "db"]);

    run(&node, "sysctl -qw net.ipv4.ip_forward=0");
    says(&broken(&node, &["web", "db"], "forwarding-off"), "sysctl -w net.ipv4.ip_forward=1");
    run(&node, "sysctl -qw net.ipv4.ip_forward=1");

    let pid = shop.pid("web-1").to_string();
    run(&node, &format!("nsenter -t {pid} -n ip link set eth0 down"));
    broken(&node, &["web", "db"], "link-down");
    run(&node, &format!("nsenter -t {pid} -n ip link set eth0 up"));
    says(&broken(&node, &["web", "db"], "route-missing"), "shop/web-1");

    run(&node, &format!("ip link set {bridge} down"));
    says(&broken(&node, &[], "bridge-down"), &format!("ip link set {bridge} up"));
    run(&node, &format!("ip link set {bridge} up"));

    // What was flushed is put back, and then all is well.
    run(&node, "nft flush ruleset");
    wait_until("the rules are back", || doctor(&node, &["host", "db"]).well);
}

#[test]
fn the_status_of_the_network_shows_every_service_as_others_reach_it() {
    let node = Node::with_busybox();
    let idle: NetworkStatus = serde_json::from_value(node.json(["status", "--network"])).unwrap();
    assert_eq!((idle.bridge, idle.services.len()), (None, 0));
    let manifest = SHOP.replace("[service.db]\n", "[service.db]\nports = [\"8080:80\"]\n");
    let shop = Project::new(&node, "shop", &manifest);
    shop.ok(&["up", "--detach"]);
    shop.wait_child("db-1", "is ready", |child| child.ready);
    shop.wait_child("late-1", "runs", |child| child.state == "running");
    shop.ok(&["policy", "deny", "web", "db"]);
    let look = || -> NetworkStatus { serde_json::from_str(&shop.ok(&["status", "--network", "--json"])).unwrap() };
    let of = |status: &NetworkStatus, name: &str| -> ServiceNetwork {
        status.services.iter().find(|one| one.service.as_str() == name).unwrap().clone()
    };
    let status = look();
    let bridge = status.bridge.clone().unwrap();
    assert_eq!((&bridge.subnet, bridge.up, bridge.rules.as_str()), (&shop.node_status().subnet, true, "intact"));
    assert_eq!(bridge.fast_path, bridge.fast_path_reason.is_none());
    assert!(bridge.names && bridge.subnet6.is_some(), "{bridge:?}");
    assert_eq!(status.proxy, ["[::]:80"]);
    let db = of(&status, "db");
    let address = project::child(&shop.status(), "db-1").address.clone().unwrap();
    assert_eq!(db.instances[0].addresses[0], address);
    assert_eq!((db.instances[0].addresses.len(), db.instances[0].ready), (2, true));
    assert_eq!(db.virtual_addresses.len(), 2);
    assert!(shop.shell("web-1", "cat /etc/hosts").contains(&format!("{}\tdb\n", db.virtual_addresses[0])));
    assert_eq!(db.names[..2], ["db", "db.shop"]);
    assert_eq!((db.ports[0].host, db.ports[0].container), (8080, 80));
    assert_eq!(db.denied, ["shop/web"]);
    let route = &db.routes[0];
    assert_eq!((route.hosts.as_slice(), route.path.as_str()), (&["shop.example".to_owned()][..], "/cart"));
    assert_eq!(route.backends[0].address, format!("{address}:80"));
    assert!(!of(&status, "late").instances[0].ready);

    let text = shop.ok(&["status", "--network"]);
    for line in [
        format!("bridge       {} up", bridge.name),
        format!("  db-1       {} ready", db.instances[0].addresses.join(" ")),
        "  ports      8080->80/tcp".to_owned(),
        format!("  route      site: shop.example/cart -> db-1 {address}:80 healthy"),
        "  policy     denied: shop/web".to_owned(),
    ] {
        assert!(text.lines().any(|one| one.trim_end() == line.trim_end() || one.starts_with(&line)), "{line}:\n{text}");
    }
    node.coppice(["status", "--network", "ghost"]).ended_with(1).complained("ghost");
    shop.ok(&["stop", "db"]);
    wait_until("it leads nowhere", || of(&look(), "db").instances.is_empty());
}
