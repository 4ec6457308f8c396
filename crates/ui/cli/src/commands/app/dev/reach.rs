//! What a changed file concerns: the manifest, releases that it names, sources, or those who have it in a bind mount.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use coppice_spec::{BeamRelease, MountSource};

use super::build::Key;
use super::watch::Changed;
use crate::place::Manifest;

/// Folders that tools fill for themselves.
const IGNORED: &[&str] = &[".git", ".hg", ".svn", "node_modules", "__pycache__"];

/// Folders that builds write to: no sources, wherever they are.
const OUTPUTS: &[&str] = &["target", "_build"];

/// What the files concern that are watched.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Files the manifest was read from, and releases that it names.
    files: BTreeSet<PathBuf>,
    /// Bind mounts: their path, and who mounts them, as app and workload.
    mounts: BTreeMap<PathBuf, BTreeSet<(String, String)>>,
    /// Sources, and whose they are.
    sources: BTreeMap<PathBuf, BTreeSet<Key>>,
}

/// Whom a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) manifest: bool,
    /// Workloads by app.
    pub(super) workloads: BTreeMap<String, BTreeSet<String>>,
    /// Services whose sources have changed.
    pub(super) sources: BTreeSet<Key>,
}

impl Reach {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let mut mounts: BTreeMap<PathBuf, BTreeSet<(String, String)>> = BTreeMap::new();
        let mut files = manifest.files.clone();
        for app in &manifest.apps {
            for (_, workload) in app.definitions() {
                if let Some(BeamRelease::File(path)) = workload.beam.as_ref().map(|beam| &beam.release) {
                    files.insert(PathBuf::from(path));
                }
            }
            for (name, workload) in app.workloads() {
                for mount in &workload.volumes {
                    if let MountSource::Host(path) = &mount.source {
                        let who = (app.name.to_string(), name.to_string());
                        mounts.entry(PathBuf::from(path)).or_default().insert(who);
                    }
                }
            }
        }
        let mut sources: BTreeMap<PathBuf, BTreeSet<Key>> = BTreeMap::new();
        for dev in &manifest.dev {
            for path in &dev.watch {
                sources.entry(path.clone()).or_default().insert((dev.app.to_string(), dev.service.to_string()));
            }
        }
        Self { files, mounts, sources }
    }

    /// Directories to watch; `true`: with all below.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Path, bool)> {
        let parents = self.files.iter().filter_map(|file| file.parent()).map(|dir| (dir, false));
        let mounts = self.mounts.keys().chain(self.sources.keys()).filter_map(|path| match path.is_dir() {
            true => Some((path.as_path(), true)),
            // A file is replaced by writing another beside it: its directory tells.
            false => path.parent().map(|dir| (dir, false)),
        });
        parents.chain(mounts)
    }

    /// Files of the manifest, and what else is watched.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.files.len(), self.mounts.len() + self.sources.len())
    }

    pub(super) fn touched(&self, changed: &Changed) -> Touched {
        let mut touched = Touched { manifest: changed.overflowed, ..Touched::default() };
        for path in &changed.paths {
            if self.files.contains(path) {
                touched.manifest = true;
            }
            for (mount, who) in &self.mounts {
                let Ok(below) = path.strip_prefix(mount) else { continue };
                if !is_noise(below) {
                    for (app, workload) in who {
                        touched.workloads.entry(app.clone()).or_default().insert(workload.clone());
                    }
                }
            }
            for (source, whose) in &self.sources {
                let Ok(below) = path.strip_prefix(source) else { continue };
                if !is_noise(below) && !is_in(below, OUTPUTS) {
                    touched.sources.extend(whose.iter().cloned());
                }
            }
        }
        touched
    }

    /// Changes in a service's sources no longer concern it.
    pub(super) fn forget_sources(&mut self, key: &Key) {
        for whose in self.sources.values_mut() {
            whose.remove(key);
        }
    }

    /// Changes in what `workload` mounts no longer concern it.
    pub(super) fn forget(&mut self, app: &str, workload: &str) {
        for who in self.mounts.values_mut() {
            who.retain(|(of, name)| of != app || name != workload);
        }
    }
}

fn is_in(path: &Path, folders: &[&str]) -> bool {
    path.components().any(|part| folders.iter().any(|name| part.as_os_str() == *name))
}

