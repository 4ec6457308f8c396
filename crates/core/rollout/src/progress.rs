//! How far it is: plain data, written to the log before the actions it led to are done. Everything a decision rests on
//! is here, so that another process can go on from it.

use std::collections::VecDeque;

use coppice_base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Control, Side};
use crate::outcome::{Failure, Outcome, Reason};
use crate::plan::{How, Plan, Stage, Target};

/// Steps kept for the history; the oldest go first.
pub const STEPS_MAX: usize = 200;

/// Rulings kept; the oldest go first.
pub const RULINGS_MAX: usize = 50;

/// Failures kept; those that come later are not.
pub const FAILURES_MAX: usize = 50;

/// A plan and how far it is: what a release keeps of its rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub plan: Plan,
    pub progress: Progress,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub began: Timestamp,
    /// Somebody carries it out, or did before he was gone. One that nobody has taken up has done nothing yet.
    #[serde(default)]
    pub taken_up: bool,
    pub phase: Phase,
    /// When going forth (or, in [`Phase::Back`], going back) must be over. Does not count while it is blocked.
    pub deadline: Timestamp,
    pub control: ControlState,
    /// Who has ruled it, the newest last.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub rulings: VecDeque<Ruling>,
    /// It rests, until somebody resumes or cancels it.
    pub blocked: Option<Blocked>,
    /// By the plan's order.
    pub snapshots: Vec<DataState>,
    pub before: Hooks,
    pub after: Hooks,
    pub data: DataProgress,
    /// The stage at work (or, going back, the one that is taken back); the number of stages: none.
    pub stage: usize,
    /// By the plan's order.
    pub stages: Vec<StageProgress>,
    /// By the plan's order: gone.
    pub removed: Vec<bool>,
    /// Halts asked for so far.
    pub rounds: u32,
    /// Why it goes, or went, back.
    pub cause: Option<Failure>,
    pub failures: Vec<Failure>,
    /// See [`Outcome::remains`].
    pub remains: Vec<String>,
    pub steps: VecDeque<Step>,
    pub outcome: Option<Outcome>,
}

/// What it is doing, in this order; from any of the first five to `Back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Snapshots,
    Before,
    /// Halting workloads and switching data.
    Data,
    Stages,
    After,
    /// Everything is at the new release; what only the old one had goes.
    Removing,
    Back,
    /// Everything is the old release's again; it has yet to be ready.
    Settling,
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlState {
    #[default]
    Active,
    Paused,
    CancelRequested,
}

/// What an operator asked for, of that which changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    pub at: Timestamp,
    pub control: Control,
    /// Who, in words.
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub since: Timestamp,
    /// `None`: an operator asked for it.
    pub failure: Option<Failure>,
}

/// Hooks of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// How many of the plan's have ended well.
    pub done: usize,
    /// Runs so far, of all of them.
    pub attempt: u32,
    pub running: bool,
}

/// The halting and switching for a rollback with data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataProgress {
    pub halt: HaltState,
    /// By the order of the plan's switches.
    pub switches: Vec<DataState>,
    /// The halt above is the one for going back.
    pub back: bool,
    /// The halted workloads were given back to the old release.
    pub left: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltState {
    #[default]
    No,
    Asked {
        round: u32,
    },
    Halted {
        round: u32,
    },
}

