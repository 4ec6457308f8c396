//! Where the workspace is, and its packages as cargo tells them (`cargo metadata --no-deps`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::shell;

/// The workspace's root folder: the parent of this package's own, which cargo names to what it runs. Clones that share a
/// target folder share this program, too, so where it was built says little.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where tasks keep what is slow to make, between runs and clones: `coppice` in the user's cache directory.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home);
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("coppice"))
}

/// `cargo`, as the cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // These describe this package to itself; tests that read them must not find xtask's.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The part of `cargo metadata` that the tasks read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Metadata {
    pub packages: Vec<Package>,
    pub target_directory: PathBuf,
    pub workspace_root: PathBuf,
}

/// A workspace member.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    pub name: String,
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
    pub targets: Vec<Target>,
}

/// A dependency as the manifest has it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub name: String,
    /// `None` for a normal one, else "dev" or "build".
    pub kind: Option<String>,
    /// The folder of a dependency by path.
    pub path: Option<PathBuf>,
}

/// A library, binary, test, example or benchmark.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Target {
    pub src_path: PathBuf,
}

impl Metadata {
    /// Asks cargo about the workspace whose root is `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text = shell::output(cargo().current_dir(root).args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ]))?;
        serde_json::from_str(&text).context("cargo metadata printed something else than expected")
    }

    /// Package folders below the root, by package name.
    pub(crate) fn folders(&self) -> BTreeMap<String, PathBuf> {
        let folder = |package: &Package| {
            let folder = package.manifest_path.parent().unwrap_or(Path::new(""));
            folder.strip_prefix(&self.workspace_root).unwrap_or(folder).to_path_buf()
        };
        self.packages.iter().map(|package| (package.name.clone(), folder(package))).collect()
    }
}