/// Whether nothing that is in a directory of this name concerns anybody.
pub(super) fn is_ignored(name: &std::ffi::OsStr) -> bool {
    IGNORED.iter().any(|ignored| name == *ignored)
}

/// Whether tools and editors write it for themselves.
fn is_noise(path: &Path) -> bool {
    let ignored = is_in(path, IGNORED);
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let draft = [".swp", ".swx", ".tmp", "~"].iter().any(|end| name.ends_with(end));
    // vim tries whether it may write by making a file of this name.
    ignored || draft || name.starts_with(".#") || name == "4913"
}

#[cfg(test)]
mod tests {
    use coppice_base::Name;
    use coppice_spec::{AppSpec, ServiceSpec, VolumeMount, WorkloadSpec};

    use super::*;

    fn reach() -> Reach {
        let mut app = AppSpec::of(Name::new("shop").unwrap());
        for (service, path) in [("web", "/srv/site"), ("api", "/srv/site/api"), ("conf", "/srv/app.conf")] {
            let mut spec = ServiceSpec::of(WorkloadSpec::of("x"));
            let source = MountSource::Host(path.into());
            spec.workload.volumes = vec![VolumeMount { source, target: "/x".into(), read_only: true }];
            app.services.insert(Name::new(service).unwrap(), spec);
        }
        let name = |text: &str| Name::new(text).unwrap();
        let watch = vec![PathBuf::from("/srv/web"), PathBuf::from("/srv/web.toml")];
        let (app_name, service, dir) = (name("shop"), name("web"), PathBuf::from("/srv"));
        let dev = vec![coppice_manifest::DevSpec { app: app_name, service, build: None, watch, dir }];
        Reach::of(&Manifest { apps: vec![app], files: BTreeSet::from([PathBuf::from("/srv/coppice.toml")]), dev })
    }

    fn touched(reach: &Reach, paths: &[&str]) -> (bool, Vec<String>) {
        let changed = Changed { paths: paths.iter().map(PathBuf::from).collect(), overflowed: false };
        let touched = reach.touched(&changed);
        (touched.manifest, touched.workloads.into_values().flatten().collect())
    }

    #[test]
    fn a_change_concerns_the_manifest_or_those_who_mount_it() {
        let reach = reach();
        assert_eq!(touched(&reach, &["/srv/coppice.toml"]), (true, vec![]));
        assert_eq!(touched(&reach, &["/srv/site/index.html"]), (false, vec!["web".into()]));
        assert_eq!(touched(&reach, &["/srv/site/api/x/y.py"]), (false, vec!["api".into(), "web".into()]));
        assert_eq!(touched(&reach, &["/srv/app.conf"]), (false, vec!["conf".into()]));
        assert_eq!(touched(&reach, &["/srv/other", "/srv/site2/x"]), (false, vec![]));
        assert!(
            reach.touched(&Changed { paths: BTreeSet::new(), overflowed: true }).manifest,
            "lost changes are looked at"
        );
    }

    #[test]
    fn sources_concern_the_services_that_are_built_of_them() {
        let whose = |path: &str| {
            let changed = Changed { paths: BTreeSet::from([PathBuf::from(path)]), overflowed: false };
            reach().touched(&changed).sources.len()
        };
        for (path, services) in [
            ("/srv/web/src/main.rs", 1),
            ("/srv/web.toml", 1),
            ("/srv/webs", 0),
            ("/srv/web/target/debug/web", 0),
            ("/srv/web/.git/index", 0),
        ] {
            assert_eq!(whose(path), services, "{path}");
        }
    }

    #[test]
    fn what_tools_write_for_themselves_concerns_nobody() {
        for path in ["a/.git/index", "node_modules/x/y.js", ".index.html.swp", "index.html~", ".#x", "4913", "x.tmp"] {
            assert_eq!(touched(&reach(), &[&format!("/srv/site/{path}")]), (false, vec![]), "{path}");
        }
    }

    #[test]
    fn who_writes_into_its_own_mounts_is_left_alone() {
        let mut reach = reach();
        reach.forget("shop", "web");
        assert_eq!(touched(&reach, &["/srv/site/api/x"]), (false, vec!["api".into()]));
    }
}
