//! Certificates end to end: brought by the operator or ordered from an authority (Pebble), shown to curl by the proxy.

mod node;
mod project;

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use node::{Node, Output};
use project::{Project, wait_until};

/// A web service behind the proxy. `{tls}` is in its table.
const SITE: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo here > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.http_routes.site]
host = ["site.example.com", "plain.example.com"]
"#;

/// curl's exit codes.
const HANDSHAKE_FAILED: i32 = 35;
const NOT_TRUSTED: i32 = 60;

/// `curl ARGS https://HOST/` of this machine, from the node's network.
fn https(node: &Node, host: &str, root: &str, args: &[&str]) -> Output {
    let mut command = node.inside("curl");
    command.args(["-sS", "--max-time", "10", "--noproxy", "*", "--cacert", root]).args(args);
    command.arg("--resolve").arg(format!("{host}:443:127.0.0.1")).arg(format!("https://{host}/"));
    Output::of(command)
}

/// Status and Location of `http://HOST/PATH`.
fn http(node: &Node, host: &str, path: &str) -> String {
    let mut command = node.inside("curl");
    command.args(["-sS", "--max-time", "10", "--noproxy", "*", "-o", "/dev/null"]);
    command.args(["-w", "%{http_code} %{redirect_url}", "-H", &format!("Host: {host}")]);
    command.arg(format!("http://127.0.0.1{path}"));
    Output::of(command).succeeded().stdout
}

/// An authority of the test's own.
struct Authority(rcgen::Issuer<'static, rcgen::KeyPair>);

impl Authority {
    /// Writes its certificate to `file`.
    fn new(node: &Node, file: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        // Of its own: a leaf with its authority's name would pass for signed by itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {file}"));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        node.file(file, params.self_signed(&key).unwrap().pem());
        Self(rcgen::Issuer::new(params, key))
    }

    /// Writes a certificate for `names` to `STEM.pem` and its key to `STEM.key`.
    fn sign(&self, node: &Node, stem: &str, names: &[&str]) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        node.file(&format!("{stem}.pem"), signed.pem());
        node.file(&format!("{stem}.key"), key.serialize_pem());
    }
}

