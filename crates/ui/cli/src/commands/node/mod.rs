//! Verbs on the node, and the few that need none.

pub(crate) mod completions;
pub(crate) mod install;
pub(crate) mod metrics;
pub(crate) mod openapi;
pub(crate) mod recover;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod version;
