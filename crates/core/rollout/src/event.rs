//! The machine's door: events in, actions out.

use coppice_base::{DurationText, Name, Timestamp};
use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, Reason};

/// Whose definition an instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Old,
    New,
}

/// One candidate: the instance whose place it is to take, and which try it is. The number never repeats for an instance
/// within a rollout, whichever side the candidate is of, so that an answer about a candidate that was given up cannot be
/// taken for another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CandidateId {
    pub instance: String,
    pub number: u32,
}

/// Which hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookWhen {
    Before,
    After,
}

/// What the caller is to do, in this order; what concerns the same instance, workload or volume must be done in the order
/// in which it was asked for, across calls too. Each is idempotent: after a crash those of the current step come again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Take a snapshot of the volume as it is; one of this name that exists is the one. Answer [`Event::Snapshotted`] or
    /// [`Event::SnapshotFailed`].
    Snapshot { volume: Name, snapshot: String },
    /// Run the hook once for this `attempt` (a run of it that is going on or has ended is that one). Answer
    /// [`Event::HookEnded`].
    RunHook { worker: Name, when: HookWhen, attempt: u32 },
    /// The hook's result is no longer wanted: stop it. No answer.
    StopHook { worker: Name, when: HookWhen, attempt: u32 },
    /// Stop all instances of these, dependents first, and keep them stopped until each is entered, left or removed. Answer
    /// [`Event::Halted`] with the same round when none of them runs.
    Halt { workloads: Vec<Name>, round: u32 },
    /// Put the volume's data to what the snapshot `to` holds; what it holds until then is kept as `keep`. Answer
    /// [`Event::Switched`] or [`Event::SwitchFailed`], with `to`.
    SwitchData { volume: Name, to: String, keep: String },
    /// Put the volume's data back to `to`, where a switch or a snapshot of before left it, and keep what it holds now as
    /// `cut`. Where there is no snapshot `to`, the switch was never done and nothing is to be done. Answer as above.
    SwitchBack { volume: Name, to: String, cut: String },
    /// Start a container by this side's definition beside the instance, outside of supervision and without traffic; one
    /// with this id that is there already is the one. Answer [`Event::CandidateReady`], again whenever it becomes ready
    /// anew, [`Event::CandidateUnhealthy`] or [`Event::CandidateFailed`].
    StartCandidate { candidate: CandidateId, workload: Name, side: Side },
    /// Put these into the slots of their instances, all at one moment: traffic moves, what was in the slots drains and
    /// stops, the slot's definition is this side's. Answer [`Event::Promoted`] (the draining is not waited for), or
    /// [`Event::CandidateFailed`] for one that died before: then none of them is, or will be, in its slot.
    Promote { workload: Name, candidates: Vec<CandidateId>, side: Side },
    /// Stop and remove these, ready or not. One that is in its slot by now is no candidate any more and stays there. Answer
    /// [`Event::Discarded`] for each that is not (any more) beside its slot.
    Discard { candidates: Vec<CandidateId> },
    /// This share of the workload's requests by routes, in percent, goes to its ready new instances, candidates and
    /// promoted ones together. `None`: no share is set, candidates get nothing. No answer.
    Weigh { workload: Name, percent: Option<u8> },
    /// Say by [`Event::Sample`] what the proxy has seen of the new instances since that moment.
    Sample { workload: Name, since: Timestamp },
    /// From now on the workload is the new release's in the supervision tree: shape, replicas, all definitions. An
    /// instance that runs by the new definition already runs on; one that failed for good is tried again. Answer
    /// [`Event::WorkloadReady`] or [`Event::WorkloadFailed`] with [`Side::New`].
    Enter { workload: Name },
    /// It is the old release's again, and gone if the old one has none. Answer [`Event::WorkloadReady`] or
    /// [`Event::WorkloadFailed`] with [`Side::Old`] if the old one has it.
    Leave { workload: Name },
    /// Stop and forget a workload of the old release. Answer [`Event::Removed`].
    Remove { workload: Name },
    /// It has ended; nothing follows.
    End(Outcome),
}

