//! What the tests need from the distribution: peers to compare with, real servers to run, tools to look with.
//!
//! Only missing packages are installed, and no service of theirs is started: for the time of the installation a
//! `policy-rc.d` that forbids it stands where none does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Debian's names. The peers (runc … docker.io), image tools, servers that test apps run, and tools.
pub(crate) const PACKAGES: &[&str] = &[
    "apache2-utils",
    "bind9-dnsutils",
    "buildah",
    "btrfs-progs",
    "busybox-static",
    "ca-certificates",
    "clang-14",
    "cpio",
    "crun",
    "curl",
    "docker-registry",
    "dnsmasq-base",
    "dnsperf",
    "docker.io",
    "e2fsprogs",
    "elixir",
    "haproxy",
    "hyperfine",
    "iproute2",
    "jq",
    "libbpf-dev",
    "llvm-14",
    "mmdebstrap",
    "nghttp2-client",
    "nftables",
    "nginx-light",
    "openssl",
    "pebble",
    "podman",
    "procps",
    "qemu-system-x86",
    "redis-server",
    "runc",
    "skopeo",
    "slirp4netns",
    "squashfs-tools",
    "strace",
    "uidmap",
    "umoci",
    "wrk",
    "xfsprogs",
    "xz-utils",
    "zfs-fuse",
];

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of [`PACKAGES`] that are missing and that this distribution has.
pub(crate) fn packages() -> Result<()> {
    if !shell::succeeds(Command::new("dpkg-query").arg("--version")) {
        bail!(
            "the tests need packages this task installs on Debian and Ubuntu only; on another distribution install \
             their like by hand and run `cargo nextest run --workspace`: {}",
            PACKAGES.join(" ")
        );
    }
    let missing = missing(PACKAGES);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    let _quiet = NoServices::stand()?;
    shell::run(as_root("apt-get").args(["update", "-qq"]))?;
    let (known, unknown): (Vec<&str>, Vec<&str>) = missing.into_iter().partition(|name| candidate(name));
    if !unknown.is_empty() {
        eprintln!("this distribution has no {}; tests that need one will say so", unknown.join(", "));
    }
    let mut apt = as_root("env");
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends"]);
    shell::run(apt.args(known))
}

/// `program`, through sudo where we are not root.
pub(crate) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// Whether this process has root's user id.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|of_process| of_process.uid() == 0)
}

fn missing<'a>(wanted: &[&'a str]) -> Vec<&'a str> {
    let installed = |name: &&str| {
        let mut query = Command::new("dpkg-query");
        shell::output(query.args(["-W", "-f=${Status}", name])).is_ok_and(|status| status.ends_with(" installed"))
    };
    wanted.iter().copied().filter(|name| !installed(name)).collect()
}

fn candidate(name: &str) -> bool {
    shell::output(Command::new("apt-cache").args(["policy", name]))
        .is_ok_and(|text| text.contains("Candidate: ") && !text.contains("Candidate: (none)"))
}

/// While this lives, package scripts start no service.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn stand() -> Result<Self> {
        if Path::new(POLICY).exists() || !is_root() {
            return Ok(Self(None)); // somebody decided already, or (with sudo) it is a person's own machine
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(POLICY.into())))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_nobody_has_is_missing_and_dpkg_is_not() {
        assert_eq!(missing(&["dpkg", "no-such-package-of-ours"]), ["no-such-package-of-ours"]);
    }
}
