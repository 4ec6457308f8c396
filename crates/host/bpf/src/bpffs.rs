//! A BPF file system of the node's own: what is pinned in it outlives the process that made it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::BpfError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

fn is_mounted(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|of| of.f_type as u32 == MAGIC)
}

/// Mounts one at `folder`, made when missing, unless one is there.
pub(crate) fn ensure(folder: &Path) -> Result<(), BpfError> {
    fs::create_dir_all(folder).map_err(|error| BpfError::Folder { path: folder.into(), error })?;
    if is_mounted(folder) {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let failed = |errno| BpfError::Mount { folder: folder.into(), errno };
    rustix::mount::mount("bpf", folder, "bpf", flags, c"mode=0700").map_err(failed)
}

/// Unmounts the one at `folder` and removes the folder; what was pinned in it is released. Nothing there is fine.
pub(crate) fn remove(folder: &Path) -> Result<(), BpfError> {
    while is_mounted(folder) {
        let failed = |errno| BpfError::Mount { folder: folder.into(), errno };
        match rustix::mount::unmount(folder, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // a folder in it, not it
            Err(errno) => return Err(failed(errno)),
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BpfError::Folder { path: folder.into(), error })
        }
        _ => Ok(()),
    }
}

/// The folder for maps of this layout, made when missing; those of other layouts are unpinned by [`keep_only`].
pub(crate) fn layout_folder(folder: &Path, layout: u64) -> Result<PathBuf, BpfError> {
    let path = folder.join(format!("maps-{layout:016x}"));
    match fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(BpfError::Folder { path, error }),
        _ => Ok(path),
    }
}

/// Unpins the maps of every layout but the one in `kept`: programs that used them are no longer attached.
pub(crate) fn keep_only(folder: &Path, kept: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_maps = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-"));
        if is_maps && path != kept {
            for map in fs::read_dir(&path)? {
                fs::remove_file(map?.path())?;
            }
            fs::remove_dir(&path)?;
        }
    }
    Ok(())
}
