//! Clean-up after a container, off everyone's path: its cgroups, and the last reference to its root filesystem, whose
//! release syncs the disk below and may take seconds.
//!
//! A short-lived child does it, so that the launcher never waits. What it cannot remove is found again when the
//! launcher starts.
//!
//! It is heard of twice: when the cgroups are gone, which is what a next run under the same name waits for, and when it
//! has ended, which may be much later.

use std::os::fd::{AsFd, OwnedFd};

use coppice_cgroup::{Cgroup, CgroupError, Hierarchy, Parent};
use coppice_linux::{CloneArgs, Forked, SingleThread, clone3, close_others, exit_now};
use rustix::pipe::{PipeFlags, pipe_with};

/// The node's directory in every cgroup hierarchy.
pub(crate) struct Cgroups {
    hierarchy: Hierarchy,
    pub parent: Parent,
}

impl Cgroups {
    pub(crate) fn new(name: &str) -> Result<Self, CgroupError> {
        let hierarchy = Hierarchy::detect()?;
        let parent = hierarchy.parent(name)?;
        Ok(Self { hierarchy, parent })
    }
}

/// What one container leaves.
pub(crate) struct Remains {
    pub cgroup: Option<Cgroup>,
    pub root: Option<OwnedFd>,
    /// The last reference to its mounts.
    pub mounts: Option<OwnedFd>,
}

/// A cleaner at work.
pub(crate) struct Cleaner {
    pub pidfd: OwnedFd,
    /// A pipe that ends when the cgroups are gone; `None` for a cleaner of the program before this one.
    pub cgroups: Option<OwnedFd>,
}

/// Starts a cleaner; `None` when it could not be forked, and then the launcher has done the work itself.
pub(crate) fn clean(thread: &SingleThread, cgroups: &Cgroups, remains: Vec<Remains>) -> Option<Cleaner> {
    // Without a pipe its end is all that is heard of it.
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok().unzip();
    match clone3(thread, &CloneArgs::default()) {
        Ok(Forked::Parent { pidfd, .. }) => Some(Cleaner { pidfd, cgroups: ours }),
        Ok(Forked::Child) => {
            // Copies of pipes in this process would keep their readers waiting, so everything is closed, the cgroups'
            // descriptors too, which are then opened afresh.
            let of_remains = remains.iter().flat_map(|r| [&r.root, &r.mounts]).flatten();
            let keep: Vec<_> = of_remains.chain(&theirs).map(AsFd::as_fd).collect();
            if close_others(&keep).is_ok()
                && let Ok(parent) = cgroups.hierarchy.parent(cgroups.parent.name())
            {
                for remain in &remains {
                    if let Some(cgroup) = &remain.cgroup
                        && let Ok(cgroup) = parent.open(cgroup.id())
                    {
                        remove(&cgroup);
                    }
                }
            }
            drop(theirs);
            // Ends the last references to mounts and root filesystems.
            exit_now(0)
        }
        Err(_) => {
            remains.iter().filter_map(|remain| remain.cgroup.as_ref()).for_each(remove);
            None
        }
    }
}

fn remove(cgroup: &Cgroup) {
    // A process that will not die keeps its cgroup; the next start of the launcher tries again.
    let _ = cgroup.kill_all();
    let _ = cgroup.remove();
}
