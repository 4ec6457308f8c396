//! `schema`: the JSON Schema of manifests.

use std::process::ExitCode;

use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings) -> CommandResult {
    settings.print_json(&coppice_manifest::schema())?;
    Ok(ExitCode::SUCCESS)
}
