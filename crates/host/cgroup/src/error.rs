//! What can go wrong with a cgroup.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

/// Why an operation on cgroups failed. Creation undoes what it made before it returns one of these.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "{0:?} cannot name a cgroup: use 1 to 128 of a-z, A-Z, 0-9, '-', '_' and '.', starting with a letter or digit"
    )]
    BadName(String),
    #[error("cgroup {0:?} exists already; remove it or choose another id")]
    Exists(PathBuf),
    #[error("no cgroup named {0:?} here")]
    Missing(String),
    #[error("{what} cannot be had here: {why}")]
    Unavailable { what: &'static str, why: &'static str },
    #[error("cannot {action} {path}: {errno}", path = path.display())]
    Kernel { action: &'static str, path: PathBuf, errno: Errno },
    #[error("the kernel refused {value:?} for {path}: {errno}; check the limit", path = path.display())]
    Refused { path: PathBuf, value: String, errno: Errno },
    #[error("{path} still has processes after {waited:?}; kill them first", path = path.display())]
    Busy { path: PathBuf, waited: Duration },
    #[error("{path} was not frozen after {waited:?}; a process in it is stuck in the kernel", path = path.display())]
    NotFrozen { path: PathBuf, waited: Duration },
    #[error("{path} has text this version does not read: {text:?}", path = path.display())]
    Unreadable { path: PathBuf, text: String },
}
