//! Workloads that run at times.

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

use crate::WorkloadSpec;

/// A workload that is run to its end at the times of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronSpec {
    pub workload: WorkloadSpec,
    pub schedule: Schedule,
    /// An IANA name (`Europe/Berlin`), by which an expression's times are read; `UTC` by default.
    pub time_zone: String,
    pub overlap: Overlap,
    pub missed: Missed,
    /// A run that takes longer is stopped and counts as failed.
    pub timeout: Option<DurationText>,
    /// How many ended runs are remembered, at least 1.
    pub history: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// From the release that brings it on, this far apart; at least a second.
    Every(DurationText),
    /// Five fields (minute, hour, day of month, month, day of week) or `@daily` and the like.
    Expression(String),
}

/// What happens when a run is due while the one before it still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out, and the history says so.
    #[default]
    Skip,
    /// It begins when the other has ended; at most one waits.
    Queue,
    /// The one that runs is stopped.
    Replace,
}

/// What happens with times at which the node was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    #[default]
    Skip,
    /// One run for all of them, at once.
    RunOnce,
}

impl CronSpec {
    pub const DEFAULT_TIME_ZONE: &str = "UTC";
    pub const DEFAULT_HISTORY: u32 = 10;
}
