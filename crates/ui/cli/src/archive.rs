//! Tars between a container and this machine, for `cp`.
//!
//! A tar from a container is hostile until shown otherwise. It is unpacked by descriptor: each entry's directory is
//! opened with `openat2` below the target directory, through no symbolic link, so no entry can name, follow or swap its
//! way out. Devices and FIFOs are left out, set-id bits too unless owners are kept (a container's root must not leave
//! a set-id file of this machine's root behind).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use tar::{Archive, EntryType};

/// Deepest path that is unpacked: each level costs an open directory while it is walked.
const DEPTH_MAX: usize = 256;

/// Why a copy failed. What had been copied before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the container's archive cannot be read: {0}")]
    Tar(io::Error),
    #[error("the container's archive holds {}, which leads out of the directory that is copied; nothing was written there", path.display())]
    Outside { path: PathBuf },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{what}")]
    Usage { what: String },
}

impl ArchiveError {
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Usage { .. })
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into() }
    }
}

/// Whether the first entry of a tar is a directory; `None` for an empty tar.
pub(crate) fn first_is_directory(tar: impl Read) -> Result<Option<bool>, ArchiveError> {
    let mut archive = Archive::new(tar);
    match archive.entries().map_err(ArchiveError::Tar)?.next() {
        None => Ok(None),
        Some(entry) => Ok(Some(entry.map_err(ArchiveError::Tar)?.header().entry_type().is_dir())),
    }
}

/// Where a copied file or directory goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Into this directory, under its own name.
    Into(PathBuf),
    /// As this path; its parent is there.
    As(PathBuf),
    /// What is inside it goes into this directory, which is made when it is not there.
    Contents(PathBuf),
}

/// Unpacks the tar of one file or directory. The first entry is that thing itself; all others must be below it.
/// `named` is its own name, for `Into`. Returns what was left out.
pub(crate) fn unpack(
    tar: impl Read,
    named: &OsStr,
    destination: &Destination,
    keep_owners: bool,
) -> Result<Vec<PathBuf>, ArchiveError> {
    let (root_path, prefix): (PathBuf, PathBuf) = match destination {
        Destination::Into(directory) => (directory.clone(), named.into()),
        Destination::As(path) => {
            let name =
                path.file_name().ok_or_else(|| ArchiveError::usage(format!("{} is no file's name", path.display())))?;
            (parent_of(path), name.into())
        }
        Destination::Contents(directory) => {
            if let Err(source) = std::fs::create_dir(directory)
                && source.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(ArchiveError::Write { path: directory.clone(), source });
            }
            (directory.clone(), PathBuf::new())
        }
    };
    let failed = |source: rustix::io::Errno| ArchiveError::Write { path: root_path.clone(), source: source.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&root_path, flags, Mode::empty()).map_err(failed)?;
    let mut unpacker =
        Unpacker { root, root_path, prefix, top: None, keep_owners, left_out: Vec::new(), times: Vec::new() };
    let mut archive = Archive::new(tar);
    for entry in archive.entries().map_err(ArchiveError::Tar)? {
        unpacker.entry(entry.map_err(ArchiveError::Tar)?)?;
    }
    unpacker.finish();
    Ok(unpacker.left_out)
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

struct Unpacker {
    root: OwnedFd,
    /// For messages.
    root_path: PathBuf,
    /// What the first entry's path is replaced by.
    prefix: PathBuf,
    /// The first entry's path.
    top: Option<PathBuf>,
    keep_owners: bool,
    left_out: Vec<PathBuf>,
    /// Directories' times and modes, set last: unpacking into them changes the first and may be forbidden by the second.
    times: Vec<(PathBuf, u64, u32)>,
}

