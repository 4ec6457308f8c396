//! Roots of Debian's programs, as real as a test's images can be without a registry.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Output;

/// A tar of a Debian root with these packages and what they need, unpacked and not set up (no users, no configuration);
/// made once by mmdebstrap and kept as `name`, where other crates' tests find it too.
#[track_caller]
pub fn debian_root(name: &str, packages: &[&str]) -> PathBuf {
    let home = std::env::var_os("COPPICE_FIXTURES").map(PathBuf::from);
    let home = home.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("../fixtures"));
    std::fs::create_dir_all(&home).unwrap();
    let tar = home.join(format!("{name}-bookworm.tar"));
    let lock = File::create(home.join(format!("{name}-bookworm.lock"))).unwrap();
    lock.lock().unwrap();
    if !tar.exists() {
        let unfinished = home.join(format!("{name}-bookworm.unfinished.tar"));
        let mut make = Command::new("mmdebstrap");
        make.args(["--variant=extract", &format!("--include={}", packages.join(",")), "bookworm"]).arg(&unfinished);
        Output::of(make).succeeded();
        std::fs::rename(&unfinished, &tar).unwrap();
    }
    tar
}
