//! Verbs on apps.

mod certificates;
mod dev;
pub(crate) mod down;
pub(crate) mod list;
pub(crate) mod plan;
pub(crate) mod run_worker;
pub(crate) mod status;
mod tree;
pub(crate) mod up;
