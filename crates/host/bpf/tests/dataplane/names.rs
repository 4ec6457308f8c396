//! Questions answered in the kernel, beside the node's own server: both must say the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use coppice_base::Name;
use coppice_bpf::{Answer, Settings, View};
use coppice_dns::{App, Config, Instance, Listeners, Server, Service, Upstreams, Zone, ZoneSpec};

use crate::machine::{ANSWER, Container, GATEWAY, Machine};

const SHOP: View = View(7);
const TTL_S: u32 = 5;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

/// `web` of app shop has one address of each family, `api` three, `many` nine of IPv4, `four` has no IPv6.
fn services(machine: &Machine) -> Vec<(&'static str, Vec<IpAddr>)> {
    let both = |last: u8| [IpAddr::from(ip(last)), machine.ip6(ip(last)).into()];
    vec![
        ("web", both(100).to_vec()),
        ("api", [both(101), both(102), both(103)].concat()),
        ("many", (110..119).map(|last| ip(last).into()).collect()),
        ("four", vec![ip(120).into()]),
    ]
}

/// The server at the gateway, with the names of `services`; `client` is of app shop.
fn server(machine: &Machine, client: &Container) -> Server {
    let service = |(name, addresses): (&str, Vec<IpAddr>)| Service {
        name: Name::new(name).unwrap(),
        virtual_addresses: Vec::new(),
        headless: false,
        instances: addresses
            .into_iter()
            .zip(0..)
            .map(|(address, index)| Instance { index, addresses: vec![address], ready: true })
            .collect(),
        ports: Vec::new(),
    };
    let app = App {
        name: Name::new("shop").unwrap(),
        services: services(machine).into_iter().map(service).collect(),
        clients: vec![client.ip.into(), client.ip6.into()],
    };
    let zone = Zone::new(&ZoneSpec { ttl_s: TTL_S, apps: vec![app], ..ZoneSpec::default() }).unwrap();
    let addresses = [SocketAddr::new(GATEWAY.into(), 53), SocketAddr::new(machine.ip6(GATEWAY).into(), 53)];
    machine.host.run(move || {
        let mut config = Config::new(Listeners::bind(&addresses, 1).unwrap());
        config.upstreams = Upstreams::Given(Vec::new());
        config.client_rate = None;
        Server::start(config, zone).unwrap()
    })
}

/// The same names, as the kernel takes them.
fn give(machine: &Machine, client: &Container) {
    let mut answers = Vec::new();
    for (name, addresses) in services(machine) {
        let of = |view, name: String| Answer { view, name, ttl_s: TTL_S, addresses: addresses.clone() };
        answers.push(of(Some(SHOP), name.to_owned()));
        answers.push(of(None, format!("{name}.shop")));
        answers.push(of(None, format!("{name}.shop.coppice.internal")));
    }
    let views = BTreeMap::from([(client.ip, SHOP)]);
    machine.plane(move |plane| plane.set_names(&answers, &views).unwrap());
}

