//! Questions for others: who is asked, what is believed, and what becomes of servers that lie, hang or cut.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coppice_dns::{Config, Server, Upstreams, parse_resolv_conf};
use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused, ServFail};
use hickory_proto::rr::RecordType::{A, TXT};

use crate::world::{SHOP, SOON, address, answer, ask, query, query_edns, socket, start, wait_until};

/// What an upstream server sends for a query: any number of messages.
type Manner = Box<dyn Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// An upstream server on loopback, over UDP and TCP.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn new(manner: impl Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let manner: Arc<Manner> = Arc::new(Box::new(manner));
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let over_udp = {
            let (manner, asked, stop) = (manner.clone(), asked.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    for message in manner(&buffer[..len], Transport::Udp) {
                        let _ = udp.send_to(&message, from);
                    }
                }
            })
        };
        let over_tcp = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                use std::io::{Read, Write};
                while let Ok((mut stream, _)) = tcp.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut len = [0; 2];
                    if stream.read_exact(&mut len).is_err() {
                        continue;
                    }
                    let mut packet = vec![0; usize::from(u16::from_be_bytes(len))];
                    if stream.read_exact(&mut packet).is_err() {
                        continue;
                    }
                    for message in manner(&packet, Transport::Tcp) {
                        let framed = [&(message.len() as u16).to_be_bytes(), message.as_slice()].concat();
                        let _ = stream.write_all(&framed);
                    }
                }
            })
        };
        Self { address, asked, stop, threads: vec![over_udp, over_tcp] }
    }

    /// Queries that came over UDP.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address));
        let _ = std::net::TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The answer to `query` with `code` and records of the name asked for: type, TTL, data.
pub(crate) fn reply(
    query: &[u8],
    code: u8,
    answers: &[(u16, u32, &[u8])],
    authorities: &[(u16, u32, &[u8])],
) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let mut wire = query[..end + 5].to_vec();
    wire[2] |= 0x80;
    wire[3] = 0x80 | code;
    wire[6..12].copy_from_slice(&[0, answers.len() as u8, 0, authorities.len() as u8, 0, 0]);
    for (kind, ttl_s, data) in answers.iter().chain(authorities) {
        wire.extend_from_slice(&[0xc0, 12]);
        wire.extend_from_slice(&kind.to_be_bytes());
        wire.extend_from_slice(&[0, 1]);
        wire.extend_from_slice(&ttl_s.to_be_bytes());
        wire.extend_from_slice(&(data.len() as u16).to_be_bytes());
        wire.extend_from_slice(data);
    }
    wire
}

/// One A record, to be kept for a minute.
pub(crate) fn honest(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    reply(query, 0, &[(1, 60, &address)], &[])
}

pub(crate) fn asking(upstreams: &[&Upstream]) -> impl FnOnce(&mut Config) {
    let addresses = upstreams.iter().map(|upstream| upstream.address).collect();
    move |config| {
        config.upstreams = Upstreams::Given(addresses);
        config.upstream_patience = Duration::from_millis(300);
        config.upstream_deadline = Duration::from_millis(1200);
    }
}

fn one(address: &str) -> (hickory_proto::op::ResponseCode, Vec<String>) {
    (NoError, vec![address.to_owned()])
}

