//! Encryption between services end to end: what is on the wire, who is refused, and what rotation and a lost daemon do.

mod node;
mod project;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node::{Node, Output};
use project::{Project, wait_until};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};

/// Two services that know nothing of TLS. `{mode}` is the called one's.
fn shop(mode: &str) -> String {
    format!(
        r#"
[service.web]
image = "box"
command = ["sleep", "infinity"]
stop_signal = "KILL"

[service.db]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo the secret of the shop > /www/index.html && httpd -p 80 -h /www && exec nc -ll -p 7000 -e cat"]
ports = ["18080:80"]
stop_signal = "KILL"
health = {{ type = "tcp", port = 7000, interval = "100ms" }}

[service.db.tls]
peer = "{mode}"
"#
    )
}

const SECRET: &str = "the secret of the shop";

/// Another app, of which nobody is let in.
const OTHER: &str = "[service.web]\nimage = \"box\"\ncommand = [\"sleep\", \"infinity\"]\nstop_signal = \"KILL\"\n";

/// What `db` is counted to have.
fn counted(node: &Node, what: &str) -> u64 {
    let metrics = node.json(["metrics"]);
    let services = metrics["peer_tls"]["services"].as_array().cloned().unwrap_or_default();
    let db = services.iter().find(|one| one["app"] == "shop" && one["service"] == "db");
    db.and_then(|db| db[what].as_u64()).unwrap_or_default()
}

/// A script that asks for the page at `host` and `port`.
fn asking(host: &str, port: u16) -> String {
    // busybox's wget, static, dies of its look for the service's port by name.
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port}")
}

/// What an instance is answered by `host` and `port`.
fn ask(project: &Project, instance: &str, host: &str, port: u16) -> String {
    project.coppice(&["exec", &format!("{}/{instance}", project.app), "sh", "-c", &asking(host, port)]).stdout
}

fn is_secret(answer: &str) -> bool {
    assert!(answer.is_empty() || answer.trim_end().ends_with(SECRET), "{answer}");
    !answer.is_empty()
}

/// Address of an instance on the bridge.
fn address(project: &Project, instance: &str) -> String {
    let text = project.shell(instance, "ip -4 -o address show eth0");
    let field = text.split_whitespace().skip_while(|word| *word != "inet").nth(1).expect("an address");
    field.split('/').next().unwrap().to_owned()
}

/// All that goes over any link of the node's own network, from its start on.
struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Capture {
    fn start(node: &Node) -> Self {
        let mut holder = node.inside("sleep").arg("infinity").spawn().unwrap();
        let path = format!("/proc/{}/ns/net", holder.id());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_until("it is in the node's network", || std::fs::read_link(&path).is_ok_and(|entered| entered != own));
        let network = std::fs::File::open(&path).unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        let (frames, stop) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::new(AtomicBool::new(false)));
        let (heard, stopping) = (frames.clone(), stop.clone());
        let (ready, opened) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind).unwrap();
            let flags = SocketFlags::CLOEXEC;
            let socket: OwnedFd =
                rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL)).unwrap();
            let look = Some(Duration::from_millis(50));
            rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, look).unwrap();
            ready.send(()).unwrap();
            let mut buffer = vec![0; 1 << 17];
            while !stopping.load(Ordering::Relaxed) {
                if let Ok((read, _)) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                    heard.lock().unwrap().push(buffer[..read].to_vec());
                }
            }
        });
        opened.recv().unwrap();
        Self { frames, stop, thread: Some(thread) }
    }

    /// What was sent over TCP to or from this port, or over all `others`.
    fn heard(&self, port: u16, others: bool) -> Vec<u8> {
        let of = |frame: &&Vec<u8>| {
            // Ethernet, then IPv4 of TCP.
            let ip =
                frame.get(14..).filter(|ip| ip.first().is_some_and(|first| first >> 4 == 4) && ip.get(9) == Some(&6));
            let Some(ip) = ip else { return false };
            let transport = usize::from(ip[0] & 15) * 4;
            let ports = ip.get(transport..transport + 4).unwrap_or(&[0; 4]);
            let port = port.to_be_bytes();
            (ports[..2] == port || ports[2..] == port) != others
        };
        self.frames.lock().unwrap().iter().filter(of).flatten().copied().collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was the test's
        }
    }
}

/// Where the inbound half listens.
const INBOUND: u16 = 15444;

