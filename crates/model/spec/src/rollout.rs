//! How a service goes from one release to the next.

use std::time::Duration;

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

use crate::{MountSource, NetworkMode, VolumeMount, WorkloadSpec};

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

impl RolloutStrategy {
    /// What a service gets when nobody says: [`Switch`](Self::Switch) for one instance of which two would get into each
    /// other's way, else [`Rolling`](Self::Rolling).
    pub fn default_of(workload: &WorkloadSpec, replicas: u32) -> Self {
        if Self::one_at_a_time(workload, replicas) { Self::Switch } else { Self::Rolling }
    }

    /// Whether two of its instances would write the same data or want the same ports of the host.
    pub fn one_at_a_time(workload: &WorkloadSpec, replicas: u32) -> bool {
        let writes = |mount: &VolumeMount| !mount.read_only && matches!(mount.source, MountSource::Volume(_));
        replicas == 1 && (workload.network == NetworkMode::Host || workload.volumes.iter().any(writes))
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

impl CanaryStep {
    /// The one step of a canary that has none written: 10 % of the requests for half a minute.
    pub const DEFAULT: Self = Self { instances: 1, weight: 10, duration: DurationText(Duration::from_secs(30)) };
}

impl RolloutSpec {
    /// What a service of so many `replicas` cannot be rolled out by; each as a clause.
    pub fn check(&self, replicas: u32) -> Vec<String> {
        let Self {
            strategy,
            parallelism,
            max_surge,
            delay: _,
            ready_timeout: _,
            deadline,
            failure_action: _,
            canary,
            analysis: AnalysisSpec { max_errors_permille, max_p99, min_requests: _ },
        } = self;
        let mut broken = Vec::new();
        let mut refuse = |is_broken: bool, what: &str| {
            if is_broken {
                broken.push(what.to_owned());
            }
        };
        refuse(*parallelism == 0, "parallelism is 0");
        refuse(*max_surge == 0, "max_surge is 0");
        refuse(deadline.0.is_zero(), "deadline is zero");
        let is_canary = *strategy == RolloutStrategy::Canary;
        refuse(is_canary && canary.is_empty(), "a canary has no step");
        refuse(!is_canary && !canary.is_empty(), "there are canary steps for another strategy");
        refuse(max_errors_permille.is_some_and(|most| most > 1000), "max_error_percent is over 100");
        refuse(max_p99.is_some_and(|longest| longest.0.is_zero()), "max_p99 is zero");
        refuse(canary.iter().any(|step| step.weight == 0 || step.weight > 100), "a weight is not from 1 to 100");
        let too_many = |step: &CanaryStep| step.instances == 0 || step.instances > replicas.max(1);
        refuse(canary.iter().any(too_many), "a canary step has no instance, or more than the service has");
        let goes_down = |pair: &[CanaryStep]| pair[1].weight < pair[0].weight || pair[1].instances < pair[0].instances;
        refuse(canary.windows(2).any(goes_down), "a canary step goes back behind the one before it");
        let watched = canary.iter().map(|step| step.duration.0).sum::<Duration>();
        refuse(is_canary && watched >= deadline.0, "the deadline comes before the last canary step ends");
        broken
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
