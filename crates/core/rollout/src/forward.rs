//! Going forth: the phases in their order, hooks, snapshots, and the switch of data under halted workloads.

use coppice_base::Name;

use crate::event::{Action, HookWhen};
use crate::machine::{Rollout, Turn};
use crate::outcome::{Reason, Verdict};
use crate::plan::How;
use crate::progress::{DataState, HaltState, Phase, StageProgress, TargetState};

impl Rollout {
    /// Does what can be done now; whether it got anywhere.
    pub(crate) fn forward(&mut self, turn: &mut Turn) -> bool {
        match self.record.progress.phase {
            Phase::Snapshots => self.take_snapshots(turn),
            Phase::Before => self.run_hooks(turn, HookWhen::Before),
            Phase::Data => self.switch_data(turn),
            Phase::Stages => self.run_stages(turn),
            Phase::After => self.run_hooks(turn, HookWhen::After),
            Phase::Removing => self.remove(turn),
            Phase::Back | Phase::Settling | Phase::Ended => false,
        }
    }

    fn take_snapshots(&mut self, turn: &mut Turn) -> bool {
        let (plan, progress) = (&self.record.plan, &mut self.record.progress);
        for (wanted, state) in plan.snapshots.iter().zip(&mut progress.snapshots) {
            if *state == DataState::No {
                *state = DataState::Asked;
                let (volume, snapshot) = (wanted.volume.clone(), wanted.snapshot.clone());
                turn.actions.push(Action::Snapshot { volume, snapshot });
            }
        }
        let all = progress.snapshots.iter().all(|state| *state == DataState::Done);
        if all {
            progress.phase = if plan.ahead > 0 { Phase::Stages } else { Phase::Before };
        }
        all
    }

    pub(crate) fn snapshotted(&mut self, turn: &mut Turn, volume: &Name, snapshot: &str) {
        if let Some(state) = self.snapshot_state(volume, snapshot)
            && *state == DataState::Asked
        {
            *state = DataState::Done;
            self.note(turn, format!("the data of {volume} is kept as {snapshot}"));
        }
    }

    pub(crate) fn snapshot_failed(&mut self, turn: &mut Turn, volume: &Name, snapshot: &str, detail: String) {
        if let Some(state) = self.snapshot_state(volume, snapshot)
            && *state == DataState::Asked
        {
            *state = DataState::No;
            self.fail(turn, Some(volume.clone()), None, Reason::SnapshotFailed, detail);
        }
    }

    /// The state of the snapshot of this name, while it is being taken.
    fn snapshot_state(&mut self, volume: &Name, snapshot: &str) -> Option<&mut DataState> {
        let (plan, progress) = (&self.record.plan, &mut self.record.progress);
        match progress.phase {
            Phase::Snapshots => {
                let is_it =
                    |wanted: &crate::plan::VolumeSnapshot| wanted.volume == *volume && wanted.snapshot == snapshot;
                progress.snapshots.get_mut(plan.snapshots.iter().position(is_it)?)
            }
            Phase::Stages => {
                let at = progress.stage;
                let How::Switch { volumes, .. } = &plan.stages.get(at)?.how else { return None };
                let stage = &mut progress.stages[at];
                if stage.entered || stage.reverting {
                    return None;
                }
                let attempt = stage.attempt;
                let is_it = |wanted: &crate::plan::StageVolume| {
                    wanted.volume == *volume && numbered(&wanted.snapshot, attempt) == snapshot
                };
                stage.volumes.get_mut(volumes.iter().position(is_it)?)
            }
            _ => None,
        }
    }

    fn run_hooks(&mut self, turn: &mut Turn, when: HookWhen) -> bool {
        let (hooks, next) = match when {
            HookWhen::Before => (&self.record.plan.before, Phase::Data),
            HookWhen::After => (&self.record.plan.after, Phase::Removing),
        };
        let progress = match when {
            HookWhen::Before => self.record.progress.before,
            HookWhen::After => self.record.progress.after,
        };
        if progress.running {
            return false;
        }
        let Some(worker) = hooks.get(progress.done).cloned() else {
            // After the last hook nothing takes it back; who asked for that before is still heard.
            if when == HookWhen::After && !self.may_go_on(turn) {
                return self.record.progress.phase == Phase::Back;
            }
            self.record.progress.phase = next;
            if next == Phase::Removing {
                let remove = |workload: &Name| Action::Remove { workload: workload.clone() };
                turn.actions.extend(self.record.plan.removed.iter().map(remove));
            }
            return true;
        };
        if !self.may_go_on(turn) {
            return self.record.progress.phase == Phase::Back;
        }
        let hooks = self.hooks(when);
        hooks.running = true;
        hooks.attempt += 1;
        let attempt = hooks.attempt;
        turn.actions.push(Action::RunHook { worker: worker.clone(), when, attempt });
        self.note(turn, format!("hook {worker} runs"));
        false
    }

