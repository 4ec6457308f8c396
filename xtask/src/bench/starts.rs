//! Start to exit of `/bin/true`: the time from starting the contender's process to its end, as a person at a shell
//! meets it. Each contender is started and waited for in the same way, without output.
//!
//! Two ways of taking turns tell two truths. In blocks (a few starts of one contender, then of the next) the kernel's
//! state is that of a machine which starts containers all the time. After a pause, the first move into a control
//! group waits for an RCU grace period of several milliseconds, which everybody pays who uses groups, the floor too;
//! that is what a lone `run` on a quiet machine meets.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contenders::{Arena, Contender, Network};
use super::figures::{Report, Row};
use super::{Plan, turns};
use crate::shell;

const WITHOUT: &str = "start to exit, no network";
const BRIDGE: &str = "start to exit, bridge network";
const LONE: &str = "start to exit after a pause, no network";

/// Starts of one contender in a row, and how many of them come before the clock runs.
struct Block {
    starts: usize,
    untimed: usize,
    /// Before each start.
    pause: Duration,
}

const STEADY: Block = Block { starts: 6, untimed: 2, pause: Duration::ZERO };
const AFTER_PAUSE: Block = Block { starts: 1, untimed: 0, pause: Duration::from_millis(100) };

/// Before a block: the kernel takes the last one's network namespaces and mounts down after its process is gone.
const REST: Duration = Duration::from_millis(50);

/// Both networks, and their goals.
pub(super) fn measure(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let without: [(&str, Result<Contender>); 7] = [
        ("floor", arena.floor()),
        ("runc", arena.runtime("runc", "runc", &[])),
        ("crun", arena.runtime("crun", "crun", &["--cgroup-manager=cgroupfs"])),
        ("crun, no cgroups", arena.runtime("crun, no cgroups", "crun", &["--cgroup-manager=disabled"])),
        ("podman", arena.podman(Network::None)),
        ("docker", arena.docker(Network::None)),
        ("coppice", arena.coppice(Network::None)),
    ];
    let without = ready(WITHOUT, without.into(), report);
    take_turns(WITHOUT, &without, &STEADY, plan.rounds(12, 2), report)?;
    report.at_most(WITHOUT, 0.25, "runc");
    report.at_most(WITHOUT, 1.2, "crun, no cgroups");
    report.at_most(WITHOUT, 2.5, "floor");

    let few: Vec<Contender> =
        without.into_iter().filter(|contender| !["podman", "docker"].contains(&contender.name)).collect();
    take_turns(LONE, &few, &AFTER_PAUSE, plan.rounds(40, 5), report)?;

    let bridged: [(&str, Result<Contender>); 4] = [
        ("floor", arena.floor()),
        ("podman", arena.podman(Network::Bridge)),
        ("docker", arena.docker(Network::Bridge)),
        ("coppice", arena.coppice(Network::Bridge)),
    ];
    let bridged = ready(BRIDGE, bridged.into(), report);
    take_turns(BRIDGE, &bridged, &STEADY, plan.rounds(8, 2), report)?;
    report.at_most(BRIDGE, 0.05, "docker");
    report.at_most(BRIDGE, 4.0, "floor");
    Ok(())
}

/// Those who ran once; the others are skipped with their word.
fn ready(figure: &str, contenders: Vec<(&str, Result<Contender>)>, report: &mut Report) -> Vec<Contender> {
    let mut ready = Vec::new();
    for (name, contender) in contenders {
        match contender {
            Ok(contender) => ready.push(contender),
            Err(error) => report.skip(format!("{name} ({figure})"), format!("{error:#}")),
        }
    }
    ready
}

fn take_turns(figure: &str, contenders: &[Contender], block: &Block, rounds: usize, report: &mut Report) -> Result<()> {
    let mut samples = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for place in turns(round, contenders.len()) {
            let contender = &contenders[place];
            thread::sleep(REST);
            for start in 0..block.starts {
                thread::sleep(block.pause);
                let took = once(&mut (contender.command)(start, &["/bin/true"]))
                    .with_context(|| format!("{} in round {round}", contender.name))?;
                if start >= block.untimed {
                    samples[place].push(took);
                }
            }
        }
    }
    let rows =
        contenders.iter().zip(&samples).map(|(contender, samples)| Row::of(figure, contender.name, "ms", samples));
    report.rows.extend(rows);
    Ok(())
}

/// Milliseconds from spawn to reaped.
pub(super) fn once(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot start `{}`", shell::line(command)))?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        bail!("`{}` failed: {status}", shell::line(command));
    }
    Ok(took)
}
