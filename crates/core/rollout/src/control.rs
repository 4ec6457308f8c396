//! Failures and operators: whether it goes on, rests or goes back.

use coppice_base::Name;

use crate::event::{Action, Control, Side};
use crate::machine::{Rollout, Turn};
use crate::outcome::{Failure, Reason};
use crate::plan::How;
use crate::progress::{Blocked, CandidateState, ControlState, DataState, Phase, RULINGS_MAX, Ruling, TargetState};
use coppice_spec::FailureAction;

impl Rollout {
    pub(crate) fn control(&mut self, turn: &mut Turn, control: Control, by: String) {
        let progress = &mut self.record.progress;
        if progress.phase >= Phase::Removing {
            return;
        }
        match (control, progress.control) {
            (Control::Pause, ControlState::Active) => {
                progress.control = ControlState::Paused;
                self.note(turn, format!("pause was asked for by {by}"));
            }
            (Control::Resume, ControlState::Active | ControlState::Paused) => {
                let was_paused = progress.control == ControlState::Paused;
                progress.control = ControlState::Active;
                if progress.blocked.take().is_some() {
                    self.unblock(turn);
                    self.note(turn, format!("resumed by {by}"));
                } else if was_paused {
                    self.note(turn, format!("the pause was taken back by {by}"));
                } else {
                    return;
                }
            }
            (Control::Cancel, ControlState::Active | ControlState::Paused) => {
                progress.control = ControlState::CancelRequested;
                let is_blocked = progress.blocked.is_some();
                self.note(turn, format!("cancel was asked for by {by}"));
                if is_blocked {
                    self.cancel(turn);
                }
            }
            _ => return,
        }
        let rulings = &mut self.record.progress.rulings;
        if rulings.len() == RULINGS_MAX {
            rulings.pop_front();
        }
        rulings.push_back(Ruling { at: turn.now, control, by });
    }

    /// Before something is begun: whether it may be. If not, it rests or goes back from here on.
    pub(crate) fn may_go_on(&mut self, turn: &mut Turn) -> bool {
        match self.record.progress.control {
            ControlState::CancelRequested => {
                self.cancel(turn);
                false
            }
            ControlState::Paused if !self.must_not_rest() => {
                self.block(turn, None);
                false
            }
            _ => true,
        }
    }

    /// Workloads are halted that the new release is to start again.
    fn must_not_rest(&self) -> bool {
        let halted = |workload: &Name| {
            self.record.stage_at(workload.as_str()).is_some_and(|s| !self.record.progress.stages[s].entered)
        };
        self.record.data_is_halted() && self.record.plan.halt.iter().any(halted)
    }

    pub(crate) fn cancel(&mut self, turn: &mut Turn) {
        for target in self.record.progress.stages.iter_mut().flat_map(|stage| &mut stage.targets) {
            if !matches!(target.state, TargetState::Ready | TargetState::Failed) {
                target.state = TargetState::Failed;
                target.reason = Some(Reason::CanceledByOperator);
            }
        }
        let failure = Self::failure(turn, None, None, Reason::CanceledByOperator, String::new());
        self.keep_failure(&failure);
        self.go_back(turn, failure);
    }

    /// Something went wrong going forth: it goes back or rests, as the plan has it. What comes after that is of no weight.
    pub(crate) fn fail(
        &mut self,
        turn: &mut Turn,
        subject: Option<Name>,
        instance: Option<String>,
        reason: Reason,
        detail: String,
    ) {
        let progress = &self.record.progress;
        let has_failed = progress.blocked.as_ref().is_some_and(|blocked| blocked.failure.is_some());
        if progress.phase >= Phase::Removing || has_failed || self.is_reverting() {
            return;
        }
        let failure = Self::failure(turn, subject, instance, reason, detail);
        self.keep_failure(&failure);
        if self.record.plan.failure_action == FailureAction::Rollback
            || self.record.progress.phase == Phase::Data
            || self.record.progress.control == ControlState::CancelRequested
            || self.must_not_rest()
        {
            return self.go_back(turn, failure);
        }
        let s = self.record.progress.stage;
        let is_switch = self.record.progress.phase == Phase::Stages
            && self.record.plan.stages.get(s).is_some_and(|stage| matches!(stage.how, How::Switch { .. }));
        if is_switch && self.is_touched(s) {
            // Its service is down or broken: it gets its old one back first.
            self.note(turn, format!("failed: {failure}; is taken back"));
            self.record.progress.deadline = turn.now.plus(self.record.plan.deadline.0);
            self.record.progress.cause = Some(failure);
            self.begin_reverting(turn, s);
        } else {
            self.block(turn, Some(failure));
        }
    }

