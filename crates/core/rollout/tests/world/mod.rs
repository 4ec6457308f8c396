//! A world for a rollout to happen in: slots, candidates, volumes and hooks, which does what it is told (well, badly or
//! never) and is appalled by what must not be asked for.
#![allow(dead_code)] // each test file uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coppice_base::{DurationText, Name, Timestamp};
use coppice_rollout::{
    Action, CandidateId, Control, Event, How, Outcome, Pace, Phase, Plan, Reason, Record, Rollout, Side, Stage, Target,
    Verdict, WorkloadKind,
};
use coppice_spec::FailureAction;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn ms(ms: u64) -> DurationText {
    DurationText(Duration::from_millis(ms))
}

pub(crate) fn secs(secs: u64) -> DurationText {
    ms(secs * 1000)
}

/// A plan of these stages: a rollout of ten minutes that goes back when it fails.
pub(crate) fn plan(stages: Vec<Stage>) -> Plan {
    Plan {
        first: false,
        snapshots: Vec::new(),
        before: Vec::new(),
        switches: Vec::new(),
        halt: Vec::new(),
        stages,
        ahead: 0,
        after: Vec::new(),
        removed: Vec::new(),
        failure_action: FailureAction::Rollback,
        deadline: secs(600),
    }
}

/// A service of so many instances, all of which the old release has; ready within 20 s, over within five minutes.
pub(crate) fn stage(workload: &str, how: How, replicas: u32) -> Stage {
    let target = |n: u32| Target { instance: format!("{workload}-{n}"), has_old: true, numbered_after: 0 };
    Stage {
        workload: name(workload),
        kind: WorkloadKind::Service,
        how,
        targets: (1..=replicas).map(target).collect(),
        ready_timeout: secs(20),
        deadline: secs(300),
        delay: ms(0),
    }
}

pub(crate) fn pace(parallelism: u32, max_surge: u32) -> Pace {
    Pace { parallelism, max_surge }
}

/// What becomes of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Well,
    Fails(Reason),
    /// Of a switch: there is no room for it on the disk.
    NoRoom,
    /// No answer ever.
    Silent,
    /// A candidate: ready and unhealthy by turns, without end.
    Flaps,
    /// A sample: what the proxy has seen, where it is neither a hundred requests that all went well nor half of them.
    Seen {
        requests: u64,
        errors: u64,
        p99: Option<DurationText>,
    },
}

/// What is asked, and for what: an instance, volume, hook or workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Candidate(Side),
    Promote(Side),
    Discard,
    Snapshot,
    Switch,
    SwitchBack,
    Halt,
    Enter,
    Leave,
    Hook,
    Remove,
    /// Fails: one request in two fails.
    Sample,
}

/// Decides what becomes of each thing that is asked for.
type Fates = Box<dyn FnMut(Ask, &str) -> Fate>;

struct Container {
    workload: Name,
    side: Side,
    was_ready: bool,
    flaps: u32,
}

pub(crate) struct World {
    pub(crate) rollout: Rollout,
    pub(crate) now: Timestamp,
    pub(crate) pending: Vec<Event>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) asked: Vec<Action>,
    pub(crate) transcript: Vec<String>,
    /// By instance: what is in its slot; absent: nothing runs there.
    pub(crate) slots: BTreeMap<String, Side>,
    pub(crate) entered: BTreeSet<Name>,
    pub(crate) removed: BTreeSet<Name>,
    halted: BTreeSet<Name>,
    candidates: BTreeMap<CandidateId, Container>,
    promoted: BTreeSet<CandidateId>,
    /// By volume: what the data says.
    pub(crate) heads: BTreeMap<Name, String>,
    snapshots: BTreeMap<(Name, String), String>,
    fate: Fates,
}

