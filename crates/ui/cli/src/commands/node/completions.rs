//! `completions`: what a shell needs to complete arguments.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings, args: CompletionsArgs) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coppice", &mut script);
    settings.print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