#[test]
fn services_of_an_app_speak_tls_on_the_wire_and_know_nothing_of_it() {
    let node = Node::with_busybox();
    // A way out, with an address of its own, as machines have one.
    for line in ["link add up0 type veth peer name up1", "address add 192.0.2.1/24 dev up0", "link set up0 up"] {
        let mut ip = node.inside("ip");
        ip.args(line.split(' '));
        Output::of(ip).succeeded();
    }
    let app = Project::new(&node, "shop", &shop("require"));
    app.up();
    let capture = Capture::start(&node);
    assert!(is_secret(&ask(&app, "web-1", "db", 80)));
    let has = |heard: &[u8]| heard.windows(10).any(|window| window == b"the secret");
    wait_until("the connection of the halves is heard", || capture.heard(INBOUND, false).len() > 1000);
    wait_until("the plain ends are heard", || has(&capture.heard(INBOUND, true)));
    let between = capture.heard(INBOUND, false);
    assert!(!has(&between), "it is readable between the halves");
    // Records of a handshake and of data, of TLS 1.3 (RFC 8446, 5.1).
    for record in [[22, 3, 1], [23, 3, 3]] {
        assert!(between.windows(3).any(|window| window == record), "no {record:?}");
    }
    drop(capture);
    assert_eq!((counted(&node, "handshakes"), counted(&node, "refused")), (1, 0));
    let metrics = node.ok(["metrics"]);
    let row = metrics.lines().find(|line| line.starts_with("shop/db")).unwrap_or_else(|| panic!("{metrics}"));
    assert_eq!(row.split_whitespace().skip(2).take(4).collect::<Vec<_>>(), ["1", "0", "0", "0"], "{metrics}");
    // The same by its address, and over IPv6.
    assert!(is_secret(&ask(&app, "web-1", &address(&app, "db-1"), 80)));
    let six = app.shell("db-1", "ip -6 -o address show eth0 scope global");
    if let Some(six) = six.split_whitespace().skip_while(|word| *word != "inet6").nth(1) {
        assert!(is_secret(&ask(&app, "web-1", six.split('/').next().unwrap(), 80)));
        assert_eq!(counted(&node, "handshakes"), 3);
    }
    // No key lies open.
    let mut grep = node.inside("grep");
    grep.args(["-rlE", "PRIVATE KEY"]).arg(node.root());
    assert_eq!(Output::of(grep).stdout, "");
    assert!(node.root().join("certificates/authority/shop.sealed").exists());
    app.ok(&["down"]);
    assert!(!node.root().join("certificates/authority/shop.sealed").exists(), "its authority outlives it");
}

#[test]
fn who_is_not_of_the_app_is_refused_where_it_is_required_and_counted_where_it_warns() {
    let node = Node::with_busybox();
    let app = Project::new(&node, "shop", &shop("require"));
    let other = Project::new(&node, "other", OTHER);
    app.up();
    other.up();
    let db = address(&app, "db-1");
    let adhoc = || node.coppice(["run", "--rm", "box", "sh", "-c", &asking(&db, 80)]).stdout;
    let mut refused = 0;
    let on_host = || node.coppice(["run", "--rm", "--network", "host", "box", "sh", "-c", &asking(&db, 80)]).stdout;
    let asks: [(&str, &dyn Fn() -> String); 4] = [
        ("an ad-hoc container", &adhoc),
        ("one on the host's network", &on_host),
        ("another app's service", &|| ask(&other, "web-1", &db, 80)),
        ("another app's service, by the published port", &|| through_gateway(&other)),
    ];
    for (who, asks) in asks {
        assert!(!is_secret(&asks()), "{who}");
        refused += 1;
        assert_eq!(counted(&node, "refused"), refused, "{who}");
    }
    assert_eq!(node.http_get(18080), None, "the host's programs by the published port");
    assert_eq!(counted(&node, "refused"), refused + 1);
    assert!(is_secret(&ask(&app, "web-1", "db", 80)));

    // Only the mode changes: nothing is restarted.
    let pids = app.pids();
    app.write(&shop("warn"));
    let plan = app.ok(&["plan"]);
    assert!(
        plan.contains("~ traffic of db") && plan.contains("peer = require") && plan.contains("peer = warn"),
        "{plan}"
    );
    app.up();
    assert_eq!(app.pids(), pids);
    assert!(is_secret(&adhoc()));
    assert!(is_secret(&ask(&other, "web-1", &db, 80)));
    assert!(node.http_get(18080).is_some_and(|answer| is_secret(&answer)));
    assert_eq!(counted(&node, "warned"), 3);
    let log = std::fs::read_to_string(node.see(&node.root().join("log/node.log"))).unwrap();
    assert!(log.contains("tls.peer = warn: let through") && log.contains("tls.peer = require: refused"), "{log}");

    // And back to plain, as it was before.
    app.write(&shop("off"));
    app.up();
    assert!(is_secret(&adhoc()));
    assert_eq!(app.pids(), pids);
    app.write(&shop("require"));
    app.up();
    assert!(!is_secret(&adhoc()));
}

