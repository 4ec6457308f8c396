//! Replacing the instances of one service: batch by batch, some first, or all at one moment.

use coppice_base::{DurationText, Timestamp};
use coppice_spec::CanaryStep;
use std::time::Duration;

use crate::candidate::Manner;
use crate::event::{Action, Side};
use crate::machine::{Rollout, Turn};
use crate::outcome::Reason;
use crate::plan::{How, Pace};
use crate::progress::{Candidate, CandidateState, ControlState, Phase, TargetState, Watch};

/// How often a canary is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// What a batch is for.
pub(crate) enum Batch {
    Beside,
    Replace,
    PutBack,
}

impl Rollout {
    pub(crate) fn roll(&mut self, turn: &mut Turn, s: usize, pace: Pace) -> bool {
        if self.record.progress.stages[s].batch.is_empty() {
            let pending = self.slots_not_at(s, Side::New);
            if pending.is_empty() {
                return self.enter(turn, s);
            }
            if !self.may_go_on(turn) {
                return self.record.progress.phase == Phase::Back;
            }
            let stage = &mut self.record.progress.stages[s];
            if stage.delay_until.is_some_and(|until| turn.now < until) {
                return false;
            }
            stage.delay_until = None;
            let batch = self.next_batch(s, pending, pace);
            self.open(turn, s, batch, Batch::Replace);
            self.unweigh(turn, s);
        }
        let manner = Manner { goal: Side::New, surge: Some(pace.max_surge), hold: false, together: false };
        if !self.drive(turn, s, manner) {
            self.close_early(s, pace);
            return self.open_early(turn, s, pace);
        }
        self.record.progress.stages[s].batch.clear();
        let delay = self.record.plan.stages[s].delay.0;
        if !delay.is_zero() && !self.slots_not_at(s, Side::New).is_empty() {
            self.record.progress.stages[s].delay_until = Some(turn.now.plus(delay));
        }
        true
    }

    /// The targets that come next, of those pending. A canary's candidates that stand ready go into their slots before
    /// others are started.
    fn next_batch(&self, s: usize, pending: Vec<usize>, pace: Pace) -> Vec<usize> {
        let targets = &self.record.progress.stages[s].targets;
        let is_ready = |t: &usize| {
            targets[*t].candidate.as_ref().is_some_and(|candidate| candidate.state == CandidateState::Ready)
        };
        let held: Vec<usize> = pending.iter().copied().filter(is_ready).collect();
        if held.is_empty() { pending.into_iter().take(pace.parallelism.max(1) as usize).collect() } else { held }
    }

    /// Without a delay between batches the next begins while the one before, proved and on its way into its slots, has
    /// yet to be said to be there. Whether it did.
    fn open_early(&mut self, turn: &mut Turn, s: usize, pace: Pace) -> bool {
        if !self.record.plan.stages[s].delay.0.is_zero() || self.record.progress.control != ControlState::Active {
            return false;
        }
        let stage = &self.record.progress.stages[s];
        let on_their_way = |t: &usize| {
            let target = &stage.targets[*t];
            let state = target.candidate.as_ref().map(|candidate| candidate.state);
            state == Some(CandidateState::Promoting) || (target.side == Side::New && state.is_none())
        };
        let (batch, pending) = (stage.batch.clone(), self.slots_not_at(s, Side::New));
        let pending: Vec<usize> = pending.into_iter().filter(|t| !batch.contains(t)).collect();
        if pending.is_empty() || !batch.iter().all(on_their_way) {
            return false;
        }
        let next = self.next_batch(s, pending, pace);
        self.open(turn, s, next, Batch::Replace);
        self.record.progress.stages[s].batch.splice(..0, batch);
        self.close_early(s, pace);
        true
    }

    /// Of two batches at once, what is through belongs to neither.
    fn close_early(&mut self, s: usize, pace: Pace) {
        let stage = &mut self.record.progress.stages[s];
        if stage.batch.len() > pace.parallelism.max(1) as usize {
            let targets = &stage.targets;
            stage.batch.retain(|t| targets[*t].side != Side::New || targets[*t].candidate.is_some());
        }
    }

    pub(crate) fn blue_green(&mut self, turn: &mut Turn, s: usize) -> bool {
        if self.record.progress.stages[s].batch.is_empty() {
            let pending = self.slots_not_at(s, Side::New);
            if pending.is_empty() {
                return self.enter(turn, s);
            }
            if !self.may_go_on(turn) {
                return self.record.progress.phase == Phase::Back;
            }
            self.open(turn, s, pending, Batch::Replace);
        }
        let manner = Manner { goal: Side::New, surge: None, hold: false, together: true };
        if self.drive(turn, s, manner) {
            self.record.progress.stages[s].batch.clear();
            return true;
        }
        false
    }

