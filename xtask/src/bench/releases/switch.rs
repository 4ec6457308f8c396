//! A snapshot and a switch of a volume, beside the bare `btrfs` commands for the same, on one btrfs of a file.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::Plan;
use super::super::contenders::Arena;
use super::super::figures::{Report, Row};
use crate::{release, shell, workspace};

const FIGURE: &str = "snapshot and switch of a volume, btrfs";
/// What it may cost of the bare commands' time.
const SHARE: f64 = 2.0;
/// Bytes of the file that the filesystem is on.
const SIZE: u64 = 2 << 30;
/// Rounds that come before those that count.
const UNTIMED: usize = 2;

/// The program that takes turns with the commands.
pub(in crate::bench) fn build() -> Result<()> {
    release::example("coppice-dataset", "switch")
}

pub(super) fn measure(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let (image, mount) = (arena.folder.join("switch.btrfs"), arena.folder.join("switch"));
    File::create(&image).and_then(|file| file.set_len(SIZE)).context("cannot make the filesystem's file")?;
    std::fs::create_dir(&mount).context("cannot make the mount point")?;
    shell::run(Command::new("mkfs.btrfs").arg("-q").arg(&image))?;
    shell::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
    let timed = timed(&mount, plan.rounds(40, 5) + UNTIMED);
    shell::run(Command::new("umount").arg(&mount))?;
    let text = timed?;
    for contender in ["coppice", "btrfs"] {
        let own = text.lines().filter_map(|line| line.strip_prefix(contender)?.trim().parse().ok());
        let samples: Vec<f64> = own.skip(UNTIMED).collect();
        report.rows.push(Row::of(FIGURE, contender, "ms", &samples));
    }
    report.at_most(FIGURE, SHARE, "btrfs");
    if let (Some(ours), Some(bare)) = (report.median(FIGURE, "coppice"), report.median(FIGURE, "btrfs")) {
        report.ratio("switch", "ratio", ours / bare);
    }
    Ok(())
}

fn timed(mount: &Path, rounds: usize) -> Result<String> {
    let program = workspace::Metadata::read(&workspace::root())?.target_directory.join("release/examples/switch");
    shell::output(Command::new(program).arg(mount).arg(rounds.to_string()))
}
