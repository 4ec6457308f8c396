//! The directory a layer is unpacked into, reached only by descriptor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid};
use rustix::io::{Errno, Result};

use super::path::Place;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Symlinks of the layer resolve within it, as in a chroot; `/proc`-like links never do.
const CONFINED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The directory used last: entries come grouped by directory.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    pub(super) fn open_root(&self) -> Result<OwnedFd> {
        rustix::fs::openat(self.root, c".", DIRECTORY, Mode::empty())
    }

    /// Keeps a directory just made, as its contents usually come next.
    pub(super) fn remember(&mut self, path: &[u8], directory: OwnedFd) {
        let clean = path.strip_prefix(b"./").unwrap_or(path);
        let clean = clean.strip_suffix(b"/").unwrap_or(clean);
        // Only spellings that are clean already; others are simply looked up.
        let odd = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
        if !clean.split(|&b| b == b'/').any(odd) {
            self.last = Some((clean.to_vec(), directory));
        }
    }

    /// Makes a directory, or takes the one that is there. A whiteout there becomes an opaque directory: the layer
    /// removed what was below and put something new.
    pub(super) fn make_directory(&mut self, parent: &[u8], name: &[u8]) -> Result<OwnedFd> {
        let parent = self.directory(parent)?.try_clone_fd()?;
        self.make_directory_at(parent.as_fd(), name)
    }

    pub(super) fn make_file(&mut self, parent: &[u8], name: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.replacing(parent, name, |parent| rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR))
    }

    pub(super) fn make_symlink(&mut self, parent: &[u8], name: &[u8], target: &[u8]) -> Result<()> {
        self.replacing(parent, name, |parent| rustix::fs::symlinkat(target, parent, name))
    }

    pub(super) fn make_fifo(&mut self, parent: &[u8], name: &[u8], mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.replacing(parent, name, |parent| rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0))
    }

    /// The type of a hard link's target; `None` when it is not there.
    pub(super) fn link_target(&mut self, parent: &[u8], name: &[u8]) -> Result<Option<FileType>> {
        let parent = match self.open_beneath(parent) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(stat(parent.as_fd(), name)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    pub(super) fn make_link(&mut self, from_parent: &[u8], from: &[u8], parent: &[u8], name: &[u8]) -> Result<()> {
        let from_parent = self.open_beneath(from_parent)?;
        self.replacing(parent, name, |parent| rustix::fs::linkat(&from_parent, from, parent, name, AtFlags::empty()))
    }

    /// Owner and times of something that is not opened: a symlink or fifo.
    pub(super) fn own(&mut self, parent: &[u8], name: &[u8], uid: u32, gid: u32, times: &Timestamps) -> Result<()> {
        let parent = self.directory(parent)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(parent, name, times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Only for a fifo this unpacker just made: chmod follows symlinks.
    pub(super) fn set_fifo_mode(&mut self, parent: &[u8], name: &[u8], mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(self.directory(parent)?, name, mode, AtFlags::empty())
    }

    /// Hides `name` of the layers below. What this layer itself put there stays, as a directory that hides what is
    /// below it.
    pub(super) fn white_out(&mut self, parent: &[u8], name: &[u8]) -> Result<()> {
        let parent = self.directory(parent)?;
        match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => match open_directory(parent, name) {
                Ok(directory) => set_opaque(directory.as_fd()),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(error),
            },
            other => other,
        }
    }

    pub(super) fn make_opaque(&mut self, path: &[u8]) -> Result<()> {
        set_opaque(self.directory(path)?)
    }

    pub(super) fn date_directory(&mut self, place: &Place, times: &Timestamps) -> Result<()> {
        let directory = self.open_beneath(&place.path())?;
        rustix::fs::futimens(directory, times)
    }

    /// Runs `make`; when something is in the way, removes it and runs `make` again.
    fn replacing<T>(&mut self, parent: &[u8], name: &[u8], make: impl Fn(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        match make(self.directory(parent)?) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        let parent = self.directory(parent)?.try_clone_fd()?;
        // Descriptors of what is removed must not be used again.
        self.last = None;
        remove(parent.as_fd(), name)?;
        make(parent.as_fd())
    }

    fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let opened = match self.open_beneath(path) {
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_missing(path)?,
                other => other?,
            };
            self.last = Some((path.to_vec(), opened));
        }
        Ok(self.last.as_ref().map_or(self.root, |(_, fd)| fd.as_fd()))
    }

    fn open_beneath(&self, path: &[u8]) -> Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(self.root, path, flags, Mode::empty(), CONFINED)
    }

    /// Makes the directories of `path` that the layer has no entries for, 0755 and root's.
    fn make_missing(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut at = self.open_root()?;
        let mut end = 0;
        for name in path.split(|&b| b == b'/') {
            end += name.len();
            at = match self.open_beneath(&path[..end]) {
                Ok(opened) => opened,
                // The parent was reached through `open_beneath`, so this makes the name beneath the root.
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    // A symlink that leads nowhere in this layer, or a file: not ours to replace.
                    match stat(at.as_fd(), name)? {
                        Some(found) if !is_whiteout(&found) => return Err(Errno::NOTDIR),
                        _ => {}
                    }
                    let made = self.make_directory_at(at.as_fd(), name)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    made
                }
                Err(error) => return Err(error),
            };
            end += 1;
        }
        Ok(at)
    }

    fn make_directory_at(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => return open_directory(parent, name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let found = stat(parent, name)?.ok_or(Errno::NOENT)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return open_directory(parent, name);
        }
        self.last = None;
        remove(parent, name)?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        let directory = open_directory(parent, name)?;
        if is_whiteout(&found) {
            set_opaque(directory.as_fd())?;
        }
        Ok(directory)
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
}

fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this is overlayfs's whiteout: a character device 0:0.
pub(crate) fn is_whiteout(found: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

fn set_opaque(directory: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fsetxattr(directory, c"trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
}

/// Removes `name`, with all below it. Symlinks are removed, not followed.
fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    use std::os::unix::ffi::OsStrExt;
    // The parent by its descriptor and one name below it: nothing on the way can be a link of the image's.
    let path =
        std::path::Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(std::ffi::OsStr::from_bytes(name));
    std::fs::remove_dir_all(path).map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

/// A duplicate of a borrowed descriptor.
trait CloneFd {
    fn try_clone_fd(&self) -> Result<OwnedFd>;
}

impl CloneFd for BorrowedFd<'_> {
    fn try_clone_fd(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(self, 0)
    }
}
