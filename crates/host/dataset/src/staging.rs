//! Trees that are nobody's yet, or that are looked at for a while: in a folder of the root that is locked while they are used.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::DatasetError;
use crate::folder::{lock, make, names};
use crate::id;
use crate::tree::open;

/// Before the folders' names; no app is called so.
const PREFIX: &str = ".staging-";

/// A folder of one's own, and the tree that is in it.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) folder: PathBuf,
    /// What tells it from others: hexadecimal digits.
    pub(crate) token: String,
    _lock: File,
}

impl Staging {
    pub(crate) fn new(root: &Path) -> Result<Self, DatasetError> {
        loop {
            let token = id::new()?;
            let folder = root.join(format!("{PREFIX}{token}"));
            make(&folder)?;
            let lock = lock(&folder)?;
            // Somebody who cleans up can be between the two.
            if fs::metadata(&folder).is_ok_and(|meta| lock.metadata().is_ok_and(|held| held.ino() == meta.ino())) {
                return Ok(Self { folder, token, _lock: lock });
            }
        }
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }
}

/// Those that a process left behind which is no more.
pub(crate) fn left_behind(root: &Path) -> Result<Vec<Staging>, DatasetError> {
    let mut all = Vec::new();
    for name in names(root)? {
        let Some(token) = name.strip_prefix(PREFIX) else { continue };
        let folder = root.join(&name);
        let Ok(file) = open(&folder) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            all.push(Staging { folder, token: token.to_owned(), _lock: file });
        }
    }
    Ok(all)
}
