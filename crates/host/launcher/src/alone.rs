//! The launcher as a program of its own: `coppice-launcher-alone ROOT CGROUP`. For tests and the bench.

use std::process::ExitCode;

use coppice_launcher::{LauncherOptions, run};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(cgroup)) = (args.next(), args.next()) else {
        eprintln!("usage: coppice-launcher-alone ROOT CGROUP");
        return ExitCode::from(2);
    };
    match run(&LauncherOptions { root: root.into(), cgroup }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("launcher: {error}");
            ExitCode::FAILURE
        }
    }
}
