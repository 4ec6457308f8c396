//! `rm`: containers away.

use crate::args::RmArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: RmArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    for_each(settings, &args.containers.containers, async |container| {
        Ok(client.remove_container(container, args.force, args.volumes).await?)
    })
    .await
}
