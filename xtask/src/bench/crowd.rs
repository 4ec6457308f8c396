//! Many at once and many that do nothing: a burst of containers, what idle ones cost, and what an idle node costs.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Plan;
use super::contenders::{Arena, Contender, IMAGE, Network};
use super::figures::{Report, Row};
use super::processes::Processes;
use crate::shell;

const BURST: usize = 200;
const CROWD: usize = 500;

/// All containers started at once, each of which must print its own number and end with 0.
pub(super) fn burst(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let figure = format!("burst of {BURST}");
    for (name, contender) in [
        ("crun", arena.runtime("crun", "crun", &["--cgroup-manager=cgroupfs"])),
        ("runc", arena.runtime("runc", "runc", &[])),
        ("coppice", arena.coppice(Network::None)),
    ] {
        let measured = contender.and_then(|contender| {
            (0..plan.rounds(3, 1)).map(|round| one_burst(&contender, round)).collect::<Result<Vec<f64>>>()
        });
        match measured {
            Ok(samples) => report.rows.push(Row::of(&figure, name, "per second", &samples)),
            Err(error) => report.skip(format!("{name} ({figure})"), format!("{error:#}")),
        }
    }
    if let Some(rate) = report.median(&figure, "coppice") {
        report.goal(&figure, "≥ 150 per second on two cores".into(), rate, rate >= 150.0);
    }
    Ok(())
}

fn one_burst(contender: &Contender, round: usize) -> Result<f64> {
    let mut commands: Vec<_> = (0..BURST)
        .map(|number| {
            let mut command = (contender.command)(1000 * (round + 1) + number, &["/bin/echo", &number.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        })
        .collect();
    let started = Instant::now();
    let children = commands.iter_mut().map(|command| command.spawn().context("cannot start one of the burst"));
    let children = children.collect::<Result<Vec<_>>>()?;
    let mut wrong = Vec::new();
    for (number, child) in children.into_iter().enumerate() {
        let done = child.wait_with_output()?;
        if !done.status.success() || String::from_utf8_lossy(&done.stdout).trim() != number.to_string() {
            wrong.push(format!("{number}: {} {}", done.status, String::from_utf8_lossy(&done.stderr).trim()));
        }
    }
    let took = started.elapsed().as_secs_f64();
    if let Some(first) = wrong.first() {
        bail!("{} of {BURST} went wrong, the first {first}", wrong.len());
    }
    Ok(BURST as f64 / took)
}

/// Resident memory of daemon and launcher with many containers that sleep.
pub(super) fn idle_containers(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let crowd = plan.rounds(CROWD, 50);
    let figure = format!("{crowd} idle containers, daemon and launcher");
    let _tried = arena.coppice(Network::None)?;
    let mut ids = Vec::with_capacity(crowd);
    for _ in 0..crowd {
        let mut command = arena.coppice_command()?;
        command.args(["run", "-d", "--network", "none", IMAGE, "/bin/sleep", "100000"]);
        ids.push(shell::output(&mut command)?.trim().to_owned());
    }
    let node = node(arena)?;
    let (resident, own) = node.memory_mb()?;
    report.rows.push(Row::of(&figure, "coppice", "MB", &[resident]));
    report.rows.push(Row::of(&format!("{figure} (proportional)"), "coppice", "MB", &[own]));
    if crowd == CROWD {
        report.goal(&figure, "≤ 60 MB resident".into(), resident, resident <= 60.0);
    }
    for some in ids.chunks(50) {
        shell::output(arena.coppice_command()?.args(["rm", "--force"]).args(some))?;
    }
    Ok(())
}

/// Memory and processor time of a node that runs nothing.
pub(super) fn idle_node(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let seconds = plan.rounds(30, 5) as f64;
    let _tried = arena.coppice(Network::None)?;
    let node = node(arena)?;
    let before = node.processor_s()?;
    thread::sleep(Duration::from_secs_f64(seconds));
    let share = (node.processor_s()? - before) / seconds * 100.0;
    let (resident, own) = node.memory_mb()?;
    report.rows.push(Row::of("idle node, memory", "coppice", "MB", &[resident]));
    report.rows.push(Row::of("idle node, memory (proportional)", "coppice", "MB", &[own]));
    report.rows.push(Row::of("idle node, processor", "coppice", "%", &[share]));
    report.goal("idle node, memory", "≤ 25 MB".into(), resident, resident <= 25.0);
    report.goal("idle node, processor", "≤ 0.2 %".into(), share, share <= 0.2);
    Ok(())
}

/// The two processes of a node.
fn node(arena: &Arena) -> Result<Processes> {
    let text = shell::output(arena.coppice_command()?.args(["node", "status", "--json"]))?;
    let status: Value = serde_json::from_str(&text).context("node status --json is not JSON")?;
    let pid = |key: &str| status[key].as_u64().with_context(|| format!("node status --json has no {key}"));
    Ok(Processes(vec![pid("pid")?, pid("launcher_pid")?]))
}
