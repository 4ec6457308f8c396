//! `objects`: the BPF programs' C, compiled to the objects that the repository holds.
//!
//! They are in the repository so that building Coppice needs no clang. `tidy` compiles them again and compares, where
//! the compiler is the very one that they were made by: another version's output differs and says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{shell, workspace};

/// Relative to the root: one object for each `.c`.
pub(crate) const PROGRAMS: &str = "crates/host/bpf/programs";
pub(crate) const OBJECTS: &str = "crates/host/bpf/objects";

const CLANG: &str = "clang-14";
const STRIP: &str = "llvm-strip-14";
/// Debian 12's.
const VERSION: &str = "14.0.6";

/// Compiles all programs into the repository.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("objects takes no options, got {unknown:?}");
    }
    if let Some(why) = cannot_compile() {
        bail!("{why}");
    }
    let root = workspace::root();
    for name in programs(&root)? {
        compile(&root, &name, &root.join(OBJECTS).join(format!("{name}.o")))?;
        eprintln!("{OBJECTS}/{name}.o");
    }
    Ok(())
}

/// Why the objects cannot be made again here, if they cannot.
pub(crate) fn cannot_compile() -> Option<String> {
    let says = |program: &str| shell::output(Command::new(program).arg("--version"));
    match (says(CLANG), says(STRIP)) {
        (Ok(clang), Ok(strip)) if clang.contains(VERSION) && strip.contains(VERSION) => {}
        _ => return Some(format!("the objects are made by {CLANG} and {STRIP} {VERSION}, which are not here")),
    }
    let headers = Path::new("/usr/include/bpf/bpf_helpers.h");
    (!headers.exists()).then(|| format!("{} is not here; it is in the package libbpf-dev", headers.display()))
}

/// The names of the programs, sorted.
pub(crate) fn programs(root: &Path) -> Result<Vec<String>> {
    let folder = root.join(PROGRAMS);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Compiles one program. The same source gives the same bytes, wherever the repository lies.
pub(crate) fn compile(root: &Path, name: &str, to: &Path) -> Result<()> {
    let mut clang = Command::new(CLANG);
    clang.current_dir(root.join(PROGRAMS)).args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra"]);
    clang.args(["-Werror", "-fdebug-compilation-dir=."]);
    // Debian keeps <asm/types.h> under the machine's name, which the target "bpf" is not.
    for machine in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let folder = PathBuf::from("/usr/include").join(machine);
        if folder.exists() {
            clang.arg("-I").arg(folder);
        }
    }
    shell::output(clang.arg("-c").arg(format!("{name}.c")).arg("-o").arg(to))?;
    // Types and lines for the verifier (BTF) stay; DWARF goes.
    shell::output(Command::new(STRIP).arg("-g").arg(to)).map(drop)
}