    /// It rests. By a failure: without candidates; by an operator: as it stands.
    pub(crate) fn block(&mut self, turn: &mut Turn, failure: Option<Failure>) {
        let what = match &failure {
            Some(failure) => format!("blocked until it is resumed or canceled: {failure}"),
            None => "paused".to_owned(),
        };
        self.stop_hook(turn);
        let s = self.record.progress.stage;
        if failure.is_some() && s < self.record.plan.stages.len() {
            self.discard_all(turn, s);
            self.unweigh(turn, s);
            for stage in &mut self.record.progress.stages[s..] {
                stage.batch.clear();
                for target in &mut stage.targets {
                    if matches!(target.state, TargetState::Pending | TargetState::Starting) {
                        target.state = TargetState::Blocked;
                    }
                }
            }
        }
        if let Some(stage) = self.record.progress.stages.get_mut(s) {
            stage.watch = None;
            stage.delay_until = None;
            stage.ready_until = None;
        }
        self.record.progress.blocked = Some(Blocked { since: turn.now, failure });
        self.note(turn, what);
    }

    /// A switch that failed is taken back: it rests now, or goes back as a whole if that was asked for meanwhile.
    pub(crate) fn rest_after_reverting(&mut self, turn: &mut Turn, s: usize) {
        let failure = self.record.progress.cause.take();
        self.fresh_stage(s);
        match self.record.progress.control {
            ControlState::CancelRequested => self.cancel(turn),
            _ => self.block(turn, failure),
        }
    }

    /// It goes on from where it rested, with its whole time, and tries again what failed.
    fn unblock(&mut self, turn: &mut Turn) {
        let now = turn.now;
        self.record.progress.deadline = now.plus(self.record.plan.deadline.0);
        for state in &mut self.record.progress.snapshots {
            if *state == DataState::Asked {
                *state = DataState::No;
            }
        }
        let s = self.record.progress.stage;
        for stage in &mut self.record.progress.stages[s..] {
            for target in &mut stage.targets {
                target.attempts = 0;
                target.retry_at = None;
                if matches!(target.state, TargetState::Blocked | TargetState::Failed) {
                    target.state = TargetState::Pending;
                    target.reason = None;
                }
            }
        }
        if self.record.progress.phase != Phase::Stages || s >= self.record.plan.stages.len() {
            return;
        }
        self.ask_discards(turn);
        self.ask_promotes(turn);
        let until = self.ready_until(now, s);
        let deadline = self.record.plan.stages[s].deadline.0;
        let stage = &mut self.record.progress.stages[s];
        stage.deadline = stage.deadline.map(|_| now.plus(deadline));
        for candidate in stage.targets.iter_mut().filter_map(|target| target.candidate.as_mut()) {
            if candidate.state == CandidateState::Starting {
                candidate.until = until;
            }
        }
        if stage.entered && !stage.done {
            self.enter(turn, s);
        }
    }

    fn stop_hook(&mut self, turn: &mut Turn) {
        if let Some((worker, when, attempt)) = self.running_hook() {
            self.hooks(when).running = false;
            turn.actions.push(Action::StopHook { worker, when, attempt });
        }
    }

    /// The decision: from here on nothing new is promoted or entered.
    pub(crate) fn go_back(&mut self, turn: &mut Turn, failure: Failure) {
        self.note(turn, format!("goes back: {failure}"));
        self.stop_hook(turn);
        let progress = &mut self.record.progress;
        progress.phase = Phase::Back;
        progress.blocked = None;
        progress.control = ControlState::Active;
        progress.cause = Some(failure);
        progress.deadline = turn.now.plus(self.record.plan.deadline.0);
        for s in 0..self.record.plan.stages.len() {
            let stage = &mut self.record.progress.stages[s];
            stage.deadline = None;
            stage.ready_until = None;
            stage.delay_until = None;
            stage.watch = None;
            stage.batch.clear();
            for target in &mut stage.targets {
                target.attempts = 0;
                target.retry_at = None;
                if let Some(candidate) = &mut target.candidate
                    && candidate.state == CandidateState::Promoting
                {
                    // It was asked for: it is in its slot, or is a candidate still, which is then let go with the others.
                    target.side = Side::New;
                    candidate.state = CandidateState::Ready;
                }
                if matches!(target.state, TargetState::Starting | TargetState::Blocked) {
                    target.state = TargetState::Pending;
                }
            }
            self.discard_all(turn, s);
            self.unweigh(turn, s);
        }
        self.record.progress.stage = self.record.plan.stages.len();
    }
}
