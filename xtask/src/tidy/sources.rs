//! What one source file must be: it opens by saying what it is, keeps `unsafe` in its places and stays readable.

use super::{Finding, Tree, scan};

/// Lines of code, comments and blank lines aside. Above it a file is usually two concepts.
const LONGEST: usize = 800;

/// Where `unsafe` may stand: the kernel's door, the process between fork and exec, and the benchmark's floor, which
/// makes the same system calls with nothing around them.
const UNSAFE: &[&str] = &["crates/host/linux/", "crates/host/launcher/", "bench/floor/"];

/// Adapters of the clock and of chance, which pure crates are handed and never name.
const PORTS: &[&str] = &["SystemClock", "SystemRandom", "SystemTime", "Instant"];

/// A test waits on a condition. A pause belongs in a function that says what it waits for, or that it looks for a
/// while at something which must not happen (`observe`).
const WAITS: &[&str] = &["wait", "until", "eventually", "poll", "observe"];

/// Traces of the machine a file was written on. Split, so that this file does not contain them.
const TRACES: &[&str] = &[
    concat!("/wo", "rk/main"),
    concat!("/wo", "rk/shared"),
    concat!("/wo", "rk/brief"),
    concat!("/wo", "rk/.library"),
    concat!("../sha", "red/"),
    concat!("bash", "_jobs"),
];

/// Every source file that breaks one of these, and every text that names the machine it was written on.
pub(super) fn broken(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.with_extension("rs") {
        let text = tree.text(path);
        let code = scan::code(&text);
        header(path, &text, &mut findings);
        placement(path, &code, &mut findings);
        ignored(path, &code, &text, &mut findings);
        sleeps(path, &code, &mut findings);
        ports(path, &code, &mut findings);
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > LONGEST {
            findings.push(Finding::new(
                path,
                0,
                format!("{lines} lines of code, above {LONGEST}: split it by concept"),
            ));
        }
    }
    for path in tree.files.iter().filter(|path| *path != "Cargo.lock") {
        traces(path, &tree.text(path), &mut findings);
    }
    findings
}

fn header(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!") && line.len() > 4) {
        findings.push(Finding::new(path, 1, "opens without a module header (//! what it is, why so, what it refuses)"));
    }
}

fn placement(path: &str, code: &str, findings: &mut Vec<Finding>) {
    if UNSAFE.iter().any(|place| path.starts_with(place)) {
        return;
    }
    for at in scan::words(code, "unsafe") {
        let what = format!("`unsafe` outside {}", UNSAFE.join(", "));
        findings.push(Finding::new(path, scan::line_of(code, at), what));
    }
    for at in code.match_indices("allow(unsafe_code)").map(|(at, _)| at) {
        findings.push(Finding::new(path, scan::line_of(code, at), "allows unsafe code where none may be"));
    }
}

fn ignored(path: &str, code: &str, text: &str, findings: &mut Vec<Finding>) {
    for at in scan::words(code, "ignore") {
        let line = scan::line_of(code, at);
        let written = text.lines().nth(line - 1).unwrap_or_default().trim();
        let attribute = written.starts_with("#[ignore") || written.starts_with("#[cfg_attr");
        if attribute && !written.contains("ignore = \"") {
            findings.push(Finding::new(path, line, "an ignored test without a reason: #[ignore = \"why\"]"));
        }
    }
}

fn sleeps(path: &str, code: &str, findings: &mut Vec<Finding>) {
    let from = if path.contains("/tests/") || path.starts_with("tests/") {
        0
    } else {
        match code.find("#[cfg(test)]") {
            Some(at) => at,
            None => return,
        }
    };
    for word in ["thread::sleep", "time::sleep"] {
        for at in scan::words(code, word).filter(|&at| at >= from) {
            if !WAITS.iter().any(|wait| function_around(code, at).contains(wait)) {
                let what =
                    format!("{word} in a test: wait on a condition, in a function named for it (wait_…, until_…)");
                findings.push(Finding::new(path, scan::line_of(code, at), what));
            }
        }
    }
}