    pub(crate) fn hooks(&mut self, when: HookWhen) -> &mut crate::progress::Hooks {
        match when {
            HookWhen::Before => &mut self.record.progress.before,
            HookWhen::After => &mut self.record.progress.after,
        }
    }

    /// The hook that runs, if any.
    pub(crate) fn running_hook(&self) -> Option<(Name, HookWhen, u32)> {
        let (plan, progress) = (&self.record.plan, &self.record.progress);
        let both = [(&plan.before, progress.before, HookWhen::Before), (&plan.after, progress.after, HookWhen::After)];
        let mut running = both.into_iter().filter(|(_, hooks, _)| hooks.running);
        running.find_map(|(names, hooks, when)| Some((names.get(hooks.done)?.clone(), when, hooks.attempt)))
    }

    pub(crate) fn hook_ended(
        &mut self,
        turn: &mut Turn,
        worker: Name,
        when: HookWhen,
        attempt: u32,
        result: Result<(), String>,
    ) {
        if self.running_hook() != Some((worker.clone(), when, attempt)) {
            return;
        }
        let hooks = self.hooks(when);
        hooks.running = false;
        match result {
            Ok(()) => {
                hooks.done += 1;
                self.note(turn, format!("hook {worker} is done"));
            }
            Err(detail) => self.fail(turn, Some(worker), None, Reason::HookFailed, detail),
        }
    }

    fn switch_data(&mut self, turn: &mut Turn) -> bool {
        if self.record.plan.switches.is_empty() {
            self.record.progress.phase = Phase::Stages;
            return true;
        }
        match self.record.progress.data.halt {
            HaltState::No => {
                if !self.may_go_on(turn) {
                    return self.record.progress.phase == Phase::Back;
                }
                self.record.progress.data.halt = self.halt(turn, self.record.plan.halt.clone());
                true
            }
            HaltState::Asked { .. } => false,
            HaltState::Halted { .. } => {
                let (plan, progress) = (&self.record.plan, &mut self.record.progress);
                for (wanted, state) in plan.switches.iter().zip(&mut progress.data.switches) {
                    if *state == DataState::No {
                        *state = DataState::Asked;
                        let (volume, to, keep) = (wanted.volume.clone(), wanted.to.clone(), wanted.keep.clone());
                        turn.actions.push(Action::SwitchData { volume, to, keep });
                    }
                }
                let all = progress.data.switches.iter().all(|state| *state == DataState::Done);
                if all {
                    progress.phase = Phase::Stages;
                    self.note(turn, "the data is switched".to_owned());
                }
                all
            }
        }
    }

    /// Asks for a halt, with a number of its own; a halt of nobody is done.
    pub(crate) fn halt(&mut self, turn: &mut Turn, workloads: Vec<Name>) -> HaltState {
        self.record.progress.rounds += 1;
        let round = self.record.progress.rounds;
        if workloads.is_empty() {
            return HaltState::Halted { round };
        }
        let names: Vec<&str> = workloads.iter().map(Name::as_str).collect();
        self.note(turn, format!("stops {}", names.join(", ")));
        turn.actions.push(Action::Halt { workloads, round });
        HaltState::Asked { round }
    }

    pub(crate) fn halted(&mut self, round: u32) {
        let progress = &mut self.record.progress;
        let stages = progress.stages.iter_mut().map(|stage| &mut stage.halt);
        for halt in stages.chain([&mut progress.data.halt]) {
            if *halt == (HaltState::Asked { round }) {
                *halt = HaltState::Halted { round };
            }
        }
    }

