//! Is a record published yet: asked of the zone's own name servers, since any cache between would remember that it was
//! not there.
//!
//! The zone's name servers are found with the resolver given (or the machine's own, from `/etc/resolv.conf`): `NS` of
//! the name and of each parent until there are some. Where none are found the resolver itself is asked. An authority
//! looks from several places at once, so all name servers must have the record.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

use super::{ProviderError, Record};

/// For one answer of one server.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Zones have 2 to 13; more are not all asked.
const MOST_SERVERS: usize = 32;

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Resolvers that find the zone's name servers; empty: those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// The port of name servers found; `None`: 53.
    pub name_server_port: Option<u16>,
}

/// Returns when all name servers of the record's zone have it. Looks at once, then every `poll`, until `within`.
pub(crate) async fn wait(
    lookup: &Lookup,
    record: &Record,
    within: Duration,
    poll: Duration,
) -> Result<(), ProviderError> {
    let name = Name::from_ascii(format!("{}.", record.name))
        .map_err(|error| ProviderError::Name { name: record.name.clone(), why: error.to_string() })?;
    let deadline = Instant::now() + within;
    let mut missing = "no server answered".to_owned();
    loop {
        if let Ok(now_missing) = tokio::time::timeout_at(deadline, missing_on(lookup, &name, &record.value)).await {
            if now_missing.is_empty() {
                return Ok(());
            }
            missing = now_missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        }
        if Instant::now() + poll > deadline {
            let within_secs = within.as_secs();
            return Err(ProviderError::NotSeen { name: record.name.clone(), within_secs, missing });
        }
        sleep(poll).await;
    }
}

/// Servers that do not have the record; asked all at once.
async fn missing_on(lookup: &Lookup, name: &Name, value: &str) -> Vec<SocketAddr> {
    let resolvers = if lookup.resolvers.is_empty() { machine_resolvers() } else { lookup.resolvers.clone() };
    let mut servers = name_servers(&resolvers, lookup.name_server_port.unwrap_or(53), name).await;
    if servers.is_empty() {
        servers = resolvers.into_iter().collect();
    }
    let mut asked = tokio::task::JoinSet::new();
    for server in servers.into_iter().take(MOST_SERVERS) {
        let (name, value) = (name.clone(), value.to_owned());
        asked.spawn(async move { (server, has_record(server, &name, &value).await) });
    }
    let answers = asked.join_all().await;
    answers.into_iter().filter(|(_, has)| !has).map(|(server, _)| server).collect()
}

async fn has_record(server: SocketAddr, name: &Name, value: &str) -> bool {
    let Some(answer) = ask(server, name, RecordType::TXT, false).await else { return false };
    answer.answers.iter().any(|record| match &record.data {
        RData::TXT(text) => text.txt_data.concat() == value.as_bytes(),
        _ => false,
    })
}

/// Addresses of the name servers of the zone that `name` is in.
async fn name_servers(resolvers: &[SocketAddr], port: u16, name: &Name) -> BTreeSet<SocketAddr> {
    let mut found = BTreeSet::new();
    let mut zone = name.clone();
    while zone.num_labels() > 1 {
        zone = zone.base_name();
        let Some(answer) = ask_any(resolvers, &zone, RecordType::NS).await else { continue };
        for record in &answer.answers {
            let RData::NS(server) = &record.data else { continue };
            for kind in [RecordType::A, RecordType::AAAA] {
                let addresses = ask_any(resolvers, &server.0, kind).await.map(|answer| answer.answers);
                found.extend(addresses.unwrap_or_default().iter().filter_map(|record| match &record.data {
                    RData::A(address) => Some(SocketAddr::new(IpAddr::V4(address.0), port)),
                    RData::AAAA(address) => Some(SocketAddr::new(IpAddr::V6(address.0), port)),
                    _ => None,
                }));
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    found
}

async fn ask_any(resolvers: &[SocketAddr], name: &Name, kind: RecordType) -> Option<Message> {
    for resolver in resolvers {
        if let Some(answer) = ask(*resolver, name, kind, true).await {
            return Some(answer);
        }
    }
    None
}

/// One question to one server: by UDP, and by TCP when the answer does not fit.
async fn ask(server: SocketAddr, name: &Name, kind: RecordType, recurse: bool) -> Option<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = recurse;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().ok()?;
    let matches = |answer: &Message| answer.metadata.id == question.metadata.id;
    let by_udp = timeout(ANSWER_WITHIN, over_udp(server, &bytes)).await.ok()?.ok();
    let answer = Message::from_vec(&by_udp?).ok().filter(matches)?;
    if !answer.metadata.truncation {
        return Some(answer);
    }
    let by_tcp = timeout(ANSWER_WITHIN, over_tcp(server, &bytes)).await.ok()?.ok()?;
    Message::from_vec(&by_tcp).ok().filter(matches)
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected: the kernel drops what others send.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn machine_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|address| SocketAddr::new(address, 53)).collect()
}