#[test]
fn names_of_others_are_asked_of_the_upstream_and_answered_without_authority() {
    let upstream = Upstream::new(|query, _| vec![honest(query, [192, 0, 2, 1])]);
    let server = start(asking(&[&upstream]));
    let message = answer(&server, SHOP, &query_edns("www.EXAMPLE.com", A, 1232));
    assert_eq!(message.answers[0].data.to_string(), "192.0.2.1");
    assert_eq!(message.answers[0].ttl, 60);
    assert!(!message.metadata.authoritative && message.metadata.recursion_available);
    assert_eq!(message.metadata.id, 0x1234);
    assert!(message.edns.is_some());
    // Our own are not.
    for name in
        ["web", "nothing", "web.shop", "gone.shop", "0.gone.shop", "x.coppice.internal", "1.1.77.127.in-addr.arpa"]
    {
        ask(&server, SHOP, name, A);
    }
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn an_answer_with_another_id_question_or_source_is_passed_over_for_the_true_one() {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let upstream = Upstream::new(move |query, _| {
        let mut other_id = honest(query, [6, 6, 6, 1]);
        other_id[0] ^= 0xff;
        let mut other_name = honest(query, [6, 6, 6, 2]);
        other_name[13] ^= 1;
        let mut other_type = honest(query, [6, 6, 6, 3]);
        let at = query.len() - 11 - 3;
        other_type[at] = 28;
        let not_a_response = query.to_vec();
        let mut cut = honest(query, [6, 6, 6, 4]);
        cut.truncate(cut.len() - 2);
        let mut trailing = honest(query, [6, 6, 6, 5]);
        trailing.push(0);
        let mut circle = honest(query, [6, 6, 6, 6]);
        let at = circle.len() - 16;
        circle[at + 1] = at as u8;
        let _ = &stranger;
        vec![other_id, other_name, other_type, not_a_response, cut, trailing, circle, honest(query, [192, 0, 2, 2])]
    });
    let server = start(asking(&[&upstream]));
    assert_eq!(ask(&server, SHOP, "example.com", A), one("192.0.2.2"));
    assert_eq!(server.metrics().upstream_rejected, 7, "{:?}", server.metrics());
    assert_eq!(ask(&server, SHOP, "example.com", A), one("192.0.2.2"), "and so it is kept");
}

#[test]
fn a_packet_from_another_address_never_arrives() {
    let seen: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let forger = UdpSocket::bind("127.0.0.9:0").unwrap();
    let noted = seen.clone();
    // The upstream's own socket is not reachable from its manner: it learns the asker's port from the kernel's table
    // of sockets connected to it, as a forger on the same machine could.
    let upstream_address: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let own = upstream_address.clone();
    let upstream = Upstream::new(move |query, _| {
        let own = own.lock().unwrap().expect("set before the first question");
        let target = connected_to(own).expect("the asker's socket is connected to us");
        *noted.lock().unwrap() = Some(target);
        forger.send_to(&honest(query, [6, 6, 6, 6]), target).unwrap();
        vec![honest(query, [192, 0, 2, 3])]
    });
    *upstream_address.lock().unwrap() = Some(upstream.address);
    let server = start(asking(&[&upstream]));
    assert_eq!(ask(&server, SHOP, "example.com", A), one("192.0.2.3"));
    assert!(seen.lock().unwrap().is_some());
    assert_eq!(server.metrics().upstream_rejected, 0, "the kernel has dropped it");
}

/// The local address of a UDP socket of this machine that is connected to `remote`.
fn connected_to(remote: SocketAddr) -> Option<SocketAddr> {
    let table = std::fs::read_to_string("/proc/net/udp").ok()?;
    let port = format!(":{:04X}", remote.port());
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_ours = words.get(2)?.ends_with(&port);
        let local = u16::from_str_radix(words.get(1)?.split(':').nth(1)?, 16).ok()?;
        is_ours.then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, local)))
    })
}

#[test]
fn ids_and_ports_cannot_be_guessed_from_those_before() {
    let ids: Arc<Mutex<Vec<u16>>> = Arc::default();
    let noted = ids.clone();
    let upstream = Upstream::new(move |query, _| {
        noted.lock().unwrap().push(u16::from_be_bytes([query[0], query[1]]));
        vec![honest(query, [192, 0, 2, 4])]
    });
    let server = start(asking(&[&upstream]));
    for at in 0..50 {
        assert_eq!(ask(&server, SHOP, &format!("n{at}.example.com"), A).0, NoError);
    }
    let ids = ids.lock().unwrap();
    let steps: std::collections::BTreeSet<u16> = ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > 40, "{ids:?}");
}

#[test]
fn a_server_that_hangs_is_passed_over_and_then_asked_last() {
    let hung = Upstream::new(|_, _| vec![]);
    let honest_one = Upstream::new(|query, _| vec![honest(query, [192, 0, 2, 5])]);
    let server = start(asking(&[&hung, &honest_one]));
    assert_eq!(ask(&server, SHOP, "a.example.com", A), one("192.0.2.5"));
    assert_eq!((hung.asked(), server.metrics().upstream_timeouts), (1, 1));
    for name in ["b.example.com", "c.example.com"] {
        assert_eq!(ask(&server, SHOP, name, A), one("192.0.2.5"));
    }
    assert_eq!(hung.asked(), 1, "the one that answered is asked first now");
}

