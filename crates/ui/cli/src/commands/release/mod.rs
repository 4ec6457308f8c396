//! Verbs on releases: their history, going back to one, ruling a rollout; and following one to its end.

pub(crate) mod follow;
pub(crate) mod history;
pub(crate) mod rollback;
pub(crate) mod rollout;
pub(crate) mod text;
