//! The two forms of trees: what making, copying and removing one is for each.

use std::fs::{self, File};
use std::path::Path;

use coppice_linux::{
    BTRFS_MAGIC, commit_btrfs, create_subvolume, destroy_subvolume, enable_simple_quotas, is_subvolume,
    limit_subvolume, set_subvolume_read_only, snapshot_subvolume, statfs_magic,
};
use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::copy::copy;
use crate::error::DatasetError;
use crate::folder::rename;
use crate::properties::{Compression, Properties};

/// What btrfs calls the property (btrfs-property(8)).
const COMPRESSION: &str = "btrfs.compression";

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

    /// Gives a tree another name; [settled](Self::settle) later, where that is one step with what else is done.
    pub(crate) fn rename(self, from: &Path, to: &Path) -> Result<(), DatasetError> {
        match self {
            Self::Subvolume => fs::rename(from, to).map_err(DatasetError::io("rename", from)),
            Self::Directory => rename(from, to),
        }
    }

    /// Has what was done below a folder be on disk. On btrfs one transaction follows the other, so that all before it is; elsewhere
    /// each step was waited for.
    pub(crate) fn settle(self, folder: &Path) -> Result<(), DatasetError> {
        match self {
            Self::Subvolume => commit_btrfs(open(folder)?).map_err(DatasetError::call("write", folder)),
            Self::Directory => Ok(()),
        }
    }

    /// Sees to it that nobody writes there, where the kind can.
    pub(crate) fn seal(self, at: &Path) -> Result<(), DatasetError> {
        match self {
            Self::Subvolume => set_subvolume_read_only(open(at)?, true).map_err(DatasetError::call("close", at)),
            Self::Directory => Ok(()),
        }
    }

    /// Has a tree be kept so, as far as the form can; says what it cannot.
    pub(crate) fn set_properties(self, at: &Path, properties: &Properties) -> Result<Vec<String>, DatasetError> {
        let Properties { compression, quota, record_size } = *properties;
        let mut words = Vec::new();
        if let Some(size) = record_size {
            words.push(format!("record_size = {size}: only ZFS keeps files in records; ignored here"));
        }
        match self {
            Self::Subvolume => {
                // The limit first: where it is reached, the other can only be written with more room.
                words.extend(limit(at, quota)?);
                words.extend(compress(at, compression)?);
            }
            Self::Directory => {
                if let Some(compression) = compression.filter(|one| *one != Compression::Off) {
                    let asked = compression.as_str();
                    words.push(format!(
                        "compression = {asked:?}: directories are not compressed; put volumes on btrfs or ZFS"
                    ));
                }
                if let Some(quota) = quota {
                    words.push(format!(
                        "quota = {quota}: directories have no limit of their own; put volumes on btrfs or ZFS"
                    ));
                }
            }
        }
        Ok(words)
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

/// Has what is made in a subvolume be compressed.
fn compress(at: &Path, compression: Option<Compression>) -> Result<Option<String>, DatasetError> {
    let (value, word) = match compression {
        None => ("", None),
        Some(Compression::Off) => ("none", None),
        Some(Compression::Lz4) => ("lzo", Some("compression = \"lz4\": btrfs has none; lzo is used".to_owned())),
        Some(Compression::Zstd) => ("zstd", None),
        Some(Compression::Gzip) => ("zlib", None),
    };
    let tree = open(at)?;
    let mut is = [0u8; 16];
    let len = match fgetxattr(&tree, COMPRESSION, &mut is) {
        Err(Errno::NODATA) => 0,
        other => other.map_err(DatasetError::errno("look at the compression of", at))?,
    };
    if is[..len] == *value.as_bytes() {
        return Ok(word);
    }
    if value.is_empty() {
        match fremovexattr(&tree, COMPRESSION) {
            Err(Errno::NODATA) | Ok(()) => {}
            Err(errno) => return Err(DatasetError::errno("set the compression of", at)(errno)),
        }
    } else {
        let set = fsetxattr(&tree, COMPRESSION, value.as_bytes(), XattrFlags::empty());
        set.map_err(DatasetError::errno("set the compression of", at))?;
    }
    Ok(word)
}

/// Has a subvolume hold at most so much.
fn limit(at: &Path, quota: Option<u64>) -> Result<Option<String>, DatasetError> {
    let tree = open(at)?;
    let mut limited = limit_subvolume(&tree, quota);
    if limited.as_ref().is_err_and(|error| error.errno == Errno::NOTCONN) {
        let Some(quota) = quota else { return Ok(None) };
        // Full accounting would make each removal of a snapshot slow.
        if let Err(error) = enable_simple_quotas(&tree) {
            return Ok(Some(format!(
                "quota = {quota}: this kernel's btrfs counts nothing by subvolume ({error}); no limit"
            )));
        }
        limited = limit_subvolume(&tree, Some(quota));
    }
    limited.map(|()| None).map_err(DatasetError::call("limit", at))
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
