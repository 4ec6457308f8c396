//! `save`: images into an archive.

use std::process::ExitCode;

use crate::args::SaveArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: SaveArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let download = client.save(&args.images.names, args.format.name()).await?;
    super::output(download, args.output.as_deref()).await?;
    Ok(ExitCode::SUCCESS)
}