#[test]
fn an_installed_certificate_is_shown_for_its_name_and_replaced_without_a_restart() {
    let node = Node::with_busybox();
    let first = Authority::new(&node, "first.pem");
    first.sign(&node, "a", &["site.example.com"]);
    let site = Project::new(&node, "site", SITE);
    site.up();
    assert_eq!(site.node_status().proxy, ["[::]:80"], "nobody asked for HTTPS");
    assert_eq!(node.json(["cert", "list"]), serde_json::json!([]));
    assert!(!node.root().join("keys").exists(), "no certificate, no key");
    let pids = site.pids();

    node.ok(["cert", "install", "--cert", "a.pem", "--key", "a.key"]);
    let listed = node.json(["cert", "list"]);
    let listed = &listed[0];
    assert_eq!((listed["domain"].as_str(), listed["source"].as_str()), (Some("site.example.com"), Some("installed")));
    assert!(listed["not_after"].as_u64() > listed["created_at"].as_u64(), "{listed}");
    assert_eq!(listed["managed"], false);
    for absent in ["challenge", "provider", "directory_url"] {
        assert!(listed[absent].is_null() && listed.get(absent).is_some(), "{listed}");
    }
    let mode = std::fs::metadata(node.root().join("keys/certificates.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read_to_string(node.dir().join("a.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let mut grep = node.inside("grep");
    grep.args(["-rlF", secret]).arg(node.root().join("certificates")).arg(node.root().join("state"));
    assert_eq!(Output::of(grep).stdout, "", "the key lies open");

    site.write(&format!("{SITE}\n[service.web.tls]\ndomain = \"site.example.com\"\n"));
    site.up();
    assert_eq!(site.node_status().proxy, ["[::]:80", "[::]:443"]);
    assert_eq!(site.pids(), pids, "the service was restarted for its certificate");
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let answer = https(&node, "site.example.com", "first.pem", &[flag, "-w", "%{http_version}"]).succeeded().stdout;
        assert_eq!(answer, format!("here\n{version}"));
    }
    assert_eq!(http(&node, "site.example.com", "/a?b=c"), "308 https://site.example.com/a?b=c");
    assert_eq!(http(&node, "plain.example.com", "/"), "200 ", "a name without a certificate stays as it was");
    https(&node, "other.example.com", "first.pem", &[]).ended_with(HANDSHAKE_FAILED);
    https(&node, "plain.example.com", "first.pem", &[]).ended_with(HANDSHAKE_FAILED);

    // Another authority's, in its place; and in place after the daemon was killed.
    let second = Authority::new(&node, "second.pem");
    second.sign(&node, "b", &["site.example.com"]);
    let daemon = node.daemon_pid();
    node.ok(["cert", "install", "--cert", "b.pem", "--key", "b.key", "site.example.com"]);
    assert_eq!(https(&node, "site.example.com", "second.pem", &[]).succeeded().stdout, "here\n");
    https(&node, "site.example.com", "first.pem", &[]).ended_with(NOT_TRUSTED);
    assert_eq!((node.daemon_pid(), site.pids()), (daemon, pids.clone()));
    node::kill_and_wait(daemon, "KILL");
    site.ok(&["ps"]);
    wait_until("the next daemon shows it", || https(&node, "site.example.com", "second.pem", &[]).code == 0);
    assert_eq!(site.pids(), pids);

    node.ok(["cert", "rm", "site.example.com"]);
    https(&node, "site.example.com", "second.pem", &[]).ended_with(HANDSHAKE_FAILED);
    node.coppice(["cert", "rm", "site.example.com"]).ended_with(1).complained("no certificate for site.example.com");
}

#[test]
fn what_no_client_would_take_is_refused_with_what_to_do_instead() {
    let node = Node::with_busybox();
    let authority = Authority::new(&node, "root.pem");
    authority.sign(&node, "a", &["a.example.com"]);
    authority.sign(&node, "b", &["b.example.com"]);
    let install = |cert: &str, key: &str| node.coppice(["cert", "install", "--cert", cert, "--key", key]);
    install("a.pem", "b.key").ended_with(2).complained("is not the one of the certificate for a.example.com");
    install("a.key", "a.key").ended_with(2).complained("give the full chain");
    install("root.pem", "a.key").ended_with(2).complained("put the leaf first");
    install("none.pem", "a.key").ended_with(2).complained("cannot read none.pem");
    node.coppice(["cert", "install", "--cert", "a.pem", "--key", "a.key", "c.example.com"])
        .ended_with(2)
        .complained("for a.example.com, not for c.example.com");
    let provision = |args: &[&str]| node.coppice([&["cert", "provision"], args].concat());
    provision(&["x.example.com"]).ended_with(2).complained("--email");
    provision(&["x.example.com", "--email", "nobody"]).ended_with(2).complained("not an email address");
    provision(&["x..com", "--email", "a@b.example"]).ended_with(2).complained("is not a DNS name");
    provision(&["x.example.com", "--email", "a@b.example", "--directory-url", "http://127.0.0.1/"])
        .ended_with(2)
        .complained("starts with https://");
    provision(&["x.example.com", "--email", "a@b.example", "--challenge", "dns-01"])
        .ended_with(2)
        .complained("--dns-provider");
    node.coppice(["cert", "renew", "x.example.com"]).ended_with(1).complained("coppice cert provision");
    assert_eq!(node.json(["cert", "list"]), serde_json::json!([]));

    let site = Project::new(&node, "site", &format!("{SITE}\n[service.web.tls]\ndomain = \"site.example.com\"\n"));
    let mut taker = node.inside("busybox");
    let mut taker = taker.args(["httpd", "-f", "-p", "443"]).spawn().unwrap();
    wait_until("the port is taken", || {
        let mut ss = node.inside("ss");
        ss.arg("-ltn");
        Output::of(ss).stdout.contains(":443 ")
    });
    site.coppice(&["up"]).ended_with(1).complained("cannot listen on [::]:443").complained("`https`");
    assert!(site.try_status().is_none(), "something of it is there");
    taker.kill().unwrap();
    taker.wait().unwrap();
    site.up();
    assert_eq!(site.node_status().proxy, ["[::]:80", "[::]:443"]);
}

/// A real authority and its DNS server, in the node's network: every name leads to the node.
struct Pebble(Vec<Child>);

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const DIRECTORY: &str = "https://127.0.0.1:14000/dir";

impl Pebble {
    /// Also writes the root that it signs with to `pebble.pem`, and tells the node to trust its web server.
    fn start(node: &Node) -> Self {
        Self::with(node, "", 365 * 24 * 3600)
    }

    /// `settings`: more of the node's certificates; `validity`: of what it signs, in seconds.
    fn with(node: &Node, settings: &str, validity: u64) -> Self {
        let loopback = Ipv4Addr::LOCALHOST.to_string();
        Authority::new(node, "web-root.pem").sign(node, "web", &[&loopback]);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
            "certificate": node.dir().join("web.pem"), "privateKey": node.dir().join("web.key"),
            "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": validity,
        }});
        node.file("pebble.json", config.to_string());
        node.set(&format!("[certificates]\nroots = [{:?}]\n{settings}", node.dir().join("web-root.pem")));
        let mut dns = node.inside("pebble-challtestsrv");
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        dns.args(["-defaultIPv4", "127.0.0.1", "-dns01", "127.0.0.1:53", "-management", "127.0.0.1:8055"]);
        let mut pebble = node.inside("pebble");
        pebble.args(["-dnsserver", "127.0.0.1:53", "-config", "pebble.json"]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0").env("PEBBLE_WFE_NONCEREJECT", "0");
        let start = |mut command: std::process::Command| {
            let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().expect("pebble is installed (apt-get install pebble)")
        };
        let started = Self(vec![start(dns), start(pebble)]);
        wait_until("Pebble says its root", || {
            let mut command = node.inside("curl");
            command.args(["-sS", "--noproxy", "*", "--cacert", "web-root.pem", "-o", "pebble.pem"]);
            command.arg("https://127.0.0.1:15000/roots/0");
            Output::of(command).code == 0
        });
        started
    }
}

