//! What must hold between two calls, whatever happened before. Tests call it after every event.

use crate::event::Side;
use crate::machine::ATTEMPTS_MAX;
use crate::outcome::Verdict;
use crate::plan::How;
use crate::progress::{CandidateState, DataState, FAILURES_MAX, Phase, RULINGS_MAX, Record, STEPS_MAX};

impl Record {
    /// The broken invariants, each as one sentence; empty when all hold.
    pub fn check(&self) -> Vec<String> {
        let mut broken = self.check_shape();
        if !broken.is_empty() {
            return broken;
        }
        let progress = &self.progress;
        let mut must = |holds: bool, what: &str| {
            if !holds {
                broken.push(what.to_owned());
            }
        };
        must(
            (progress.phase == Phase::Ended) == progress.outcome.is_some(),
            "it has ended with, and only with, an outcome",
        );
        must(progress.blocked.is_none() || progress.phase < Phase::Removing, "what rests can still go back");
        must(progress.steps.len() <= STEPS_MAX, "it has too long a history");
        must(progress.rulings.len() <= RULINGS_MAX, "it keeps too many rulings");
        must(progress.failures.len() <= FAILURES_MAX, "it keeps too many failures");
        let is_back = matches!(progress.phase, Phase::Back | Phase::Settling);
        for (stage, state) in self.plan.stages.iter().zip(&progress.stages) {
            let candidates = || state.targets.iter().filter_map(|target| target.candidate.as_ref());
            if let How::Rolling(pace) | How::Canary { pace, .. } = &stage.how {
                let stands = |state| matches!(state, CandidateState::Starting | CandidateState::Ready);
                let beside = candidates().filter(|candidate| stands(candidate.state));
                must(beside.count() <= pace.max_surge.max(1) as usize, "there are more candidates than max_surge");
            }
            must(state.targets.iter().all(|target| target.attempts <= ATTEMPTS_MAX), "a target was tried too often");
            let new_ones = || candidates().filter(|candidate| candidate.side == Side::New);
            let leaving = new_ones().all(|candidate| candidate.state == CandidateState::Discarding);
            must(!is_back || leaving, "a new candidate goes on while everything goes back");
            must(!(state.entered && state.reverted), "a stage is entered and taken back");
            must(
                !state.done || state.entered || is_back || state.reverting || state.reverted,
                "a stage is done unentered",
            );
        }
        if let Some(outcome) = &progress.outcome {
            let sides = progress.stages.iter().flat_map(|stage| &stage.targets).map(|target| target.side);
            let all = |side: Side| sides.clone().all(|at| at == side);
            if outcome.verdict == Verdict::Completed {
                must(
                    progress.stages.iter().all(|stage| stage.entered) && all(Side::New),
                    "it completed with old parts",
                );
            } else {
                must(
                    progress.stages.iter().all(|stage| !stage.entered) && all(Side::Old),
                    "it went back with new parts",
                );
                let at_rest = |state: &DataState| matches!(state, DataState::No | DataState::Back | DataState::Lost);
                must(progress.data.switches.iter().all(at_rest), "it went back without its data");
                must(self.halted().is_empty(), "it went back and something is halted");
            }
        }
        broken
    }

    /// What must hold before anything may index into the lists. A record that comes back is held to this alone: one that is
    /// merely odd had better go on to its end.
    pub(crate) fn check_shape(&self) -> Vec<String> {
        let (plan, progress) = (&self.plan, &self.progress);
        let mut broken = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                broken.push(format!("its {what} are not the plan's"));
            }
        };
        must(progress.snapshots.len() == plan.snapshots.len(), "snapshots");
        must(progress.before.done <= plan.before.len(), "hooks before");
        must(progress.after.done <= plan.after.len(), "hooks after");
        must(progress.data.switches.len() == plan.switches.len(), "switches");
        must(progress.stages.len() == plan.stages.len() && progress.stage <= plan.stages.len(), "stages");
        must(progress.removed.len() == plan.removed.len(), "removed workloads");
        for (stage, state) in plan.stages.iter().zip(&progress.stages) {
            let volumes = if let How::Switch { volumes, .. } = &stage.how { volumes.len() } else { 0 };
            must(state.targets.len() == stage.targets.len(), "targets");
            must(state.batch.iter().all(|at| *at < stage.targets.len()), "batches");
            must(state.volumes.len() == volumes, "volumes");
        }
        broken
    }
}
