//! Containers in the kernel's terms: configuration, root filesystem, isolation, the steps of a start.
//!
//! Every container has its own user, mount, pid, uts, ipc, cgroup and (unless told otherwise) network namespace; root
//! inside is a nobody outside. The launcher calls [`start`]; the child's half is a list of named steps, and a failure
//! says which. Refused here: deciding anything a user may configure (the node has done so), and looking paths of a
//! container up as strings.

pub mod capabilities;
mod child;
mod config;
mod exec;
mod failure;
mod identity;
mod init;
pub mod program;
pub mod rootfs;
pub mod seccomp;
mod secret;
mod start;
mod step;
mod system;
pub mod user;

pub use capabilities::{DEFAULT_CAPABILITIES, UnknownCapability, capabilities};
pub use config::{
    CgroupLimits, ContainerConfig, LogConfig, Mount, MountSource, Network, ProcessConfig, Rlimit, Rootfs, Seccomp,
    TerminalSize,
};
pub use coppice_base::IdRange;
pub use exec::{Target, exec};
pub use failure::StartFailure;
pub use secret::{SecretBytes, SecretFile, SecretFileError, SecretFiles};
pub use start::{ChildStreams, ConnectNetwork, Host, MOUNTS_MAX, Outcome, Starting, start};
