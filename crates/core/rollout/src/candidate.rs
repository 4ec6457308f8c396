//! What becomes of candidates: started, ready, promoted or discarded, within bounds.

use coppice_base::Timestamp;

use crate::event::{Action, CandidateId, Side};
use crate::machine::{ATTEMPTS_MAX, BACKOFF, FLAPS_MAX, Rollout, Turn};
use crate::outcome::Reason;
use crate::plan::How;
use crate::progress::{Candidate, CandidateState, ControlState, TargetState};

/// How the targets of a batch are replaced.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) goal: Side,
    /// Candidates that may be there at once; `None`: any number.
    pub(crate) surge: Option<u32>,
    /// Ready candidates stay beside what they would replace, unless their room is needed.
    pub(crate) hold: bool,
    /// All are promoted at one moment.
    pub(crate) together: bool,
}

impl Rollout {
    /// Where the candidate with this id is, if it is a current one.
    pub(crate) fn candidate(&self, id: &CandidateId) -> Option<(usize, usize)> {
        for (s, stage) in self.record.plan.stages.iter().enumerate() {
            if let Some(t) = stage.targets.iter().position(|target| target.instance == id.instance) {
                let candidate = self.record.progress.stages[s].targets[t].candidate.as_ref()?;
                return (candidate.number == id.number).then_some((s, t));
            }
        }
        None
    }

    pub(crate) fn candidate_id(&self, s: usize, t: usize, number: u32) -> CandidateId {
        CandidateId { instance: self.record.plan.stages[s].targets[t].instance.clone(), number }
    }

    /// When a candidate that starts now must be ready.
    pub(crate) fn ready_until(&self, now: Timestamp, s: usize) -> Option<Timestamp> {
        let timeout = self.record.plan.stages[s].ready_timeout.0;
        (!timeout.is_zero()).then(|| now.plus(timeout))
    }

    pub(crate) fn candidate_ready(&mut self, id: &CandidateId) {
        let Some((s, t)) = self.candidate(id) else { return };
        if let Some(candidate) = &mut self.record.progress.stages[s].targets[t].candidate
            && candidate.state == CandidateState::Starting
        {
            candidate.state = CandidateState::Ready;
            candidate.until = None;
        }
    }

    pub(crate) fn candidate_unhealthy(&mut self, turn: &mut Turn, id: &CandidateId, detail: String) {
        let Some((s, t)) = self.candidate(id) else { return };
        let until = self.ready_until(turn.now, s);
        let Some(candidate) = &mut self.record.progress.stages[s].targets[t].candidate else { return };
        if candidate.state != CandidateState::Ready {
            return;
        }
        candidate.flaps += 1;
        if candidate.flaps > FLAPS_MAX {
            let detail = format!("was ready and unhealthy {} times, last: {detail}", candidate.flaps);
            self.candidate_failed(turn, s, t, Reason::ReadinessFailed, detail);
        } else {
            candidate.state = CandidateState::Starting;
            candidate.until = until;
            let what = format!("{} is unhealthy: {detail}", id.instance);
            self.note(turn, what);
        }
    }

    pub(crate) fn candidate_failed(&mut self, turn: &mut Turn, s: usize, t: usize, reason: Reason, detail: String) {
        let together = self.record.plan.stages[s].how == How::BlueGreen;
        let stage = &mut self.record.progress.stages[s];
        let Some(candidate) = &mut stage.targets[t].candidate else { return };
        let (number, side, was) = (candidate.number, candidate.side, candidate.state);
        if was == CandidateState::Discarding {
            return;
        }
        candidate.state = CandidateState::Discarding;
        candidate.until = None;
        if together && was == CandidateState::Promoting {
            // The one switch did not happen: the others wait for another candidate.
            for other in stage.targets.iter_mut().filter_map(|target| target.candidate.as_mut()) {
                if other.state == CandidateState::Promoting {
                    other.state = CandidateState::Ready;
                }
            }
        }
        let id = self.candidate_id(s, t, number);
        turn.actions.push(Action::Discard { candidates: vec![id.clone()] });
        let target = &mut self.record.progress.stages[s].targets[t];
        target.attempts += 1;
        if target.attempts < ATTEMPTS_MAX && reason.is_worth_another_try() {
            target.retry_at = Some(turn.now.plus(BACKOFF * (1 << (target.attempts - 1))));
            target.reason = Some(reason);
            if side == Side::New && self.record.progress.control == ControlState::CancelRequested {
                // Nothing is in its slot half-way: there is no use in waiting for another.
                return self.cancel(turn);
            }
            let what = format!("{}: {reason}: {detail}; is tried again", id.instance);
            return self.note(turn, what);
        }
        match side {
            Side::New => {
                target.reason = Some(reason);
                target.state = TargetState::Failed;
                let workload = self.record.plan.stages[s].workload.clone();
                self.fail(turn, Some(workload), Some(id.instance), reason, detail);
            }
            Side::Old => {
                self.record.progress.stages[s].handed_over = true;
                let what = format!("{}: {reason}: {detail}; supervision is to bring the old one back", id.instance);
                self.note(turn, what);
            }
        }
    }

