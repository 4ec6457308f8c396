//! What the machine remembers: one record per supervisor and child. Plain data, so that a snapshot is a copy.

use coppice_base::Timestamp;
use coppice_spec::SuperviseSpec;
use serde::{Deserialize, Serialize};

use crate::cause::{Cause, Escalation, Failure, Note};
use crate::tree::ChildSpec;

/// Notes kept per child.
pub const HISTORY_MAX: usize = 20;

/// Everything the machine remembers, to be kept across restarts of the caller. Opaque: write it, and give it to
/// [`Supervision::restore`](crate::Supervision::restore).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot<K> {
    pub(crate) desired: Desired,
    pub(crate) failed: Option<Escalation<K>>,
    /// `Escalate` was emitted for `failed`.
    pub(crate) escalated: bool,
    /// Number of the last round; see [`ChildRecord::round`].
    pub(crate) rounds: u64,
    pub(crate) now: Timestamp,
    /// The root is first; every parent is before its groups.
    pub(crate) supervisors: Vec<SupervisorRecord>,
    /// In start order.
    pub(crate) children: Vec<ChildRecord<K>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Desired {
    /// Neither started nor stopped since the tree was made: what is adopted is left alone.
    Untold,
    Up,
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisorRecord {
    pub(crate) name: String,
    pub(crate) order: u32,
    pub(crate) supervise: SuperviseSpec,
    pub(crate) parent: Option<usize>,
    /// When restarts were made within the window.
    pub(crate) restarts: Vec<Timestamp>,
    /// How often in a row it gave up; the root's stays 0.
    pub(crate) attempt: u32,
    /// When it was last made anew.
    pub(crate) renewed: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChildRecord<K> {
    pub(crate) spec: ChildSpec<K>,
    pub(crate) parent: usize,
    /// Whether it is to be up.
    pub(crate) wanted: bool,
    /// No longer in the tree; forgotten once it has stopped.
    pub(crate) leaving: bool,
    pub(crate) phase: Phase<K>,
    pub(crate) since: Timestamp,
    /// Strategy restart it takes part in: it starts when no other with the same number is alive.
    pub(crate) round: Option<u64>,
    /// Failures in a row.
    pub(crate) attempt: u32,
    /// Restarts that nobody asked for, ever.
    pub(crate) restarts: u64,
    pub(crate) history: Vec<Note<K>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase<K> {
    Stopped { cause: Option<Cause<K>> },
    Waiting { cause: Cause<K> },
    Backoff { cause: Cause<K>, from: Timestamp, until: Timestamp },
    Starting { cause: Cause<K>, doom: Option<Doom<K>> },
    Running { cause: Cause<K>, ready_since: Option<Timestamp>, unhealthy: Option<String>, doom: Option<Doom<K>> },
    Stopping { doom: Doom<K> },
    Completed,
    Failed { failure: Failure },
}

/// A live child that is to stop: why, and what comes after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doom<K> {
    pub(crate) cause: Cause<K>,
    pub(crate) next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Next {
    Rest,
    Again { until: Option<Timestamp> },
}

impl<K> ChildRecord<K> {
    pub(crate) fn fresh(spec: ChildSpec<K>, parent: usize, now: Timestamp) -> Self {
        Self {
            spec,
            parent,
            wanted: false,
            leaving: false,
            phase: Phase::Stopped { cause: None },
            since: now,
            round: None,
            attempt: 0,
            restarts: 0,
            history: Vec::new(),
        }
    }

    /// Whether the executor has, or may have, something running under this key.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. } | Phase::Stopping { .. })
    }

    pub(crate) fn doom(&self) -> Option<&Doom<K>> {
        match &self.phase {
            Phase::Starting { doom, .. } | Phase::Running { doom, .. } => doom.as_ref(),
            Phase::Stopping { doom } => Some(doom),
            _ => None,
        }
    }

    pub(crate) fn set_doom(&mut self, to: Doom<K>) {
        match &mut self.phase {
            Phase::Starting { doom, .. } | Phase::Running { doom, .. } => *doom = Some(to),
            Phase::Stopping { doom } => *doom = to,
            _ => {}
        }
    }

    /// Takes back a stop; false when it was issued already, or the child is unhealthy and had better go.
    pub(crate) fn spare(&mut self) -> bool {
        match &mut self.phase {
            Phase::Running { unhealthy: Some(_), .. } => false,
            Phase::Starting { doom, .. } | Phase::Running { doom, .. } => {
                *doom = None;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase<K>, now: Timestamp) {
        self.phase = phase;
        self.since = now;
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match &self.phase {
            Phase::Stopped { .. } => "stopped",
            Phase::Waiting { .. } => "waiting",
            Phase::Backoff { .. } => "in backoff",
            Phase::Starting { .. } => "starting",
            Phase::Running { .. } => "running",
            Phase::Stopping { .. } => "stopping",
            Phase::Completed => "completed",
            Phase::Failed { .. } => "failed",
        }
    }
}
