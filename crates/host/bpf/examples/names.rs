//! Questions a second from a container to its gateway: answered by the programs (`kernel`), by the node's server
//! (`server`), and by dnsmasq. The load is dnsperf's, in the container.
//!
//! All in network namespaces of its own, taking turns. Prints one JSON object: medians and all samples; beside rates,
//! what a question costs in processor time (µs, of asker and server together; what the kernel does for a packet counts for
//! who sends it). Needs root, dnsperf and dnsmasq.
//!
//! ```text
//! cargo run --release -p coppice-bpf --example names [seconds [rounds]]
//! ```

#[path = "../../network/tests/network/netspace.rs"]
#[allow(dead_code, reason = "a module of test targets, of which this uses a part")]
mod netspace;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coppice_base::Name;
use coppice_bpf::{Answer, BridgeInfo, Dataplane, Endpoint, Settings};
use coppice_dns::{App, Config, Instance, Listeners, Server, Service, Upstreams, Zone, ZoneSpec};
use coppice_network::host_link;
use netspace::{Machine, Netspace, wait_until};

const NAMES: u32 = 1000;
const DNSMASQ: u16 = 5301;
const TTL_S: u32 = 5;

fn address(at: u32) -> IpAddr {
    Ipv4Addr::from(0x0a09_0000 + at).into()
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |default: u64| words.next().map_or(default, |word| word.parse().expect("a number"));
    let (seconds, rounds) = (number(3), number(5));
    own_mounts();
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = Machine::new();
    let (client, client_at) = machine.container();
    let gateway = machine.bridge.gateway();
    let names: Vec<String> = (0..NAMES).map(|at| format!("0.web.app-{at}")).collect();
    let questions = folder.path().join("questions");
    std::fs::write(&questions, names.iter().map(|name| format!("{name} A\n")).collect::<String>()).expect("questions");
    let _server = server(&machine, gateway);
    let dnsmasq = dnsmasq(&machine, folder.path(), gateway, &names);

    let info = BridgeInfo {
        name: machine.bridge.name().clone(),
        subnet: machine.bridge.subnet(),
        subnet6: machine.bridge.subnet6(),
    };
    // The machine names its containers' links by the last bytes of their addresses.
    let link = host_link(&format!("{:016x}", u64::from(client_at.ip.octets()[3]) << 32));
    let endpoint = Endpoint { address: client_at.ip, link };
    let place = folder.path().join("bpf");
    let mut plane = machine.host.run(move || {
        let mut plane = Dataplane::load(&info, &place, Settings::default()).expect("the programs");
        plane.set_endpoints(&[endpoint]).expect("endpoints");
        plane.attach().expect("the programs attached");
        plane
    });
    let answers: Vec<Answer> = (0..NAMES)
        .zip(names)
        .map(|(at, name)| Answer { view: None, name, ttl_s: TTL_S, addresses: vec![address(at)] })
        .collect();

    let ways = [("kernel", 53), ("server", 53), ("dnsmasq", DNSMASQ)];
    let mut samples: [Vec<f64>; 3] = Default::default();
    let mut costs_us: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        for turn in 0..ways.len() {
            let at = (turn + round as usize) % ways.len();
            let (way, port) = ways[at];
            let given: &[Answer] = if way == "kernel" { &answers } else { &[] };
            plane.set_names(given, &BTreeMap::new()).expect("names");
            let before = plane.metrics().expect("metrics").names[0];
            let spent_s = || processor_s(None) + processor_s(Some(dnsmasq.0.id()));
            let spent_before_s = spent_s();
            let load = dnsperf(&client, (gateway, port), seconds, &questions);
            let spent_s = spent_s() - spent_before_s;
            let by_kernel = plane.metrics().expect("metrics").names[0] - before;
            assert_eq!(by_kernel > 1000, way == "kernel", "{way}: {by_kernel} answers by the programs");
            // The first fills caches.
            if round > 0 {
                samples[at].push(load.per_second);
                costs_us[at].push(spent_s * 1e6 / load.answered);
            }
        }
    }
    machine.host.run(move || plane.detach()).expect("the programs detached");

    let mut object = serde_json::Map::new();
    let medians: Vec<f64> = samples.iter().map(|of| median(of)).collect();
    for ((way, _), median) in ways.iter().zip(&medians) {
        object.insert(format!("{way}_per_s"), (*median).into());
    }
    object.insert("kernel_ratio_to_dnsmasq".to_owned(), (medians[0] / medians[2]).into());
    for (key, of) in [("samples", samples), ("costs_us", costs_us)] {
        let all: serde_json::Map<_, _> =
            ways.iter().zip(of).map(|((way, _), of)| ((*way).to_owned(), of.into())).collect();
        object.insert(key.to_owned(), all.into());
    }
    println!("{}", serde_json::to_string_pretty(&object).expect("JSON"));
}

