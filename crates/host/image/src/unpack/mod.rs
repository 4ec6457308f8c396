//! Unpacks one layer's tar stream into a directory, the way overlayfs wants to find it.
//!
//! Every path is resolved by descriptor beneath that directory (`openat2` with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS` for the parent, never following the last component), so `..`, absolute names and symlinks
//! planted earlier in the same layer cannot reach outside it. `..` is refused outright. Whiteouts become overlayfs
//! character devices 0:0, opaque markers become `trusted.overlay.opaque`. Later entries win over earlier ones.
//!
//! Not created, only counted: device nodes, entries of unknown type, extended attributes other than
//! `security.capability`, `user.*` and POSIX ACLs (so an image cannot forge `trusted.overlay.*`).

mod path;
mod tree;

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Timespec, Timestamps};

use crate::archive::{Entry, Kind, TarError, TarReader};
use crate::limits::LayerLimits;
use path::{Place, split};
use tree::Tree;
pub(crate) use tree::is_whiteout;

/// Why a layer was not unpacked. Whatever it had written is removed by the caller.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the layer's entry {path:?} was refused: {why}")]
    Refused { path: String, why: &'static str },
    #[error("the layer has more than {0} entries, the most that is accepted")]
    TooManyEntries(u64),
    #[error("the layer unpacks to more than {0} bytes, the most that is accepted")]
    TooBig(u64),
    #[error(
        "the layer unpacks to more than {0} times its compressed size: this is a decompression bomb, or data no \
         program needs packed"
    )]
    Bomb(u64),
    #[error("the disk is full: free space or run `coppice image prune`, then try again")]
    DiskFull,
    #[error(transparent)]
    Tar(TarError),
    #[error("the layer's entry {path:?} could not be {doing}: {source}")]
    Entry { path: String, doing: &'static str, source: io::Error },
    #[error("the layer could not be read or stored: {0}")]
    Io(#[source] io::Error),
}

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Io(source) => source.into(),
            other => Self::Tar(other),
        }
    }
}

impl From<io::Error> for UnpackError {
    /// Takes back a refusal that had to travel through `Read`.
    fn from(error: io::Error) -> Self {
        if is_disk_full(&error) {
            return Self::DiskFull;
        }
        match error.downcast::<UnpackError>() {
            Ok(refusal) => refusal,
            Err(error) => Self::Io(error),
        }
    }
}

pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What unpacking made, and what it left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) entries: u64,
    /// Sum of file lengths, holes included.
    pub(crate) bytes: u64,
    pub(crate) devices_skipped: u64,
    pub(crate) xattrs_skipped: u64,
    pub(crate) unknown_skipped: u64,
}

/// Unpacks `stream` into the empty directory `root`; returns the rest of the stream.
pub(crate) fn unpack<R: Read>(
    stream: R,
    root: BorrowedFd<'_>,
    limits: &LayerLimits,
) -> Result<(Unpacked, R), UnpackError> {
    let mut reader = TarReader::new(stream, limits.header);
    let mut unpacker = Unpacker {
        tree: Tree::new(root),
        limits,
        done: Unpacked::default(),
        directory_times: Vec::new(),
        buffer: vec![0; 256 << 10],
    };
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&mut reader, entry)?;
    }
    unpacker.set_directory_times()?;
    Ok((unpacker.done, reader.into_inner()))
}