/// A machine with the server, and a client of app shop.
fn machine_of(settings: Settings) -> (Machine, Container, Server) {
    let mut machine = Machine::with(settings);
    let client = machine.container();
    machine.endpoints(&[&client]);
    let server = server(&machine, &client);
    (machine, client, server)
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

const A: u16 = 1;
const AAAA: u16 = 28;

fn question(name: &str, kind: u16) -> Vec<u8> {
    [&[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &wire(name), &kind.to_be_bytes(), &[0, 1]].concat()
}

/// With an OPT record: payload size, flags, options.
fn with_opt(mut question: Vec<u8>, payload: u16, version: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    question[11] = 1;
    question.extend([0, 0, 41]);
    question.extend(payload.to_be_bytes());
    question.extend([0, version, flags, 0]);
    question.extend((options.len() as u16).to_be_bytes());
    question.extend(options);
    question
}

fn socket_to(client: &Container, gateway: IpAddr) -> UdpSocket {
    let any = if gateway.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.space.run(move || UdpSocket::bind(any).unwrap());
    socket.connect(SocketAddr::new(gateway, 53)).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

fn ask(client: &Container, gateway: IpAddr, question: &[u8]) -> Vec<u8> {
    let socket = socket_to(client, gateway);
    socket.send(question).unwrap();
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no answer to {question:02x?}: {error}"));
    buffer[..read].to_vec()
}

fn answered(machine: &Machine) -> u64 {
    machine.plane(|plane| plane.metrics().unwrap()).names.iter().sum()
}

/// Records in an order of their own: which is first changes.
fn sorted(answer: &[u8], question: &[u8], record: usize) -> Vec<Vec<u8>> {
    let begin = question.len();
    let count = usize::from(u16::from_be_bytes([answer[6], answer[7]]));
    let mut parts: Vec<Vec<u8>> = answer[begin..begin + count * record].chunks(record).map(<[u8]>::to_vec).collect();
    parts.sort();
    parts.push(answer[..begin].to_vec());
    parts.push(answer[begin + count * record..].to_vec());
    parts
}

#[test]
fn the_kernels_answers_are_the_servers_byte_for_byte() {
    let (machine, client, _server) = machine_of(Settings::default());
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut questions = Vec::new();
    for kind in [A, AAAA] {
        for name in ["web", "web.shop", "web.shop.coppice.internal", "WEB", "wEb.ShOp"] {
            questions.push(question(name, kind));
        }
        questions.push(with_opt(question("web", kind), 1232, 0, 0, &[]));
        questions.push(with_opt(question("web.shop", kind), 4096, 0, 0x80, &[]));
        questions.push(with_opt(question("web", kind), 100, 0, 0, &cookie));
        for (first, second) in [(0, 0), (1, 0x10), (0, 0x30), (1, 0x20)] {
            let mut flagged = question("web", kind);
            (flagged[2], flagged[3]) = (first, second);
            questions.push(flagged);
        }
    }
    for gateway in [IpAddr::from(GATEWAY), machine.ip6(GATEWAY).into()] {
        machine.plane(|plane| plane.set_names(&[], &BTreeMap::new()).unwrap());
        let expected: Vec<Vec<u8>> = questions.iter().map(|of| ask(&client, gateway, of)).collect();
        give(&machine, &client);
        for (question, expected) in questions.iter().zip(expected) {
            let before = answered(&machine);
            let answer = ask(&client, gateway, question);
            assert_eq!(answer, expected, "{question:02x?} to {gateway}");
            assert_eq!(answered(&machine) - before, 1, "{question:02x?} to {gateway} went up");
        }
        for (kind, record) in [(A, 16), (AAAA, 28)] {
            let asked = question("api.shop", kind);
            let answer = ask(&client, gateway, &asked);
            machine.plane(|plane| plane.set_names(&[], &BTreeMap::new()).unwrap());
            assert_eq!(sorted(&answer, &asked, record), sorted(&ask(&client, gateway, &asked), &asked, record));
            give(&machine, &client);
        }
    }
}

#[test]
fn dig_takes_the_answers_and_every_address_comes_first_at_times() {
    let (machine, client, _server) = machine_of(Settings::default());
    give(&machine, &client);
    let dig = |gateway: IpAddr, kind: &str| {
        client.space.program(&format!("dig +short +tries=1 +time=2 @{gateway} api.shop.coppice.internal {kind}"))
    };
    let mut firsts = std::collections::BTreeSet::new();
    for turn in 0..40 {
        let gateway = if turn % 2 == 0 { GATEWAY.into() } else { machine.ip6(GATEWAY).into() };
        let said = dig(gateway, "A");
        assert_eq!(said.lines().count(), 3, "{said}");
        firsts.extend(said.lines().next().map(str::to_owned));
    }
    assert_eq!(firsts.len(), 3, "{firsts:?}");
    assert_eq!(dig(GATEWAY.into(), "AAAA").lines().count(), 3);
    // dig sends a cookie, and asks for what is in the additional section.
    assert_eq!(answered(&machine), 41);
}

#[test]
fn who_is_not_of_the_app_does_not_see_its_short_names() {
    let (mut machine, client, _server) = machine_of(Settings::default());
    let stranger = machine.container();
    machine.endpoints(&[&client, &stranger]);
    give(&machine, &client);
    let code = |answer: &[u8]| answer[3] & 0x0f;
    assert_eq!(code(&ask(&client, GATEWAY.into(), &question("web", A))), 0);
    assert_eq!(code(&ask(&stranger, GATEWAY.into(), &question("web", A))), 3);
    assert_eq!(code(&ask(&stranger, GATEWAY.into(), &question("web.shop", A))), 0);
    assert_eq!(answered(&machine), 2);
}

#[test]
fn what_is_not_of_the_usual_shape_goes_up_to_the_server() {
    let (machine, client, _server) = machine_of(Settings::default());
    give(&machine, &client);
    let changed = |at: usize, byte: u8| {
        let mut odd = question("web.shop", A);
        odd[at] = byte;
        odd
    };
    let long = "x".repeat(60);
    let odd = [
        question("web.shop", 16),
        question("nothing.shop", A),
        question("many.shop", A),
        question("four.shop", AAAA),
        question(&format!("{long}.shop"), A),
        changed(2, 0x10),
        changed(5, 2),
        changed(7, 1),
        changed(9, 1),
        changed(11, 1),
        [question("web.shop", A), vec![0]].concat(),
        question("web.shop", A)[..20].to_vec(),
        [&question("web.shop", A)[..21], &[0xc0, 12, 0, 1, 0, 1]].concat(),
        with_opt(question("web.shop", A), 1232, 1, 0, &[]),
        with_opt(question("web.shop", A), 1232, 0, 0, &[0, 10, 0, 9, 1]),
        with_opt(question("web.shop", A), 1232, 0, 0, &[0, 3, 0, 0, 0, 3, 0, 0]),
    ];
    for question in &odd {
        assert!(!ask(&client, GATEWAY.into(), question).is_empty());
        assert!(!ask(&client, machine.ip6(GATEWAY).into(), question).is_empty());
    }
    assert_eq!(answered(&machine), 0);
    let socket = socket_to(&client, GATEWAY.into());
    socket.send(&changed(2, 0x81)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err(), "a response is no question");
}

/// Sends all questions, each with a number of its own, and gives the answers that come.
fn ask_all(client: &Container, gateway: IpAddr, questions: &[Vec<u8>]) -> BTreeMap<u16, Vec<u8>> {
    let socket = socket_to(client, gateway);
    let mut answers = BTreeMap::new();
    let mut buffer = [0; 2048];
    let numbered: Vec<(u16, &Vec<u8>)> = (0_u16..).zip(questions).collect();
    for some in numbered.chunks(32) {
        for (id, question) in some {
            let mut question = (*question).clone();
            question[..2].copy_from_slice(&id.to_be_bytes());
            socket.send(&question).unwrap();
        }
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while let Ok(read @ 2..) = socket.recv(&mut buffer) {
            answers.insert(u16::from_be_bytes([buffer[0], buffer[1]]), buffer[..read].to_vec());
        }
    }
    answers
}

#[test]
fn questions_with_bytes_changed_at_will_are_answered_as_by_the_server_alone() {
    let (machine, client, _server) = machine_of(Settings::default());
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    let questions: Vec<Vec<u8>> = (0..600)
        .map(|turn| {
            let plain = question(["web.shop", "web"][turn % 2], [A, AAAA][turn / 2 % 2]);
            let mut bytes = if turn % 3 == 0 { plain } else { with_opt(plain, 1232, 0, 0, &[0, 10, 0, 1, 7]) };
            for _ in 0..=next(2) {
                let at = 2 + next(bytes.len() - 2);
                match next(8) {
                    4.. => bytes[13 + next(3)] ^= 0x20, // another case
                    0 => bytes[at] = next(256) as u8,
                    1 => bytes[at] ^= 1 << next(8),
                    2 => drop(bytes.remove(at)),
                    3 => bytes.insert(at, next(256) as u8),
                }
            }
            bytes
        })
        .collect();
    let gateway = IpAddr::from(GATEWAY);
    let expected = ask_all(&client, gateway, &questions);
    give(&machine, &client);
    let answers = ask_all(&client, gateway, &questions);
    assert!(answered(&machine) > 50, "too few were left whole to show anything");
    for (id, question) in (0_u16..).zip(&questions) {
        assert_eq!(answers.get(&id), expected.get(&id), "{question:02x?}");
    }
}

#[test]
fn what_the_kernel_has_no_room_for_is_answered_by_the_server() {
    let (machine, client, _server) = machine_of(Settings::default());
    let extra = |at: u32| Answer { view: None, name: format!("n{at}.z"), ttl_s: TTL_S, addresses: vec![ip(1).into()] };
    let answers: Vec<Answer> = (0..17_000).map(extra).collect();
    let many: BTreeMap<Ipv4Addr, View> = (0..5000).map(|at| (Ipv4Addr::from(at), SHOP)).collect();
    machine.plane(move |plane| plane.set_names(&answers, &many).unwrap());
    assert_eq!(ask(&client, GATEWAY.into(), &question("n5.z", A))[7], 1);
    assert_eq!(answered(&machine), 1);
    assert_eq!(ask(&client, GATEWAY.into(), &question("web.shop", A))[7], 1);
    assert_eq!(answered(&machine), 1, "only the server knows web.shop");
    give(&machine, &client);
    assert_eq!(ask(&client, GATEWAY.into(), &question("web.shop", A))[7], 1);
    assert_eq!(answered(&machine), 2);
}

#[test]
fn names_are_answered_while_no_daemon_runs_and_not_when_switched_off() {
    let (machine, client, server) = machine_of(Settings::default());
    give(&machine, &client);
    drop(server);
    machine.stop();
    assert_eq!(ask(&client, GATEWAY.into(), &question("web", A))[3] & 0x0f, 0);
    machine.start(Settings { names: false, ..Settings::default() });
    let socket = socket_to(&client, GATEWAY.into());
    socket.send(&question("web", A)).unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err());
}
