//! `cron run`: a run now.

use std::process::ExitCode;

use coppice_api::CronResult;

use crate::args::CronRunArgs;
use crate::daemon;
use crate::error::{CommandResult, FAILURE};
use crate::settings::Settings;

/// Ends with the run's exit code; 1 when it has none.
pub(crate) async fn run(settings: &Settings, args: CronRunArgs) -> CommandResult {
    let (app, cron) = (&args.of.app, &args.of.cron);
    let client = daemon::client(settings).await?;
    let begun = client.run_cron(app, cron).await?;
    if args.detach {
        if settings.json {
            settings.print_json(&begun)?;
        } else {
            settings.print(&format!("{app}/{}\n", begun.instance))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let ended = client.cron_run(app, cron, begun.run).await?;
    if settings.json {
        settings.print_json(&ended)?;
    } else {
        settings.print(&format!("{app}/{} {}\n", begun.instance, ended.reason))?;
    }
    Ok(match (ended.result, ended.exit_code) {
        (CronResult::Succeeded, _) => ExitCode::SUCCESS,
        (_, Some(code)) => ExitCode::from(code.max(1)),
        (_, None) => ExitCode::from(FAILURE),
    })
}
