//! How an app goes from one release to the next, and back: a pure state machine.
//!
//! A [`Plan`] says what is to be done, a [`Progress`] how far it is; together they are a [`Record`]. [`Rollout`] takes
//! events and says what to do next. It owns no clock, no I/O and no container: the caller executes the actions and reports
//! what happened. Equal records, times and events give equal actions.
//!
//! ```text
//!  Snapshots ─▶ Before ─▶ Data ─▶ Stages ─▶ After ─▶ Removing ─▶ Ended (completed)
//!      │          │         │        │        │
//!      └──────────┴─────────┴────────┴────────┴─ failed, late or canceled ─▶ Back ─▶ Settling ─▶ Ended (failed,
//!                                    │   ▲                                                         rolled back)
//!                             Blocked ───┘ resume
//! ```
//!
//! Rules:
//!
//! - **Old stays until new has proved itself.** A replaced instance runs on until a *candidate* beside it is ready; the
//!   candidate is then promoted into its slot. Only a switch stops the old one first, because two must not write the same
//!   data.
//! - **One stage after the other,** batch by batch. Never are more candidates there than `max_surge` (blue-green needs room
//!   for all). Candidates that wait to be discarded count, those on their way into a slot do not: without a delay the next
//!   batch begins then. (Of those, one that fails is discarded beside the next, which is there by then.)
//! - **Tries are bounded:** [`ATTEMPTS_MAX`] candidates per target, a few seconds apart; [`FLAPS_MAX`] losses of health
//!   per candidate; one that has had its whole time is not tried again. Data for which there is no room on the disk is put
//!   back when there is, as long as going back may take.
//! - **Deadlines always.** Of a candidate, a stage, the rollout; going back has the rollout's deadline anew. Once that has
//!   passed too, everything is left to supervision under the old release, and the outcome says what remains.
//! - **Going back is decided once.** Nothing new is promoted or entered after it. Stages go back in reverse order, by
//!   candidates of the old side (no canary, no delay), then [`Action::Leave`]; data goes back before its workloads.
//! - **An app's first release** replaces nothing: supervision starts each workload when its turn comes. What hooks before it
//!   need (a database, to migrate it) is started ahead of them, and goes again with everything else if they fail.
//! - **It does not rest half-way through data.** While workloads are halted a pause waits and a failure goes back, whatever
//!   the failure action; a switch that fails is taken back before its rollout is blocked.
//! - **After the last hook there is no way back:** what only the old release had is removed, and it is completed.
//!
//! What it refuses: two rollouts of one app at once (a later one waits), restarting what runs (supervision's work), and
//! judging health itself.

mod back;
mod candidate;
mod check;
mod control;
mod event;
mod forward;
mod held_up;
mod machine;
mod outcome;
mod plan;
mod progress;
mod replace;
mod resume;
mod status;

pub use event::{ACTIONS, Action, CandidateId, Control, Event, HookWhen, Side};
pub use forward::numbered;
pub use machine::{ATTEMPTS_MAX, FLAPS_MAX, Rollout};
pub use outcome::{Failure, Outcome, Reason, Verdict};
pub use plan::{How, Pace, Plan, Stage, StageVolume, Target, VolumeSnapshot, VolumeSwitch, WorkloadKind};
pub use progress::{
    Blocked, Candidate, CandidateState, ControlState, DataProgress, DataState, FAILURES_MAX, HaltState, Hooks, Phase,
    Progress, RULINGS_MAX, Record, Ruling, STEPS_MAX, StageProgress, Step, TargetProgress, TargetState, Watch,
};
pub use resume::ResumeError;
pub use status::{Checkpoint, Counts, FailureDetail, RolloutState, Status, TargetStatus};
