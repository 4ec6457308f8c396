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
use coppice_network::{Policy, VirtualService};
use netspace::{Machine, Netspace};

/// Answers one byte with one byte.
const ECHO: u16 = 7000;
/// Reads whatever comes.
const SINK: u16 = 7001;
/// Clients at once; two processors have nothing to gain from more.
const CLIENTS: usize = 4;
const CHUNK: usize = 128 << 10;

const BY_PROGRAMS: Ipv4Addr = Ipv4Addr::new(10, 88, 128, 1);
const BY_RULES: Ipv4Addr = Ipv4Addr::new(10, 88, 128, 2);
const WIRE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |default: u64| words.next().map_or(default, |word| word.parse().expect("a number"));
    let (time, rounds) = (Duration::from_secs(number(2)), number(5));
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = Machine::new();
    let ((client, client_at), client_link) = (machine.container(), machine.link.clone());
    let ((server, server_at), server_link) = (machine.container(), machine.link.clone());
    pair(&client, &server);
    for _ in 0..2 {
        serve(&server);
    }
    let service = |address| VirtualService { address, backends: vec![server_at.ip] };
    machine.bridge.set_services(&[service(BY_PROGRAMS), service(BY_RULES)]).expect("services");
    machine.bridge.set_policy(&Policy::default()).expect("a policy");
    let info = BridgeInfo {
        name: machine.bridge.name().clone(),
        subnet: machine.bridge.subnet(),
        subnet6: machine.bridge.subnet6(),
    };
    let endpoints =
        [(client_at.ip, client_link), (server_at.ip, server_link)].map(|(address, link)| Endpoint { address, link });
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
            let figures = [connections(&client, to, time), gigabits(&client, to, time)];
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

/// Threads of the server; they end with this process.
fn serve(server: &Netspace) {
    let listen = |port: u16| {
        server.run(move || {
            use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
            sockopt::set_socket_reuseport(&fd, true).expect("an option");
            bind(&fd, &SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).expect("a port");
            listen(&fd, 1024).expect("a listener");
            TcpListener::from(fd)
        })
    };
    let (echo, sink) = (listen(ECHO), listen(SINK));
    std::thread::spawn(move || {
        for mut stream in echo.incoming().flatten() {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() {
                let _ = stream.write_all(&byte); // the client may be done with measuring
                let _ = stream.read(&mut byte); // its end
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in sink.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; CHUNK];
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
            });
        }
    });
}

/// Connections a second, each with one byte there and back, ended by a reset so that no port is waited for.
fn connections(client: &Netspace, to: IpAddr, time: Duration) -> f64 {
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let to = SocketAddr::new(to, ECHO);
    let threads = {
        let (done, over) = (done.clone(), over.clone());
        client.run(move || {
            let one = || {
                let (done, over) = (done.clone(), over.clone());
                // A thread that a thread of the namespace starts is in it too.
                std::thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let mut stream = TcpStream::connect(to).expect("a connection");
                        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
                        stream.write_all(b"?").expect("sent");
                        stream.read_exact(&mut [0]).expect("an answer");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            };
            (0..CLIENTS).map(|_| one()).collect::<Vec<_>>()
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