impl Unpacker {
    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), ArchiveError> {
        let raw = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let inside = plain(&raw)?;
        let top = self.top.get_or_insert_with(|| inside.clone());
        let rest = inside.strip_prefix(&*top).map_err(|_| ArchiveError::Outside { path: raw.clone() })?.to_owned();
        let place = if rest.as_os_str().is_empty() { self.prefix.clone() } else { self.prefix.join(&rest) };
        let mode = entry.header().mode().map_err(ArchiveError::Tar)? & if self.keep_owners { 0o7777 } else { 0o1777 };
        let mtime = entry.header().mtime().unwrap_or(0);
        let kind = entry.header().entry_type();
        let Some(name) = place.file_name().map(OsStr::to_owned) else {
            // The directory itself, whose contents go into one that is there: that one stays as it is.
            return if kind.is_dir() { Ok(()) } else { Err(ArchiveError::Outside { path: raw }) };
        };
        let parent = self.directory(&parent_in(&place), &raw)?;
        let failed = |source: rustix::io::Errno| ArchiveError::Write {
            path: self.root_path.join(&place),
            source: source.into(),
        };
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::EXIST) => {
                        // A directory that is there is used; anything else, a link to one too, is not.
                        let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
                            return Err(failed(rustix::io::Errno::NOTDIR));
                        }
                    }
                    Err(error) => return Err(failed(error)),
                }
                self.own(parent.as_fd(), &name, entry.header()).map_err(failed)?;
                self.times.push((place, mtime, mode));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(parent.as_fd(), &name).map_err(failed)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
                let mut file = File::from(file);
                io::copy(&mut entry, &mut file)
                    .map_err(|source| ArchiveError::Write { path: self.root_path.join(&place), source })?;
                self.own(parent.as_fd(), &name, entry.header()).map_err(failed)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
                rustix::fs::futimens(&file, &timestamps(mtime)).map_err(failed)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| ArchiveError::Outside { path: raw.clone() })?;
                clear(parent.as_fd(), &name).map_err(failed)?;
                // It may point anywhere: nothing here follows it.
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, &name).map_err(failed)?;
                self.own(parent.as_fd(), &name, entry.header()).map_err(failed)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| ArchiveError::Outside { path: raw.clone() })?;
                let target = PathBuf::from(OsString::from_vec(target.into_owned()));
                let outside = || ArchiveError::Outside { path: target.clone() };
                let top = self.top.clone().unwrap_or_default();
                let rest = plain(&target)?.strip_prefix(&top).map_err(|_| outside())?.to_owned();
                let from = if rest.as_os_str().is_empty() { self.prefix.clone() } else { self.prefix.join(rest) };
                let from_name = from.file_name().ok_or_else(outside)?;
                let from_parent = self.directory(&parent_in(&from), &target)?;
                clear(parent.as_fd(), &name).map_err(failed)?;
                rustix::fs::linkat(&from_parent, from_name, &parent, &name, AtFlags::empty()).map_err(failed)?;
            }
            _ => self.left_out.push(rest),
        }
        Ok(())
    }

    /// The directory `path` below the root, made where it is missing, reached through no link.
    fn directory(&self, path: &Path, raw: &Path) -> Result<OwnedFd, ArchiveError> {
        let failed =
            |source: rustix::io::Errno| ArchiveError::Write { path: self.root_path.join(path), source: source.into() };
        let mut current = open_below(self.root.as_fd(), Path::new(".")).map_err(failed)?;
        for part in path.components() {
            let name = part.as_os_str();
            current = match open_below(current.as_fd(), Path::new(name)) {
                Ok(next) => next,
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
                    open_below(current.as_fd(), Path::new(name)).map_err(failed)?
                }
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => {
                    return Err(ArchiveError::Outside { path: raw.to_owned() });
                }
                Err(error) => return Err(failed(error)),
            };
        }
        Ok(current)
    }

    fn own(&self, parent: BorrowedFd<'_>, name: &OsStr, header: &tar::Header) -> rustix::io::Result<()> {
        if !self.keep_owners {
            return Ok(());
        }
        let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        let (uid, gid) = (id(header.uid()), id(header.gid()));
        rustix::fs::chownat(
            parent,
            name,
            uid.map(rustix::fs::Uid::from_raw),
            gid.map(rustix::fs::Gid::from_raw),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// Modes and times of directories, deepest first.
    fn finish(&mut self) {
        for (place, mtime, mode) in std::mem::take(&mut self.times).into_iter().rev() {
            // It was written a moment ago; if someone has changed it since, theirs stays.
            if let Ok(directory) = open_below(self.root.as_fd(), &place) {
                let _ = rustix::fs::futimens(&directory, &timestamps(mtime));
                let _ = rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode));
            }
        }
    }
}

