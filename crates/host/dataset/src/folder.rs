//! The folders that datasets and what belongs to them are kept in.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use coppice_base::Name;
use rustix::fs::{FlockOperation, flock};

use crate::error::DatasetError;
use crate::name::{DatasetName, NO_APP};
use crate::tree::open;

pub(crate) fn make(folder: &Path) -> Result<(), DatasetError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o711).create(folder).map_err(DatasetError::io("make", folder))
}

/// Has this operation wait for those that hold the folder, and others for this one, until it is dropped.
pub(crate) fn lock(folder: &Path) -> Result<File, DatasetError> {
    let lock = open(folder)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(DatasetError::errno("lock", folder))?;
    Ok(lock)
}

/// A rename that is on disk when it returns.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DatasetError> {
    fs::rename(from, to).map_err(DatasetError::io("rename", from))?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    open(folder)?.sync_all().map_err(DatasetError::io("write", folder))
}

/// Names of the directories in one, sorted.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let entries = fs::read_dir(folder).map_err(DatasetError::io("list", folder))?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Datasets whose folders are below one, by name.
pub(crate) fn of_paths(root: &Path) -> Result<Vec<DatasetName>, DatasetError> {
    let mut all = Vec::new();
    for app in names(root)? {
        let Some(of) = app_of(&app) else { continue };
        // An app whose last dataset went meanwhile has none.
        for volume in names(&root.join(&app)).unwrap_or_default() {
            all.extend(Name::new(volume).ok().map(|volume| DatasetName { app: of.clone(), volume }));
        }
    }
    all.sort();
    Ok(all)
}

/// Whose datasets a folder holds: an app's, or those of none; `None` where it is no such folder.
#[allow(clippy::option_option, reason = "whether it is one, and whose")]
pub(crate) fn app_of(folder: &str) -> Option<Option<Name>> {
    match Name::new(folder) {
        Ok(name) => Some(Some(name)),
        Err(_) if folder == NO_APP => Some(None),
        Err(_) => None,
    }
}

/// Writes a file beside, and puts it in the place of the one that is there. Both are on disk when it returns.
pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), DatasetError> {
    let aside = folder.join(format!(".{name}.new"));
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&aside);
        return Err(DatasetError::io("write", aside)(error));
    }
    rename(&aside, &folder.join(name))
}