/// What is mounted from now on is gone with this process.
fn own_mounts() {
    use rustix::mount::MountPropagationFlags;
    // Deprecated for its effect on descriptors with FILES.
    #[allow(deprecated)]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).expect("namespaces need root");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("mounts of our own");
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn server(machine: &Machine, gateway: Ipv4Addr) -> Server {
    let app = |at: u32| App {
        name: Name::new(format!("app-{at}")).expect("a name"),
        services: vec![Service {
            name: Name::new("web").expect("a name"),
            virtual_addresses: Vec::new(),
            headless: false,
            instances: vec![Instance { index: 0, addresses: vec![address(at)], ready: true }],
            ports: Vec::new(),
        }],
        clients: Vec::new(),
    };
    let zone = Zone::new(&ZoneSpec { ttl_s: TTL_S, apps: (0..NAMES).map(app).collect(), ..ZoneSpec::default() });
    let zone = zone.expect("a zone");
    machine.host.run(move || {
        let listeners = Listeners::bind(&[SocketAddr::new(gateway.into(), 53)], 2).expect("port 53");
        let config = Config { client_rate: None, upstreams: Upstreams::Given(Vec::new()), ..Config::new(listeners) };
        Server::start(config, zone).expect("the server")
    })
}

struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn dnsmasq(machine: &Machine, folder: &std::path::Path, gateway: Ipv4Addr, names: &[String]) -> Running {
    let hosts: String = names.iter().zip(0..).map(|(name, at)| format!("{} {name}\n", address(at))).collect();
    let file = folder.join("hosts");
    std::fs::write(&file, hosts).expect("hosts");
    let pid = folder.join("dnsmasq.pid");
    let running = machine.host.run(move || {
        let mut command = std::process::Command::new("/usr/sbin/dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
        command.args([&format!("--listen-address={gateway}"), "--bind-interfaces", &format!("--port={DNSMASQ}")]);
        command.args(["--cache-size=10000", &format!("--addn-hosts={}", file.display())]);
        command.arg(format!("--pid-file={}", pid.display()));
        Running(command.spawn().expect("dnsmasq"))
    });
    wait_until("dnsmasq to answer", || {
        let line = format!("dig @{gateway} -p {DNSMASQ} +short +tries=1 +time=1 0.web.app-7");
        machine.host.run(move || {
            let mut words = line.split_whitespace();
            let said = std::process::Command::new(words.next().unwrap_or_default()).args(words).output();
            said.is_ok_and(|said| said.stdout.starts_with(b"10.9.0.7"))
        })
    });
    running
}

/// Six askers, each with a socket and threads of its own, for all ways alike: where one thread has many sockets, much of
/// what is measured is dnsperf looking which of them has an answer.
const LOAD: &str = "-c 6 -T 6 -q 100";

/// What dnsperf counted.
struct Load {
    answered: f64,
    per_second: f64,
}

fn dnsperf(client: &Netspace, (gateway, port): (Ipv4Addr, u16), seconds: u64, questions: &std::path::Path) -> Load {
    let questions = questions.display();
    let said = client.program(&format!("dnsperf -s {gateway} -p {port} {LOAD} -l {seconds} -d {questions}"));
    let after = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key));
        line.unwrap_or_else(|| panic!("dnsperf printed no {key:?}: {said}")).trim()
    };
    assert!(after("Response codes:").starts_with("NOERROR") && !after("Response codes:").contains(','), "{said}");
    let number = |key: &str| after(key).split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
    Load { answered: number("Queries completed:"), per_second: number("Queries per second:") }
}

/// Seconds of processor time that a process has spent; `None`: this one, and its children that have ended.
fn processor_s(process: Option<u32>) -> f64 {
    let who = process.map_or("self".to_owned(), |id| id.to_string());
    let said = std::fs::read_to_string(format!("/proc/{who}/stat")).expect("a process that runs");
    // User and system time, its own and its children's, are the 14th to 17th; the name before them may have spaces.
    let after_name = said.rsplit(") ").next().unwrap_or_default();
    let times = after_name.split(' ').skip(11).take(if process.is_none() { 4 } else { 2 });
    // Always hundredths of a second (USER_HZ).
    times.map(|word| word.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}
