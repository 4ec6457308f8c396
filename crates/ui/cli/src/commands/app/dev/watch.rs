//! Changes of files by inotify, gathered until it has been quiet for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::reach::is_ignored;

/// So long nothing may come before changes are handed on: an editor's save is several.
const QUIET: Duration = Duration::from_millis(80);

/// They are handed on after this at the latest.
const HELD_MAX: Duration = Duration::from_millis(400);

/// Most directories watched: below what the kernel allows a user by default since 5.11.
const WATCHES_MAX: usize = 8192;

/// Deepest directory watched below one that was asked for.
const DEPTH_MAX: usize = 32;

/// What changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) paths: BTreeSet<PathBuf>,
    /// The kernel had more to say than it could keep.
    pub(super) overflowed: bool,
}

/// Directories that are watched.
pub(super) struct Watcher {
    fd: AsyncFd<OwnedFd>,
    /// By watch: the directory, and whether what is made below is watched too.
    watches: BTreeMap<i32, (PathBuf, bool)>,
    held: Option<Held>,
}

/// Changes that wait to be handed on.
struct Held {
    /// When the first came.
    first: Instant,
    /// When there was more than before.
    last: Instant,
    /// Bytes of them.
    pending: u64,
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "its replacement is unsafe; for an OwnedFd this one is sound")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, watches: BTreeMap::new(), held: None })
    }

    /// Watches a directory; `whole`: with all below. One that is not there is passed over.
    pub(super) fn add(&mut self, dir: &Path, whole: bool) -> io::Result<()> {
        let mut left = vec![(dir.to_owned(), 0)];
        while let Some((dir, depth)) = left.pop() {
            if self.watches.len() >= WATCHES_MAX {
                return Err(io::Error::other(format!("there are more than {WATCHES_MAX} directories to watch")));
            }
            let what = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR;
            match inotify::add_watch(self.fd.get_ref(), &dir, what) {
                Ok(watch) => {
                    let known = self.watches.entry(watch).or_insert_with(|| (dir.clone(), false));
                    known.1 |= whole;
                }
                // Gone meanwhile, or nothing that can be watched.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::ACCESS) => continue,
                Err(error) => return Err(error.into()),
            }
            if !whole || depth >= DEPTH_MAX {
                continue;
            }
            let below = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            // Links are not followed: what they lead to may be anything.
            let dirs = below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && !is_ignored(&entry.file_name()));
            left.extend(dirs.map(|entry| (entry.path(), depth + 1)));
        }
        Ok(())
    }

    /// Waits for changes. Nothing is lost when the wait is given up, and none of it is waited for again: who shows lines
    /// meanwhile gives it up all the time.
    pub(super) async fn changed(&mut self) -> io::Result<Changed> {
        loop {
            self.fd.readable().await?.retain_ready();
            // What is there is left with the kernel until it is all handed on at once.
            let (pending, now) = (self.pending()?, Instant::now());
            let held = self.held.get_or_insert(Held { first: now, last: now, pending });
            if held.pending != pending {
                (held.pending, held.last) = (pending, now);
            }
            let due = (held.last + QUIET).min(held.first + HELD_MAX);
            if now >= due {
                self.held = None;
                return self.read();
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// Bytes of events that wait.
    fn pending(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(self.fd.get_ref())?)
    }

    /// Everything that waits.
    fn read(&mut self) -> io::Result<Changed> {
        let mut changed = Changed::default();
        let mut made = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(self.fd.get_ref().as_fd(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                changed.overflowed = true;
            }
            let Some((dir, whole)) = self.watches.get(&event.wd()) else { continue };
            let Some(name) = event.file_name() else { continue };
            let path = dir.join(std::ffi::OsStr::new(&*name.to_string_lossy()));
            let arrived = event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            if *whole && arrived && event.events().contains(ReadFlags::ISDIR) {
                made.push(path.clone());
            }
            changed.paths.insert(path);
        }
        // The kernel says readable again only for what comes now.
        self.forget_readiness();
        for dir in made {
            self.add(&dir, true)?;
        }
        Ok(changed)
    }

    fn forget_readiness(&self) {
        // All was read: whoever waits next waits for something new.
        let _ = self.fd.try_io(tokio::io::Interest::READABLE, |_| -> io::Result<()> {
            match self.pending() {
                Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_anywhere_below_are_told_once_each_and_new_directories_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let mut watcher = Watcher::new().unwrap();
        watcher.add(dir.path(), true).unwrap();
        let file = dir.path().join("a/b/file");
        for text in ["1", "2", "3"] {
            std::fs::write(&file, text).unwrap();
        }
        assert_eq!(watcher.changed().await.unwrap().paths, BTreeSet::from([file]));

        let (inner, moved) = (dir.path().join("new"), dir.path().join("moved"));
        std::fs::create_dir(&inner).unwrap();
        assert!(watcher.changed().await.unwrap().paths.contains(&inner));
        std::fs::write(inner.join("x"), "x").unwrap();
        assert_eq!(watcher.changed().await.unwrap().paths, BTreeSet::from([inner.join("x")]));
        std::fs::rename(&inner, &moved).unwrap();
        assert_eq!(watcher.changed().await.unwrap().paths, BTreeSet::from([inner, moved]));
    }

    #[tokio::test]
    async fn a_directory_that_is_watched_alone_says_nothing_of_those_below() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        let mut watcher = Watcher::new().unwrap();
        watcher.add(dir.path(), false).unwrap();
        watcher.add(&dir.path().join("not there"), false).unwrap();
        std::fs::write(dir.path().join("below/x"), "x").unwrap();
        std::fs::write(dir.path().join("y"), "y").unwrap();
        assert_eq!(watcher.changed().await.unwrap().paths, BTreeSet::from([dir.path().join("y")]));
    }
}
