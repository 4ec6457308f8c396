//! What is to be done: made once from two releases, stored with the new one, never changed after.

use coppice_base::{DurationText, Name};
use coppice_spec::{AnalysisSpec, CanaryStep, FailureAction};
use serde::{Deserialize, Serialize};

/// One way from an old release to a new one. The order of the work is: [`snapshots`](Self::snapshots),
/// [`before`](Self::before), [`switches`](Self::switches), [`stages`](Self::stages), [`after`](Self::after),
/// [`removed`](Self::removed); the first [`ahead`](Self::ahead) stages come before the hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// There is no old release: all that there is to go back to is nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// Taken live, before anything changes.
    pub snapshots: Vec<VolumeSnapshot>,
    /// Hooks, one after the other, before anything changes.
    pub before: Vec<Name>,
    /// How many stages come before these hooks: what they need, of an app of which nothing runs yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ahead: usize,
    /// The volumes whose data goes to another snapshot (a rollback with its data).
    pub switches: Vec<VolumeSwitch>,
    /// Workloads that are stopped for the switches, dependents first. Each is a [`How::Tree`] stage too, or one of
    /// `removed`.
    pub halt: Vec<Name>,
    /// Changed workloads, what others depend on first.
    pub stages: Vec<Stage>,
    /// Hooks, one after the other, when all is ready.
    pub after: Vec<Name>,
    /// Workloads of the old release only. They go when nothing can take the rollout back any more.
    pub removed: Vec<Name>,
    pub failure_action: FailureAction,
    /// How long going forth may take in all, and how long going back; more than zero. Time in which it is blocked is
    /// not counted: whoever resumes it gives it the whole time again.
    pub deadline: DurationText,
}

/// A snapshot to be taken of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    pub volume: Name,
    pub snapshot: String,
}

/// A volume whose data goes to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSwitch {
    pub volume: Name,
    /// The snapshot it goes to.
    pub to: String,
    /// The name under which what it holds until then is kept; where it goes back to if the rollout fails.
    pub keep: String,
    /// The name under which what was written after the switch is kept if the rollout fails.
    pub cut: String,
}

/// A volume of a service that is stopped for its update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageVolume {
    pub volume: Name,
    /// Taken when the old instance has stopped; where it goes back to if the rollout fails. A stage that is tried again
    /// (after it was blocked) appends `.2`, `.3`… to it.
    pub snapshot: String,
    /// The name under which what the new instance wrote is kept if the rollout fails; numbered likewise.
    pub cut: String,
}

/// One changed workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub workload: Name,
    pub kind: WorkloadKind,
    pub how: How,
    /// The instances of the new release, in the order they are replaced.
    pub targets: Vec<Target>,
    /// How long one new instance (or, once entered, the workload) may take to be ready. Zero: no limit but the deadline;
    /// the executor then says ready as soon as it runs.
    pub ready_timeout: DurationText,
    /// How long the stage may take in all, more than zero.
    pub deadline: DurationText,
    /// Between two batches.
    pub delay: DurationText,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    Service,
    Worker,
}

impl WorkloadKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Worker => "worker",
        }
    }
}

/// One instance of the new release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its key in the supervision tree; unique in the app.
    pub instance: String,
    /// The old release has this instance too, whether healthy or not: it is replaced by a candidate. Others (the service
    /// grew) are started by supervision once the workload is entered.
    pub has_old: bool,
    /// Its candidates' numbers begin after this one: that of the latest container there is of the instance, so that two of
    /// them never have one number while both are there.
    #[serde(default)]
    pub numbered_after: u32,
}

/// How one workload goes from old to new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Supervision starts (or restarts) it under the new definition: created workloads, workers, stopped ones, ones of
    /// which nothing runs.
    Tree,
    Rolling(Pace),
    /// Some first, watched; then as rolling.
    Canary {
        steps: Vec<CanaryStep>,
        analysis: AnalysisSpec,
        pace: Pace,
    },
    /// All candidates side by side, one switch.
    BlueGreen,
    /// Stop, snapshot, start on the same data.
    Switch {
        volumes: Vec<StageVolume>,
        /// Once the new one was ready, its data stays when a later failure takes the release back; otherwise data and
        /// definition go back together (what was written is kept as `cut`).
        keep_writes: bool,
    },
}

