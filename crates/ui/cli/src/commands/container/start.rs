//! `start`: stopped services, instances or containers.

use crate::args::TargetArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::place::{Place, Target};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: TargetArgs) -> CommandResult {
    let place = Place::here();
    let client = daemon::client(settings).await?;
    for_each(settings, &args.targets, async |text| match place.target(text)? {
        Target::Workload { app, workload } => {
            Ok(client.app_workloads(&app, &super::stop::request("start", workload)).await?)
        }
        Target::Container(container) => Ok(client.start(&container).await?),
    })
    .await
}
