//! Traffic end to end: routes of the proxy and names of the name server, as users and containers meet them.

mod node;
mod project;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use node::{Node, Output};
use project::{Project, child, wait_until};

/// A web service of two replicas behind the proxy, each of which says its name.
const SITE: &str = r#"
[service.web]
image = "box"
replicas = 2
command = ["sh", "-c", "mkdir -p /www/v1 && hostname > /www/index.html && echo v1 > /www/v1/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.http_routes.site]
host = "site.example.com"

[service.web.http_routes.api]
host = "site.example.com"
path_prefix = "/api"
rewrite_prefix = "/v1"
response_headers = { x-edge = "coppice" }

[service.web.http_routes.old]
host = "old.example.com"
redirect = "https://site.example.com{path}"
"#;

/// `curl ARGS http://127.0.0.1/PATH` for `host`, from the node's network.
fn curl(node: &Node, host: &str, path: &str, args: &[&str]) -> Output {
    let mut command = node.inside("curl");
    command.args(["-sS", "--max-time", "5", "-H", &format!("Host: {host}")]).args(args);
    command.arg(format!("http://127.0.0.1{path}"));
    Output::of(command)
}

fn status_of(node: &Node, host: &str, path: &str) -> String {
    curl(node, host, path, &["-o", "/dev/null", "-w", "%{http_code}"]).stdout
}

#[test]
fn requests_reach_every_ready_instance_by_the_routes_of_their_host_and_path() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    assert_eq!(site.node_status().proxy, Vec::<String>::new(), "an idle node has no port open");
    site.up();
    assert_eq!(site.node_status().proxy, ["[::]:80"]);
    let answers: BTreeSet<String> =
        (0..20).map(|_| curl(&node, "site.example.com", "/", &[]).succeeded().stdout).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["web-1\n", "web-2\n"]);
    let api = curl(&node, "site.example.com", "/api/", &["-i"]).succeeded().stdout.to_lowercase();
    assert!(api.starts_with("http/1.1 200") && api.ends_with("v1\n") && api.contains("x-edge: coppice"), "{api}");
    let old = curl(&node, "old.example.com", "/a?b=c", &["-i"]).succeeded().stdout.to_lowercase();
    assert!(old.starts_with("http/1.1 308") && old.contains("location: https://site.example.com/a"), "{old}");
    assert_eq!(status_of(&node, "other.example.com", "/"), "404");
    assert_eq!(status_of(&node, "site.example.com", "/%2e%2e/etc/passwd"), "400");

    // A route is changed without touching what runs; and goes with the app.
    let pids = site.pids();
    site.write(&SITE.replace("old.example.com", "older.example.com"));
    let plan = site.ok(&["plan"]);
    assert!(plan.contains("~ traffic of web") && plan.contains("0 to create, 1 to change"), "{plan}");
    site.up();
    assert_eq!(site.pids(), pids);
    assert_eq!(status_of(&node, "older.example.com", "/"), "308");
    assert_eq!(status_of(&node, "old.example.com", "/"), "404");
    site.ok(&["down"]);
    assert_eq!(status_of(&node, "site.example.com", "/"), "404");
}

#[test]
fn no_request_fails_while_every_instance_is_restarted_and_the_daemon_is_replaced_after_it() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let mut load = node.inside("wrk");
    load.args(["-t1", "-c8", "-d6s", "-H", "Host: site.example.com", "http://127.0.0.1/"]);
    let load = std::thread::spawn(move || Output::of(load).succeeded().stdout);
    let before = site.pids();
    for instance in ["web-1", "web-2"] {
        site.ok(&["restart", &format!("site/{instance}")]);
        site.wait_child(instance, "is ready again", |child| {
            child.ready && before.iter().all(|(_, pid)| Some(*pid) != child.pid)
        });
    }
    let report = load.join().unwrap();
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");

    node::kill_and_wait(node.daemon_pid(), "KILL");
    site.ok(&["ps"]);
    wait_until("the routes are served by the next daemon", || status_of(&node, "site.example.com", "/") == "200");
}

