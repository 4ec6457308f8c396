//! Every committed BPF object is what its source compiles to.

use std::fs;

use super::{Finding, Tree};
use crate::objects::{self, OBJECTS, PROGRAMS};

/// Objects that differ from their source, that have none, and sources without an object. Where the compiler that made them
/// is not there, that is a finding in CI, which nobody else compares them after; elsewhere a word on standard error.
pub(super) fn stale(tree: &Tree) -> Vec<Finding> {
    compared(tree, objects::cannot_compile(), std::env::var_os("CI").is_some())
}

fn compared(tree: &Tree, cannot_compile: Option<String>, is_ci: bool) -> Vec<Finding> {
    let names = objects::programs(&tree.root).unwrap_or_default();
    let committed = |name: &String| format!("{OBJECTS}/{name}.o");
    let mut findings: Vec<Finding> = tree
        .with_extension("o")
        .filter(|path| !names.iter().any(|name| committed(name) == **path))
        .map(|path| Finding::new(path, 0, format!("no program in {PROGRAMS} compiles to this object")))
        .collect();
    if names.is_empty() {
        return findings;
    }
    if let Some(why) = cannot_compile {
        let said = format!("BPF objects are not compared with their sources: {why}");
        if is_ci {
            findings.push(Finding::new(OBJECTS, 0, said));
        } else {
            eprintln!("{said}");
        }
        return findings;
    }
    let scratch = std::env::temp_dir().join(format!("coppice-object-{}.o", std::process::id()));
    for name in &names {
        let source = format!("{PROGRAMS}/{name}.c");
        match objects::compile(&tree.root, name, &scratch) {
            Err(error) => findings.push(Finding::new(&source, 0, format!("does not compile: {error:#}"))),
            Ok(()) if fs::read(&scratch).ok() != fs::read(tree.root.join(committed(name))).ok() => {
                findings.push(Finding::new(&committed(name), 0, "is not what its source compiles to: `./x objects`"));
            }
            Ok(()) => {}
        }
    }
    let _ = fs::remove_file(&scratch);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Fixture, lines};

    #[test]
    fn an_object_without_a_source_and_one_that_differs_from_it_are_caught() {
        let program = ("crates/host/bpf/programs/a.c", "int a;\n");
        let objects = [("crates/host/bpf/objects/a.o", "stale"), ("crates/host/bpf/objects/b.o", "")];
        let fixture = Fixture::of(&[program, objects[0], objects[1]]);
        let found = lines(&compared(&fixture.tree(), objects::cannot_compile(), false));
        let sourceless =
            "crates/host/bpf/objects/b.o: no program in crates/host/bpf/programs compiles to this object".to_owned();
        let differs = "crates/host/bpf/objects/a.o: is not what its source compiles to: `./x objects`".to_owned();
        match objects::cannot_compile() {
            Some(_) => assert_eq!(found, [sourceless]),
            None => assert_eq!(found, [sourceless, differs]),
        }
    }

    #[test]
    fn objects_that_cannot_be_compared_are_caught_in_ci_and_nowhere_else() {
        let fixture = Fixture::of(&[("crates/host/bpf/programs/a.c", ""), ("crates/host/bpf/objects/a.o", "")]);
        let absent = || Some("the compiler is not here".to_owned());
        let caught =
            "crates/host/bpf/objects: BPF objects are not compared with their sources: the compiler is not here";
        assert_eq!(lines(&compared(&fixture.tree(), absent(), true)), [caught]);
        assert!(compared(&fixture.tree(), absent(), false).is_empty());
        // Where there is nothing to compare, nothing is missing.
        assert!(compared(&Fixture::of(&[]).tree(), absent(), true).is_empty());
    }
}
