//! The second `up` of 20 services, all of which run: read, compared, found to be the same.

use anyhow::Result;

use super::super::contenders::{Arena, Network};
use super::super::figures::{Report, Row};
use super::{coppice, manifest, project, timed, within};
use crate::shell;

const FIGURE: &str = "up again of 20 services that run";
const SERVICES: usize = 20;

pub(super) fn measure(arena: &Arena, plan: &super::super::Plan, report: &mut Report) -> Result<()> {
    // Imports the image, and is seen to work.
    arena.coppice(Network::None)?;
    let folder = project(arena, "noop", &manifest("noop", SERVICES))?;
    shell::output(&mut coppice(arena, &folder, &["up"])?)?;
    let samples = timed(arena, &folder, &["up"], plan.rounds(50, 5))?;
    report.rows.push(Row::of(FIGURE, "coppice", "ms", &samples));
    within(report, "noop-up", "ms_per_noop_up", FIGURE, 50.0);
    let dry = timed(arena, &folder, &["plan"], plan.rounds(50, 5))?;
    report.rows.push(Row::of("plan of the same", "coppice", "ms", &dry));
    shell::output(&mut coppice(arena, &folder, &["down"])?)?;
    Ok(())
}
