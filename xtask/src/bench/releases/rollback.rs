//! A rollback with data, from the command to healthy, of a small volume and of one a thousand times its size (fifty times,
//! for a quick look), on one btrfs of a file. Both apps run the same service; they take turns.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::Plan;
use super::super::contenders::{Arena, IMAGE};
use super::super::figures::{Report, Row};
use super::super::starts::once;
use super::project;
use crate::shell;

const FIGURE: &str = "rollback with data, from command to healthy, btrfs";
/// Apps, and bytes in the volume of each.
const SMALL: (&str, u64) = ("small", 10_000_000);
const LARGE: (&str, u64) = ("large", 10_000_000_000);
const LARGE_QUICK: u64 = 500_000_000;
/// Of the filesystem's file, beyond what is in the volumes.
const ROOM: u64 = 4 << 30;

pub(super) fn measure(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let large_bytes = if plan.quick { LARGE_QUICK } else { LARGE.1 };
    let (image, mount) = (arena.folder.join("rollback.btrfs"), arena.folder.join("cut"));
    File::create(&image)
        .and_then(|file| file.set_len(large_bytes + ROOM))
        .context("cannot make the filesystem's file")?;
    std::fs::create_dir(&mount).context("cannot make the mount point")?;
    shell::run(Command::new("mkfs.btrfs").arg("-q").arg(&image))?;
    shell::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
    let measured = on(arena, &mount.join("node"), large_bytes, plan.rounds(12, 3));
    let stopped = arena.coppice_at(&mount.join("node"))?.args(["node", "stop", "--all"]).output();
    shell::run(Command::new("umount").arg("-l").arg(&mount))?;
    let _ = std::fs::remove_file(&image);
    stopped.context("cannot stop the node")?;
    let (small, large) = measured?;
    tell(report, large_bytes, &small, &large);
    Ok(())
}

/// The rows, named after how much there was in the volumes, and what goals speak of.
fn tell(report: &mut Report, large_bytes: u64, small: &[f64], large: &[f64]) {
    let (small_size, large_size) = (size(SMALL.1), size(large_bytes));
    report.rows.push(Row::of(FIGURE, &small_size, "ms", small));
    report.rows.push(Row::of(FIGURE, &large_size, "ms", large));
    if let (Some(small), Some(large)) = (report.median(FIGURE, &small_size), report.median(FIGURE, &large_size)) {
        let ratio = large / small;
        report.ratio("rollback", "large_over_small", ratio);
        report.ratio("rollback", "seconds_to_healthy", large / 1e3);
        report.goal(FIGURE, "flat: ≤ 1.3 × that of the small one".to_owned(), ratio, ratio <= 1.3);
        report.goal(FIGURE, "≤ 1000 ms".to_owned(), large, large <= 1000.0);
    }
}

/// `10 MB`, `10 GB`: whole ones.
fn size(bytes: u64) -> String {
    match bytes / 1_000_000 {
        mb @ ..1000 => format!("{mb} MB"),
        mb => format!("{} GB", mb / 1000),
    }
}

/// Milliseconds of each rollback, of the small one and of the large one.
fn on(arena: &Arena, root: &Path, large: u64, rounds: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    shell::output(arena.coppice_at(root)?.args(["image", "import"]).arg(arena.tar()).arg(IMAGE))?;
    for (app, bytes) in [SMALL, (LARGE.0, large)] {
        let folder = project(arena, app, &manifest(app, 1))?;
        shell::output(arena.coppice_at(root)?.arg("up").current_dir(&folder))?;
        fill(&root.join("volumes").join(app).join("data/head/rows"), bytes)?;
        project(arena, app, &manifest(app, 2))?;
        shell::output(arena.coppice_at(root)?.arg("up").current_dir(&folder))?;
    }
    let mut samples = [Vec::new(), Vec::new()];
    // There and back again: each is a rollback with data. The first of each is not counted.
    for round in 0..=rounds {
        for (app, own) in [SMALL.0, LARGE.0].into_iter().zip(&mut samples) {
            let words: &[&str] =
                if round % 2 == 0 { &["rollback", app, "--data"] } else { &["rollback", app, "--undo"] };
            let took = once(arena.coppice_at(root)?.args(words))?;
            if round > 0 {
                own.push(took);
            }
        }
    }
    let [small, large] = samples;
    Ok((small, large))
}

fn manifest(app: &str, version: u32) -> String {
    format!(
        "app = \"{app}\"\n[service.db]\nimage = \"{IMAGE}\"\n\
         command = [\"/bin/sh\", \"-c\", \"echo {version} > /data/version; exec sleep 3600\"]\nstop_signal = \"KILL\"\n\
         volumes = [\"data:/data\"]\nhealth = {{ type = \"exec\", command = [\"/bin/cat\", \"/data/version\"], interval = \"100ms\" }}\n\
         [volume.data]\n"
    )
}

/// Bytes that neither compress nor are alike.
fn fill(path: &Path, bytes: u64) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(failed)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0u8; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = usize::try_from(left.min(block.len() as u64)).unwrap_or(block.len());
        file.write_all(&block[..part]).with_context(failed)?;
        left -= part as u64;
    }
    file.sync_all().with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::super::super::figures::tests::report;
    use super::*;

    #[test]
    fn a_row_is_named_after_what_was_in_the_volume_also_at_a_quick_look() {
        for (bytes, large) in [(LARGE.1, "10 GB"), (LARGE_QUICK, "500 MB")] {
            let mut told = report(&[]);
            tell(&mut told, bytes, &[50.0], &[60.0]);
            let rows: Vec<&str> = told.rows.iter().map(|row| row.contender.as_str()).collect();
            assert_eq!(rows, ["10 MB", large]);
            assert_eq!(told.ratios["rollback"]["large_over_small"], 1.2);
            assert_eq!(told.ratios["rollback"]["seconds_to_healthy"], 0.06);
            assert!(told.goals.len() == 2 && told.goals.iter().all(|goal| goal.met));
        }
    }
}
