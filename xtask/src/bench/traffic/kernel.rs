//! Questions a second from a container, answered in the kernel, by the node's server, and by dnsmasq. The package's
//! example does it all, in namespaces of its own, its ways taking turns.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Ground;
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};
use crate::shell;

const FIGURE: &str = "DNS in the kernel, from a container";

/// What the example prints, as far as it is read: samples by way.
#[derive(Debug, Deserialize)]
struct Measured {
    samples: BTreeMap<String, Vec<f64>>,
    /// Of asker and server together, in microseconds.
    costs_us: BTreeMap<String, Vec<f64>>,
}

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut example = Command::new(ground.examples.join("names"));
    example.args([plan.rounds(3, 1).to_string(), plan.rounds(9, 2).to_string()]);
    let said = shell::output(&mut example)?;
    let measured: Measured = serde_json::from_str(&said).with_context(|| format!("the example printed {said:?}"))?;
    let cost = format!("{FIGURE}, processor time a question, the asker's too");
    for (figure, unit, of) in [(FIGURE, "per second", &measured.samples), (&cost, "µs", &measured.costs_us)] {
        for (way, samples) in of {
            let contender = match way.as_str() {
                "kernel" => "coppice",
                "server" => "coppice's server",
                other => other,
            };
            report.rows.push(Row::of(figure, contender, unit, samples));
        }
    }
    report.at_least_best(("dns-kernel", "ratio_to_dnsmasq"), FIGURE, 3.0, &["dnsmasq"]);
    Ok(())
}
