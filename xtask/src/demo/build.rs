//! What the demo builds, with a sign of life: the first build takes minutes, and a silent program looks like a stuck one.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell;
use crate::workspace::{self, cargo};

/// The program, optimised as dev builds are: the first answer within minutes, not the fastest one.
pub(super) fn coppice() -> Result<PathBuf> {
    counted(cargo().args(["build", "--quiet", "-p", "coppice"]))?;
    Ok(target_folder()?.join("debug/coppice"))
}

/// The example as a static file.
pub(crate) fn static_hello() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = target_folder()?.join("static");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "-p", "hello", "--target", &target, "--target-dir"]).arg(&folder);
    counted(build.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(folder.join(target).join("release/hello"))
}

fn target_folder() -> Result<PathBuf> {
    Ok(workspace::Metadata::read(&workspace::root())?.target_directory)
}

/// Runs a cargo build; at a terminal, one line counts what is built.
fn counted(build: &mut Command) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        return shell::run(build);
    }
    println!("$ {}", shell::line(build));
    let mut child = build
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shell::line(build)))?;
    let mut built = 0;
    for line in BufReader::new(child.stdout.take().context("no output to read")?).lines() {
        if is_artifact(&line?) {
            built += 1;
            print!("\r  {built} parts are built");
            std::io::stdout().flush()?;
        }
    }
    println!();
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed: {status}", shell::line(build));
    }
    Ok(())
}

/// Whether cargo says that something is built.
fn is_artifact(line: &str) -> bool {
    line.starts_with(r#"{"reason":"compiler-artifact""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_counted_and_the_end_is_not() {
        assert!(is_artifact(r#"{"reason":"compiler-artifact","package_id":"x"}"#));
        assert!(!is_artifact(r#"{"reason":"build-finished","success":true}"#));
    }
}
