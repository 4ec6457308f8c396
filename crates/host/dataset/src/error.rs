//! What can go wrong with a dataset, and what to do then.

use std::io;
use std::path::PathBuf;

use coppice_linux::SyscallError;

use crate::name::{DatasetName, SnapshotName};
use crate::stream::StreamError;

#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("there is no dataset {0}: `coppice volume ls` lists those there are")]
    NoDataset(DatasetName),
    #[error("there is a dataset {0} already: choose another name, or destroy that one")]
    Exists(DatasetName),
    #[error("dataset {dataset} has no snapshot {snapshot}")]
    NoSnapshot { dataset: DatasetName, snapshot: SnapshotName },
    #[error("dataset {dataset} has a snapshot {snapshot} already: choose another name")]
    SnapshotExists { dataset: DatasetName, snapshot: SnapshotName },
    #[error("attachment {key} has {len} bytes: at most {} fit", crate::attachment::ATTACHMENT_MAX)]
    Attachment { key: SnapshotName, len: usize },
    #[error("nothing was received into {dataset}: {source}")]
    Stream { dataset: DatasetName, source: StreamError },
    #[error("cannot send {dataset}: {source}")]
    Send { dataset: DatasetName, source: StreamError },
    #[error("cannot run `zfs`: {source}; install OpenZFS or zfs-fuse, or take `zfs` out of [volumes] in node.toml")]
    NoZfs { source: io::Error },
    #[error("`zfs {command}` failed: {said}")]
    Zfs { command: String, said: String },
    #[error("`zfs {command}` did not end within {limit} s and was killed: see `zpool status` and the kernel's log")]
    ZfsHangs { command: String, limit: u64 },
    #[error(
        "{root} holds volumes already and {base} would be mounted over them: move them away, or take `zfs` out of [volumes] in node.toml"
    )]
    Occupied { root: PathBuf, base: String },
    #[error("{dataset} is not mounted at {at} for this process: let the ZFS daemon run in the same mount namespace")]
    MountedElsewhere { dataset: String, at: PathBuf },
    #[error("cannot {what} {path}: {source}{}", room(self))]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what} {path}: {source}{}", room(self))]
    Syscall { what: &'static str, path: PathBuf, source: SyscallError },
}

/// The next step, where there is no room.
fn room(error: &DatasetError) -> &'static str {
    if error.is_full() { ": free some space on the disk of the volumes" } else { "" }
}

impl DatasetError {
    /// Whether it is for want of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Stream { source: StreamError::Keep { source, .. }, .. } => {
                source.kind() == io::ErrorKind::StorageFull
            }
            Self::Syscall { source, .. } => source.errno == rustix::io::Errno::NOSPC,
            Self::Zfs { said, .. } => said.contains("out of space"),
            _ => false,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn errno(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { what, path, source: errno.into() }
    }

    pub(crate) fn call(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(SyscallError) -> Self {
        let path = path.into();
        move |source| Self::Syscall { what, path, source }
    }
}
