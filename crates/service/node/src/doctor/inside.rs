//! What is done from a container's own network: looking at its link, asking for a name, connecting.
//!
//! A thread of its own enters the network of the container's process and ends with its work, so nothing of the daemon is
//! left there. Nothing of the container's files is used: its hosts file and resolv.conf are those that the node wrote.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use coppice_base::{Random, SystemRandom};
use coppice_linux::{NamespaceFlags, join_namespaces};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::facts::{Outcome, Resolution};

/// An answer on one machine takes a millisecond; one that has not come after this will not.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);
/// Enough for the kernel to have told whose rule drops a packet.
pub(crate) const MOMENT: Duration = Duration::from_millis(300);
/// A half of `tls.peer` that reaches nobody closes within this.
const CLOSING: Duration = Duration::from_millis(500);
/// The port of DNS.
const DNS: u16 = 53;
/// Bytes of a hosts file or resolv.conf that are read.
const FILE_MAX: u64 = 1 << 20;
/// As libc's resolver has it.
const SERVERS_MAX: usize = 3;

/// Does `job` in the network of process `pid`; `None`: in the daemon's own.
pub(crate) fn within<T: Send>(pid: Option<u32>, job: impl FnOnce() -> T + Send) -> io::Result<T> {
    let process = pid.map(|pid| {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ErrorKind::NotFound)?;
        Ok::<_, io::Error>(pidfd_open(pid, PidfdFlags::empty())?)
    });
    let process = process.transpose()?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("doctor".into()).spawn_scoped(scope, move || {
            if let Some(process) = process {
                join_namespaces(process, NamespaceFlags::NET).map_err(io::Error::other)?;
            }
            Ok(job())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Tries a TCP connection. `guarded`: one that is closed at once by who took it did not come through.
pub(crate) fn connect(to: SocketAddr, patience: Duration, guarded: bool) -> Outcome {
    let mut stream = match TcpStream::connect_timeout(&to, patience) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                ErrorKind::ConnectionRefused => Outcome::Refused,
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::TimedOut,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable(error.to_string()),
                _ if error.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error()) => {
                    Outcome::Unreachable(error.to_string())
                }
                _ => Outcome::Failed(error.to_string()),
            };
        }
    };
    if !guarded || stream.set_read_timeout(Some(CLOSING)).is_err() {
        return Outcome::Connected;
    }
    match stream.read(&mut [0]) {
        Ok(0) => Outcome::Closed,
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => {
            Outcome::Closed
        }
        // It says something, or waits to be spoken to.
        Ok(_) | Err(_) => Outcome::Connected,
    }
}

/// Finds a name's addresses as a libc resolver would with these two files: hosts first, then the name servers, with the
/// search domains. Within the network that asks.
pub(crate) fn resolve(name: &str, hosts: &Path, resolv_conf: &Path) -> Resolution {
    // The container may write these files, too.
    let read = |path: &Path| {
        let mut text = Vec::new();
        let _ = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    };
    let found = Resolution { name: name.to_owned(), ..Resolution::default() };
    let answers = of_hosts(&read(hosts), name);
    if !answers.is_empty() {
        return Resolution { by: "its hosts file".to_owned(), answers, ..found };
    }
    let (servers, domains) = of_resolv_conf(&read(resolv_conf));
    let mut found =
        Resolution { by: "no name server".to_owned(), error: Some("its resolv.conf has none".into()), ..found };
    let mut first = None;
    for server in servers {
        found.by = format!("name server {server}");
        found.error = None;
        for candidate in candidates(name, &domains) {
            match ask(server, &candidate) {
                Ok(answers) if answers.is_empty() => {}
                Ok(answers) => return Resolution { answers, error: None, ..found },
                Err(why) => found.error = Some(why),
            }
        }
        // One that answered that there is no such name is believed.
        if found.error.is_none() {
            return found;
        }
        first.get_or_insert(found.clone());
    }
    first.unwrap_or(found)
}

fn of_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let of = lines.filter_map(|mut words| {
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    of.collect()
}

/// Servers and search domains.
fn of_resolv_conf(text: &str) -> (Vec<IpAddr>, Vec<String>) {
    let (mut servers, mut domains) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
            Some("search" | "domain") => domains = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    servers.truncate(SERVERS_MAX);
    (servers, domains)
}

/// With a dot (`ndots:1`), as it is first; else within the search domains first.
fn candidates(name: &str, domains: &[String]) -> Vec<String> {
    let within = domains.iter().map(|domain| format!("{name}.{domain}"));
    if name.contains('.') {
        std::iter::once(name.to_owned()).chain(within).collect()
    } else {
        within.chain(std::iter::once(name.to_owned())).collect()
    }
}

/// A and AAAA of a name; none when there is no such name.
fn ask(server: IpAddr, name: &str) -> Result<Vec<IpAddr>, String> {
    let mut answers = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        answers.extend(ask_one(server, name, kind)?);
    }
    Ok(answers)
}

fn ask_one(server: IpAddr, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, String> {
    let mut absolute = Name::from_ascii(name).map_err(|error| error.to_string())?;
    absolute.set_fqdn(true);
    let id = (SystemRandom.next_u64() & 0xffff) as u16;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(absolute, kind));
    let bytes = question.to_vec().map_err(|error| error.to_string())?;
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer".to_owned(),
        ErrorKind::ConnectionRefused => "nobody answers there".to_owned(),
        _ => error.to_string(),
    };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect((server, DNS)).map_err(failed)?;
    socket.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    socket.send(&bytes).map_err(failed)?;
    let mut buffer = [0; 1500];
    let read = socket.recv(&mut buffer).map_err(failed)?;
    let answer = Message::from_vec(&buffer[..read]).map_err(|error| format!("its answer cannot be read: {error}"))?;
    if answer.metadata.id != id {
        return Err("its answer is to another question".to_owned());
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Err(format!("it answers {code}")),
    }
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_resolv_conf_are_read_as_libc_reads_them() {
        let hosts = "127.0.0.1\tlocalhost\n10.88.0.3\tweb other # web9\n\n#10.0.0.9 web\nfd00::3 WEB\n";
        assert_eq!(of_hosts(hosts, "web"), ["10.88.0.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
        assert_eq!(of_hosts(hosts, "web9"), Vec::<IpAddr>::new());
        let (servers, domains) = of_resolv_conf("# a\nnameserver 10.88.0.1\nnameserver bad\nsearch a.b c\noptions x\n");
        assert_eq!(servers, ["10.88.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(candidates("web", &domains), ["web.a.b", "web.c", "web"]);
        assert_eq!(candidates("web.shop", &domains), ["web.shop", "web.shop.a.b", "web.shop.c"]);
    }

    #[test]
    fn connections_that_succeed_are_refused_or_are_closed_at_once_are_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(within(None, || connect(at, ANSWER, true)).unwrap(), Outcome::Connected, "it waits to be spoken to");
        let closing = std::thread::spawn(move || {
            // The first is the connection of above.
            let taken: Vec<_> = listener.incoming().take(2).collect();
            drop(taken);
        });
        assert_eq!(connect(at, ANSWER, true), Outcome::Closed);
        closing.join().unwrap();
        assert_eq!(connect(at, ANSWER, false), Outcome::Refused);
        assert!(within(Some(u32::MAX), || ()).is_err(), "a process that is no more");
    }
}
