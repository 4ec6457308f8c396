//! Filesystems of a test's own: an image file, mounted in a mount namespace that only the test's thread is in.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coppice_base::Name;
use coppice_dataset::{DatasetName, Kind, SnapshotName, Stamps, Store};

/// What the datasets lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// Subvolumes.
    Btrfs,
    /// Directories whose files share blocks.
    Xfs,
    /// Directories whose files are copied; 8 MiB.
    Tmpfs,
    /// Datasets of a pool on a file, by a zfs-fuse of the test's own.
    Zfs,
}

pub(crate) const EVERYWHERE: [On; 4] = [On::Btrfs, On::Xfs, On::Tmpfs, On::Zfs];
/// Those where heads and snapshots are trees.
pub(crate) const TREES: [On; 3] = [On::Btrfs, On::Xfs, On::Tmpfs];
/// The dataset that a test's are below.
pub(crate) const BASE: &str = "tank/coppice";

pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) on: On,
    mount: PathBuf,
    pub(crate) folder: tempfile::TempDir,
    daemon: Option<Child>,
    /// Goes last.
    _turn: Option<MutexGuard<'static, ()>>,
}

/// Tests that are threads of one process have one zfs-fuse at a time: each has the whole machine's disks written now and then, and
/// waits for the others', which wait for it.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ground {
    pub(crate) fn new(on: On) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        apart();
        let at = mount.to_str().unwrap();
        let image = folder.path().join("image");
        let make = |program: &str, size: u64, args: &[&str]| {
            std::fs::File::create(&image).unwrap().set_len(size).unwrap();
            run(program, &[args, &[image.to_str().unwrap()]].concat());
            run("mount", &["-o", "loop", image.to_str().unwrap(), at]);
        };
        let mut daemon = None;
        let turn = (on == On::Zfs).then(turn);
        match on {
            On::Btrfs => make("mkfs.btrfs", 256 << 20, &["-q"]),
            On::Xfs => make("mkfs.xfs", 512 << 20, &["-q", "-m", "reflink=1"]),
            On::Tmpfs => run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", at]),
            On::Zfs => {
                daemon = Some(zfs_fuse());
                std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
                run("zpool", &["create", "-m", "none", "tank", image.to_str().unwrap()]);
            }
        }
        let root = mount.join("volumes");
        let store = if on == On::Zfs { Store::open_zfs(&root, BASE) } else { Store::open(&root) }.unwrap();
        let kind = match on {
            On::Btrfs => Kind::Btrfs,
            On::Zfs => Kind::Zfs,
            On::Xfs | On::Tmpfs => Kind::Directory,
        };
        assert_eq!(store.kind(), kind);
        Self { store, on, mount, folder, daemon, _turn: turn }
    }

    /// A dataset of app `shop` with one file in it.
    pub(crate) fn dataset(&self, volume: &str) -> (DatasetName, PathBuf) {
        let name = named(volume);
        let head = self.store.create(&name, |head| std::fs::write(head.join("file"), "one")).unwrap();
        (name, head)
    }

    /// The datasets' folder.
    pub(crate) fn root(&self) -> PathBuf {
        self.mount.join("volumes")
    }

    /// As another process would see it after a crash of this one.
    pub(crate) fn reopened(&self) -> Store {
        let store = Store::open(&self.root()).unwrap();
        assert_eq!(store.kind(), self.store.kind());
        store
    }

    pub(crate) fn second_root(&self) -> PathBuf {
        self.mount.join("second")
    }

    /// Another store, of the same kind.
    pub(crate) fn second(&self) -> Store {
        let root = self.second_root();
        if self.on == On::Zfs { Store::open_zfs(&root, "tank/second") } else { Store::open(&root) }.unwrap()
    }

    /// Nothing of a stream is left in either store.
    pub(crate) fn nothing_staged(&self) {
        for root in [self.root(), self.second_root()] {
            let all = std::fs::read_dir(&root).unwrap().flatten().map(|one| one.file_name().into_string().unwrap());
            let left: Vec<String> = all.filter(|name| name.starts_with(".staging")).collect();
            assert!(left.is_empty(), "{:?}: {left:?}", self.on);
        }
        if self.on == On::Zfs {
            assert!(!output("zfs", &["list", "-H", "-o", "name"]).contains("_staging"));
        }
    }

    /// Where a snapshot's files can be read: a clone's of it, where it has none of its own.
    pub(crate) fn seen(&self, name: &DatasetName, at: &str) -> PathBuf {
        if self.on != On::Zfs {
            return self.root().join("shop").join(name.volume.as_str()).join("snapshots").join(at);
        }
        let clone = named(&format!("{}-{at}", name.volume));
        if self.store.has(&clone) {
            self.store.head(&clone)
        } else {
            self.store.clone_to(name, &snapshot(at), &clone).unwrap()
        }
    }
}

/// Gives the thread a mount namespace of its own.
fn apart() {
    thread_local!(static APART: Cell<bool> = const { Cell::new(false) });
    if !APART.replace(true) {
        coppice_linux::unshare(coppice_linux::NamespaceFlags::MOUNT).expect("the tests mount: run them as root");
        run("mount", &["--make-rprivate", "/"]);
    }
}

/// A daemon that goes with this thread; what it shares with others of its kind is the thread's own.
fn zfs_fuse() -> Child {
    for shared in ["/run/zfs", "/var/lib/zfs", "/var/lock/zfs"] {
        std::fs::create_dir_all(shared).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", shared]);
    }
    let mut daemon = Command::new("setpriv");
    let args = ["--pdeathsig", "KILL", "zfs-fuse", "--no-daemon", "--no-kstat-mount", "--enable-xattr"];
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    daemon.args(args).env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = daemon.spawn().expect("setpriv, which starts zfs-fuse");
    wait_for_the_daemon();
    daemon
}

fn wait_for_the_daemon() {
    for _ in 0..500 {
        if Command::new("zpool").arg("list").output().is_ok_and(|output| output.status.success()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("zfs-fuse does not answer");
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
            // A thread that looks into what it has left could wait for it.
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
            let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
            for place in places.filter(|place| place.starts_with(&self.mount)) {
                let _ = coppice_linux::detach(place);
            }
        } else {
            run("umount", &["--lazy", self.mount.to_str().unwrap()]);
        }
    }
}

pub(crate) fn named(volume: &str) -> DatasetName {
    DatasetName { app: Some(Name::new("shop").unwrap()), volume: Name::new(volume).unwrap() }
}

pub(crate) fn snapshot(name: &str) -> SnapshotName {
    SnapshotName::new(name).unwrap()
}

pub(crate) fn stamps(pairs: &[(&str, &str)]) -> Stamps {
    let mut stamps = Stamps::default();
    pairs.iter().for_each(|(key, value)| stamps.set(*key, *value).unwrap());
    stamps
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
