//! Containers: ad-hoc ones and instances of apps.

use coppice_base::Timestamp;
use coppice_spec::RunSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunRequest {
    #[schema(value_type = Object)]
    pub spec: RunSpec,
    /// For [`path::CONTAINERS`](crate::path::CONTAINERS): start it at once. [`path::RUN`](crate::path::RUN) always does.
    pub start: bool,
    /// Terminal size at start, when `spec.tty`.
    #[serde(default)]
    pub size: Option<TerminalSize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Created {
    pub id: String,
    pub name: String,
    /// Limits that could not be had, and the like.
    pub words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Exited,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// No health check.
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortDetail {
    /// Empty: all addresses.
    pub host_ip: String,
    pub host: u16,
    pub container: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerSummary {
    pub id: String,
    pub name: String,
    pub app: Option<String>,
    pub workload: Option<String>,
    pub image: String,
    pub command: Vec<String>,
    pub state: ContainerState,
    pub health: HealthState,
    pub pid: Option<u32>,
    pub exit_code: Option<u8>,
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<u64>)]
    pub started_at: Option<Timestamp>,
    #[schema(value_type = Option<u64>)]
    pub finished_at: Option<Timestamp>,
    pub address: Option<String>,
    pub ports: Vec<PortDetail>,
}

/// All there is to say about one container (`inspect`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerDetail {
    #[serde(flatten)]
    pub summary: ContainerSummary,
    pub image_id: String,
    #[schema(value_type = Object)]
    pub spec: RunSpec,
    pub hostname: String,
    pub user: String,
    pub working_dir: String,
    pub env: Vec<String>,
    pub args: Vec<String>,
    pub mounts: Vec<MountDetail>,
    /// First host id and count of the container's user namespace.
    pub uid_first: u32,
    pub uid_count: u32,
    pub capabilities: Vec<String>,
    pub log_path: String,
    pub restarts: u32,
    pub oom_killed: bool,
    /// Signal that ended it.
    pub signal: Option<i32>,
    pub words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountDetail {
    /// `bind`, `volume`, `tmpfs`.
    pub kind: String,
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopRequest {
    /// From stop signal to SIGKILL; `None`: the container's own.
    pub timeout_ms: Option<u64>,
    /// `None`: the container's own.
    pub signal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KillRequest {
    /// Name (with or without SIG) or number.
    pub signal: String,
}

/// How a process ended. Also the payload of the last stream frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExitReply {
    /// 0–255; 128 + signal when killed.
    pub code: u8,
    pub signal: Option<i32>,
    pub oom: bool,
    /// Set when the process never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecRequest {
    pub command: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub tty: bool,
    pub interactive: bool,
    pub size: Option<TerminalSize>,
    pub privileged: bool,
    /// Answer 204 as soon as it has started, without a stream: nothing is read from it or sent to it.
    #[serde(default)]
    pub detach: bool,
}

/// Query of a log request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogQuery {
    /// Only lines at or after this moment.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub since: Option<Timestamp>,
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub until: Option<Timestamp>,
    /// Only the last n lines (of each instance).
    #[serde(default)]
    pub tail: Option<u64>,
    #[serde(default)]
    pub follow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Instance or container name.
    pub source: String,
    pub stream: LogStream,
    /// RFC 3339 UTC with nanoseconds.
    pub time: String,
    /// The line without its end. Bytes that are not UTF-8 are replaced (U+FFFD).
    pub text: String,
    /// The line goes on in the next one (it was longer than 16 KiB).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// One process of a container (`top`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// On the host.
    pub pid: u32,
    pub parent: u32,
    /// As the container sees it.
    pub uid: u32,
    pub state: String,
    pub cpu_ms: u64,
    pub memory_bytes: u64,
    pub command: String,
}

/// Usage of one container since it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    pub id: String,
    pub name: String,
    #[schema(value_type = u64)]
    pub at: Timestamp,
    pub cpu_usec: u64,
    pub throttled_usec: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub pids: u32,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    pub network_receive_bytes: u64,
    pub network_send_bytes: u64,
    pub oom_kills: u64,
    /// Hundredths of a percent of the last 10 s in which some task waited for memory (10000 = always); `None`
    /// where the kernel does not say.
    pub memory_pressure: Option<u32>,
    pub cpu_pressure: Option<u32>,
    pub io_pressure: Option<u32>,
}
