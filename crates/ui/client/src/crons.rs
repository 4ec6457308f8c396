//! Crons: when they run, what became of it, and a run on demand.

use coppice_api::{CronDetail, CronRun, CronRunReply, CronSummary, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    /// Those of one app, or of all.
    pub async fn crons(&self, app: Option<&str>) -> Result<Vec<CronSummary>, ClientError> {
        self.get(Target::of(path::CRONS).maybe("app", app)).await
    }

    pub async fn cron(&self, app: &str, cron: &str) -> Result<CronDetail, ClientError> {
        self.get(Target::with(path::APP_CRON, app).and(cron)).await
    }

    /// A run now; see [`cron_run`](Self::cron_run) for its end.
    pub async fn run_cron(&self, app: &str, cron: &str) -> Result<CronRunReply, ClientError> {
        self.post(Target::with(path::APP_CRON_RUN, app).and(cron), &()).await
    }

    /// Returns when the run has ended.
    pub async fn cron_run(&self, app: &str, cron: &str, run: u64) -> Result<CronRun, ClientError> {
        self.get(Target::with(path::APP_CRON_ONE, app).and(cron).and(&run.to_string())).await
    }
}