/// Where the data of one volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataState {
    /// Untouched.
    #[default]
    No,
    /// The snapshot or switch was asked for; it may have been done.
    Asked,
    /// It was done.
    Done,
    /// Asked to go back so often; the last not answered when `retry_at` is `None`.
    BackAsked { attempts: u32, retry_at: Option<Timestamp> },
    /// Where it was before.
    Back,
    /// It could not be brought back.
    Lost,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    /// When it must be over; `None`: not begun.
    pub deadline: Option<Timestamp>,
    /// The workload is the new release's in the tree.
    pub entered: bool,
    /// When it must be ready after that.
    pub ready_until: Option<Timestamp>,
    /// It is all new and was ready.
    pub done: bool,
    /// It is being taken back.
    pub reverting: bool,
    /// It was taken back: the workload is the old release's again.
    pub reverted: bool,
    /// After that it was ready, or given up.
    pub settled: bool,
    /// Old candidates did not come up: supervision does it.
    pub handed_over: bool,
    /// By the plan's order.
    pub targets: Vec<TargetProgress>,
    /// Places of the targets being replaced now.
    pub batch: Vec<usize>,
    /// The next batch does not begin before.
    pub delay_until: Option<Timestamp>,
    /// Canary steps that have passed.
    pub canary_step: usize,
    pub watch: Option<Watch>,
    pub weight: Option<u8>,
    /// How often a switch was begun.
    pub attempt: u32,
    pub halt: HaltState,
    /// By the order of the switch's volumes.
    pub volumes: Vec<DataState>,
}

/// A canary being watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub since: Timestamp,
    pub until: Timestamp,
    /// When a sample is asked for (again).
    pub next_sample: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetProgress {
    pub state: TargetState,
    /// Whose definition its slot has.
    pub side: Side,
    /// What stands beside it.
    pub candidate: Option<Candidate>,
    /// The number of the last candidate, of either side; before the first, [`Target::numbered_after`].
    pub candidates: u32,
    /// Candidates that failed in a row.
    pub attempts: u32,
    /// No other candidate before.
    pub retry_at: Option<Timestamp>,
    pub reason: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    Pending,
    Starting,
    Ready,
    Failed,
    RolledBack,
    Blocked,
}

impl TargetState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Blocked => "blocked",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub number: u32,
    pub side: Side,
    pub state: CandidateState,
    /// When it must be ready, while it is not.
    pub until: Option<Timestamp>,
    /// How often it was ready and then was not.
    pub flaps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateState {
    Starting,
    Ready,
    Promoting,
    Discarding,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at: Timestamp,
    pub what: String,
}

impl Progress {
    /// Nothing done yet.
    pub(crate) fn of(plan: &Plan, now: Timestamp) -> Self {
        Self {
            began: now,
            taken_up: false,
            phase: Phase::Snapshots,
            deadline: now.plus(plan.deadline.0),
            control: ControlState::Active,
            rulings: VecDeque::new(),
            blocked: None,
            snapshots: vec![DataState::No; plan.snapshots.len()],
            before: Hooks::default(),
            after: Hooks::default(),
            data: DataProgress { switches: vec![DataState::No; plan.switches.len()], ..DataProgress::default() },
            stage: 0,
            stages: plan.stages.iter().map(StageProgress::of).collect(),
            removed: vec![false; plan.removed.len()],
            rounds: 0,
            cause: None,
            failures: Vec::new(),
            remains: Vec::new(),
            steps: VecDeque::new(),
            outcome: None,
        }
    }
}

impl StageProgress {
    fn of(stage: &Stage) -> Self {
        let target = |target: &Target| TargetProgress {
            state: TargetState::Pending,
            side: Side::Old,
            candidate: None,
            candidates: target.numbered_after,
            attempts: 0,
            retry_at: None,
            reason: None,
        };
        let volumes = if let How::Switch { volumes, .. } = &stage.how { volumes.len() } else { 0 };
        let targets = stage.targets.iter().map(target).collect();
        Self { targets, volumes: vec![DataState::No; volumes], ..Self::default() }
    }

    /// Halted, and neither entered nor left since.
    pub(crate) fn holds_still(&self) -> bool {
        self.halt != HaltState::No && !self.entered
    }
}

impl Record {
    /// The workloads of the data switch are halted and were not given back to the old release.
    pub(crate) fn data_is_halted(&self) -> bool {
        self.progress.data.halt != HaltState::No && !self.progress.data.left
    }
}
