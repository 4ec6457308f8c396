//! Every Rust file is reached from a target by `mod`, `#[path]` or `include!`; what is not is dead.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{Finding, Tree, scan};
use crate::workspace::Metadata;

/// The Rust files that no target reaches.
pub(super) fn files(tree: &Tree, metadata: &Metadata) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    for target in metadata.packages.iter().flat_map(|package| &package.targets) {
        let path = target.src_path.strip_prefix(&metadata.workspace_root).unwrap_or(&target.src_path);
        // A target may be named from its package's folder upwards: `../../tests/e2e/apps.rs`.
        follow(tree, &normal(path), true, &mut reached);
    }
    let dead = |path: &&str| !reached.contains(Path::new(path));
    tree.with_extension("rs")
        .filter(dead)
        .map(|path| Finding::new(path, 0, "no target reaches this file: name it in a `mod`, or delete it"))
        .collect()
}

fn follow(tree: &Tree, path: &Path, is_root: bool, reached: &mut BTreeSet<PathBuf>) {
    if !tree.files.iter().any(|file| Path::new(file) == path) || !reached.insert(path.to_path_buf()) {
        return;
    }
    let text = tree.text(&path.to_string_lossy());
    let folder = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default();
    let below = if is_root || stem == "mod" { folder.to_path_buf() } else { folder.join(stem) };
    for module in modules(&text) {
        match module {
            Module::Named(parts) => {
                let base = parts.iter().fold(below.clone(), |folder, part| folder.join(part));
                follow(tree, &base.with_extension("rs"), false, reached);
                follow(tree, &base.join("mod.rs"), false, reached);
            }
            Module::At(place) => follow(tree, &normal(&folder.join(place)), false, reached),
        }
    }
}

/// A module that lives in another file.
enum Module {
    /// Its name, after the names of the inline modules around it.
    Named(Vec<String>),
    /// `#[path = "…"] mod x;` or `include!("…")`, relative to the file's folder.
    At(String),
}

fn modules(text: &str) -> Vec<Module> {
    let code = scan::code(text);
    // Blanking keeps one character for each, so offsets agree only where the text is counted in characters.
    let source: Vec<char> = text.chars().collect();
    let (mut found, mut around, mut depth) = (Vec::new(), Vec::<(usize, String)>::new(), 0usize);
    let blanked: Vec<char> = code.chars().collect();
    let mut at = 0;
    while at < blanked.len() {
        match blanked[at] {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                while around.last().is_some_and(|(inside, _)| *inside > depth) {
                    around.pop();
                }
            }
            _ if starts_word(&blanked, at, "mod") => {
                let (name, end) = word_from(&blanked, at + 3);
                match blanked[end..].iter().find(|c| !c.is_whitespace()) {
                    Some(';') => found.push(path_attribute(&source, &blanked, at).map_or_else(
                        || Module::Named(around.iter().map(|(_, name)| name.clone()).chain([name]).collect()),
                        Module::At,
                    )),
                    Some('{') => around.push((depth + 1, name)),
                    _ => {}
                }
                at = end.max(at + 1);
                continue;
            }
            _ if starts_word(&blanked, at, "include") && blanked.get(at + 7) == Some(&'!') => {
                if let Some(place) = quoted(&source[at..]) {
                    found.push(Module::At(place));
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn starts_word(code: &[char], at: usize, word: &str) -> bool {
    let part = |c: &char| c.is_alphanumeric() || *c == '_';
    let length = word.chars().count();
    code[at..].iter().take(length).copied().eq(word.chars())
        && !(at > 0 && part(&code[at - 1]))
        && !code.get(at + length).is_some_and(part)
}

fn word_from(code: &[char], from: usize) -> (String, usize) {
    let start = (from..code.len()).find(|&at| !code[at].is_whitespace()).unwrap_or(code.len());
    let end = (start..code.len()).find(|&at| !code[at].is_alphanumeric() && code[at] != '_').unwrap_or(code.len());
    (code[start..end].iter().collect(), end)
}

/// The string of a `#[path = "…"]` on the lines just above the `mod` at `at`.
fn path_attribute(source: &[char], blanked: &[char], at: usize) -> Option<String> {
    let from = (0..at).rev().find(|&before| matches!(blanked[before], ';' | '{' | '}')).map_or(0, |end| end + 1);
    let attribute = (from..at).find(|&start| starts_word(blanked, start, "path"))?;
    quoted(&source[attribute..at])
}

fn quoted(source: &[char]) -> Option<String> {
    let open = source.iter().position(|&c| c == '"')?;
    let length = source[open + 1..].iter().position(|&c| c == '"')?;
    Some(source[open + 1..open + 1 + length].iter().collect())
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Fixture, lines};

    fn metadata(targets: &[&str]) -> Metadata {
        let targets: Vec<_> =
            targets.iter().map(|path| serde_json::json!({ "src_path": format!("/w/{path}") })).collect();
        serde_json::from_value(serde_json::json!({
            "packages": [{ "name": "a", "manifest_path": "/w/a/Cargo.toml", "dependencies": [], "targets": targets }],
            "target_directory": "/w/target", "workspace_root": "/w",
        }))
        .expect("metadata")
    }

    #[test]
    fn a_file_no_module_names_is_caught() {
        let tree = Fixture::of(&[("a/src/lib.rs", "// mod left;\n"), ("a/src/left.rs", "")]);
        let found = lines(&files(&tree.tree(), &metadata(&["a/src/lib.rs"])));
        assert_eq!(found, ["a/src/left.rs: no target reaches this file: name it in a `mod`, or delete it"]);
    }

    #[test]
    fn every_way_to_name_a_module_reaches_its_file() {
        let tree = Fixture::of(&[
            ("a/src/lib.rs", "mod one;\npub(crate) mod two;\nmod inline {\n mod deep;\n}\nmod three;\n"),
            ("a/src/one.rs", "mod below;"),
            ("a/src/one/below.rs", ""),
            ("a/src/two/mod.rs", "mod beside;"),
            ("a/src/two/beside.rs", ""),
            ("a/src/inline/deep.rs", ""),
            ("a/src/three.rs", "#[path = \"elsewhere.rs\"]\nmod four;\ninclude!(\"../table.rs\");"),
            ("a/src/elsewhere.rs", ""),
            ("a/table.rs", ""),
            ("a/tests/whole.rs", ""),
        ]);
        let found = lines(&files(&tree.tree(), &metadata(&["a/src/lib.rs", "a/tests/whole.rs"])));
        assert_eq!(found, Vec::<String>::new());
    }
}
