//! Other servers: which are asked in which order, and one exchange with one of them.
//!
//! Each question goes from a socket of its own (so from a port of its own), connected to the server (so that only its
//! packets arrive), with an id from the kernel's generator. Whatever comes that is no answer to it is passed over, and
//! the wait goes on: a forger cannot end it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout_at;

use crate::cache::Question;
use crate::message::PAYLOAD;
use crate::metrics::Counters;
use crate::query::{CLASS_IN, kind};
use crate::response::{Invalid, Response, read};

/// How long a server that did not answer is asked last.
const REST: Duration = Duration::from_secs(15);
/// How often resolv.conf is looked at, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long "could not be resolved" is kept, in seconds (RFC 9520, 3.2: at least 1).
const FAILURE_S: u32 = 1;
/// Rounds through all servers.
const ROUNDS: usize = 3;

/// Who is asked for names that are not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// These, in this order.
    Given(Vec<SocketAddr>),
    /// The `nameserver` lines of this file, read again when it changes.
    ResolvConf(PathBuf),
}

/// The servers of a `resolv.conf`, without those of `own`.
pub fn parse_resolv_conf(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = if words.next()? == "nameserver" { words.next()? } else { return None };
        scoped_address(address)
    });
    addresses.filter(|address| !own.contains(address)).collect()
}

/// `address` or `fe80::1%eth0`, with the port of DNS.
fn scoped_address(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    if link.contains('/') {
        return None;
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?;
    Some(SocketAddrV6::new(address, 53, 0, index.trim().parse().ok()?).into())
}

struct Known {
    servers: Vec<(SocketAddr, Option<Instant>)>,
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
}

/// Servers and what is known of them.
pub(crate) struct Pool {
    source: Upstreams,
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
    /// For one try over UDP or TCP.
    patience: Duration,
    /// For all tries of one question.
    deadline: Duration,
}

/// Why one try gave no answer.
enum Fault {
    /// Nothing came in time, or no connection.
    Silent,
    /// The server's own failure, with its code.
    Failed(u16),
}

impl Pool {
    pub(crate) fn new(source: Upstreams, own: Vec<SocketAddr>, patience: Duration, deadline: Duration) -> Self {
        let known = Known { servers: Vec::new(), looked: None, stamp: None };
        Self { source, own, known: Mutex::new(known), patience, deadline }
    }

    /// The servers to ask now: those that answered last first, each group in its given order.
    fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_AGAIN) {
            known.looked = Some(now);
            self.look(&mut known);
        }
        let rests = |failed: &Option<Instant>| failed.is_some_and(|at| now.saturating_duration_since(at) < REST);
        let (resting, fit): (Vec<_>, Vec<_>) = known.servers.iter().partition(|(_, failed)| rests(failed));
        fit.into_iter().chain(resting).map(|(server, _)| server).collect()
    }

    fn look(&self, known: &mut Known) {
        let servers = match &self.source {
            Upstreams::Given(servers) if known.servers.is_empty() => {
                servers.iter().copied().filter(|server| !self.own.contains(server)).collect()
            }
            Upstreams::Given(_) => return,
            Upstreams::ResolvConf(path) => {
                let stamp = std::fs::metadata(path).and_then(|it| Ok((it.modified()?, it.len()))).ok();
                // A file that is being replaced may be missing for a moment: the servers of before still stand.
                if stamp.is_none() || stamp == known.stamp {
                    return;
                }
                let Ok(text) = std::fs::read_to_string(path) else { return };
                known.stamp = stamp;
                parse_resolv_conf(&text, &self.own)
            }
        };
        known.servers = servers.into_iter().map(|server| (server, None)).collect();
    }

    fn note(&self, server: SocketAddr, failed: Option<Instant>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.servers.iter_mut().find(|(address, _)| *address == server) {
            entry.1 = failed;
        }
    }

    /// Whether there is anybody to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.order(Instant::now()).is_empty()
    }

    /// Asks one server after the other until one answers.
    pub(crate) async fn resolve(&self, question: &Question, counters: &Counters) -> Response {
        let begin = Instant::now();
        let deadline = begin + self.deadline;
        for _ in 0..ROUNDS {
            let mut silent = false;
            for server in self.order(Instant::now()) {
                let now = Instant::now();
                if now >= deadline {
                    break;
                }
                let until = deadline.min(now + self.patience);
                match exchange(server, question, until, counters).await {
                    Ok(response) => {
                        self.note(server, None);
                        return response;
                    }
                    Err(Fault::Failed(code)) => {
                        counters.upstream_failed.add(1);
                        tracing::debug!(%server, code, "an upstream DNS server failed");
                    }
                    Err(Fault::Silent) => {
                        counters.upstream_timeouts.add(1);
                        self.note(server, Some(Instant::now()));
                        silent = true;
                    }
                }
            }
            // Who said that it cannot will say so again.
            if !silent || Instant::now() >= deadline {
                break;
            }
        }
        counters.unresolved.add(1);
        Response::failure(FAILURE_S)
    }
}

