//! `vmtest`: the kernel tests in virtual machines with cgroup v2, whatever the machine below has.
//!
//! QEMU's `microvm` boots the distribution's own cloud kernel, unpacked from its package and never installed. A small
//! initramfs loads what the disk needs; the disk holds busybox and the statically linked test binaries at the paths
//! they were built at. Each binary's end is a line on the serial console, which is all the host listens to. KVM is
//! used where a machine boots with it within seconds, software emulation elsewhere.
//!
//! The tests are dealt out to machines of one processor that run side by side. A machine that falls silent is ended,
//! and what had not ended in it is run once more in another; what ends then is named FLAKY. Two programs of the
//! harness's own run first in each: one that fails on purpose, so that a harness which sees no failures fails, and one
//! that checks that the machine is what it claims to be.

mod binaries;
mod console;
mod disk;
mod kernel;
mod machine;
mod skips;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

use self::binaries::{Binary, Built};
use self::console::End;
use self::kernel::Kernel;
use crate::install;

/// The packages whose tests run in the machines.
const PACKAGES: &[&str] =
    &["coppice-bpf", "coppice-cgroup", "coppice-linux", "coppice-container", "coppice-launcher", "coppice-network"];
/// Where cgroup versions differ most: a look that takes seconds.
const SMOKE: &[&str] = &["coppice-cgroup", "coppice-linux"];
/// Machines at a time: as many as the smallest machine that CI and developers have carries processors.
const MACHINES: usize = 2;

/// Runs the tests of the packages or single binaries (`package::target`) named, of the smoke set, or all; and, named
/// `product`, the program that users get.
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
    if with_product {
        built.tests.push(Binary { name: disk::PRODUCT.into(), file: product()?, folder: "/".into() });
    }
    let kernel = kernel::fetch(&cache()?)?;
    let all: Vec<&Binary> = built.tests.iter().collect();
    let mut ends = round(&kernel, &built.programs, &all)?;
    let again: Vec<&Binary> = all.into_iter().filter(|binary| is_worth_another(binary, &ends)).collect();
    if !again.is_empty() {
        let others = round(&kernel, &built.programs, &again)?;
        for other in others.into_iter().filter(|end| again.iter().any(|binary| binary.name == end.name)) {
            let before = ends.iter().position(|end| end.name == other.name).map(|at| ends.remove(at));
            if other.code == 0 {
                let why = before.map_or("its machine fell silent".into(), |end| format!("it failed\n{}", end.said));
                println!("FLAKY: {} ended well the second time; the first time {why}", other.name);
            }
            ends.push(other);
        }
    }
    report(&ends, &built.tests)
}

/// Whether a binary is run once more: where its machine stopped on the way; and in CI, which tries every test again,
/// where it failed.
fn is_worth_another(binary: &Binary, ends: &[End]) -> bool {
    match ends.iter().find(|end| end.name == binary.name) {
        None => true,
        Some(end) => end.code != 0 && std::env::var_os("CI").is_some(),
    }
}

/// Runs binaries in as many machines as there may be, and returns those that ended.
fn round(kernel: &Kernel, programs: &[PathBuf], binaries: &[&Binary]) -> Result<Vec<End>> {
    let shares = deal(binaries, MACHINES);
    std::thread::scope(|scope| {
        let machines: Vec<_> = (1..)
            .zip(&shares)
            .map(|(number, share)| scope.spawn(move || one_machine(number, kernel, programs, share)))
            .collect();
        let mut ends = Vec::new();
        for machine in machines {
            ends.extend(machine.join().map_err(|_| anyhow!("a machine's thread panicked"))??);
        }
        Ok(ends)
    })
}

fn one_machine(number: usize, kernel: &Kernel, programs: &[PathBuf], binaries: &[&Binary]) -> Result<Vec<End>> {
    let disk = disk::make(number, kernel, programs, binaries)?;
    let ends = console::read(&machine::boot(kernel, &disk)?);
    trust(&ends).with_context(|| format!("the whole console is in {}", disk.log().display()))?;
    Ok(ends)
}

/// Deals binaries out by turns: neighbours are of one package, and alike.
fn deal<'a>(binaries: &[&'a Binary], machines: usize) -> Vec<Vec<&'a Binary>> {
    let mut shares = vec![Vec::new(); machines.min(binaries.len())];
    for (turn, binary) in binaries.iter().enumerate() {
        shares[turn % machines].push(*binary);
    }
    shares
}

