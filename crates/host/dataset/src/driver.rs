//! What each kind of storage does for [`Store`](crate::Store), which has seen to locks and names.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::name::{DatasetName, SnapshotName};
use crate::properties::Properties;
use crate::staging::Staging;
use crate::stamps::Stamps;
use crate::store::{Snapshot, Survey};
use crate::transfer::{Came, View};

/// Name, below a dataset's folder, of what containers mount.
pub(crate) const HEAD: &str = "head";

/// What heads and their snapshots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Subvolumes. A snapshot is of one moment, and takes the same time for any size.
    Btrfs,
    /// Datasets of a pool. A snapshot is of one moment, and takes the same time for any size.
    Zfs,
    /// Directories. A copy takes its time, and what is written meanwhile may be in it or not.
    Directory,
}

/// A dataset, there or not, and its folder.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: DatasetName,
    pub(crate) folder: PathBuf,
}

impl Place {
    pub(crate) fn head(&self) -> PathBuf {
        self.folder.join(HEAD)
    }

    /// The folder of its app.
    pub(crate) fn app(&self) -> &Path {
        self.folder.parent().unwrap_or(Path::new("/"))
    }

    pub(crate) fn no_snapshot(&self, snapshot: &SnapshotName) -> DatasetError {
        DatasetError::NoSnapshot { dataset: self.name.clone(), snapshot: snapshot.clone() }
    }

    pub(crate) fn taken(&self, snapshot: &SnapshotName) -> DatasetError {
        DatasetError::SnapshotExists { dataset: self.name.clone(), snapshot: snapshot.clone() }
    }
}

/// Puts into an empty head what it begins with.
pub(crate) type Fill<'f> = &'f mut dyn FnMut(&Path) -> Result<(), DatasetError>;

/// One kind of storage. But for those that say otherwise, each is called by one at a time for a dataset, which is there and has
/// been [put right](Driver::put_right).
pub(crate) trait Driver: Debug + Send + Sync {
    fn kind(&self) -> Kind;

    /// All there are, in any order. Called at any time.
    fn names(&self) -> Result<Vec<DatasetName>, DatasetError>;

    /// All there are and what they carry, where that is one question. Called at any time.
    fn survey(&self) -> Result<Option<Survey>, DatasetError> {
        Ok(None)
    }

    /// Called at any time.
    fn has(&self, at: &Place) -> bool;

    /// Finishes what was left half-done, or undoes it; sees to it that the head is where it belongs. Says whether the dataset is
    /// there at all.
    fn put_right(&self, at: &Place) -> Result<bool, DatasetError>;

    /// Makes one that is not there, at once or not at all.
    fn make(&self, at: &Place, fill: Fill<'_>) -> Result<(), DatasetError>;

    /// Makes one that is not there of a directory beside, which is gone then.
    fn adopt(&self, at: &Place, directory: &Path) -> Result<(), DatasetError>;

    /// Makes `to`, which is not there.
    fn clone_to(&self, at: &Place, snapshot: &SnapshotName, to: &Place) -> Result<(), DatasetError>;

    /// The head's stamps, and the snapshots by name. Called at any time: fails where there is no head for the moment.
    fn look(&self, at: &Place) -> Result<(Stamps, Vec<Snapshot>), DatasetError>;

    fn stamp(&self, at: &Place, stamps: &Stamps) -> Result<(), DatasetError>;

    fn snapshot(&self, at: &Place, snapshot: &SnapshotName, more: &Stamps) -> Result<(), DatasetError>;

    fn switch(&self, at: &Place, to: &SnapshotName, keep: &SnapshotName) -> Result<(), DatasetError>;

    fn rename_snapshot(&self, at: &Place, from: &SnapshotName, to: &SnapshotName) -> Result<(), DatasetError>;

    fn destroy_snapshot(&self, at: &Place, snapshot: &SnapshotName) -> Result<(), DatasetError>;

    /// Takes the dataset away; its folder is the caller's.
    fn destroy(&self, at: &Place) -> Result<(), DatasetError>;

    /// Gives the head and those that come after it these; says what the storage cannot.
    fn set_properties(&self, at: &Place, properties: &Properties) -> Result<Vec<String>, DatasetError>;

    /// Makes a tree aside, empty or as a snapshot is.
    fn stage(&self, base: Option<(&Place, &SnapshotName)>) -> Result<Staging, DatasetError>;

    /// Where a snapshot can be read, which is nothing to write to.
    fn view(&self, at: &Place, snapshot: &SnapshotName) -> Result<View, DatasetError>;

    /// Makes what was staged a snapshot; of a dataset that is there, or of one that is not, whose head it is, too.
    fn admit(&self, staging: &Staging, at: &Place, is_new: bool, came: &Came<'_>) -> Result<(), DatasetError>;

    /// Takes away what is left of it. What cannot be, [`stage`](Self::stage) tries to each time, and goes on without.
    fn discard(&self, staging: Staging) -> Result<(), DatasetError>;

    /// Bytes on disk of the head.
    fn size(&self, at: &Place) -> Result<u64, DatasetError>;
}
