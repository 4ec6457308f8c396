//! Why things happened, as data: what `status` shows and what the event stream carries.

use std::fmt;

use coppice_base::{DurationText, Timestamp, signal_text};
use coppice_spec::Strategy;
use serde::{Deserialize, Serialize};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    Code(i32),
    Signal(i32),
    /// The kernel killed it for exceeding its memory limit.
    OutOfMemory,
    /// It is gone and nobody saw how (machine restarted, launcher lost).
    Lost,
}

impl ExitReason {
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "killed by {}", signal_text(*signal)),
            Self::OutOfMemory => f.write_str("killed: out of memory"),
            Self::Lost => f.write_str("lost: it ended and nobody saw how"),
        }
    }
}

/// What went wrong with one child. An exit with code 0 is here too: for a permanent child it is a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    Exited(ExitReason),
    StartFailed(String),
    Unhealthy(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(reason) => reason.fmt(f),
            Self::StartFailed(reason) => write!(f, "could not start: {reason}"),
            Self::Unhealthy(reason) => write!(f, "unhealthy: {reason}"),
        }
    }
}

/// The member whose failure a strategy answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin<K> {
    Child(K),
    Group(String),
}

impl<K: fmt::Display> fmt::Display for Origin<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Child(key) => key.fmt(f),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// A supervisor gave up: the failure that exceeded its intensity, and the child it was of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalation<K> {
    pub supervisor: String,
    pub max_restarts: u32,
    pub window: DurationText,
    pub key: K,
    pub failure: Failure,
}

impl<K: fmt::Display> fmt::Display for Escalation<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { supervisor, max_restarts, window, key, failure } = self;
        write!(f, "{supervisor} gave up: more than {max_restarts} restarts in {window}, the last as {key} {failure}")
    }
}

/// Why a child is started or stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause<K> {
    Requested,
    Failed(Failure),
    Sibling {
        origin: Origin<K>,
        strategy: Strategy,
    },
    /// Its supervisor gave up, and is restarted or at rest.
    GaveUp(Escalation<K>),
    /// Its definition changed.
    Changed,
    /// It is no longer in the tree.
    Removed,
}

impl<K> Cause<K> {
    /// Whether a start for this cause is a restart that nobody asked for.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Sibling { .. } | Self::GaveUp(_))
    }
}

impl<K: fmt::Display> fmt::Display for Cause<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("by request"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Sibling { origin, strategy } => {
                let strategy = match strategy {
                    Strategy::OneForOne => "one_for_one",
                    Strategy::OneForAll => "one_for_all",
                    Strategy::RestForOne => "rest_for_one",
                };
                write!(f, "sibling {origin} failed ({strategy})")
            }
            Self::GaveUp(escalation) => escalation.fmt(f),
            Self::Changed => f.write_str("its definition changed"),
            Self::Removed => f.write_str("removed from the app"),
        }
    }
}

/// One line of a child's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note<K> {
    pub at: Timestamp,
    pub what: What<K>,
}

/// What happened to a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What<K> {
    /// Told to start; `attempt` counts failures in a row, 0 for none.
    Starting {
        attempt: u32,
        cause: Cause<K>,
    },
    Running,
    Ready,
    Failed(Failure),
    /// It will be started again, not before `until`.
    Retry {
        until: Timestamp,
        cause: Cause<K>,
    },
    Stopping(Cause<K>),
    Stopped(ExitReason),
    Completed,
    /// It was found running when the node came back.
    Adopted,
}

impl<K> What<K> {
    /// Kept in the history; the others pass by as [`Action::Note`](crate::Action::Note) only.
    pub(crate) fn is_kept(&self) -> bool {
        !matches!(self, Self::Running | Self::Ready | Self::Retry { .. })
    }
}

impl<K: fmt::Display> fmt::Display for What<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { attempt: 0, cause } => write!(f, "starting: {cause}"),
            Self::Starting { attempt, cause } => write!(f, "starting, attempt {attempt}: {cause}"),
            Self::Running => f.write_str("running"),
            Self::Ready => f.write_str("ready"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Retry { cause, .. } => write!(f, "waits to be restarted: {cause}"),
            Self::Stopping(cause) => write!(f, "stopping: {cause}"),
            Self::Stopped(reason) => write!(f, "stopped: {reason}"),
            Self::Completed => f.write_str("completed"),
            Self::Adopted => f.write_str("found running"),
        }
    }
}
