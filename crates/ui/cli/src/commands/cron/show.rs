//! `cron ls` and `cron history`.

use std::process::ExitCode;

use coppice_api::{CronDetail, CronSummary};
use coppice_base::{Clock, SystemClock, Timestamp};

use super::word;
use crate::args::{CronArgs, CronLsArgs};
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, ago, brief, moment};
use crate::settings::Settings;

pub(crate) async fn list(settings: &Settings, args: CronLsArgs) -> CommandResult {
    let crons = daemon::client(settings).await?.crons(args.app.as_deref()).await?;
    if settings.json {
        settings.print_json(&crons)?;
    } else {
        settings.print(&table(&crons, SystemClock.now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn history(settings: &Settings, args: CronArgs) -> CommandResult {
    let detail = daemon::client(settings).await?.cron(&args.app, &args.cron).await?;
    if settings.json {
        settings.print_json(&detail.history)?;
    } else {
        settings.print(&lines(&detail))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(crons: &[CronSummary], now: Timestamp) -> String {
    let mut table = Table::new(&["APP", "CRON", "SCHEDULE", "ZONE", "NEXT", "LAST", "RESULT"]);
    for cron in crons {
        let next = match (cron.stopped, cron.next) {
            (true, _) => "stopped".to_owned(),
            (false, Some(at)) => moment(at),
            (false, None) => "-".to_owned(),
        };
        let last = cron.last.as_ref();
        let result = match (cron.running, last) {
            (Some(run), _) => format!("run {run} goes on"),
            (None, Some(last)) => last.reason.clone(),
            (None, None) => "-".to_owned(),
        };
        table.row(vec![
            cron.app.to_string(),
            cron.cron.to_string(),
            cron.schedule.clone(),
            cron.time_zone.clone(),
            next,
            last.map_or_else(|| "-".to_owned(), |last| ago(last.ended, now)),
            result,
        ]);
    }
    table.render()
}

fn lines(detail: &CronDetail) -> String {
    let mut table = Table::new(&["RUN", "DUE", "STARTED", "TOOK", "RESULT", "REASON"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for run in &detail.history {
        let due = match run.missed {
            0 => run.due.map_or_else(|| "by hand".to_owned(), moment),
            times => format!("{} and {} more", or_dash(run.due.map(moment)), times - 1),
        };
        table.row(vec![
            or_dash(run.run.map(|run| run.to_string())),
            due,
            or_dash(run.started.map(moment)),
            or_dash(run.started.map(|started| brief(run.ended.since(started)))),
            word(run.result).to_owned(),
            run.reason.clone(),
        ]);
    }
    table.render()
}
