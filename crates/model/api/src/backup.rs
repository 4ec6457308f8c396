//! What a restore says.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a backup has, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreReply {
    /// When the backup was made: milliseconds since 1970, UTC.
    pub created_at: u64,
    /// Which Coppice made it.
    pub made_by: String,
    /// Whether it is sealed with a key.
    pub sealed: bool,
    pub apps: Vec<RestoredApp>,
    /// Volumes whose data is in it: `APP/VOLUME`, or `VOLUME`.
    pub volumes: Vec<String>,
    /// Images that its apps run; those that are not here are pulled when the node starts.
    pub images: Vec<String>,
    /// Where what was there before is kept; `None`: nothing was, or it was only checked.
    pub kept: Option<String>,
    /// It was restored, rather than checked.
    pub restored: bool,
    /// What is left to do, one sentence each.
    pub words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoredApp {
    pub app: String,
    /// The one that runs.
    pub release: u64,
    /// How many are known.
    pub releases: usize,
}
