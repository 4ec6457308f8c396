//! A folder is a layer; dependencies point down only.
//!
//! Checked from cargo's own metadata, for normal and build dependencies: what a test uses ships to nobody, but a
//! pure crate's tests may not reach for the host either, since then they would not be tests of a pure crate.

use std::path::Path;

use super::Finding;
use crate::workspace::{Metadata, Package};

/// A layer's folder, the layers it may use, and the external crates it may not.
struct Layer {
    folder: &'static str,
    uses: &'static [&'static str],
    never: &'static [&'static str],
    why: &'static str,
}

/// Crates that are a clock, a disk, a network or a kernel.
const WORLD: &[&str] =
    &["tokio", "rusqlite", "hyper", "rustix", "libc", "nix", "axum", "openraft", "oci-client", "tempfile", "jiff"];

/// Below their folder, these crates are the words others are written in: what a user wants, and how tools say it.
const LAYERS: &[Layer] = &[
    Layer { folder: "crates/base", uses: &["crates/base"], never: WORLD, why: "base has no I/O" },
    Layer {
        folder: "crates/model",
        uses: &["crates/base", "crates/model"],
        never: WORLD,
        why: "the model is text and types",
    },
    Layer {
        folder: "crates/core",
        uses: &["crates/base", "crates/model", "crates/core"],
        never: WORLD,
        why: "core decides and does nothing: no clock, disk, network or kernel",
    },
    Layer {
        folder: "crates/host",
        uses: &["crates/base", "crates/host"],
        never: &["axum", "openraft", "rusqlite"],
        why: "host does what it is told and knows no app",
    },
    Layer {
        folder: "crates/cluster",
        uses: &["crates/base", "crates/model", "crates/core", "crates/cluster"],
        never: &["axum"],
        why: "cluster agrees on state and starts nothing",
    },
    Layer {
        folder: "crates/service",
        uses: &["crates/base", "crates/model", "crates/core", "crates/host", "crates/cluster", "crates/service"],
        never: &[],
        why: "service joins the layers below and knows no user interface",
    },
    Layer {
        folder: "crates/ui",
        uses: &["crates/base", "crates/model", "crates/ui"],
        never: &["rusqlite", "openraft"],
        why: "ui talks to nodes through client alone",
    },
    Layer { folder: "bench/floor", uses: &[], never: &["tokio"], why: "the floor is measured against us" },
    Layer { folder: "examples", uses: &[], never: WORLD, why: "an example is what a user would write" },
    Layer { folder: "xtask", uses: &["crates/base"], never: WORLD, why: "tasks build before anything else does" },
];

/// These join everything or test everything.
const FREE: &[&str] = &["bin", "tests"];

/// Every dependency that points up or sideways, and every package outside the layers.
pub(super) fn broken(metadata: &Metadata) -> Vec<Finding> {
    let folders = metadata.folders();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let folder = &folders[&package.name];
        let place = folder.join("Cargo.toml").to_string_lossy().into_owned();
        if FREE.iter().any(|free| folder.starts_with(free)) {
            continue;
        }
        let Some(layer) = LAYERS.iter().find(|layer| folder.starts_with(layer.folder)) else {
            findings.push(Finding::new(&place, 0, "is in no layer; ARCHITECTURE.md lists them"));
            continue;
        };
        findings.extend(of_package(layer, package, &place, metadata));
    }
    findings
}

fn of_package(layer: &Layer, package: &Package, place: &str, metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let for_tests = dependency.kind.as_deref() == Some("dev");
        let pure = layer.folder == "crates/core";
        let allowed = match &dependency.path {
            Some(path) => {
                let path = path.strip_prefix(&metadata.workspace_root).unwrap_or(path);
                layer.uses.iter().any(|below| path.starts_with(Path::new(below)))
            }
            None => !layer.never.contains(&dependency.name.as_str()),
        };
        if !allowed && (!for_tests || (pure && dependency.path.is_some())) {
            let what = format!("{} may not depend on {}: {}", package.name, dependency.name, layer.why);
            findings.push(Finding::new(place, 0, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::lines;

    /// Name, folder (`None`: from a registry), kind.
    type Uses<'a> = &'a [(&'a str, Option<&'a str>, Option<&'a str>)];

    fn metadata(packages: &[(&str, &str, Uses<'_>)]) -> Metadata {
        let packages: Vec<serde_json::Value> = packages
            .iter()
            .map(|(name, folder, dependencies)| {
                let dependencies: Vec<serde_json::Value> = dependencies
                    .iter()
                    .map(|(name, folder, kind)| {
                        let path = folder.map(|folder| format!("/w/{folder}"));
                        serde_json::json!({ "name": name, "kind": kind, "path": path })
                    })
                    .collect();
                let manifest = format!("/w/{folder}/Cargo.toml");
                serde_json::json!({ "name": name, "manifest_path": manifest, "dependencies": dependencies, "targets": [] })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "packages": packages, "target_directory": "/w/target", "workspace_root": "/w",
        }))
        .expect("metadata")
    }

    #[test]
    fn dependencies_that_point_down_are_allowed() {
        let good = metadata(&[
            ("coppice-plan", "crates/core/plan", &[("coppice-base", Some("crates/base"), None), ("serde", None, None)]),
            ("coppice-cli", "crates/ui/cli", &[("coppice-client", Some("crates/ui/client"), None)]),
            ("coppice", "bin/coppice", &[("coppice-launcher", Some("crates/host/launcher"), None)]),
        ]);
        assert_eq!(lines(&broken(&good)), Vec::<String>::new());
    }

    #[test]
    fn each_way_up_or_sideways_is_caught() {
        for (folder, dependency, path) in [
            ("crates/core/plan", "coppice-linux", Some("crates/host/linux")),
            ("crates/core/plan", "coppice-log", Some("crates/cluster/log")),
            ("crates/core/plan", "tokio", None),
            ("crates/core/plan", "rusqlite", None),
            ("crates/core/plan", "rustix", None),
            ("crates/host/image", "coppice-plan", Some("crates/core/plan")),
            ("crates/host/image", "coppice-node", Some("crates/service/node")),
            ("crates/cluster/log", "coppice-image", Some("crates/host/image")),
            ("crates/model/spec", "coppice-plan", Some("crates/core/plan")),
            ("crates/base", "coppice-spec", Some("crates/model/spec")),
            ("crates/ui/cli", "coppice-node", Some("crates/service/node")),
            ("crates/ui/cli", "coppice-launcher", Some("crates/host/launcher")),
            ("crates/service/node", "coppice-cli", Some("crates/ui/cli")),
        ] {
            let bad = metadata(&[("a", folder, &[(dependency, path, None)])]);
            let found = lines(&broken(&bad));
            assert_eq!(found.len(), 1, "{folder} → {dependency}: {found:?}");
            assert!(found[0].contains(dependency), "{found:?}");
        }
    }

    #[test]
    fn a_test_may_use_more_than_the_crate_but_not_the_host_in_a_pure_one() {
        let database = metadata(&[("a", "crates/core/plan", &[("tempfile", None, Some("dev"))])]);
        assert_eq!(broken(&database).len(), 0);
        let host = metadata(&[("a", "crates/core/plan", &[("b", Some("crates/host/linux"), Some("dev"))])]);
        assert_eq!(broken(&host).len(), 1);
    }

    #[test]
    fn a_package_outside_the_layers_is_caught() {
        let bad = metadata(&[("a", "crates/shared", &[])]);
        assert!(lines(&broken(&bad))[0].contains("no layer"));
    }
}
