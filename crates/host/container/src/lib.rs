//! Containers in the kernel's terms: configuration, root filesystem, isolation, the steps of a start.

mod config;

pub use config::{
    CgroupLimits, ContainerConfig, IdRange, LogConfig, Mount, MountSource, Network, ProcessConfig, Rlimit, Rootfs,
    Seccomp, TerminalSize,
};
