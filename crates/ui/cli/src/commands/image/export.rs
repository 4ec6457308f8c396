//! `image export`: an image's root filesystem as one tar.

use std::process::ExitCode;

use crate::args::ExportArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: ExportArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    super::output(client.export(&args.name).await?, args.output.as_deref()).await?;
    Ok(ExitCode::SUCCESS)
}
