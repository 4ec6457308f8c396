//! `load`: images out of an archive.

use std::process::ExitCode;

use crate::args::LoadArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: LoadArgs) -> CommandResult {
    let upload = super::input(args.input.as_deref())?;
    let client = daemon::client(settings).await?;
    let reply = client.load(upload).await?;
    super::taken_in(settings, &reply, args.quiet)?;
    Ok(ExitCode::SUCCESS)
}
