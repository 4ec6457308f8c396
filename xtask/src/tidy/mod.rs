//! The rules of this repository, as a test: what a reviewer would otherwise have to see by eye.
//!
//! | file | rule |
//! |---|---|
//! | `layers.rs` | a folder is a layer; dependencies point down only, and pure crates stay pure |
//! | `names.rs` | no file or module is named for being shared, old or new |
//! | `sources.rs` | module headers, `unsafe` in its two places, sleeps and ports, the size of a file |
//! | `dead.rs` | every Rust file is reached from a target |
//! | `links.rs` | every relative link and anchor in the documents leads somewhere |
//! | `ledger.rs` | `DEPENDENCIES.md` has one line for each external crate and no other |
//! | `objects.rs` | every committed BPF object is what its source compiles to |
//!
//! A rule is a function from the tree to findings; each has an example of what it catches among its tests. What
//! the compiler and clippy can check (`unsafe` comments, banned methods) is left to them.

mod dead;
mod layers;
mod ledger;
mod links;
mod names;
mod objects;
mod scan;
mod sources;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;
use crate::workspace::{self, Metadata};

/// The files the rules look at: what git tracks, and new files it does not ignore.
pub(crate) struct Tree {
    root: PathBuf,
    /// Relative to the root, sorted.
    files: Vec<String>,
}

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub path: String,
    /// From 1; 0 when the file as a whole is meant.
    pub line: usize,
    pub what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

impl Tree {
    /// The repository's files as git knows them.
    pub(crate) fn of_repository(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = shell::output(&mut git)?;
        let there = |name: &&str| !name.is_empty() && root.join(name).is_file();
        let mut files: Vec<String> = listed.split('\0').filter(there).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        Ok(Self { root: root.to_path_buf(), files })
    }

    fn text(&self, path: &str) -> String {
        fs::read(self.root.join(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = &'a str> {
        self.files
            .iter()
            .map(String::as_str)
            .filter(move |path| Path::new(path).extension().is_some_and(|found| found == extension))
    }
}

/// Runs every rule on the workspace; fails when one is broken.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("tidy takes no options, got {unknown:?}");
    }
    let root = workspace::root();
    let metadata = Metadata::read(&root)?;
    let findings = findings(&Tree::of_repository(&root)?, &metadata);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} found; CONTRIBUTING.md says why each rule is there", findings.len());
    }
    Ok(())
}

fn findings(tree: &Tree, metadata: &Metadata) -> Vec<Finding> {
    let mut all = layers::broken(metadata);
    all.extend(dead::files(tree, metadata));
    all.extend(names::broken(tree));
    all.extend(sources::broken(tree));
    all.extend(links::broken(tree));
    all.extend(ledger::broken(tree));
    all.extend(objects::stale(tree));
    all.sort();
    all
}

#[cfg(test)]
mod fixture {
    //! A small tree of files for one test.

    use std::fs;

    use super::Tree;

    pub(super) struct Fixture {
        folder: tempfile::TempDir,
        files: Vec<String>,
    }

    impl Fixture {
        pub(super) fn of(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            for (path, text) in files {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
                fs::write(path, text).expect("a file");
            }
            let mut files: Vec<String> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
            files.sort();
            Self { folder, files }
        }

        pub(super) fn tree(&self) -> Tree {
            Tree { root: self.folder.path().to_path_buf(), files: self.files.clone() }
        }
    }

    /// The findings as the lines a person sees.
    pub(super) fn lines(findings: &[super::Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }
}