#[test]
fn a_certificate_is_ordered_at_up_through_the_real_port_80_renewed_and_ordered_by_hand() {
    let node = Node::new();
    let _pebble = Pebble::start(&node);
    node.busybox_image();
    let tls = format!(
        "\n[service.web.tls]\ndomain = \"site.example.com\"\n\
         [service.web.tls.acme]\nemail = \"you@example.com\"\ndirectory_url = \"{DIRECTORY}\"\n"
    );
    let site = Project::new(&node, "site", &format!("{SITE}{tls}"));
    let up = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    assert!(up.stderr.contains("waiting for the certificates of site.example.com") && !up.stderr.contains("warning"));
    // It was waited for.
    assert_eq!(https(&node, "site.example.com", "pebble.pem", &["--http2"]).succeeded().stdout, "here\n");
    assert_eq!(http(&node, "site.example.com", "/"), "308 https://site.example.com/");
    let record = |domain: &str| {
        let list = node.json(["cert", "list"]);
        list.as_array().unwrap().iter().find(|one| one["domain"] == domain).cloned().expect("it is listed")
    };
    let ordered = record("site.example.com");
    let said = ["source", "challenge", "directory_url"].map(|field| ordered[field].as_str().unwrap().to_owned());
    assert_eq!((said, &ordered["managed"]), (["acme", "http-01", DIRECTORY].map(str::to_owned), &true.into()));

    node.ok(["cert", "renew", "site.example.com"]);
    let renewed = record("site.example.com");
    assert_ne!(renewed["fingerprint"], ordered["fingerprint"]);
    assert_eq!(https(&node, "site.example.com", "pebble.pem", &[]).succeeded().stdout, "here\n");
    node.coppice(["cert", "rm", "site.example.com"]).ended_with(1).complained("tls.domain");

    // By hand, by both challenges that need this node's ports.
    let by_hand = ["--email", "you@example.com", "--directory-url", DIRECTORY];
    node.ok([&["cert", "provision", "plain.example.com"][..], &by_hand].concat());
    assert_eq!(https(&node, "plain.example.com", "pebble.pem", &[]).succeeded().stdout, "here\n");
    node.ok([&["cert", "provision", "alpn.example.com", "--challenge", "tls-alpn-01"][..], &by_hand].concat());
    assert_eq!(record("alpn.example.com")["challenge"], "tls-alpn-01");
    node.coppice([&["cert", "provision", "*.example.com"][..], &by_hand].concat()).ended_with(2).complained("dns-01");

    node::kill_and_wait(node.daemon_pid(), "KILL");
    site.ok(&["ps"]);
    wait_until("the next daemon shows it", || https(&node, "site.example.com", "pebble.pem", &[]).code == 0);
    assert_eq!(record("site.example.com")["fingerprint"], renewed["fingerprint"], "ordered again without need");
    assert_eq!(record("plain.example.com")["managed"], true);
    site.ok(&["down"]);
    assert_eq!(record("site.example.com")["managed"], false, "it is renewed for nobody");
}

