//! One container's cgroup: limits, freezing, killing, usage, removal.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::error::CgroupError;
use crate::join::Join;
use crate::layout::{Controller, Kind};
use crate::limits::{CPU_PERIOD_US, CgroupLimits, cpu_quota_us, cpu_shares};
use crate::parent::{Parent, REMOVE_WAIT, Slot, remove_dir};
use crate::usage::{Pressure, PressureShare, Usage, blkio_sum, field, io_sum};
use crate::{Word, file};

/// v1 counts memory in pages: "no limit" reads as the largest page-aligned number, not as this or more.
const V1_UNLIMITED_FROM: u64 = 1 << 62;

/// How long v1 killing waits for the cgroup to freeze before it kills what it sees.
const KILL_FREEZE_WAIT: Duration = Duration::from_millis(50);

/// Limits, and whether what they leave out is known to be unlimited already.
#[derive(Clone, Copy)]
struct Asked<'a> {
    limits: &'a CgroupLimits,
    fresh: bool,
}

impl std::ops::Deref for Asked<'_> {
    type Target = CgroupLimits;
    fn deref(&self) -> &CgroupLimits {
        self.limits
    }
}

/// A container's cgroup. Holds no descriptor of its own: 500 idle containers cost nothing here.
#[derive(Clone, Debug)]
pub struct Cgroup {
    parent: Parent,
    id: String,
    pub(crate) usual_devices: bool,
    with_cpuset: bool,
    /// Not of one that a version made which did not count requests to disks.
    with_blkio: bool,
}

impl Cgroup {
    pub(crate) fn of(parent: Parent, id: &str, usual_devices: bool, with_cpuset: bool, with_blkio: bool) -> Self {
        Self { parent, id: id.to_owned(), usual_devices, with_cpuset, with_blkio }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hierarchies this cgroup is in.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        let without = [(self.with_cpuset, Controller::Cpuset), (self.with_blkio, Controller::Blkio)];
        let is_without = move |slot: &Slot| without.iter().any(|(with, of)| !with && slot.controllers == [*of]);
        self.parent.inner.slots.iter().filter(move |slot| !is_without(slot))
    }

    fn slot(&self, controller: Controller) -> Option<&Slot> {
        self.slots().find(|slot| slot.has(controller))
    }

    fn is_v2(&self) -> bool {
        self.parent.inner.kind == Kind::V2
    }

