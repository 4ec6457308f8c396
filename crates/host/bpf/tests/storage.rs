//! Requests of a process in a control group of its own, counted as that group's.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use coppice_bpf::StorageMeter;

/// A control group of the test's own, where the controller of block devices is.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let first = Path::new("/sys/fs/cgroup/blkio");
        let second = Path::new("/sys/fs/cgroup");
        let base = if first.join("cgroup.procs").exists() {
            first
        } else {
            let has = std::fs::read_to_string(second.join("cgroup.subtree_control")).unwrap_or_default();
            has.split_whitespace().any(|controller| controller == "io").then_some(second)?
        };
        let path = base.join(format!("coppice-bpf-test-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    /// Runs a program in the group, to its end.
    fn run(&self, line: &[&str]) {
        let procs = self.0.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", procs.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).args(line).process_group(0);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{line:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10)); // its last process is still ending
        }
    }
}

/// Taken off and unmounted, whatever becomes of the test.
struct Folder(tempfile::TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Ok(meter) = StorageMeter::attach(&self.0.path().join("bpf")) {
            let _ = meter.detach();
        }
    }
}

/// A file on a disk; `None` where everything is in memory.
fn on_disk() -> Option<tempfile::NamedTempFile> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).unwrap(); // where the test runs on another machine than it was built on
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    let fits = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "count=1", "oflag=direct", "conv=notrunc", "status=none"])
        .arg(format!("of={}", file.path().display()))
        .status();
    fits.is_ok_and(|status| status.success()).then_some(file)
}

#[test]
fn direct_reads_and_writes_are_the_groups_that_asked_for_them_and_outlive_the_process_that_counts() {
    let (Some(group), Some(file)) = (Group::make(), on_disk()) else {
        eprintln!("skipped: no controller of block devices, or no disk");
        return;
    };
    let folder = Folder(tempfile::tempdir().unwrap());
    let place = folder.0.path().join("bpf");
    let id = StorageMeter::group(&group.0).unwrap();
    let meter = StorageMeter::attach(&place).unwrap();
    assert!(!meter.read().unwrap().contains_key(&id));
    let path = file.path().display().to_string();
    let (from, to) = (format!("if={path}"), format!("of={path}"));
    group.run(&["dd", "if=/dev/zero", &to, "bs=64k", "count=32", "oflag=direct", "status=none"]);
    drop(meter);
    group.run(&["dd", &from, "of=/dev/null", "bs=64k", "count=32", "iflag=direct", "status=none"]);
    let meter = StorageMeter::attach(&place).unwrap();
    let all = meter.read().unwrap();
    let counted = all.get(&id).unwrap_or_else(|| panic!("group {id} is not among {:?}", all.keys()));
    for (what, requests) in [("reads", &counted.reads), ("writes", &counted.writes)] {
        assert!(requests.bytes >= 32 << 16 && requests.bytes < 33 << 16, "{what}: {requests:?}");
        assert!((32..200).contains(&requests.operations), "{what}: {requests:?}");
        assert_eq!(requests.buckets.iter().sum::<u64>(), requests.operations, "{what}");
        assert!(requests.microseconds > 0, "{what}: {requests:?}");
    }
    meter.detach().unwrap();
    assert!(!place.exists());
}
