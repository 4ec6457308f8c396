//! Control groups of containers, v1, v2 and the hybrid of both: limits, device rules, freezing, usage, pressure,
//! killing, and a clear [`Word`] where a limit cannot be had on this machine.
//!
//! Starting a container waits for this crate, so it is built around what the kernel makes cheap:
//!
//! - a [`Parent`] (one per node root) keeps a descriptor per hierarchy; making a container's cgroup is one
//!   `mkdirat` per hierarchy and one `openat`+`write`+`close` per limit that is not "unlimited";
//! - a process enters v1 hierarchies by writing `0` to `tasks` **itself** while it is single-threaded
//!   ([`Join::enter`]). Only then does the kernel skip the lock over every fork and exit in the system, whose
//!   taking waits for an RCU grace period: 10 µs per hierarchy in place of 400 µs and more;
//! - it enters v2 at birth, by `clone3(CLONE_INTO_CGROUP)` ([`Join::clone_into`]);
//! - the usual device rules of v1 are written once, to a cgroup that containers inherit from.
//!
//! ```text
//! Hierarchy::detect ─parent(name)→ Parent ─create(id, limits)→ Cgroup ─join→ Join ─(child) enter→ inside
//! ```
//!
//! On a hybrid machine (controllers on v1, v2 mounted without) a v2 cgroup is used beside the v1 ones: it freezes,
//! kills atomically and knows pressure, none of which v1 does well.
//!
//! It refuses: names with a slash or a leading dot; to touch cgroups it did not make; to claim that a limit holds
//! when it could not be set.

mod cgroup;
mod device;
mod error;
mod file;
mod hierarchy;
mod join;
mod layout;
mod limits;
mod parent;
mod usage;

pub use cgroup::Cgroup;
pub use device::{DeviceKind, DeviceRule, DeviceRules};
pub use error::CgroupError;
pub use hierarchy::Hierarchy;
pub use join::Join;
pub use layout::{Controller, Kind, Layout, Mount};
pub use limits::CgroupLimits;
pub use parent::Parent;
pub use usage::{Pressure, PressureShare, Usage};

use serde::{Deserialize, Serialize};

/// A sentence for the user: a limit or feature that was asked for and cannot be had here, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Word(pub String);

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
