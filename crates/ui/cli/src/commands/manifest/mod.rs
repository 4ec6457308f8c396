//! Verbs on manifests. None of them needs a node.

pub(crate) mod convert;
pub(crate) mod init;
pub(crate) mod schema;
pub(crate) mod validate;
