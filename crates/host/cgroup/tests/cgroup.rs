//! Limits, freezing, killing and counting, on real processes and whichever hierarchy this machine has: v1, v2 or both.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coppice_base::{Bytes, MilliCpu};
use coppice_cgroup::{
    Cgroup, CgroupError, CgroupLimits, Controller, DeviceKind, DeviceRule, DeviceRules, Hierarchy, Kind, Layout,
    Parent, Word,
};
use rustix::process::Pid;

const MIB: u64 = 1 << 20;

/// A parent of the test's own; takes everything below it with it.
struct Ground {
    parent: Parent,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Ground {
    fn new() -> Self {
        let name = format!("coppice-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hierarchy = Hierarchy::detect().unwrap();
        assert_ne!(hierarchy.kind(), Kind::None, "these tests need cgroups");
        let parent = hierarchy.parent(&name).unwrap();
        assert_eq!(parent.words(), [], "these tests need root");
        Self { parent }
    }

    fn create(&self, id: &str, limits: CgroupLimits) -> Cgroup {
        let (cgroup, words) = self.parent.create(id, &limits).unwrap();
        assert_eq!(words, [], "everything can be had here");
        cgroup
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for id in self.parent.list().unwrap_or_default() {
            if let Ok(cgroup) = self.parent.open(&id) {
                let _ = cgroup.kill_all();
                let _ = cgroup.remove();
            }
        }
        let removed = self.parent.remove();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Runs `script` in `cgroup`: the shell waits until it is inside.
fn shell(cgroup: &Cgroup, script: &str) -> Running {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cgroup.add(Pid::from_child(&child)).unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    Running(child)
}

struct Running(Child);

impl Running {
    /// How it ended, and what it said.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        use std::io::Read;
        let status = self.0.wait().unwrap();
        let mut text = String::new();
        // Its children may hold the pipe; what is read is up to them, so only ended scripts' output is read.
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status, text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until `holds`, at most thirty seconds (an emulated machine is slow).
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets time pass for something that must not happen in it.
fn observe(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn a_fork_bomb_stops_at_the_process_limit() {
    let ground = Ground::new();
    let cgroup = ground.create("bomb", CgroupLimits { pids: Some(8), ..Default::default() });
    let mut bomb = shell(&cgroup, "while :; do sleep 100 & done");
    let mut most = 0;
    wait_until("the first refused fork, which ends the shell,", || {
        most = most.max(cgroup.usage().unwrap().pids.unwrap());
        bomb.0.try_wait().unwrap().is_some_and(|status| !status.success())
    });
    assert!(most <= 8, "{most}");
    assert_eq!(cgroup.usage().unwrap().pids, Some(7), "the limit but for the shell");
    cgroup.kill_all().unwrap();
    wait_until("the end of all", || cgroup.processes().unwrap().is_empty());
}

#[test]
fn a_process_past_the_memory_limit_is_killed_and_counted() {
    let ground = Ground::new();
    let cgroup = ground.create("hog", CgroupLimits { memory: Some(Bytes(32 * MIB)), ..Default::default() });
    assert_eq!(cgroup.usage().unwrap().memory_limit_bytes, Some(32 * MIB));
    assert_eq!(cgroup.oom_kills(), 0);
    let (status, _) = shell(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=200M count=1").end();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(cgroup.oom_kills(), 1);
    let usage = cgroup.usage().unwrap();
    assert_eq!(usage.oom_kills, Some(1));
    assert!((16 * MIB..=32 * MIB).contains(&usage.memory_peak_bytes.unwrap()), "{usage:?}");
    let (status, _) = shell(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=8M count=1").end();
    assert!(status.success(), "within the limit");
}

#[test]
fn a_busy_process_gets_no_more_than_its_share_of_cpu() {
    let ground = Ground::new();
    let cgroup = ground.create("busy", CgroupLimits { cpu: Some(MilliCpu(100)), ..Default::default() });
    let _busy = shell(&cgroup, "while :; do :; done");
    wait_until("throttling", || cgroup.usage().unwrap().throttled_usec.unwrap() > 0);
    let (before, started) = (cgroup.usage().unwrap().cpu_usec.unwrap(), Instant::now());
    observe(Duration::from_millis(600));
    let used = cgroup.usage().unwrap().cpu_usec.unwrap() - before;
    let allowed = started.elapsed().as_micros() as u64 / 4;
    assert!(used > 0 && used < allowed, "used {used} us of at most {allowed}, more than twice a tenth");
}

#[test]
fn a_frozen_container_makes_no_progress_until_it_is_thawed() {
    let ground = Ground::new();
    let cgroup = ground.create("still", CgroupLimits::default());
    let _busy = shell(&cgroup, "while :; do :; done");
    let cpu = || cgroup.usage().unwrap().cpu_usec.unwrap();
    wait_until("running", || cpu() > 10_000);
    cgroup.freeze(Duration::from_secs(5)).unwrap();
    let before = cpu();
    observe(Duration::from_millis(200));
    assert!(cpu() - before < 5_000, "a frozen process runs");
    cgroup.thaw().unwrap();
    wait_until("running on", || cpu() > before + 10_000);
}

#[test]
fn frozen_processes_are_killed_too() {
    let ground = Ground::new();
    let cgroup = ground.create("frozen", CgroupLimits::default());
    let running = shell(&cgroup, "while :; do :; done");
    cgroup.freeze(Duration::from_secs(5)).unwrap();
    cgroup.kill_all().unwrap();
    assert_eq!(running.end().0.signal(), Some(9));
    cgroup.remove().unwrap();
}

/// Thirty shells that each fork without end.
const STORM: &str = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); (while :; do ( : ); done) & done; wait";

#[test]
fn kill_all_outruns_processes_that_fork_without_end() {
    let ground = Ground::new();
    let cgroup = ground.create("storm", CgroupLimits::default());
    let running = shell(&cgroup, STORM);
    wait_until("the storm", || cgroup.processes().unwrap().len() > 30);
    cgroup.kill_all().unwrap();
    drop(running);
    wait_until("the end of all", || cgroup.processes().unwrap().is_empty());
    cgroup.remove().unwrap();
}

#[test]
fn only_the_devices_of_the_rules_can_be_opened() {
    let ground = Ground::new();
    let kmsg =
        DeviceRule { kind: DeviceKind::Char, major: Some(1), minor: Some(11), read: true, write: false, mknod: false };
    let with = |devices| CgroupLimits { devices, ..Default::default() };
    let usual = ground.create("usual", CgroupLimits::default());
    let more = ground.create("more", with(DeviceRules { all: false, extra: vec![kmsg] }));
    let all = ground.create("all", with(DeviceRules { all: true, extra: vec![] }));
    let opens = |cgroup: &Cgroup, how: &str| shell(cgroup, &format!("exec 3{how}")).end().0.success();
    for cgroup in [&usual, &more, &all] {
        for how in ["</dev/null", ">/dev/null", "</dev/zero", "</dev/urandom", "</dev/full"] {
            assert!(opens(cgroup, how), "{} {how}", cgroup.id());
        }
    }
    let kmsg = |cgroup| (opens(cgroup, "</dev/kmsg"), opens(cgroup, ">/dev/kmsg"));
    assert_eq!(kmsg(&usual), (false, false));
    assert_eq!(kmsg(&more), (true, false));
    assert_eq!(kmsg(&all), (true, true));
}

#[test]
fn what_a_container_used_is_counted() {
    let ground = Ground::new();
    let cgroup = ground.create("counted", CgroupLimits::default());
    let empty = cgroup.usage().unwrap();
    assert_eq!((empty.pids, empty.memory_limit_bytes, empty.oom_kills), (Some(0), None, Some(0)));
    let running = shell(&cgroup, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100 & wait");
    wait_until("use", || cgroup.usage().unwrap().pids.unwrap() == 2);
    let usage = cgroup.usage().unwrap();
    assert!((1_000..60_000_000).contains(&usage.cpu_usec.unwrap()), "{usage:?}");
    assert!(usage.cpu_user_usec.unwrap() + usage.cpu_system_usec.unwrap() > 0, "{usage:?}");
    assert!((1..256 * MIB).contains(&usage.memory_bytes.unwrap()), "{usage:?}");
    assert!(usage.memory_peak_bytes.is_none_or(|peak| peak >= usage.memory_bytes.unwrap()), "{usage:?}");
    assert!(cgroup.processes().unwrap().contains(&Pid::from_child(&running.0)));
    cgroup.kill_all().unwrap();
}

#[test]
fn limits_change_while_a_container_runs_and_are_lifted() {
    let ground = Ground::new();
    let limits = |memory: u64| CgroupLimits {
        cpu: Some(MilliCpu(1500)),
        cpu_weight: Some(50),
        memory: Some(Bytes(memory * MIB)),
        pids: Some(64),
        ..Default::default()
    };
    let cgroup = ground.create("changing", limits(64));
    let _running = shell(&cgroup, "sleep 100");
    for memory in [128, 32, 64] {
        assert_eq!(cgroup.update(&limits(memory)).unwrap(), []);
        assert_eq!(cgroup.usage().unwrap().memory_limit_bytes, Some(memory * MIB));
    }
    assert_eq!(cgroup.update(&CgroupLimits::default()).unwrap(), []);
    assert_eq!(cgroup.usage().unwrap().memory_limit_bytes, None);
    assert_eq!(cgroup.update(&limits(48)).unwrap(), []);
    assert_eq!(cgroup.usage().unwrap().memory_limit_bytes, Some(48 * MIB));
}

#[test]
fn pressure_is_told_or_it_is_said_why_not() {
    let ground = Ground::new();
    let cgroup = ground.create("pressed", CgroupLimits::default());
    let kind = Hierarchy::detect().unwrap().kind();
    match cgroup.pressure() {
        Ok(pressure) => {
            assert_ne!(kind, Kind::V1);
            assert!(pressure.cpu_some.avg10 <= 10_000);
        }
        Err(error @ CgroupError::Unavailable { .. }) => {
            assert!(error.to_string().contains("pressure cannot be had here: "), "{error}");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn names_that_would_leave_the_parent_are_refused_everywhere() {
    let ground = Ground::new();
    for bad in ["../x", "..", ".", "", "a/b", "/x", ".usual-devices-1", "a\n", "cgroup.procs", "memory.limit_in_bytes"]
    {
        assert!(matches!(ground.parent.create(bad, &CgroupLimits::default()), Err(CgroupError::BadName(_))), "{bad:?}");
        assert!(matches!(ground.parent.open(bad), Err(CgroupError::BadName(_))), "{bad:?}");
        assert!(matches!(Hierarchy::detect().unwrap().parent(bad), Err(CgroupError::BadName(_))), "{bad:?}");
    }
    assert_eq!(ground.parent.list().unwrap(), [""; 0]);
}

#[test]
fn a_refused_limit_leaves_nothing_behind_and_a_taken_id_is_kept() {
    let ground = Ground::new();
    let bad = CgroupLimits { cpuset: Some("no cpus".into()), ..Default::default() };
    let error = ground.parent.create("one", &bad).unwrap_err();
    assert!(matches!(&error, CgroupError::Refused { value, .. } if value == "no cpus"), "{error}");
    assert_eq!(ground.parent.list().unwrap(), [""; 0]);
    let first = ground.create("one", CgroupLimits::default());
    let _running = shell(&first, "sleep 100");
    let again = ground.parent.create("one", &CgroupLimits::default());
    assert!(matches!(again, Err(CgroupError::Exists(_))), "{again:?}");
    assert_eq!(first.processes().unwrap().len(), 1 + usize::from(has_sleep(&first)), "the first is untouched");
}

/// The shell may exec the last command in its own place, or fork for it.
fn has_sleep(cgroup: &Cgroup) -> bool {
    cgroup.processes().unwrap().len() > 1
}

#[test]
fn a_cpuset_keeps_processes_on_its_cpus() {
    let ground = Ground::new();
    let cgroup = ground.create("set", CgroupLimits { cpuset: Some("0".into()), ..Default::default() });
    let (status, text) = shell(&cgroup, "grep Cpus_allowed_list /proc/self/status").end();
    assert!(status.success());
    assert_eq!(text.split_whitespace().last(), Some("0"));
}

#[test]
fn a_returning_node_finds_the_cgroups_it_left_and_removes_the_stale_ones() {
    let ground = Ground::new();
    let special = DeviceRules { all: true, extra: vec![] };
    ground.create("aa", CgroupLimits::default());
    ground.create("bb", CgroupLimits { devices: special, cpuset: Some("0".into()), ..Default::default() });
    let again = Hierarchy::detect().unwrap().parent(ground.parent.name()).unwrap();
    assert_eq!(again.list().unwrap(), ["aa", "bb"]);
    assert!(matches!(again.open("cc"), Err(CgroupError::Missing(_))));
    for id in again.list().unwrap() {
        let cgroup = again.open(&id).unwrap();
        let running = shell(&cgroup, "sleep 100");
        assert!(matches!(cgroup.remove(), Err(CgroupError::Busy { .. })), "it is in use");
        cgroup.kill_all().unwrap();
        running.end();
        cgroup.remove().unwrap();
        cgroup.remove().unwrap(); // repeatable
    }
    assert_eq!(again.list().unwrap(), [""; 0]);
}

#[test]
fn what_a_machine_without_a_controller_cannot_limit_is_said_in_words() {
    let detected = Hierarchy::detect().unwrap();
    let mut layout = detected.layout().clone();
    layout.mounts.retain(|mount| mount.controllers.contains(&Controller::Pids));
    layout.kind = if layout.mounts.is_empty() { Kind::None } else { Kind::V1 };
    let name = format!("coppice-test-{}-few", std::process::id());
    let parent = Hierarchy::of(layout).parent(&name).unwrap();
    let limits = CgroupLimits {
        cpu: Some(MilliCpu(1)),
        memory: Some(Bytes(MIB)),
        pids: Some(5),
        cpuset: Some("0".into()),
        ..Default::default()
    };
    let (cgroup, words) = parent.create("few", &limits).unwrap();
    let said = |what: &str| words.iter().any(|Word(text)| text.contains(what) && text.contains("not enforced"));
    assert!(said("0.001 CPU") && said("1MiB memory") && said("to CPUs 0"), "{words:?}");
    assert!(matches!(cgroup.freeze(Duration::ZERO), Err(CgroupError::Unavailable { .. })));
    cgroup.remove().unwrap();
    parent.remove().unwrap();
}

#[test]
fn hierarchies_that_cannot_be_written_give_words_and_containers_still_run() {
    let dir = std::env::temp_dir().join(format!("coppice-no-cgroups-{}", std::process::id()));
    let text = format!("1 2 0:1 / {} rw - cgroup cgroup rw,memory", dir.display());
    let parent = Hierarchy::of(Layout::read(&text, "")).parent("x").unwrap();
    assert_eq!(parent.words().len(), 1);
    assert!(parent.words()[0].0.contains("memory"), "{:?}", parent.words());
    let (cgroup, words) = parent.create("c", &CgroupLimits { memory: Some(Bytes(MIB)), ..Default::default() }).unwrap();
    assert_eq!(words.len(), 1);
    assert_eq!(cgroup.join().unwrap().fds().count(), 0);
    let none = Hierarchy::of(Layout::read("", "")).parent("x").unwrap();
    assert_eq!(none.words().len(), 1);
}

#[test]
fn where_only_v1_is_mounted_freezing_and_killing_work_as_well() {
    let mut layout = Hierarchy::detect().unwrap().layout().clone();
    layout.mounts.retain(|mount| mount.controllers != [Controller::Unified]);
    if layout.mounts.is_empty() {
        return; // a machine of v2 alone
    }
    layout.kind = Kind::V1;
    let name = format!("coppice-test-{}-v1", std::process::id());
    let ground = Ground { parent: Hierarchy::of(layout).parent(&name).unwrap() };
    let cgroup = ground.create("one", CgroupLimits::default());
    assert!(cgroup.join().unwrap().clone_into().is_none());
    let running = shell(&cgroup, "while :; do :; done");
    let cpu = || cgroup.usage().unwrap().cpu_usec.unwrap();
    cgroup.freeze(Duration::from_secs(5)).unwrap();
    let before = cpu();
    observe(Duration::from_millis(200));
    assert!(cpu() - before < 5_000, "a frozen process runs");
    cgroup.kill_all().unwrap();
    assert_eq!(running.end().0.signal(), Some(9), "killed although frozen");
    let storm = shell(&cgroup, STORM);
    wait_until("the storm", || cgroup.processes().unwrap().len() > 30);
    cgroup.kill_all().unwrap();
    drop(storm);
    wait_until("the end of all", || cgroup.processes().unwrap().is_empty());
    assert!(matches!(cgroup.pressure(), Err(CgroupError::Unavailable { .. })));
    cgroup.remove().unwrap();
}

const JOIN: &str = "COPPICE_TEST_JOIN";

#[test]
fn a_process_that_enters_by_itself_is_in_every_hierarchy() {
    if let Ok(target) = std::env::var(JOIN) {
        // The child's part: this test again, in a process of its own.
        let (parent, id) = target.split_once('/').unwrap();
        let parent = Hierarchy::detect().unwrap().parent(parent).unwrap();
        parent.open(id).unwrap().join().unwrap().enter(false).unwrap();
        println!("{}", std::fs::read_to_string("/proc/thread-self/cgroup").unwrap());
        return;
    }
    let ground = Ground::new();
    let cgroup = ground.create("inside", CgroupLimits::default());
    assert!(cgroup.join().unwrap().fds().count() > 0);
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_enters_by_itself_is_in_every_hierarchy", "--nocapture"])
        .env(JOIN, format!("{}/inside", ground.parent.name()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let layout = Hierarchy::detect().unwrap().layout().clone();
    let wanted = match layout.kind {
        Kind::V2 => 1,
        // Neither cpuset, which was not asked for, nor v1's freezer where v2's does it.
        Kind::Hybrid => layout.mounts.len() - 2,
        _ => layout.mounts.len() - 1,
    };
    assert_eq!(text.lines().filter(|line| line.ends_with("/inside")).count(), wanted, "{text}");
}

const DELEGATED: &str = "COPPICE_TEST_DELEGATED";

#[test]
fn a_delegated_cgroup_is_divided_and_its_own_processes_move_to_a_leaf() {
    if std::env::var_os(DELEGATED).is_some() {
        // The child's part, in the delegated cgroup.
        let parent = Hierarchy::detect().unwrap().parent("mine").unwrap();
        assert_eq!(parent.words(), []);
        let limits = CgroupLimits { memory: Some(Bytes(64 * MIB)), ..Default::default() };
        let (cgroup, words) = parent.create("one", &limits).unwrap();
        assert_eq!(words, []);
        assert_eq!(cgroup.usage().unwrap().memory_limit_bytes, Some(64 * MIB));
        println!("{}", std::fs::read_to_string("/proc/self/cgroup").unwrap());
        cgroup.remove().unwrap();
        parent.remove().unwrap();
        return;
    }
    let layout = Hierarchy::detect().unwrap().layout().clone();
    if layout.kind != Kind::V2 {
        return; // v1 has no delegation; the test is for machines of v2 alone
    }
    let dir = layout.mounts[0].point.join(format!("coppice-test-{}-delegated", std::process::id()));
    // As systemd does before it delegates; every node root does so too.
    std::fs::write(layout.mounts[0].point.join("cgroup.subtree_control"), "+cpu +memory +pids +io").unwrap();
    std::fs::create_dir(&dir).unwrap();
    rustix::fs::setxattr(&dir, "trusted.delegate", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    let out = Command::new("sh")
        .args(["-c", "echo $$ > $0/cgroup.procs && exec $1 --exact $2 --nocapture"])
        .arg(&dir)
        .arg(std::env::current_exe().unwrap())
        .arg("a_delegated_cgroup_is_divided_and_its_own_processes_move_to_a_leaf")
        .env(DELEGATED, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let removed = std::fs::remove_dir(dir.join("coppice-node")).and_then(|()| std::fs::remove_dir(&dir));
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("-delegated/coppice-node"), "{text}");
    removed.unwrap();
}
