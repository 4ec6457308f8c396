//! The datasets under one root, and what is done with them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use coppice_base::Name;
use rustix::fs::{FlockOperation, flock};

use crate::copy::copy;
use crate::error::DatasetError;
use crate::name::{DatasetName, NO_APP, SnapshotName};
use crate::stamps::Stamps;
use crate::tree::{Kind, open};

const HEAD: &str = "head";
const SNAPSHOTS: &str = "snapshots";
/// A head that is to be.
const NEXT: &str = "next";
/// Before names of what is not whole yet or any more; no name of a volume or snapshot begins so.
const ASIDE: &str = ".aside-";

/// The datasets below one directory, all of one kind. Callers may share it; operations on one dataset wait for each other,
/// other processes' too.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    kind: Kind,
}

/// A dataset as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    pub name: DatasetName,
    /// Where its data is; the same for the dataset's whole life.
    pub head: PathBuf,
    pub stamps: Stamps,
    /// By name.
    pub snapshots: Vec<Snapshot>,
}

/// What a dataset was once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub name: SnapshotName,
    pub stamps: Stamps,
}

impl Store {
    /// The datasets below `root`, which is made when it is missing, mode 0711.
    pub fn open(root: &Path) -> Result<Self, DatasetError> {
        make(root)?;
        Ok(Self { root: root.to_owned(), kind: Kind::of(root)? })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where a dataset's data is, or would be.
    pub fn head(&self, name: &DatasetName) -> PathBuf {
        self.folder(name).join(HEAD)
    }

    /// Whether there is such a dataset.
    pub fn has(&self, name: &DatasetName) -> bool {
        self.folder(name).is_dir()
    }

    /// Where a dataset's data is, with what an earlier operation left half-done put right; waits for one that goes on.
    pub fn ready(&self, name: &DatasetName) -> Result<PathBuf, DatasetError> {
        Ok(self.hold(name)?.head())
    }

    /// All there are, by name.
    pub fn list(&self) -> Result<Vec<DatasetName>, DatasetError> {
        let mut all = Vec::new();
        for app in names(&self.root)? {
            let folder = self.root.join(&app);
            let app = match Name::new(app.as_str()) {
                Ok(name) => Some(name),
                Err(_) if app == NO_APP => None,
                Err(_) => continue,
            };
            let volumes = names(&folder)?.into_iter().filter_map(|volume| Name::new(volume).ok());
            all.extend(volumes.map(|volume| DatasetName { app: app.clone(), volume }));
        }
        all.sort();
        Ok(all)
    }

    /// A dataset, its snapshots and what they carry.
    pub fn inspect(&self, name: &DatasetName) -> Result<Dataset, DatasetError> {
        let held = self.hold(name)?;
        let snapshots = held.snapshots()?.into_iter().map(|name| {
            let stamps = read_stamps(&held.snapshot(&name))?;
            Ok(Snapshot { name, stamps })
        });
        let snapshots = snapshots.collect::<Result<_, DatasetError>>()?;
        Ok(Dataset { name: name.clone(), head: held.head(), stamps: read_stamps(&held.head())?, snapshots })
    }

    /// Bytes on disk of a dataset's head, shared or not.
    pub fn size(&self, name: &DatasetName) -> Result<u64, DatasetError> {
        let held = self.hold(name)?;
        blocks(&held.head()).map_err(DatasetError::io("measure", held.head()))
    }

    /// Makes a dataset; `fill` puts into its head what it begins with. It is there whole, or not at all.
    pub fn create(
        &self,
        name: &DatasetName,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<PathBuf, DatasetError> {
        self.make(name, |head| {
            self.kind.create(head)?;
            fill(head).map_err(DatasetError::io("fill", head))
        })
    }

    /// Makes a dataset of a directory of the same filesystem, which is gone then.
    pub fn adopt(&self, name: &DatasetName, directory: &Path) -> Result<PathBuf, DatasetError> {
        match self.kind {
            Kind::Directory => self.make(name, |head| rename(directory, head)),
            Kind::Btrfs => {
                let head = self.make(name, |head| {
                    self.kind.create(head)?;
                    copy(&open(directory)?, &open(head)?).map_err(DatasetError::io("copy", directory))
                })?;
                fs::remove_dir_all(directory).map_err(DatasetError::io("remove", directory))?;
                Ok(head)
            }
        }
    }

    /// Makes a dataset `to` whose head is what a snapshot of another one is, stamps included.
    pub fn clone_to(
        &self,
        name: &DatasetName,
        snapshot: &SnapshotName,
        to: &DatasetName,
    ) -> Result<PathBuf, DatasetError> {
        let held = self.hold(name)?;
        let from = held.existing(snapshot)?;
        self.make(to, |head| self.kind.copy(&from, head))
    }

    /// Has the head carry these stamps, and no others.
    pub fn stamp(&self, name: &DatasetName, stamps: &Stamps) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let head = open(&held.head())?;
        stamps.write(&head).map_err(DatasetError::errno("stamp", held.head()))?;
        head.sync_all().map_err(DatasetError::io("write", held.head()))
    }

    /// Keeps the head as it is now under a name, with the head's stamps and, over those, `more`.
    pub fn snapshot(&self, name: &DatasetName, snapshot: &SnapshotName, more: &Stamps) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let to = held.vacant(snapshot)?;
        let aside = held.folder.join(SNAPSHOTS).join(format!("{ASIDE}{snapshot}"));
        self.kind.copy(&held.head(), &aside)?;
        let copy = open(&aside)?;
        let stamps = Stamps::read(&copy).map_err(DatasetError::errno("read the stamps of", &aside))?;
        stamps.and(more).write(&copy).map_err(DatasetError::errno("stamp", &aside))?;
        copy.sync_all().map_err(DatasetError::io("write", &aside))?;
        rename(&aside, &to)?;
        self.kind.seal(&to)
    }

