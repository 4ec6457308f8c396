//! The machine's door: events in, actions out.

use coppice_base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cause::{Cause, Escalation, ExitReason, Note};
use crate::tree::{SupervisorSpec, TreeError};

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<K> {
    /// The whole tree is to be up. Clears a failed tree and manual stops, and retries children that failed for good.
    /// A tree that is up already keeps what runs and what is complete; one that was down starts afresh.
    Start,
    /// The whole tree is to be down.
    Stop,
    /// These are to be up; complete ones run again. Their dependencies are not started with them: see
    /// [`Supervision::dependencies_of`](crate::Supervision::dependencies_of).
    StartChildren(Vec<K>),
    /// These are to be down until started.
    StopChildren(Vec<K>),
    /// Stop and start these, uncounted and without backoff. Those that are down are started.
    Restart(Vec<K>),
    /// Replace the tree: children that are new are started (in a tree that is up), those gone are stopped and
    /// forgotten, those with another revision are stopped and started again, those with another generation are
    /// restarted by request, all others are left alone with their history. Supervisors keep their windows by name.
    Reconfigure(SupervisorSpec<K>),
    /// Answer to [`Action::Start`]: it runs.
    Started(K),
    /// Answer to [`Action::Start`]: it does not, and nothing is left of it.
    StartFailed(K, String),
    /// Its health check succeeds.
    Ready(K),
    /// Its health check failed as often as its definition allows.
    Unhealthy(K, String),
    /// It has ended, asked to or not.
    Exited(K, ExitReason),
    /// What is true of a child now that the caller is back; see [`Adopted`].
    Adopt(K, Adopted),
    /// A run that was begun and proved ready beside this child's own has taken its place, by the definition with this
    /// fingerprint: the rollout's doing. Whatever becomes of the run before is not to be told any more.
    Replaced(K, String),
    /// Time has passed.
    Tick,
}

/// What a caller that was away found of a child. Send one for every child after
/// [`restore`](crate::Supervision::restore) (or on a new tree before [`Event::Start`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It runs. `ready`: its health check is known to succeed; without a health check it is ready anyway.
    Running { ready: bool },
    /// It ended while the caller was away. Policy and strategy apply; the intensity does not count it.
    Exited(ExitReason),
    /// There is no trace of it. A start that was lost is repeated.
    Absent,
}

/// What the caller is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action<K> {
    /// Start it; answer [`Event::Started`], [`Event::StartFailed`] or at once [`Event::Exited`].
    Start { key: K, attempt: u32, cause: Cause<K> },
    /// Stop it, by force once its stop timeout is over; answer [`Event::Exited`] (or [`Event::StartFailed`] when
    /// it had not started yet).
    Stop { key: K, cause: Cause<K> },
    /// The root gave up and everything is stopped.
    Escalate(Escalation<K>),
    /// Nothing to do: something happened to a child that people may want to see.
    Note { key: K, note: Note<K> },
}

/// Why an event was refused. The machine is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError<K: std::fmt::Debug> {
    #[error("{0:?} is not in the tree: it was removed, or the name is mistyped")]
    UnknownKey(K),
    #[error("{event} came for {key:?}, which is {state}: the event is of an earlier run, drop it")]
    Unexpected { key: K, event: &'static str, state: &'static str },
    #[error(transparent)]
    Tree(#[from] TreeError<K>),
}

/// One call of the machine: the time, and what it has decided so far.
pub(crate) struct Turn<'a, K> {
    pub(crate) now: Timestamp,
    pub(crate) random: &'a mut dyn coppice_base::Random,
    pub(crate) actions: Vec<Action<K>>,
}
