//! What a container needs on disk before it can start, made before anybody waits for it.
//!
//! A dozen new files and directories are a millisecond of a disk filesystem's journal, which is most of what a node adds
//! to a start. So the next container's directory is made while nobody waits (after a start) under another name, and taken
//! by one rename; where there is none yet, it is made on the spot. One that was never taken is made anew by the next
//! daemon.
//!
//! Mount points that an image lacks (`/proc`, `/etc/hosts`, …) are in one read-only layer that goes below the layers of
//! every image: nothing is written into a container's own layer for them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::prepare::GENERATED;
use crate::root::{RECORD_DRAFT, Root};

/// Directories every container has something mounted on, with the modes that images have.
const MOUNT_POINTS: [(&str, u32); 4] = [("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("sys", 0o555)];

/// The directories of containers to come.
pub(crate) struct Directories {
    spare: PathBuf,
    /// Whether it is there. Locked while it is made or taken: nobody takes half a one.
    ready: Mutex<bool>,
}

impl Directories {
    /// Makes the layer of mount points where it is missing, and the first spare directory.
    pub(crate) fn prepare(root: &Root) -> io::Result<Self> {
        make_mount_points(&root.mount_points())?;
        let directories = Self { spare: root.spare(), ready: Mutex::new(false) };
        directories.make_spare();
        Ok(directories)
    }

    /// Gives a new container its directory `to`.
    pub(crate) fn take(&self, to: &Path) -> io::Result<()> {
        // While the next one is being made, this one is made at the same time.
        if let Ok(mut ready) = self.ready.try_lock()
            && std::mem::take(&mut *ready)
            && fs::rename(&self.spare, to).is_ok()
        {
            return Ok(());
        }
        make_all(to)
    }

    /// Makes the next one's, if it is not there. Without room or rights there is none, and [`Self::take`] says why.
    pub(crate) fn make_spare(&self) {
        let Ok(mut ready) = self.ready.try_lock() else { return };
        if *ready {
            return;
        }
        let made = remove_if_there(&self.spare).and_then(|()| make_all(&self.spare));
        match made {
            Ok(()) => *ready = true,
            Err(error) => tracing::debug!(%error, "no directory is made in advance"),
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Files are there and empty, so that whoever fills them has none to make.
fn make_all(dir: &Path) -> io::Result<()> {
    for (path, mode) in [("", 0o711), ("etc", 0o711), ("scratch", 0o711), ("scratch/work", 0o700), ("log", 0o700)] {
        DirBuilder::new().mode(mode).create(dir.join(path))?;
    }
    for name in GENERATED {
        File::create_new(dir.join("etc").join(name))?;
    }
    File::create_new(dir.join(RECORD_DRAFT))?;
    // As the launcher makes those that follow it.
    OpenOptions::new().write(true).create_new(true).mode(0o640).open(dir.join("log/container.log"))?;
    Ok(())
}

fn make_mount_points(layer: &Path) -> io::Result<()> {
    // Containers read them: the daemon's umask does not count.
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode));
    let directory = |path: &Path| match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    directory(layer)?;
    mode(layer, 0o755)?;
    for (name, bits) in MOUNT_POINTS {
        directory(&layer.join(name))?;
        mode(&layer.join(name), bits)?;
    }
    for name in GENERATED {
        let path = layer.join("etc").join(name);
        File::create(&path)?;
        mode(&path, 0o644)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn one_made_in_advance_is_the_same_as_one_made_on_the_spot() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        let directories = Directories::prepare(&root).unwrap();
        assert!(root.spare().exists());
        let (advance, spot) = (root.containers().join("a"), root.containers().join("b"));
        directories.take(&advance).unwrap();
        assert!(!root.spare().exists());
        directories.take(&spot).unwrap();
        for path in ["", "etc", "etc/hosts", "scratch", "scratch/work", "log", "log/container.log", RECORD_DRAFT] {
            assert_eq!(mode(&advance.join(path)), mode(&spot.join(path)), "{path}");
        }
        directories.make_spare();
        assert!(root.spare().exists());
    }

    #[test]
    fn many_that_take_and_make_at_once_all_get_a_whole_one() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        let directories = Directories::prepare(&root).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (directories, root) = (&directories, &root);
                scope.spawn(move || {
                    for number in 0..200 {
                        let to = root.containers().join(format!("{thread}-{number}"));
                        directories.take(&to).unwrap();
                        assert!(to.join("log/container.log").exists() && to.join("etc/resolv.conf").exists());
                        directories.make_spare();
                    }
                });
            }
        });
    }

    #[test]
    fn what_a_killed_daemon_left_half_made_is_made_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        fs::create_dir(root.spare()).unwrap();
        fs::write(root.spare().join("half"), "x").unwrap();
        let directories = Directories::prepare(&root).unwrap();
        let taken = root.containers().join("a");
        directories.take(&taken).unwrap();
        assert!(taken.join("scratch/work").is_dir() && !taken.join("half").exists());
    }

    #[test]
    fn the_layer_of_mount_points_survives_being_made_twice() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        Directories::prepare(&root).unwrap();
        Directories::prepare(&root).unwrap();
        assert_eq!(mode(&root.mount_points().join("proc")), 0o555);
        assert_eq!(mode(&root.mount_points().join("etc/hosts")), 0o644);
    }
}
