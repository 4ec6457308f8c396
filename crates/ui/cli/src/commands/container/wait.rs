//! `wait`: until containers end; prints each one's exit code.

use std::process::ExitCode;

use crate::args::ContainerArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

/// Ends with the last container's code.
pub(crate) async fn run(settings: &Settings, args: ContainerArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let mut replies = Vec::new();
    for container in &args.containers {
        let reply = client.wait(container).await?;
        if !settings.json {
            settings.print(&format!("{}\n", reply.code))?;
        }
        replies.push(reply);
    }
    if settings.json {
        settings.print_json(&replies)?;
    }
    Ok(ExitCode::from(replies.last().map_or(0, |reply| reply.code)))
}