    /// Makes a snapshot the head again; the head that was is kept as a snapshot `keep`, and can be switched to like any
    /// other. Whoever has the old head open or mounted goes on with that: stop them first.
    pub fn switch(&self, name: &DatasetName, to: &SnapshotName, keep: &SnapshotName) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let (from, keep) = (held.existing(to)?, held.vacant(keep)?);
        let next = held.folder.join(NEXT);
        self.kind.copy(&from, &next)?;
        // From here to the second rename there is no head; whoever looks next puts it there.
        rename(&held.head(), &keep)?;
        rename(&next, &held.head())?;
        self.kind.seal(&keep)
    }

    /// Forgets a snapshot. Clones and heads that came from it stay.
    pub fn destroy_snapshot(&self, name: &DatasetName, snapshot: &SnapshotName) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let aside = held.folder.join(SNAPSHOTS).join(format!("{ASIDE}{snapshot}"));
        rename(&held.existing(snapshot)?, &aside)?;
        self.kind.remove(&aside)
    }

    /// Removes a dataset and its snapshots.
    pub fn destroy(&self, name: &DatasetName) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let app = held.folder.parent().unwrap_or(&self.root);
        let _making = lock(app)?;
        let aside = app.join(format!("{ASIDE}{}", name.volume));
        rename(&held.folder, &aside)?;
        self.clear(&aside)?;
        // The last of its app: the folder goes, too. Where another is being made, it is not empty.
        let _ = fs::remove_dir(app);
        Ok(())
    }

    fn folder(&self, name: &DatasetName) -> PathBuf {
        self.root.join(name.path())
    }

    /// Makes a dataset aside, and gives it its name when it is whole.
    fn make(
        &self,
        name: &DatasetName,
        head: impl FnOnce(&Path) -> Result<(), DatasetError>,
    ) -> Result<PathBuf, DatasetError> {
        let folder = self.folder(name);
        let app = folder.parent().unwrap_or(&self.root).to_owned();
        make(&app)?;
        // One at a time in an app: two that make the same dataset meet here.
        let _making = lock(&app)?;
        if folder.exists() {
            return Err(DatasetError::Exists(name.clone()));
        }
        let aside = app.join(format!("{ASIDE}{}", name.volume));
        if aside.exists() {
            self.clear(&aside)?;
        }
        make(&aside)?;
        make(&aside.join(SNAPSHOTS))?;
        head(&aside.join(HEAD))?;
        let synced =
            open(&aside).and_then(|aside| rustix::fs::syncfs(aside).map_err(DatasetError::errno("write", &app)));
        synced?;
        rename(&aside, &folder)?;
        Ok(folder.join(HEAD))
    }

    /// Removes a dataset's folder that nobody finds any more.
    fn clear(&self, folder: &Path) -> Result<(), DatasetError> {
        let snapshots = folder.join(SNAPSHOTS);
        let inner = names(&snapshots).unwrap_or_default().into_iter().map(|name| snapshots.join(name));
        let trees = inner.chain([folder.join(NEXT), folder.join(HEAD)]);
        for tree in trees.filter(|tree| tree.exists()) {
            self.kind.remove(&tree)?;
        }
        fs::remove_dir_all(folder).map_err(DatasetError::io("remove", folder))
    }

    /// A dataset for one operation, with what an earlier one left half-done put right.
    fn hold(&self, name: &DatasetName) -> Result<Held, DatasetError> {
        let folder = self.folder(name);
        let lock = match lock(&folder) {
            Err(DatasetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(DatasetError::NoDataset(name.clone()));
            }
            other => other?,
        };
        // It may have been removed while this waited.
        let same = |meta: fs::Metadata| lock.metadata().is_ok_and(|held| held.ino() == meta.ino());
        if !fs::metadata(&folder).is_ok_and(same) {
            return Err(DatasetError::NoDataset(name.clone()));
        }
        let held = Held { name: name.clone(), folder, _lock: lock };
        self.put_right(&held)?;
        Ok(held)
    }

    fn put_right(&self, held: &Held) -> Result<(), DatasetError> {
        let next = held.folder.join(NEXT);
        if next.exists() {
            if held.head().exists() {
                // Not whole, or not wanted any more: nothing was cut yet.
                self.kind.remove(&next)?;
            } else {
                rename(&next, &held.head())?;
                // The last step of a switch that did not come to it.
                for snapshot in held.snapshots()? {
                    self.kind.seal(&held.snapshot(&snapshot))?;
                }
            }
        }
        let snapshots = held.folder.join(SNAPSHOTS);
        for name in names(&snapshots)?.into_iter().filter(|name| name.starts_with(ASIDE)) {
            self.kind.remove(&snapshots.join(name))?;
        }
        Ok(())
    }
}

