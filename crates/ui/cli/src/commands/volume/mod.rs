//! Verbs on volumes.

pub(crate) mod change;
pub(crate) mod show;
