//! Workloads that run at times.

use std::time::Duration;

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

use crate::{Expression, WorkloadSpec};

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
    /// Most ended runs remembered; each costs a line of the node's state.
    pub const HISTORY_MAX: u32 = 1000;
    /// Shortest time between two runs.
    pub const EVERY_MIN: Duration = Duration::from_secs(1);

    /// Whether `text` is written like an IANA time zone (`UTC`, `America/Argentina/Ushuaia`). Whether there is one of
    /// the name is for whoever has the zones to say.
    pub fn is_time_zone(text: &str) -> bool {
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'+'))
        };
        text.len() <= 64 && text.split('/').count() <= 3 && text.split('/').all(part)
    }
}

impl Schedule {
    /// Whether it can be kept to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Every(apart) if apart.0 < CronSpec::EVERY_MIN => Err(format!("{apart} is less than a second")),
            Self::Every(_) => Ok(()),
            Self::Expression(text) => Expression::parse(text).map(drop).map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_zone_is_a_name_and_no_path() {
        for good in ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+3"] {
            assert!(CronSpec::is_time_zone(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../UTC", "Europe/", "Eur ope", "a/b/c/d"] {
            assert!(!CronSpec::is_time_zone(bad), "{bad}");
        }
    }
}
