//! Filesystems of a test's own: an image file, mounted in a mount namespace that only the test's thread is in.

use std::path::{Path, PathBuf};
use std::process::Command;

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
}

pub(crate) const EVERYWHERE: [On; 3] = [On::Btrfs, On::Xfs, On::Tmpfs];

pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) on: On,
    mount: PathBuf,
    _folder: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new(on: On) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        coppice_linux::unshare(coppice_linux::NamespaceFlags::MOUNT).expect("the tests mount: run them as root");
        run("mount", &["--make-rprivate", "/"]);
        let at = mount.to_str().unwrap();
        let image = folder.path().join("image");
        let make = |program: &str, size: u64, args: &[&str]| {
            std::fs::File::create(&image).unwrap().set_len(size).unwrap();
            run(program, &[args, &[image.to_str().unwrap()]].concat());
            run("mount", &["-o", "loop", image.to_str().unwrap(), at]);
        };
        match on {
            On::Btrfs => make("mkfs.btrfs", 256 << 20, &["-q"]),
            On::Xfs => make("mkfs.xfs", 512 << 20, &["-q", "-m", "reflink=1"]),
            On::Tmpfs => run("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs", at]),
        }
        let store = Store::open(&mount.join("volumes")).unwrap();
        assert_eq!(store.kind() == Kind::Btrfs, on == On::Btrfs);
        Self { store, on, mount, _folder: folder }
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
        Store::open(&self.root()).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.mount.to_str().unwrap()]);
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