/// How many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Instances of one batch, at least 1.
    pub parallelism: u32,
    /// Candidates that may be there at once, at least 1.
    pub max_surge: u32,
}

impl How {
    /// The manifest's word for it; a workload that supervision starts has none.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Rolling(_) => "rolling",
            Self::Canary { .. } => "canary",
            Self::BlueGreen => "blue_green",
            Self::Switch { .. } => "switch",
        }
    }
}

impl Stage {
    /// Whether the old release has this workload.
    pub fn has_old(&self) -> bool {
        self.targets.iter().any(|target| target.has_old)
    }

    /// Places of the targets that candidates replace.
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> {
        self.targets.iter().enumerate().filter(|(_, target)| target.has_old).map(|(at, _)| at)
    }
}

impl Plan {
    pub fn stage_of(&self, workload: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.workload.as_str() == workload)
    }

    /// Whether there is nothing to do at all.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
            && self.before.is_empty()
            && self.switches.is_empty()
            && self.stages.is_empty()
            && self.after.is_empty()
            && self.removed.is_empty()
    }

    /// Every instance of the new release in the plan, with its stage.
    pub fn targets(&self) -> impl Iterator<Item = (&Stage, &Target)> {
        self.stages.iter().flat_map(|stage| stage.targets.iter().map(move |target| (stage, target)))
    }

    /// What must hold of every plan; each broken rule as one sentence.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.deadline.0.is_zero() {
            broken.push("the rollout has no deadline".to_owned());
        }
        if self.switches.is_empty() && !self.halt.is_empty() {
            broken.push("workloads are halted and nothing is switched".to_owned());
        }
        for workload in &self.halt {
            let by_tree = self.stage_of(workload.as_str()).is_some_and(|stage| stage.how == How::Tree);
            if !by_tree && !self.removed.contains(workload) {
                broken.push(format!("{workload} is halted and nothing starts it again"));
            }
        }
        let ahead = self.stages.get(..self.ahead);
        if ahead.is_none_or(|ahead| ahead.iter().any(|stage| stage.how != How::Tree || stage.has_old())) {
            broken.push("what comes before the hooks is not just what they need".to_owned());
        }
        if self.ahead > 0 && (!self.first || self.before.is_empty()) {
            broken.push("stages come before hooks that there are not, or that have what they need".to_owned());
        }
        if self.first
            && (!self.switches.is_empty() || !self.removed.is_empty() || self.stages.iter().any(Stage::has_old))
        {
            broken.push("it replaces something of no release".to_owned());
        }
        let mut workloads = std::collections::BTreeSet::new();
        for workload in self.stages.iter().map(|stage| &stage.workload).chain(&self.removed) {
            if !workloads.insert(workload) {
                broken.push(format!("{workload} is there twice"));
            }
        }
        let mut instances = std::collections::BTreeSet::new();
        for (stage, target) in self.targets() {
            if !instances.insert(&target.instance) {
                broken.push(format!("instance {} of {} is there twice", target.instance, stage.workload));
            }
        }
        let of_stages = self.stages.iter().flat_map(|stage| match &stage.how {
            How::Switch { volumes, .. } => volumes.as_slice(),
            _ => &[],
        });
        let of_all = self.switches.iter().map(|switch| &switch.volume).chain(of_stages.map(|at| &at.volume));
        let mut volumes = std::collections::BTreeSet::new();
        for volume in of_all {
            if !volumes.insert(volume) {
                broken.push(format!("the data of {volume} is switched twice"));
            }
        }
        for stage in &self.stages {
            if stage.deadline.0.is_zero() {
                broken.push(format!("{} has no deadline", stage.workload));
            }
            if let How::Rolling(pace) | How::Canary { pace, .. } = stage.how
                && (pace.parallelism == 0 || pace.max_surge == 0)
            {
                broken.push(format!("{} may not replace a single instance at once", stage.workload));
            }
        }
        broken
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