/// The published port as a container finds it: at the bridge's own address.
fn through_gateway(project: &Project) -> String {
    let route = project.shell("web-1", "ip route");
    let gateway = route.split_whitespace().skip_while(|word| *word != "via").nth(1).expect("a default route");
    ask(project, "web-1", gateway, 18080)
}

#[test]
fn a_connection_from_before_goes_on_when_its_service_is_guarded_and_an_instance_that_comes_later_is_guarded_too() {
    let node = Node::with_busybox();
    let app = Project::new(&node, "shop", &shop("off"));
    app.up();
    app.shell("web-1", "(while true; do echo tick; sleep 0.1; done) | nc db 7000 > /tmp/echo 2>&1 & exit 0");
    let ticks = || app.shell("web-1", "wc -l < /tmp/echo").trim().parse::<u64>().unwrap();
    wait_until("it is echoed", || ticks() > 3);
    let guarded = shop("require").replace("[service.db]\n", "[service.db]\nreplicas = 2\n");
    app.write(&guarded);
    app.up();
    let now = ticks();
    wait_until("the connection from before goes on", || ticks() > now + 3);
    for instance in ["db-1", "db-2"] {
        let db = address(&app, instance);
        assert!(is_secret(&ask(&app, "web-1", &db, 80)), "{instance}");
        assert!(!is_secret(&node.coppice(["run", "--rm", "box", "sh", "-c", &asking(&db, 80)]).stdout), "{instance}");
    }
    assert_eq!((counted(&node, "handshakes"), counted(&node, "refused"), counted(&node, "connections")), (2, 2, 0));
}

#[test]
fn certificates_are_rotated_while_a_connection_is_open_and_it_goes_on() {
    let node = Node::with_settings("[peer]\ncertificate_secs = 6\n");
    node.busybox_image();
    let app = Project::new(&node, "shop", &shop("require"));
    app.up();
    app.shell("web-1", "(while true; do echo tick; sleep 0.1; done) | nc db 7000 > /tmp/echo 2>&1 & exit 0");
    let ticks = || app.shell("web-1", "wc -l < /tmp/echo").trim().parse::<u64>().unwrap();
    wait_until("it is echoed", || ticks() > 3);
    let first = counted(&node, "certificate_made_at");
    for _ in 0..2 {
        let before = counted(&node, "certificate_made_at");
        wait_until("the certificate is made anew", || {
            assert!(is_secret(&ask(&app, "web-1", "db", 80)));
            counted(&node, "certificate_made_at") > before
        });
        let now = ticks();
        wait_until("the open connection goes on", || ticks() > now + 3);
    }
    // So is the root that signs them.
    let before = counted(&node, "certificate_made_at");
    node.ok(["cert", "rotate", "shop"]);
    assert!(is_secret(&ask(&app, "web-1", "db", 80)));
    assert!(counted(&node, "certificate_made_at") > before);
    let now = ticks();
    wait_until("the open connection goes on", || ticks() > now + 3);
    node.coppice(["cert", "rotate", "none"]).ended_with(1).complained("no app");

    assert!(counted(&node, "certificate_made_at") > first + 6000, "the first one has ended meanwhile");
    assert_eq!(counted(&node, "connections"), 1);
    assert_eq!(counted(&node, "handshake_failures") + counted(&node, "rotation_failures"), 0);
}

