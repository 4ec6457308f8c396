//! The launcher: the one process per node that is every container's parent.

pub mod protocol;
