//! Peers that are not ours: dig asks, dnsmasq is asked, dnsperf pushes.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};

use coppice_dns::{Listeners, Server, Upstreams};

use crate::world::{SHOP, address, exchange, query, start, wait_until};
use hickory_proto::rr::RecordType::A;

/// What dig prints for `words`, asked from `client`.
fn dig(server: &Server, client: IpAddr, words: &[&str]) -> String {
    let address = address(server);
    let output = Command::new("dig")
        .args(["-b", &client.to_string(), "-p", &address.port().to_string(), &format!("@{}", address.ip())])
        .args(["+tries=1", "+time=5"])
        .args(words)
        .output()
        .expect("dig is installed (bind9-dnsutils)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "dig {words:?}: {text}");
    assert!(!text.contains("WARNING") && !text.contains("malformed"), "dig {words:?}: {text}");
    text
}

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn dig_gets_addresses_services_pointers_and_reasons() {
    let server = start(|_| {});
    let short = |words: &[&str]| dig(&server, SHOP, &[&["+short"], words].concat());
    assert_eq!(sorted_lines(&short(&["web", "A"])), ["127.77.1.10", "127.77.1.11"]);
    assert_eq!(sorted_lines(&short(&["web.shop", "AAAA"])), ["fd00:77:1::10", "fd00:77:1::11"]);
    assert_eq!(short(&["0.web.shop.coppice.internal"]), "127.77.1.10\n");
    assert_eq!(short(&["-x", "127.77.1.11"]), "1.web.shop.coppice.internal.\n");
    assert_eq!(short(&["-x", "fd00:77:200::1"]), "api.shop.coppice.internal.\n");
    assert_eq!(short(&["_http._tcp.api.shop", "SRV"]), "0 0 8080 api.shop.coppice.internal.\n");
    let full = dig(&server, SHOP, &["nothing.shop"]);
    assert!(full.contains("status: NXDOMAIN") && full.contains("SOA") && full.contains("flags: qr aa rd ra"), "{full}");
    let full = dig(&server, SHOP, &["web.shop", "MX"]);
    assert!(full.contains("status: NOERROR") && full.contains("ANSWER: 0, AUTHORITY: 1"), "{full}");
    let full = dig(&server, SHOP, &["web.shop", "ANY", "+notcp"]);
    assert!(full.contains("HINFO") && full.contains("RFC8482"), "{full}");
}

#[test]
fn dig_is_served_over_tcp_with_cookies_and_any_buffer_size() {
    let server = start(|_| {});
    let full = dig(&server, SHOP, &["+tcp", "+keepopen", "web.shop", "db.shop", "api.shop"]);
    assert_eq!(full.matches("status: NOERROR").count(), 3, "{full}");
    for words in [
        &["+bufsize=512", "web.shop"][..],
        &["+bufsize=0", "web.shop"],
        &["+bufsize=65535", "web.shop"],
        &["+cookie=0011223344556677", "web.shop"],
        &["+noedns", "web.shop"],
        &["+dnssec", "+nsid", "+subnet=10.0.0.0/8", "+padding=128", "web.shop"],
        &["+edns=0", "+ednsopt=65001:0badcafe", "web.shop"],
        &["+adflag", "+cdflag", "web.shop"],
    ] {
        let full = dig(&server, SHOP, words);
        assert!(full.contains("status: NOERROR") && full.contains("ANSWER: 2"), "{words:?}: {full}");
    }
    let full = dig(&server, SHOP, &["+edns=7", "+noednsnegotiation", "web.shop"]);
    assert!(full.contains("status: BADVERS"), "{full}");
    let full = dig(&server, SHOP, &["+noedns", "+opcode=update", "+header-only"]);
    assert!(full.contains("status: NOTIMP"), "{full}");
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dnsmasq_answers_what_is_not_ours() {
    // A port that is free for both, found as the server finds its own.
    let port = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap().addresses()[0].port();
    let upstream: SocketAddr = ([127, 0, 0, 1], port).into();
    let child = Command::new("dnsmasq")
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"])
        .args(["--listen-address=127.0.0.1", "--user=root", "--pid-file=", "--local-ttl=30", "--max-ttl=30"])
        .args(["--host-record=www.example.test,192.0.2.80,2001:db8::80", "--local=/test/"])
        .args(["--txt-record=long.example.test".to_owned() + &",aaaaaaaaaabbbbbbbbbbcccccccccc".repeat(60)])
        .arg(format!("--port={port}"))
        .stdin(Stdio::null())
        .spawn()
        .expect("dnsmasq is installed (dnsmasq-base)");
    let _running = Running(child);
    wait_until("dnsmasq answers", || {
        let packet = query("www.example.test", A);
        exchange(upstream, SHOP, &packet, std::time::Duration::from_millis(100)).is_some()
    });
    let server = start(|config| config.upstreams = Upstreams::Given(vec![upstream]));
    let short = |words: &[&str]| dig(&server, SHOP, &[&["+short"], words].concat());
    for _ in 0..2 {
        assert_eq!(short(&["www.example.test", "A"]), "192.0.2.80\n");
        assert_eq!(short(&["www.example.test", "AAAA"]), "2001:db8::80\n");
    }
    let full = dig(&server, SHOP, &["gone.example.test"]);
    assert!(full.contains("status: NXDOMAIN"), "{full}");
    // Over the datagram's size: dig comes back over TCP by itself, and so do we to dnsmasq.
    let long = short(&["long.example.test", "TXT"]);
    assert!(long.matches("aaaaaaaaaabbbbbbbbbbcccccccccc").count() == 60, "{long}");
    assert!(server.metrics().truncated >= 1);
}

#[test]
fn dnsperf_loses_no_query_of_a_burst() {
    let server = start(|_| {});
    let mut names = tempfile::NamedTempFile::new().unwrap();
    for line in
        ["web.shop A", "0.web.shop.coppice.internal AAAA", "_http._tcp.web.shop SRV", "gone.shop A", "db.shop A"]
    {
        writeln!(names, "{line}").unwrap();
    }
    let address = address(&server);
    for mode in ["udp", "tcp"] {
        let output = Command::new("dnsperf")
            .args([
                "-s",
                "127.0.0.1",
                "-p",
                &address.port().to_string(),
                "-c",
                "8",
                "-q",
                "200",
                "-n",
                "4000",
                "-m",
                mode,
            ])
            .arg("-d")
            .arg(names.path())
            .output()
            .expect("dnsperf is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Queries sent:         20000"), "{mode}: {text}");
        assert!(text.contains("Queries completed:    20000 (100.00%)"), "{mode}: {text}");
        assert!(text.contains("NOERROR 16000 (80.00%), NXDOMAIN 4000 (20.00%)"), "{mode}: {text}");
    }
}
