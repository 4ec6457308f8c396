//! What the cluster has agreed on, and the only way to change it.
//!
//! ```text
//!   Command { id, at, actor, body } ──apply──▶ State ──▶ Ok(Applied)      changed, revision + 1
//!                                                 └────▶ Err(Rejection)   not a bit of it changed
//! ```
//!
//! [`State::apply`] is a pure function: no clock, no random, no I/O. Time and ids come inside the [`Command`],
//! so every node that applies the same commands holds the same state, to the byte ([`State::to_snapshot`]).
//! A command that cannot apply gets a typed [`Rejection`]; it never stalls the log that carries it.
//!
//! A retried command (same [`CommandId`]) gets its first answer again and has no second effect, for as long
//! as the last [`SEEN_KEPT`] ids reach back. Rejections are not remembered: they had no effect to repeat.
//!
//! What it refuses to be: a record of what *is*. Instances, exit codes, health and restarts counted by
//! supervisors are observed on nodes and never enter the log; here is only what should be. Nor does it resolve
//! anything: image digests arrive resolved, specs arrive with every default filled in.

mod app;
mod apply;
mod command;
mod id;
mod invariants;
mod policy;
mod preview;
mod recover;
mod rejection;
mod secret;
mod service_address;
mod snapshot;
mod state;

pub use app::{App, Release, Trigger, Verdict};
pub use command::{Actor, Applied, Body, Command, Effect, ReleaseTerms};
pub use id::{CommandId, Digest, IdError, NodeId, ReleaseId, UidRange};
pub use policy::{Decider, PolicyRule, RULES_MAX, Speaker};
pub use preview::Preview;
pub use rejection::Rejection;
pub use secret::{Resealed, SEALED_MAX, SECRET_VERSIONS_KEPT, SECRETS_MAX, Secret, SecretVersion, secrets_used};
pub use service_address::{SERVICE_ADDRESS_REST_MS, SERVICE_ADDRESSES, ServiceAddress};
pub use snapshot::{FORMAT, SnapshotError};
pub use state::{Node, RELEASES_KEPT, SEEN_KEPT, State, UID_RANGES};
