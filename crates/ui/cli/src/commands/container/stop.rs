//! `stop`: services, instances or containers.

use std::time::Duration;

use coppice_api::{StopRequest, WorkloadRequest};

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
        Target::Workload { app, workload } => Ok(client.app_workloads(&app, &request("stop", workload)).await?),
        Target::Container(container) => Ok(client.stop(&container, &stop).await?),
    })
    .await
}

pub(crate) fn request(action: &str, workload: String) -> WorkloadRequest {
    WorkloadRequest { action: action.to_owned(), targets: vec![workload] }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
