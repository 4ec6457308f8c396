//! `validate`: everything that is wrong with a manifest.

use std::process::ExitCode;

use crate::args::ValidateArgs;
use crate::error::CommandResult;
use crate::place;
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings, args: ValidateArgs) -> CommandResult {
    let file = &args.manifest.file;
    let spec = place::read(settings, file)?.spec;
    if settings.json {
        settings.print_json(&spec)?;
    } else if !args.quiet {
        let count = |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
        settings.print(&format!(
            "{} is right: app {}, {}, {}\n",
            file.display(),
            spec.name,
            count(spec.services.len(), "service"),
            count(spec.workers.len(), "worker")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
