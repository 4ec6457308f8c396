//! Crons of the node's apps: when they run next, what became of their runs, and a run on demand.

use coppice_api::{CronDetail, CronResult, CronRun, CronRunReply, CronSummary};
use coppice_cron::{Cause, Entry, Outcome, Why};
use coppice_spec::{CronSpec, Schedule};

use super::Node;
use crate::app::{App, CronView, outcome_text};
use crate::error::NodeError;

impl Node {
    /// Those of one app, or of all.
    pub fn crons(&self, app: Option<&str>) -> Result<Vec<CronSummary>, NodeError> {
        let apps = match app {
            Some(app) => vec![self.app(app)?],
            None => self.agent.all(),
        };
        let of = |app: &App| app.crons().iter().map(|cron| summary(app, cron)).collect::<Vec<_>>();
        Ok(apps.iter().flat_map(|app| of(app)).collect())
    }

    pub fn cron(&self, app: &str, cron: &str) -> Result<CronDetail, NodeError> {
        let app = self.app(app)?;
        let view = app.cron(cron)?;
        let waiting = view.memory.waiting.as_ref().map(|run| run.number);
        let history = view.memory.history.iter().rev().map(line).collect();
        Ok(CronDetail { summary: summary(&app, &view), waiting, history })
    }

    /// Begins a run now, or when the one that goes on has ended.
    pub fn run_cron(&self, app: &str, cron: &str) -> Result<CronRunReply, NodeError> {
        let run = self.app(app)?.request_run(cron)?;
        Ok(CronRunReply { run, instance: format!("{cron}-{run}") })
    }

    /// Resolves when a run has ended; at once for one of the history.
    pub async fn cron_run(&self, app: &str, cron: &str, run: u64) -> Result<CronRun, NodeError> {
        Ok(line(&self.app(app)?.run_ended(cron, run).await?))
    }
}

fn summary(app: &App, cron: &CronView) -> CronSummary {
    let spec = cron.spec.as_ref();
    let schedule = |spec: &CronSpec| match &spec.schedule {
        Schedule::Every(apart) => format!("every {apart}"),
        Schedule::Expression(text) => text.clone(),
    };
    CronSummary {
        app: app.name.clone(),
        cron: cron.name.clone(),
        schedule: spec.map(schedule).unwrap_or_default(),
        time_zone: spec.map(|spec| spec.time_zone.clone()).unwrap_or_default(),
        stopped: cron.is_resting,
        next: cron.next,
        running: cron.memory.running.as_ref().map(|run| run.number),
        last: cron.memory.last_run().map(line),
    }
}

fn line(entry: &Entry) -> CronRun {
    let (result, exit_code) = match &entry.outcome {
        Outcome::Succeeded => (CronResult::Succeeded, Some(0)),
        Outcome::Failed { code, .. } => (CronResult::Failed, *code),
        Outcome::Stopped(Why::TimedOut) => (CronResult::Failed, None),
        Outcome::Stopped(Why::Replaced) => (CronResult::Replaced, None),
        Outcome::Stopped(Why::Halted) => (CronResult::Stopped, None),
        Outcome::Skipped { .. } => (CronResult::Skipped, None),
        Outcome::Missed => (CronResult::Missed, None),
    };
    let (due, missed) = match entry.cause {
        Cause::Due(at) => (Some(at), 0),
        Cause::Missed { times, last } => (Some(last), times),
        Cause::Request => (None, 0),
    };
    let reason = outcome_text(&entry.outcome);
    CronRun { run: entry.number, due, missed, started: entry.started, ended: entry.ended, result, exit_code, reason }
}
