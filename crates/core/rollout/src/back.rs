//! Going back: stages in reverse, data before its workloads, and what is left undone when the time is over.

use coppice_base::{Name, Timestamp};

use crate::candidate::Manner;
use crate::event::{Action, Side};
use crate::forward::numbered;
use crate::machine::{ATTEMPTS_MAX, BACKOFF, Rollout, Turn};
use crate::outcome::{Reason, Verdict};
use crate::plan::How;
use crate::progress::{DataState, HaltState, Phase, TargetState};
use crate::replace::Batch;

impl Rollout {
    /// Does what can be done now; whether it got anywhere.
    pub(crate) fn back(&mut self, turn: &mut Turn) -> bool {
        if self.record.progress.phase == Phase::Settling {
            let waits = (0..self.record.plan.stages.len()).any(|s| self.is_unsettled(s));
            if !waits {
                self.end_back(turn);
            }
            return !waits;
        }
        let next = (0..self.record.plan.stages.len()).rev().find(|s| {
            let stage = &self.record.progress.stages[*s];
            stage.reverting || (!stage.reverted && self.is_touched(*s) && !self.is_under_data(*s))
        });
        if let Some(s) = next {
            self.record.progress.stage = s;
            self.begin_reverting(turn, s);
            return self.revert(turn, s);
        }
        self.record.progress.stage = self.record.plan.stages.len();
        if !self.data_back(turn) {
            return false;
        }
        self.record.progress.phase = Phase::Settling;
        let unsettled: Vec<usize> = (0..self.record.plan.stages.len()).filter(|s| self.is_unsettled(*s)).collect();
        let longest = unsettled.iter().map(|s| self.record.plan.stages[*s].ready_timeout.0).max().unwrap_or_default();
        if !longest.is_zero() {
            let until = turn.now.plus(longest);
            self.record.progress.deadline = self.record.progress.deadline.min(until);
        }
        true
    }

    /// The old release's again, and not known to be ready.
    fn is_unsettled(&self, s: usize) -> bool {
        let stage = &self.record.progress.stages[s];
        stage.reverted && !stage.settled && self.record.plan.stages[s].has_old()
    }

    /// Halted for the data switch: goes back with the data.
    fn is_under_data(&self, s: usize) -> bool {
        self.record.data_is_halted() && self.record.plan.halt.contains(&self.record.plan.stages[s].workload)
    }

    fn end_back(&mut self, turn: &mut Turn) {
        let progress = &self.record.progress;
        let touched = progress.data.left || progress.stages.iter().any(|stage| stage.reverted || stage.attempt > 0);
        self.end(turn, if touched { Verdict::RolledBack } else { Verdict::Failed });
    }

    /// Takes the first step of taking a stage back, once.
    pub(crate) fn begin_reverting(&mut self, turn: &mut Turn, s: usize) {
        if self.record.progress.stages[s].reverting {
            return;
        }
        let workload = self.record.plan.stages[s].workload.clone();
        let keeps = matches!(self.record.plan.stages[s].how, How::Switch { keep_writes: true, .. });
        let stage = &mut self.record.progress.stages[s];
        stage.reverting = true;
        stage.deadline = None;
        stage.ready_until = None;
        stage.batch.clear();
        if !matches!(self.record.plan.stages[s].how, How::Switch { .. }) {
            return;
        }
        if stage.entered && !(keeps && stage.done) {
            // Its data goes back: nobody may write it meanwhile.
            stage.entered = false;
            for target in &mut stage.targets {
                target.side = Side::Old;
            }
            let halt = self.halt(turn, vec![workload]);
            self.record.progress.stages[s].halt = halt;
        } else {
            // Snapshots alone have changed nothing.
            stage.volumes.fill(DataState::No);
        }
    }

    /// Takes one stage back; true once it is the old release's.
    pub(crate) fn revert(&mut self, turn: &mut Turn, s: usize) -> bool {
        let (surge, batch, together) = match &self.record.plan.stages[s].how {
            How::Tree => {
                self.leave(turn, s);
                return true;
            }
            How::Switch { .. } => return self.revert_switch(turn, s),
            How::Rolling(pace) | How::Canary { pace, .. } => (Some(pace.max_surge), pace.parallelism.max(1), false),
            How::BlueGreen => (None, u32::MAX, true),
        };
        loop {
            if self.record.progress.stages[s].handed_over {
                self.discard_all(turn, s);
                break;
            }
            if self.record.progress.stages[s].batch.is_empty() {
                let pending = self.slots_not_at(s, Side::Old);
                if pending.is_empty() {
                    break;
                }
                self.open(turn, s, pending.into_iter().take(batch as usize).collect(), Batch::PutBack);
            }
            let manner = Manner { goal: Side::Old, surge, hold: false, together };
            if !self.drive(turn, s, manner) {
                return false;
            }
            self.record.progress.stages[s].batch.clear();
        }
        self.leave(turn, s);
        true
    }

