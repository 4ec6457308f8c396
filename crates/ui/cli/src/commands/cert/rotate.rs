//! `cert rotate`: new roots of apps' own authorities.

use crate::args::CertAppsArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: CertAppsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    for_each(settings, &args.apps, async |app| Ok(client.rotate_authority(app).await?)).await
}
