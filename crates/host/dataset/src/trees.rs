//! Datasets as trees of a filesystem: subvolumes of btrfs, or directories of any other.
//!
//! ```text
//! <root>/<app>/<volume>/head              what a container mounts, always under this path
//!                      /snapshots/<name>  what it was once; nobody writes there
//!                      /next              half of a switch; gone, or finished, after the next look at the dataset
//! ```

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::copy::copy;
use rustix::io::Errno;

use crate::driver::{Driver, Fill, HEAD, Kind, Place};
use crate::error::DatasetError;
use crate::folder::{make, names, of_paths, rename};
use crate::id;
use crate::name::{DatasetName, SnapshotName};
use crate::properties::Properties;
use crate::staging::{Staging, left_behind};
use crate::stamps::Stamps;
use crate::store::Snapshot;
use crate::transfer::{Came, View};
use crate::tree::{Form, open};

const SNAPSHOTS: &str = "snapshots";
/// A head that is to be.
const NEXT: &str = "next";
/// Before names of what is not whole yet or any more; no name of a volume or snapshot begins so.
const ASIDE: &str = ".aside-";

#[derive(Debug)]
pub(crate) struct Trees {
    root: PathBuf,
    form: Form,
}

impl Trees {
    pub(crate) fn open(root: &Path) -> Result<Self, DatasetError> {
        Ok(Self { root: root.to_owned(), form: Form::of(root)? })
    }

    /// Makes a dataset aside, and gives it its name when it is whole. Of one that cannot be made nothing is left.
    fn make(&self, at: &Place, head: impl FnOnce(&Path) -> Result<(), DatasetError>) -> Result<(), DatasetError> {
        let aside = self.aside(at);
        if aside.exists() {
            self.clear(&aside)?;
        }
        let made = self.make_aside(at, &aside, head);
        if made.is_err() && aside.exists() {
            // What cannot be removed now is before the next one is made.
            let _ = self.clear(&aside);
        }
        made
    }

    fn make_aside(
        &self,
        at: &Place,
        aside: &Path,
        head: impl FnOnce(&Path) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        make(aside)?;
        make(&aside.join(SNAPSHOTS))?;
        head(&aside.join(HEAD))?;
        identify(&aside.join(HEAD))?;
        open(aside).and_then(|aside| rustix::fs::syncfs(aside).map_err(DatasetError::errno("write", at.app())))?;
        rename(aside, &at.folder)
    }

    /// Takes what could not be made away: its room is missed where there was too little.
    fn or_clear(&self, made: Result<(), DatasetError>, half: &Path) -> Result<(), DatasetError> {
        if made.is_err() && half.exists() {
            // What cannot be removed now is when the dataset is looked at next.
            let _ = self.form.remove(half);
        }
        made
    }

    /// A snapshot that is whole, and has no name yet.
    fn snapshot_aside(&self, at: &Place, aside: &Path, more: &Stamps) -> Result<(), DatasetError> {
        self.form.copy(&at.head(), aside)?;
        let copy = open(aside)?;
        let stamps = Stamps::read(&copy).map_err(DatasetError::errno("read the stamps of", aside))?;
        stamps.and(more).write(&copy).map_err(DatasetError::errno("stamp", aside))?;
        id::write(&copy, &id::new()?).map_err(DatasetError::errno("stamp", aside))?;
        if self.form == Form::Directory {
            copy.sync_all().map_err(DatasetError::io("write", aside))?;
        }
        Ok(())
    }

    fn aside(&self, at: &Place) -> PathBuf {
        at.app().join(format!("{ASIDE}{}", at.name.volume))
    }

    /// Removes a dataset's folder that nobody finds any more.
    fn clear(&self, folder: &Path) -> Result<(), DatasetError> {
        let snapshots = folder.join(SNAPSHOTS);
        let inner = names(&snapshots).unwrap_or_default().into_iter().map(|name| snapshots.join(name));
        let trees = inner.chain([folder.join(NEXT), folder.join(HEAD)]);
        for tree in trees.filter(|tree| tree.exists()) {
            self.form.remove(&tree)?;
        }
        fs::remove_dir_all(folder).map_err(DatasetError::io("remove", folder))
    }
}

impl Driver for Trees {
    fn kind(&self) -> Kind {
        match self.form {
            Form::Subvolume => Kind::Btrfs,
            Form::Directory => Kind::Directory,
        }
    }

    fn names(&self) -> Result<Vec<DatasetName>, DatasetError> {
        of_paths(&self.root)
    }

