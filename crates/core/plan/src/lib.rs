//! What an apply would do, as a list of typed steps: made before anything is touched, and printable.
//!
//! [`diff`] compares two specs and what is on the node; it executes nothing and knows nothing of health, failures
//! or the order in which a rollout replaces instances: that is decided while it happens. `coppice plan` and
//! `up --dry-run` print it, an apply's answer carries it.
//!
//! The order of a plan: what may fail without harm (volumes, images) first, then what goes, the last started
//! first, then supervision, then what is started and replaced, each after what it depends on, then ports.
//!
//! Environment values may be secrets, so a plan holds none, printed or serialized: only that `env PASSWORD
//! changed`. Volumes that a spec no longer names are left as they are; only [`teardown`] with `volumes` removes any.

mod change;
mod diff;
mod fields;
mod instance;
mod step;

pub use change::{Change, Edit};
pub use diff::{Observed, diff, teardown};
pub use instance::{instance_name, instances, name_clashes};
pub use step::{Plan, PullReason, Step, StepKind, StopReason, Subject};
