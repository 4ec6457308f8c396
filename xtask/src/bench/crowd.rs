//! Many at once and many that do nothing: a burst of containers, what idle ones cost, and what an idle node costs.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Plan;
use super::contenders::{Arena, Contender, IMAGE, Network};
use super::figures::{Report, Row};
use crate::shell;

const BURST: usize = 200;
const CROWD: usize = 500;
/// Kernel ticks a second in /proc/PID/stat; fixed by the ABI on x86-64 and arm64.
const TICKS: f64 = 100.0;

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
    let node = Node::find(arena)?;
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
    let node = Node::find(arena)?;
    let before = node.ticks()?;
    thread::sleep(Duration::from_secs_f64(seconds));
    let share = (node.ticks()? - before) / TICKS / seconds * 100.0;
    let (resident, own) = node.memory_mb()?;
    report.rows.push(Row::of("idle node, memory", "coppice", "MB", &[resident]));
    report.rows.push(Row::of("idle node, memory (proportional)", "coppice", "MB", &[own]));
    report.rows.push(Row::of("idle node, processor", "coppice", "%", &[share]));
    report.goal("idle node, memory", "≤ 25 MB".into(), resident, resident <= 25.0);
    report.goal("idle node, processor", "≤ 0.2 %".into(), share, share <= 0.2);
    Ok(())
}

/// The two processes of a node.
struct Node {
    pids: [u64; 2],
}

impl Node {
    fn find(arena: &Arena) -> Result<Self> {
        let text = shell::output(arena.coppice_command()?.args(["node", "status", "--json"]))?;
        let status: Value = serde_json::from_str(&text).context("node status --json is not JSON")?;
        let pid = |key: &str| status[key].as_u64().with_context(|| format!("node status --json has no {key}"));
        Ok(Self { pids: [pid("pid")?, pid("launcher_pid")?] })
    }

    /// Resident (what the goal is about) and proportional (pages shared between the two counted once).
    fn memory_mb(&self) -> Result<(f64, f64)> {
        let (mut resident, mut own) = (0.0, 0.0);
        for pid in self.pids {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .with_context(|| format!("process {pid} of the node is gone"))?;
            resident += kilobytes(&rollup, "Rss:") / 1024.0;
            own += kilobytes(&rollup, "Pss:") / 1024.0;
        }
        Ok((resident, own))
    }

    fn ticks(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // After the name in parentheses, which may hold anything: utime and stime are the 12th and 13th.
            let (_, rest) = stat.rsplit_once(')').context("a strange /proc/PID/stat")?;
            sum += rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(sum)
    }
}

fn kilobytes(rollup: &str, key: &str) -> f64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}
