//! `vmtest`: the kernel tests in a virtual machine with cgroup v2, whatever the machine below has.
//!
//! QEMU's `microvm` boots the distribution's own cloud kernel, unpacked from its package and never installed. A small
//! initramfs loads what the disk needs; the disk holds busybox and the statically linked test binaries at the paths
//! they were built at. Each binary's end is a line on the serial console, which is all the host listens to. KVM is
//! used where a machine boots with it within seconds, software emulation elsewhere.
//!
//! Two programs of the harness's own run first: one that fails on purpose, so that a harness which sees no failures
//! fails, and one that checks that the machine is what it claims to be.

mod binaries;
mod console;
mod disk;
mod kernel;
mod machine;
mod skips;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use self::binaries::{Binary, Built};
use crate::{install, release};

/// The packages whose tests run in the machine.
const PACKAGES: &[&str] =
    &["coppice-cgroup", "coppice-linux", "coppice-container", "coppice-launcher", "coppice-network"];
/// What CI runs of them: where cgroup versions differ. The launcher's tests are left to `./x vmtest`: now and then
/// they lock Linux 6.1 up under software emulation (both processors stuck in a container's start), cause not known.
const SMOKE: &[&str] = &["coppice-cgroup", "coppice-linux"];

/// Runs the tests of the packages or single binaries (`package::target`) named, of the smoke set, or all; and, named
/// `product`, the shipped binary.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut wanted: Vec<&str> = match args {
        [] => PACKAGES.iter().copied().chain([disk::PRODUCT]).collect(),
        [smoke] if smoke == "--smoke" => SMOKE.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let with_product = wanted.contains(&disk::PRODUCT);
    wanted.retain(|name| *name != disk::PRODUCT);
    let package = |name: &&str| name.split("::").next().and_then(|name| PACKAGES.iter().copied().find(|p| *p == name));
    if let Some(unknown) = wanted.iter().find(|name| package(name).is_none()) {
        bail!("vmtest knows no package of {unknown:?}; it runs {}, {}, or --smoke", PACKAGES.join(", "), disk::PRODUCT);
    }
    install::packages()?;
    let packages: BTreeSet<&str> = wanted.iter().filter_map(package).collect();
    let mut built = if packages.is_empty() { Built::default() } else { binaries::build(&packages)? };
    built.tests.retain(|binary| wanted.iter().any(|name| binary.is(name)));
    if let Some(unknown) = wanted.iter().find(|name| !built.tests.iter().any(|binary| binary.is(name))) {
        bail!("there is no test binary {unknown:?}");
    }
    let kernel = kernel::fetch(&cache()?)?;
    let product = with_product.then(shipped).transpose()?;
    let disk = disk::make(&kernel, &built, product.as_deref())?;
    let console = machine::boot(&kernel, &disk)?;
    if let Some(file) = product {
        built.tests.push(Binary { name: disk::PRODUCT.into(), file, folder: "/".into() });
    }
    report(&console::read(&console), &built.tests)
        .with_context(|| format!("the whole console is in {}", disk.log().display()))
}

/// Prints what each binary did, and the sum; an error when something failed or never ran.
fn report(ends: &[console::End], binaries: &[Binary]) -> Result<()> {
    let find = |name: &str| ends.iter().find(|end| end.name == name);
    match find(disk::MUST_FAIL).map(|end| end.code) {
        Some(disk::MUST_FAIL_CODE) => {}
        other => bail!("the harness does not see failures: its failing program ended with {other:?}"),
    }
    match find(disk::MUST_HOLD) {
        Some(end) if end.code == 0 => print!("{}", end.said),
        Some(end) => bail!("the machine is not what it claims to be:\n{}", end.said),
        None => bail!("the machine ended before its self-test"),
    }
    let (mut passed, mut failed) = (0, 0);
    for binary in binaries {
        let Some(end) = find(&binary.name) else {
            println!("{}: never ended; the machine stopped before it or in it", binary.name);
            failed += 1;
            continue;
        };
        passed += end.passed;
        // A binary that dies has no tests that failed, and has failed.
        failed += if end.code == 0 { 0 } else { end.failed.max(1) };
        let word = if end.code == 0 { "ok" } else { "FAILED" };
        println!("{}: {word}, {} passed, {} failed", binary.name, end.passed, end.failed);
        for skip in skips::SKIPS.iter().filter(|skip| skip.binary == binary.name) {
            println!("  not run here: {}: {}", skip.test, skip.why);
        }
        if end.code != 0 {
            println!("{}", end.said);
        }
    }
    println!("vmtest: {passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} failed in the virtual machine");
    }
    Ok(())
}

/// The static binary that `COPPICE_BINARY` names, or one built now.
fn shipped() -> Result<PathBuf> {
    std::env::var_os("COPPICE_BINARY").map_or_else(release::build, |path| Ok(path.into()))
}

/// Where packages are kept between runs.
fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home);
    let folder = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("coppice/vm");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(rest: &str) -> Vec<console::End> {
        let own = "@vmtest begin self-fail\r\n@vmtest end self-fail 3\r\n\
                   @vmtest begin self-check\r\n6.1.0\r\n@vmtest end self-check 0\r\n";
        console::read(&format!("{own}{rest}"))
    }

    fn binary() -> Vec<Binary> {
        vec![Binary { name: "a::t".into(), file: "/t".into(), folder: "/".into() }]
    }

    #[test]
    fn a_binary_that_passes_is_a_success() {
        let good = "@vmtest begin a::t\r\ntest result: ok. 4 passed; 0 failed; 0 ignored\r\n@vmtest end a::t 0\r\n";
        report(&console(good), &binary()).expect("all passed");
    }

    #[test]
    fn a_failing_a_dying_and_a_missing_binary_are_failures() {
        let failing =
            "@vmtest begin a::t\r\ntest result: FAILED. 4 passed; 2 failed; 0 ignored\r\n@vmtest end a::t 101\r\n";
        let dying = "@vmtest begin a::t\r\n@vmtest end a::t 139\r\n";
        let missing = "@vmtest begin a::t\r\n[   9.1] Kernel panic\r\n";
        for (bad, count) in [(failing, "2 failed"), (dying, "1 failed"), (missing, "1 failed")] {
            let error = report(&console(bad), &binary()).expect_err(bad).to_string();
            assert!(error.contains(count), "{error}");
        }
    }

    #[test]
    fn a_harness_that_sees_no_failures_fails() {
        let blind = console::read("@vmtest begin self-fail\n@vmtest end self-fail 0\n");
        assert!(report(&blind, &[]).is_err());
        assert!(report(&[], &[]).is_err());
    }
}