/// One question to one server: UDP, without EDNS where the server does not know it, and TCP for long answers.
async fn exchange(
    server: SocketAddr,
    question: &Question,
    until: Instant,
    counters: &Counters,
) -> Result<Response, Fault> {
    let mut answer = exchange_udp(server, question, true, until, counters).await;
    // FORMERR and NOTIMP are what servers from before EDNS say to it (RFC 6891, 7).
    if matches!(answer, Err(Fault::Failed(1 | 4))) {
        answer = exchange_udp(server, question, false, until, counters).await;
    }
    let response = answer?;
    if !response.truncated {
        return Ok(response);
    }
    counters.upstream_queries.add(1);
    let (id, message) = write(question, true);
    let bytes = timeout_at(until.into(), over_tcp(server, &message)).await.map_err(|_| Fault::Silent)?;
    match read(bytes.map_err(|_| Fault::Silent)?, id, question.name(), question.qtype) {
        Ok(response) if !response.truncated => Ok(response),
        Err(Invalid::Failed(code)) => Err(Fault::Failed(code)),
        _ => {
            counters.upstream_rejected.add(1);
            Err(Fault::Silent)
        }
    }
}

async fn exchange_udp(
    server: SocketAddr,
    question: &Question,
    edns: bool,
    until: Instant,
    counters: &Counters,
) -> Result<Response, Fault> {
    counters.upstream_queries.add(1);
    let (id, message) = write(question, edns);
    let silent = |_: io::Error| Fault::Silent;
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await.map_err(silent)?;
    socket.connect(server).await.map_err(silent)?;
    socket.send(&message).await.map_err(silent)?;
    let mut buffer = vec![0; 4096];
    loop {
        let len = timeout_at(until.into(), socket.recv(&mut buffer)).await.map_err(|_| Fault::Silent)?;
        let bytes = buffer[..len.map_err(silent)?].to_vec();
        match read(bytes, id, question.name(), question.qtype) {
            Ok(response) => return Ok(response),
            Err(Invalid::Failed(code)) => return Err(Fault::Failed(code)),
            Err(Invalid::Foreign | Invalid::Malformed) => counters.upstream_rejected.add(1),
        }
    }
}

async fn over_tcp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(len)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The question as a message, and its id.
fn write(question: &Question, edns: bool) -> (u16, Vec<u8>) {
    let random = getrandom::u32().expect("getrandom(2) works on every kernel Coppice starts on");
    let id = (random >> 8) as u16;
    let mut wire = id.to_be_bytes().to_vec();
    let checking = if question.checking_disabled { 0x10 } else { 0 };
    wire.extend_from_slice(&[0x01, checking, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    wire.extend_from_slice(question.name());
    wire.extend_from_slice(&question.qtype.to_be_bytes());
    wire.extend_from_slice(&CLASS_IN.to_be_bytes());
    if edns {
        wire.push(0);
        wire.extend_from_slice(&kind::OPT.to_be_bytes());
        wire.extend_from_slice(&PAYLOAD.to_be_bytes());
        wire.extend_from_slice(&[0, 0, if question.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    (id, wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_follow_the_file_and_outlive_its_absence() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("written");
        let second = Duration::from_secs(1);
        let own = vec!["10.9.0.1:53".parse().expect("an address")];
        let pool = Pool::new(Upstreams::ResolvConf(file.path().to_owned()), own, second, second);
        let begin = Instant::now();
        let order = |after_s: u32| -> Vec<String> {
            pool.order(begin + after_s * second).iter().map(|server| server.ip().to_string()).collect()
        };
        write("nameserver 10.9.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n");
        assert_eq!(order(0), ["192.0.2.1", "192.0.2.2"], "without ourselves");
        pool.note("192.0.2.1:53".parse().expect("an address"), Some(begin));
        assert_eq!(order(1), ["192.0.2.2", "192.0.2.1"], "who did not answer comes last");
        assert_eq!(order(60), ["192.0.2.1", "192.0.2.2"], "for a while");
        write("nameserver 192.0.2.33\n");
        assert_eq!(order(61), ["192.0.2.1", "192.0.2.2"], "not looked at for each question");
        assert_eq!(order(120), ["192.0.2.33"]);
        std::fs::remove_file(file.path()).expect("removed");
        assert_eq!(order(180), ["192.0.2.33"]);
    }
}
