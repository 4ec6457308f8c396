//! Apps: apply, plan, status.

use coppice_base::{Name, Timestamp};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerState, HealthState, PortDetail, PreviewOf, ReleaseStatus};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyRequest {
    #[schema(value_type = Object)]
    pub spec: AppSpec,
    /// Only these workloads and what they depend on; empty: all.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub only: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyReply {
    /// 1, 2, 3 … within the app.
    pub release: u64,
    /// False when the spec equals the current one and nothing was recorded.
    pub changed: bool,
    pub plan: PlanReply,
}

/// What an apply would do, in order. Fields and words are only ever added to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanReply {
    #[serde(default)]
    pub app: String,
    /// The release it starts from; none: the app does not exist.
    #[serde(default)]
    pub release: Option<u64>,
    /// Empty: nothing would be done, and no release be made.
    pub steps: Vec<PlanStep>,
    #[serde(default)]
    pub summary: PlanSummary,
}

/// The steps of a plan, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanSummary {
    pub create: u32,
    pub change: u32,
    pub remove: u32,
    /// Instances that start, hooks included.
    pub starts: u32,
    /// Instances that make way for a successor that is ready.
    pub replaces: u32,
    /// Instances that are down for a moment.
    pub interrupts: u32,
    /// Instances that stop for good.
    pub stops: u32,
    /// Volumes that are snapshotted before anything else.
    pub snapshots: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    pub action: StepAction,
    /// What kind of step: `create_volume`, `change_volume`, `pull_image`, `snapshot_volume`, `run_hook`,
    /// `unpublish_port`, `stop_instance`, `change_supervision`, `change_secrets`, `change_releases`, `change_hook`,
    /// `change_rollout`, `change_traffic`, `change_policy`, `create_cron`, `change_cron`, `remove_cron`,
    /// `start_instance`, `replace_instance`, `publish_port`, `leave_volume`, `remove_volume`.
    #[serde(default)]
    pub kind: String,
    /// What it is done to, e.g. `instance web-1`, `volume data`, `image redis:7`.
    pub target: String,
    /// The service, worker or cron it is about, if it is about one.
    #[serde(default)]
    pub workload: Option<String>,
    #[serde(default)]
    pub effect: StepEffect,
    /// How an instance is replaced: `rolling`, `canary`, `blue_green`, `switch`, or `restart` for a worker.
    #[serde(default)]
    pub strategy: Option<String>,
    /// What that means, as a sentence.
    #[serde(default)]
    pub how: Option<String>,
    /// The data it touches.
    #[serde(default)]
    pub data: Option<StepData>,
    /// Why, one line each, e.g. `image: redis:6 -> redis:7`.
    pub why: Vec<String>,
    /// The fields that change, as data.
    #[serde(default)]
    pub changes: Vec<FieldChange>,
}

/// What a step does to what runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepEffect {
    /// Nothing that runs is touched.
    #[default]
    None,
    Starts,
    /// A successor takes its place; somebody answers all the time.
    Replaces,
    /// It is down for a moment.
    Interrupts,
    Stops,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepData {
    pub volume: String,
    /// `created`, `snapshotted`, `changed` (its place or properties; what is in it stays), `left` (it stays, unused), or
    /// `removed`.
    pub effect: String,
}

/// A field that differs. Neither value is told where it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    /// As in the manifest: `image`, `limits.memory`, `env PASSWORD`.
    pub field: String,
    /// `added`, `removed` or `changed`.
    pub edit: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    Create,
    Change,
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppSummary {
    #[schema(value_type = String)]
    pub name: Name,
    pub release: u64,
    /// Like [`AppStatus::state`].
    pub state: String,
    pub ready: u32,
    pub wanted: u32,
    #[serde(flatten)]
    pub releases: ReleaseStatus,
}

/// An app as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppStatus {
    #[schema(value_type = String)]
    pub name: Name,
    pub release: u64,
    #[schema(value_type = u64)]
    pub applied_at: Timestamp,
    /// `ready` (all that is wanted runs and is ready), `starting`, `degraded` (something is down and will be
    /// retried), `failed` (restart intensity exhausted, or a worker failed), `stopping`, `stopped`.
    pub state: String,
    /// One sentence when the state is not `ready`.
    pub reason: Option<String>,
    /// True when nothing is in flight: all is ready, completed, stopped or failed for good.
    pub settled: bool,
    pub tree: SupervisorStatus,
    /// `None`: it is no preview.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewOf>,
    #[serde(flatten)]
    pub releases: ReleaseStatus,
}

/// A supervisor: the app's root or a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SupervisorStatus {
    pub name: String,
    /// `one_for_one`, `one_for_all` or `rest_for_one`.
    pub strategy: String,
    /// Restarts counted in the current window, and how many are allowed.
    pub restarts_in_window: u32,
    pub max_restarts: u32,
    pub window_ms: u64,
    #[schema(no_recursion)]
    pub groups: Vec<SupervisorStatus>,
    pub children: Vec<ChildStatus>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChildStatus {
    /// `web-1`; a worker's is its own name.
    pub instance: String,
    pub workload: String,
    pub image: String,
    /// `waiting`, `pulling`, `starting`, `running`, `backoff`, `stopping`, `stopped`, `completed`, `failed`.
    pub state: String,
    pub ready: bool,
    pub health: HealthState,
    /// Why it is in this state, e.g. `waits for db to be healthy`, `exited with code 1`.
    pub reason: Option<String>,
    #[schema(value_type = u64)]
    pub since: Timestamp,
    #[schema(value_type = Option<u64>)]
    pub next_retry: Option<Timestamp>,
    pub restarts: u32,
    /// The last restarts and their causes, oldest first.
    pub history: Vec<HistoryEntry>,
    pub container: Option<String>,
    pub container_state: Option<ContainerState>,
    pub pid: Option<u32>,
    pub address: Option<String>,
    pub ports: Vec<PortDetail>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    #[schema(value_type = u64)]
    pub at: Timestamp,
    /// e.g. `restarted: killed by signal 9 (KILL)`.
    pub what: String,
}

/// Start, stop or restart workloads of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadRequest {
    /// `start`, `stop` or `restart`.
    pub action: String,
    /// Services, workers, or single instances (`web-1`); empty: all.
    pub targets: Vec<String>,
}