/// What the machine is told. Whatever does not fit (any more) is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Snapshotted {
        volume: Name,
        snapshot: String,
    },
    SnapshotFailed {
        volume: Name,
        snapshot: String,
        detail: String,
    },
    HookEnded {
        worker: Name,
        when: HookWhen,
        attempt: u32,
        /// The reason of the failure in words.
        result: Result<(), String>,
    },
    Halted {
        round: u32,
    },
    Switched {
        volume: Name,
        to: String,
    },
    SwitchFailed {
        volume: Name,
        to: String,
        detail: String,
        /// There was no room for it on the disk.
        no_room: bool,
    },
    CandidateReady(CandidateId),
    /// It was ready, and is not now.
    CandidateUnhealthy(CandidateId, String),
    CandidateFailed {
        candidate: CandidateId,
        reason: Reason,
        detail: String,
    },
    Promoted {
        candidates: Vec<CandidateId>,
    },
    Discarded(CandidateId),
    /// All instances of it are ready (a worker: complete) by this side's definition.
    WorkloadReady {
        workload: Name,
        side: Side,
    },
    /// Supervision has given it up.
    WorkloadFailed {
        workload: Name,
        side: Side,
        reason: Reason,
        detail: String,
    },
    Sample {
        workload: Name,
        /// As it was asked for.
        since: Timestamp,
        requests: u64,
        /// Answers of 500 and above, and attempts that failed.
        errors: u64,
        /// 99th percentile of the time to answer; `None` when not known.
        p99: Option<DurationText>,
    },
    Removed {
        workload: Name,
    },
    Control {
        control: Control,
        /// Who, in words.
        by: String,
    },
    /// Time has passed.
    Tick,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Rest before the next batch. While workloads are halted it does not rest.
    Pause,
    /// Go on, and try again what failed.
    Resume,
    /// Go back before the next batch.
    Cancel,
}

impl Control {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// The names of all actions, in the order in which a rollout asks for them.
pub const ACTIONS: [&str; 15] = [
    "snapshot",
    "run_hook",
    "stop_hook",
    "halt",
    "switch_data",
    "switch_back",
    "start_candidate",
    "promote",
    "discard",
    "weigh",
    "sample",
    "enter",
    "leave",
    "remove",
    "end",
];

impl Action {
    /// Its name: one of [`ACTIONS`].
    pub fn name(&self) -> &'static str {
        ACTIONS[match self {
            Self::Snapshot { .. } => 0,
            Self::RunHook { .. } => 1,
            Self::StopHook { .. } => 2,
            Self::Halt { .. } => 3,
            Self::SwitchData { .. } => 4,
            Self::SwitchBack { .. } => 5,
            Self::StartCandidate { .. } => 6,
            Self::Promote { .. } => 7,
            Self::Discard { .. } => 8,
            Self::Weigh { .. } => 9,
            Self::Sample { .. } => 10,
            Self::Enter { .. } => 11,
            Self::Leave { .. } => 12,
            Self::Remove { .. } => 13,
            Self::End(_) => 14,
        }]
    }
}

impl Event {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Snapshotted { .. } => "snapshotted",
            Self::SnapshotFailed { .. } => "snapshot_failed",
            Self::HookEnded { .. } => "hook_ended",
            Self::Halted { .. } => "halted",
            Self::Switched { .. } => "switched",
            Self::SwitchFailed { .. } => "switch_failed",
            Self::CandidateReady(_) => "candidate_ready",
            Self::CandidateUnhealthy(..) => "candidate_unhealthy",
            Self::CandidateFailed { .. } => "candidate_failed",
            Self::Promoted { .. } => "promoted",
            Self::Discarded(_) => "discarded",
            Self::WorkloadReady { .. } => "workload_ready",
            Self::WorkloadFailed { .. } => "workload_failed",
            Self::Sample { .. } => "sample",
            Self::Removed { .. } => "removed",
            Self::Control { .. } => "control",
            Self::Tick => "tick",
        }
    }
}