fn parent_in(place: &Path) -> PathBuf {
    place.parent().map(Path::to_owned).unwrap_or_default()
}

fn open_below(directory: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::io::retry_on_intr(|| rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve))
}

/// Removes a file or link in the way; a directory stays and makes the next step fail.
fn clear(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn timestamps(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// A path of a tar as plain components: no root, no `..`, no `.`.
fn plain(path: &Path) -> Result<PathBuf, ArchiveError> {
    let mut out = PathBuf::new();
    let mut depth = 0;
    for part in path.components() {
        match part {
            Component::Normal(name) if !name.as_bytes().contains(&0) => out.push(name),
            Component::CurDir => {}
            _ => return Err(ArchiveError::Outside { path: path.to_owned() }),
        }
        depth += 1;
        if depth > DEPTH_MAX {
            return Err(ArchiveError::Tar(io::Error::new(io::ErrorKind::InvalidData, "its directories are too deep")));
        }
    }
    Ok(out)
}

/// Writes a container's tar of one file or directory with its first entry called `name`, or, without a name, only what is
/// inside it: for another container, whose node checks every name again.
pub(crate) fn rename(
    tar: impl Read,
    name: Option<&OsStr>,
    keep_owners: bool,
    out: impl Write,
) -> Result<(), ArchiveError> {
    let mut archive = Archive::new(tar);
    let mut renamed = tar::Builder::new(out);
    let mut top: Option<PathBuf> = None;
    for entry in archive.entries().map_err(ArchiveError::Tar)? {
        let mut entry = entry.map_err(ArchiveError::Tar)?;
        let raw = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let inside = plain(&raw)?;
        let top = top.get_or_insert_with(|| inside.clone());
        let rest = inside.strip_prefix(&*top).map_err(|_| ArchiveError::Outside { path: raw.clone() })?;
        let place = if rest.as_os_str().is_empty() {
            name.map(PathBuf::from).unwrap_or_default()
        } else {
            Path::new(name.unwrap_or_default()).join(rest)
        };
        if place.as_os_str().is_empty() {
            continue; // the directory itself; the one it goes into stays as it is
        }
        let mut header = entry.header().clone();
        if !keep_owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        let target = entry.link_name_bytes().map(|target| OsString::from_vec(target.into_owned()));
        let added = match target.filter(|_| header.entry_type().is_symlink()) {
            Some(target) => renamed.append_link(&mut header, &place, target),
            None => renamed.append_data(&mut header, &place, &mut entry),
        };
        added.map_err(ArchiveError::Tar)?;
    }
    renamed.finish().map_err(ArchiveError::Tar)
}

/// Writes `source` as a tar whose first entry is called `name`, or, without a name, only what is inside it.
pub(crate) fn pack(
    source: &Path,
    name: Option<&OsStr>,
    keep_owners: bool,
    out: impl Write,
) -> Result<(), ArchiveError> {
    let mut packer = Packer { tar: tar::Builder::new(out), keep_owners };
    packer.tar.follow_symlinks(false);
    match name {
        Some(name) => packer.add(source, Path::new(name))?,
        None => packer.children(source, Path::new(""))?,
    }
    packer.tar.finish().map_err(|source_error| ArchiveError::Read { path: source.to_owned(), source: source_error })
}

struct Packer<W: Write> {
    tar: tar::Builder<W>,
    keep_owners: bool,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &Path, name: &Path) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Read { path: path.to_owned(), source };
        let meta = std::fs::symlink_metadata(path).map_err(failed)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        if self.keep_owners {
            header.set_uid(meta.uid().into());
            header.set_gid(meta.gid().into());
        } else {
            // As docker: what is copied in belongs to the container's root.
            header.set_uid(0);
            header.set_gid(0);
        }
        if meta.is_dir() {
            header.set_size(0);
            self.tar.append_data(&mut header, name, io::empty()).map_err(failed)?;
            self.children(path, name)
        } else if meta.is_symlink() {
            let target = std::fs::read_link(path).map_err(failed)?;
            header.set_size(0);
            self.tar.append_link(&mut header, name, target).map_err(failed)
        } else if meta.is_file() {
            let file = File::open(path).map_err(failed)?;
            // A file that grows meanwhile must not spoil the tar, one that shrinks is an error.
            let mut exact = Exact { inner: file, left: meta.len() };
            self.tar.append_data(&mut header, name, &mut exact).map_err(failed)
        } else {
            // Sockets, devices and FIFOs do not travel.
            Ok(())
        }
    }

    fn children(&mut self, path: &Path, name: &Path) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Read { path: path.to_owned(), source };
        let mut names = std::fs::read_dir(path)
            .and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
            })
            .map_err(failed)?;
        names.sort();
        for child in names {
            self.add(&path.join(&child), &name.join(&child))?;
        }
        Ok(())
    }
}