impl World {
    /// The old release is up.
    pub(crate) fn new(plan: Plan, fate: impl FnMut(Ask, &str) -> Fate + 'static) -> Self {
        assert_eq!(plan.check(), Vec::<String>::new());
        let now = Timestamp(1_000_000);
        let old = plan.targets().filter(|(_, target)| target.has_old);
        let slots = old.map(|(_, target)| (target.instance.clone(), Side::Old)).collect();
        let mut snapshots = BTreeMap::new();
        let mut heads = BTreeMap::new();
        for switch in &plan.switches {
            heads.insert(switch.volume.clone(), "now".to_owned());
            snapshots.insert((switch.volume.clone(), switch.to.clone()), "past".to_owned());
        }
        for stage in &plan.stages {
            if let How::Switch { volumes, .. } = &stage.how {
                heads.extend(volumes.iter().map(|volume| (volume.volume.clone(), "now".to_owned())));
            }
        }
        let (rollout, actions) = Rollout::begin(plan, now);
        let mut world = Self {
            rollout,
            now,
            pending: Vec::new(),
            outcome: None,
            asked: Vec::new(),
            transcript: Vec::new(),
            slots,
            entered: BTreeSet::new(),
            removed: BTreeSet::new(),
            halted: BTreeSet::new(),
            candidates: BTreeMap::new(),
            promoted: BTreeSet::new(),
            heads,
            snapshots,
            fate: Box::new(fate),
        };
        world.execute(actions);
        world
    }

    pub(crate) fn phase(&self) -> Phase {
        self.rollout.progress().phase
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.rollout.progress().blocked.is_some()
    }

    pub(crate) fn told(&self) -> String {
        self.transcript.join("\n")
    }

    pub(crate) fn steps(&self) -> String {
        let steps: Vec<&str> = self.rollout.progress().steps.iter().map(|step| step.what.as_str()).collect();
        steps.join("\n")
    }

    fn going_back(&self) -> bool {
        matches!(self.phase(), Phase::Back | Phase::Settling)
            || self.rollout.progress().outcome.as_ref().is_some_and(|outcome| outcome.verdict != Verdict::Completed)
    }

    /// Hands over one event and does what follows.
    pub(crate) fn send(&mut self, event: Event) {
        let actions = self.decide(event);
        self.execute(actions);
    }

    pub(crate) fn decide(&mut self, event: Event) -> Vec<Action> {
        self.transcript.push(format!("{} {event:?}", self.now.0));
        let actions = self.rollout.handle(self.now, event);
        self.check();
        actions
    }

    /// The process that holds the machine is gone, with all it waited for; another goes on from the record's text.
    pub(crate) fn kill(&mut self) {
        self.transcript.push(format!("{} killed", self.now.0));
        self.pending.clear();
        let text = serde_json::to_string(self.rollout.record()).unwrap();
        let record: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(&record, self.rollout.record());
        let was_back = self.going_back();
        let (rollout, actions) = Rollout::resume(record, self.now).unwrap();
        self.rollout = rollout;
        assert!(!was_back || self.going_back(), "it forgot that it goes back");
        self.check();
        self.build_tree();
        self.execute(actions);
    }

    /// What a node does when it comes back, before it does anything else: its supervision tree is the record's.
    fn build_tree(&mut self) {
        let record = self.rollout.record().clone();
        for workload in record.plan.stages.iter().map(|stage| &stage.workload).chain(&record.plan.removed) {
            let halted = record.halted().contains(&workload);
            let entered = record.is_entered(workload.as_str());
            if halted {
                self.stop(workload);
            } else if entered && !self.entered.contains(workload) {
                self.become_new(workload);
            } else if !entered && (self.entered.contains(workload) || self.halted.contains(workload)) {
                self.become_old(workload);
            }
        }
    }

    fn stop(&mut self, workload: &Name) {
        if let Some(stage) = self.rollout.plan().stage_of(workload.as_str()) {
            for target in &stage.targets {
                self.slots.remove(&target.instance);
            }
        }
        self.entered.remove(workload);
        self.halted.insert(workload.clone());
    }

    fn become_new(&mut self, workload: &Name) {
        let stage = self.stage(workload);
        for target in &stage.targets {
            let is_replaced = matches!(stage.how, How::Rolling(_) | How::Canary { .. } | How::BlueGreen);
            let slot = self.slots.insert(target.instance.clone(), Side::New);
            if is_replaced && target.has_old {
                assert_eq!(slot, Some(Side::New), "{} was never replaced", target.instance);
            }
        }
        if let How::Switch { volumes, .. } = &stage.how {
            for volume in volumes {
                self.heads.insert(volume.volume.clone(), "migrated".to_owned());
            }
        }
        self.halted.remove(workload);
        self.entered.insert(workload.clone());
    }

    fn become_old(&mut self, workload: &Name) {
        self.halted.remove(workload);
        self.entered.remove(workload);
        let Some(stage) = self.rollout.plan().stage_of(workload.as_str()).cloned() else { return };
        for target in &stage.targets {
            if target.has_old {
                self.slots.insert(target.instance.clone(), Side::Old);
            } else {
                self.slots.remove(&target.instance);
            }
        }
    }

