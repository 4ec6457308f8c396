//! Releases: how an app came to be what it is. The names are yoq's, flat and nested, so that what reads its JSON reads
//! this; what Coppice adds (who, how long, why, the steps) stands beside them. Fields and words are only ever added.

use coppice_base::Timestamp;
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::PlanReply;

/// What an app's status says of its releases: flat of the newest one that was asked for, whatever became of it; then of
/// the one that is wanted now and of the one that a rollback would bring back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseStatus {
    pub app_name: String,
    /// Of the newest release: 16 hex digits.
    pub release_id: String,
    #[serde(flatten)]
    pub newest: ReleaseFields,
    #[serde(flatten)]
    pub counts: WorkloadTotals,
    #[serde(flatten)]
    pub previous: PreviousSuccessful,
    /// Of the newest release.
    pub rollout: RolloutDetail,
    pub current_release: ReleaseDetail,
    pub previous_successful_release: Option<ReleaseDetail>,
    pub workloads: WorkloadCounts,
    pub training_runtime: TrainingRuntime,
}

/// What there is to say of any release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseFields {
    /// 1, 2, 3 … within the app.
    pub number: u64,
    /// `apply` or `rollback`.
    pub trigger: String,
    /// `pending`, `in_progress`, `completed`, `partially_failed` (a failure has blocked it), `failed`, `superseded`,
    /// `rolled_back`.
    pub status: String,
    /// `pending`, `starting`, `rolling`, `blocked`, `stable`, `degraded`, `failed`, `superseded`, `rolled_back`.
    pub rollout_state: String,
    /// `active`, `paused`, `cancel_requested`.
    pub rollout_control_state: String,
    /// SHA-256 of the release's spec as JSON, in hex: equal for releases of the same spec.
    pub manifest_hash: String,
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    pub completed_targets: u64,
    /// Failed ones, and those that were put back.
    pub failed_targets: u64,
    pub remaining_targets: u64,
    /// The release that a rollback brought back.
    pub source_release_id: Option<String>,
    /// Always none: a rollout that is resumed keeps its release.
    pub resumed_from_release_id: Option<String>,
    /// The release that came before this one had ended.
    pub superseded_by_release_id: Option<String>,
    /// One sentence when there is more to say than the status does.
    pub message: Option<String>,
    pub failure_details: Vec<FailureDetail>,
    pub rollout_targets: Vec<RolloutTarget>,
    pub rollout_checkpoint: Option<RolloutCheckpoint>,
    /// Who asked for it: `uid 0`, or `node …` for what a node did on its own account.
    pub actor: String,
    /// None: it has not ended.
    #[schema(value_type = Option<u64>)]
    pub ended_at: Option<Timestamp>,
    /// From `created_at` to `ended_at`.
    pub duration_ms: Option<u64>,
    /// Why it went back, failed or rests.
    pub cause: Option<String>,
    /// Number of the release that a rollback brought back.
    pub source_release: Option<u64>,
    /// Its volumes' data came back, too.
    pub with_data: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseDetail {
    pub id: String,
    #[serde(flatten)]
    pub fields: ReleaseFields,
    pub rollout: RolloutDetail,
}

/// How the instances of a release took the places of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDetail {
    pub state: String,
    pub control_state: String,
    pub resumed_from_release_id: Option<String>,
    pub superseded_by_release_id: Option<String>,
    pub completed_targets: u64,
    pub failed_targets: u64,
    pub remaining_targets: u64,
    pub failure_details: Vec<FailureDetail>,
    pub targets: Vec<RolloutTarget>,
    pub checkpoint: Option<RolloutCheckpoint>,
    /// `snapshots`, `before`, `data`, `stages`, `after`, `removing`, `back`, `settling`, `ended`; none: it replaces
    /// nothing.
    pub phase: Option<String>,
    /// The workload at work, while there is one.
    pub workload: Option<String>,
    /// How that is replaced: `tree`, `rolling`, `canary`, `blue_green`, `switch`.
    pub strategy: Option<String>,
    /// Instances of the batch at work.
    pub batch: Vec<String>,
    /// Canary steps that have passed, of how many.
    pub canary_steps: Option<[u64; 2]>,
    /// New (or, going back, old) instances that stand beside the ones they are to replace.
    pub candidates: Vec<CandidateDetail>,
    /// Who has paused, resumed or canceled it, and when, the newest last.
    #[serde(default)]
    pub rulings: Vec<RolloutRuling>,
    /// Since when it rests until somebody resumes or cancels it.
    #[schema(value_type = Option<u64>)]
    pub blocked_since: Option<Timestamp>,
    /// When it must be over.
    #[schema(value_type = Option<u64>)]
    pub deadline: Option<Timestamp>,
}

