//! The two forms of trees: what making, copying and removing one is for each.

use std::fs::{self, File};
use std::path::Path;

use coppice_linux::{
    BTRFS_MAGIC, create_subvolume, destroy_subvolume, is_subvolume, set_subvolume_read_only, snapshot_subvolume,
    statfs_magic,
};

use crate::copy::copy;
use crate::error::DatasetError;

/// What a head and its snapshots are, where they are trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Subvolume,
    Directory,
}

impl Form {
    /// What the filesystem of a directory is good for.
    pub(crate) fn of(directory: &Path) -> Result<Self, DatasetError> {
        let magic = statfs_magic(open(directory)?).map_err(DatasetError::call("look at", directory))?;
        Ok(if magic == BTRFS_MAGIC { Self::Subvolume } else { Self::Directory })
    }

    /// An empty tree, mode 0755.
    pub(crate) fn create(self, at: &Path) -> Result<(), DatasetError> {
        match self {
            Self::Subvolume => {
                let (parent, name) = place(at)?;
                create_subvolume(parent, name).map_err(DatasetError::call("make", at))
            }
            Self::Directory => fs::create_dir(at).map_err(DatasetError::io("make", at)),
        }
    }

    /// A copy of a tree, on disk when this returns.
    pub(crate) fn copy(self, from: &Path, to: &Path) -> Result<(), DatasetError> {
        let source = open(from)?;
        match self {
            Self::Subvolume => {
                let (parent, name) = place(to)?;
                snapshot_subvolume(source, parent, name, false).map_err(DatasetError::call("snapshot", from))
            }
            Self::Directory => {
                fs::create_dir(to).map_err(DatasetError::io("make", to))?;
                let target = open(to)?;
                copy(&source, &target).map_err(DatasetError::io("copy", from))?;
                rustix::fs::syncfs(&target).map_err(DatasetError::errno("write", to))
            }
        }
    }

    /// Sees to it that nobody writes there, where the kind can.
    pub(crate) fn seal(self, at: &Path) -> Result<(), DatasetError> {
        match self {
            Self::Subvolume => set_subvolume_read_only(open(at)?, true).map_err(DatasetError::call("close", at)),
            Self::Directory => Ok(()),
        }
    }

    /// Removes a tree, sealed or not.
    pub(crate) fn remove(self, at: &Path) -> Result<(), DatasetError> {
        if self == Self::Subvolume && is_subvolume(open(at)?).map_err(DatasetError::call("look at", at))? {
            let (parent, name) = place(at)?;
            return destroy_subvolume(parent, name).map_err(DatasetError::call("remove", at));
        }
        fs::remove_dir_all(at).map_err(DatasetError::io("remove", at))
    }
}

pub(crate) fn open(directory: &Path) -> Result<File, DatasetError> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    let mut options = File::options();
    let opened = options.read(true).custom_flags(flags.bits().cast_signed()).open(directory);
    opened.map_err(DatasetError::io("open", directory))
}

/// A path's parent, open, and its last part, which is always text here.
fn place(path: &Path) -> Result<(File, &str), DatasetError> {
    let parent = open(path.parent().unwrap_or(Path::new("/")))?;
    Ok((parent, path.file_name().and_then(|name| name.to_str()).unwrap_or_default()))
}
