//! A directory copied with all that belongs to its files; their data is shared where the filesystem can share it.
//!
//! Every name is looked up once, in a directory that is open, and no link is followed: what is copied may be changed
//! meanwhile by somebody who wants the copy to lead out of it.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
    copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate, futimens, ioctl_ficlone,
    linkat, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

/// Deepest directory that is copied: each level holds two descriptors open.
const DEPTH_MAX: usize = 1000;
/// Bytes asked of one `copy_file_range`.
const PIECE: usize = 1 << 30;
/// Room for a list of attributes' names, and for a value: the kernel's limits (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

const INSIDE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies the contents and the attributes of the directory `from` into `to`, which is there and empty.
pub(crate) fn copy(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut copier = Copier { to: to.as_fd().try_clone_to_owned()?, linked: HashMap::new(), at: PathBuf::new() };
    let mut levels = vec![Level::new(from.as_fd().try_clone_to_owned()?, to.as_fd().try_clone_to_owned()?)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            finish(level.from.as_fd(), level.to.as_fd(), &fstat(&level.from)?)?;
            levels.pop();
            copier.at.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = copier.at.join(OsStr::from_bytes(name.to_bytes()));
        match copier.entry(level, name, &path) {
            Ok(None) => {}
            Ok(Some(_)) if levels.len() > DEPTH_MAX => {
                let text = format!("{} is deeper than {DEPTH_MAX} directories", path.display());
                return Err(io::Error::other(text));
            }
            Ok(Some(deeper)) => {
                levels.push(deeper);
                copier.at = path;
            }
            // It was removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Ok(())
}

/// A directory that is being copied.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    entries: Dir,
}

impl Level {
    fn new(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        Ok(Self { entries: Dir::read_from(&from)?, from, to })
    }
}

struct Copier {
    /// The copy's root.
    to: OwnedFd,
    /// Where the first of several names of a file is in the copy, by device and inode of the original.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Of the directory that is being copied, below the root.
    at: PathBuf,
}

impl Copier {
    /// Copies one; a directory is made, and given back to be filled.
    fn entry(&mut self, level: &Level, name: &CStr, path: &Path) -> io::Result<Option<Level>> {
        let (from, to) = (level.from.as_fd(), level.to.as_fd());
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let key = (stat.st_dev, stat.st_ino);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&key) {
                return Ok(linkat(&self.to, first, to, name, AtFlags::empty()).map(|()| None)?);
            }
            self.linked.insert(key, path.to_owned());
        }
        match kind {
            FileType::Directory => {
                let source = openat(from, name, INSIDE | OFlags::DIRECTORY, Mode::empty())?;
                mkdirat(to, name, Mode::RWXU)?;
                let copy = openat(to, name, INSIDE | OFlags::DIRECTORY, Mode::empty())?;
                return Level::new(source, copy).map(Some);
            }
            FileType::RegularFile => {
                let source = openat(from, name, INSIDE | OFlags::NONBLOCK, Mode::empty())?;
                let stat = fstat(&source)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(io::Error::other("it became something else while it was copied"));
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let copy = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                data(source.as_fd(), copy.as_fd(), stat.st_size.unsigned_abs())?;
                finish(source.as_fd(), copy.as_fd(), &stat)?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                finish_name(to, name, &stat)?;
            }
            _ => {
                mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
                finish_name(to, name, &stat)?;
            }
        }
        Ok(None)
    }
}

/// A file's bytes: shared, else copied without what it has no blocks for.
fn data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    match ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY) => {}
        Err(errno) => return Err(errno.into()),
    }
    ftruncate(to, len)?;
    let mut at = 0;
    while at < len {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(from, SeekFrom::Hole(begin))?.min(len);
        at = end;
        let (mut input, mut output) = (begin, begin);
        while input < end {
            let piece = usize::try_from(end - input).unwrap_or(PIECE).min(PIECE);
            // Nothing more: it was cut short meanwhile.
            if copy_file_range(from, Some(&mut input), to, Some(&mut output), piece)? == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Owner, mode, attributes and times of what is open.
fn finish(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    // The owner first: changing it takes setuid away.
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0u8; XATTR_MAX];
    let len = match flistxattr(from, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut value = vec![0u8; XATTR_MAX];
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = match fgetxattr(from, name, &mut value) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        fsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    Ok(futimens(to, &times(stat))?)
}

/// Owner and times of what cannot be opened.
fn finish_name(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    chownat(to, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), nofollow)?;
    Ok(utimensat(to, name, &times(stat), nofollow)?)
}

fn times(stat: &Stat) -> Timestamps {
    let of = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: of(stat.st_atime, stat.st_atime_nsec),
        last_modification: of(stat.st_mtime, stat.st_mtime_nsec),
    }
}
