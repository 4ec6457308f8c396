//! Questions a second to a name server for names that are its own: `dnsperf` over UDP.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Ground, costed, ready, servers, take_turns};
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};
use crate::shell;

const FIGURE: &str = "DNS, names of its own";

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let contenders = ready(FIGURE, servers::name_servers(ground)?, report);
    let seconds = plan.rounds(4, 1);
    let [rates, costs] = take_turns(&contenders, plan.rounds(9, 2), |contender| {
        let (cost_s, load) = costed(contender, || dnsperf(ground, contender.port, seconds))?;
        Ok([load.per_second, cost_s * 1e6 / load.answered])
    })?;
    let cost = format!("{FIGURE}, processor time a question");
    for (figure, unit, samples) in [(FIGURE, "per second", rates), (&cost, "µs", costs)] {
        let rows = contenders.iter().zip(&samples);
        report.rows.extend(rows.map(|(contender, samples)| Row::of(figure, contender.name, unit, samples)));
    }
    report.at_least_best(("dns", "ratio_to_dnsmasq"), FIGURE, 2.0, &["dnsmasq"]);
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Load {
    answered: f64,
    per_second: f64,
}

fn dnsperf(ground: &Ground, port: u16, seconds: usize) -> Result<Load> {
    let mut command = Command::new("dnsperf");
    // Six askers, each with a socket and threads of its own: where one thread has many sockets, much of what is measured is
    // dnsperf looking which of them has an answer.
    command.args(["-s", "127.0.0.1", "-p", &port.to_string(), "-c", "6", "-T", "6", "-q", "100"]);
    command.args(["-l", &seconds.to_string(), "-d"]).arg(ground.folder.join("questions"));
    read(&shell::output(&mut command)?)
}

/// Reads dnsperf's report. Every answer must be one, and hardly a question may be lost.
fn read(said: &str) -> Result<Load> {
    let after = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
        line.with_context(|| format!("dnsperf printed no {key:?}: {said}"))
    };
    let number = |key: &str| {
        let word = after(key)?.split_whitespace().next().unwrap_or_default();
        word.parse::<f64>().with_context(|| format!("dnsperf printed {key} {word:?}"))
    };
    let answered = number("Queries completed:")?;
    if !after("Response codes:")?.starts_with("NOERROR") || after("Response codes:")?.contains(',') {
        bail!("questions were not answered: {said}");
    }
    if number("Queries lost:")? > answered / 1000.0 {
        bail!("questions were lost: {said}");
    }
    Ok(Load { answered, per_second: number("Queries per second:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Statistics:\n\n  Queries sent:         200000\n  Queries completed:    200000 (100.00%)\n  \
        Queries lost:         0 (0.00%)\n\n  Response codes:       NOERROR 200000 (100.00%)\n  \
        Queries per second:   99999.5\n";

    #[test]
    fn the_report_of_dnsperf_is_read_and_wrong_or_lost_answers_are_no_figure() {
        assert_eq!(read(SAID).unwrap(), Load { answered: 200_000.0, per_second: 99_999.5 });
        for (from, to) in [
            ("NOERROR 200000", "NXDOMAIN 200000"),
            ("(100.00%)\n  Queries per", "(50.00%), REFUSED 100000 (50.00%)\n  Queries per"),
            ("lost:         0 (0", "lost:         900 (0"),
        ] {
            assert!(read(&SAID.replace(from, to)).is_err(), "{to}");
        }
    }
}