    fn has(&self, at: &Place) -> bool {
        at.folder.is_dir()
    }

    fn put_right(&self, at: &Place) -> Result<bool, DatasetError> {
        let next = at.folder.join(NEXT);
        if next.exists() {
            if at.head().exists() {
                // Not whole, or not wanted any more: nothing was cut yet.
                self.form.remove(&next)?;
            } else {
                rename(&next, &at.head())?;
                // The last step of a switch that did not come to it.
                for snapshot in snapshots(at)? {
                    self.form.seal(&tree_of(at, &snapshot))?;
                }
            }
        }
        let snapshots = at.folder.join(SNAPSHOTS);
        for name in names(&snapshots)?.into_iter().filter(|name| name.starts_with(ASIDE)) {
            self.form.remove(&snapshots.join(name))?;
        }
        Ok(true)
    }

    fn make(&self, at: &Place, fill: Fill<'_>) -> Result<(), DatasetError> {
        self.make(at, |head| {
            self.form.create(head)?;
            fill(head)
        })
    }

    fn adopt(&self, at: &Place, directory: &Path) -> Result<(), DatasetError> {
        match self.form {
            Form::Directory => self.make(at, |head| rename(directory, head)),
            Form::Subvolume => {
                self.make(at, |head| {
                    self.form.create(head)?;
                    copy(&open(directory)?, &open(head)?).map_err(DatasetError::io("copy", directory))
                })?;
                fs::remove_dir_all(directory).map_err(DatasetError::io("remove", directory))
            }
        }
    }

    fn clone_to(&self, at: &Place, snapshot: &SnapshotName, to: &Place) -> Result<(), DatasetError> {
        let from = existing(at, snapshot)?;
        self.make(to, |head| self.form.copy(&from, head))
    }

