//! What a record says: for the API, and for the node that builds its supervision tree from it.

use coppice_base::Name;
use serde::{Deserialize, Serialize};

use crate::event::{CandidateId, Side};
use crate::outcome::{Reason, Verdict};
use crate::plan::WorkloadKind;
use crate::progress::{CandidateState, ControlState, Phase, Record, TargetState};

/// A release's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing was done yet.
    Pending,
    InProgress,
    Completed,
    /// It is blocked by a failure.
    PartiallyFailed,
    Failed,
    /// A later release came; never this crate's own verdict.
    Superseded,
    RolledBack,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::PartiallyFailed => "partially_failed",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// What a rollout is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    Pending,
    /// No target is ready yet.
    Starting,
    Rolling,
    /// Paused, to be canceled, or stopped by a failure.
    Blocked,
    Stable,
    /// It has ended and something remains undone.
    Degraded,
    Failed,
    /// Never this crate's own verdict.
    Superseded,
    RolledBack,
}

impl RolloutState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Rolling => "rolling",
            Self::Blocked => "blocked",
            Self::Stable => "stable",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled_back",
        }
    }
}

impl ControlState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::CancelRequested => "cancel_requested",
        }
    }
}

/// How many targets are how far; together they are all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub completed: usize,
    /// Failed ones, and those put back.
    pub failed: usize,
    pub remaining: usize,
}

/// Where a rollout would go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Always `local`.
    pub engine: String,
    /// `start` while candidates come up, `replace` while they are put into their slots.
    pub phase: String,
    /// Place of the first target of the batch at work among all targets.
    pub batch_start: usize,
    /// One after its last.
    pub batch_end: usize,
    pub total_targets: usize,
    pub completed_targets: usize,
    pub failed_targets: usize,
    pub remaining_targets: usize,
    pub control_state: ControlState,
}

/// One target as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    pub workload_kind: WorkloadKind,
    pub workload_name: Name,
    pub instance: String,
    pub state: TargetState,
    pub reason: Option<Reason>,
}

/// One failure as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureDetail {
    /// `service`, `worker`, `hook`, `volume` or `rollout`.
    pub workload_kind: String,
    /// Empty for the rollout as a whole.
    pub workload_name: String,
    pub reason: Reason,
    /// In words.
    pub message: String,
}

impl Record {
    /// Whose definition the slot of `instance` has. An instance that is being promoted still has the side it had: see
    /// [`promoting`](Self::promoting). Workloads that the plan does not touch are the old release's: both have them alike.
    pub fn side_of(&self, workload: &str, instance: &str) -> Side {
        let Some(at) = self.stage_at(workload) else { return Side::Old };
        let target = self.plan.stages[at].targets.iter().position(|target| target.instance == instance);
        let stage = &self.progress.stages[at];
        match target {
            Some(target) => stage.targets[target].side,
            None if stage.entered => Side::New,
            None => Side::Old,
        }
    }

    /// Whether the workload has the new release's shape in the tree.
    pub fn is_entered(&self, workload: &str) -> bool {
        self.stage_at(workload).is_some_and(|at| self.progress.stages[at].entered)
    }

    /// The candidate that is being put into the slot of `instance`, and its side: after a crash it may be there or not,
    /// which the caller must find out before it lets supervision have the slot.
    pub fn promoting(&self, workload: &str, instance: &str) -> Option<(CandidateId, Side)> {
        let at = self.stage_at(workload)?;
        let target = self.plan.stages[at].targets.iter().position(|target| target.instance == instance)?;
        let candidate = self.progress.stages[at].targets[target].candidate.as_ref()?;
        let id = CandidateId { instance: instance.to_owned(), number: candidate.number };
        (candidate.state == CandidateState::Promoting).then_some((id, candidate.side))
    }

    /// Every candidate that may be there, with its workload and side, those to be discarded included. Whatever else of its
    /// kind runs belongs to nobody.
    pub fn candidates(&self) -> Vec<(Name, CandidateId, Side)> {
        let mut all = Vec::new();
        for (stage, progress) in self.plan.stages.iter().zip(&self.progress.stages) {
            for (target, progress) in stage.targets.iter().zip(&progress.targets) {
                if let Some(candidate) = &progress.candidate {
                    let id = CandidateId { instance: target.instance.clone(), number: candidate.number };
                    all.push((stage.workload.clone(), id, candidate.side));
                }
            }
        }
        all
    }

