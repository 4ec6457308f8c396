//! The datasets under one root, and what is done with them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::driver::{Driver, Kind, Place};
use crate::error::DatasetError;
use crate::folder::{lock, make};
use crate::name::{DatasetName, SnapshotName};
use crate::owners::Mapping;
use crate::properties::Properties;
use crate::stamps::Stamps;
use crate::trees::Trees;
use crate::zfs::Zfs;

/// The datasets below one directory, all of one kind. Callers may share it; operations on one dataset wait for each other,
/// other processes' too.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) mapping: Mapping,
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
    /// What tells it from every other, and its copies elsewhere have, too; none of a snapshot that an earlier version took.
    pub id: Option<String>,
}

/// All there are, as far as they can be read.
#[derive(Debug, Default)]
pub struct Survey {
    /// By name.
    pub datasets: Vec<Dataset>,
    /// Those of which nothing is known but that they are there, and why.
    pub unreadable: Vec<(DatasetName, DatasetError)>,
}

impl Store {
    /// The datasets below `root`, which is made when it is missing, mode 0711. Of the kind that its filesystem is good for.
    pub fn open(root: &Path) -> Result<Self, DatasetError> {
        make(root)?;
        let driver: Box<dyn Driver> = match Zfs::of(root)? {
            Some(zfs) => Box::new(zfs),
            None => Box::new(Trees::open(root)?),
        };
        Ok(Self { root: root.to_owned(), driver, mapping: Mapping::default() })
    }

    /// The datasets below `root` as children of a dataset of a pool, `tank/coppice`, which is made when it is missing and
    /// mounted on `root`.
    pub fn open_zfs(root: &Path, base: &str) -> Result<Self, DatasetError> {
        make(root)?;
        let driver = Box::new(Zfs::open(root, base)?);
        Ok(Self { root: root.to_owned(), driver, mapping: Mapping::default() })
    }

    pub fn kind(&self) -> Kind {
        self.driver.kind()
    }

    /// Where a dataset's data is, or would be.
    pub fn head(&self, name: &DatasetName) -> PathBuf {
        self.place(name).head()
    }

    /// Whether there is such a dataset.
    pub fn has(&self, name: &DatasetName) -> bool {
        self.driver.has(&self.place(name))
    }

    /// Where a dataset's data is, with what an earlier operation left half-done put right; waits for one that goes on.
    pub fn ready(&self, name: &DatasetName) -> Result<PathBuf, DatasetError> {
        Ok(self.hold(name)?.place.head())
    }

    /// All there are, by name.
    pub fn list(&self) -> Result<Vec<DatasetName>, DatasetError> {
        let mut all = self.driver.names()?;
        all.sort();
        Ok(all)
    }

    /// A dataset, its snapshots and what they carry.
    pub fn inspect(&self, name: &DatasetName) -> Result<Dataset, DatasetError> {
        let held = self.hold(name)?;
        self.look(&held.place)
    }

    /// All datasets, their snapshots and what they carry, without waiting for operations on them; one that is half-made or
    /// half-switched is put right first.
    pub fn survey(&self) -> Result<Survey, DatasetError> {
        if let Some(survey) = self.driver.survey()? {
            return Ok(survey);
        }
        let mut survey = Survey::default();
        for name in self.list()? {
            match self.look(&self.place(&name)).or_else(|_| self.inspect(&name)) {
                Ok(dataset) => survey.datasets.push(dataset),
                // Removed meanwhile.
                Err(DatasetError::NoDataset(_)) => {}
                Err(error) => survey.unreadable.push((name, error)),
            }
        }
        Ok(survey)
    }

    /// Bytes on disk of a dataset's head, shared or not.
    pub fn size(&self, name: &DatasetName) -> Result<u64, DatasetError> {
        self.driver.size(&self.hold(name)?.place)
    }

