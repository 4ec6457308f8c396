//! What services, workers and ad-hoc containers have in common: an image, a command, and where it runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coppice_base::{Bytes, DurationText, MilliCpu, Name};
use serde::{Deserialize, Serialize};

use crate::{BeamSpec, SecretUse};

/// A container's definition apart from its supervision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// Image reference as written, e.g. `redis`, `ghcr.io/x/y:1`, `localhost:5000/z@sha256:…`.
    pub image: String,
    pub pull: PullPolicy,
    /// Replaces the image's ENTRYPOINT when set; an empty list removes it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's CMD when not empty.
    pub command: Vec<String>,
    /// Added to, and winning over, the image's ENV. Manifest `env_file`s are already merged in.
    pub env: BTreeMap<String, String>,
    /// `name|uid[:group|gid]`; `None`: the image's USER.
    pub user: Option<String>,
    /// Absolute path in the container; `None`: the image's WORKDIR.
    pub working_dir: Option<String>,
    pub volumes: Vec<VolumeMount>,
    /// Absolute paths in the container that get an empty tmpfs, with its size limit.
    pub tmpfs: BTreeMap<String, Option<Bytes>>,
    pub depends_on: Vec<Dependency>,
    pub limits: Limits,
    pub network: NetworkMode,
    /// Which queue of a link what it sends beyond the machine waits in.
    #[serde(default)]
    pub network_priority: NetworkPriority,
    /// A signal name without SIG (`TERM`, `QUIT`, `RTMIN+3`) or a number; `None`: the image's STOPSIGNAL, else TERM.
    pub stop_signal: Option<String>,
    /// From stop signal to SIGKILL.
    pub stop_timeout: DurationText,
    pub labels: BTreeMap<String, String>,
    /// Root filesystem mounted read-only.
    pub read_only: bool,
    /// Capabilities beyond the default set, without `CAP_`, upper case.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the set; `ALL` takes every one.
    pub cap_drop: Vec<String>,
    /// Every device, capability and path. Refused unless the node's settings allow it.
    pub privileged: bool,
    /// `None`: the workload or container name.
    pub hostname: Option<String>,
    /// Lines added to /etc/hosts: name → address.
    pub extra_hosts: BTreeMap<String, IpAddr>,
    /// A small init is PID 1, reaps and forwards signals.
    pub init: bool,
    #[serde(default)]
    pub secrets: Vec<SecretUse>,
    /// Its program is a release of Erlang or Elixir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beam: Option<BeamSpec>,
}

impl WorkloadSpec {
    /// Time to stop before SIGKILL when nobody says (docker's default).
    pub const DEFAULT_STOP_TIMEOUT: DurationText = DurationText(std::time::Duration::from_secs(10));

    /// A workload of `image` with every default.
    pub fn of(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            pull: PullPolicy::Missing,
            entrypoint: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            user: None,
            working_dir: None,
            volumes: Vec::new(),
            tmpfs: BTreeMap::new(),
            depends_on: Vec::new(),
            limits: Limits::default(),
            network: NetworkMode::Bridge,
            network_priority: NetworkPriority::Normal,
            stop_signal: None,
            stop_timeout: Self::DEFAULT_STOP_TIMEOUT,
            labels: BTreeMap::new(),
            read_only: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            hostname: None,
            extra_hosts: BTreeMap::new(),
            init: false,
            secrets: Vec::new(),
            beam: None,
        }
    }
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

/// `depends_on`: which workload, and how far it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub name: Name,
    pub condition: Condition,
}

/// How far a dependency must be before the dependent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Its processes run.
    Started,
    /// Every instance is healthy (an instance without a health check is, once it runs).
    Healthy,
    /// It exited 0 (workers; the default for a worker).
    Completed,
}

/// A mount of a volume or host directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A named volume of the app (or, for ad-hoc containers, of the node).
    Volume(Name),
    /// An absolute host path, a file or a directory.
    Host(String),
    /// A volume of this instance alone, removed with it (image VOLUME).
    Anonymous,
}

/// Resource limits; `None` is unlimited, but `pids` and `nofile` get defaults where settings give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub cpu: Option<MilliCpu>,
    /// Relative weight 1–10000 under contention (cgroup v2's scale; 100 is normal).
    pub cpu_weight: Option<u32>,
    pub memory: Option<Bytes>,
    pub pids: Option<u32>,
    /// Open files per process (soft and hard).
    pub nofile: Option<u64>,
    /// Size of /dev/shm; 64 MiB when `None`, as docker's.
    pub shm_size: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    #[default]
    Bridge,
    Host,
    None,
}

/// Of what is sent by a link. Only for [`NetworkMode::Bridge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPriority {
    Low,
    #[default]
    Normal,
    High,
}

impl NetworkPriority {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Address of the host to listen on; `None`: all.
    pub host_ip: Option<IpAddr>,
    /// 0: the node chooses a free one.
    pub host: u16,
    pub container: u16,
    pub protocol: Protocol,
}

impl PortSpec {
    /// Whether both cannot be published at once: no address means all addresses.
    pub fn clashes_with(&self, other: &PortSpec) -> bool {
        let same_address = self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip;
        self.host == other.host && self.protocol == other.protocol && same_address
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}
