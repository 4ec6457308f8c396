//! Traffic end to end: routes of the proxy and names of the name server, as users and containers meet them.

mod node;
mod project;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coppice_api::HealthState;
use node::{Node, Output, threads};
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
    let proxy: Vec<_> = threads(node.daemon_pid()).into_iter().filter(|(name, _)| name.starts_with("proxy-")).collect();
    assert!(!proxy.is_empty() && proxy.iter().all(|(_, nice)| *nice == -2), "before what they serve: {proxy:?}");
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
fn an_instance_whose_probes_fail_gets_no_request_by_a_route_until_it_is_well() {
    let node = Node::with_busybox();
    // It answers all requests but the probe's; and TERM does nothing to a first process without a handler, so that it
    // runs on, unhealthy, for as long as its stop may take.
    let site = Project::new(
        &node,
        "site",
        r#"
[service.web]
image = "box"
replicas = 2
stop_timeout = "6s"
command = ["sh", "-c", "mkdir -p /www; hostname > /www/index.html; touch /www/well; exec httpd -f -p 80 -h /www"]
health = { type = "http", port = 80, path = "/well", interval = "200ms", retries = 2 }

[service.web.http_routes.site]
host = "site.example.com"
"#,
    );
    site.up();
    let first = site.pid("web-1");
    let twenty = || -> BTreeSet<String> {
        let said = curl(&node, "site.example.com", "/?n=[1-20]", &["--fail"]).succeeded().stdout;
        assert_eq!(said.lines().count(), 20, "{said}");
        said.lines().map(str::to_owned).collect()
    };
    wait_until("both answer", || twenty().len() == 2);
    site.shell("web-1", "rm /www/well");
    site.wait_child("web-1", "is unhealthy", |web| web.health == HealthState::Unhealthy);
    let only_second = BTreeSet::from(["web-2".to_owned()]);
    wait_until("the proxy knows", || twenty() == only_second);
    assert_eq!((twenty(), twenty()), (only_second.clone(), only_second));
    assert_eq!(site.child("web-1").pid, Some(first), "the stop took less than its time, so nothing was shown");
    site.wait_child("web-1", "is well again", |web| web.ready && web.pid != Some(first));
    wait_until("both answer again", || twenty().len() == 2);
}

#[test]
fn no_request_fails_while_every_instance_is_restarted() {
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
}

/// One request after the other, each on a connection of its own, until it is told to stop; how many there were, and how
/// each that failed did: curl's exit code, then the status.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<(i32, String)>)>,
    asked: Arc<AtomicUsize>,
}

impl Asking {
    fn begin(node: &Node) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), asked.clone());
        // Made here: a node does not go from thread to thread, a command does.
        let script = "while read -r _; do curl -sS -m 20 -o /dev/null -w '%{http_code} ' -H 'Host: site.example.com' \
                      http://127.0.0.1/; echo $?; done";
        let mut shell = node.inside("bash");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let thread = std::thread::spawn(move || {
            let mut answers = BufReader::new(shell.stdout.take().unwrap()).lines();
            let mut ask = shell.stdin.take().unwrap();
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                ask.write_all(b"\n").unwrap();
                let answer = answers.next().unwrap().unwrap();
                let (status, code) = answer.split_once(' ').unwrap();
                if (status, code) != ("200", "0") {
                    failed.push((code.parse().unwrap(), status.to_owned()));
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            drop(ask);
            shell.wait().unwrap();
            (count.load(Ordering::Relaxed), failed)
        });
        Self { stop, thread, asked }
    }

    /// Waits until some more have been answered.
    fn goes_on(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        wait_until("requests are answered", || self.asked.load(Ordering::Relaxed) >= before + 5);
    }

    fn end(self) -> (usize, Vec<(i32, String)>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn no_new_connection_is_refused_while_daemons_are_killed_and_replaced() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let asking = Asking::begin(&node);
    for _ in 0..3 {
        asking.goes_on();
        node::kill_and_wait(node.daemon_pid(), "KILL");
        site.ok(&["ps"]);
    }
    asking.goes_on();
    let (count, failed) = asking.end();
    // A request that the killed daemon had begun has no answer (52, 56); nobody is refused (7), or told of a route or
    // an instance that is not there yet.
    assert!(failed.len() <= 3 && failed.iter().all(|(code, _)| [52, 56].contains(code)), "{failed:?} of {count}");

    // One that is told to make room for another finishes what it has.
    let asking = Asking::begin(&node);
    for _ in 0..3 {
        asking.goes_on();
        node::kill_and_wait(node.daemon_pid(), "TERM");
        site.ok(&["ps"]);
    }
    asking.goes_on();
    let (count, failed) = asking.end();
    assert!(failed.is_empty(), "{failed:?} of {count}");
}

