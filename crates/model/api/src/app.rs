//! Apps: apply, plan, status.

use coppice_base::{Name, Timestamp};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ContainerState, HealthState, PortDetail};

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

/// What an apply would do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanReply {
    pub steps: Vec<PlanStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    pub action: StepAction,
    /// What it is done to, e.g. `instance web-1`, `volume data`, `image redis:7`.
    pub target: String,
    /// Why, one line each, e.g. `image: redis:6 -> redis:7`.
    pub why: Vec<String>,
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
