//! Workers that somebody runs once more.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A run that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerRunReply {
    /// Its number, by which the worker's runs are told apart.
    pub run: u64,
    /// Under which the app's log has its lines: `seed-2`.
    pub instance: String,
    /// Name of its container, by which it is waited for.
    pub container: String,
}
