//! Why a container did not start.

use coppice_linux::{SyscallError, TreeError};
use serde::{Deserialize, Serialize};

/// Sent by the child over its channel, or met by the launcher itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum StartFailure {
    /// The program is not in the container.
    #[error("{0}: command not found in the container")]
    NotFound(String),
    /// The program is there and cannot be run.
    #[error("{program}: cannot be executed: {why}")]
    NotExecutable { program: String, why: String },
    /// The container that a process was to be added to ends or has ended.
    #[error("the container has ended")]
    Ended,
    /// A named step of the set-up failed.
    #[error("{step} failed: {why}")]
    Setup { step: String, why: String },
}

impl StartFailure {
    pub fn setup(step: &str, why: impl ToString) -> Self {
        Self::Setup { step: step.to_owned(), why: why.to_string() }
    }
}

/// Why one step failed; the step's name is added by who runs the steps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    #[error("{0}")]
    Errno(#[from] rustix::io::Errno),
    #[error("path in the container: {0}")]
    Path(#[from] TreeError),
    #[error("{0}")]
    Secret(#[from] crate::secret::SecretFileError),
    #[error("{0}")]
    User(#[from] crate::user::UserError),
    #[error("a mount at {0} would cover a part of the system that containers are kept from; choose another target")]
    ForbiddenTarget(String),
    #[error(
        "the filesystem of {0} has no id-mapped mounts, so its files cannot be shown with the container's ids; move the data to ext4, xfs, btrfs or tmpfs, or use a named volume"
    )]
    NoIdMap(String),
    #[error("/proc is not a procfs: {0:#x}")]
    NotProc(u64),
    #[error("not a pseudo-terminal of the container")]
    NotTerminal,
    #[error("the launcher said {0:?}, not what comes next")]
    Launcher(Vec<u8>),
}
