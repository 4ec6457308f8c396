//! `DEPENDENCIES.md` says of every external crate what it is for; a crate nobody can explain does not get in.

use std::collections::BTreeMap;

use super::{Finding, Tree, scan};

const DOCUMENT: &str = "DEPENDENCIES.md";
const MANIFEST: &str = "Cargo.toml";

/// Crates of the root manifest that the document lacks, and lines of the document that no crate stands behind.
pub(super) fn broken(tree: &Tree) -> Vec<Finding> {
    let manifest = tree.text(MANIFEST);
    let document = tree.text(DOCUMENT);
    let wanted = match external(&manifest) {
        Ok(wanted) => wanted,
        Err(error) => return vec![Finding::new(MANIFEST, 0, format!("cannot be read: {error}"))],
    };
    let listed = listed(&document);
    let lacking = wanted.iter().filter(|name| !listed.contains_key(*name)).map(|name| {
        Finding::new(DOCUMENT, 0, format!("has no line for {name}: say what for, why this one, what it replaces"))
    });
    let spare = listed.iter().filter(|(name, _)| !wanted.contains(name)).map(|(name, (line, _))| {
        Finding::new(DOCUMENT, *line, format!("explains {name}, which the root Cargo.toml does not have"))
    });
    let twice = listed
        .iter()
        .filter(|(_, (_, times))| *times > 1)
        .map(|(name, (line, _))| Finding::new(DOCUMENT, *line, format!("explains {name} more than once")));
    lacking.chain(spare).chain(twice).collect()
}

fn external(manifest: &str) -> Result<Vec<String>, toml::de::Error> {
    let manifest: toml::Table = toml::from_str(manifest)?;
    let table = manifest.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let entries = table.and_then(toml::Value::as_table).into_iter().flatten();
    Ok(entries.filter(|(_, value)| value.get("path").is_none()).map(|(name, _)| name.clone()).collect())
}

/// The first cell of each table row that is one name in backticks: its line, and how often it occurs.
fn listed(document: &str) -> BTreeMap<String, (usize, usize)> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    for line in document.split_inclusive('\n') {
        let name = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |")).map(|(name, _)| name);
        if let Some(name) = name {
            let entry = found.entry(name.to_owned()).or_insert((scan::line_of(document, offset), 0));
            entry.1 += 1;
        }
        offset += line.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Fixture, lines};

    const MANIFEST: &str =
        "[workspace.dependencies]\nours = { path = \"a\" }\nserde = \"1\"\ntar = { version = \"0.4\" }\n";

    #[test]
    fn a_crate_without_a_line_and_a_line_without_a_crate_are_caught() {
        let document = "| crate | for |\n|---|---|\n| `serde` | types |\n| `gone` | nothing |\n";
        let found = lines(&broken(&Fixture::of(&[("Cargo.toml", MANIFEST), ("DEPENDENCIES.md", document)]).tree()));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no line for tar"), "{found:?}");
        assert!(found[1].starts_with("DEPENDENCIES.md:4: explains gone"), "{found:?}");
    }

    #[test]
    fn one_line_each_passes() {
        let document = "| `serde` | types |\n| `tar` | layers |\n";
        let tree = Fixture::of(&[("Cargo.toml", MANIFEST), ("DEPENDENCIES.md", document)]);
        assert_eq!(lines(&broken(&tree.tree())), Vec::<String>::new());
    }
}
