//! `test`, `verify` and `fix`: the checks a change passes, from quick to complete.
//!
//! `verify` never writes to the tree; `fix` is the one that does; `test` is what CI runs. Each stage says its name
//! and how long it took, and the first that fails ends the run, after the tests' own summary.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::cargo;
use crate::{bare, demo, install, shell, tidy, vmtest};

/// Everything, in the order in which failing early saves most time; the test runner's closing lines come last but
/// for the demo and the virtual machine, which need what the runner checked.
pub(crate) fn test(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("test takes no options, got {unknown:?}; for a part, use `cargo nextest run -p <package>`");
    }
    if !install::is_root() {
        bail!("the tests clone namespaces, mount and write cgroups for real: run them as root, `sudo ./x test`");
    }
    let mut skipped = None;
    let mut stages = Stages::default();
    stages.run("packages", install::packages)?;
    stages.run("format", format_check)?;
    stages.run("tidy", || tidy::run(&[]))?;
    stages.run("lints", lints)?;
    stages.run("build", || shell::run(cargo().args(["build", "--workspace", "--all-targets"])))?;
    stages.run("tests", all_tests)?;
    stages.run("documentation tests", || shell::run(cargo().args(["test", "--workspace", "--doc", "--quiet"])))?;
    stages.run("demo", || demo::run(&["--stop".into()]))?;
    for (stage, user) in [("bare", bare::User::Root), ("bare, with sudo", bare::User::Sudo)] {
        stages.run(stage, || {
            if let bare::Outcome::Skipped(why) = bare::show(user)? {
                skipped = Some(why);
            }
            Ok(())
        })?;
    }
    stages.run("vmtest", || vmtest::run(&[]))?;
    stages.closing();
    if let Some(why) = skipped {
        eprintln!("SKIPPED: the demo on a bare machine was not shown: {why}");
    }
    Ok(())
}

/// The quick gate before a commit: writes nothing to the tree.
pub(crate) fn verify(_args: &[String]) -> Result<()> {
    let mut stages = Stages::default();
    stages.run("format", format_check)?;
    stages.run("tidy", || tidy::run(&[]))?;
    stages.run("lints", lints)?;
    stages.run("quick tests", quick_tests)?;
    stages.closing();
    Ok(())
}

/// Formats, and lets clippy apply the fixes it is sure of.
pub(crate) fn fix(_args: &[String]) -> Result<()> {
    shell::run(cargo().args(["fmt", "--all"]))?;
    shell::run(cargo().args(["clippy", "--fix", "--workspace", "--all-targets", "--allow-dirty", "--allow-staged"]))?;
    shell::run(cargo().args(["fmt", "--all"]))
}

fn format_check() -> Result<()> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    shell::run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}

fn all_tests() -> Result<()> {
    if have_nextest() {
        let profile = if std::env::var_os("CI").is_some() { "ci" } else { "default" };
        return shell::run(cargo().args(["nextest", "run", "--workspace", "--profile", profile]));
    }
    eprintln!("cargo-nextest is not there and could not be installed: running the tests with cargo's own runner");
    shell::run(cargo().args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]))
}

/// The pure crates and the tools: no root, no kernel features, seconds.
fn quick_tests() -> Result<()> {
    let pure = ["coppice-base", "coppice-spec", "coppice-manifest", "coppice-supervise", "coppice-state"];
    let mut command = cargo();
    let nextest = shell::succeeds(cargo().args(["nextest", "--version"]));
    command.args(if nextest { &["nextest", "run"][..] } else { &["test"][..] });
    for package in pure.iter().chain(&["coppice-plan", "xtask"]) {
        command.args(["-p", package]);
    }
    shell::run(&mut command)
}

/// Whether nextest runs, after trying to install it where it does not.
fn have_nextest() -> bool {
    let there = || shell::succeeds(cargo().args(["nextest", "--version"]));
    there() || (shell::run(cargo().args(["install", "cargo-nextest", "--locked", "--quiet"])).is_ok() && there())
}

/// Names stages as they run and sums up their times at the end.
#[derive(Default)]
struct Stages(Vec<(&'static str, f64)>);

impl Stages {
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("── {name}");
        let started = Instant::now();
        stage()?;
        self.0.push((name, started.elapsed().as_secs_f64()));
        Ok(())
    }

    fn closing(&self) {
        let parts: Vec<String> = self.0.iter().map(|(name, seconds)| format!("{name} {seconds:.0} s")).collect();
        eprintln!("all stages hold: {}", parts.join(", "));
    }
}

/// The commit the tree is at, short; "unknown" outside a repository.
pub(crate) fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(crate::workspace::root()).args(["rev-parse", "--short", "HEAD"]);
    shell::output(&mut git).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}
