//! `validate`: everything that is wrong with a manifest.

use std::process::ExitCode;

use crate::args::ValidateArgs;
use crate::error::CommandResult;
use crate::place;
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings, args: ValidateArgs) -> CommandResult {
    let file = &args.manifest.file;
    let apps = place::apps(settings, &args.manifest)?;
    if settings.json {
        match &apps[..] {
            [app] => settings.print_json(app)?,
            apps => settings.print_json(&apps)?,
        }
    } else if !args.quiet {
        let count = |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
        for app in &apps {
            let crons =
                if app.crons.is_empty() { String::new() } else { format!(", {}", count(app.crons.len(), "cron")) };
            settings.print(&format!(
                "{} is right: app {}, {}, {}{crons}\n",
                file.display(),
                app.name,
                count(app.services.len(), "service"),
                count(app.workers.len(), "worker")
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
