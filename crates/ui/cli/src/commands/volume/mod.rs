//! Verbs on volumes.

pub(crate) mod change;
pub(crate) mod show;
pub(crate) mod transfer;
