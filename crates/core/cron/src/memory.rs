//! What is remembered of a cron, and on disk: without it a returning daemon would run for a time twice, or never.

use std::collections::VecDeque;

use coppice_base::Timestamp;
use coppice_spec::Schedule;
use serde::{Deserialize, Serialize};

/// A cron's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The schedule and zone that the next two are about.
    pub schedule: Option<(Schedule, String)>,
    /// What an interval counts from.
    pub anchor: Timestamp,
    /// Times up to here have been dealt with.
    pub seen: Timestamp,
    /// Runs that there were; the next one has one more for its number.
    pub runs: u64,
    pub running: Option<Run>,
    /// It begins when the one that runs has ended.
    pub waiting: Option<Run>,
    /// What has ended or was left out, oldest first.
    pub history: VecDeque<Entry>,
}

/// A run that has been decided on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// From 1 on.
    pub number: u64,
    pub cause: Cause,
    /// When it began, or when it was asked to wait.
    pub since: Timestamp,
    /// It is being stopped.
    pub stopping: Option<Why>,
}

/// Why there is a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was time.
    Due(Timestamp),
    /// For so many times at which it did not run, the last of which was `last`.
    Missed { times: u64, last: Timestamp },
    /// Somebody asked for it.
    Request,
}

/// Why a run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It took longer than its timeout.
    TimedOut,
    /// The next one was due, which replaces it.
    Replaced,
    /// The app was stopped, or the cron is not part of it any more.
    Halted,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `None` for what was left out.
    pub number: Option<u64>,
    pub cause: Cause,
    /// `None`: it did not begin.
    pub started: Option<Timestamp>,
    pub ended: Timestamp,
    pub outcome: Outcome,
}

/// What became of a run, or of a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// `code`: as the shell has it; `None` when it did not start.
    Failed {
        code: Option<u8>,
        reason: String,
    },
    Stopped(Why),
    /// The run before was still going on, at so many times one after the other.
    Skipped {
        times: u64,
    },
    /// Nobody was there.
    Missed,
}

impl Memory {
    /// Of a cron that comes to be at `now`, with the release made at `anchor`.
    pub fn new(anchor: Timestamp) -> Self {
        Self { anchor, ..Self::default() }
    }

    /// The last run that has ended.
    pub fn last_run(&self) -> Option<&Entry> {
        self.history.iter().rev().find(|entry| entry.number.is_some())
    }
}