#[test]
fn who_asks_while_there_is_no_daemon_is_answered_by_the_next_one_also_about_names() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let gateway = site.node_status().subnet.replace(".0.0/16", ".0.1");
    let own = dig(&node, &gateway, &["web.site"]);
    node::kill_and_wait(node.daemon_pid(), "KILL");
    let asked = |program: &str, args: &[&str]| {
        let mut command = node.inside(program);
        command.args(args).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut waiting = Vec::new();
    let server = format!("@{gateway}");
    for _ in 0..10 {
        waiting.push(asked("curl", &["-sS", "-m", "20", "-H", "Host: site.example.com", "http://127.0.0.1/"]));
        waiting.push(asked("dig", &[&server, "+short", "+time=20", "+tries=1", "web.site"]));
        waiting.push(asked("dig", &[&server, "+short", "+tcp", "+time=20", "+tries=1", "web.site"]));
    }
    wait_until("they wait to be accepted", || {
        let mut ss = node.inside("ss");
        ss.args(["-Hltn", "sport = :80"]);
        Output::of(ss).stdout.split_whitespace().nth(1).is_some_and(|waiting| waiting == "10")
    });
    site.ok(&["ps"]);
    for child in waiting {
        let said = child.wait_with_output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(["web-1\n", "web-2\n"].contains(&said.as_str()) || said.trim_end() == own[0], "{said:?}");
    }
}

#[test]
fn a_port_that_the_settings_name_no_more_and_those_of_a_stopped_node_are_refused() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let refused = |port: u16| {
        let mut curl = node.inside("curl");
        curl.args(["-sS", "-m", "2", "-o", "/dev/null", "-H", "Host: site.example.com"]);
        curl.arg(format!("http://127.0.0.1:{port}/"));
        Output::of(curl).code == 7
    };
    node.set("[proxy]\nhttp = [\"127.0.0.1:80\", \"127.0.0.1:8081\"]\n");
    node::kill_and_wait(node.daemon_pid(), "KILL");
    site.ok(&["ps"]);
    wait_until("the new ones are served", || !refused(8081));
    assert_eq!(site.node_status().proxy, ["127.0.0.1:80", "127.0.0.1:8081"], "in the place of [::]:80");
    node.set("[proxy]\nhttp = [\"127.0.0.1:8081\"]\n");
    node::kill_and_wait(node.daemon_pid(), "KILL");
    assert!(!refused(80), "who asks waits, as nobody knows better yet");
    site.ok(&["ps"]);
    assert!(refused(80) && !refused(8081));

    let launcher = node.launcher_pid();
    node.ok(["node", "stop"]);
    assert!(refused(8081), "nobody comes to serve it");
    assert!(node::is_alive(launcher), "its containers go on");
    site.ok(&["ps"]);
    wait_until("it is served again", || status_at(&node, 8081) == "200");
}

fn status_at(node: &Node, port: u16) -> String {
    let mut curl = node.inside("curl");
    curl.args(["-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: site.example.com"]);
    curl.arg(format!("http://127.0.0.1:{port}/"));
    Output::of(curl).stdout
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

#[test]
fn each_request_is_a_line_of_the_access_log_which_keeps_to_its_size() {
    let node = Node::with_settings("[proxy]\naccess_log = true\n[logs]\nmax_size = 4096\nmax_files = 2\n");
    node.busybox_image();
    let site = Project::new(&node, "site", SITE);
    site.up();
    let log = node.root().join("log/access.log");
    let lines = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    curl(&node, "site.example.com", "/v1/?a=b", &["-H", "X-Request-Id: from-me", "-A", "a \"tool\""]).succeeded();
    wait_until("the request is written", || !lines().is_empty());
    let line = &lines()[0];
    assert_eq!((&line["host"], &line["target"]), (&"site.example.com".into(), &"/v1/?a=b".into()), "{line}");
    assert_eq!((&line["status"], &line["route"]), (&200.into(), &"site/web/site".into()), "{line}");
    assert_eq!((&line["client"], &line["user_agent"]), (&"127.0.0.1".into(), &"a \"tool\"".into()), "{line}");
    assert!(line["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
    let aside = node.root().join("log/access.log.1");
    wait_until("it is put aside at its size", || {
        status_of(&node, "nobody.example.com", "/");
        aside.exists()
    });
    let sizes = [&log, &aside].map(|path| path.metadata().unwrap().len());
    assert!(sizes.iter().all(|size| *size <= 4096), "{sizes:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&log.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "addresses of people are in it");
}