    fn revert_switch(&mut self, turn: &mut Turn, s: usize) -> bool {
        let How::Switch { volumes, .. } = &self.record.plan.stages[s].how else { return true };
        let stage = &mut self.record.progress.stages[s];
        let asked =
            stage.volumes.iter().any(|state| !matches!(state, DataState::No | DataState::Back | DataState::Lost));
        match stage.halt {
            HaltState::Asked { .. } if asked => return false,
            HaltState::Halted { .. } => {
                let attempt = stage.attempt;
                let mut each = volumes.iter().zip(&mut stage.volumes).rev();
                if let Some((volume, state)) = each.find(|(_, state)| is_to_go_back(state)) {
                    let (to, cut) = (numbered(&volume.snapshot, attempt), numbered(&volume.cut, attempt));
                    turn.actions.extend(switch_back(state, turn.now, &volume.volume, to, cut));
                    return false;
                }
            }
            _ => {}
        }
        self.leave(turn, s);
        true
    }

    /// Takes the switched data back, with everything that uses it halted; true once its workloads are the old release's.
    fn data_back(&mut self, turn: &mut Turn) -> bool {
        if !self.record.data_is_halted() {
            return true;
        }
        if !self.record.progress.data.switches.iter().any(is_to_go_back) {
            self.leave_data(turn);
            return true;
        }
        if !self.record.progress.data.back {
            self.record.progress.data.back = true;
            for workload in self.record.plan.halt.clone() {
                let Some(s) = self.record.stage_at(workload.as_str()) else { continue };
                let stage = &mut self.record.progress.stages[s];
                stage.entered = false;
                for target in &mut stage.targets {
                    target.side = Side::Old;
                }
            }
            self.record.progress.data.halt = self.halt(turn, self.record.plan.halt.clone());
        }
        if let HaltState::Halted { .. } = self.record.progress.data.halt {
            let data = &mut self.record.progress.data;
            let mut each = self.record.plan.switches.iter().zip(&mut data.switches).rev();
            if let Some((switch, state)) = each.find(|(_, state)| is_to_go_back(state)) {
                let (to, cut) = (switch.keep.clone(), switch.cut.clone());
                turn.actions.extend(switch_back(state, turn.now, &switch.volume, to, cut));
            }
        }
        false
    }

    fn leave_data(&mut self, turn: &mut Turn) {
        let data = &mut self.record.progress.data;
        data.left = true;
        // One that was never answered must not be asked for again.
        data.halt = HaltState::No;
        for workload in self.record.plan.halt.clone().into_iter().rev() {
            match self.record.stage_at(workload.as_str()) {
                Some(s) => self.leave(turn, s),
                None => turn.actions.push(Action::Leave { workload }),
            }
        }
    }

    fn leave(&mut self, turn: &mut Turn, s: usize) {
        let workload = self.record.plan.stages[s].workload.clone();
        let stage = &mut self.record.progress.stages[s];
        stage.entered = false;
        stage.halt = HaltState::No;
        stage.reverting = false;
        stage.reverted = true;
        stage.settled = false;
        stage.batch.clear();
        for target in &mut stage.targets {
            target.side = Side::Old;
            target.retry_at = None;
            if target.state == TargetState::Ready {
                target.state = TargetState::RolledBack;
                target.reason = Some(Reason::RollbackReverted);
            }
        }
        turn.actions.push(Action::Leave { workload: workload.clone() });
        let what = if self.record.plan.first { "goes again" } else { "is the old release's again" };
        self.note(turn, format!("{workload} {what}"));
    }

    pub(crate) fn switched(&mut self, turn: &mut Turn, volume: &Name, to: &str) {
        let Some((state, is_back)) = self.switch_state(volume, to) else { return };
        let what = match (&*state, is_back) {
            (DataState::Asked, false) => {
                *state = DataState::Done;
                format!("the data of {volume} is switched to {to}")
            }
            (DataState::BackAsked { .. }, true) => {
                *state = DataState::Back;
                format!("the data of {volume} is back at {to}")
            }
            _ => return,
        };
        self.note(turn, what);
    }

