//! Finding the machine's cgroups, and making the directory under which a node keeps its containers' ones.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::device::DeviceRules;
use crate::error::CgroupError;
use crate::layout::{Controller, Kind, Layout, Mount};
use crate::parent::{Parent, Slot};
use crate::{Word, file};

/// Controllers that v2 is asked to enable for containers.
const V2_WANTED: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Leaf that processes of a delegated v2 cgroup move to, because v2 lets no cgroup have both processes and
/// controllers for its children (cgroup-v2, "no internal processes").
const LEAF: &str = "coppice-node";

/// The machine's cgroups, found once.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    layout: Layout,
}

impl Hierarchy {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
    pub fn detect() -> Result<Self, CgroupError> {
        let read = |path: &str| {
            file::read(rustix::fs::CWD, path).map_err(|errno| CgroupError::Kernel {
                action: "read",
                path: PathBuf::from(path),
                errno,
            })
        };
        Ok(Self { layout: Layout::read(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?) })
    }

    /// Of a layout already known.
    pub fn of(layout: Layout) -> Self {
        Self { layout }
    }

    pub fn kind(&self) -> Kind {
        self.layout.kind
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The directory `name` in every hierarchy, made when missing. A hierarchy that cannot be written becomes a
    /// [`Parent::words`], not an error: containers then run without what it does.
    pub fn parent(&self, name: &str) -> Result<Parent, CgroupError> {
        check_name(name)?;
        let mut slots = Vec::with_capacity(self.layout.mounts.len());
        let mut words = Vec::new();
        if self.layout.kind == Kind::None {
            words.push(Word("No cgroup filesystem is mounted: containers run without limits.".to_owned()));
        }
        let mut unified_works = false;
        // v2 first: when it can freeze, v1's freezer is one more directory for nothing.
        let mut mounts: Vec<&Mount> = self.layout.mounts.iter().collect();
        mounts.sort_by_key(|m| m.controllers != [Controller::Unified]);
        for mount in mounts {
            if unified_works && mount.controllers == [Controller::Freezer] {
                continue;
            }
            match open_slot(mount, name, self.layout.kind, &mut words) {
                Ok(slot) => {
                    unified_works |= slot.has(Controller::Unified);
                    slots.push(slot);
                }
                Err(errno) => {
                    if mount.controllers == [Controller::Unified] && self.layout.kind == Kind::Hybrid {
                        continue; // v1 does what is needed
                    }
                    let names: Vec<&str> = mount.controllers.iter().map(|c| c.as_str()).collect();
                    words.push(Word(format!(
                        "Cgroups of {} at {} cannot be used ({errno}): containers run without their limits.",
                        names.join(", "),
                        mount.point.display(),
                    )));
                }
            }
        }
        Ok(Parent::of(name, self.layout.kind, slots, words))
    }
}

/// Takes what can be neither a path, nor hidden, nor a kernel file's name by accident.
pub(crate) fn check_name(name: &str) -> Result<(), CgroupError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(inner)
        && !is_kernel_file(name);
    if good { Ok(()) } else { Err(CgroupError::BadName(name.to_owned())) }
}

/// `memory.max` and the like: a cgroup of that name would clash with the file.
fn is_kernel_file(name: &str) -> bool {
    let first = name.split_once('.').map(|(first, _)| first);
    name == "tasks"
        || name == "notify_on_release"
        || name == "release_agent"
        || first.is_some_and(|f| {
            matches!(
                f,
                "cgroup" | "cpu" | "cpuacct" | "memory" | "pids" | "devices" | "freezer" | "cpuset" | "io" | "blkio"
            )
        })
}

fn open_slot(mount: &Mount, name: &str, kind: Kind, words: &mut Vec<Word>) -> Result<Slot, Errno> {
    let root = file::dir(rustix::fs::CWD, &mount.point.to_string_lossy())?;
    let own = mount.own.to_string_lossy();
    let unified = mount.controllers == [Controller::Unified];
    // A cgroup that systemd delegated is ours to divide; what it limits then holds for the containers too.
    if unified && !own.is_empty() {
        let own_dir = file::dir(&root, &own)?;
        if is_delegated(&own_dir) {
            return slot_in(mount, &own_dir, &mount.point.join(&mount.own), name, kind, words);
        }
    }
    match slot_in(mount, &root, &mount.point, name, kind, words) {
        Err(errno) if file::means_unavailable(errno) && !own.is_empty() => {
            let own_dir = file::dir(&root, &own)?;
            slot_in(mount, &own_dir, &mount.point.join(&mount.own), name, kind, words).map_err(|_| errno)
        }
        done => done,
    }
}

