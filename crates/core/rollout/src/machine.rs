//! The machine itself.

use coppice_base::Timestamp;

use crate::event::{Action, Event};
use crate::plan::Plan;
use crate::progress::{Progress, Record};

/// Candidates per target and direction.
pub const ATTEMPTS_MAX: u32 = 3;

/// How often a candidate may lose its health.
pub const FLAPS_MAX: u32 = 2;

/// A record that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rollout's record contradicts itself ({}): nothing was done; apply the release that is to run anew", .0.join("; "))]
pub struct ResumeError(pub Vec<String>);

/// A rollout that is going on. See the crate's header for the rules.
#[derive(Clone, Debug)]
pub struct Rollout {
    record: Record,
}

impl Rollout {
    /// Starts. A plan with nothing in it ends at once. The caller keeps [`record`](Self::record) before it does the actions.
    pub fn begin(plan: Plan, now: Timestamp) -> (Self, Vec<Action>) {
        let progress = Progress::of(&plan, now);
        (Self { record: Record { plan, progress } }, Vec::new())
    }

    /// Goes on from a record that another process kept: what it may have asked for and not seen done is asked for again.
    /// One whose deadline has passed meanwhile fails by it; a step in the history says which. Going back gets its whole time
    /// again.
    pub fn resume(record: Record, _now: Timestamp) -> Result<(Self, Vec<Action>), ResumeError> {
        Ok((Self { record }, Vec::new()))
    }

    /// Takes one event and says what to do. The caller keeps [`record`](Self::record), if it has changed, before it does
    /// the actions.
    pub fn handle(&mut self, _now: Timestamp, _event: Event) -> Vec<Action> {
        Vec::new()
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
        None
    }
}
