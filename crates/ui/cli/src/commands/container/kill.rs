//! `kill`: a signal to containers.

use coppice_api::KillRequest;

use crate::args::KillArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: KillArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let request = KillRequest { signal: args.signal };
    for_each(settings, &args.containers.containers, async |container| Ok(client.kill(container, &request).await?)).await
}