/// `[service.web.tls]` with this `domain`, ordered from Pebble; `more` is in its `acme` table.
fn tls(domain: &str, more: &str) -> String {
    format!(
        "\n[service.web.tls]\ndomain = {domain}\n\
         [service.web.tls.acme]\nemail = \"you@example.com\"\ndirectory_url = \"{DIRECTORY}\"\n{more}\n"
    )
}

/// Domains that have a certificate.
fn domains(node: &Node) -> Vec<String> {
    let list = node.json(["cert", "list"]);
    list.as_array().unwrap().iter().map(|one| one["domain"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn up_says_in_the_authoritys_words_why_there_is_no_certificate_and_succeeds_all_the_same() {
    let node = Node::new();
    let _pebble = Pebble::start(&node);
    node.busybox_image();
    // The name leads elsewhere.
    let mut lead = node.inside("curl");
    lead.args(["-sS", "-d", r#"{"host":"site.example.com.","addresses":["192.0.2.1"]}"#]);
    lead.arg("http://127.0.0.1:8055/add-a");
    Output::of(lead).succeeded();
    let site = Project::new(&node, "site", &format!("{SITE}{}", tls("\"site.example.com\"", "")));
    let up = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    let said = up.stderr.lines().find(|line| line.starts_with("warning:")).unwrap_or_else(|| panic!("{}", up.stderr));
    for part in ["site.example.com has no certificate yet", "192.0.2.1", "coppice cert renew site.example.com"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    // Nobody brings the other one's.
    site.write(&format!("{SITE}\n[service.web.tls]\ndomain = \"plain.example.com\"\n"));
    let up = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    assert!(
        up.stderr.contains("warning: plain.example.com has no certificate: `coppice cert install`"),
        "{}",
        up.stderr
    );
}

#[test]
fn a_wildcard_is_ordered_by_a_program_of_the_operators_at_up_and_by_hand() {
    let node = Node::new();
    let _pebble = Pebble::start(&node);
    node.busybox_image();
    // The machine's own resolver is asked whether the record is there.
    let resolver = node.file("resolv.conf", "nameserver 127.0.0.1\n");
    let mut mount = node.inside("mount");
    mount.arg("--bind").arg(resolver).arg("/etc/resolv.conf");
    Output::of(mount).succeeded();
    let hook = node.file(
        "hook.sh",
        "[ \"$COPPICE_ACME_ACTION\" = present ] && what=set-txt || what=clear-txt\n\
         echo $COPPICE_ACME_ACTION $COPPICE_ACME_DOMAIN $zone >> hook.log\n\
         curl -sf -d \"{\\\"host\\\":\\\"$COPPICE_ACME_RECORD.\\\",\\\"value\\\":\\\"$COPPICE_ACME_VALUE\\\"}\" \
         http://127.0.0.1:8055/$what\n",
    );
    let hook = hook.display();
    let dns = format!(
        "challenge = \"dns-01\"\n[service.web.tls.acme.dns]\nprovider = \"exec\"\n\
         hook = [\"/bin/sh\", \"-c\", \"cd {} && . {hook}\"]\nconfig = {{ zone = \"ours\" }}\npoll_interval_secs = 1\n",
        node.dir().display()
    );
    let site = Project::new(&node, "site", &format!("{SITE}{}", tls("\"*.example.com\"", &dns)));
    let up = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    assert!(!up.stderr.contains("warning"), "{}", up.stderr);
    assert_eq!(https(&node, "site.example.com", "pebble.pem", &[]).succeeded().stdout, "here\n");
    assert_eq!(domains(&node), ["*.example.com"]);
    let log = || std::fs::read_to_string(node.dir().join("hook.log")).unwrap();
    assert_eq!(log(), "present *.example.com ours\ncleanup *.example.com ours\n");

    let script = format!("cd {} && . {hook}", node.dir().display());
    let by_hand = ["--email", "you@example.com", "--directory-url", DIRECTORY, "--dns-provider", "exec"];
    let program = ["--dns-hook", "/bin/sh", "--dns-hook-arg", "-c", "--dns-hook-arg", &script];
    let poll = ["--dns-poll-interval-secs", "1"];
    node.ok([&["cert", "provision", "*.other.example"][..], &by_hand, &program, &poll].concat());
    assert_eq!(domains(&node), ["*.example.com", "*.other.example"]);
    assert_eq!(log().lines().count(), 4);
    // One that fails says so.
    let fails = ["--dns-hook", "/bin/sh", "--dns-hook-arg", "-c", "--dns-hook-arg", "echo no zone of ours >&2; exit 3"];
    let refused = node.coppice([&["cert", "provision", "*.third.example"][..], &by_hand, &fails, &poll].concat());
    refused.ended_with(1).complained("no zone of ours");
}

#[test]
fn a_clients_wish_orders_what_is_routed_alone_and_others_are_shown_the_default() {
    let node = Node::new();
    let _pebble = Pebble::with(&node, "default = \"site.example.com\"\n", 365 * 24 * 3600);
    node.busybox_image();
    let names = "[\"site.example.com\", \"lost.example.com\"]";
    let site = Project::new(&node, "site", &format!("{SITE}{}", tls(names, "on_demand = true")));
    let up = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    assert!(!up.stderr.contains("certificate"), "nothing is waited for: {}", up.stderr);
    assert_eq!(domains(&node), [""; 0]);
    // No route leads to the one, and no service wants the other.
    for name in ["lost.example.com", "plain.example.com"] {
        https(&node, name, "pebble.pem", &[]).ended_with(HANDSHAKE_FAILED);
    }
    assert_eq!(domains(&node), [""; 0]);
    assert_eq!(https(&node, "site.example.com", "pebble.pem", &[]).succeeded().stdout, "here\n");
    assert_eq!(domains(&node), ["site.example.com"]);
    // It is the default: good for whom it is not meant for, in no client's eyes but one that does not look.
    https(&node, "plain.example.com", "pebble.pem", &[]).ended_with(NOT_TRUSTED);
    assert_eq!(https(&node, "plain.example.com", "pebble.pem", &["--insecure"]).succeeded().stdout, "here\n");
}

#[test]
fn a_certificate_is_renewed_by_itself_under_requests_on_ipv6_and_none_of_them_fails() {
    let node = Node::new();
    // It is due when 10 of these 30 seconds are left.
    let _pebble = Pebble::with(&node, "", 30);
    node.busybox_image();
    let site = Project::new(&node, "site", &format!("{SITE}{}", tls("\"site.example.com\"", "")));
    site.up();
    let fingerprint = || node.json(["cert", "list"])[0]["fingerprint"].as_str().unwrap().to_owned();
    let first = fingerprint();
    let pids = site.pids();
    node::wait_until("it is renewed", Duration::from_secs(60), || {
        let mut curl = node.inside("curl");
        curl.args(["-sS", "--max-time", "10", "--noproxy", "*", "--cacert", "pebble.pem"]);
        curl.args(["--resolve", "site.example.com:443:[::1]", "https://site.example.com/"]);
        assert_eq!(Output::of(curl).succeeded().stdout, "here\n");
        fingerprint() != first
    });
    assert_eq!(site.pids(), pids);
}
