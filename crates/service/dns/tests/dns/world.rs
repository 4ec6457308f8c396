//! What tests share: apps, a server that answers for them, and raw questions to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use coppice_base::Name;
use coppice_dns::{
    App, Config, Instance, Listeners, Port, Protocol, Server, Service, Subnet, Upstreams, Zone, ZoneSpec,
};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

/// How long a test waits for what must come.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long a test waits for what must not come.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

/// An address of app `shop`, and one of app `blog`; tests can ask from them.
pub(crate) const SHOP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 1, 10));
pub(crate) const BLOG: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 2, 10));
/// One that belongs to no app.
pub(crate) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn instance(index: u32, addresses: &[&str], ready: bool) -> Instance {
    Instance { index, addresses: addresses.iter().map(|text| ip(text)).collect(), ready }
}

pub(crate) fn service(name: &str, instances: Vec<Instance>) -> Service {
    Service {
        name: Name::new(name).expect("a name"),
        virtual_addresses: Vec::new(),
        headless: false,
        instances,
        ports: vec![Port { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }],
    }
}

pub(crate) fn app(name: &str, services: Vec<Service>) -> App {
    App { name: Name::new(name).expect("a name"), services, clients: Vec::new() }
}

/// `shop` with `web` (0 and 1 ready, 2 not), `api` behind virtual addresses and `db` headless; `blog` with a `web` too.
pub(crate) fn spec() -> ZoneSpec {
    let web = service(
        "web",
        vec![
            instance(0, &["127.77.1.10", "fd00:77:1::10"], true),
            instance(1, &["127.77.1.11", "fd00:77:1::11"], true),
            instance(2, &["127.77.1.12", "fd00:77:1::12"], false),
        ],
    );
    let virtual_addresses = vec![ip("127.77.200.1"), ip("fd00:77:200::1")];
    let api = Service { virtual_addresses, ..service("api", vec![instance(0, &["127.77.1.20"], true)]) };
    let virtual_addresses = vec![ip("127.77.200.2")];
    let db = Service {
        virtual_addresses,
        headless: true,
        ..service("db", vec![instance(0, &["127.77.1.30"], true), instance(1, &["127.77.1.31"], false)])
    };
    let idle = service("idle", vec![instance(0, &["127.77.1.40"], false)]);
    let blog = app("blog", vec![service("web", vec![instance(0, &["127.77.2.10"], true)])]);
    ZoneSpec {
        serial: 7,
        servers: vec![ip("127.77.0.1")],
        subnets: vec![
            Subnet { address: ip("127.77.0.0"), prefix: 16 },
            Subnet { address: ip("fd00:77::"), prefix: 32 },
        ],
        apps: vec![app("shop", vec![web, api, db, idle]), blog],
        ..ZoneSpec::default()
    }
}

/// A configuration on loopback, asking nobody.
pub(crate) fn config() -> Config {
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().expect("an address")], 2).expect("loopback can be bound");
    Config { upstreams: Upstreams::Given(Vec::new()), client_rate: None, ..Config::new(listeners) }
}

/// The server of [`spec`], with `change` made to its configuration.
pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = config();
    change(&mut config);
    Server::start(config, Zone::new(&spec()).expect("a zone")).expect("the server starts")
}

pub(crate) fn address(server: &Server) -> SocketAddr {
    server.addresses()[0]
}

/// `web.shop` in wire form.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A query as most clients send it: id 0x1234, recursion desired, no EDNS.
pub(crate) fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&wire(name));
    bytes.extend_from_slice(&u16::from(kind).to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// The same with an OPT record that allows datagrams of `payload` bytes.
pub(crate) fn query_edns(name: &str, kind: RecordType, payload: u16) -> Vec<u8> {
    let mut bytes = query(name, kind);
    bytes[11] = 1;
    bytes.extend_from_slice(&[0, 0, 41]);
    bytes.extend_from_slice(&payload.to_be_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes
}

/// A socket of `client`'s.
pub(crate) fn socket(client: IpAddr) -> UdpSocket {
    UdpSocket::bind((client, 0)).expect("every address of 127/8 is the machine's")
}

/// Sends `packet` to the server from `client`; what comes back until `patience` is over.
pub(crate) fn exchange(server: SocketAddr, client: IpAddr, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = socket(client);
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    socket.send_to(packet, server).expect("sent");
    let mut buffer = [0; 65535];
    let len = socket.recv(&mut buffer).ok()?;
    Some(buffer[..len].to_vec())
}

/// The answer to a packet that must have one.
pub(crate) fn answer(server: &Server, client: IpAddr, packet: &[u8]) -> Message {
    let bytes = exchange(address(server), client, packet, SOON).expect("an answer");
    Message::from_vec(&bytes).expect("hickory can read the answer")
}

/// Asks for `name` from `client`; the code and the records of the answer as texts, sorted.
pub(crate) fn ask(server: &Server, client: IpAddr, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let message = answer(server, client, &query(name, kind));
    let mut records: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    records.sort();
    (message.metadata.response_code, records)
}

/// Waits until `holds`.
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < SOON, "not in time: {what}");
        std::thread::yield_now();
    }
}
