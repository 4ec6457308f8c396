//! Start to exit of `/bin/true`: the time from starting the contender's process to its end, as a person at a shell
//! meets it. Each contender is started and waited for in the same way, without output.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Plan;
use super::contenders::{Arena, Contender, Network};
use super::figures::{Report, Row};
use crate::shell;

const WITHOUT: &str = "start to exit, no network";
const BRIDGE: &str = "start to exit, bridge network";
const WARM_UP: usize = 3;
/// Between two containers: the kernel takes network namespaces and mounts down after the process is gone, under
/// locks that the next contender would wait for.
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
    rounds(WITHOUT, without.into(), plan.rounds(40, 5), report)?;
    report.at_most(WITHOUT, 0.25, "runc");
    report.at_most(WITHOUT, 1.2, "crun, no cgroups");
    report.at_most(WITHOUT, 2.5, "floor");

    let bridged: [(&str, Result<Contender>); 4] = [
        ("floor", arena.floor()),
        ("podman", arena.podman(Network::Bridge)),
        ("docker", arena.docker(Network::Bridge)),
        ("coppice", arena.coppice(Network::Bridge)),
    ];
    rounds(BRIDGE, bridged.into(), plan.rounds(25, 4), report)?;
    report.at_most(BRIDGE, 0.05, "docker");
    report.at_most(BRIDGE, 4.0, "floor");
    Ok(())
}

fn rounds(figure: &str, contenders: Vec<(&str, Result<Contender>)>, count: usize, report: &mut Report) -> Result<()> {
    let mut ready = Vec::new();
    for (name, contender) in contenders {
        match contender {
            Ok(contender) => ready.push((contender, Vec::with_capacity(count))),
            Err(error) => report.skip(format!("{name} ({figure})"), format!("{error:#}")),
        }
    }
    for round in 0..count + WARM_UP {
        // Every round starts with another one and every second goes backwards, so that nobody always follows the
        // same neighbour.
        let places = ready.len();
        for turn in 0..places {
            let place = if round % 2 == 0 { turn + round } else { round + places - turn } % places;
            let (contender, samples) = &mut ready[place];
            thread::sleep(REST);
            let took = once(&mut (contender.command)(round, &["/bin/true"]))
                .with_context(|| format!("{} in round {round}", contender.name))?;
            if round >= WARM_UP {
                samples.push(took);
            }
        }
    }
    report.rows.extend(ready.iter().map(|(contender, samples)| Row::of(figure, contender.name, "ms", samples)));
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
