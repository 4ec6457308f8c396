//! Memory of a proxy with 10,000 clients that were served once and keep their connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Ground, ready, servers};
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};

const CLIENTS: usize = 10_000;
/// How many of them ask again, to show that all were kept.
const ASKED_AGAIN: usize = 100;

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let clients = plan.rounds(CLIENTS, 1000);
    let figure = format!("{clients} idle connections, memory");
    // nginx sets aside what all connections of a worker may need, and one worker may get more of them than the other.
    let contenders = ready(&figure, servers::proxies(ground, clients + clients / 4), report);
    let mut whole = Vec::with_capacity(contenders.len());
    for contender in &contenders {
        let mut open = Vec::with_capacity(clients);
        for at in 0..clients {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, contender.port)).with_context(|| {
                format!("connection {at} of {clients} to {}: is the limit on open files high enough?", contender.name)
            })?;
            ask(&mut stream).with_context(|| format!("client {at} of {}", contender.name))?;
            open.push(stream);
        }
        let (resident, own) = contender.service.processes().memory_mb()?;
        for stream in open.iter_mut().step_by(clients / ASKED_AGAIN) {
            ask(stream).with_context(|| format!("a kept connection of {}", contender.name))?;
        }
        report.rows.push(Row::of(&figure, contender.name, "MB", &[own]));
        whole.push(Row::of(&format!("{figure} (resident)"), contender.name, "MB", &[resident]));
    }
    report.rows.extend(whole);
    report.at_most_best(("idle-connections", "memory_ratio_to_nginx"), &figure, 1.0, &["nginx"]);
    Ok(())
}

/// One request and its whole answer.
fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
    let (mut answer, mut filled) = ([0; 4096], 0);
    while filled < answer.len() {
        let more = stream.read(&mut answer[filled..])?;
        if more == 0 {
            bail!("the connection was closed");
        }
        filled += more;
        let text = String::from_utf8_lossy(&answer[..filled]);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            if !head.starts_with("HTTP/1.1 200") {
                bail!("the answer was {head:?}");
            }
            if body.len() == servers::ANSWER {
                return Ok(());
            }
        }
    }
    bail!("the answer did not end")
}
