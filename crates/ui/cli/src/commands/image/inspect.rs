//! `image inspect`: images as JSON.

use std::process::ExitCode;

use crate::args::NamesArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

/// Prints an array, also for one.
pub(crate) async fn run(settings: &Settings, args: NamesArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let mut found = Vec::new();
    for name in &args.names {
        found.push(client.image(name).await?);
    }
    settings.print_json(&found)?;
    Ok(ExitCode::SUCCESS)
}