/// Exactly as many bytes as were promised.
struct Exact {
    inner: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A tar with raw entries: path, type, link target, contents. Paths are written unchecked.
    fn tar_of(entries: &[(&str, EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, link, contents) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_700_000_000);
            header.set_size(contents.len() as u64);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, contents.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const DIR: EntryType = EntryType::Directory;
    const FILE: EntryType = EntryType::Regular;
    const LINK: EntryType = EntryType::Symlink;

    fn take(directory: &Path, entries: &[(&str, EntryType, &str, &str)]) -> Result<Vec<PathBuf>, ArchiveError> {
        unpack(&tar_of(entries)[..], OsStr::new("top"), &Destination::Into(directory.join("in")), false)
    }

    /// A place to unpack in, `in`, beside which nothing may appear.
    fn place() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        dir
    }

    fn untouched(dir: &Path) {
        let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["in"], "something was written outside");
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let dir = place();
        let left_out = take(
            dir.path(),
            &[
                ("x/", DIR, "", ""),
                ("x/a", FILE, "", "hello"),
                ("x/sub/", DIR, "", ""),
                ("x/sub/l", LINK, "/etc/passwd", ""),
                ("x/hard", EntryType::Link, "x/a", ""),
                ("x/dev", EntryType::Char, "", ""),
                ("x/fifo", EntryType::Fifo, "", ""),
            ],
        )
        .unwrap();
        let top = dir.path().join("in/top");
        assert_eq!(std::fs::read_to_string(top.join("a")).unwrap(), "hello");
        assert_eq!(std::fs::read_link(top.join("sub/l")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(std::fs::metadata(top.join("hard")).unwrap().nlink(), 2);
        assert_eq!(left_out, [Path::new("dev"), Path::new("fifo")]);
        let meta = std::fs::metadata(top.join("a")).unwrap();
        assert_eq!(meta.mtime(), 1_700_000_000);
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "a set-id bit came along");
    }

    #[test]
    fn dot_dot_and_absolute_paths_are_refused() {
        for path in ["../evil", "x/../../evil", "/evil"] {
            let dir = place();
            let error = take(dir.path(), &[("x/", DIR, "", ""), (path, FILE, "", "evil")]).unwrap_err();
            assert!(matches!(error, ArchiveError::Outside { .. }), "{path}: {error}");
            untouched(dir.path());
        }
    }

    #[test]
    fn a_link_in_the_archive_is_not_written_through() {
        let dir = place();
        let error =
            take(dir.path(), &[("x/", DIR, "", ""), ("x/l", LINK, "../..", ""), ("x/l/evil", FILE, "", "evil")])
                .unwrap_err();
        assert!(matches!(error, ArchiveError::Outside { .. }), "{error}");
        untouched(dir.path());
    }

