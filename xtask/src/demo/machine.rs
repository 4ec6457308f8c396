//! What the demo needs of the machine, asked before minutes of building: each thing that is missing is named with what
//! to do about it, all at once.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{install, shell};

/// The first kernel that mounts overlayfs in an id-mapped form (see `mount_setattr(2)`).
const KERNEL: (u32, u32) = (5, 19);

/// What was found.
struct Found {
    root: bool,
    sudo: bool,
    release: String,
    overlay: bool,
    /// `user.max_user_namespaces`; none where the kernel knows no user namespaces.
    user_namespaces: Option<u64>,
    cgroups: bool,
}

/// Fails with everything that is missing.
pub(super) fn check() -> Result<()> {
    let missing = missing(&look());
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run containers yet:\n- {}", missing.join("\n- "));
}

fn look() -> Found {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let overlay = || read("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    Found {
        root: install::is_root(),
        sudo: shell::succeeds(Command::new("sudo").arg("--version")),
        release: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        // A module nobody has used yet is not listed.
        overlay: overlay() || (shell::succeeds(install::as_root("modprobe").arg("overlay")) && overlay()),
        user_namespaces: read("/proc/sys/user/max_user_namespaces").trim().parse().ok(),
        cgroups: read("/proc/self/mountinfo").lines().any(|line| line.contains(" - cgroup")),
    }
}

fn missing(found: &Found) -> Vec<String> {
    let mut missing = Vec::new();
    if !found.root && !found.sudo {
        missing.push("containers need root, and there is no sudo: run `./x demo` as root".into());
    }
    if version(&found.release).is_some_and(|version| version < KERNEL) {
        let (major, minor) = KERNEL;
        missing.push(format!("the kernel is {}: {major}.{minor} or newer is needed", found.release));
    }
    if !found.overlay {
        missing
            .push("the kernel has no overlayfs: `modprobe overlay` as root, or a kernel with CONFIG_OVERLAY_FS".into());
    }
    match found.user_namespaces {
        None => missing.push("the kernel has no user namespaces: one with CONFIG_USER_NS is needed".into()),
        Some(0) => missing.push(
            "user namespaces are switched off: `sysctl -w user.max_user_namespaces=15000` as root switches them on"
                .into(),
        ),
        Some(_) => {}
    }
    if !found.cgroups {
        let how = if Path::new("/run/systemd/system").exists() {
            ""
        } else {
            " (`mount -t cgroup2 none /sys/fs/cgroup` as root)"
        };
        missing.push(format!("no cgroups are mounted at /sys/fs/cgroup{how}"));
    }
    missing
}

/// The first two numbers of a kernel's release; none where it does not begin with them.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        Found {
            root: true,
            sudo: false,
            release: "6.1.0-56-cloud-amd64".into(),
            overlay: true,
            user_namespaces: Some(15000),
            cgroups: true,
        }
    }

    #[test]
    fn a_machine_with_all_of_it_misses_nothing() {
        assert_eq!(missing(&good()), [""; 0]);
        assert_eq!(missing(&Found { root: false, sudo: true, ..good() }), [""; 0]);
        assert_eq!(missing(&Found { release: "who knows".into(), ..good() }), [""; 0]);
    }

    #[test]
    fn each_thing_that_is_missing_is_named_with_what_to_do_and_all_at_once() {
        let cases = [
            (Found { root: false, ..good() }, "as root"),
            (Found { release: "5.10.0-28-amd64".into(), ..good() }, "5.19 or newer"),
            (Found { overlay: false, ..good() }, "modprobe overlay"),
            (Found { user_namespaces: Some(0), ..good() }, "sysctl -w user.max_user_namespaces"),
            (Found { user_namespaces: None, ..good() }, "CONFIG_USER_NS"),
            (Found { cgroups: false, ..good() }, "/sys/fs/cgroup"),
        ];
        for (found, said) in cases {
            let missing = missing(&found);
            assert!(missing.len() == 1 && missing[0].contains(said), "{missing:?}");
        }
        assert_eq!(missing(&Found { overlay: false, cgroups: false, root: false, ..good() }).len(), 3);
    }
}
