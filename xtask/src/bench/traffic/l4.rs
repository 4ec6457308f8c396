//! Connections and bytes a second between two containers by a service's address, beside the backend's own over the same
//! links. The package's example does it all, in namespaces of its own, its ways taking turns.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Ground;
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};
use crate::shell;

const CONNECTIONS: &str = "L4, connections to a service";
const GIGABITS: &str = "L4, one connection to a service";
/// As `direct` has no name of a program.
const DIRECT: &str = "direct";

/// What the example prints, as far as it is read: samples by way.
#[derive(Debug, Deserialize)]
struct Measured {
    connections_per_s_samples: BTreeMap<String, Vec<f64>>,
    gbit_per_s_samples: BTreeMap<String, Vec<f64>>,
}

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut example = Command::new(ground.examples.join("l4"));
    example.args([plan.rounds(2, 1).to_string(), plan.rounds(9, 2).to_string()]);
    let said = shell::output(&mut example)?;
    let measured: Measured = serde_json::from_str(&said).with_context(|| format!("the example printed {said:?}"))?;
    for (figure, unit, ways) in [
        (CONNECTIONS, "per second", &measured.connections_per_s_samples),
        (GIGABITS, "Gbit/s", &measured.gbit_per_s_samples),
    ] {
        report.rows.extend(ways.iter().map(|(way, samples)| Row::of(figure, contender(way), unit, samples)));
    }
    report.at_least_best(("l4", "connections_ratio_to_direct"), CONNECTIONS, 0.95, &[DIRECT]);
    report.at_least_best(("l4", "gbit_ratio_to_direct"), GIGABITS, 0.95, &[DIRECT]);
    Ok(())
}

fn contender(way: &str) -> &str {
    match way {
        "bpf" => "coppice",
        "rules" => "coppice by rules alone",
        "wire" => "a bare pair of links",
        other => other,
    }
}