    /// Makes a dataset; `fill` puts into its head what it begins with. It is there whole, or not at all.
    pub fn create(
        &self,
        name: &DatasetName,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<PathBuf, DatasetError> {
        let mut fill = Some(fill);
        self.make(name, |place| {
            self.driver.make(place, &mut |head| {
                fill.take().map_or(Ok(()), |fill| fill(head)).map_err(DatasetError::io("fill", head))
            })
        })
    }

    /// Makes a dataset of a directory of the same filesystem, which is gone then.
    pub fn adopt(&self, name: &DatasetName, directory: &Path) -> Result<PathBuf, DatasetError> {
        self.make(name, |place| self.driver.adopt(place, directory))
    }

    /// Makes a dataset `to` whose head is what a snapshot of another one is, stamps included.
    pub fn clone_to(
        &self,
        name: &DatasetName,
        snapshot: &SnapshotName,
        to: &DatasetName,
    ) -> Result<PathBuf, DatasetError> {
        let held = self.hold(name)?;
        self.make(to, |place| self.driver.clone_to(&held.place, snapshot, place))
    }

    /// Has the head carry these stamps, and no others.
    pub fn stamp(&self, name: &DatasetName, stamps: &Stamps) -> Result<(), DatasetError> {
        self.driver.stamp(&self.hold(name)?.place, stamps)
    }

    /// Keeps the head as it is now under a name, with the head's stamps and, over those, `more`.
    pub fn snapshot(&self, name: &DatasetName, snapshot: &SnapshotName, more: &Stamps) -> Result<(), DatasetError> {
        self.driver.snapshot(&self.hold(name)?.place, snapshot, more)
    }

    /// Makes a snapshot the head again; the head that was is kept as a snapshot `keep`, and can be switched to like any
    /// other. Whoever has the old head open or mounted goes on with that: stop them first.
    pub fn switch(&self, name: &DatasetName, to: &SnapshotName, keep: &SnapshotName) -> Result<(), DatasetError> {
        self.driver.switch(&self.hold(name)?.place, to, keep)
    }

    /// Gives a snapshot another name, which none has.
    pub fn rename_snapshot(
        &self,
        name: &DatasetName,
        from: &SnapshotName,
        to: &SnapshotName,
    ) -> Result<(), DatasetError> {
        self.driver.rename_snapshot(&self.hold(name)?.place, from, to)
    }

    /// Forgets a snapshot. Clones and heads that came from it stay.
    pub fn destroy_snapshot(&self, name: &DatasetName, snapshot: &SnapshotName) -> Result<(), DatasetError> {
        self.driver.destroy_snapshot(&self.hold(name)?.place, snapshot)
    }

    /// Forgets the snapshots for which `keep` is false; gives back which. Clones and heads that came from them stay.
    pub fn prune(
        &self,
        name: &DatasetName,
        keep: &dyn Fn(&Snapshot) -> bool,
    ) -> Result<Vec<SnapshotName>, DatasetError> {
        let held = self.hold(name)?;
        let (_, all) = self.driver.look(&held.place)?;
        let mut gone = Vec::new();
        for snapshot in all.into_iter().filter(|snapshot| !keep(snapshot)) {
            self.driver.destroy_snapshot(&held.place, &snapshot.name)?;
            gone.push(snapshot.name);
        }
        Ok(gone)
    }

    /// Has a dataset's head and those that come after it be kept so, from now on. Gives back a sentence for each thing that
    /// its storage cannot do, and does otherwise or not at all.
    pub fn set_properties(&self, name: &DatasetName, properties: &Properties) -> Result<Vec<String>, DatasetError> {
        let held = self.hold(name)?;
        let words = self.driver.set_properties(&held.place, properties)?;
        properties.write(&held.place.folder)?;
        Ok(words)
    }

    /// What was asked for last by [`set_properties`](Self::set_properties).
    pub fn properties(&self, name: &DatasetName) -> Properties {
        Properties::read(&self.place(name).folder)
    }

    /// Removes a dataset and its snapshots. Clones of those stay.
    pub fn destroy(&self, name: &DatasetName) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let app = held.place.app();
        let _making = lock(app)?;
        self.driver.destroy(&held.place)?;
        // The last of its app: the folder goes, too. Where another is being made, it is not empty.
        let _ = fs::remove_dir(app);
        Ok(())
    }

    pub(crate) fn place(&self, name: &DatasetName) -> Place {
        Place { name: name.clone(), folder: self.root.join(name.path()) }
    }

    fn look(&self, place: &Place) -> Result<Dataset, DatasetError> {
        let (stamps, snapshots) = self.driver.look(place)?;
        Ok(Dataset { name: place.name.clone(), head: place.head(), stamps, snapshots })
    }

    pub(crate) fn make(
        &self,
        name: &DatasetName,
        work: impl FnOnce(&Place) -> Result<(), DatasetError>,
    ) -> Result<PathBuf, DatasetError> {
        let place = self.place(name);
        make(place.app())?;
        // One at a time in an app: two that make the same dataset meet here.
        let _making = lock(place.app())?;
        if self.driver.has(&place) {
            return Err(DatasetError::Exists(name.clone()));
        }
        work(&place)?;
        Ok(place.head())
    }

    /// A dataset for one operation, with what an earlier one left half-done put right.
    pub(crate) fn hold(&self, name: &DatasetName) -> Result<Held, DatasetError> {
        let place = self.place(name);
        let missing = || DatasetError::NoDataset(name.clone());
        let lock = match lock(&place.folder) {
            Err(DatasetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Err(missing()),
            other => other?,
        };
        // It may have been removed while this waited.
        let same = |meta: fs::Metadata| lock.metadata().is_ok_and(|held| held.ino() == meta.ino());
        if !fs::metadata(&place.folder).is_ok_and(same) || !self.driver.put_right(&place)? {
            return Err(missing());
        }
        Ok(Held { place, _lock: lock })
    }
}

/// A dataset that this operation has to itself.
pub(crate) struct Held {
    pub(crate) place: Place,
    _lock: File,
}
