//! The plan of 1,000 services: first of an app that is not there. Nothing is brought up: what is compared is what costs,
//! and a thousand containers would be another benchmark.

use anyhow::Result;

use super::super::contenders::{Arena, Network};
use super::super::figures::{Report, Row};
use super::{manifest, project, timed, within};

const FIGURE: &str = "plan of 1,000 services, as JSON";
const SERVICES: usize = 1000;

pub(super) fn measure(arena: &Arena, plan: &super::super::Plan, report: &mut Report) -> Result<()> {
    arena.coppice(Network::None)?;
    let folder = project(arena, "large", &manifest("large", SERVICES))?;
    let samples = timed(arena, &folder, &["plan", "--json"], plan.rounds(30, 5))?;
    report.rows.push(Row::of(FIGURE, "coppice", "ms", &samples));
    within(report, "plan", "ms_per_plan", FIGURE, 100.0);
    let read = timed(arena, &folder, &["validate", "--quiet"], plan.rounds(30, 5))?;
    report.rows.push(Row::of("of which reading the manifest", "coppice", "ms", &read));
    Ok(())
}