    fn base<'a>(&self, slot: &'a Slot) -> &'a OwnedFd {
        slot.base(self.usual_devices)
    }

    fn path(&self, slot: &Slot, name: &str) -> PathBuf {
        slot.path_of(&self.id, self.usual_devices).join(name)
    }

    fn kernel(&self, slot: &Slot, name: &str, action: &'static str, errno: Errno) -> CgroupError {
        CgroupError::Kernel { action, path: self.path(slot, name), errno }
    }

    fn read(&self, slot: &Slot, name: &str) -> Result<String, CgroupError> {
        file::read(self.base(slot), &format!("{}/{name}", self.id)).map_err(|e| self.kernel(slot, name, "read", e))
    }

    fn write_raw(&self, slot: &Slot, name: &str, value: &str) -> Result<(), Errno> {
        file::write(self.base(slot), &format!("{}/{name}", self.id), value)
    }

    fn write(&self, slot: &Slot, name: &str, value: &str) -> Result<(), CgroupError> {
        self.write_raw(slot, name, value).map_err(|errno| CgroupError::Refused {
            path: self.path(slot, name),
            value: value.to_owned(),
            errno,
        })
    }

    /// Opens what a new process needs to enter.
    pub fn join(&self) -> Result<Join, CgroupError> {
        let mut join = Join { tasks: Vec::with_capacity(self.parent.inner.slots.len()), unified: None };
        for slot in self.slots() {
            if slot.has(Controller::Unified) {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let dir = rustix::fs::openat(&slot.dir, self.id.as_str(), flags, Mode::empty())
                    .map_err(|errno| self.kernel(slot, "", "open", errno))?;
                join.unified = Some(dir);
            } else {
                let tasks = file::open_write(self.base(slot), &format!("{}/tasks", self.id))
                    .map_err(|errno| self.kernel(slot, "tasks", "open", errno))?;
                join.tasks.push(tasks);
            }
        }
        Ok(join)
    }

    /// Moves the whole process `pid` here. From outside this costs an RCU grace period per v1 hierarchy; a new
    /// process enters by [`Self::join`].
    pub fn add(&self, pid: Pid) -> Result<(), CgroupError> {
        let pid = pid.as_raw_nonzero().to_string();
        self.slots().try_for_each(|slot| self.write(slot, "cgroup.procs", &pid))
    }

    /// Sets every limit of `limits` except the device rules; `None` lifts one that was set. Says what cannot be had.
    pub fn update(&self, limits: &CgroupLimits) -> Result<Vec<Word>, CgroupError> {
        self.apply(limits, false)
    }

    /// As [`Self::update`], for a cgroup that never had limits: those that are `None` cost nothing.
    pub fn limit(&self, limits: &CgroupLimits) -> Result<Vec<Word>, CgroupError> {
        self.apply(limits, true)
    }

    fn apply(&self, limits: &CgroupLimits, fresh: bool) -> Result<Vec<Word>, CgroupError> {
        let mut words = Vec::new();
        let limits = Asked { limits, fresh };
        if self.is_v2() {
            self.update_v2(limits, &mut words)?
        } else {
            self.update_v1(limits, &mut words)?
        }
        Ok(words)
    }

    /// The slot of a controller that a limit asks for, or a word that it is missing.
    fn wanted(&self, controller: Controller, asked: Option<String>, words: &mut Vec<Word>) -> Option<&Slot> {
        let slot = self.slot(controller);
        if let (None, Some(asked)) = (slot, asked) {
            words.push(Word(format!(
                "The limit {asked} is not enforced: this machine has no usable {} cgroup.",
                controller.as_str()
            )));
        }
        slot
    }

    fn quota_us(cpu: Option<coppice_base::MilliCpu>, words: &mut Vec<Word>) -> Option<u64> {
        let cpu = cpu?;
        let (quota_us, raised) = cpu_quota_us(cpu);
        if raised {
            words.push(Word(format!("The CPU limit is 0.01 instead of {cpu}: the kernel takes no smaller one.")));
        }
        Some(quota_us)
    }

    fn update_v1(&self, limits: Asked<'_>, words: &mut Vec<Word>) -> Result<(), CgroupError> {
        if let Some(slot) = self.wanted(Controller::Cpu, limits.cpu.map(|cpu| format!("of {cpu} CPU")), words) {
            match Self::quota_us(limits.cpu, words) {
                Some(quota) => self.write(slot, "cpu.cfs_quota_us", &quota.to_string())?,
                None => self.lift(limits, slot, "cpu.cfs_quota_us", "-1")?,
            }
            match limits.cpu_weight {
                Some(weight) => self.write(slot, "cpu.shares", &cpu_shares(weight).to_string())?,
                None => self.lift(limits, slot, "cpu.shares", "1024")?,
            }
        }
        if let Some(slot) = self.wanted(Controller::Memory, limits.memory.map(|m| format!("of {m} memory")), words) {
            self.memory_v1(slot, limits, words)?;
        }
        if let Some(slot) = self.wanted(Controller::Pids, limits.pids.map(|n| format!("of {n} processes")), words) {
            match limits.pids {
                Some(pids) => self.write(slot, "pids.max", &pids.to_string())?,
                None => self.lift(limits, slot, "pids.max", "max")?,
            }
        }
        self.cpuset(limits, words)
    }

    /// `memory.limit_in_bytes` may never be above `memory.memsw.limit_in_bytes`, so which is written first depends
    /// on the direction.
    fn memory_v1(&self, slot: &Slot, limits: Asked<'_>, words: &mut Vec<Word>) -> Result<(), CgroupError> {
        const MEMORY: &str = "memory.limit_in_bytes";
        const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";
        let Some(bytes) = limits.memory else {
            // memsw is missing where swap is not accounted.
            match self.lift(limits, slot, MEMORY_AND_SWAP, "-1") {
                Ok(()) | Err(CgroupError::Kernel { errno: Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
            return self.lift(limits, slot, MEMORY, "-1");
        };
        let value = bytes.0.to_string();
        match self.write_raw(slot, MEMORY, &value) {
            Ok(()) => match self.write_raw(slot, MEMORY_AND_SWAP, &value) {
                Ok(()) => Ok(()),
                Err(errno) if file::means_unavailable(errno) => {
                    words.push(Word(
                        "The memory limit does not count swap: this kernel does not account it (swapaccount=1).".into(),
                    ));
                    Ok(())
                }
                Err(errno) => Err(CgroupError::Refused { path: self.path(slot, MEMORY_AND_SWAP), value, errno }),
            },
            Err(Errno::INVAL) => {
                self.write(slot, MEMORY_AND_SWAP, &value)?;
                self.write(slot, MEMORY, &value)
            }
            Err(errno) => Err(CgroupError::Refused { path: self.path(slot, MEMORY), value, errno }),
        }
    }

    fn update_v2(&self, limits: Asked<'_>, words: &mut Vec<Word>) -> Result<(), CgroupError> {
        if let Some(slot) = self.wanted(Controller::Cpu, limits.cpu.map(|cpu| format!("of {cpu} CPU")), words) {
            match Self::quota_us(limits.cpu, words) {
                Some(quota) => self.write(slot, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?,
                None => self.lift(limits, slot, "cpu.max", "max")?,
            }
            match limits.cpu_weight {
                Some(weight) => self.write(slot, "cpu.weight", &weight.clamp(1, 10_000).to_string())?,
                None => self.lift(limits, slot, "cpu.weight", "100")?,
            }
        }
        if let Some(slot) = self.wanted(Controller::Memory, limits.memory.map(|m| format!("of {m} memory")), words) {
            match limits.memory {
                Some(bytes) => {
                    self.write(slot, "memory.max", &bytes.0.to_string())?;
                    if let Err(errno) = self.write_raw(slot, "memory.swap.max", "0") {
                        words.push(Word(format!("The memory limit does not count swap: {errno}.")));
                    }
                }
                None => self.lift(limits, slot, "memory.max", "max")?,
            }
        }
        if let Some(slot) = self.wanted(Controller::Pids, limits.pids.map(|n| format!("of {n} processes")), words) {
            match limits.pids {
                Some(pids) => self.write(slot, "pids.max", &pids.to_string())?,
                None => self.lift(limits, slot, "pids.max", "max")?,
            }
        }
        self.cpuset(limits, words)
    }

    fn cpuset(&self, limits: Asked<'_>, words: &mut Vec<Word>) -> Result<(), CgroupError> {
        let Some(cpus) = &limits.cpuset else { return Ok(()) };
        match self.wanted(Controller::Cpuset, Some(format!("to CPUs {cpus}")), words) {
            Some(slot) => self.write(slot, "cpuset.cpus", cpus),
            None => Ok(()),
        }
    }

    /// Writes the value that means "unlimited", unless that is what is there already.
    fn lift(&self, limits: Asked<'_>, slot: &Slot, name: &str, unlimited: &str) -> Result<(), CgroupError> {
        if limits.fresh {
            return Ok(());
        }
        let now = self.read(slot, name)?;
        let now = now.trim();
        let same = match unlimited {
            "-1" => now == "-1" || now.parse::<u64>().is_ok_and(|bytes| bytes >= V1_UNLIMITED_FROM),
            "max" => now == "max" || now.starts_with("max "),
            other => now == other,
        };
        if same { Ok(()) } else { self.write(slot, name, unlimited) }
    }

    /// Stops every process where it is. Returns when they stand, [`CgroupError::NotFrozen`] after `timeout` (and
    /// then they run again).
    pub fn freeze(&self, timeout: Duration) -> Result<(), CgroupError> {
        let Some((slot, v2)) = self.freezer() else {
            return Err(CgroupError::Unavailable { what: "pausing", why: "no freezer cgroup is usable" });
        };
        let started = Instant::now();
        if v2 {
            self.write(slot, "cgroup.freeze", "1")?
        } else {
            self.write(slot, "freezer.state", "FROZEN")?
        }
        let mut pause = Duration::from_micros(50);
        loop {
            let frozen = if v2 {
                field(&self.read(slot, "cgroup.events")?, "frozen") == Some(1)
            } else {
                // Reading is also what makes v1 look again.
                self.read(slot, "freezer.state")?.trim() == "FROZEN"
            };
            if frozen {
                return Ok(());
            }
            if started.elapsed() >= timeout {
                self.thaw()?;
                let path = self.path(slot, "");
                return Err(CgroupError::NotFrozen { path, waited: started.elapsed() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Lets every process run again.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.freezer() {
            Some((slot, true)) => self.write(slot, "cgroup.freeze", "0"),
            Some((slot, false)) => self.write(slot, "freezer.state", "THAWED"),
            None => Err(CgroupError::Unavailable { what: "pausing", why: "no freezer cgroup is usable" }),
        }
    }

    /// Where freezing is done, and whether it is v2's.
    fn freezer(&self) -> Option<(&Slot, bool)> {
        match self.slot(Controller::Unified) {
            Some(slot) => Some((slot, true)),
            None => self.slot(Controller::Freezer).map(|slot| (slot, false)),
        }
    }

    /// What the container uses now and used so far.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        if self.is_v2() { self.usage_v2() } else { self.usage_v1() }
    }

    fn usage_v2(&self) -> Result<Usage, CgroupError> {
        let mut usage = Usage::default();
        let Some(slot) = self.slot(Controller::Unified) else { return Ok(usage) };
        let cpu = self.read(slot, "cpu.stat")?;
        usage.cpu_usec = field(&cpu, "usage_usec");
        usage.cpu_user_usec = field(&cpu, "user_usec");
        usage.cpu_system_usec = field(&cpu, "system_usec");
        usage.throttled_usec = field(&cpu, "throttled_usec");
        if slot.has(Controller::Memory) {
            let inactive = field(&self.read(slot, "memory.stat")?, "inactive_file").unwrap_or(0);
            usage.memory_bytes = self.number(slot, "memory.current").map(|all| all.saturating_sub(inactive));
            usage.memory_peak_bytes = self.number(slot, "memory.peak"); // 5.19 and later
            usage.memory_limit_bytes = self.number(slot, "memory.max");
            usage.oom_kills = field(&self.read(slot, "memory.events")?, "oom_kill");
        }
        if slot.has(Controller::Pids) {
            usage.pids = self.number(slot, "pids.current");
        }
        if let Ok(io) = self.read(slot, "io.stat") {
            usage.io_read_bytes = Some(io_sum(&io, "rbytes"));
            usage.io_write_bytes = Some(io_sum(&io, "wbytes"));
            usage.io_reads = Some(io_sum(&io, "rios"));
            usage.io_writes = Some(io_sum(&io, "wios"));
        }
        Ok(usage)
    }

    fn usage_v1(&self) -> Result<Usage, CgroupError> {
        let mut usage = Usage::default();
        if let Some(slot) = self.slot(Controller::Cpuacct) {
            let usec = |name| self.number(slot, name).map(|ns| ns / 1000);
            usage.cpu_usec = usec("cpuacct.usage");
            usage.cpu_user_usec = usec("cpuacct.usage_user");
            usage.cpu_system_usec = usec("cpuacct.usage_sys");
        }
        if let Some(slot) = self.slot(Controller::Cpu) {
            usage.throttled_usec = field(&self.read(slot, "cpu.stat")?, "throttled_time").map(|ns| ns / 1000);
        }
        if let Some(slot) = self.slot(Controller::Memory) {
            let inactive = field(&self.read(slot, "memory.stat")?, "total_inactive_file").unwrap_or(0);
            usage.memory_bytes = self.number(slot, "memory.usage_in_bytes").map(|all| all.saturating_sub(inactive));
            usage.memory_peak_bytes = self.number(slot, "memory.max_usage_in_bytes");
            usage.memory_limit_bytes =
                self.number(slot, "memory.limit_in_bytes").filter(|limit| *limit < V1_UNLIMITED_FROM);
            usage.oom_kills = field(&self.read(slot, "memory.oom_control")?, "oom_kill");
        }
        if let Some(slot) = self.slot(Controller::Pids) {
            usage.pids = self.number(slot, "pids.current");
        }
        if let Some(slot) = self.slot(Controller::Blkio) {
            // Linux 6.10 and later count in the first of these only where some limit was set, and in the second only
            // where the disk's scheduler is BFQ.
            for counter in ["throttle", "bfq"] {
                let sum = |what: &str, kind: &str| {
                    blkio_sum(&self.read(slot, &format!("blkio.{counter}.{what}_recursive")).ok()?, kind)
                };
                let of = |what: &str| (sum(what, "Read"), sum(what, "Write"));
                (usage.io_read_bytes, usage.io_write_bytes) = of("io_service_bytes");
                (usage.io_reads, usage.io_writes) = of("io_serviced");
                if usage.io_reads.is_some() {
                    break;
                }
            }
        }
        Ok(usage)
    }

    /// What the kernel bills requests to disks to, as programs of BPF know it: the number of the folder whose
    /// controller counts them. `None` where no controller does.
    pub fn storage_group(&self) -> Option<u64> {
        let slot = self.slot(Controller::Blkio)?;
        let of = rustix::fs::statat(self.base(slot), self.id.as_str(), rustix::fs::AtFlags::empty()).ok()?;
        Some(of.st_ino)
    }

    /// A file of one number; `None` for `max`, or where the kernel has no such file.
    fn number(&self, slot: &Slot, name: &str) -> Option<u64> {
        self.read(slot, name).ok()?.trim().parse().ok()
    }

    /// How much the container's processes wait for CPU, memory and disk. Needs v2 (a hybrid machine's will do) and
    /// a kernel that counts it (`psi=1`).
    pub fn pressure(&self) -> Result<Pressure, CgroupError> {
        let Some(slot) = self.slot(Controller::Unified) else {
            let why = "cgroup v1 does not count it per container; /proc/pressure has the whole machine's";
            return Err(CgroupError::Unavailable { what: "pressure", why });
        };
        let share = |name: &str, which: &str| match self.read(slot, name) {
            Ok(text) => PressureShare::read(&text, which)
                .ok_or_else(|| CgroupError::Unreadable { path: self.path(slot, name), text: text.clone() }),
            Err(_) => {
                Err(CgroupError::Unavailable { what: "pressure", why: "the kernel does not count it; boot with psi=1" })
            }
        };
        Ok(Pressure {
            cpu_some: share("cpu.pressure", "some")?,
            memory_some: share("memory.pressure", "some")?,
            memory_full: share("memory.pressure", "full")?,
            io_some: share("io.pressure", "some")?,
            io_full: share("io.pressure", "full")?,
        })
    }

    /// Processes killed because the memory limit was reached; 0 where this is not counted.
    pub fn oom_kills(&self) -> u64 {
        let Some(slot) = self.slot(Controller::Memory) else { return 0 };
        let name = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        self.read(slot, name).ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// Every process in the cgroup, as ids of the caller's pid namespace.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut pids = Vec::new();
        // All hierarchies have the same ones, but for a process that is just entering.
        for slot in self.slots() {
            let text = self.read(slot, "cgroup.procs")?;
            pids.extend(text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)));
        }
        pids.sort_by_key(|pid| pid.as_raw_nonzero());
        pids.dedup();
        Ok(pids)
    }

    /// Sends SIGKILL to every process, also to those that are being forked meanwhile, and to frozen ones.
    /// Does not wait; [`Self::remove`] and the parent's wait do.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if let Some(slot) = self.slot(Controller::Unified)
            && self.write_raw(slot, "cgroup.kill", "1").is_ok()
        {
            return Ok(()); // 5.14 and later
        }
        // A frozen set cannot fork; killing takes effect at the thaw.
        let frozen = self.freeze(KILL_FREEZE_WAIT).is_ok();
        for pid in self.processes()? {
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let slot = self.slots().next();
                    let path = slot.map(|slot| self.path(slot, "cgroup.procs")).unwrap_or_default();
                    return Err(CgroupError::Kernel { action: "kill the processes of", path, errno });
                }
            }
        }
        if frozen { self.thaw() } else { Ok(()) }
    }

    /// Removes the cgroup; its processes must have been killed. Waits up to half a second for exiting ones
    /// ([`CgroupError::Busy`] after it). Parts that are gone already are fine, so it can be repeated.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.remove_within(REMOVE_WAIT)
    }

    /// As [`Self::remove`], with a wait of one's own: zero for callers that must not block and come back.
    pub fn remove_within(&self, wait: Duration) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for slot in &self.parent.inner.slots {
            let wait = if first.is_ok() { wait } else { Duration::ZERO };
            let removed = remove_dir(self.base(slot), &self.id, &self.path(slot, ""), wait);
            first = first.and(removed);
        }
        first
    }
}