#[test]
fn without_a_daemon_a_guarded_service_is_closed_and_the_next_one_opens_it_again() {
    let node = Node::with_busybox();
    let app = Project::new(&node, "shop", &shop("require"));
    app.up();
    let (web, db) = (app.pid("web-1"), address(&app, "db-1"));
    // As the instance does it, without anybody's help.
    let from_web = || {
        let mut curl = node.inside("nsenter");
        curl.args(["-t", &web.to_string(), "-n", "curl", "-sS", "--noproxy", "*", "--max-time", "3"]);
        curl.arg(format!("http://{db}/"));
        Output::of(curl)
    };
    assert!(is_secret(&from_web().succeeded().stdout));
    node::kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(from_web().ended_with(7).stdout, "", "refused: nobody listens");
    app.ok(&["ps"]);
    wait_until("the next daemon's halves take it", || from_web().code == 0);
    assert!(is_secret(&from_web().succeeded().stdout));
    assert!(!is_secret(&node.coppice(["run", "--rm", "box", "sh", "-c", &asking(&db, 80)]).stdout));

    // Rules that somebody flushes are back, and its own when an instance is new.
    let mut flush = node.inside("nft");
    flush.args(["flush", "ruleset"]);
    Output::of(flush).succeeded();
    wait_until("the rules are back", || {
        let mut list = node.inside("nft");
        list.args(["list", "table", "inet", &format!("coppice-{}-peer", key(&node))]);
        Output::of(list).code == 0
    });
    assert!(is_secret(&from_web().succeeded().stdout));
    let handshakes = counted(&node, "handshakes");
    app.ok(&["restart", "db"]);
    wait_until("its next run is reached", || from_web().code == 0);
    assert!(counted(&node, "handshakes") > handshakes, "it was reached around the halves");

    node.ok(["node", "stop", "--all"]);
    let mut list = node.inside("nft");
    list.args(["list", "tables"]);
    assert_eq!(Output::of(list).succeeded().stdout, "", "something of it is left");
}

#[test]
fn a_firewall_that_keeps_callers_from_the_halves_is_told_by_the_node_with_what_opens_it() {
    let node = Node::with_busybox();
    let firewall = node.file(
        "firewall",
        "table inet own {\n chain mine {\n type filter hook input priority 0; policy drop;\n \
         ct state established,related accept\n iifname lo accept\n }\n}\n",
    );
    let mut nft = node.inside("nft");
    nft.arg("-f").arg(firewall);
    Output::of(nft).succeeded();
    let app = Project::new(&node, "shop", &shop("require"));
    app.up();
    let db = address(&app, "db-1");
    assert!(!is_secret(&ask(&app, "web-1", &db, 80)));
    let words = app.node_status().words;
    let word = words.iter().find(|word| word.contains("tls.peer")).unwrap_or_else(|| panic!("{words:?}"));
    let mut open = node.inside("sh");
    open.arg("-c").arg(word.split('`').nth(1).expect("a command"));
    Output::of(open).succeeded();
    assert!(is_secret(&ask(&app, "web-1", &db, 80)));
}

#[test]
fn an_authority_that_cannot_be_read_closes_its_services_and_says_how_to_open_them() {
    let node = Node::with_busybox();
    let app = Project::new(&node, "shop", &shop("require"));
    app.up();
    assert!(is_secret(&ask(&app, "web-1", "db", 80)));
    let file = node.root().join("certificates/authority/shop.sealed");
    std::fs::write(&file, "not what was sealed").unwrap();
    node::kill_and_wait(node.daemon_pid(), "KILL");
    assert!(!is_secret(&ask(&app, "web-1", "db", 80)));
    app.coppice(&["up", "--timeout", "20s"]).ended_with(1).complained("remove the file to begin a new one");
    std::fs::remove_file(&file).unwrap();
    app.up();
    wait_until("a new one opens it", || is_secret(&ask(&app, "web-1", "db", 80)));
}

fn key(node: &Node) -> String {
    node.cgroup().trim_start_matches("coppice-").to_owned()
}

#[test]
fn a_service_that_cannot_be_guarded_is_refused_with_what_to_do() {
    let node = Node::with_busybox();
    let manifest = shop("require").replace("ports = [\"18080:80\"]", "network = \"host\"");
    let app = Project::new(&node, "shop", &manifest);
    app.coppice(&["up"]).ended_with(2).complained("needs network = \"bridge\"");
    app.write(&shop("require").replace("18080:80", "18080:80/udp"));
    app.coppice(&["up"]).ended_with(2).complained("do not publish 80/udp");
    assert!(app.try_status().is_none());
}
