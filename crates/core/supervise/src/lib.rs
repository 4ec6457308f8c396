//! Supervision as a pure state machine: an event in, actions out.
//!
//! One machine for every kind of child: instances of an app, ranks of a training job, actors in a process.
//! It is generic over the child's key and knows nothing about containers. It owns no clock, no chance and no
//! I/O: the caller passes the time and the randomness, executes the actions, and reports what happened as
//! events. Equal events at equal times with an equal random stream give equal actions.
//!
//! A tree has one root supervisor, whose members are children and further supervisors (groups). Erlang/OTP's
//! words have Erlang/OTP's meaning: a strategy (`one_for_one`, `one_for_all`, `rest_for_one`), child kinds
//! (permanent = `Always`, transient = `OnFailure`, temporary = `Never`), and an intensity of `max_restarts`
//! within `window`; beyond it the supervisor's children are all stopped and its failure goes to its own
//! supervisor as a child's would. At the root that is [`Action::Escalate`], and the tree stays failed until it
//! is asked to start again. Beyond OTP there are dependencies that gate starts, readiness, and backoff.
//!
//! ```text
//!                     needs met                  Started              Ready
//!   Stopped ──Start──▶ Waiting ────▶ Starting ───────────▶ Running ─────────▶ Running (ready)
//!      ▲                 ▲              │                     │  Exited, Unhealthy   │
//!      │           Tick  │              └──── StartFailed ────┴──────────┬───────────┘
//!      │                 │                                               │
//!      │              Backoff ◀── to be restarted (policy, strategy) ────┤
//!      │                 ▲                                               ├─ exit 0, not to be restarted ─▶ Completed
//!      │                 │                                               └─ failed, not to be restarted ─▶ Failed
//!      └── to rest ── Stopping ◀── Stop, sibling failed, unhealthy, changed, removed
//! ```
//!
//! Rules beyond the diagram:
//!
//! - **Order.** Children have one start order: dependencies first, then the members' `order`. A stop waits for
//!   whoever is to stop too and depends on the child; under an ordered strategy (`one_for_all`,
//!   `rest_for_one`) it waits for all that start later, as OTP does, save that members of equal `order`
//!   (replicas) stop side by side. A start waits for dependencies only, never for mere order. Stops wait only
//!   for later children and starts only for earlier ones, so they cannot wait for each other.
//! - **A strategy's restart is one round.** Nobody in it starts before all in it have stopped and the failed
//!   child's backoff is over. It counts once against the intensity.
//! - **Temporary children** never cause a restart. When a sibling's failure stops one, it stays stopped; when its
//!   whole group is restarted it starts again, since the group is then made anew.
//! - **A group that gives up** has its window emptied, and its children are restarted together after the
//!   parent's backoff. Its children stop together with the siblings that the parent's strategy takes along, in
//!   the one start order, so that a dependent outside the group still stops before what it depends on.
//! - **Manual** stops, starts and restarts and changed definitions are not failures: nothing is counted.
//! - **Dependencies gate starts only.** When a dependency fails later, its dependents run on, unless the strategy
//!   takes them along; a restart waits for the dependency again. A need for no children at all is met.
//!
//! What it refuses: keeping an old instance until its replacement is healthy (that is a rollout's work, which tells of the
//! one that proved itself by [`Event::Replaced`]), stop timeouts and signals (the executor's), and telling apart two runs of one key: the caller must
//! drop events of runs that are not the key's current one.

mod adopt;
mod cause;
mod check;
mod event;
mod failure;
mod machine;
mod order;
mod reconfigure;
mod record;
mod settle;
mod status;
mod tree;

pub use cause::{Cause, Escalation, ExitReason, Failure, Note, Origin, What};
pub use event::{Action, Adopted, Event, EventError};
pub use machine::{RestoreError, Supervision};
pub use record::{HISTORY_MAX, Snapshot};
pub use status::{ChildState, ChildStatus, MemberStatus, Overall, Stuck, SupervisorStatus, TreeStatus, Unmet};
pub use tree::{ChildSpec, MemberSpec, Need, SupervisorSpec, TreeError};
