//! `pull`: images from their registries.

use std::process::ExitCode;

use crate::args::PullArgs;
use crate::error::CommandResult;
use crate::settings::Settings;
use crate::{daemon, transfer};

pub(crate) async fn run(settings: &Settings, args: PullArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let mut pulled = Vec::new();
    for image in &args.images.names {
        let done = transfer::pull(settings, &client, image, !args.missing, args.insecure).await?;
        if !settings.json {
            let line = if args.quiet { done.id.clone() } else { format!("{image} {}", done.digest) };
            settings.print(&format!("{line}\n"))?;
        }
        pulled.push(done);
    }
    if settings.json {
        settings.print_json(&pulled)?;
    }
    Ok(ExitCode::SUCCESS)
}
