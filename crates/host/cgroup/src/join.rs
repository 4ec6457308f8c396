//! How a process gets into a cgroup cheaply; see the crate's header for why it is done this way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// The files a new process needs to enter a cgroup, opened before it is cloned. All are close-on-exec.
#[derive(Debug)]
pub struct Join {
    /// v1: `tasks` of every hierarchy.
    pub(crate) tasks: Vec<OwnedFd>,
    /// v2 or hybrid: the directory.
    pub(crate) unified: Option<OwnedFd>,
}

impl Join {
    /// The directory for `clone3(CLONE_INTO_CGROUP)`; `None` on pure v1.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|dir| dir.as_fd())
    }

    /// Puts the calling thread, which must be the only one of its process, into the cgroup. To be called by the
    /// new process itself; `cloned_into` when it was born in [`Self::clone_into`]. Makes system calls only: no
    /// allocation, no lock, so it may run between clone and exec.
    pub fn enter(&self, cloned_into: bool) -> Result<()> {
        for tasks in &self.tasks {
            rustix::io::write(tasks, b"0")?;
        }
        if !cloned_into && let Some(dir) = &self.unified {
            let procs = rustix::fs::openat(dir, c"cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&procs, b"0")?;
        }
        Ok(())
    }

    /// Every descriptor, for a launcher that closes all but known ones.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().chain(&self.unified).map(|fd| fd.as_fd())
    }
}
