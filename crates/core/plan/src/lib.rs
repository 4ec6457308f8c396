//! What an apply would do, as a list of typed steps: made before anything is touched, and printable.
//!
//! [`diff`] compares two specs and what is on the node; it executes nothing and knows nothing of health, failures
//! or the order in which a rollout replaces instances: that is decided while it happens. `coppice plan` and
//! `up --dry-run` print it, an apply's answer carries it.
//!
//! The order of a plan: what may fail without harm (volumes, images) first, then snapshots of what is about to change
//! and the hooks before it, then what goes, the last started first, then supervision, then what is started and replaced,
//! each after what it depends on, then ports and the hooks after it.
//!
//! Every step says what it does to what runs ([`Step::effect`], [`Step::how`]) and to data ([`Step::data`]). Two specs
//! that differ in anything give a plan with a step: specs are taken apart field by field, so that a new field cannot be
//! forgotten.
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
pub use step::{DataEffect, Effect, HookWhen, Plan, PullReason, Replacement, Step, StepKind, StopReason, Subject};
