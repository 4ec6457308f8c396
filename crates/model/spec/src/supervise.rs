//! Supervision as a user writes it; the core crate `supervise` gives it meaning.

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

use std::time::Duration;

/// What a supervisor does to the others when one child ends abnormally (Erlang/OTP's words).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Restart that child only.
    #[default]
    OneForOne,
    /// Stop and restart all children.
    OneForAll,
    /// Stop and restart that child and those started after it.
    RestForOne,
}

/// When a child is restarted. `Always` is OTP's permanent, `OnFailure` its transient, `Never` its temporary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Waits between restarts of one child: `first`, then doubled up to `max`, each plus up to a quarter of
/// jitter. A run of at least `reset_after` starts over at `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backoff {
    pub first: DurationText,
    pub max: DurationText,
    pub reset_after: DurationText,
}

/// One supervisor's behaviour: strategy, and `max_restarts` within `window` before it gives up and its
/// failure goes to its own supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SuperviseSpec {
    pub strategy: Strategy,
    pub max_restarts: u32,
    pub window: DurationText,
    pub backoff: Backoff,
}

impl Default for Backoff {
    /// 100 ms doubling to 30 s, fresh after 10 s of healthy run (yoq's bounds, with a faster first try).
    fn default() -> Self {
        Self {
            first: DurationText(Duration::from_millis(100)),
            max: DurationText(Duration::from_secs(30)),
            reset_after: DurationText(Duration::from_secs(10)),
        }
    }
}

impl Default for SuperviseSpec {
    /// 10 restarts in 60 s.
    fn default() -> Self {
        Self {
            strategy: Strategy::OneForOne,
            max_restarts: 10,
            window: DurationText(Duration::from_secs(60)),
            backoff: Backoff::default(),
        }
    }
}
