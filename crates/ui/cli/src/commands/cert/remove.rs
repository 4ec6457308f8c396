//! `cert rm`: certificates away.

use crate::args::CertDomainsArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: CertDomainsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    for_each(settings, &args.domains, async |domain| Ok(client.remove_certificate(domain).await?)).await
}