fn slot_in(
    mount: &Mount,
    base: &OwnedFd,
    base_path: &Path,
    name: &str,
    kind: Kind,
    words: &mut Vec<Word>,
) -> Result<Slot, Errno> {
    file::ensure_dir(base, name)?;
    let dir = file::dir(base, name)?;
    let path = base_path.join(name);
    let mut controllers = mount.controllers.clone();
    if controllers == [Controller::Unified] && kind == Kind::V2 {
        enable(base, V2_WANTED.as_slice());
        enable(&dir, V2_WANTED.as_slice());
        let enabled = file::read(&dir, "cgroup.subtree_control").unwrap_or_default();
        let has = |name: &str| enabled.split_whitespace().any(|c| c == name);
        for (text, controller) in [("cpu", Controller::Cpu), ("memory", Controller::Memory), ("pids", Controller::Pids)]
        {
            if has(text) {
                controllers.push(controller);
            } else {
                words.push(Word(format!(
                    "The {text} controller is not enabled in {}: containers run without its limits.",
                    path.display()
                )));
            }
        }
        if has("io") {
            controllers.push(Controller::Blkio);
        }
        // Always there: cpu.stat, and device programs by bpf(2).
        controllers.extend([Controller::Cpuacct, Controller::Devices, Controller::Freezer]);
        // Enabled when the first container asks for it.
        if file::read(base, "cgroup.controllers").is_ok_and(|text| text.split_whitespace().any(|c| c == "cpuset")) {
            controllers.push(Controller::Cpuset);
        }
    }
    let usual_devices = if controllers.contains(&Controller::Devices) && kind != Kind::V2 {
        Some(usual_devices_dir(&dir)?)
    } else {
        None
    };
    Ok(Slot { dir, path, controllers, usual_devices })
}

/// The v1 devices cgroup that already has the usual rules; containers made in it inherit them, which saves a dozen
/// writes each.
fn usual_devices_dir(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    file::ensure_dir(dir, Slot::USUAL_DEVICES)?;
    let usual = file::dir(dir, Slot::USUAL_DEVICES)?;
    // Rules cannot change once there are children; then they were written when this was first made.
    if file::read(&usual, "devices.list")?.trim() == "a *:* rwm" {
        write_devices_v1(&usual, "", &DeviceRules::default())?;
    }
    Ok(usual)
}

/// Writes `rules` to the cgroup at `prefix` (empty, or ending in a slash) of `dir`.
pub(crate) fn write_devices_v1(dir: &OwnedFd, prefix: &str, rules: &DeviceRules) -> Result<(), Errno> {
    if rules.all {
        return Ok(());
    }
    file::write(dir, &format!("{prefix}devices.deny"), "a")?;
    let allow = file::open_write(dir, &format!("{prefix}devices.allow"))?;
    for rule in rules.allowed() {
        rustix::io::write(&allow, rule.line().as_bytes())?;
    }
    Ok(())
}

/// systemd marks delegated cgroups by one of these attributes.
fn is_delegated(dir: &OwnedFd) -> bool {
    let mut value = [0u8; 8];
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| rustix::fs::fgetxattr(dir, *name, &mut value).is_ok_and(|n| value[..n].starts_with(b"1")))
}

/// Enables what of `wanted` can be enabled for the children of `dir`; what could not be is seen by reading back.
pub(crate) fn enable(dir: &OwnedFd, wanted: &[&str]) {
    let available = file::read(dir, "cgroup.controllers").unwrap_or_default();
    let enabled = file::read(dir, "cgroup.subtree_control").unwrap_or_default();
    let has = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    let missing: Vec<String> = wanted
        .iter()
        .filter(|name| has(&available, name) && !has(&enabled, name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return;
    }
    // In one write: cpu or pids alone, with processes in `dir`, would make it a threaded domain for good.
    let all = missing.join(" ");
    if file::write(dir, "cgroup.subtree_control", &all) == Err(Errno::BUSY) && move_to_leaf(dir).is_ok() {
        // When this fails too, the reader of subtree_control says so.
        let _ = file::write(dir, "cgroup.subtree_control", &all);
    }
}

/// Moves every process of `dir` to a leaf below it.
fn move_to_leaf(dir: &OwnedFd) -> Result<(), Errno> {
    file::ensure_dir(dir, LEAF)?;
    for pid in file::read(dir, "cgroup.procs")?.lines() {
        match file::write(dir, &format!("{LEAF}/cgroup.procs"), pid) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_or_hide_in_it_are_refused() {
        let long = "x".repeat(129);
        for bad in ["", ".", "..", "../x", "a/b", "/a", ".hidden", "a\nb", "a\0", "memory.max", "cgroup.procs", &long] {
            assert!(matches!(check_name(bad), Err(CgroupError::BadName(_))), "{bad:?}");
        }
        for good in ["a", "0123456789abcdef", "coppice-1a2b3c", "Web_1.x"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
