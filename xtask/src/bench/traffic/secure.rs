//! HTTP/2 and TLS: requests a second of `h2load` over TLS, and full handshakes a second of `openssl s_time`.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Ground, costed, ready, servers, take_turns};
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};
use crate::shell;

const HTTP2: &str = "HTTP/2 over TLS, 16 connections of 16 streams";
const HANDSHAKES: &str = "TLS handshakes";
/// Clients that make handshakes at the same time; each is a process that does nothing else.
const CLIENTS: usize = 4;

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let contenders = ready(HTTP2, servers::proxies(ground, 1024), report);
    let seconds = plan.rounds(4, 1);
    let [rates, costs] = take_turns(&contenders, plan.rounds(7, 2), |contender| {
        let (cost_s, load) = costed(contender, || h2load(&contender.secure_url("/"), seconds))?;
        Ok([load.per_second, cost_s * 1e6 / load.requests])
    })?;
    let [handshakes, handshake_costs] = take_turns(&contenders, plan.rounds(7, 2), |contender| {
        let (cost_s, (count, took_s)) = costed(contender, || s_time(contender.secure_port(), seconds))?;
        Ok([count / took_s, cost_s * 1e6 / count])
    })?;
    for (figure, unit, samples) in [
        (HTTP2, "per second", rates),
        (&format!("{HTTP2}, processor time a request"), "µs", costs),
        (HANDSHAKES, "per second", handshakes),
        (&format!("{HANDSHAKES}, processor time each"), "µs", handshake_costs),
    ] {
        let rows = contenders.iter().zip(&samples);
        report.rows.extend(rows.map(|(contender, samples)| Row::of(figure, contender.name, unit, samples)));
    }
    report.at_least_best(("tls", "http2_ratio_to_nginx"), HTTP2, 0.9, &["nginx"]);
    report.at_least_best(("tls", "handshakes_ratio_to_nginx"), HANDSHAKES, 0.9, &["nginx"]);
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Load {
    requests: f64,
    per_second: f64,
}

fn h2load(url: &str, seconds: usize) -> Result<Load> {
    let mut command = Command::new("h2load");
    command.args(["-t", "2", "-c", "16", "-m", "16", "-D", &seconds.to_string(), url]);
    read(&shell::output(&mut command)?)
}

/// Reads h2load's report, in which no request may have failed.
fn read(said: &str) -> Result<Load> {
    let line = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"));
    let before = |text: &str, word: &str| {
        let part = text.split(',').find_map(|part| part.trim().strip_suffix(word)).map(str::trim);
        Ok::<f64, anyhow::Error>(part.with_context(|| format!("h2load printed no {word}: {said}"))?.parse()?)
    };
    let (requests, statuses) = (line("requests:")?, line("status codes:")?);
    let done = before(requests, "succeeded")?;
    if before(requests, "failed")? + before(requests, "errored")? > 0.0 || before(statuses, "2xx")? < done {
        bail!("requests failed: {said}");
    }
    Ok(Load { requests: done, per_second: before(line("finished in")?, "req/s")? })
}

/// Full handshakes for a while: how many, and in how many seconds.
fn s_time(port: u16, seconds: usize) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let mut command = Command::new("openssl");
        command.args(["s_time", "-new", "-connect", &format!("127.0.0.1:{port}"), "-time", &seconds.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("cannot start openssl")
    });
    let mut count = 0.0;
    for client in clients.collect::<Result<Vec<_>>>()? {
        let done = client.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stdout);
        let own = said.lines().find_map(|line| line.split_once(" connections in ")).map(|(own, _)| own.trim());
        if !done.status.success() {
            bail!("handshakes failed: {said} {}", String::from_utf8_lossy(&done.stderr));
        }
        count += own.with_context(|| format!("openssl s_time printed {said}"))?.parse::<f64>()?;
    }
    Ok((count, begun.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "finished in 1.00s, 23456.00 req/s, 30.2MB/s\n\
        requests: 23456 total, 23712 started, 23456 done, 23456 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 23456 2xx, 0 3xx, 0 4xx, 0 5xx\n";

    #[test]
    fn the_report_of_h2load_is_read_and_failed_requests_are_no_figure() {
        assert_eq!(read(SAID).unwrap(), Load { requests: 23456.0, per_second: 23456.0 });
        for (from, to) in [("0 failed", "2 failed"), ("23456 2xx, 0 3xx, 0 4xx", "0 2xx, 0 3xx, 23456 4xx")] {
            assert!(read(&SAID.replace(from, to)).unwrap_err().to_string().contains("requests failed"));
        }
    }
}
