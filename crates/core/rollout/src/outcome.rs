//! Why something failed, and how a rollout ended.

use std::fmt;

use coppice_base::{Name, Timestamp};
use serde::{Deserialize, Serialize};

/// Why a target or a step failed, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    PlacementFailed,
    ImagePullFailed,
    RootfsAssembleFailed,
    ContainerIdFailed,
    ContainerRecordFailed,
    StartFailed,
    /// Not ready in time.
    ReadinessTimeout,
    /// It was ready and did not stay so.
    ReadinessFailed,
    /// Its health check cannot be made.
    ReadinessInvalid,
    /// It ended.
    ProcessFailed,
    AssignmentMissing,
    AssignmentFailed,
    CanceledByOperator,
    /// It had been replaced, and was put back.
    RollbackReverted,
    SnapshotFailed,
    SwitchFailed,
    HookFailed,
    DeadlineExceeded,
    /// A canary's errors or latency.
    AnalysisFailed,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlacementFailed => "placement_failed",
            Self::ImagePullFailed => "image_pull_failed",
            Self::RootfsAssembleFailed => "rootfs_assemble_failed",
            Self::ContainerIdFailed => "container_id_failed",
            Self::ContainerRecordFailed => "container_record_failed",
            Self::StartFailed => "start_failed",
            Self::ReadinessTimeout => "readiness_timeout",
            Self::ReadinessFailed => "readiness_failed",
            Self::ReadinessInvalid => "readiness_invalid",
            Self::ProcessFailed => "process_failed",
            Self::AssignmentMissing => "assignment_missing",
            Self::AssignmentFailed => "assignment_failed",
            Self::CanceledByOperator => "canceled_by_operator",
            Self::RollbackReverted => "rollback_reverted",
            Self::SnapshotFailed => "snapshot_failed",
            Self::SwitchFailed => "switch_failed",
            Self::HookFailed => "hook_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::AnalysisFailed => "analysis_failed",
        }
    }

    /// Whether another candidate may fare better. One that has had its whole time, or whose health flaps, has had its
    /// chance.
    pub(crate) fn is_worth_another_try(self) -> bool {
        !matches!(self, Self::ReadinessTimeout | Self::ReadinessFailed | Self::ReadinessInvalid)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub at: Timestamp,
    /// The workload, hook or volume it happened to; `None`: the rollout as a whole.
    pub subject: Option<Name>,
    /// The instance, where it was one's.
    pub instance: Option<String>,
    pub reason: Reason,
    /// In words, without the above.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.instance, &self.subject) {
            (Some(instance), _) => write!(f, "{instance}: ")?,
            (None, Some(subject)) => write!(f, "{subject}: ")?,
            (None, None) => {}
        }
        write!(f, "{}", self.reason)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// Where everything is now that it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All at the new release.
    Completed,
    /// All at the old release: no workload had been touched. Hooks may have run.
    Failed,
    /// All at the old release again.
    RolledBack,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub verdict: Verdict,
    /// What made it go back; `None` when it did not.
    pub cause: Option<Failure>,
    /// What could not be brought about, one sentence each: an old instance that is not ready again, data that could not be
    /// switched back. Empty when all is well.
    pub remains: Vec<String>,
}
