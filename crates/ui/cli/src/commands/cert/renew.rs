//! `cert renew`: a new certificate in place of the one there is.

use std::process::ExitCode;

use crate::args::CertDomainArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: CertDomainArgs) -> CommandResult {
    let renewed = daemon::client(settings).await?.renew_certificate(&args.domain).await?;
    super::there(settings, &renewed)?;
    Ok(ExitCode::SUCCESS)
}