    pub(crate) fn promoted(&mut self, turn: &mut Turn, id: &CandidateId) {
        let Some((s, t)) = self.candidate(id) else { return };
        let target = &mut self.record.progress.stages[s].targets[t];
        let Some(candidate) = target.candidate.take_if(|candidate| candidate.state == CandidateState::Promoting) else {
            return;
        };
        target.side = candidate.side;
        target.attempts = 0;
        let what = match candidate.side {
            Side::New => {
                target.state = TargetState::Ready;
                target.reason = None;
                format!("{} is replaced", id.instance)
            }
            Side::Old => {
                target.state = TargetState::RolledBack;
                target.reason = Some(Reason::RollbackReverted);
                format!("{} is put back", id.instance)
            }
        };
        self.note(turn, what);
    }

    pub(crate) fn discarded(&mut self, id: &CandidateId) {
        let Some((s, t)) = self.candidate(id) else { return };
        self.record.progress.stages[s].targets[t]
            .candidate
            .take_if(|candidate| candidate.state == CandidateState::Discarding);
    }

    /// Discards all candidates of a stage that are not being promoted.
    pub(crate) fn discard_all(&mut self, turn: &mut Turn, s: usize) {
        let mut gone = Vec::new();
        for t in 0..self.record.plan.stages[s].targets.len() {
            if let Some(candidate) = &mut self.record.progress.stages[s].targets[t].candidate
                && matches!(candidate.state, CandidateState::Starting | CandidateState::Ready)
            {
                candidate.state = CandidateState::Discarding;
                candidate.until = None;
                let number = candidate.number;
                gone.push(self.candidate_id(s, t, number));
            }
        }
        if !gone.is_empty() {
            turn.actions.push(Action::Discard { candidates: gone });
        }
    }

    /// Starts and promotes candidates of the stage's batch; true once all of it is where it is to be.
    pub(crate) fn drive(&mut self, turn: &mut Turn, s: usize, manner: Manner) -> bool {
        let batch = self.record.progress.stages[s].batch.clone();
        let until = self.ready_until(turn.now, s);
        let waiting = self.start_candidates(turn, s, &batch, manner, until);

        let workload = self.record.plan.stages[s].workload.clone();
        let targets = &mut self.record.progress.stages[s].targets;
        let is = |target: &crate::progress::TargetProgress, state: CandidateState| {
            target.candidate.as_ref().is_some_and(|candidate| candidate.state == state)
        };
        let ready: Vec<usize> = batch.iter().copied().filter(|t| is(&targets[*t], CandidateState::Ready)).collect();
        let stand = |t: &usize| targets[*t].side == manner.goal || is(&targets[*t], CandidateState::Ready);
        let all_stand = batch.iter().all(stand);
        let leaving = targets
            .iter()
            .filter(|target| is(target, CandidateState::Promoting) || is(target, CandidateState::Discarding))
            .count();
        let promote = match manner {
            Manner { together: true, .. } if !all_stand => Vec::new(),
            // Room is made for those that wait, by as many as they need.
            Manner { hold: true, .. } => ready.into_iter().take(waiting.saturating_sub(leaving)).collect(),
            _ => ready,
        };
        let promoting = !promote.is_empty();
        let mut ids = Vec::new();
        for t in promote {
            let Some(candidate) = &mut targets[t].candidate else { continue };
            candidate.state = CandidateState::Promoting;
            let number = candidate.number;
            let instance = self.record.plan.stages[s].targets[t].instance.clone();
            ids.push(CandidateId { instance, number });
        }
        let side = manner.goal;
        if manner.together && !ids.is_empty() {
            turn.actions.push(Action::Promote { workload, candidates: ids, side });
        } else {
            let one = |id| Action::Promote { workload: workload.clone(), candidates: vec![id], side };
            turn.actions.extend(ids.into_iter().map(one));
        }
        let targets = &self.record.progress.stages[s].targets;
        let all_there = batch.iter().all(|t| targets[*t].side == side && targets[*t].candidate.is_none());
        all_there || (manner.hold && all_stand && !promoting)
    }

    /// Starts what there is room for; how many wait for room.
    fn start_candidates(
        &mut self,
        turn: &mut Turn,
        s: usize,
        batch: &[usize],
        manner: Manner,
        until: Option<Timestamp>,
    ) -> usize {
        let (stage, progress) = (&self.record.plan.stages[s], &mut self.record.progress.stages[s]);
        // One on its way into a slot stands beside nothing any more.
        let is_beside = |candidate: &Candidate| candidate.state != CandidateState::Promoting;
        let mut live =
            progress.targets.iter().filter(|target| target.candidate.as_ref().is_some_and(is_beside)).count();
        let mut waiting = 0;
        for &t in batch {
            let target = &mut progress.targets[t];
            if target.side == manner.goal || target.candidate.is_some() || target.retry_at.is_some() {
                continue;
            }
            if manner.surge.is_some_and(|surge| live >= surge.max(1) as usize) {
                waiting += 1;
                continue;
            }
            live += 1;
            target.candidates += 1;
            let number = target.candidates;
            target.candidate =
                Some(Candidate { number, side: manner.goal, state: CandidateState::Starting, until, flaps: 0 });
            if manner.goal == Side::New {
                target.state = TargetState::Starting;
            }
            turn.actions.push(Action::StartCandidate {
                candidate: CandidateId { instance: stage.targets[t].instance.clone(), number },
                workload: stage.workload.clone(),
                side: manner.goal,
            });
        }
        waiting
    }
}
