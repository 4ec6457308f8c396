//! What the launcher is told to make: a container in the kernel's terms.
//!
//! Everything a user may leave open is decided before this point (by the node, from spec and image), so the
//! launcher reads no image, no settings and no database. The one thing resolved late is `user`, because names
//! mean what the container's own /etc/passwd says. Paths of the host are absolute and the node's own; paths of
//! the container are resolved by fd inside its tree, never as strings.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use coppice_base::{Bytes, ContainerId, IdRange, MilliCpu};
use coppice_network::{Address, Address6};
use serde::{Deserialize, Serialize};

use crate::secret::SecretFile;

/// One container: its filesystem, its isolation, its limits and its first process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub id: ContainerId,
    pub hostname: String,
    pub rootfs: Rootfs,
    pub ids: IdRange,
    pub mounts: Vec<Mount>,
    pub process: ProcessConfig,
    pub limits: CgroupLimits,
    pub network: Network,
    /// Size of /dev/shm.
    pub shm_size: Bytes,
    /// Every capability, device and path; no seccomp, no masks. The user namespace stays.
    pub privileged: bool,
    /// Run a small init as PID 1 that reaps and forwards signals.
    pub init: bool,
    pub log: LogConfig,
}

/// The root filesystem: read-only layers under one writable one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Directories with ids as the container sees them, bottom first. At least one.
    pub layers: Vec<PathBuf>,
    /// Directory of the container that gets `upper/` and `work/` (made when missing). Files there carry
    /// shifted ids.
    pub scratch: PathBuf,
    pub read_only: bool,
}

/// A mount besides the standard ones (/proc, /sys, /dev, /dev/pts, /dev/shm, /dev/mqueue).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; made when missing.
    pub target: PathBuf,
    pub read_only: bool,
    pub source: MountSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the host, mounted id-mapped so that both sides see the same ids. Where the
    /// filesystem cannot, the start fails with a typed error that says so.
    Bind {
        path: PathBuf,
    },
    /// A directory whose files have the ids of [`ContainerConfig::ids`] on disk: mounted as it is.
    Shifted {
        path: PathBuf,
    },
    /// A file the node made (hosts, hostname, resolv.conf), owned by host root, shown as root's.
    Generated {
        path: PathBuf,
    },
    Tmpfs {
        size: Option<Bytes>,
    },
    /// A tmpfs with these files, which only the host's root replaces. `links`: places of the container (absolute) that
    /// lead to a file of it, by its path there.
    Secrets {
        files: Vec<SecretFile>,
        links: BTreeMap<PathBuf, PathBuf>,
    },
}

/// A process in a container: its first, or one that `exec` adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// At least one; the first is looked up in the container's PATH when it has no slash.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Absolute, resolved inside the container; made when missing (for the first process).
    pub cwd: PathBuf,
    /// `name|uid[:group|gid]`, resolved against the container's /etc/passwd and /etc/group; "" is root.
    pub user: String,
    /// Extra groups by name or gid beyond those /etc/group gives the user.
    pub groups: Vec<String>,
    /// Bit n = capability n (linux/capability.h). Bounding, permitted and effective (for uid 0) set.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub rlimits: Vec<Rlimit>,
    /// A pseudo-terminal as standard streams and controlling terminal, of this size at start.
    pub terminal: Option<TerminalSize>,
    /// Keep standard input open for attached clients; else it is /dev/null.
    pub stdin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// The allowlist of `seccomp.rs`.
    Default,
    Unconfined,
}

/// One resource limit. Raising beyond what the launcher may is not an error: the nearest allowed value is
/// set and a warning sentence says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_* number (`7` is NOFILE on x86-64).
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Limits that a cgroup enforces; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    pub cpu: Option<MilliCpu>,
    /// 1–10000, 100 is normal.
    pub cpu_weight: Option<u32>,
    pub memory: Option<Bytes>,
    pub pids: Option<u32>,
}

/// Which network the container gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's own.
    Host,
    /// A namespace with only loopback.
    None,
    /// A namespace with `eth0` on the node's bridge. The launcher makes the veth pair. `prefix` is that of the bridge's
    /// subnet; the container has its address alone.
    Bridge {
        bridge: String,
        host_device: String,
        address: Ipv4Addr,
        prefix: u8,
        gateway: Ipv4Addr,
        /// `None` where the machine has no IPv6.
        #[serde(default)]
        v6: Option<Address6>,
    },
}

impl Network {
    /// What `eth0` is given; none without a bridge.
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Bridge { address, gateway, v6, .. } => Some(Address { ip: *address, gateway: *gateway, v6: *v6 }),
            Self::Host | Self::None => None,
        }
    }
}

/// Where the process's output goes: `path`, rotated at `max_size` to `path.1` … `path.<max_files - 1>`.
///
/// A line is `<RFC 3339 time, nanoseconds> <stdout|stderr> <F|P> <bytes>\n`: Kubernetes' CRI format, where P
/// marks a piece of a line longer than 16 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    pub path: PathBuf,
    pub max_size: Bytes,
    /// At least 1, the current file included.
    pub max_files: u32,
}
