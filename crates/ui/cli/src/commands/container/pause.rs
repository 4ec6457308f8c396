//! `pause` and `unpause`: freeze containers, and let them go on.

use crate::args::ContainerArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn pause(settings: &Settings, args: ContainerArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    for_each(settings, &args.containers, async |container| Ok(client.pause(container).await?)).await
}

pub(crate) async fn unpause(settings: &Settings, args: ContainerArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    for_each(settings, &args.containers, async |container| Ok(client.unpause(container).await?)).await
}
