//! Apps brought back from their volumes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Apps that the volumes knew and the node did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoverReply {
    pub apps: Vec<RecoveredApp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveredApp {
    pub app: String,
    /// The release that runs again; none: it is not known.
    pub release: Option<u64>,
    /// How many releases are known.
    pub releases: usize,
    /// What is odd about it, one sentence each.
    pub words: Vec<String>,
    /// Why it was not taken in.
    pub error: Option<String>,
}