/// What an operator asked of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutRuling {
    #[schema(value_type = u64)]
    pub at: Timestamp,
    /// `pause`, `resume` or `cancel`.
    pub action: String,
    /// Who, as a release's `actor`.
    pub actor: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CandidateDetail {
    /// The instance whose place it is to take.
    pub instance: String,
    /// 1 for the first try.
    pub number: u32,
    /// `starting`, `ready`, `promoting` or `discarding`.
    pub state: String,
    /// `new`, or `old` for one that brings the release before back.
    pub side: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureDetail {
    /// `service`, `worker`, `hook`, `volume` or `rollout`.
    pub workload_kind: String,
    /// Empty for the rollout as a whole.
    pub workload_name: String,
    /// One word, such as `readiness_timeout`.
    pub reason: String,
    /// In words.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutTarget {
    /// `service` or `worker`.
    pub workload_kind: String,
    pub workload_name: String,
    pub instance: String,
    /// `pending`, `starting`, `ready`, `failed`, `rolled_back`, `blocked`.
    pub state: String,
    pub reason: Option<String>,
}

/// Where a rollout would go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutCheckpoint {
    /// `local`.
    pub engine: String,
    /// `start` while new instances come up, `replace` while they take their places.
    pub phase: String,
    /// Place of the first target of the batch at work among all.
    pub batch_start: u64,
    /// One after its last.
    pub batch_end: u64,
    pub total_targets: u64,
    pub completed_targets: u64,
    pub failed_targets: u64,
    pub remaining_targets: u64,
    pub control_state: String,
}

/// How many workloads of each kind the newest release has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadTotals {
    pub service_count: u64,
    pub worker_count: u64,
    pub cron_count: u64,
    /// Always 0: there is no training yet.
    pub training_job_count: u64,
    pub active_training_jobs: u64,
    pub paused_training_jobs: u64,
    pub failed_training_jobs: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadCounts {
    pub services: u64,
    pub workers: u64,
    pub crons: u64,
    pub training_jobs: u64,
}

/// Always 0: there is no training yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrainingRuntime {
    pub active: u64,
    pub paused: u64,
    pub failed: u64,
}

/// The release that a rollback would bring back, once more and flat; all none where there is no such release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviousSuccessful {
    pub previous_successful_release_id: Option<String>,
    pub previous_successful_trigger: Option<String>,
    pub previous_successful_status: Option<String>,
    pub previous_successful_rollout_state: Option<String>,
    pub previous_successful_rollout_control_state: Option<String>,
    pub previous_successful_manifest_hash: Option<String>,
    #[schema(value_type = Option<u64>)]
    pub previous_successful_created_at: Option<Timestamp>,
    pub previous_successful_completed_targets: Option<u64>,
    pub previous_successful_failed_targets: Option<u64>,
    pub previous_successful_remaining_targets: Option<u64>,
    pub previous_successful_source_release_id: Option<String>,
    pub previous_successful_resumed_from_release_id: Option<String>,
    pub previous_successful_superseded_by_release_id: Option<String>,
    pub previous_successful_message: Option<String>,
    pub previous_successful_failure_details: Option<Vec<FailureDetail>>,
    pub previous_successful_rollout_targets: Option<Vec<RolloutTarget>>,
    pub previous_successful_rollout_checkpoint: Option<RolloutCheckpoint>,
}

impl From<&ReleaseDetail> for PreviousSuccessful {
    fn from(release: &ReleaseDetail) -> Self {
        let fields = release.fields.clone();
        Self {
            previous_successful_release_id: Some(release.id.clone()),
            previous_successful_trigger: Some(fields.trigger),
            previous_successful_status: Some(fields.status),
            previous_successful_rollout_state: Some(fields.rollout_state),
            previous_successful_rollout_control_state: Some(fields.rollout_control_state),
            previous_successful_manifest_hash: Some(fields.manifest_hash),
            previous_successful_created_at: Some(fields.created_at),
            previous_successful_completed_targets: Some(fields.completed_targets),
            previous_successful_failed_targets: Some(fields.failed_targets),
            previous_successful_remaining_targets: Some(fields.remaining_targets),
            previous_successful_source_release_id: fields.source_release_id,
            previous_successful_resumed_from_release_id: fields.resumed_from_release_id,
            previous_successful_superseded_by_release_id: fields.superseded_by_release_id,
            previous_successful_message: fields.message,
            previous_successful_failure_details: Some(fields.failure_details),
            previous_successful_rollout_targets: Some(fields.rollout_targets),
            previous_successful_rollout_checkpoint: fields.rollout_checkpoint,
        }
    }
}

