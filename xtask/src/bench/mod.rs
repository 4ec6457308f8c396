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
mod processes;
mod pull;
mod releases;
mod starts;
mod traffic;

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

/// Open files that a process may have: 10,000 connections, each with both its ends. Where root may not set it, what root
/// may have.
const FILES: usize = 32_768;

/// Parts that belong together: they share a place to run and a file of results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Suite {
    Containers,
    Traffic,
    Releases,
}

impl Suite {
    const ALL: [Suite; 3] = [Suite::Containers, Suite::Traffic, Suite::Releases];

    /// Stands for all of its parts on the command line.
    fn name(self) -> &'static str {
        match self {
            Suite::Containers => "containers",
            Suite::Traffic => "traffic",
            Suite::Releases => "releases",
        }
    }

    fn parts(self) -> Vec<&'static str> {
        match self {
            Suite::Containers => vec!["start", "idle", "burst", "crowd", "pull"],
            Suite::Traffic => traffic::PARTS.iter().map(|(name, _)| *name).collect(),
            Suite::Releases => releases::PARTS.iter().map(|(name, _)| *name).collect(),
        }
    }
}

/// What the command line asked for.
pub(crate) struct Plan {
    quick: bool,
    json: bool,
    commit_results: bool,
    /// None: all.
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
                word => match Suite::ALL.into_iter().find(|suite| suite.name() == word) {
                    Some(suite) => plan.parts.extend(suite.parts().into_iter().map(str::to_owned)),
                    None => plan.parts.push(word.to_owned()),
                },
            }
        }
        let known: Vec<_> = Suite::ALL.into_iter().flat_map(Suite::parts).collect();
        if let Some(other) = plan.parts.iter().find(|part| !known.contains(&part.as_str())) {
            let suites = Suite::ALL.map(Suite::name).join(", ");
            bail!("bench has no part or option {other:?}; parts are {}; {suites} stand for several", known.join(", "));
        }
        let whole = |suite: Suite| suite.parts().iter().all(|part| plan.wants(part));
        if plan.commit_results
            && (plan.quick || !Suite::ALL.into_iter().all(|suite| !plan.wants_some(suite) || whole(suite)))
        {
            bail!("--commit-results records complete runs: give it without --quick, and with whole suites or nothing");
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    fn wants_some(&self, suite: Suite) -> bool {
        suite.parts().iter().any(|part| self.wants(part))
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
    if plan.wants_some(Suite::Containers) {
        shell::run(cargo().args(["build", "--quiet", "--release", "-p", "coppice-floor"]))?;
        release::build()?;
    }
    if plan.wants_some(Suite::Traffic) {
        traffic::build()?;
    }
    if plan.wants_some(Suite::Releases) {
        release::build()?;
        if plan.wants("switch") {
            releases::build_switch()?;
        }
    }
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut unshared = Command::new("sh");
    unshared.args(["-c", &format!("ulimit -n {FILES} 2>/dev/null || ulimit -n $(ulimit -Hn); exec \"$@\""), "sh"]);
    unshared.args(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
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
    let mut whole: Option<Report> = None;
    for suite in Suite::ALL.into_iter().filter(|suite| plan.wants_some(*suite)) {
        let mut report = Report::new(gate::commit())?;
        match suite {
            Suite::Containers => containers(plan, &mut report)?,
            Suite::Releases => releases(plan, &mut report)?,
            Suite::Traffic => {
                let ground = traffic::Ground::prepare()?;
                for (name, measure) in traffic::PARTS {
                    part(plan, name, &mut report, |report| measure(&ground, plan, report));
                }
            }
        }
        if !plan.json {
            print!("{}", report.table());
        }
        if plan.commit_results {
            commit_results(suite, &report)?;
        }
        match &mut whole {
            Some(whole) => whole.join(report),
            None => whole = Some(report),
        }
    }
    if let Some(whole) = whole.filter(|_| plan.json) {
        println!("{}", whole.json(&plan.parts)?);
    }
    Ok(())
}

/// Measures one part, where it is wanted; what fails is skipped with its word.
fn part(plan: &Plan, name: &str, report: &mut Report, measure: impl FnOnce(&mut Report) -> Result<()>) {
    if plan.wants(name) {
        eprintln!("── {name}");
        if let Err(error) = measure(report) {
            report.skip(name, format!("{error:#}"));
        }
    }
}

fn containers(plan: &Plan, report: &mut Report) -> Result<()> {
    let arena = Arena::prepare()?;
    part(plan, "start", report, |report| starts::measure(&arena, plan, report));
    part(plan, "idle", report, |report| crowd::idle_node(&arena, plan, report));
    part(plan, "burst", report, |report| crowd::burst(&arena, plan, report));
    part(plan, "crowd", report, |report| crowd::idle_containers(&arena, plan, report));
    part(plan, "pull", report, |report| pull::measure(&arena, plan, report));
    stop_node(&arena);
    Ok(())
}

fn releases(plan: &Plan, report: &mut Report) -> Result<()> {
    let arena = Arena::prepare()?;
    for (name, measure) in releases::PARTS {
        part(plan, name, report, |report| measure(&arena, plan, report));
    }
    stop_node(&arena);
    Ok(())
}

/// Else its control groups would outlive the namespaces. Where none was started there is nothing to stop.
fn stop_node(arena: &Arena) {
    if let Ok(mut stop) = arena.coppice_command() {
        let _ = shell::output(stop.args(["node", "stop", "--all"]));
    }
}

/// The order in which so many contenders have their turn. Every round starts with another one and every second goes
/// backwards, so that nobody always follows the same neighbour.
fn turns(round: usize, places: usize) -> impl Iterator<Item = usize> {
    (0..places).map(move |turn| if round.is_multiple_of(2) { turn + round } else { round + places - turn } % places)
}

/// Writes the results with their date and machine, and draws the README's chart from them.
fn commit_results(suite: Suite, report: &Report) -> Result<()> {
    let root = workspace::root();
    let folder: PathBuf = root.join("bench/results");
    fs::create_dir_all(&folder)?;
    let text = serde_json::to_string_pretty(report)? + "\n";
    // The files of the first suite have no name in theirs: they are older than the second.
    let (dated, latest, chart) = match suite {
        Suite::Containers => (String::new(), "latest.json", Some(("docs/bench.svg", chart::starts(report)))),
        Suite::Traffic => ("-traffic".to_owned(), "traffic.json", Some(("docs/traffic.svg", chart::traffic(report)))),
        Suite::Releases => ("-releases".to_owned(), "releases.json", None),
    };
    fs::write(folder.join(format!("{}-{}{dated}.json", report.date, report.machine_word())), &text)?;
    fs::write(folder.join(latest), &text)?;
    eprintln!("wrote bench/results/{latest}");
    if let Some((path, drawing)) = chart {
        fs::write(root.join(path), drawing)?;
        eprintln!("wrote {path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Result<Plan> {
        Plan::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_suite_stands_for_its_parts_and_only_whole_suites_are_recorded() {
        let traffic = plan(&["traffic", "--commit-results"]).unwrap();
        assert!(traffic.wants("dns") && !traffic.wants("start") && !traffic.wants_some(Suite::Containers));
        let all = plan(&["--commit-results"]).unwrap();
        assert!(all.wants("dns") && all.wants("start"));
        for words in [&["proxy", "--commit-results"][..], &["traffic", "pull", "--commit-results"], &["prox"]] {
            assert!(plan(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn every_contender_has_one_turn_a_round_and_rounds_begin_with_different_ones() {
        let rounds: Vec<Vec<usize>> = (0..4).map(|round| turns(round, 3).collect()).collect();
        assert_eq!(rounds, [[0, 1, 2], [1, 0, 2], [2, 0, 1], [0, 2, 1]]);
    }
}
