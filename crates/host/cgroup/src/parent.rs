//! A node's own directory in every hierarchy, and the making and finding of containers' cgroups below it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::device::DeviceRules;
use crate::error::CgroupError;
use crate::hierarchy::{check_name, enable, write_devices_v1};
use crate::layout::{Controller, Kind};
use crate::limits::CgroupLimits;
use crate::{Word, file};

/// One hierarchy's part of a [`Parent`].
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) dir: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) controllers: Vec<Controller>,
    /// v1 devices only: the subdirectory whose children have the usual rules.
    pub(crate) usual_devices: Option<OwnedFd>,
}

impl Slot {
    /// Starts with a dot, which no container's id may.
    pub(crate) const USUAL_DEVICES: &str = ".usual-devices-1";

    pub(crate) fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// The directory that a cgroup's own directory is in.
    pub(crate) fn base(&self, usual_devices: bool) -> &OwnedFd {
        self.usual_devices.as_ref().filter(|_| usual_devices).unwrap_or(&self.dir)
    }

    pub(crate) fn path_of(&self, id: &str, usual_devices: bool) -> PathBuf {
        match &self.usual_devices {
            Some(_) if usual_devices => self.path.join(Self::USUAL_DEVICES).join(id),
            _ => self.path.join(id),
        }
    }

    fn is_cpuset_v1(&self) -> bool {
        self.controllers == [Controller::Cpuset]
    }
}

/// A node's directory in every hierarchy. Cheap to clone; keeps one descriptor per hierarchy open.
#[derive(Clone, Debug)]
pub struct Parent {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    name: String,
    pub(crate) kind: Kind,
    pub(crate) slots: Vec<Slot>,
    words: Vec<Word>,
    /// v2: the loaded program of the usual device rules, made at first use.
    usual_program: OnceLock<OwnedFd>,
}