/// One release of an app's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseEntry {
    pub id: String,
    pub app: String,
    /// Always none: a release is of the whole app.
    pub service: Option<String>,
    #[serde(flatten)]
    pub fields: ReleaseFields,
    pub rollout: RolloutDetail,
    /// It is the one that is wanted now.
    pub is_current: bool,
    /// It is the one that a rollback would bring back.
    pub is_previous_successful: bool,
    pub release: HistoryRelease,
    pub workloads: WorkloadCounts,
    /// What was done, oldest first; the first ones may be missing of a long rollout.
    pub steps: Vec<ReleaseStep>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryRelease {
    #[serde(flatten)]
    pub fields: ReleaseFields,
    pub rollout: RolloutDetail,
    pub current: bool,
    pub previous_successful: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseStep {
    #[schema(value_type = u64)]
    pub at: Timestamp,
    pub what: String,
}

impl ReleaseFields {
    /// Whether it is one that somebody should look at: yoq's `--failed`.
    pub fn is_failed(&self) -> bool {
        matches!(self.status.as_str(), "failed" | "partially_failed")
            || matches!(self.rollout_state.as_str(), "blocked" | "degraded")
    }

    /// Whether something is still being done: yoq's `--in-progress`.
    pub fn is_in_progress(&self) -> bool {
        matches!(self.status.as_str(), "pending" | "in_progress")
            || matches!(self.rollout_state.as_str(), "starting" | "rolling")
    }

    /// Whether its outcome is known.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "superseded" | "rolled_back")
    }
}

/// Have an earlier release come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RollbackRequest {
    /// Its number or id; none: the newest successful one before the current one.
    #[serde(alias = "release_id")]
    pub release: Option<String>,
    /// With the volumes' data.
    pub data: bool,
    /// Take the last rollback with data back, instead: its data too.
    pub undo: bool,
    /// Only say what would come back, and change nothing.
    pub print: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackReply {
    pub app: String,
    /// The release that comes back.
    pub source: u64,
    pub source_release_id: String,
    /// The release that was made of it; none with `print`.
    pub release: Option<u64>,
    /// What that changes, as a plan of an apply would say it.
    pub plan: PlanReply,
    /// With `print`: all of what would come back.
    pub preview: Option<RollbackPreview>,
}

/// What a rollback would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackPreview {
    #[schema(value_type = Object)]
    pub spec: AppSpec,
    /// Versions of the secrets that it runs with.
    #[schema(value_type = Object)]
    pub secrets: std::collections::BTreeMap<coppice_base::Name, u64>,
    /// Hooks that run first.
    pub hooks: Vec<String>,
    /// Workloads that are stopped while data is switched.
    pub halts: Vec<String>,
    /// Volumes whose data goes to a snapshot.
    pub switches: Vec<PreviewSwitch>,
    /// Snapshots that are taken of others, before anything changes.
    pub snapshots: Vec<PreviewSnapshot>,
    /// Workloads that change, in this order.
    pub stages: Vec<PreviewStage>,
    /// Workloads that only the release of now has.
    pub removes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewSwitch {
    pub volume: String,
    /// The snapshot whose data comes back.
    pub to: String,
    /// The name under which what the volume holds now is kept.
    pub keep: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewSnapshot {
    pub volume: String,
    pub snapshot: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewStage {
    pub workload: String,
    /// As in [`RolloutDetail::strategy`].
    pub strategy: String,
    pub instances: Vec<String>,
}

/// The answer to an apply: what was made of it, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppliedReply {
    #[serde(flatten)]
    pub reply: crate::ApplyReply,
    #[serde(flatten)]
    pub status: ReleaseStatus,
    /// Instances of it that are ready already.
    pub placed: u64,
    /// Instances of it that have failed already.
    pub failed: u64,
}