/// Whether a machine's ends may be believed. One that ended before anything did says nothing.
fn trust(ends: &[End]) -> Result<()> {
    let find = |name: &str| ends.iter().find(|end| end.name == name);
    match find(disk::MUST_FAIL).map(|end| end.code) {
        None if ends.is_empty() => return Ok(()),
        Some(disk::MUST_FAIL_CODE) => {}
        other => bail!("the harness does not see failures: its failing program ended with {other:?}"),
    }
    match find(disk::MUST_HOLD) {
        Some(end) if end.code != 0 => bail!("the machine is not what it claims to be:\n{}", end.said),
        None if ends.len() > 1 => bail!("the machine passed over its self-test"),
        _ => Ok(()),
    }
}

/// Prints what each binary did, and the sum; an error when something failed or never ran.
fn report(ends: &[End], binaries: &[Binary]) -> Result<()> {
    let find = |name: &str| ends.iter().find(|end| end.name == name);
    if let Some(machine) = find(disk::MUST_HOLD) {
        print!("{}", machine.said);
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
        bail!("{failed} failed in the virtual machines, whose consoles are in target/vmtest");
    }
    Ok(())
}

/// The static program that `COPPICE_BINARY` names, or one built now.
fn product() -> Result<PathBuf> {
    std::env::var_os("COPPICE_BINARY").map_or_else(binaries::product, |path| Ok(path.into()))
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

    const OWN: &str = "@vmtest begin self-fail\r\n@vmtest end self-fail 3\r\n\
                       @vmtest begin self-check\r\n6.1.0\r\n@vmtest end self-check 0\r\n";

    fn console(rest: &str) -> Vec<End> {
        console::read(&format!("{OWN}{rest}"))
    }

    fn binary(name: &str) -> Binary {
        Binary { name: name.into(), file: "/t".into(), folder: "/".into() }
    }

    #[test]
    fn a_binary_that_passes_is_a_success() {
        let good = "@vmtest begin a::t\r\ntest result: ok. 4 passed; 0 failed; 0 ignored\r\n@vmtest end a::t 0\r\n";
        let ends = console(good);
        trust(&ends).expect("a machine to be believed");
        report(&ends, &[binary("a::t")]).expect("all passed");
    }

    #[test]
    fn a_failing_a_dying_and_a_missing_binary_are_failures() {
        let failing =
            "@vmtest begin a::t\r\ntest result: FAILED. 4 passed; 2 failed; 0 ignored\r\n@vmtest end a::t 101\r\n";
        let dying = "@vmtest begin a::t\r\n@vmtest end a::t 139\r\n";
        let missing = "@vmtest begin a::t\r\n[   9.1] Kernel panic\r\n";
        for (bad, count) in [(failing, "2 failed"), (dying, "1 failed"), (missing, "1 failed")] {
            let error = report(&console(bad), &[binary("a::t")]).expect_err(bad).to_string();
            assert!(error.contains(count), "{error}");
        }
    }

    #[test]
    fn a_harness_that_sees_no_failures_fails() {
        assert!(trust(&console::read("@vmtest begin self-fail\n@vmtest end self-fail 0\n")).is_err());
        assert!(trust(&console::read("@vmtest begin a::t\n@vmtest end a::t 0\n")).is_err());
        assert!(trust(&console::read(&OWN.replace("self-check 0", "self-check 1"))).is_err());
        assert!(report(&[], &[binary("a::t")]).is_err());
    }

    #[test]
    fn what_a_silent_machine_did_not_end_is_run_again() {
        let ends = console("@vmtest begin a::t\n@vmtest end a::t 0\n@vmtest begin a::u\n");
        assert!(!is_worth_another(&binary("a::t"), &ends));
        assert!(is_worth_another(&binary("a::u"), &ends));
    }

    #[test]
    fn binaries_are_dealt_out_evenly_and_no_machine_is_idle() {
        let binaries = ["a", "b", "c"].map(binary);
        let all: Vec<&Binary> = binaries.iter().collect();
        let names = |machines| -> Vec<String> {
            let join = |share: Vec<&Binary>| share.iter().map(|binary| binary.name.as_str()).collect();
            deal(&all, machines).into_iter().map(join).collect()
        };
        assert_eq!(names(2), ["ac", "b"]);
        assert_eq!(names(8), ["a", "b", "c"]);
    }
}
