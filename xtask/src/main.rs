//! The project's own tasks: `cargo xtask <task>`, or `./x <task>` on a machine where nothing is prepared.
//!
//! One file for each task. The tasks run the tools a person would type (cargo, apt-get, qemu) and print what they
//! run, so that each step can be repeated by hand. Nothing of the product lives here.

mod bare;
mod bench;
mod demo;
mod gate;
mod install;
mod interrupt;
mod objects;
mod release;
mod shell;
mod tidy;
mod vmtest;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
usage: ./x <task> [options]        (or: cargo xtask <task>)

  demo     build, start the example app, kill an instance and watch it return   [--keep | --stop]
  build    the binary as it is shipped: optimized, static
  test     set up and run every test
  verify   formatting, lints, tidy and the quick tests; writes nothing
  fix      format, and apply the lints' own fixes
  tidy     the rules of this repository: layers, names, dead files, links, unsafe
  objects  the BPF programs' C, compiled to the objects in the repository (clang-14)
  bench    Coppice beside its peers   [--quick] [--json] [--commit-results] [name…]
  bare     the demo on a Debian with nothing prepared: no compiler, no Rust   [--sudo]
  vmtest   the kernel tests in a virtual machine with cgroup v2   [--smoke] [package…]
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match task {
        "demo" => demo::run(rest),
        "build" => release::run(rest),
        "test" => gate::test(rest),
        "verify" => gate::verify(rest),
        "fix" => gate::fix(rest),
        "tidy" => tidy::run(rest),
        "objects" => objects::run(rest),
        "bench" => bench::run(rest),
        "bare" => bare::run(rest),
        "vmtest" => vmtest::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("xtask: there is no task {other:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {task}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