    /// Time passes until something runs out.
    pub(crate) fn wait(&mut self) {
        let wakeup = self.rollout.next_wakeup().unwrap_or_else(|| panic!("nothing will ever happen:\n{}", self.told()));
        self.now = self.now.max(wakeup);
        self.send(Event::Tick);
    }

    /// Answers in their order, a hundredth of a second each, and waits where there is none; until it has ended or is
    /// blocked.
    pub(crate) fn run(&mut self) {
        self.run_until(|_| false);
    }

    pub(crate) fn run_until(&mut self, met: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if self.outcome.is_some() || self.is_blocked() || met(self) {
                return;
            }
            if self.pending.is_empty() {
                self.wait();
            } else {
                self.now.0 += 10;
                self.deliver(0);
            }
        }
        panic!("it does not end:\n{}", self.told());
    }

    pub(crate) fn deliver(&mut self, nth: usize) {
        let event = self.pending.remove(nth);
        if let Event::Discarded(id) = &event {
            self.candidates.remove(id);
        }
        if let Event::CandidateUnhealthy(id, _) = &event
            && let Some(container) = self.candidates.get_mut(id)
            && container.flaps < 20
        {
            container.flaps += 1;
            // It flaps on; twenty times at most, lest a deadline never comes.
            self.pending.push(Event::CandidateReady(id.clone()));
            self.pending.push(Event::CandidateUnhealthy(id.clone(), "503".to_owned()));
        }
        self.send(event);
    }

    pub(crate) fn control(&mut self, control: Control) {
        self.send(Event::Control { control, by: "uid 7".to_owned() });
    }

    fn check(&self) {
        assert_eq!(self.rollout.record().check(), Vec::<String>::new(), "after\n{}", self.told());
        if let Some(wakeup) = self.rollout.next_wakeup() {
            assert!(wakeup > self.now, "it wants to be woken in the past:\n{}", self.told());
        }
    }

    pub(crate) fn execute(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.transcript.push(format!("  {action:?}"));
            self.asked.push(action.clone());
            self.perform(action);
        }
        self.check_old_ones();
    }

    fn stage(&self, workload: &Name) -> Stage {
        self.rollout.plan().stage_of(workload.as_str()).unwrap().clone()
    }

    /// Whatever was up stays up, save where the plan itself stops it first.
    fn check_old_ones(&self) {
        for (stage, target) in self.rollout.plan().targets() {
            let stopped = self.halted.contains(&stage.workload);
            let runs = self.slots.contains_key(&target.instance);
            assert!(runs || stopped || !target.has_old, "{} is gone:\n{}", target.instance, self.told());
        }
    }

    fn perform(&mut self, action: Action) {
        assert!(self.outcome.is_none() || matches!(action, Action::End(_)), "something follows the end");
        match action {
            Action::Snapshot { volume, snapshot } => {
                let event = match (self.fate)(Ask::Snapshot, volume.as_str()) {
                    Fate::Silent => return,
                    Fate::Fails(_) => Event::SnapshotFailed { volume, snapshot, detail: "disk full".to_owned() },
                    _ => {
                        let head = self.heads.get(&volume).cloned().unwrap_or_default();
                        self.snapshots.entry((volume.clone(), snapshot.clone())).or_insert(head);
                        Event::Snapshotted { volume, snapshot }
                    }
                };
                self.pending.push(event);
            }
            Action::RunHook { worker, when, attempt } => {
                assert!(!self.going_back());
                let result = match (self.fate)(Ask::Hook, worker.as_str()) {
                    Fate::Silent => return,
                    Fate::Fails(_) => Err("exit code 1".to_owned()),
                    _ => Ok(()),
                };
                self.pending.push(Event::HookEnded { worker, when, attempt, result });
            }
            Action::StopHook { .. } | Action::Weigh { .. } => {}
            Action::Halt { workloads, round } => {
                for workload in &workloads {
                    self.stop(workload);
                }
                if (self.fate)(Ask::Halt, "") != Fate::Silent {
                    self.pending.push(Event::Halted { round });
                }
            }
            Action::SwitchData { volume, to, keep } => {
                assert!(!self.going_back(), "data goes forth while all goes back");
                self.switch(Ask::Switch, volume, to, keep);
            }
            Action::SwitchBack { volume, to, cut } => self.switch(Ask::SwitchBack, volume, to, cut),
            Action::StartCandidate { candidate, workload, side } => self.start_candidate(candidate, workload, side),
            Action::Promote { workload, candidates, side } => self.promote(&workload, candidates, side),
            Action::Discard { candidates } => {
                for id in candidates {
                    if (self.fate)(Ask::Discard, &id.instance) != Fate::Silent {
                        self.pending.push(Event::Discarded(id));
                    }
                }
            }
            Action::Sample { workload, since } => {
                let (requests, errors, p99) = match (self.fate)(Ask::Sample, workload.as_str()) {
                    Fate::Silent => return,
                    Fate::Fails(_) => (100, 50, None),
                    Fate::Seen { requests, errors, p99 } => (requests, errors, p99),
                    _ => (100, 0, None),
                };
                self.pending.push(Event::Sample { workload, since, requests, errors, p99 });
            }
            Action::Enter { workload } => self.enter(workload),
            Action::Leave { workload } => self.leave(workload),
            Action::Remove { workload } => {
                let stages = &self.rollout.plan().stages;
                assert!(stages.iter().all(|stage| self.entered.contains(&stage.workload)), "removed too early");
                assert!(self.rollout.progress().stages.iter().all(|stage| stage.done), "removed before all is ready");
                self.removed.insert(workload.clone());
                if (self.fate)(Ask::Remove, workload.as_str()) != Fate::Silent {
                    self.pending.push(Event::Removed { workload });
                }
            }
            Action::End(outcome) => {
                self.outcome = Some(outcome);
                self.check_end();
            }
        }
    }

    fn switch(&mut self, ask: Ask, volume: Name, to: String, keep: String) {
        let users: Vec<&Name> = match self.rollout.plan().switches.iter().any(|switch| switch.volume == volume) {
            true => self.rollout.plan().halt.iter().collect(),
            false => {
                let uses = |stage: &&Stage| matches!(&stage.how, How::Switch { volumes, .. } if volumes.iter().any(|v| v.volume == volume));
                self.rollout.plan().stages.iter().filter(uses).map(|stage| &stage.workload).collect()
            }
        };
        for user in users {
            assert!(self.halted.contains(user), "{user} runs while its data is switched:\n{}", self.told());
        }
        match (self.fate)(ask, volume.as_str()) {
            Fate::Silent => return,
            fate @ (Fate::Fails(_) | Fate::NoRoom) => {
                let (detail, no_room) = ("disk full".to_owned(), fate == Fate::NoRoom);
                return self.pending.push(Event::SwitchFailed { volume, to, detail, no_room });
            }
            _ => {}
        }
        let kept = (volume.clone(), keep);
        if let Some(past) = self.snapshots.get(&(volume.clone(), to.clone())).cloned()
            && !self.snapshots.contains_key(&kept)
        {
            let head = self.heads.insert(volume.clone(), past).unwrap();
            self.snapshots.insert(kept, head);
        }
        self.pending.push(Event::Switched { volume, to });
    }

    fn start_candidate(&mut self, candidate: CandidateId, workload: Name, side: Side) {
        assert!(!self.going_back() || side == Side::Old, "a new candidate while all goes back:\n{}", self.told());
        let stage = self.stage(&workload);
        assert!(!self.promoted.contains(&candidate), "{candidate:?} is in its slot already");
        let fate = (self.fate)(Ask::Candidate(side), &candidate.instance);
        let container = Container { workload: workload.clone(), side, was_ready: false, flaps: 0 };
        self.candidates.entry(candidate.clone()).or_insert(container);
        // One that was asked to go into its slot stands beside nothing any more, answered or not.
        let is_promoted = |id: &CandidateId| {
            self.asked
                .iter()
                .any(|asked| matches!(asked, Action::Promote { candidates, .. } if candidates.contains(id)))
        };
        let beside =
            self.candidates.iter().filter(|(id, other)| other.workload == workload && !is_promoted(id)).count();
        if let How::Rolling(pace) | How::Canary { pace, .. } = stage.how {
            assert!(beside <= pace.max_surge as usize, "more than max_surge:\n{}", self.told());
        }
        match fate {
            Fate::Silent | Fate::NoRoom | Fate::Seen { .. } => {}
            Fate::Fails(reason) => {
                self.pending.push(Event::CandidateFailed { candidate, reason, detail: "as told".to_owned() });
            }
            Fate::Well | Fate::Flaps => {
                self.candidates.get_mut(&candidate).unwrap().was_ready = true;
                self.pending.push(Event::CandidateReady(candidate.clone()));
                if fate == Fate::Flaps {
                    self.pending.push(Event::CandidateUnhealthy(candidate, "503".to_owned()));
                }
            }
        }
    }

    fn promote(&mut self, workload: &Name, candidates: Vec<CandidateId>, side: Side) {
        assert!(!self.going_back() || side == Side::Old, "a late promotion:\n{}", self.told());
        assert!(!self.entered.contains(workload) || side == Side::Old, "{workload} is promoted after it was entered");
        let dead = |id: &&CandidateId| !self.promoted.contains(*id) && !self.candidates.contains_key(*id);
        if let Some(dead) = candidates.iter().find(dead) {
            let (reason, detail) = (Reason::ProcessFailed, "died".to_owned());
            return self.pending.push(Event::CandidateFailed { candidate: dead.clone(), reason, detail });
        }
        match (self.fate)(Ask::Promote(side), &candidates[0].instance) {
            Fate::Silent => {}
            Fate::Fails(reason) if !candidates.iter().any(|id| self.promoted.contains(id)) => {
                let (candidate, detail) = (candidates[0].clone(), "died".to_owned());
                self.candidates.remove(&candidate);
                self.pending.push(Event::CandidateFailed { candidate, reason, detail });
            }
            _ => {
                for id in &candidates {
                    if let Some(container) = self.candidates.remove(id) {
                        assert!(container.was_ready, "{id:?} is promoted and never was ready:\n{}", self.told());
                        assert_eq!(container.side, side);
                        self.slots.insert(id.instance.clone(), side);
                        self.promoted.insert(id.clone());
                    }
                }
                self.pending.push(Event::Promoted { candidates });
            }
        }
    }

    fn enter(&mut self, workload: Name) {
        assert!(!self.going_back(), "entered while all goes back:\n{}", self.told());
        self.become_new(&workload);
        let side = Side::New;
        match (self.fate)(Ask::Enter, workload.as_str()) {
            Fate::Silent => {}
            Fate::Fails(reason) => {
                let detail = "as told".to_owned();
                self.pending.push(Event::WorkloadFailed { workload, side, reason, detail });
            }
            _ => self.pending.push(Event::WorkloadReady { workload, side }),
        }
    }

    fn leave(&mut self, workload: Name) {
        self.become_old(&workload);
        if self.rollout.plan().stage_of(workload.as_str()).is_none() {
            return;
        }
        let side = Side::Old;
        match (self.fate)(Ask::Leave, workload.as_str()) {
            Fate::Silent => {}
            Fate::Fails(reason) => {
                let detail = "as told".to_owned();
                self.pending.push(Event::WorkloadFailed { workload, side, reason, detail });
            }
            _ => self.pending.push(Event::WorkloadReady { workload, side }),
        }
    }

    /// No partial state: all is at one side, the data too.
    fn check_end(&self) {
        let outcome = self.outcome.as_ref().unwrap();
        let plan = self.rollout.plan();
        let told = || self.told();
        if outcome.verdict == Verdict::Completed {
            assert!(outcome.cause.is_none());
            for (stage, target) in plan.targets() {
                assert_eq!(self.slots.get(&target.instance), Some(&Side::New), "{}:\n{}", target.instance, told());
                assert!(self.entered.contains(&stage.workload));
            }
            assert!(plan.switches.iter().all(|switch| self.heads[&switch.volume] == "past"), "{}", told());
            assert!(plan.removed.iter().all(|workload| self.removed.contains(workload)));
        } else {
            assert!(outcome.cause.is_some());
            for (_, target) in plan.targets() {
                let slot = target.has_old.then_some(&Side::Old);
                assert_eq!(self.slots.get(&target.instance), slot, "{}:\n{}", target.instance, told());
            }
            assert!(self.entered.is_empty() && self.halted.is_empty() && self.removed.is_empty(), "{}", told());
            let keeps = plan.stages.iter().any(|stage| matches!(stage.how, How::Switch { keep_writes: true, .. }));
            if !outcome.remains.iter().any(|remains| remains.contains("data")) && !keeps {
                assert!(self.heads.values().all(|head| head == "now"), "{:?}\n{}", self.heads, told());
            }
        }
    }
}
