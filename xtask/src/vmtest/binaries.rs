//! The test binaries, linked statically so that the machine needs no libraries.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;
use crate::workspace::{self, cargo};

/// One test binary.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    /// `package::target`
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// The package's folder, where cargo would start it.
    pub(crate) folder: PathBuf,
}

impl Binary {
    /// Whether `name` means this one: by itself or by its package.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.name.split("::").next() == Some(name)
    }
}

/// What was built.
#[derive(Default)]
pub(crate) struct Built {
    pub(crate) tests: Vec<Binary>,
    /// Programs of the packages that tests start, which must lie where cargo put them.
    pub(crate) programs: Vec<PathBuf>,
}

/// Builds the packages' tests and says where they are.
pub(crate) fn build(packages: &BTreeSet<&str>) -> Result<Built> {
    let mut arguments = vec!["test", "--no-run", "--lib", "--bins", "--tests"];
    arguments.extend(packages.iter().flat_map(|package| ["-p", package]));
    let done = cargo_static(&arguments)?;
    let (mut tests, mut programs) = (Vec::new(), Vec::new());
    for line in done.lines() {
        let message: Value = serde_json::from_str(line).context("cargo printed a line that is not JSON")?;
        tests.extend(binary(&message));
        programs.extend(program(&message));
    }
    if tests.is_empty() {
        bail!("{packages:?} have no tests");
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Built { tests, programs })
}

/// Builds the program that users get, static as it is shipped, though not optimized.
pub(crate) fn product() -> Result<PathBuf> {
    let done = cargo_static(&["build", "-p", "coppice", "--bin", "coppice"])?;
    let mut files = done.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?));
    files.next_back().context("cargo built no coppice")
}

/// What cargo says of a build that links everything statically, in JSON.
fn cargo_static(arguments: &[&str]) -> Result<String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = workspace::Metadata::read(&workspace::root())?.target_directory.join("static");
    let mut command = cargo();
    command.args(arguments).args(["--target", &target, "--target-dir"]).arg(folder);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols").stderr(Stdio::inherit());
    run(&mut command)
}

fn run(command: &mut Command) -> Result<String> {
    eprintln!("$ {}", shell::line(command));
    let done = command.output().context("cannot start cargo")?;
    if !done.status.success() {
        bail!("the tests do not build: {}", done.status);
    }
    String::from_utf8(done.stdout).context("cargo printed something that is not text")
}

/// The test binary a `compiler-artifact` message is about, if it is about one.
fn binary(message: &Value) -> Option<Binary> {
    let test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let file = PathBuf::from(message["executable"].as_str().filter(|_| test)?);
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let package = message["package_id"].as_str()?.rsplit('/').next()?;
    // `path+file:///…/crates/host/cgroup#coppice-cgroup@0.1.0`
    let package = package.split_once('#').map_or(package, |(_, name)| name).split('@').next()?;
    let name = format!("{package}::{}", message["target"]["name"].as_str()?);
    Some(Binary { name, file, folder })
}

/// The program that tests start which a `compiler-artifact` message is about, if it is about one.
fn program(message: &Value) -> Option<PathBuf> {
    let plain = message["reason"] == "compiler-artifact" && message["profile"]["test"] == false;
    message["executable"].as_str().filter(|_| plain).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_a_test_or_a_program_that_tests_start() {
        let mut message = serde_json::json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///w/crates/host/cgroup#coppice-cgroup@0.1.0",
            "manifest_path": "/w/crates/host/cgroup/Cargo.toml",
            "target": { "name": "limits" },
            "profile": { "test": true },
            "executable": "/w/target/deps/limits-1",
        });
        let found = binary(&message).expect("a binary");
        assert_eq!(
            (found.name.as_str(), found.folder.to_str()),
            ("coppice-cgroup::limits", Some("/w/crates/host/cgroup"))
        );
        assert!(program(&message).is_none());
        message["profile"]["test"] = false.into();
        assert!(binary(&message).is_none());
        assert_eq!(program(&message).as_deref(), Some("/w/target/deps/limits-1".as_ref()));
    }
}
