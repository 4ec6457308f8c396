//! How a service goes from one release to the next.

use std::time::Duration;

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

/// How the instances of one service are replaced. Whatever the strategy, a healthy old instance goes only when a new one
/// is ready; [`Switch`](RolloutStrategy::Switch) alone stops the old one first, because two must not write the same data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSpec {
    pub strategy: RolloutStrategy,
    /// Instances replaced at once, at least 1.
    pub parallelism: u32,
    /// Instances that may run beyond the service's replicas meanwhile, at least 1. Blue-green needs room for all of them
    /// and does not heed it.
    pub max_surge: u32,
    /// Between two batches.
    pub delay: DurationText,
    /// How long a new instance may take to be ready. Zero: it counts as ready once it runs, healthy or not.
    pub ready_timeout: DurationText,
    /// How long the service's part of the rollout may take in all, canary steps and delays included; more than zero.
    pub deadline: DurationText,
    pub failure_action: FailureAction,
    /// Empty for other strategies.
    pub canary: Vec<CanaryStep>,
    /// What a canary must keep to.
    pub analysis: AnalysisSpec,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStrategy {
    /// Batch by batch.
    #[default]
    Rolling,
    /// Some instances with some of the traffic first, judged by what the proxy sees; then as rolling.
    Canary,
    /// The whole set beside the old one, then one switch.
    BlueGreen,
    /// Stop, snapshot, start the new one on the same data; for services of which only one may write.
    Switch,
}

impl RolloutStrategy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Canary => "canary",
            Self::BlueGreen => "blue_green",
            Self::Switch => "switch",
        }
    }
}

/// What becomes of a rollout that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// Everything it changed goes back.
    #[default]
    Rollback,
    /// It stays as it is until somebody resumes or cancels it.
    Pause,
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// New instances in all, 1 to the service's replicas.
    pub instances: u32,
    /// Share of the requests that come by routes, in percent, 1 to 100.
    pub weight: u8,
    /// How long it is watched before the next step.
    pub duration: DurationText,
}

/// What is compared with what the proxy saw of the new instances during a canary's step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnalysisSpec {
    /// Most answers of 500 and above and failed attempts, in thousandths of the requests. `None`: not judged.
    pub max_errors_permille: Option<u32>,
    /// Longest 99th percentile of the time to answer. `None`: not judged.
    pub max_p99: Option<DurationText>,
    /// Fewer requests than this in a step say nothing: it passes.
    pub min_requests: u64,
}

impl Default for AnalysisSpec {
    /// At most 1 % errors, judged from 20 requests on; latency not judged.
    fn default() -> Self {
        Self { max_errors_permille: Some(10), max_p99: None, min_requests: 20 }
    }
}

impl Default for RolloutSpec {
    /// Rolling, one at a time without a pause, each ready within two minutes and all within ten, else back.
    fn default() -> Self {
        Self {
            strategy: RolloutStrategy::default(),
            parallelism: 1,
            max_surge: 1,
            delay: DurationText(Duration::ZERO),
            ready_timeout: DurationText(Duration::from_secs(120)),
            deadline: DurationText(Duration::from_secs(600)),
            failure_action: FailureAction::default(),
            canary: Vec::new(),
            analysis: AnalysisSpec::default(),
        }
    }
}
