//! Requests a second and their 99th percentile over HTTP/1.1: `wrk` with 64 connections that stay.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Ground, costed, ready, servers, take_turns};
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};
use crate::shell;

const FIGURE: &str = "HTTP/1.1, 64 connections";
const PEERS: &[&str] = &["nginx", "haproxy"];

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut contenders = servers::proxies(ground, 1024);
    contenders.insert(0, ("backend alone", servers::direct(ground)));
    let contenders = ready(FIGURE, contenders, report);
    let seconds = plan.rounds(4, 1);
    // A 99th percentile is half as large or as large again from one round to the next.
    let [rates, slowest, costs] = take_turns(&contenders, plan.rounds(21, 2), |contender| {
        let (cost_s, load) = costed(contender, || wrk(&contender.url("/"), seconds))?;
        Ok([load.per_second, load.p99_ms, cost_s * 1e6 / load.requests])
    })?;
    let (p99, cost) = (&format!("{FIGURE}, p99"), &format!("{FIGURE}, processor time a request"));
    for (figure, unit, samples) in [(FIGURE, "per second", rates), (p99, "ms", slowest), (cost, "µs", costs)] {
        let all = contenders.iter().zip(&samples);
        // What the backend costs is no proxy's.
        let shown = all.filter(|(contender, _)| figure != cost || contender.name != "backend alone");
        report.rows.extend(shown.map(|(contender, samples)| Row::of(figure, contender.name, unit, samples)));
    }
    report.at_least_best(("proxy", "ratio_to_fastest_peer"), FIGURE, 1.0, PEERS);
    report.at_most_best(("proxy", "p99_ratio_to_best_peer"), p99, 1.0, PEERS);
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Load {
    requests: f64,
    per_second: f64,
    p99_ms: f64,
}

fn wrk(url: &str, seconds: usize) -> Result<Load> {
    let mut command = Command::new("wrk");
    command.args(["-t2", "-c64", &format!("-d{seconds}s"), "--latency", url]);
    read(&shell::output(&mut command)?)
}

/// Reads wrk's report, in which no request may have failed.
fn read(said: &str) -> Result<Load> {
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        bail!("requests failed: {said}");
    }
    let after = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key));
        line.map(str::trim).with_context(|| format!("wrk printed no {key:?}: {said}"))
    };
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in ")).context("no requests")?.0;
    let p99 = after("99%")?;
    let (number, scale) = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)]
        .into_iter()
        .find_map(|(unit, scale)| Some((p99.strip_suffix(unit)?, scale)))
        .with_context(|| format!("not a duration: {p99:?}"))?;
    Ok(Load {
        requests: requests.parse()?,
        per_second: after("Requests/sec:")?.parse()?,
        p99_ms: number.parse::<f64>()? * scale,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 1s test @ http://127.0.0.1:8080/\n  2 threads and 64 connections\n  Latency Distribution\n\
        \x20    50%    1.02ms\n     99%  999.00us\n  36532 requests in 1.10s, 5.43MB read\nRequests/sec:  33211.07\n";

    #[test]
    fn the_report_of_wrk_is_read_with_its_units() {
        let load = Load { requests: 36532.0, per_second: 33211.07, p99_ms: 0.999 };
        assert_eq!(read(SAID).unwrap(), load);
        assert_eq!(read(&SAID.replace("999.00us", "1.50s")).unwrap().p99_ms, 1500.0);
    }

    #[test]
    fn a_run_with_failed_requests_is_no_figure() {
        let failed = format!("{SAID}  Non-2xx or 3xx responses: 7\n");
        assert!(read(&failed).unwrap_err().to_string().contains("requests failed"));
    }
}