    /// Workloads that must not run now: halted, and neither entered nor left yet.
    pub fn halted(&self) -> Vec<&Name> {
        let mut all: Vec<&Name> = Vec::new();
        if self.data_is_halted() {
            let held = |workload: &&Name| !self.is_entered(workload.as_str());
            all.extend(self.plan.halt.iter().filter(held));
        }
        for (stage, progress) in self.plan.stages.iter().zip(&self.progress.stages) {
            if progress.holds_still() {
                all.push(&stage.workload);
            }
        }
        all
    }

    pub fn has_ended(&self) -> bool {
        self.progress.phase == Phase::Ended
    }

    pub fn status(&self) -> Status {
        let progress = &self.progress;
        match &progress.outcome {
            Some(outcome) => match outcome.verdict {
                Verdict::Completed => Status::Completed,
                Verdict::Failed => Status::Failed,
                Verdict::RolledBack => Status::RolledBack,
            },
            None if progress.blocked.as_ref().is_some_and(|blocked| blocked.failure.is_some()) => {
                Status::PartiallyFailed
            }
            None => Status::InProgress,
        }
    }

    pub fn rollout_state(&self) -> RolloutState {
        let progress = &self.progress;
        if let Some(outcome) = &progress.outcome {
            return match outcome.verdict {
                _ if !outcome.remains.is_empty() => RolloutState::Degraded,
                Verdict::Completed => RolloutState::Stable,
                Verdict::Failed => RolloutState::Failed,
                Verdict::RolledBack => RolloutState::RolledBack,
            };
        }
        if progress.blocked.is_some() || progress.control != ControlState::Active {
            RolloutState::Blocked
        } else if self.counts().completed == 0 && progress.phase < Phase::After {
            RolloutState::Starting
        } else {
            RolloutState::Rolling
        }
    }

    pub fn control_state(&self) -> ControlState {
        self.progress.control
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for target in self.progress.stages.iter().flat_map(|stage| &stage.targets) {
            match target.state {
                TargetState::Ready => counts.completed += 1,
                TargetState::Failed | TargetState::RolledBack => counts.failed += 1,
                TargetState::Pending | TargetState::Starting | TargetState::Blocked => counts.remaining += 1,
            }
        }
        counts
    }

    pub fn targets(&self) -> Vec<TargetStatus> {
        let mut all = Vec::new();
        for (stage, progress) in self.plan.stages.iter().zip(&self.progress.stages) {
            for (target, progress) in stage.targets.iter().zip(&progress.targets) {
                all.push(TargetStatus {
                    workload_kind: stage.kind,
                    workload_name: stage.workload.clone(),
                    instance: target.instance.clone(),
                    state: progress.state,
                    reason: progress.reason,
                });
            }
        }
        all
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let counts = self.counts();
        let total = counts.completed + counts.failed + counts.remaining;
        let progress = &self.progress;
        let stages = &progress.stages;
        let at = progress.stage.min(stages.len());
        let offset: usize = stages[..at].iter().map(|stage| stage.targets.len()).sum();
        let batch = stages.get(at).map(|stage| stage.batch.as_slice()).unwrap_or_default();
        let is_replacing = stages.get(at).is_some_and(|stage| {
            let states = stage.targets.iter().filter_map(|target| target.candidate.as_ref());
            stage.entered || states.into_iter().any(|candidate| candidate.state == CandidateState::Promoting)
        });
        Checkpoint {
            engine: "local".to_owned(),
            phase: if is_replacing || progress.phase > Phase::Stages { "replace" } else { "start" }.to_owned(),
            batch_start: offset + batch.iter().min().copied().unwrap_or_default(),
            batch_end: offset + batch.iter().max().map(|last| last + 1).unwrap_or_default(),
            total_targets: total,
            completed_targets: counts.completed,
            failed_targets: counts.failed,
            remaining_targets: counts.remaining,
            control_state: progress.control,
        }
    }

    pub fn failure_details(&self) -> Vec<FailureDetail> {
        let detail = |failure: &crate::outcome::Failure| {
            let name = failure.subject.as_ref().map(|subject| subject.as_str()).unwrap_or_default();
            let kind = match (failure.reason, self.plan.stage_of(name)) {
                (Reason::HookFailed, _) => "hook",
                (Reason::SnapshotFailed | Reason::SwitchFailed, _) => "volume",
                (_, Some(stage)) => stage.kind.as_str(),
                (_, None) => "rollout",
            };
            FailureDetail {
                workload_kind: kind.to_owned(),
                workload_name: name.to_owned(),
                reason: failure.reason,
                message: failure.to_string(),
            }
        };
        self.progress.failures.iter().map(detail).collect()
    }

    pub(crate) fn stage_at(&self, workload: &str) -> Option<usize> {
        self.plan.stages.iter().position(|stage| stage.workload.as_str() == workload)
    }
}