    pub(crate) fn switch_failed(&mut self, turn: &mut Turn, volume: &Name, to: &str, detail: String, no_room: bool) {
        let Some((state, is_back)) = self.switch_state(volume, to) else { return };
        match *state {
            DataState::Asked if !is_back => {
                // It stays asked for: what failed half-way, or when it was asked for again, may be done all the same.
                self.fail(turn, Some(volume.clone()), None, Reason::SwitchFailed, detail);
            }
            DataState::BackAsked { attempts, retry_at: None } if is_back => {
                let failure = Self::failure(turn, Some(volume.clone()), None, Reason::SwitchFailed, detail);
                if no_room {
                    // The old release on the new one's data would be half of each: it waits for room, as long as it may.
                    if let Some((state, _)) = self.switch_state(volume, to) {
                        let retry_at = Some(turn.now.plus(BACKOFF));
                        *state = DataState::BackAsked { attempts: attempts.saturating_sub(1), retry_at };
                    }
                    let what = format!("{failure}; is tried again when there is room");
                    if self.record.progress.steps.back().is_none_or(|step| step.what != what) {
                        self.keep_failure(&failure);
                        self.note(turn, what);
                    }
                    return;
                }
                self.keep_failure(&failure);
                if attempts < ATTEMPTS_MAX {
                    let retry_at = Some(turn.now.plus(BACKOFF * (1 << (attempts - 1))));
                    if let Some((state, _)) = self.switch_state(volume, to) {
                        *state = DataState::BackAsked { attempts, retry_at };
                    }
                    self.note(turn, format!("{failure}; is tried again"));
                } else {
                    if let Some((state, _)) = self.switch_state(volume, to) {
                        *state = DataState::Lost;
                    }
                    let remains = format!("the data of {volume} could not be put back to {to}: {}", failure.detail);
                    self.note(turn, remains.clone());
                    self.record.progress.remains.push(remains);
                }
            }
            _ => {}
        }
    }

    /// The switch this is an answer to, and whether to one back.
    fn switch_state(&mut self, volume: &Name, to: &str) -> Option<(&mut DataState, bool)> {
        let (plan, progress) = (&self.record.plan, &mut self.record.progress);
        for (stage, progress) in plan.stages.iter().zip(&mut progress.stages) {
            let How::Switch { volumes, .. } = &stage.how else { continue };
            let attempt = progress.attempt;
            let is_it = |at: &crate::plan::StageVolume| {
                at.volume == *volume && numbered(&at.snapshot, attempt) == to && progress.reverting
            };
            if let Some(at) = volumes.iter().position(is_it) {
                return Some((&mut progress.volumes[at], true));
            }
        }
        let is_it = |at: &crate::plan::VolumeSwitch| at.volume == *volume && (at.to == to || at.keep == to);
        let at = plan.switches.iter().position(is_it)?;
        Some((&mut progress.data.switches[at], plan.switches[at].keep == to))
    }

    /// Going back has taken its whole time: supervision gets everything that is left.
    pub(crate) fn give_up_going_back(&mut self, turn: &mut Turn) {
        for s in (0..self.record.plan.stages.len()).rev() {
            let stage = &self.record.progress.stages[s];
            if stage.reverting || (!stage.reverted && self.is_touched(s) && !self.is_under_data(s)) {
                self.begin_reverting(turn, s);
                self.force(turn, s);
            }
        }
        if self.record.data_is_halted() {
            let (plan, progress) = (&self.record.plan, &mut self.record.progress);
            for (switch, state) in plan.switches.iter().zip(&mut progress.data.switches).rev() {
                if is_to_go_back(state) {
                    *state = DataState::Lost;
                    progress.remains.push(not_in_time(&switch.volume, &switch.keep));
                }
            }
            self.leave_data(turn);
        }
        for s in (0..self.record.plan.stages.len()).filter(|s| self.is_unsettled(*s)).collect::<Vec<_>>() {
            let workload = &self.record.plan.stages[s].workload;
            self.record.progress.remains.push(format!("{workload} is the old release's again and not ready yet"));
        }
        self.note(turn, "going back took too long: supervision has the rest".to_owned());
        self.end_back(turn);
    }

    /// The same for the one stage that is taken back by itself.
    pub(crate) fn give_up_reverting(&mut self, turn: &mut Turn) {
        let s = self.record.progress.stage;
        self.force(turn, s);
        self.rest_after_reverting(turn, s);
    }

    fn force(&mut self, turn: &mut Turn, s: usize) {
        self.discard_all(turn, s);
        if let How::Switch { volumes, .. } = &self.record.plan.stages[s].how {
            let progress = &mut self.record.progress;
            let stage = &mut progress.stages[s];
            for (volume, state) in volumes.iter().zip(&mut stage.volumes) {
                if is_to_go_back(state) {
                    *state = DataState::Lost;
                    progress.remains.push(not_in_time(&volume.volume, &numbered(&volume.snapshot, stage.attempt)));
                }
            }
        }
        self.leave(turn, s);
    }
}

/// Whether this data is, or may be, not where it was.
fn is_to_go_back(state: &DataState) -> bool {
    matches!(state, DataState::Asked | DataState::Done | DataState::BackAsked { .. })
}

fn not_in_time(volume: &Name, to: &str) -> String {
    format!("the data of {volume} was not put back to {to} in time")
}

/// Asks for the data to go back, unless it was asked for already or its time has not come.
fn switch_back(state: &mut DataState, now: Timestamp, volume: &Name, to: String, cut: String) -> Option<Action> {
    let attempts = match *state {
        DataState::BackAsked { retry_at: None, .. } => return None,
        DataState::BackAsked { retry_at: Some(at), .. } if at > now => return None,
        DataState::BackAsked { attempts, .. } => attempts + 1,
        _ => 1,
    };
    *state = DataState::BackAsked { attempts, retry_at: None };
    Some(Action::SwitchBack { volume: volume.clone(), to, cut })
}
