//! Things that happened on a node.

use coppice_base::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    #[schema(value_type = u64)]
    pub at: Timestamp,
    /// `container`, `image`, `app`, `node`.
    pub object: String,
    /// `start`, `exit`, `ready`, `unhealthy`, `restart`, `pull`, `apply`, `remove`, …
    pub action: String,
    /// Container id, image reference, app name.
    pub id: String,
    /// Name of the container, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// One sentence, e.g. `exited with code 1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