#[test]
fn routes_that_cannot_be_served_are_refused_before_anything_changes() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let twin = Project::new(&node, "twin", SITE);
    let refused = twin.coppice(&["up"]);
    refused.ended_with(1).complained("app site has a route for the same requests (site.example.com*)");
    assert!(twin.try_status().is_none(), "nothing of it is there");

    let node = Node::with_busybox();
    let mut taker = node.inside("busybox");
    let mut taker = taker.args(["httpd", "-f", "-p", "80"]).spawn().unwrap();
    wait_until("the port is taken", || {
        let mut ss = node.inside("ss");
        ss.arg("-ltn");
        Output::of(ss).stdout.contains(":80 ")
    });
    let site = Project::new(&node, "site", SITE);
    site.coppice(&["up"]).ended_with(1).complained("cannot listen on [::]:80").complained("node.toml");
    taker.kill().unwrap();
    taker.wait().unwrap();
    site.up();
    assert_eq!(status_of(&node, "site.example.com", "/"), "200");
}

/// `dig ARGS` at the node's name server, in short.
fn dig(node: &Node, server: &str, args: &[&str]) -> Vec<String> {
    let mut command: Command = node.inside("dig");
    command.args([&format!("@{server}"), "+short", "+time=2", "+tries=1"]).args(args);
    let mut lines: Vec<String> = Output::of(command).succeeded().stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn names_of_ready_instances_are_answered_to_containers_of_any_app_and_of_stopped_ones_to_nobody() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let shop = Project::new(&node, "shop", "[service.client]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\n");
    shop.up();
    let status = site.status();
    let address = |instance| child(&status, instance).address.clone().unwrap();
    let gateway = {
        let subnet = site.node_status().subnet;
        subnet.replace(".0.0/16", ".0.1").replace(".0/24", ".1")
    };
    // The service has an address of its own, which stays whatever its instances do.
    let own = dig(&node, &gateway, &["web.site"]);
    assert!(own.len() == 1 && ![address("web-1"), address("web-2")].contains(&own[0]), "{own:?}");
    assert_eq!(dig(&node, &gateway, &["web.site.coppice.internal"]), own);
    let answers: BTreeSet<String> = (0..40).map(|_| shop.shell("client-1", "wget -q -O - http://web.site/")).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["web-1\n", "web-2\n"]);
    assert_eq!(dig(&node, &gateway, &["1.web.site"]), [address("web-2")]);
    assert_eq!(dig(&node, &gateway, &["-x", &address("web-1")]), ["0.web.site.coppice.internal."]);
    assert_eq!(dig(&node, &gateway, &["+tcp", "web.site"]), own);

    // From a container of another app, through its resolv.conf; and its own names by the search domain.
    assert_eq!(shop.shell("client-1", "wget -q -O - http://0.web.site/"), "web-1\n");
    let resolved = shop.shell("client-1", "cat /etc/resolv.conf");
    assert!(resolved.starts_with(&format!("nameserver {gateway}\n")), "{resolved}");
    assert!(resolved.contains("search shop.coppice.internal coppice.internal"), "{resolved}");

    site.ok(&["stop", "site/web-2"]);
    assert_eq!(dig(&node, &gateway, &["web.site"]), own);
    for _ in 0..20 {
        assert_eq!(shop.shell("client-1", "wget -q -O - http://web.site/"), "web-1\n");
    }
    assert_eq!(dig(&node, &gateway, &["1.web.site"]), Vec::<String>::new());

    // A headless one is answered with the instances that are ready.
    site.write(&SITE.replace("[service.web]", "[service.web]\nheadless = true"));
    site.up();
    let mut both = vec![address("web-1"), address("web-2")];
    both.sort();
    assert_eq!(dig(&node, &gateway, &["web.site"]), both);
    site.ok(&["stop", "site/web-2"]);
    assert_eq!(dig(&node, &gateway, &["web.site"]), [address("web-1")], "a stopped instance is answered");
    site.ok(&["down"]);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !dig(&node, &gateway, &["web.site"]).is_empty() {
        assert!(Instant::now() < deadline, "a removed app is answered");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