/// The name of the last function that starts before `offset`.
fn function_around(code: &str, offset: usize) -> &str {
    let Some(at) = scan::words(&code[..offset], "fn").last() else { return "" };
    let name = code[at + 2..].trim_start();
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    &name[..end]
}

fn ports(path: &str, code: &str, findings: &mut Vec<Finding>) {
    if !path.starts_with("crates/core/") {
        return;
    }
    for port in PORTS {
        for at in scan::words(code, port) {
            let what = format!("{port} in a pure crate: take the time or the bits as an argument");
            findings.push(Finding::new(path, scan::line_of(code, at), what));
        }
    }
}

fn traces(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for trace in TRACES {
        for (at, _) in text.match_indices(trace) {
            let what = format!("names {trace:?}, a place on the machine it was written on");
            findings.push(Finding::new(path, scan::line_of(text, at), what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Fixture, lines};

    fn found(path: &str, text: &str) -> Vec<String> {
        lines(&broken(&Fixture::of(&[(path, text)]).tree()))
    }

    #[test]
    fn a_file_without_a_header_is_caught() {
        assert!(found("crates/a/src/lib.rs", "pub fn f() {}\n")[0].contains("module header"));
        assert_eq!(found("crates/a/src/lib.rs", "//! What it is.\n"), Vec::<String>::new());
        assert_eq!(found("crates/a/src/lib.rs", "#![no_std]\n//! What it is.\n"), Vec::<String>::new());
    }

    #[test]
    fn unsafe_is_caught_outside_its_places_and_only_there() {
        let text = "//! A file.\nfn f() { unsafe { g() } }\n";
        assert!(found("crates/host/image/src/lib.rs", text)[0].starts_with("crates/host/image/src/lib.rs:2:"));
        assert_eq!(found("crates/host/linux/src/lib.rs", text), Vec::<String>::new());
        assert_eq!(found("crates/host/image/src/lib.rs", "//! Says unsafe.\n"), Vec::<String>::new());
        assert_eq!(found("crates/core/a/src/lib.rs", "//! A file.\n#![allow(unsafe_code)]\n").len(), 1);
    }

    #[test]
    fn an_ignored_test_needs_a_reason() {
        let test = |attribute: &str| format!("//! A test.\n{attribute}\nfn f() {{}}\n");
        assert!(found("a/tests/t.rs", &test("#[ignore]"))[0].contains("without a reason"));
        assert_eq!(found("a/tests/t.rs", &test("#[ignore = \"needs a GPU\"]")), Vec::<String>::new());
    }

    #[test]
    fn a_test_that_sleeps_is_caught_and_one_that_waits_is_not() {
        let test = |name: &str| format!("//! A test.\nfn {name}() {{ std::thread::sleep(PAUSE); }}\n");
        assert!(found("a/tests/t.rs", &test("it_restarts"))[0].contains("wait on a condition"));
        assert_eq!(found("a/tests/t.rs", &test("wait_for_exit")), Vec::<String>::new());
        assert_eq!(found("a/src/lib.rs", &test("backoff")), Vec::<String>::new());
        let inline = "//! A file.\n#[cfg(test)]\nmod tests { fn t() { thread::sleep(PAUSE) } }\n";
        assert_eq!(found("a/src/lib.rs", inline).len(), 1);
    }

    #[test]
    fn a_pure_crate_that_reads_the_clock_is_caught() {
        let text = "//! A file.\nuse coppice_base::SystemClock;\n";
        assert!(found("crates/core/plan/src/lib.rs", text)[0].contains("pure crate"));
        assert_eq!(found("crates/service/node/src/lib.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_file_of_too_many_lines_is_caught() {
        let long = format!("//! A file.\n{}", "fn f() {}\n".repeat(LONGEST + 1));
        assert!(found("a/src/lib.rs", &long)[0].contains("split it by concept"));
        let commented = format!("//! A file.\n{}", "// a word\n\n".repeat(LONGEST + 1));
        assert_eq!(found("a/src/lib.rs", &commented), Vec::<String>::new());
    }

    #[test]
    fn a_place_on_the_writers_machine_is_caught_in_any_file() {
        let text = format!("see {}\n", TRACES[0]);
        assert!(found("docs/a.md", &text)[0].starts_with("docs/a.md:1:"));
    }
}
