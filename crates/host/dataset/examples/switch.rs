//! What a snapshot and a switch cost beside the bare `btrfs` commands for the same: `switch FOLDER ROUNDS`, in an empty folder
//! on btrfs. They take turns; each line is who it was and how many milliseconds it took.
//!
//! Before each, both write the same: what a filesystem has to write down is in the time, too.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use coppice_base::Name;
use coppice_dataset::{DatasetName, Kind, SnapshotName, Stamps, Store};

/// Bytes that are written before each round, and files that are there.
const WRITTEN: usize = 1 << 20;
const FILES: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(rounds)) = (args.next(), args.next()) else {
        return Err("switch FOLDER ROUNDS".into());
    };
    let (folder, rounds): (&Path, u32) = (Path::new(&folder), rounds.parse()?);
    let store = Store::open(&folder.join("store"))?;
    if store.kind() != Kind::Btrfs {
        return Err(format!("{} is not on btrfs", folder.display()).into());
    }
    let name = DatasetName { app: Some(Name::new("bench")?), volume: Name::new("data")? };
    let ours = store.create(&name, fill)?;
    let bare = folder.join("bare");
    fs::create_dir(&bare)?;
    btrfs(&["create"], &[&bare.join("head")])?;
    fill(&bare.join("head"))?;

    let mut stamps = Stamps::default();
    stamps.set("release", "12")?;
    for round in 0..rounds {
        // Who is first, is so half of the time.
        for turn in [round % 2, 1 - round % 2] {
            if turn == 0 {
                write(&ours)?;
                let begun = Instant::now();
                let (kept, cut) = (format!("r{round}"), format!("cut{round}"));
                store.snapshot(&name, &SnapshotName::new(kept.as_str())?, &stamps)?;
                store.switch(&name, &SnapshotName::new(kept)?, &SnapshotName::new(cut)?)?;
                println!("coppice {:.3}", begun.elapsed().as_secs_f64() * 1e3);
            } else {
                let (head, next) = (bare.join("head"), bare.join("next"));
                write(&head)?;
                let begun = Instant::now();
                let (kept, cut) = (bare.join(format!("r{round}")), bare.join(format!("cut{round}")));
                btrfs(&["snapshot", "-r"], &[&head, &kept])?;
                btrfs(&["snapshot"], &[&kept, &next])?;
                fs::rename(&head, &cut)?;
                fs::rename(&next, &head)?;
                println!("btrfs {:.3}", begun.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(())
}

fn btrfs(words: &[&str], paths: &[&Path]) -> Result<(), Box<dyn Error>> {
    let output = Command::new("btrfs").arg("subvolume").args(words).args(paths).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}

fn fill(head: &Path) -> std::io::Result<()> {
    (0..FILES).try_for_each(|file| fs::write(head.join(format!("file-{file}")), vec![7; 4096]))
}

fn write(head: &Path) -> std::io::Result<()> {
    fs::write(head.join("written"), vec![9; WRITTEN])
}
