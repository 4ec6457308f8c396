//! Images.

use coppice_base::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageSummary {
    /// Digest of the config: `sha256:…`.
    pub id: String,
    pub manifest_digest: String,
    /// References that name it, e.g. `docker.io/library/redis:7`.
    pub names: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    /// Containers that use it.
    pub containers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetail {
    #[serde(flatten)]
    pub summary: ImageSummary,
    pub architecture: String,
    pub os: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Health check command, if the image has one.
    pub health: Option<Vec<String>>,
    /// Diff ids, bottom first.
    pub layers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullRequest {
    pub reference: String,
    /// Fetch even if it is here.
    pub always: bool,
    /// Allow plain HTTP and unverified TLS for this registry.
    pub insecure: bool,
    pub login: Option<RegistryLogin>,
}

/// A name and a password or token. Without one, the caller's docker `config.json` is not read by the node:
/// the client reads it and sends what it finds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistryLogin {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin").field("user", &self.user).field("password", &"…").finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PushRequest {
    pub reference: String,
    /// Where to; `None`: the reference itself.
    pub target: Option<String>,
    pub insecure: bool,
    pub login: Option<RegistryLogin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TagRequest {
    pub source: String,
    pub target: String,
}

/// One line of a pull's or push's answer. The last is `done` or `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransferLine {
    Layer(LayerProgress),
    /// The manifest digest.
    Done {
        id: String,
        digest: String,
    },
    Error(crate::ApiError),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerProgress {
    pub digest: String,
    pub state: LayerState,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    Waiting,
    Downloading,
    Unpacking,
    Uploading,
    Done,
    /// Was here (or there) already.
    Exists,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadReply {
    pub images: Vec<ImageSummary>,
    /// What was left out, e.g. device nodes.
    pub words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveReply {
    pub untagged: Vec<String>,
    pub deleted: Vec<String>,
    pub freed_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneRequest {
    /// Also images with a name that nothing uses.
    pub all: bool,
    /// Only until the store is at most this large.
    pub budget_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PruneReply {
    pub images: Vec<String>,
    /// Of blobs and layers.
    pub freed_bytes: u64,
}
