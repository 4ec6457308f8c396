//! Crons and their runs.

use coppice_base::{Name, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One cron of an app's current release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronSummary {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub cron: Name,
    /// `30 4 * * *`, or `every 1h`.
    pub schedule: String,
    /// By which the expression's times are read.
    pub time_zone: String,
    /// It runs at no time, since it is stopped.
    pub stopped: bool,
    #[schema(value_type = Option<u64>)]
    pub next: Option<Timestamp>,
    /// The number of the run that goes on.
    pub running: Option<u64>,
    /// The last run that has ended.
    pub last: Option<CronRun>,
}

/// A cron with its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronDetail {
    #[serde(flatten)]
    pub summary: CronSummary,
    /// The number of the run that begins when the one that goes on has ended.
    pub waiting: Option<u64>,
    /// The newest first.
    pub history: Vec<CronRun>,
}

/// What became of a run, or of a time without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronRun {
    /// `None`: there was none.
    pub run: Option<u64>,
    /// The time it was for; `None`: somebody asked for it.
    #[schema(value_type = Option<u64>)]
    pub due: Option<Timestamp>,
    /// How many times were missed of which `due` is the last; 0: it was not late.
    pub missed: u64,
    #[schema(value_type = Option<u64>)]
    pub started: Option<Timestamp>,
    #[schema(value_type = u64)]
    pub ended: Timestamp,
    pub result: CronResult,
    /// 0–255, where a process ended by itself.
    pub exit_code: Option<u8>,
    /// One phrase: `failed: exited with code 1`.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CronResult {
    Succeeded,
    /// With an exit code, by a signal, without having started, or since it took too long.
    Failed,
    /// The next one was due, and `overlap` is `replace`.
    Replaced,
    /// The app was stopped, or the cron left it.
    Stopped,
    /// The run before was going on, and `overlap` is `skip`.
    Skipped,
    /// The node was away.
    Missed,
}

/// A run that has begun, or waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronRunReply {
    pub run: u64,
    /// Of its container: `report-7`.
    pub instance: String,
}
