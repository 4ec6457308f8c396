//! What a release costs: the second `up` of an app that has not changed, and the plan of a large one: the time is that of
//! the command, from its start to its exit, as a person at a shell meets it. And what a volume's part of a release costs.

mod noop;
mod plan;
mod roll;
mod rollback;
mod switch;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::contenders::{Arena, IMAGE};
use super::figures::Report;
use super::starts::once;

type Measure = fn(&Arena, &super::Plan, &mut Report) -> Result<()>;

/// The parts by their names on the command line.
pub(super) const PARTS: &[(&str, Measure)] = &[
    ("noop-up", noop::measure),
    ("plan", plan::measure),
    ("roll", roll::measure),
    ("switch", switch::measure),
    ("rollback", rollback::measure),
];

pub(super) use switch::build as build_switch;

/// `count` services of one image, each with what services usually have.
fn manifest(app: &str, count: usize) -> String {
    let mut text = format!("app = \"{app}\"\n");
    for number in 0..count {
        let _ = write!(
            text,
            "\n[service.s{number:04}]\nimage = \"{IMAGE}\"\ncommand = [\"/bin/sleep\", \"3600\"]\nstop_signal = \"KILL\"\n\
             env = {{ NUMBER = \"{number}\", MODE = \"bench\" }}\nlimits = {{ memory = \"64m\", pids = 50 }}\nrestart = \"always\"\n"
        );
    }
    text
}

/// A folder with this manifest.
fn project(arena: &Arena, app: &str, manifest: &str) -> Result<std::path::PathBuf> {
    let folder = arena.folder.join(app);
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("coppice.toml");
    std::fs::write(&file, manifest).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(folder)
}

/// `coppice WORDS` in a folder.
fn coppice(arena: &Arena, folder: &Path, words: &[&str]) -> Result<Command> {
    let mut command = arena.coppice_command()?;
    command.args(words).current_dir(folder);
    Ok(command)
}

/// Milliseconds of each of so many runs of `coppice WORDS`, after one that is not counted.
fn timed(arena: &Arena, folder: &Path, words: &[&str], rounds: usize) -> Result<Vec<f64>> {
    once(&mut coppice(arena, folder, words)?)?;
    (0..rounds).map(|_| once(&mut coppice(arena, folder, words)?)).collect()
}

/// Whether a figure's median is within so many milliseconds.
fn within(report: &mut Report, part: &'static str, key: &'static str, figure: &str, limit_ms: f64) {
    let Some(median) = report.median(figure, "coppice") else { return };
    report.ratio(part, key, median);
    report.goal(figure, format!("≤ {limit_ms} ms"), median, median <= limit_ms);
}
