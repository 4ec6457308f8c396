//! The machine's door, and what time does to it. What it does going forth is in `forward`, `replace` and `switch`; going
//! back in `back`; what becomes of candidates in `candidate`.

use std::time::Duration;

use coppice_base::{Name, Timestamp};

use crate::event::{Action, Event, Side};
use crate::outcome::{Failure, Outcome, Reason, Verdict};
use crate::plan::Plan;
use crate::progress::{
    CandidateState, ControlState, DataState, FAILURES_MAX, Phase, Progress, Record, STEPS_MAX, Step, TargetState,
};

/// Candidates per target and direction, and tries to switch data back.
pub const ATTEMPTS_MAX: u32 = 3;

/// How often a candidate may lose its health.
pub const FLAPS_MAX: u32 = 2;

/// Before the second try; doubled for the third.
pub(crate) const BACKOFF: Duration = Duration::from_secs(1);

/// A rollout that is going on. See the crate's header for the rules.
#[derive(Clone, Debug)]
pub struct Rollout {
    pub(crate) record: Record,
}

/// One call of the machine: the time, and what it has decided so far.
pub(crate) struct Turn {
    pub(crate) now: Timestamp,
    pub(crate) actions: Vec<Action>,
}

impl Rollout {
    /// Starts. A plan with nothing in it ends at once. The caller keeps [`record`](Self::record) before it does the actions.
    pub fn begin(plan: Plan, now: Timestamp) -> (Self, Vec<Action>) {
        let progress = Progress::of(&plan, now);
        let mut rollout = Self { record: Record { plan, progress } };
        let mut turn = Turn { now, actions: Vec::new() };
        rollout.note(&turn, "began".to_owned());
        rollout.settle(&mut turn);
        (rollout, turn.actions)
    }

    /// Takes one event and says what to do. The caller keeps [`record`](Self::record), if it has changed, before it does
    /// the actions.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        let mut turn = Turn { now, actions: Vec::new() };
        if !self.record.has_ended() {
            self.record.progress.taken_up = true;
            self.take(&mut turn, event);
            self.settle(&mut turn);
        }
        turn.actions
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn plan(&self) -> &Plan {
        &self.record.plan
    }

    pub fn progress(&self) -> &Progress {
        &self.record.progress
    }

