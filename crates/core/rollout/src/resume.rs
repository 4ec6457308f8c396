//! Going on after the process that held the machine was gone: what was asked for, and may not have been done, is asked for
//! again. What became of the candidates meanwhile is not known: each has to say anew that it is ready.

use coppice_base::Timestamp;

use crate::event::{Action, Side};
use crate::forward::numbered;
use crate::machine::{Rollout, Turn};
use crate::plan::How;
use crate::progress::{CandidateState, DataState, HaltState, Phase, Record};

/// A record that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rollout's record contradicts itself ({}): nothing was done; apply the release that is to run anew", .0.join("; "))]
pub struct ResumeError(pub Vec<String>);

impl Rollout {
    /// Goes on from a record that another process kept: what it may have asked for and not seen done is asked for again.
    /// Before it does the actions, the caller builds its supervision tree from the record ([`Record::is_entered`],
    /// [`Record::side_of`], [`Record::halted`]): what these say need not come as an action again.
    /// One that nobody has taken up yet begins by this: no step says that it goes on.
    /// One whose deadline has passed meanwhile fails by it; a step in the history says which. Going back gets its whole time
    /// again.
    pub fn resume(record: Record, now: Timestamp) -> Result<(Self, Vec<Action>), ResumeError> {
        let broken = record.check_shape();
        if !broken.is_empty() {
            return Err(ResumeError(broken));
        }
        let mut rollout = Self { record };
        let mut turn = Turn { now, actions: Vec::new() };
        match rollout.record.progress.outcome.clone() {
            Some(outcome) => turn.actions.push(Action::End(outcome)),
            None => rollout.come_back(&mut turn),
        }
        Ok((rollout, turn.actions))
    }

    fn come_back(&mut self, turn: &mut Turn) {
        let is_fresh = !std::mem::replace(&mut self.record.progress.taken_up, true);
        let progress = &self.record.progress;
        let fresh = turn.now.plus(self.record.plan.deadline.0);
        let of_stage = progress.stages.get(progress.stage).and_then(|stage| stage.deadline);
        let is_late = progress.deadline <= turn.now || of_stage.is_some_and(|deadline| deadline <= turn.now);
        let is_back = matches!(progress.phase, Phase::Back | Phase::Settling);
        if progress.blocked.is_some() {
            self.note(turn, "the node is back: still blocked".to_owned());
        } else if is_back || self.is_reverting() {
            self.record.progress.deadline = fresh;
            self.note(turn, "the node is back: the way back goes on".to_owned());
        } else if is_late {
            self.note(turn, "the node is back, after the deadline".to_owned());
            self.ask_discards(turn);
            self.settle(turn);
            if self.record.progress.blocked.is_some() {
                self.ask_promotes(turn);
            }
            return;
        } else if !is_fresh {
            self.note(turn, "the node is back: the rollout goes on".to_owned());
        }
        self.ask_data(turn);
        self.ask_discards(turn);
        self.ask_promotes(turn);
        self.ask_stages(turn);
        self.settle(turn);
    }

    pub(crate) fn ask_discards(&mut self, turn: &mut Turn) {
        let gone: Vec<_> =
            self.in_state(CandidateState::Discarding).map(|(s, t, n)| self.candidate_id(s, t, n)).collect();
        if !gone.is_empty() {
            turn.actions.push(Action::Discard { candidates: gone });
        }
    }

    pub(crate) fn ask_promotes(&mut self, turn: &mut Turn) {
        for (s, stage) in self.record.plan.stages.iter().enumerate() {
            for side in [Side::New, Side::Old] {
                let of_it = |(at, t, number): (usize, usize, u32)| {
                    let candidate = self.record.progress.stages[at].targets[t].candidate.as_ref()?;
                    (at == s && candidate.side == side).then(|| self.candidate_id(at, t, number))
                };
                let ids: Vec<_> = self.in_state(CandidateState::Promoting).filter_map(of_it).collect();
                let workload = &stage.workload;
                let promote = |candidates| Action::Promote { workload: workload.clone(), candidates, side };
                if stage.how != How::BlueGreen {
                    turn.actions.extend(ids.into_iter().map(|id| promote(vec![id])));
                } else if !ids.is_empty() {
                    turn.actions.push(promote(ids));
                }
            }
        }
    }

