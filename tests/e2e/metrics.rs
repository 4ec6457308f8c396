//! What the node counts, as `coppice metrics` and a Prometheus read it: exactly what was asked of it.

mod node;
mod project;

use node::{Node, Output};
use project::{Project, wait_until};

/// A web service with a page of four bytes, and a program that fails.
const SITE: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www/cgi-bin && echo -n page > /www/index.html && printf '#!/bin/sh\nprintf \"HTTP/1.0 500 Broken\\r\\nContent-Type: text/plain\\r\\n\\r\\nbroken\"' > /www/cgi-bin/fail && chmod +x /www/cgi-bin/fail && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.http_routes.site]
host = "site.example.com"

[service.web.http_routes.other]
host = "unasked.example.com"
"#;

/// Status of one request through the proxy, from the node's network.
fn ask(node: &Node, host: &str, path: &str, args: &[&str]) -> String {
    let mut command = node.inside("curl");
    command.args(["-sS", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Host: {host}")]);
    command.args(args).arg(format!("http://127.0.0.1{path}"));
    Output::of(command).succeeded().stdout
}

/// `curl ARGS`, with the answer's head.
fn fetch(node: &Node, args: &[&str]) -> String {
    let mut command = node.inside("curl");
    command.args(["-sS", "-i", "--noproxy", "*", "--max-time", "5"]).args(args);
    Output::of(command).succeeded().stdout
}

/// The value of one sample, as it is written.
fn sample<'t>(text: &'t str, of: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(' '))
}

#[test]
fn every_request_is_counted_once_where_it_belongs_and_read_the_same_everywhere() {
    let node = Node::with_settings("[metrics]\nlisten = \"127.0.0.1:9180\"\n");
    node.busybox_image();
    let site = Project::new(&node, "site", SITE);
    let idle = site.coppice(&["metrics"]).succeeded().stdout;
    assert!(idle.starts_with("no app has routes yet"), "{idle}");
    site.up();
    for (count, host, path, args, status) in [
        (5, "site.example.com", "/", &[][..], "200"),
        (2, "site.example.com", "/missing", &[][..], "404"),
        (3, "site.example.com", "/cgi-bin/fail", &["--data", "0123456789"][..], "500"),
        (4, "elsewhere.example.com", "/", &[][..], "404"),
        (1, "site.example.com", "/%2e%2e/etc/passwd", &[][..], "400"),
    ] {
        for _ in 0..count {
            assert_eq!(ask(&node, host, path, args), status, "{path} of {host}");
        }
    }
    // A request is counted when its answer has ended, which the client may learn first.
    let classes = |json: &serde_json::Value, route: usize| json["routes"][route]["classes"].clone();
    let expected = serde_json::json!([0, 5, 0, 2, 3]);
    wait_until("all are counted", || classes(&node.json(["metrics"]), 1) == expected);

    let json = node.json(["metrics", "site/web"]);
    assert_eq!((&json["routes"][0]["route"], classes(&json, 0)), (&"other".into(), serde_json::json!([0, 0, 0, 0, 0])));
    let (route, backend) = (&json["routes"][1], &json["backends"][0]);
    assert_eq!((&route["app"], &route["service"], &route["route"]), (&"site".into(), &"web".into(), &"site".into()));
    assert_eq!((&route["duration"]["count"], &route["retries"]), (&10.into(), &0.into()));
    assert_eq!(route["received_bytes"], 30);
    assert!(route["sent_bytes"].as_u64().is_some_and(|sent| sent >= 5 * 4 + 3 * 6), "{route}");
    assert_eq!(
        (&backend["instance"], &backend["requests"], &backend["failures"]),
        (&"web-1".into(), &10.into(), &3.into())
    );
    assert_eq!(
        (&backend["ready"], &backend["in_flight"], &backend["duration"]["count"]),
        (&true.into(), &0.into(), &10.into())
    );
    assert_eq!((&json["proxy"]["unrouted"], &json["proxy"]["bad_requests"]), (&4.into(), &1.into()));
    let web = json["containers"].as_array().unwrap().iter().find(|one| one["workload"] == "web").unwrap();
    assert_eq!((&web["state"], &web["health"], &web["restarts"]), (&"running".into(), &"healthy".into(), &0.into()));
    let name = web["name"].as_str().unwrap();

    // The same in the text, from the command line, the socket and over TCP.
    let printed = site.ok(&["metrics", "--prometheus"]);
    let socket = site.node_status().socket;
    let by_socket = fetch(&node, &["--unix-socket", &socket, "http://coppice/metrics"]);
    let by_tcp = fetch(&node, &["http://127.0.0.1:9180/metrics"]);
    for answer in [&by_socket, &by_tcp] {
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    }
    let of_route = "app=\"site\",service=\"web\",route=\"site\"";
    let of_backend = "app=\"site\",service=\"web\",backend=\"web-1\"";
    for text in [&printed, &by_socket, &by_tcp] {
        for (of, value) in [
            (format!("coppice_route_requests_total{{{of_route},class=\"2xx\"}}"), "5"),
            (format!("coppice_route_requests_total{{{of_route},class=\"4xx\"}}"), "2"),
            (format!("coppice_route_requests_total{{{of_route},class=\"5xx\"}}"), "3"),
            (format!("coppice_route_request_duration_seconds_bucket{{{of_route},le=\"+Inf\"}}"), "10"),
            (format!("coppice_route_request_duration_seconds_count{{{of_route}}}"), "10"),
            (format!("coppice_route_received_bytes_total{{{of_route}}}"), "30"),
            (format!("coppice_backend_requests_total{{{of_backend}}}"), "10"),
            (format!("coppice_backend_failures_total{{{of_backend}}}"), "3"),
            (format!("coppice_backend_ready{{{of_backend}}}"), "1"),
            // Three failures in a row opened it.
            (format!("coppice_backend_breaker_state{{{of_backend},state=\"open\"}}"), "1"),
            (format!("coppice_backend_breaker_state{{{of_backend},state=\"closed\"}}"), "0"),
            ("coppice_proxy_unrouted_requests_total".to_owned(), "4"),
            ("coppice_proxy_bad_requests_total".to_owned(), "1"),
            ("coppice_containers{state=\"running\"}".to_owned(), "1"),
            (format!("coppice_container_restarts_total{{app=\"site\",service=\"web\",container=\"{name}\"}}"), "0"),
        ] {
            assert_eq!(sample(text, &of), Some(value), "{of} in\n{text}");
        }
    }
    // The table says it to people; a service that is not there is missed by name.
    let table = site.ok(&["metrics", "web"]);
    let line = table.lines().find(|line| line.starts_with("site/web site")).unwrap_or_default();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[2..5], ["10", "0.0", "30.0%"], "{table}");
    assert!(table.contains("4 requests without a route, 1 malformed"), "{table}");
    site.coppice(&["metrics", "wbe"]).ended_with(1).complained("there is no service wbe");
    // Nothing else of the API is there over TCP.
    assert!(fetch(&node, &["http://127.0.0.1:9180/v1/apps"]).starts_with("HTTP/1.1 404"));
}