    fn run_stages(&mut self, turn: &mut Turn) -> bool {
        let s = self.record.progress.stage;
        if s == self.record.plan.ahead && self.record.progress.before.done < self.record.plan.before.len() {
            self.record.progress.phase = Phase::Before;
            return true;
        }
        if s >= self.record.plan.stages.len() {
            self.record.progress.phase = Phase::After;
            return true;
        }
        if self.record.progress.stages[s].reverting {
            if !self.revert(turn, s) {
                return false;
            }
            self.rest_after_reverting(turn, s);
            return true;
        }
        if self.record.progress.stages[s].done {
            self.record.progress.stages[s].deadline = None;
            self.record.progress.stage += 1;
            return true;
        }
        if self.record.progress.stages[s].deadline.is_none() {
            if !self.may_go_on(turn) {
                return self.record.progress.phase == Phase::Back;
            }
            let stage = &self.record.plan.stages[s];
            let (deadline, what) =
                (turn.now.plus(stage.deadline.0), format!("{}: {}", stage.workload, stage.how.as_str()));
            self.record.progress.stages[s].deadline = Some(deadline);
            self.note(turn, what);
        }
        if self.record.progress.stages[s].entered {
            return false;
        }
        match self.record.plan.stages[s].how.clone() {
            How::Tree => self.enter(turn, s),
            How::Rolling(pace) => self.roll(turn, s, pace),
            How::Canary { steps, pace, .. } => self.canary(turn, s, &steps, pace),
            How::BlueGreen => self.blue_green(turn, s),
            How::Switch { .. } => self.switch_stage(turn, s),
        }
    }

    /// From now on the workload is the new release's; then it has to be ready.
    pub(crate) fn enter(&mut self, turn: &mut Turn, s: usize) -> bool {
        let ready_until = self.ready_until(turn.now, s);
        let workload = self.record.plan.stages[s].workload.clone();
        let stage = &mut self.record.progress.stages[s];
        stage.entered = true;
        stage.halt = HaltState::No;
        stage.ready_until = ready_until;
        for target in &mut stage.targets {
            target.side = crate::event::Side::New;
            if target.state != TargetState::Ready {
                target.state = TargetState::Starting;
            }
        }
        self.unweigh(turn, s);
        turn.actions.push(Action::Enter { workload: workload.clone() });
        let what = if self.record.plan.first { "is started" } else { "is the new release's" };
        self.note(turn, format!("{workload} {what}"));
        false
    }

    /// Stops one writer, snapshots what it wrote, and starts the new one on it.
    fn switch_stage(&mut self, turn: &mut Turn, s: usize) -> bool {
        match self.record.progress.stages[s].halt {
            HaltState::No => {
                let stage = &mut self.record.progress.stages[s];
                stage.attempt += 1;
                stage.volumes.fill(DataState::No);
                for target in &mut stage.targets {
                    target.state = TargetState::Starting;
                }
                let workload = self.record.plan.stages[s].workload.clone();
                let halt = self.halt(turn, vec![workload]);
                self.record.progress.stages[s].halt = halt;
                false
            }
            HaltState::Asked { .. } => false,
            HaltState::Halted { .. } => {
                let How::Switch { volumes, .. } = &self.record.plan.stages[s].how else { return false };
                let stage = &mut self.record.progress.stages[s];
                for (wanted, state) in volumes.iter().zip(&mut stage.volumes) {
                    if *state == DataState::No {
                        *state = DataState::Asked;
                        let snapshot = numbered(&wanted.snapshot, stage.attempt);
                        turn.actions.push(Action::Snapshot { volume: wanted.volume.clone(), snapshot });
                    }
                }
                if stage.volumes.iter().all(|state| *state == DataState::Done) {
                    self.enter(turn, s);
                }
                false
            }
        }
    }

    fn remove(&mut self, turn: &mut Turn) -> bool {
        let all = self.record.progress.removed.iter().all(|removed| *removed);
        if all {
            self.end(turn, Verdict::Completed);
        }
        all
    }

    pub(crate) fn give_up_removing(&mut self, turn: &mut Turn) {
        let progress = &mut self.record.progress;
        for (workload, removed) in self.record.plan.removed.iter().zip(&progress.removed) {
            if !removed {
                progress.remains.push(format!("{workload} was not removed in time"));
            }
        }
        self.end(turn, Verdict::Completed);
    }

    /// What a stage is that was taken back and may be tried again.
    pub(crate) fn fresh_stage(&mut self, s: usize) {
        let stage = &mut self.record.progress.stages[s];
        *stage = StageProgress {
            targets: std::mem::take(&mut stage.targets),
            volumes: vec![DataState::No; stage.volumes.len()],
            attempt: stage.attempt,
            ..StageProgress::default()
        };
    }
}

/// The name of a stage's snapshot at its nth try.
pub fn numbered(name: &str, attempt: u32) -> String {
    if attempt <= 1 { name.to_owned() } else { format!("{name}.{attempt}") }
}