    /// Stage, target and number of all candidates in this state.
    fn in_state(&self, state: CandidateState) -> impl Iterator<Item = (usize, usize, u32)> {
        self.record.progress.stages.iter().enumerate().flat_map(move |(s, stage)| {
            let candidates =
                stage.targets.iter().enumerate().filter_map(|(t, target)| Some((t, target.candidate.as_ref()?)));
            let of_it = candidates.filter(move |(_, candidate)| candidate.state == state);
            of_it.map(move |(t, candidate)| (s, t, candidate.number))
        })
    }

    /// Snapshots, hooks, halts and switches of the rollout as a whole.
    fn ask_data(&mut self, turn: &mut Turn) {
        let (plan, progress) = (&self.record.plan, &self.record.progress);
        if progress.phase == Phase::Snapshots && progress.blocked.is_none() {
            for (wanted, state) in plan.snapshots.iter().zip(&progress.snapshots) {
                if *state == DataState::Asked {
                    let (volume, snapshot) = (wanted.volume.clone(), wanted.snapshot.clone());
                    turn.actions.push(Action::Snapshot { volume, snapshot });
                }
            }
        }
        if let Some((worker, when, attempt)) = self.running_hook() {
            turn.actions.push(Action::RunHook { worker, when, attempt });
        }
        if let HaltState::Asked { round } = progress.data.halt {
            turn.actions.push(Action::Halt { workloads: plan.halt.clone(), round });
        }
        for (wanted, state) in plan.switches.iter().zip(&progress.data.switches) {
            let volume = wanted.volume.clone();
            match state {
                DataState::Asked if progress.phase == Phase::Data => {
                    let (to, keep) = (wanted.to.clone(), wanted.keep.clone());
                    turn.actions.push(Action::SwitchData { volume, to, keep });
                }
                DataState::BackAsked { retry_at: None, .. } => {
                    let (to, cut) = (wanted.keep.clone(), wanted.cut.clone());
                    turn.actions.push(Action::SwitchBack { volume, to, cut });
                }
                _ => {}
            }
        }
        if progress.phase == Phase::Removing {
            let each = plan.removed.iter().zip(&progress.removed).filter(|(_, removed)| !**removed);
            turn.actions.extend(each.map(|(workload, _)| Action::Remove { workload: workload.clone() }));
        }
    }

    fn ask_stages(&mut self, turn: &mut Turn) {
        let is_blocked = self.record.progress.blocked.is_some();
        let is_back = matches!(self.record.progress.phase, Phase::Back | Phase::Settling);
        for s in (0..self.record.plan.stages.len()).rev() {
            let until = self.ready_until(turn.now, s).filter(|_| !is_blocked);
            let is_current = self.record.progress.phase == Phase::Stages && self.record.progress.stage == s;
            let (plan, stage) = (&self.record.plan.stages[s], &mut self.record.progress.stages[s]);
            let workload = plan.workload.clone();
            for (target, progress) in plan.targets.iter().zip(&mut stage.targets) {
                let Some(candidate) = &mut progress.candidate else { continue };
                if matches!(candidate.state, CandidateState::Starting | CandidateState::Ready) {
                    candidate.state = CandidateState::Starting;
                    candidate.until = until;
                    let id = crate::event::CandidateId { instance: target.instance.clone(), number: candidate.number };
                    let (workload, side) = (workload.clone(), candidate.side);
                    turn.actions.push(Action::StartCandidate { candidate: id, workload, side });
                }
            }
            if let HaltState::Asked { round } = stage.halt {
                turn.actions.push(Action::Halt { workloads: vec![workload.clone()], round });
            }
            if let How::Switch { volumes, .. } = &plan.how {
                for (wanted, state) in volumes.iter().zip(&stage.volumes) {
                    let (volume, snapshot) = (wanted.volume.clone(), numbered(&wanted.snapshot, stage.attempt));
                    match state {
                        DataState::Asked => turn.actions.push(Action::Snapshot { volume, snapshot }),
                        DataState::BackAsked { retry_at: None, .. } => {
                            let cut = numbered(&wanted.cut, stage.attempt);
                            turn.actions.push(Action::SwitchBack { volume, to: snapshot, cut });
                        }
                        _ => {}
                    }
                }
            }
            if let Some(weight) = stage.weight {
                turn.actions.push(Action::Weigh { workload: workload.clone(), percent: Some(weight) });
            }
            if is_current && stage.entered && !stage.done && !is_blocked {
                stage.ready_until = until;
                turn.actions.push(Action::Enter { workload: workload.clone() });
            }
            if is_back && stage.reverted && !stage.settled {
                turn.actions.push(Action::Leave { workload });
            }
        }
    }
}
