//! `bench`: Coppice beside its peers, all in one run on the same root filesystem.
//!
//! The whole benchmark runs in mount, network and process namespaces of its own, with a private `/run`: daemons
//! of peers see nothing of the machine's own, bridges and rules vanish with the network namespace, and when the
//! benchmark ends, however it ends, the kernel ends everything in it. Contenders take turns (A B C, A B C, …) so that a
//! slow moment of the machine meets all of them; a figure is the median, with the 10th and 90th percentile.
//!
//! What cannot run is skipped with a word, never guessed.

mod chart;
mod contenders;
mod crowd;
mod figures;
mod pull;
mod starts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::contenders::Arena;
use self::figures::Report;
use crate::release;
use crate::workspace::{self, cargo};
use crate::{gate, install, shell};

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "COPPICE_BENCH_INSIDE";

/// The parts, by name.
const PARTS: &[&str] = &["start", "burst", "idle", "crowd", "pull"];

/// What the command line asked for.
pub(crate) struct Plan {
    quick: bool,
    json: bool,
    commit_results: bool,
    parts: Vec<String>,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self { quick: false, json: false, commit_results: false, parts: Vec::new() };
        for arg in args {
            match arg.as_str() {
                "--quick" => plan.quick = true,
                "--json" => plan.json = true,
                "--commit-results" => plan.commit_results = true,
                part if PARTS.contains(&part) => plan.parts.push(part.to_owned()),
                other => bail!("bench has no part or option {other:?}; parts are {}", PARTS.join(", ")),
            }
        }
        if plan.commit_results && (plan.quick || !plan.parts.is_empty()) {
            bail!("--commit-results records a complete run: give it without --quick and without parts");
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    /// `full`, or the smaller number when a quick look is wanted.
    fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// Runs the benchmark.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let plan = Plan::parse(args)?;
    if std::env::var_os(INSIDE).is_some() {
        return inside(&plan);
    }
    if !install::is_root() {
        bail!("the benchmark starts containers and daemons: run it as root, `sudo ./x bench`");
    }
    install::packages()?;
    shell::run(cargo().args(["build", "--quiet", "--release", "-p", "coppice-floor"]))?;
    release::build()?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut unshared = Command::new("unshare");
    unshared.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshared.arg(this).arg("bench").args(args).env(INSIDE, "1");
    let before = peer_groups();
    let status = unshared.status().context("cannot run unshare")?;
    for group in peer_groups().into_iter().filter(|group| !before.contains(group)) {
        remove_group(&group);
    }
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}

/// The control groups that peers make for all their containers and leave behind.
fn peer_groups() -> Vec<PathBuf> {
    let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let base = std::iter::once(PathBuf::from("/sys/fs/cgroup"));
    let groups = base.chain(controllers).flat_map(|folder| ["docker", "libpod_parent"].map(|name| folder.join(name)));
    groups.filter(|group| group.is_dir()).collect()
}

/// Removes an empty group and the groups below it.
fn remove_group(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&below.path());
    }
    let _ = fs::remove_dir(group);
}

fn inside(plan: &Plan) -> Result<()> {
    let arena = Arena::prepare()?;
    let mut report = Report::new(gate::commit())?;
    let mut part = |name: &str, run: &dyn Fn(&Arena, &Plan, &mut Report) -> Result<()>| {
        if plan.wants(name) {
            eprintln!("── {name}");
            if let Err(error) = run(&arena, plan, &mut report) {
                report.skip(name, format!("{error:#}"));
            }
        }
    };
    part("start", &starts::measure);
    part("idle", &crowd::idle_node);
    part("burst", &crowd::burst);
    part("crowd", &crowd::idle_containers);
    part("pull", &pull::measure);
    // Else its control groups would outlive the namespaces. Where none was started there is nothing to stop.
    if let Ok(mut stop) = arena.coppice_command() {
        let _ = shell::output(stop.args(["node", "stop", "--all"]));
    }
    if plan.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    if plan.commit_results { commit_results(&report) } else { Ok(()) }
}

/// Writes the results with their date and machine, and draws the README's chart from them.
fn commit_results(report: &Report) -> Result<()> {
    let root = workspace::root();
    let folder: PathBuf = root.join("bench/results");
    fs::create_dir_all(&folder)?;
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(folder.join(format!("{}-{}.json", report.date, report.machine_word())), &text)?;
    fs::write(folder.join("latest.json"), &text)?;
    fs::write(root.join("docs/bench.svg"), chart::draw(report))?;
    eprintln!("wrote bench/results and docs/bench.svg");
    Ok(())
}