/// A dataset that this operation has to itself.
struct Held {
    name: DatasetName,
    folder: PathBuf,
    _lock: File,
}

impl Held {
    fn head(&self) -> PathBuf {
        self.folder.join(HEAD)
    }

    fn snapshot(&self, name: &SnapshotName) -> PathBuf {
        self.folder.join(SNAPSHOTS).join(name.as_str())
    }

    fn snapshots(&self) -> Result<Vec<SnapshotName>, DatasetError> {
        let all = names(&self.folder.join(SNAPSHOTS))?;
        Ok(all.into_iter().filter_map(|name| SnapshotName::new(name).ok()).collect())
    }

    fn existing(&self, snapshot: &SnapshotName) -> Result<PathBuf, DatasetError> {
        let path = self.snapshot(snapshot);
        let missing = || DatasetError::NoSnapshot { dataset: self.name.clone(), snapshot: snapshot.clone() };
        path.exists().then_some(path).ok_or_else(missing)
    }

    fn vacant(&self, snapshot: &SnapshotName) -> Result<PathBuf, DatasetError> {
        let path = self.snapshot(snapshot);
        let taken = || DatasetError::SnapshotExists { dataset: self.name.clone(), snapshot: snapshot.clone() };
        (!path.exists()).then_some(path).ok_or_else(taken)
    }
}

fn make(folder: &Path) -> Result<(), DatasetError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o711).create(folder).map_err(DatasetError::io("make", folder))
}

/// Has this operation wait for those that hold the folder, and others for this one, until it is dropped.
fn lock(folder: &Path) -> Result<File, DatasetError> {
    let lock = open(folder)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(DatasetError::errno("lock", folder))?;
    Ok(lock)
}

/// A rename that is on disk when it returns.
fn rename(from: &Path, to: &Path) -> Result<(), DatasetError> {
    fs::rename(from, to).map_err(DatasetError::io("rename", from))?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    open(folder)?.sync_all().map_err(DatasetError::io("write", folder))
}

fn read_stamps(tree: &Path) -> Result<Stamps, DatasetError> {
    Stamps::read(open(tree)?).map_err(DatasetError::errno("read the stamps of", tree))
}

/// Names of the directories in one, sorted.
fn names(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let entries = fs::read_dir(folder).map_err(DatasetError::io("list", folder))?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// What a tree takes on disk; a file with several names once.
fn blocks(tree: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut folders = vec![tree.to_owned()];
    let mut total = fs::symlink_metadata(tree)?.blocks() * 512;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            }
            if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
                total += meta.blocks() * 512;
            }
        }
    }
    Ok(total)
}