#[test]
fn a_restart_and_a_question_for_a_name_are_counted_and_no_port_is_open_unless_asked_for() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    site.up();
    node::kill_and_wait(site.pid("web-1"), "KILL");
    site.wait_child("web-1", "is back", |web| web.ready && web.restarts == 1);
    site.shell("web-1", "nslookup web.site");
    let json = node.json(["metrics"]);
    let web = json["containers"].as_array().unwrap().iter().find(|one| one["workload"] == "web").unwrap();
    assert_eq!(web["restarts"], 1, "{web}");
    assert!(json["dns"]["answered"].as_u64().is_some_and(|count| count > 0), "{}", json["dns"]);
    let text = site.ok(&["metrics", "--prometheus"]);
    let answered = sample(&text, "coppice_dns_answered_total").and_then(|count| count.parse::<u64>().ok());
    assert!(answered.is_some_and(|count| count > 0), "{text}");
    let mut ss = node.inside("ss");
    ss.arg("-Hltn");
    assert!(!Output::of(ss).succeeded().stdout.contains(":9180"), "a port is open that nobody asked for");
}

#[test]
fn a_taken_port_keeps_the_node_from_nothing_and_is_had_once_it_is_free() {
    let node = Node::with_settings("[metrics]\nlisten = \"127.0.0.1:9180\"\n");
    let mut taker = node.inside("busybox");
    let mut taker = taker.args(["httpd", "-f", "-p", "127.0.0.1:9180"]).spawn().unwrap();
    wait_until("the port is taken", || {
        let mut ss = node.inside("ss");
        ss.arg("-Hltn");
        Output::of(ss).stdout.contains(":9180")
    });
    node.ok(["ps"]);
    taker.kill().unwrap();
    taker.wait().unwrap();
    wait_until("metrics are served", || node.http("http://127.0.0.1:9180/metrics").is_some());
}

const CLIENT: &str = r#"
[service.client]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

/// Connections to the virtual address of `site/web`, bytes to it and from it; 0 where nobody asked, or nothing counts yet.
fn to_the_address(node: &Node) -> [u64; 3] {
    let json = node.json(["metrics"]);
    let of = json["services"].as_array().unwrap().iter().find(|one| one["app"] == "site" && one["service"] == "web");
    of.map_or([0; 3], |one| ["connections", "received_bytes", "sent_bytes"].map(|name| one[name].as_u64().unwrap()))
}

