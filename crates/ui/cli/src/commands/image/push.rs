//! `push`: an image to its registry.

use std::process::ExitCode;

use crate::args::PushArgs;
use crate::error::CommandResult;
use crate::settings::Settings;
use crate::{daemon, transfer};

pub(crate) async fn run(settings: &Settings, args: PushArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let done = transfer::push(settings, &client, &args.image, args.target.as_deref(), args.insecure).await?;
    if settings.json {
        settings.print_json(&done)?;
    } else if args.quiet {
        settings.print(&format!("{}\n", done.digest))?;
    } else {
        settings.print(&format!("{} {}\n", args.target.as_deref().unwrap_or(&args.image), done.digest))?;
    }
    Ok(ExitCode::SUCCESS)
}