    /// When to send [`Event::Tick`] at the latest, if nothing happens before; `None`: nothing runs out.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let progress = &self.record.progress;
        if progress.phase == Phase::Ended || progress.blocked.is_some() {
            return None;
        }
        let retry =
            |state: &DataState| if let DataState::BackAsked { retry_at, .. } = state { *retry_at } else { None };
        let mut all = vec![progress.deadline];
        all.extend(progress.data.switches.iter().filter_map(retry));
        for stage in &progress.stages {
            all.extend(stage.deadline.filter(|_| !stage.done));
            all.extend(stage.ready_until);
            all.extend(stage.delay_until);
            all.extend(stage.watch.map(|watch| watch.next_sample));
            all.extend(stage.volumes.iter().filter_map(retry));
            for target in &stage.targets {
                all.extend(target.retry_at);
                all.extend(target.candidate.as_ref().and_then(|candidate| candidate.until));
            }
        }
        all.into_iter().min()
    }

    fn take(&mut self, turn: &mut Turn, event: Event) {
        match event {
            Event::Snapshotted { volume, snapshot } => self.snapshotted(turn, &volume, &snapshot),
            Event::SnapshotFailed { volume, snapshot, detail } => {
                self.snapshot_failed(turn, &volume, &snapshot, detail);
            }
            Event::HookEnded { worker, when, attempt, result } => self.hook_ended(turn, worker, when, attempt, result),
            Event::Halted { round } => self.halted(round),
            Event::Switched { volume, to } => self.switched(turn, &volume, &to),
            Event::SwitchFailed { volume, to, detail, no_room } => {
                self.switch_failed(turn, &volume, &to, detail, no_room);
            }
            Event::CandidateReady(id) => self.candidate_ready(&id),
            Event::CandidateUnhealthy(id, detail) => self.candidate_unhealthy(turn, &id, detail),
            Event::CandidateFailed { candidate, reason, detail } => {
                if let Some((stage, target)) = self.candidate(&candidate) {
                    self.candidate_failed(turn, stage, target, reason, detail);
                }
            }
            Event::Promoted { candidates } => {
                for id in &candidates {
                    self.promoted(turn, id);
                }
            }
            Event::Discarded(id) => self.discarded(&id),
            Event::WorkloadReady { workload, side } => self.workload_ready(turn, workload.as_str(), side),
            Event::WorkloadFailed { workload, side, reason, detail } => {
                self.workload_failed(turn, workload.as_str(), side, reason, detail);
            }
            Event::Sample { workload, since, requests, errors, p99 } => {
                self.sampled(turn, workload.as_str(), since, requests, errors, p99);
            }
            Event::Removed { workload } => {
                if let Some(at) = self.record.plan.removed.iter().position(|removed| *removed == workload) {
                    self.record.progress.removed[at] = true;
                }
            }
            Event::Control { control, by } => self.control(turn, control, by),
            Event::Tick => {}
        }
    }

    /// Does what can be done now, until nothing more can.
    pub(crate) fn settle(&mut self, turn: &mut Turn) {
        loop {
            self.expire(turn);
            let moved = match self.record.progress.phase {
                Phase::Ended => false,
                _ if self.record.progress.blocked.is_some() => false,
                Phase::Back | Phase::Settling => self.back(turn),
                _ => self.forward(turn),
            };
            if !moved {
                break;
            }
        }
    }

    /// Everything whose time has come to an end.
    fn expire(&mut self, turn: &mut Turn) {
        let now = turn.now;
        let progress = &self.record.progress;
        if progress.phase == Phase::Ended || progress.blocked.is_some() {
            return;
        }
        if progress.deadline <= now {
            match progress.phase {
                Phase::Back | Phase::Settling => return self.give_up_going_back(turn),
                Phase::Removing => return self.give_up_removing(turn),
                _ if self.is_reverting() => return self.give_up_reverting(turn),
                _ => {
                    let detail = format!("not over within {}", self.record.plan.deadline);
                    return self.fail(turn, None, None, Reason::DeadlineExceeded, detail);
                }
            }
        }
        for s in 0..self.record.plan.stages.len() {
            for t in 0..self.record.plan.stages[s].targets.len() {
                let target = &mut self.record.progress.stages[s].targets[t];
                target.retry_at = target.retry_at.filter(|at| *at > now);
                if target.candidate.as_ref().and_then(|candidate| candidate.until).is_some_and(|until| until <= now) {
                    let detail = format!("not ready within {}", self.record.plan.stages[s].ready_timeout);
                    self.candidate_failed(turn, s, t, Reason::ReadinessTimeout, detail);
                }
            }
        }
        let s = self.record.progress.stage;
        if self.record.progress.phase != Phase::Stages || s >= self.record.plan.stages.len() || self.is_reverting() {
            return;
        }
        let (stage, progress) = (&self.record.plan.stages[s], &self.record.progress.stages[s]);
        let workload = Some(stage.workload.clone());
        if progress.ready_until.is_some_and(|until| until <= now) {
            let detail = format!("not ready within {}", stage.ready_timeout);
            self.mark_failed(s, Reason::ReadinessTimeout);
            self.fail(turn, workload, None, Reason::ReadinessTimeout, detail);
        } else if progress.deadline.is_some_and(|deadline| deadline <= now) && self.record.progress.blocked.is_none() {
            let detail = format!("not over within {}", stage.deadline);
            self.fail(turn, workload, None, Reason::DeadlineExceeded, detail);
        }
    }

    /// Whether the stage at work is taken back by itself.
    pub(crate) fn is_reverting(&self) -> bool {
        let progress = &self.record.progress;
        progress.phase == Phase::Stages && progress.stages.get(progress.stage).is_some_and(|stage| stage.reverting)
    }

    pub(crate) fn workload_ready(&mut self, turn: &mut Turn, workload: &str, side: Side) {
        let Some(s) = self.record.stage_at(workload) else { return };
        let (plan, progress) = (&self.record.plan.stages[s], &mut self.record.progress.stages[s]);
        match side {
            Side::New if progress.entered && !progress.done && !progress.reverting => {
                progress.done = true;
                progress.ready_until = None;
                for target in &mut progress.targets {
                    target.state = TargetState::Ready;
                    target.reason = None;
                }
                let what = format!("{} is ready", plan.workload);
                self.note(turn, what);
            }
            Side::Old if progress.reverted => progress.settled = true,
            _ => {}
        }
    }

    fn workload_failed(&mut self, turn: &mut Turn, workload: &str, side: Side, reason: Reason, detail: String) {
        let Some(s) = self.record.stage_at(workload) else { return };
        let name = self.record.plan.stages[s].workload.clone();
        match side {
            Side::New => {
                if self.is_touched(s) && self.record.progress.phase < Phase::Removing && !self.is_reverting() {
                    if !self.record.progress.stages[s].done {
                        self.mark_failed(s, reason);
                    }
                    self.fail(turn, Some(name), None, reason, detail);
                }
            }
            Side::Old => {
                let progress = &mut self.record.progress;
                if progress.stages[s].reverted && !progress.stages[s].settled {
                    progress.stages[s].settled = true;
                    progress.remains.push(format!("{name} is the old release's again and failed: {reason}: {detail}"));
                }
            }
        }
    }

    /// Marks the targets of an entered workload that is not ready.
    fn mark_failed(&mut self, s: usize, reason: Reason) {
        for target in &mut self.record.progress.stages[s].targets {
            if target.state != TargetState::Ready {
                target.state = TargetState::Failed;
                target.reason = Some(reason);
            }
        }
    }

    pub(crate) fn end(&mut self, turn: &mut Turn, verdict: Verdict) {
        let progress = &mut self.record.progress;
        let outcome = Outcome { verdict, cause: progress.cause.clone(), remains: progress.remains.clone() };
        progress.phase = Phase::Ended;
        progress.control = ControlState::Active;
        progress.outcome = Some(outcome.clone());
        for target in progress.stages.iter_mut().flat_map(|stage| &mut stage.targets) {
            target.candidate = None;
            target.retry_at = None;
        }
        turn.actions.push(Action::End(outcome));
        let what = match verdict {
            Verdict::Completed => "completed",
            _ if self.record.plan.first => "failed; nothing of it is left",
            Verdict::Failed => "failed; no workload was changed",
            Verdict::RolledBack => "the old release is back",
        };
        self.note(turn, what.to_owned());
    }

    pub(crate) fn failure(
        turn: &Turn,
        subject: Option<Name>,
        instance: Option<String>,
        reason: Reason,
        detail: String,
    ) -> Failure {
        Failure { at: turn.now, subject, instance, reason, detail }
    }

    pub(crate) fn keep_failure(&mut self, failure: &Failure) {
        let failures = &mut self.record.progress.failures;
        if failures.len() < FAILURES_MAX {
            failures.push(failure.clone());
        }
    }

    pub(crate) fn note(&mut self, turn: &Turn, what: String) {
        let steps = &mut self.record.progress.steps;
        if steps.len() == STEPS_MAX {
            steps.pop_front();
        }
        steps.push_back(Step { at: turn.now, what });
    }

    /// Whether anything of the stage is the new release's, or halted for it.
    pub(crate) fn is_touched(&self, s: usize) -> bool {
        let stage = &self.record.progress.stages[s];
        let is_new = |target: &crate::progress::TargetProgress| {
            let promoting = target.candidate.as_ref().is_some_and(|c| c.state == CandidateState::Promoting);
            target.side == Side::New || promoting
        };
        stage.entered || stage.holds_still() || stage.targets.iter().any(is_new)
    }
}
