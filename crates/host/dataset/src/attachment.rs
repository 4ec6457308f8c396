//! What is kept beside a dataset's head: small files that outlive the node's database, whatever the head is switched to.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::driver::Place;
use crate::error::DatasetError;
use crate::folder::{make, write};
use crate::name::{DatasetName, SnapshotName};
use crate::store::Store;

/// Below a dataset's folder.
const ATTACHED: &str = "attached";
/// Longest attachment, in bytes: a release's record is some kilobytes.
pub const ATTACHMENT_MAX: usize = 1 << 20;

impl Store {
    /// Keeps `bytes` beside a dataset under a key, in place of what was there. They are on disk when this returns, and
    /// whoever reads sees what was there or these, whole.
    pub fn attach(&self, name: &DatasetName, key: &SnapshotName, bytes: &[u8]) -> Result<(), DatasetError> {
        if bytes.len() > ATTACHMENT_MAX {
            return Err(DatasetError::Attachment { key: key.clone(), len: bytes.len() });
        }
        let held = self.hold(name)?;
        let folder = folder(&held.place);
        make(&folder)?;
        write(&folder, key.as_str(), bytes)
    }

    /// What is kept beside a dataset under a key. Waits for nobody.
    pub fn attached(&self, name: &DatasetName, key: &SnapshotName) -> Result<Option<Vec<u8>>, DatasetError> {
        let path = folder(&self.place(name)).join(key.as_str());
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DatasetError::io("read", path)(error)),
        }
    }

    /// Keys of what is kept beside a dataset, sorted. Waits for nobody.
    pub fn attachments(&self, name: &DatasetName) -> Result<Vec<SnapshotName>, DatasetError> {
        let folder = folder(&self.place(name));
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DatasetError::io("list", folder)(error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut keys: Vec<SnapshotName> = names.filter_map(|name| SnapshotName::new(name).ok()).collect();
        keys.sort();
        Ok(keys)
    }

    /// Takes what is kept under a key away; nothing, where there is none.
    pub fn remove_attachment(&self, name: &DatasetName, key: &SnapshotName) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let path = folder(&held.place).join(key.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DatasetError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

fn folder(at: &Place) -> PathBuf {
    at.folder.join(ATTACHED)
}