impl Parent {
    pub(crate) fn of(name: &str, kind: Kind, slots: Vec<Slot>, words: Vec<Word>) -> Self {
        let inner = Inner { name: name.to_owned(), kind, slots, words, usual_program: OnceLock::new() };
        Self { inner: Arc::new(inner) }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What cannot be had here whatever a container asks for.
    pub fn words(&self) -> &[Word] {
        &self.inner.words
    }

    /// Makes the cgroup `id` with `limits`. What of them cannot be had is said in the words; a limit that the
    /// kernel refuses as such is an error, and then nothing is left behind.
    pub fn create(&self, id: &str, limits: &CgroupLimits) -> Result<(Cgroup, Vec<Word>), CgroupError> {
        let (cgroup, mut words) = self.prepare(id, &limits.devices, limits.cpuset.is_some())?;
        match cgroup.limit(limits) {
            Ok(more) => {
                words.extend(more);
                Ok((cgroup, words))
            }
            Err(error) => {
                // The first failure is the one to report.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Makes the cgroup `id` without limits but with its device rules, which are fixed from then on.
    /// A launcher may keep a few of these ready and [`Cgroup::limit`] one when a container comes.
    pub fn prepare(
        &self,
        id: &str,
        devices: &DeviceRules,
        with_cpuset: bool,
    ) -> Result<(Cgroup, Vec<Word>), CgroupError> {
        check_name(id)?;
        let cgroup = Cgroup::of(self.clone(), id, devices.are_usual(), with_cpuset, true);
        let mut words = Vec::new();
        for (made, slot) in cgroup.slots().enumerate() {
            let base = slot.base(cgroup.usual_devices);
            let set_up = rustix::fs::mkdirat(base, id, Mode::from_raw_mode(0o755))
                .map_err(|errno| (false, errno))
                .and_then(|()| self.set_up(slot, id, devices, with_cpuset, &mut words).map_err(|errno| (true, errno)));
            if let Err((this_too, errno)) = set_up {
                for slot in cgroup.slots().take(made + usize::from(this_too)) {
                    // Just made and empty: nothing else can hold it.
                    let _ = rustix::fs::unlinkat(slot.base(cgroup.usual_devices), id, AtFlags::REMOVEDIR);
                }
                let path = slot.path_of(id, cgroup.usual_devices);
                return Err(match errno {
                    Errno::EXIST if !this_too => CgroupError::Exists(path),
                    _ => CgroupError::Kernel { action: "make", path, errno },
                });
            }
        }
        Ok((cgroup, words))
    }

    fn set_up(
        &self,
        slot: &Slot,
        id: &str,
        devices: &DeviceRules,
        with_cpuset: bool,
        words: &mut Vec<Word>,
    ) -> Result<(), Errno> {
        if slot.is_cpuset_v1() {
            // A v1 cpuset takes no process until both lists are set; the parent's own may be empty as well.
            for list in ["cpuset.cpus", "cpuset.mems"] {
                inherit_list(slot, id, list)?;
            }
        }
        if !slot.has(Controller::Devices) {
            return Ok(());
        }
        if self.inner.kind == Kind::V2 {
            if with_cpuset {
                let above = slot.path.parent().unwrap_or(Path::new("/"));
                enable(&file::dir(rustix::fs::CWD, &above.to_string_lossy())?, &["cpuset"]);
                enable(&slot.dir, &["cpuset"]);
            }
            if !devices.all
                && let Err(errno) = self.attach_program(slot, id, devices)
            {
                words.push(Word(format!(
                    "Device rules are not enforced: loading the program for them failed ({errno}); bpf(2) needs CAP_BPF."
                )));
            }
        } else if !devices.are_usual() {
            write_devices_v1(&slot.dir, &format!("{id}/"), devices)?;
        }
        Ok(())
    }

    fn attach_program(&self, slot: &Slot, id: &str, devices: &DeviceRules) -> Result<(), Errno> {
        let own;
        let program = if devices.are_usual() {
            match self.inner.usual_program.get() {
                Some(program) => program,
                None => {
                    let loaded = coppice_linux::bpf::load_cgroup_device(&devices.program())?;
                    self.inner.usual_program.get_or_init(|| loaded)
                }
            }
        } else {
            own = coppice_linux::bpf::load_cgroup_device(&devices.program())?;
            &own
        };
        let cgroup = file::dir(&slot.dir, id)?;
        coppice_linux::bpf::attach_cgroup_device(cgroup.as_fd(), program.as_fd())
    }

    /// The existing cgroup `id`, for a node that comes back.
    pub fn open(&self, id: &str) -> Result<Cgroup, CgroupError> {
        check_name(id)?;
        let exists =
            |dir: &OwnedFd| rustix::fs::accessat(dir, id, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok();
        let slots = &self.inner.slots;
        if !slots.is_empty()
            && !slots.iter().any(|slot| exists(&slot.dir) || slot.usual_devices.as_ref().is_some_and(exists))
        {
            return Err(CgroupError::Missing(id.to_owned()));
        }
        let usual_devices = !slots.iter().any(|s| s.usual_devices.is_some() && exists(&s.dir));
        let with_cpuset = slots.iter().any(|s| s.is_cpuset_v1() && exists(&s.dir));
        let with_blkio = slots.iter().any(|s| s.controllers == [Controller::Blkio] && exists(&s.dir));
        Ok(Cgroup::of(self.clone(), id, usual_devices, with_cpuset, with_blkio))
    }

    /// Ids of the cgroups that exist, sorted; after a crash some may exist in a part of the hierarchies only.
    pub fn list(&self) -> Result<Vec<String>, CgroupError> {
        let mut ids = Vec::new();
        for slot in &self.inner.slots {
            for dir in std::iter::once(&slot.dir).chain(&slot.usual_devices) {
                let names = file::subdirectories(dir).map_err(|errno| CgroupError::Kernel {
                    action: "list",
                    path: slot.path.clone(),
                    errno,
                })?;
                ids.extend(names);
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Removes the node's own directories, as far as it can; the first failure is returned. They must have no
    /// container left.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.inner.slots.iter().map(|slot| self.remove_from(slot)).fold(Ok(()), Result::and)
    }

    fn remove_from(&self, slot: &Slot) -> Result<(), CgroupError> {
        if slot.usual_devices.is_some() {
            remove_dir(&slot.dir, Slot::USUAL_DEVICES, &slot.path.join(Slot::USUAL_DEVICES), REMOVE_WAIT)?;
        }
        let above = slot.path.parent().unwrap_or(Path::new("/"));
        let above_dir = file::dir(rustix::fs::CWD, &above.to_string_lossy()).map_err(|errno| CgroupError::Kernel {
            action: "open",
            path: above.to_path_buf(),
            errno,
        })?;
        remove_dir(&above_dir, &self.inner.name, &slot.path, REMOVE_WAIT)
    }
}

/// A v1 cpuset list from the nearest ancestor that has one: the node's directory is filled in on the way.
fn inherit_list(slot: &Slot, id: &str, list: &str) -> Result<(), Errno> {
    let mut value = file::read(&slot.dir, list)?;
    if value.trim().is_empty() {
        let above = slot.path.parent().unwrap_or(Path::new("/")).join(list);
        value = file::read(rustix::fs::CWD, &above.to_string_lossy())?;
        file::write(&slot.dir, list, value.trim())?;
    }
    file::write(&slot.dir, &format!("{id}/{list}"), value.trim())
}

/// How long an emptied cgroup may take until the kernel lets it go (exiting tasks leave after they are reaped).
pub(crate) const REMOVE_WAIT: Duration = Duration::from_millis(500);

/// rmdir, again up to `wait` while the kernel says busy. One that is gone is fine.
pub(crate) fn remove_dir(at: &OwnedFd, name: &str, path: &Path, wait: Duration) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(100);
    let mut waited = Duration::ZERO;
    loop {
        match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if waited < wait => {
                std::thread::sleep(pause);
                waited += pause;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(Errno::BUSY) => return Err(CgroupError::Busy { path: path.to_path_buf(), waited }),
            Err(errno) => return Err(CgroupError::Kernel { action: "remove", path: path.to_path_buf(), errno }),
        }
    }
}
