//! What a container needs on disk before it can start, made before anybody waits for it.
//!
//! A dozen new files and directories are a millisecond of a disk filesystem's journal, which is most of what a node adds
//! to a start. So the directories of the next containers are made while nobody waits, under other names, and taken by one
//! rename; where there is none, it is made on the spot. Those that were never taken are made anew by the next daemon.
//!
//! Mount points that an image lacks (`/proc`, `/etc/hosts`, …) are in one read-only layer that goes below the layers of
//! every image: nothing is written into a container's own layer for them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::prepare::GENERATED;
use crate::root::{RECORD_DRAFT, Root};

/// Directories every container has something mounted on, with the modes that images have.
const MOUNT_POINTS: [(&str, u32); 4] = [("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("sys", 0o555)];

/// Made in advance: a handful of starts in a row finds them all made.
const SPARES: usize = 8;

/// How long nobody must have taken one before more are made: making them takes the disk and a processor from starts.
const QUIET: Duration = Duration::from_millis(20);

/// The directories of containers to come.
pub(crate) struct Directories {
    folder: PathBuf,
    spares: Mutex<Spares>,
    /// One thread makes them.
    making: Mutex<()>,
}

#[derive(Default)]
struct Spares {
    /// Whole, and nobody's.
    ready: Vec<PathBuf>,
    /// Names of those to come: no two are the same.
    next: u64,
    taken_at: Option<Instant>,
    /// Somebody waits for the quiet to make more.
    awaited: bool,
}

impl Directories {
    /// Makes the layer of mount points where it is missing, and the first spare directories.
    pub(crate) fn prepare(root: &Root) -> io::Result<Self> {
        make_mount_points(&root.mount_points())?;
        let folder = root.spare();
        remove_if_there(&folder)?;
        DirBuilder::new().mode(0o711).create(&folder)?;
        let directories = Self { folder, spares: Mutex::default(), making: Mutex::default() };
        directories.make_spares();
        Ok(directories)
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().expect("no panic holds this lock")
    }

    /// Gives a new container its directory `to`.
    pub(crate) fn take(&self, to: &Path) -> io::Result<()> {
        let spare = {
            let mut spares = self.spares();
            spares.taken_at = Some(Instant::now());
            spares.ready.pop()
        };
        match spare {
            Some(spare) if fs::rename(&spare, to).is_ok() => Ok(()),
            _ => make_all(to),
        }
    }

    /// Makes as many as are missing, once nobody takes one for a moment. Must be called within a tokio runtime.
    pub(crate) fn make_spares_when_quiet(self: &Arc<Self>) {
        if std::mem::replace(&mut self.spares().awaited, true) {
            return;
        }
        let directories = self.clone();
        tokio::spawn(async move {
            while directories.spares().taken_at.is_some_and(|at| at.elapsed() < QUIET) {
                tokio::time::sleep(QUIET).await;
            }
            directories.spares().awaited = false;
            tokio::task::spawn_blocking(move || directories.make_spares());
        });
    }

    /// Without room or rights there are none, and [`Self::take`] says why.
    fn make_spares(&self) {
        let _making = self.making.lock().expect("no panic holds this lock");
        loop {
            let path = {
                let mut spares = self.spares();
                if spares.ready.len() >= SPARES {
                    return;
                }
                spares.next += 1;
                self.folder.join(spares.next.to_string())
            };
            if let Err(error) = make_all(&path) {
                tracing::debug!(%error, "no directory is made in advance");
                return;
            }
            self.spares().ready.push(path);
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

    async fn until_all_are_made(directories: &Directories) {
        while directories.spares().ready.len() < SPARES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn spare_count(root: &Root) -> usize {
        fs::read_dir(root.spare()).unwrap().count()
    }

    #[test]
    fn one_made_in_advance_is_the_same_as_one_made_on_the_spot() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        let directories = Directories::prepare(&root).unwrap();
        assert_eq!(spare_count(&root), SPARES);
        let taken: Vec<PathBuf> = (0..=SPARES).map(|n| root.containers().join(n.to_string())).collect();
        taken.iter().for_each(|to| directories.take(to).unwrap());
        assert_eq!(spare_count(&root), 0);
        let (advance, spot) = (&taken[0], &taken[SPARES]);
        for path in ["", "etc", "etc/hosts", "scratch", "scratch/work", "log", "log/container.log", RECORD_DRAFT] {
            assert_eq!(mode(&advance.join(path)), mode(&spot.join(path)), "{path}");
        }
    }

    #[tokio::test]
    async fn more_are_made_once_nobody_takes_one() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        let directories = Arc::new(Directories::prepare(&root).unwrap());
        for n in 0..3 {
            directories.take(&root.containers().join(n.to_string())).unwrap();
            directories.make_spares_when_quiet();
        }
        assert_eq!(spare_count(&root), SPARES - 3);
        until_all_are_made(&directories).await;
        assert_eq!(spare_count(&root), SPARES);
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
                        directories.make_spares();
                    }
                });
            }
        });
    }

    #[test]
    fn what_a_killed_daemon_left_half_made_is_made_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Root::prepare(temporary.path()).unwrap();
        fs::create_dir_all(root.spare().join("1")).unwrap();
        fs::write(root.spare().join("1/half"), "x").unwrap();
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
