//! Files, folders and modules are named for what they hold, with nouns of the glossary.

use std::path::Path;

use super::{Finding, Tree, scan};

/// Names that say only that somebody did not know where else to put it.
const EMPTY: &[&str] =
    &["common", "util", "utils", "helper", "helpers", "support", "manager", "misc", "stuff", "shared"];

/// Endings that say when something was written instead of what it is.
const DATED: &[&str] = &["_v2", "_v3", "_new", "_old", "_copy", "_tmp", "_bak", "_orig"];

/// Every Rust file, source folder and inline module with such a name.
pub(super) fn broken(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.with_extension("rs") {
        let bad = Path::new(path).iter().find_map(|part| {
            let part = part.to_string_lossy();
            fault(part.strip_suffix(".rs").unwrap_or(&part))
        });
        if let Some(why) = bad {
            findings.push(Finding::new(path, 0, why));
        }
        let code = scan::code(&tree.text(path));
        for at in scan::words(&code, "mod") {
            let name: String =
                code[at + 3..].trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
            if let Some(why) = fault(&name) {
                findings.push(Finding::new(path, scan::line_of(&code, at), why));
            }
        }
    }
    findings
}

fn fault(name: &str) -> Option<String> {
    if EMPTY.contains(&name) {
        return Some(format!("the name {name:?} says nothing: name it for what it holds"));
    }
    let ending = DATED.iter().find(|ending| name.ends_with(*ending))?;
    Some(format!("{name:?} ends in {ending}: finish the change and keep one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Fixture, lines};

    #[test]
    fn names_that_say_nothing_are_caught_in_files_folders_and_modules() {
        let bad = Fixture::of(&[
            ("a/src/utils.rs", ""),
            ("a/src/common/thing.rs", ""),
            ("a/src/plan_v2.rs", ""),
            ("a/src/lib.rs", "mod helpers {\n}\n"),
        ]);
        let found = lines(&broken(&bad.tree()));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("a/src/lib.rs:1:")), "{found:?}");
    }

    #[test]
    fn nouns_pass() {
        let good = Fixture::of(&[("a/src/journal.rs", "mod supporter {}"), ("a/src/renewal.rs", "// mod utils")]);
        assert_eq!(lines(&broken(&good.tree())), Vec::<String>::new());
    }
}