#[test]
fn a_server_that_fails_refuses_or_is_gone_is_not_the_last_word() {
    let gone = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let failing = Upstream::new(|query, _| vec![reply(query, 2, &[], &[])]);
    let refusing = Upstream::new(|query, _| vec![reply(query, 5, &[], &[])]);
    let honest_one = Upstream::new(|query, _| vec![honest(query, [192, 0, 2, 6])]);
    let server = start(|config| {
        asking(&[])(config);
        let all = [gone, failing.address, refusing.address, honest_one.address];
        config.upstreams = Upstreams::Given(all.to_vec());
    });
    assert_eq!(ask(&server, SHOP, "example.com", A), one("192.0.2.6"));
}

#[test]
fn when_nobody_answers_the_client_is_told_in_time_and_the_next_question_at_once() {
    let hung = Upstream::new(|_, _| vec![]);
    let server = start(asking(&[&hung]));
    let begin = Instant::now();
    assert_eq!(ask(&server, SHOP, "example.com", A), (ServFail, vec![]));
    assert!(begin.elapsed() < SOON / 2);
    let asked = hung.asked();
    assert_eq!(ask(&server, SHOP, "example.com", A), (ServFail, vec![]));
    assert_eq!(hung.asked(), asked, "kept for a second (RFC 9520)");
    assert_eq!(ask(&server, SHOP, "web", A).1.len(), 2, "our own names need nobody");
    let server = start(|_| {});
    assert_eq!(ask(&server, SHOP, "example.com", A), (Refused, vec![]), "no upstream at all");
}

#[test]
fn a_cut_answer_is_fetched_whole_over_tcp() {
    let upstream = Upstream::new(|query, transport| {
        if transport == Transport::Udp {
            let mut cut = reply(query, 0, &[], &[]);
            cut[2] |= 0x02;
            return vec![cut];
        }
        let records: Vec<(u16, u32, &[u8])> = (0..100).map(|_| (1, 60, &[192, 0, 2, 7][..])).collect();
        vec![reply(query, 0, &records, &[])]
    });
    let server = start(asking(&[&upstream]));
    // 100 records do not fit the client's datagram either: it is told so, and gets them over TCP.
    assert!(answer(&server, SHOP, &query_edns("example.com", A, 1232)).metadata.truncation);
    let mut stream = std::net::TcpStream::connect(address(&server)).unwrap();
    use std::io::{Read, Write};
    let packet = query("example.com", A);
    stream.write_all(&[&(packet.len() as u16).to_be_bytes(), packet.as_slice()].concat()).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut bytes).unwrap();
    let message = hickory_proto::op::Message::from_vec(&bytes).unwrap();
    assert_eq!((message.metadata.truncation, message.answers.len()), (false, 100));
    assert_eq!(upstream.asked(), 1, "the second came from the cache");
}

#[test]
fn a_server_that_cuts_and_does_not_speak_tcp_right_is_passed_over() {
    let lying = Upstream::new(|query, transport| {
        let mut message = honest(query, [6, 6, 6, 6]);
        match transport {
            Transport::Udp => message[2] |= 0x02,
            Transport::Tcp => message[0] ^= 0xff,
        }
        vec![message]
    });
    let honest_one = Upstream::new(|query, _| vec![honest(query, [192, 0, 2, 8])]);
    let server = start(asking(&[&lying, &honest_one]));
    assert_eq!(ask(&server, SHOP, "example.com", A), one("192.0.2.8"));
}

#[test]
fn a_server_from_before_edns_is_asked_without() {
    let old = Upstream::new(|query, _| {
        if query[11] != 0 {
            return vec![reply(query, 1, &[], &[])];
        }
        vec![honest(query, [192, 0, 2, 9])]
    });
    let server = start(asking(&[&old]));
    assert_eq!(ask(&server, SHOP, "example.com", A), one("192.0.2.9"));
}

