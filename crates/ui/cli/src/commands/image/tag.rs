//! `tag`: another name for an image.

use std::process::ExitCode;

use coppice_api::TagRequest;

use crate::args::TagArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: TagArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    client.tag(&TagRequest { source: args.source, target: args.target }).await?;
    Ok(ExitCode::SUCCESS)
}
