//! `restart`: services, instances or containers.

use coppice_api::StopRequest;

use super::stop::{millis, request};
use crate::args::StopArgs;
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::place::{Place, Target};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: StopArgs) -> CommandResult {
    let place = Place::here();
    let client = daemon::client(settings).await?;
    let stop = StopRequest { timeout_ms: args.timeout.map(millis), signal: None };
    for_each(settings, &args.targets, async |text| match place.target(text)? {
        Target::Workload { app, workload } => Ok(client.app_workloads(&app, &request("restart", workload)).await?),
        Target::Container(container) => Ok(client.restart(&container, &stop).await?),
    })
    .await
}
