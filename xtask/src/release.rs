//! `build`: the binary as it is shipped: optimized, and linked statically.
//!
//! Static, so that one file runs on every distribution, and because a process that loads no library and relocates
//! nothing starts in half the time, which every `coppice run` pays. The flags go to the last crate alone: what a
//! library is linked with is decided there, and proc macros could not be built with them.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::shell;
use crate::workspace::{self, cargo};

/// What the last crate is compiled with.
const STATIC: &[&str] = &["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];

/// Builds it and returns where it is.
pub(crate) fn build() -> Result<PathBuf> {
    shell::run(
        cargo().args(["rustc", "--quiet", "--release", "-p", "coppice", "--bin", "coppice", "--"]).args(STATIC),
    )?;
    Ok(workspace::Metadata::read(&workspace::root())?.target_directory.join("release/coppice"))
}

/// Builds an example of a package in the same way, for measurements.
pub(crate) fn example(package: &str, name: &str) -> Result<()> {
    shell::run(cargo().args(["rustc", "--quiet", "--release", "-p", package, "--example", name, "--"]).args(STATIC))
}

/// `./x build`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("build takes no options, got {unknown:?}");
    }
    println!("{}", build()?.display());
    Ok(())
}