    pub(crate) fn canary(&mut self, turn: &mut Turn, s: usize, steps: &[CanaryStep], pace: Pace) -> bool {
        let Some(step) = steps.get(self.record.progress.stages[s].canary_step) else {
            return self.roll(turn, s, pace);
        };
        let wave: Vec<usize> = self.record.plan.stages[s].slots().take(step.instances as usize).collect();
        if wave.is_empty() {
            return self.roll(turn, s, pace);
        }
        if let Some(watch) = self.record.progress.stages[s].watch {
            if !self.may_go_on(turn) {
                return self.record.progress.phase == Phase::Back;
            }
            let stage = &mut self.record.progress.stages[s];
            let stands = |t: &usize| {
                let target = &stage.targets[*t];
                let state = target.candidate.as_ref().map(|candidate| candidate.state);
                target.side == Side::New || state == Some(CandidateState::Ready)
            };
            if !wave.iter().all(stands) {
                // It is watched anew once all of them are ready again.
                stage.watch = None;
                stage.batch = wave;
                return true;
            }
            if watch.next_sample <= turn.now {
                let next = turn.now.plus(SAMPLE_EVERY);
                let until = watch.until;
                let next_sample = if turn.now < until { next.min(until) } else { next };
                stage.watch = Some(Watch { next_sample, ..watch });
                let workload = self.record.plan.stages[s].workload.clone();
                turn.actions.push(Action::Sample { workload, since: watch.since });
            }
            return false;
        }
        if self.record.progress.stages[s].batch.is_empty() {
            if !self.may_go_on(turn) {
                return self.record.progress.phase == Phase::Back;
            }
            self.open(turn, s, wave, Batch::Beside);
        }
        let manner = Manner { goal: Side::New, surge: Some(pace.max_surge), hold: true, together: false };
        if !self.drive(turn, s, manner) {
            return false;
        }
        let until = turn.now.plus(step.duration.0);
        let stage = &mut self.record.progress.stages[s];
        stage.batch.clear();
        stage.watch = Some(Watch { since: turn.now, until, next_sample: turn.now.plus(SAMPLE_EVERY).min(until) });
        stage.weight = Some(step.weight);
        let workload = self.record.plan.stages[s].workload.clone();
        turn.actions.push(Action::Weigh { workload: workload.clone(), percent: Some(step.weight) });
        let (instances, weight, duration) = (step.instances, step.weight, step.duration);
        self.note(
            turn,
            format!("{workload}: {instances} new with {weight} % of the requests are watched for {duration}"),
        );
        true
    }

    /// What the proxy saw of a canary: too bad is too bad at once, good enough only at the end.
    pub(crate) fn sampled(
        &mut self,
        turn: &mut Turn,
        workload: &str,
        since: Timestamp,
        requests: u64,
        errors: u64,
        p99: Option<DurationText>,
    ) {
        let progress = &self.record.progress;
        let Some(s) = self.record.stage_at(workload) else { return };
        if progress.phase != Phase::Stages || progress.stage != s || progress.blocked.is_some() {
            return;
        }
        let How::Canary { analysis, .. } = &self.record.plan.stages[s].how else { return };
        let Some(watch) = progress.stages[s].watch.filter(|watch| watch.since == since) else { return };
        let mut complaint = None;
        if requests >= analysis.min_requests && requests > 0 {
            if let Some(most) = analysis.max_errors_permille
                && u128::from(errors) * 1000 > u128::from(most) * u128::from(requests)
            {
                complaint = Some(format!("{errors} of {requests} requests failed, {most} in 1000 may"));
            } else if let (Some(most), Some(p99)) = (analysis.max_p99, p99)
                && p99.0 > most.0
            {
                complaint = Some(format!("the 99th percentile of {requests} requests is {p99}, it may be {most}"));
            }
        }
        if let Some(detail) = complaint {
            for target in &mut self.record.progress.stages[s].targets {
                if target.candidate.is_some() {
                    target.state = TargetState::Failed;
                    target.reason = Some(Reason::AnalysisFailed);
                }
            }
            let workload = self.record.plan.stages[s].workload.clone();
            self.fail(turn, Some(workload), None, Reason::AnalysisFailed, detail);
        } else if watch.until <= turn.now {
            let stage = &mut self.record.progress.stages[s];
            stage.watch = None;
            stage.canary_step += 1;
            let step = stage.canary_step;
            self.note(turn, format!("{workload}: canary step {step} passed, {errors} of {requests} requests failed"));
        }
    }

    pub(crate) fn unweigh(&mut self, turn: &mut Turn, s: usize) {
        if self.record.progress.stages[s].weight.take().is_some() {
            let workload = self.record.plan.stages[s].workload.clone();
            turn.actions.push(Action::Weigh { workload, percent: None });
        }
    }

    /// The slots of a stage that do not have this side's definition, in the order they are replaced.
    pub(crate) fn slots_not_at(&self, s: usize, side: Side) -> Vec<usize> {
        let targets = &self.record.progress.stages[s].targets;
        self.record.plan.stages[s].slots().filter(|t| targets[*t].side != side).collect()
    }

    /// Begins a batch, and says so.
    pub(crate) fn open(&mut self, turn: &mut Turn, s: usize, batch: Vec<usize>, what: Batch) {
        let (plan, progress) = (&self.record.plan.stages[s].targets, &self.record.progress.stages[s].targets);
        let lives = |candidate: &Candidate| candidate.state != CandidateState::Discarding;
        let stands = |t: &usize| progress[*t].side == Side::New || progress[*t].candidate.as_ref().is_some_and(lives);
        let named = batch.iter().filter(|t| !matches!(what, Batch::Beside) || !stands(t));
        let names: Vec<&str> = named.map(|t| plan[*t].instance.as_str()).collect();
        let (is_empty, names) = (names.is_empty(), names.join(", "));
        let what = match what {
            Batch::Beside => format!("starts {names} beside the old"),
            Batch::Replace => format!("replaces {names}"),
            Batch::PutBack => format!("puts {names} back"),
        };
        self.record.progress.stages[s].batch = batch;
        if !is_empty {
            self.note(turn, what);
        }
    }
}