#[test]
fn equal_questions_at_a_time_are_asked_once_and_all_answered() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::new(move |query, _| {
        let _ = gate.lock().unwrap().recv_timeout(SOON);
        vec![honest(query, [192, 0, 2, 10])]
    });
    let server = start(|config| {
        asking(&[&upstream])(config);
        config.upstream_patience = SOON;
        config.upstream_deadline = SOON;
    });
    let clients: Vec<UdpSocket> = (0..100).map(|_| socket(SHOP)).collect();
    for (at, client) in clients.iter().enumerate() {
        let mut packet = query(if at % 2 == 0 { "example.com" } else { "EXAMPLE.COM" }, A);
        packet[..2].copy_from_slice(&(at as u16).to_be_bytes());
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send_to(&packet, address(&server)).unwrap();
    }
    wait_until("99 wait for the first", || server.metrics().joined == 99);
    release.send(()).unwrap();
    for (at, client) in clients.iter().enumerate() {
        let mut buffer = [0; 512];
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..2], (at as u16).to_be_bytes());
        let letter = if at % 2 == 0 { b'e' } else { b'E' };
        assert_eq!(buffer[13], letter, "each gets its own question back");
        assert_eq!(hickory_proto::op::Message::from_vec(&buffer[..len]).unwrap().answers.len(), 1);
    }
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn one_client_cannot_fill_the_waiting_room() {
    let hung = Upstream::new(|_, _| vec![]);
    let server = start(|config| {
        asking(&[&hung])(config);
        config.upstream_patience = Duration::from_secs(4);
        config.upstream_deadline = Duration::from_secs(4);
    });
    let flood = socket(SHOP);
    for at in 0..400 {
        flood.send_to(&query(&format!("n{at}.example.com"), A), address(&server)).unwrap();
    }
    wait_until("the rest is turned away", || server.metrics().overloaded == 400 - 256);
    let other = socket(crate::world::BLOG);
    other.send_to(&query("other.example.com", A), address(&server)).unwrap();
    wait_until("another client's is asked", || server.metrics().upstream_queries >= 257);
    assert_eq!(server.metrics().overloaded, 400 - 256);
}

#[test]
fn types_nobody_knows_are_passed_on_as_they_are() {
    let upstream = Upstream::new(|query, _| vec![reply(query, 0, &[(65280, 60, &[1, 2, 3])], &[])]);
    let server = start(asking(&[&upstream]));
    let mut packet = query("example.com", TXT);
    let at = packet.len() - 4;
    packet[at..at + 2].copy_from_slice(&65280u16.to_be_bytes());
    let bytes = crate::world::exchange(address(&server), SHOP, &packet, SOON).unwrap();
    assert!(bytes.ends_with(&[0, 3, 1, 2, 3]));
}

#[test]
fn the_hosts_resolv_conf_is_followed_and_never_leads_to_ourselves() {
    let own = "10.9.0.1:53".parse().unwrap();
    let text = "# a comment\nsearch x\nnameserver 10.9.0.1\nnameserver 192.0.2.1 # first\n nameserver 2001:db8::1\n\
                nameserver fe80::1%lo\nnameserver fe80::1%../../x\nnameserver nonsense\nnameserver\n";
    let servers: Vec<String> = parse_resolv_conf(text, &[own]).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
}

/// Nobody upstream says yes or no about names of ours: a name that is gone stays gone.
#[test]
fn a_service_that_is_gone_is_not_looked_for_elsewhere() {
    let upstream = Upstream::new(|query, _| vec![honest(query, [6, 6, 6, 6])]);
    let server: Server = start(asking(&[&upstream]));
    for name in ["gone.shop", "0.gone.shop", "_http._tcp.gone.shop", "9.web.shop", "x.web.shop", "gone"] {
        assert_eq!(ask(&server, SHOP, name, A), (NXDomain, vec![]), "{name}");
    }
    assert_eq!(upstream.asked(), 0);
    assert_eq!(ask(&server, SHOP, "www.google.shop", A).0, NoError, "a site below a domain called like an app");
}
