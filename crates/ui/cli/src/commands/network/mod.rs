//! Verbs on the network.

pub(crate) mod doctor;
pub(crate) mod status;