    #[test]
    fn a_link_is_replaced_by_a_later_file_not_followed() {
        let dir = place();
        std::fs::write(dir.path().join("in/victim"), "safe").unwrap();
        take(dir.path(), &[("x/", DIR, "", ""), ("x/l", LINK, "../victim", ""), ("x/l", FILE, "", "evil")]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("in/victim")).unwrap(), "safe");
        assert_eq!(std::fs::read_to_string(dir.path().join("in/top/l")).unwrap(), "evil");
    }

    #[test]
    fn a_directory_that_is_a_link_is_not_entered() {
        let dir = place();
        let error = take(dir.path(), &[("x/", DIR, "", ""), ("x/l", LINK, "../..", ""), ("x/l/", DIR, "", "")]);
        assert!(error.is_err());
        untouched(dir.path());
    }

    #[test]
    fn hardlinks_reach_only_what_was_copied() {
        for target in ["/etc/hostname", "../in", "other/file"] {
            let dir = place();
            let error = take(dir.path(), &[("x/", DIR, "", ""), ("x/h", EntryType::Link, target, "")]).unwrap_err();
            assert!(matches!(error, ArchiveError::Outside { .. }), "{target}: {error}");
        }
        // Through a link inside the archive.
        let dir = place();
        let entries = [("x/", DIR, "", ""), ("x/l", LINK, "/etc", ""), ("x/h", EntryType::Link, "x/l/hostname", "")];
        assert!(matches!(take(dir.path(), &entries), Err(ArchiveError::Outside { .. })));
    }

    #[test]
    fn entries_beside_the_thing_asked_for_are_refused() {
        let dir = place();
        let error = take(dir.path(), &[("x", FILE, "", "one"), ("y", FILE, "", "two")]).unwrap_err();
        assert!(matches!(error, ArchiveError::Outside { .. }), "{error}");
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let dir = place();
        let mut bytes = tar_of(&[("x", FILE, "", &"a".repeat(2000))]);
        bytes.truncate(1000);
        let error = unpack(&bytes[..], OsStr::new("top"), &Destination::Into(dir.path().join("in")), false);
        assert!(error.is_err());
    }

    #[test]
    fn the_three_destinations_are_dockers() {
        let tar = tar_of(&[("x/", DIR, "", ""), ("x/a", FILE, "", "1")]);
        let dir = place();
        let inside = dir.path().join("in");
        unpack(&tar[..], OsStr::new("x"), &Destination::Into(inside.clone()), false).unwrap();
        unpack(&tar[..], OsStr::new("x"), &Destination::As(inside.join("renamed")), false).unwrap();
        unpack(&tar[..], OsStr::new("x"), &Destination::Contents(inside.clone()), false).unwrap();
        unpack(&tar[..], OsStr::new("x"), &Destination::Contents(inside.join("made")), false).unwrap();
        for path in ["x/a", "renamed/a", "a", "made/a"] {
            assert!(inside.join(path).is_file(), "{path}");
        }
    }

    #[test]
    fn what_is_packed_can_be_unpacked_and_belongs_to_root() {
        let dir = place();
        let source = dir.path().join("in/source");
        std::fs::create_dir_all(source.join("deep")).unwrap();
        std::fs::write(source.join("deep/file"), "x").unwrap();
        std::os::unix::fs::symlink("deep/file", source.join("link")).unwrap();
        let mut bytes = Vec::new();
        pack(&source, Some(OsStr::new("name")), false, &mut bytes).unwrap();
        assert_eq!(first_is_directory(&bytes[..]).unwrap(), Some(true));
        let mut archive = Archive::new(&bytes[..]);
        assert!(archive.entries().unwrap().all(|entry| entry.unwrap().header().uid().unwrap() == 0));
        unpack(&bytes[..], OsStr::new("copy"), &Destination::Into(dir.path().join("in")), false).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("in/copy/link")).unwrap(), "x");
        let mut inner = Vec::new();
        pack(&source, None, false, &mut inner).unwrap();
        assert_eq!(Archive::new(&inner[..]).entries().unwrap().count(), 3);
        assert!(pack(&dir.path().join("none"), None, false, Vec::new()).is_err());
    }
}
