//! The node itself.

use coppice_base::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionReply {
    pub version: String,
    /// Version of this API; clients refuse a node with another one.
    pub api: u32,
}

/// Version of the API that these types describe.
pub const API: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    pub version: String,
    /// Process id of the node daemon.
    pub pid: u32,
    pub launcher_pid: u32,
    pub launcher_version: String,
    #[schema(value_type = u64)]
    pub started_at: Timestamp,
    pub uptime_ms: u64,
    #[schema(value_type = u64)]
    pub launcher_started_at: Timestamp,
    pub root: String,
    pub socket: String,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup: String,
    pub bridge: String,
    /// e.g. `10.88.0.0/16`.
    pub subnet: String,
    /// Where the proxy listens, e.g. `[::]:80`; empty while no app has routes.
    pub proxy: Vec<String>,
    pub apps: u32,
    pub containers_running: u32,
    pub containers_total: u32,
    pub images: u32,
    pub images_bytes: u64,
    /// What this machine cannot give, in sentences.
    pub words: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopNodeRequest {
    /// Stop the apps and containers and the launcher too; else they keep running without a daemon.
    pub containers: bool,
}
