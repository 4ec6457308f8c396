//! Clean-up after a container, off everyone's path: its cgroups, and the last reference to its root filesystem, whose
//! release syncs the disk below and may take seconds.
//!
//! A short-lived child does it, so that the launcher never waits. What it cannot remove is found again when the
//! launcher starts.

use std::os::fd::{AsFd, OwnedFd};

use coppice_cgroup::{Cgroup, CgroupError, Hierarchy, Parent};
use coppice_linux::{CloneArgs, Forked, SingleThread, clone3, close_others, exit_now};

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
}

/// Starts a cleaner; `None` when it could not be forked, and then the launcher has done the work itself.
pub(crate) fn clean(thread: &SingleThread, cgroups: &Cgroups, remains: Vec<Remains>) -> Option<OwnedFd> {
    match clone3(thread, &CloneArgs::default()) {
        Ok(Forked::Parent { pidfd, .. }) => Some(pidfd),
        Ok(Forked::Child) => {
            // Copies of pipes in this process would keep their readers waiting, so everything is closed, the cgroups'
            // descriptors too, which are then opened afresh.
            let keep: Vec<_> = remains.iter().filter_map(|r| r.root.as_ref().map(AsFd::as_fd)).collect();
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
            // Ends the last references to the root filesystems.
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
