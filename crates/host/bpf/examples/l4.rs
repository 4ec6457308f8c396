//! What a service's address costs: connections and bytes a second between two containers on a bridge, by the backend's
//! own address (`direct`), by the service's with the programs (`bpf`) and with rules alone (`rules`), and over a bare
//! pair of links without bridge, rules or stack between (`wire`).
//!
//! All in network namespaces of its own, the ways taking turns. Prints one JSON object: medians, all samples, and the
//! programs' share of `direct`. Needs root.
//!
//! ```text
//! cargo run --release -p coppice-bpf --example l4 [seconds [rounds]]
//! ```

#[path = "../../network/tests/network/netspace.rs"]
#[allow(dead_code, reason = "a module of test targets, of which this uses a part")]
mod netspace;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coppice_bpf::{BridgeInfo, Dataplane, Endpoint, Settings};
use coppice_network::{Policy, VirtualService, host_link};
use netspace::{Machine, Netspace};

/// Reads whatever comes.
const SINK: u16 = 6999;
/// The first of those that answer one byte with one byte. Each way has as many of its own: a client has only so many
/// ports, and rules remember an ended connection for ten seconds.
const ECHO: u16 = 7000;
const PORTS: u16 = 16;
/// Clients at once; two processors have nothing to gain from more.
const CLIENTS: u16 = 4;
const CHUNK: usize = 128 << 10;

const BY_PROGRAMS: Ipv4Addr = Ipv4Addr::new(10, 88, 128, 1);
const BY_RULES: Ipv4Addr = Ipv4Addr::new(10, 88, 128, 2);
const WIRE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |default: u64| words.next().map_or(default, |word| word.parse().expect("a number"));
    let (time, rounds) = (Duration::from_secs(number(2)), number(5));
    own_mounts();
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = Machine::new();
    let (client, client_at) = machine.container();
    let (server, server_at) = machine.container();
    pair(&client, &server);
    sink(&server);
    (ECHO..ECHO + 4 * PORTS).for_each(|port| echo(&server, port));
    let service = |address| VirtualService { address, backends: vec![server_at.ip] };
    machine.bridge.set_services(&[service(BY_PROGRAMS), service(BY_RULES)]).expect("services");
    machine.bridge.set_policy(&Policy::default()).expect("a policy");
    let info = BridgeInfo {
        name: machine.bridge.name().clone(),
        subnet: machine.bridge.subnet(),
        subnet6: machine.bridge.subnet6(),
    };
    // The machine names its containers' links by the last bytes of their addresses.
    let endpoints = [client_at.ip, server_at.ip].map(|address| Endpoint {
        address,
        link: host_link(&format!("{:016x}", u64::from(address.octets()[3]) << 32)),
    });
    let (place, mine) = (folder.path().join("bpf"), [service(BY_PROGRAMS)]);
    let plane = machine.host.run(move || {
        let mut plane = Dataplane::load(&info, &place, Settings::default()).expect("the programs");
        plane.set_endpoints(&endpoints).expect("endpoints");
        plane.set_services(&mine).expect("services");
        plane.attach().expect("the programs attached");
        plane
    });

    let ways: [(&str, IpAddr); 4] = [
        ("direct", server_at.ip.into()),
        ("bpf", BY_PROGRAMS.into()),
        ("rules", BY_RULES.into()),
        ("wire", WIRE.into()),
    ];
    let mut samples: [[Vec<f64>; 2]; 4] = Default::default();
    for round in 0..=rounds {
        for turn in 0..ways.len() {
            let at = (turn + round as usize) % ways.len();
            let to = ways[at].1;
            let figures = [connections(&client, (to, ECHO + at as u16 * PORTS), time), gigabits(&client, to, time)];
            // The first fills caches.
            for (samples, figure) in samples[at].iter_mut().zip(figures).filter(|_| round > 0) {
                samples.push(figure);
            }
        }
    }
    let counted = plane.metrics().expect("metrics").services;
    assert!(counted.iter().any(|of| of.address == BY_PROGRAMS && of.connections > 100), "it was the programs' work");
    machine.host.run(move || plane.detach()).expect("the programs detached");

    let mut object = serde_json::Map::new();
    for (figure, name) in ["connections_per_s", "gbit_per_s"].into_iter().enumerate() {
        let of = |way: usize| median(&samples[way][figure]);
        let medians: serde_json::Map<_, _> =
            ways.iter().enumerate().map(|(at, (way, _))| ((*way).to_owned(), of(at).into())).collect();
        let all: serde_json::Map<_, _> =
            ways.iter().zip(&samples).map(|((way, _), of)| ((*way).to_owned(), of[figure].clone().into())).collect();
        object.insert(name.to_owned(), medians.into());
        object.insert(format!("{name}_samples"), all.into());
        object.insert(format!("{name}_ratio_to_direct"), (of(1) / of(0)).into());
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

/// A bare pair of links between two namespaces.
fn pair(client: &Netspace, server: &Netspace) {
    let far = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&server.file));
    client.program(&format!("ip link add wire0 type veth peer name wire1 netns {far}"));
    client.program("ip address add 198.51.100.1/24 dev wire0");
    client.program("ip link set wire0 up");
    server.program(&format!("ip address add {WIRE}/24 dev wire1"));
    server.program("ip link set wire1 up");
}

fn listen(server: &Netspace, port: u16) -> TcpListener {
    server.run(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port"))
}

/// A thread of the server; it ends with this process.
fn echo(server: &Netspace, port: u16) {
    let listener = listen(server, port);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() {
                let _ = stream.write_all(&byte); // the client may be done with measuring
                let _ = stream.read(&mut byte); // its end
            }
        }
    });
}

fn sink(server: &Netspace) {
    let listener = listen(server, SINK);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; CHUNK];
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
            });
        }
    });
}

/// Connections a second, each with one byte there and back, ended by a reset so that no port is waited for.
fn connections(client: &Netspace, (to, first): (IpAddr, u16), time: Duration) -> f64 {
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let threads = {
        let (done, over) = (done.clone(), over.clone());
        client.run(move || {
            let one = |number: u16| {
                let (done, over) = (done.clone(), over.clone());
                // A thread that a thread of the namespace starts is in it too.
                std::thread::spawn(move || {
                    // No two clients are at one port at a time.
                    let share = PORTS / CLIENTS;
                    let mut ports = (0..share).map(|of| first + number * share + of).cycle();
                    while !over.load(Ordering::Relaxed) {
                        let to = SocketAddr::new(to, ports.next().unwrap_or(first));
                        let mut stream = TcpStream::connect(to).expect("a connection");
                        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
                        stream.write_all(b"?").expect("sent");
                        stream.read_exact(&mut [0]).expect("an answer");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            };
            (0..CLIENTS).map(one).collect::<Vec<_>>()
        })
    };
    let started = Instant::now();
    let before = done.load(Ordering::Relaxed);
    std::thread::park_timeout(time);
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    rate
}

/// Gigabits a second of one connection.
fn gigabits(client: &Netspace, to: IpAddr, time: Duration) -> f64 {
    let to = SocketAddr::new(to, SINK);
    client.run(move || {
        let mut stream = TcpStream::connect(to).expect("a connection");
        let chunk = vec![7; CHUNK];
        let (started, mut sent) = (Instant::now(), 0_u64);
        while started.elapsed() < time {
            sent += stream.write(&chunk).expect("sent") as u64;
        }
        sent as f64 * 8e-9 / started.elapsed().as_secs_f64()
    })
}