struct Unpacker<'a> {
    tree: Tree<'a>,
    limits: &'a LayerLimits,
    done: Unpacked,
    /// Set last: creating files in a directory changes its time.
    directory_times: Vec<(Place, (i64, u32))>,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, reader: &mut TarReader<R>, entry: Entry) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::TooManyEntries(self.limits.entries));
        }
        let refused = |why| UnpackError::Refused { path: shown(&entry.path), why };
        let failed = |doing| move |source: rustix::io::Errno| (doing, io::Error::from(source));
        let wrap = |(doing, source): (&'static str, io::Error)| {
            if is_disk_full(&source) {
                UnpackError::DiskFull
            } else {
                UnpackError::Entry { path: shown(&entry.path), doing, source }
            }
        };
        if let Kind::Other(_) = entry.kind {
            self.done.unknown_skipped += 1;
            return Ok(());
        }
        let place = split(&entry.path, self.limits).map_err(refused)?;
        let Some(name) = place.name() else {
            if entry.kind != Kind::Directory {
                return Err(refused("the layer's root can only be a directory"));
            }
            let root = self.tree.open_root().map_err(failed("opened")).map_err(wrap)?;
            self.directory_metadata(&entry, root).map_err(wrap)?;
            self.directory_times.push((place, entry.mtime));
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return match hidden {
                b".wh..opq" => self.tree.make_opaque(place.parent()).map_err(failed("made opaque")).map_err(wrap),
                b"" | b"." | b".." => Err(refused("a whiteout must name an entry of its directory")),
                // Bookkeeping of aufs, which overlayfs has no use for.
                _ if hidden.starts_with(b".wh.") => Ok(()),
                _ => self.tree.white_out(place.parent(), hidden).map_err(failed("whited out")).map_err(wrap),
            };
        }
        if matches!(entry.kind, Kind::Char | Kind::Block) {
            self.done.devices_skipped += 1;
            return Ok(());
        }
        let (uid, gid) = match (u32::try_from(entry.uid), u32::try_from(entry.gid)) {
            // The last id means "no change" to chown(2).
            (Ok(uid), Ok(gid)) if uid != u32::MAX && gid != u32::MAX => (uid, gid),
            _ => return Err(refused("its owner is not a user or group number Linux has")),
        };
        match entry.kind {
            Kind::Directory => {
                let made = self.tree.make_directory(place.parent(), name).map_err(failed("created")).map_err(wrap)?;
                self.directory_metadata(&entry, made).map_err(wrap)?;
                self.directory_times.push((place, entry.mtime));
            }
            Kind::File => {
                self.done.bytes = self.done.bytes.saturating_add(entry.size);
                if self.done.bytes > self.limits.bytes {
                    return Err(UnpackError::TooBig(self.limits.bytes));
                }
                let file = self.tree.make_file(place.parent(), name).map_err(failed("created")).map_err(wrap)?;
                self.file_data(reader, &entry, &file)?;
                self.file_metadata(&entry, &file, uid, gid).map_err(wrap)?;
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= self.limits.path || entry.link.contains(&0) {
                    return Err(refused("its target is empty, too long, or has a NUL"));
                }
                self.tree.make_symlink(place.parent(), name, &entry.link).map_err(failed("created")).map_err(wrap)?;
                self.tree
                    .own(place.parent(), name, uid, gid, &times(entry.mtime))
                    .map_err(failed("given its owner"))
                    .map_err(wrap)?;
                self.done.xattrs_skipped += entry.xattrs.len() as u64;
            }
            Kind::Hardlink => {
                let target = split(&entry.link, self.limits).map_err(refused)?;
                let Some(target_name) = target.name() else {
                    return Err(refused("it is a hard link to the layer's root"));
                };
                if target.parent() == place.parent() && target_name == name {
                    return Err(refused("it is a hard link to itself"));
                }
                match self.tree.link_target(target.parent(), target_name) {
                    Ok(Some(FileType::RegularFile | FileType::Symlink | FileType::Fifo)) => {}
                    Ok(Some(_)) => return Err(refused("it is a hard link to a directory, device or whiteout")),
                    Ok(None) => return Err(refused("it is a hard link to a file that this layer does not have")),
                    Err(error) => return Err(wrap(failed("linked")(error))),
                }
                self.tree
                    .make_link(target.parent(), target_name, place.parent(), name)
                    .map_err(failed("linked"))
                    .map_err(wrap)?;
            }
            Kind::Fifo => {
                self.tree.make_fifo(place.parent(), name, entry.mode).map_err(failed("created")).map_err(wrap)?;
                self.tree
                    .own(place.parent(), name, uid, gid, &times(entry.mtime))
                    .map_err(failed("given its owner"))
                    .map_err(wrap)?;
                // chown may have cleared bits of the mode.
                self.tree
                    .set_fifo_mode(place.parent(), name, entry.mode)
                    .map_err(failed("given its mode"))
                    .map_err(wrap)?;
                self.done.xattrs_skipped += entry.xattrs.len() as u64;
            }
            Kind::Char | Kind::Block | Kind::Other(_) => {}
        }
        Ok(())
    }

    fn file_data<R: Read>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: &Entry,
        file: &OwnedFd,
    ) -> Result<(), UnpackError> {
        let wrap = |error: rustix::io::Errno| {
            let source = io::Error::from(error);
            if is_disk_full(&source) {
                UnpackError::DiskFull
            } else {
                UnpackError::Entry { path: shown(&entry.path), doing: "written", source }
            }
        };
        let whole = [(0, entry.size)];
        let segments = match &entry.segments {
            Some(segments) => {
                rustix::fs::ftruncate(file, entry.size).map_err(wrap)?;
                &segments[..]
            }
            None => &whole[..],
        };
        for &(offset, length) in segments {
            let mut at = offset;
            while at < offset + length {
                let want = self.buffer.len().min(usize::try_from(offset + length - at).unwrap_or(usize::MAX));
                let got = reader.read_data(&mut self.buffer[..want])?;
                if got == 0 {
                    return Err(TarError::Cut.into());
                }
                let mut written = 0;
                while written < got {
                    written +=
                        rustix::io::pwrite(file, &self.buffer[written..got], at + written as u64).map_err(wrap)?;
                }
                at += got as u64;
            }
        }
        Ok(())
    }

    /// Owner, then mode (chown clears set-id bits), then attributes (chown clears capabilities), then times.
    fn file_metadata(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        uid: u32,
        gid: u32,
    ) -> Result<(), (&'static str, io::Error)> {
        own_and_mode(file.as_fd(), uid, gid, entry.mode)?;
        self.xattrs(entry, file.as_fd())?;
        rustix::fs::futimens(file, &times(entry.mtime)).map_err(|e| ("dated", e.into()))
    }

    fn directory_metadata(&mut self, entry: &Entry, directory: OwnedFd) -> Result<(), (&'static str, io::Error)> {
        let ids = (u32::try_from(entry.uid).unwrap_or(0), u32::try_from(entry.gid).unwrap_or(0));
        own_and_mode(directory.as_fd(), ids.0, ids.1, entry.mode)?;
        self.xattrs(entry, directory.as_fd())?;
        self.tree.remember(&entry.path, directory);
        Ok(())
    }

    fn xattrs(&mut self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<(), (&'static str, io::Error)> {
        for (name, value) in &entry.xattrs {
            if !xattr_allowed(name) {
                self.done.xattrs_skipped += 1;
                continue;
            }
            match rustix::fs::fsetxattr(fd, &name[..], value, rustix::fs::XattrFlags::empty()) {
                Ok(()) => {}
                // The store's filesystem has no such attributes; the file is still right without.
                Err(rustix::io::Errno::OPNOTSUPP) => self.done.xattrs_skipped += 1,
                Err(error) => return Err(("given an extended attribute", error.into())),
            }
        }
        Ok(())
    }

    fn set_directory_times(&mut self) -> Result<(), UnpackError> {
        for (place, mtime) in std::mem::take(&mut self.directory_times) {
            // A later entry may have replaced the directory.
            match self.tree.date_directory(&place, &times(mtime)) {
                Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                Err(error) => {
                    return Err(UnpackError::Entry {
                        path: shown(&place.path()),
                        doing: "dated",
                        source: error.into(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn own_and_mode(fd: BorrowedFd<'_>, uid: u32, gid: u32, mode: u32) -> Result<(), (&'static str, io::Error)> {
    let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::fchown(fd, Some(user), Some(group)).map_err(|e| ("given its owner", e.into()))?;
    rustix::fs::fchmod(fd, rustix::fs::Mode::from_raw_mode(mode & 0o7777)).map_err(|e| ("given its mode", e.into()))
}

/// Attributes an image may set.
pub(crate) fn xattr_allowed(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && !name.contains(&0),
    }
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let at = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: at, last_modification: at }
}

/// A path for a message: at most 200 characters of it.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}
