//! `openapi`: the node's OpenAPI document.

use std::process::ExitCode;

use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    settings.print_json(&daemon::client(settings).await?.openapi().await?)?;
    Ok(ExitCode::SUCCESS)
}