    fn look(&self, at: &Place) -> Result<(Stamps, Vec<Snapshot>), DatasetError> {
        let head = read_stamps(&at.head())?;
        let mut all = Vec::new();
        for name in snapshots(at)? {
            match read_snapshot(&tree_of(at, &name)) {
                Ok((stamps, id)) => all.push(Snapshot { name, stamps, id }),
                // It went meanwhile.
                Err(DatasetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((head, all))
    }

    fn stamp(&self, at: &Place, stamps: &Stamps) -> Result<(), DatasetError> {
        let head = open(&at.head())?;
        let mut written = stamps.write(&head);
        if written == Err(Errno::DQUOT) {
            // A full volume has room for what we know of it.
            let kept = Properties::read(&at.folder);
            self.form.set_properties(&at.head(), &Properties { quota: None, ..kept })?;
            written = stamps.write(&head);
            self.form.set_properties(&at.head(), &kept)?;
        }
        written.map_err(DatasetError::errno("stamp", at.head()))?;
        head.sync_all().map_err(DatasetError::io("write", at.head()))
    }

    fn snapshot(&self, at: &Place, snapshot: &SnapshotName, more: &Stamps) -> Result<(), DatasetError> {
        let to = vacant(at, snapshot)?;
        let aside = at.folder.join(SNAPSHOTS).join(format!("{ASIDE}{snapshot}"));
        self.or_clear(self.snapshot_aside(at, &aside, more).and_then(|()| self.form.rename(&aside, &to)), &aside)?;
        self.form.seal(&to)?;
        self.form.settle(&at.folder)
    }

    fn switch(&self, at: &Place, to: &SnapshotName, keep: &SnapshotName) -> Result<(), DatasetError> {
        let (from, keep) = (existing(at, to)?, vacant(at, keep)?);
        let next = at.folder.join(NEXT);
        let made = self.form.copy(&from, &next).and_then(|()| {
            // It is kept as the head is now, not as it was then; what the storage cannot, was said when it was asked for.
            identify(&next)?;
            self.form.set_properties(&next, &Properties::read(&at.folder)).map(drop)
        });
        self.or_clear(made, &next)?;
        // From here to the second rename there is no head; whoever looks next puts it there.
        self.form.rename(&at.head(), &keep)?;
        self.form.rename(&next, &at.head())?;
        self.form.seal(&keep)?;
        self.form.settle(&at.folder)
    }

    fn rename_snapshot(&self, at: &Place, from: &SnapshotName, to: &SnapshotName) -> Result<(), DatasetError> {
        rename(&existing(at, from)?, &vacant(at, to)?)
    }

    fn destroy_snapshot(&self, at: &Place, snapshot: &SnapshotName) -> Result<(), DatasetError> {
        let aside = at.folder.join(SNAPSHOTS).join(format!("{ASIDE}{snapshot}"));
        rename(&existing(at, snapshot)?, &aside)?;
        self.form.remove(&aside)
    }

    fn destroy(&self, at: &Place) -> Result<(), DatasetError> {
        let aside = self.aside(at);
        if aside.exists() {
            self.clear(&aside)?;
        }
        rename(&at.folder, &aside)?;
        self.clear(&aside)
    }

    fn set_properties(&self, at: &Place, properties: &Properties) -> Result<Vec<String>, DatasetError> {
        self.form.set_properties(&at.head(), properties)
    }

    fn stage(&self, base: Option<(&Place, &SnapshotName)>) -> Result<Staging, DatasetError> {
        for left in left_behind(&self.root)? {
            // What cannot be removed is in nobody's way: this one has a name of its own.
            let _ = self.discard(left);
        }
        let staging = Staging::new(&self.root)?;
        let staged = match base {
            None => self.form.create(&staging.tree()),
            Some((at, snapshot)) => existing(at, snapshot).and_then(|from| self.form.copy(&from, &staging.tree())),
        };
        match staged {
            Ok(()) => Ok(staging),
            Err(error) => {
                let _ = self.discard(staging);
                Err(error)
            }
        }
    }

    fn view(&self, at: &Place, snapshot: &SnapshotName) -> Result<View, DatasetError> {
        Ok((existing(at, snapshot)?, None))
    }

    fn admit(&self, staging: &Staging, at: &Place, is_new: bool, came: &Came<'_>) -> Result<(), DatasetError> {
        let from = staging.tree();
        let tree = open(&from)?;
        came.stamps.write(&tree).map_err(DatasetError::errno("stamp", &from))?;
        id::write(&tree, came.id).map_err(DatasetError::errno("stamp", &from))?;
        rustix::fs::syncfs(&tree).map_err(DatasetError::errno("write", &from))?;
        if is_new {
            return self.make(at, |head| {
                let snapshots = head.with_file_name(SNAPSHOTS);
                let to = snapshots.join(came.snapshot.as_str());
                rename(&from, &to)?;
                self.form.copy(&to, head)?;
                self.form.seal(&to)
            });
        }
        let to = vacant(at, came.snapshot)?;
        rename(&from, &to)?;
        self.form.seal(&to)
    }

    fn discard(&self, staging: Staging) -> Result<(), DatasetError> {
        let tree = staging.tree();
        if tree.exists() {
            self.form.remove(&tree)?;
        }
        fs::remove_dir_all(&staging.folder).map_err(DatasetError::io("remove", &staging.folder))
    }

    fn size(&self, at: &Place) -> Result<u64, DatasetError> {
        blocks(&at.head()).map_err(DatasetError::io("measure", at.head()))
    }
}

fn tree_of(at: &Place, snapshot: &SnapshotName) -> PathBuf {
    at.folder.join(SNAPSHOTS).join(snapshot.as_str())
}

fn snapshots(at: &Place) -> Result<Vec<SnapshotName>, DatasetError> {
    let all = names(&at.folder.join(SNAPSHOTS))?;
    Ok(all.into_iter().filter_map(|name| SnapshotName::new(name).ok()).collect())
}

fn existing(at: &Place, snapshot: &SnapshotName) -> Result<PathBuf, DatasetError> {
    let path = tree_of(at, snapshot);
    path.exists().then_some(path).ok_or_else(|| at.no_snapshot(snapshot))
}

fn vacant(at: &Place, snapshot: &SnapshotName) -> Result<PathBuf, DatasetError> {
    let path = tree_of(at, snapshot);
    (!path.exists()).then_some(path).ok_or_else(|| at.taken(snapshot))
}

fn read_stamps(tree: &Path) -> Result<Stamps, DatasetError> {
    Stamps::read(open(tree)?).map_err(DatasetError::errno("read the stamps of", tree))
}

/// Gives a head that is to be the id that it has as a snapshot, if it is cut some time: it can be full then.
fn identify(head: &Path) -> Result<(), DatasetError> {
    id::write(open(head)?, &id::new()?).map_err(DatasetError::errno("stamp", head))
}

fn read_snapshot(path: &Path) -> Result<(Stamps, Option<String>), DatasetError> {
    let tree = open(path)?;
    let stamps = Stamps::read(&tree).map_err(DatasetError::errno("read the stamps of", path))?;
    Ok((stamps, id::read(&tree)))
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