#[test]
fn what_goes_to_a_services_address_is_counted_for_it_and_through_its_daemons_death() {
    let node = Node::with_fast_path();
    let site = Project::new(&node, "site", &format!("{SITE}{CLIENT}"));
    site.up();
    let get = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 web 80 | grep -c page; true";
    let ask = || assert_eq!(site.shell("client-1", get), "1\n");
    // The kernel takes a while to look at the programs.
    wait_until("the programs count", || {
        ask();
        to_the_address(&node)[0] > 0
    });
    let before = to_the_address(&node);
    (0..3).for_each(|_| ask());
    // Each request has 18 bytes, and each answer some more, besides the heads of its packets.
    let after = to_the_address(&node);
    assert_eq!(after[0] - before[0], 3, "{before:?} {after:?}");
    assert!(after[1] - before[1] > 3 * 18 && after[2] - before[2] > 3 * 18, "{before:?} {after:?}");

    let text = node.ok(["metrics", "--prometheus"]);
    let of = "coppice_service_connections_total{app=\"site\",service=\"web\"}";
    assert_eq!(sample(&text, of), Some(after[0].to_string().as_str()), "{text}");
    let table = node.ok(["metrics", "site/web"]);
    let row = table.lines().skip_while(|line| !line.starts_with("SERVICE")).nth(1).unwrap_or_default();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert!(cells.first() == Some(&"site/web") && cells.get(2) == Some(&after[0].to_string().as_str()), "{table}");

    // The programs count on while there is no daemon, and the next one reads what they counted.
    node::kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("the next daemon counts", || to_the_address(&node)[0] >= after[0]);
    ask();
    assert_eq!(to_the_address(&node)[0], after[0] + 1);
}

/// Writes and reads 32 × 64 KiB at the disk itself in one of two containers; 0 where everything is in memory.
const DISK: &str = r#"
[service.busy]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
volumes = ["data:/data"]

[service.idle]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

/// Requests and bytes, read and written, of a service's container.
fn storage(node: &Node, service: &str) -> Option<[u64; 4]> {
    let json = node.json(["metrics"]);
    let one = json["containers"].as_array().unwrap().iter().find(|one| one["workload"] == service).unwrap();
    let count = |name: &str| one["storage"][name].as_u64();
    Some([count("reads")?, count("read_bytes")?, count("writes")?, count("write_bytes")?])
}

#[test]
fn requests_to_disks_are_counted_for_the_container_that_makes_them_and_through_its_daemons_death() {
    let node = Node::with_busybox();
    let app = Project::new(&node, "disk", DISK);
    app.up();
    let moves = |flag: &str, from: &str, to: &str| {
        format!("dd if={from} of={to} bs=64k count=32 {flag}=direct 2>/dev/null && echo moved")
    };
    let wrote = moves("oflag", "/dev/zero", "/data/file");
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        eprintln!("skipped: this kernel has no type information");
        return;
    }
    wait_until("the program counts", || storage(&node, "idle").is_some());
    if app.shell("busy-1", &format!("{wrote}; true")).is_empty() {
        eprintln!("skipped: there is no disk here");
        return;
    }
    let before = storage(&node, "busy").unwrap();
    assert!(before[2] >= 32 && (32 << 16..40 << 16).contains(&before[3]), "{before:?}");
    node::kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("the next daemon counts", || storage(&node, "idle").is_some());
    app.shell("busy-1", &moves("iflag", "/data/file", "/dev/null"));
    let after = storage(&node, "busy").unwrap();
    let read = [after[0] - before[0], after[1] - before[1]];
    assert!(read[0] >= 32 && (32 << 16..40 << 16).contains(&read[1]), "{before:?} {after:?}");
    assert!(after[3] < 40 << 16, "{after:?}");
    let idle = storage(&node, "idle").unwrap();
    assert!(idle[3] < 1 << 16, "another's are not its own: {idle:?}");

    let text = node.ok(["metrics", "--prometheus"]);
    let of = |name: &str, operation: &str| {
        let start = format!("coppice_container_storage_{name}_total{{app=\"disk\",service=\"busy\",");
        let end = format!("operation=\"{operation}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start)?.split_once(&end));
        value.unwrap_or_else(|| panic!("no {name} of {operation} in\n{text}")).1.parse::<f64>().unwrap()
    };
    assert!(of("bytes", "write") >= (32 << 16) as f64 && of("operations", "read") >= 32.0, "{text}");
    assert!(of("seconds", "write") > 0.0, "{text}");
    let table = node.ok(["metrics", "disk/busy"]);
    assert!(table.starts_with("CONTAINER") && table.lines().count() == 2, "{table}");

    // Without BPF, the control groups' own counts under the same names, where they have any.
    node.set("[network]\nbpf = false\n");
    node::kill_and_wait(node.daemon_pid(), "KILL");
    app.shell("busy-1", &wrote);
    let pinned = || node.root().join("run/storage").exists();
    wait_until("the program is taken off", || node.coppice(["status"]).code == 0 && !pinned());
    let text = node.ok(["metrics", "--prometheus"]);
    assert!(!text.contains("coppice_container_storage_seconds_total"), "cgroups do not count time: {text}");
    match storage(&node, "busy") {
        Some(counted) => assert!(counted[3] >= 32 << 16, "{counted:?}"),
        None => assert!(!text.contains("coppice_container_storage"), "{text}"),
    }
}
