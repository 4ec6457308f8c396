//! Records made into a tree that nobody else has yet.
//!
//! Every name is one part of a path and is looked up in a directory that is open; no link is followed, and a file is only written
//! to that was opened as one.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fallocate, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, ftruncate, futimens, linkat,
    mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::error::StreamError;
use super::pack::DEPTH_MAX;
use super::record::{Meta, Record, hostile, is_data};

const INSIDE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
/// Most files with several names: each is remembered to the end.
const NUMBERS_MAX: usize = 1 << 20;
/// Room for a list of attributes' names: the kernel's limit (`XATTR_LIST_MAX`).
const LIST_MAX: usize = 64 << 10;

/// Makes in `tree` what the records say; it is empty, or what the difference is from.
pub(crate) fn unpack(tree: BorrowedFd<'_>, input: &mut impl Read) -> Result<(), StreamError> {
    let root = tree.try_clone_to_owned()?;
    let mut unpacker =
        Unpacker { root: tree.try_clone_to_owned()?, levels: vec![root], path: Vec::new(), numbers: HashMap::new() };
    while !unpacker.levels.is_empty() {
        let record = Record::read(input)?;
        unpacker.apply(record, input).map_err(|error| unpacker.at(error))?;
    }
    Ok(())
}

struct Unpacker {
    root: OwnedFd,
    /// Directories that are open, the root's first.
    levels: Vec<OwnedFd>,
    /// Their names, but the root's.
    path: Vec<Vec<u8>>,
    /// Where the first of several names of a file is, below the root.
    numbers: HashMap<u64, PathBuf>,
}

impl Unpacker {
    fn apply(&mut self, record: Record, input: &mut impl Read) -> Result<(), StreamError> {
        let here = self.levels.last().unwrap_or(&self.root).as_fd();
        match record {
            Record::Enter(name) => {
                if self.levels.len() > DEPTH_MAX {
                    return Err(hostile("directories without end", &name));
                }
                match mkdirat(here, name.as_slice(), Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(keep(&name, errno)),
                }
                let flags = INSIDE | OFlags::RDONLY | OFlags::DIRECTORY;
                let deeper = openat(here, name.as_slice(), flags, Mode::empty()).map_err(|errno| keep(&name, errno))?;
                self.levels.push(deeper);
                self.path.push(name);
            }
            Record::Leave(meta) => {
                finish(here, &meta)?;
                self.levels.pop();
                self.path.pop();
            }
            Record::Remove(name) => remove(here, &name, self.levels.len()).map_err(|error| at_name(&name, error))?,
            Record::File { name, size, number } => {
                let flags = INSIDE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let made = openat(here, name.as_slice(), flags, Mode::RUSR | Mode::WUSR);
                let file = made.map_err(|errno| keep(&name, errno))?;
                if number != 0 {
                    if self.numbers.len() >= NUMBERS_MAX {
                        return Err(hostile("more files with several names than anybody has", &name));
                    }
                    let path = self.path.iter().chain([&name]).map(|part| as_path(part)).collect();
                    if self.numbers.insert(number, path).is_some() {
                        return Err(hostile("a number that two files have", &name));
                    }
                }
                fill(&file, size, input).map_err(|error| at_name(&name, error))?;
            }
            Record::Change { name, size } => {
                let file = openat(here, name.as_slice(), INSIDE | OFlags::RDWR, Mode::empty());
                let file = file.map_err(|errno| keep(&name, errno))?;
                let stat = fstat(&file)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
                    return Err(hostile("a change of what is no file of its own", &name));
                }
                fill(&file, size, input).map_err(|error| at_name(&name, error))?;
            }
            Record::Link { name, number } => {
                let Some(first) = self.numbers.get(&number) else {
                    return Err(hostile("one more name of a file that did not come", &name));
                };
                let (parent, last) = self.open_parent(first).map_err(|errno| keep(&name, errno))?;
                let linked = linkat(&parent, last, here, name.as_slice(), AtFlags::empty());
                linked.map_err(|errno| keep(&name, errno))?;
            }
            Record::Symlink { name, target, meta } => {
                let made = symlinkat(target.as_slice(), here, name.as_slice());
                made.and_then(|()| finish_name(here, &name, &meta)).map_err(|errno| keep(&name, errno))?;
            }
            Record::Special { name, meta } => {
                let kind = FileType::from_raw_mode(meta.mode);
                if !matches!(kind, FileType::Fifo | FileType::Socket) {
                    return Err(hostile("a device", &name));
                }
                let made = mknodat(here, name.as_slice(), kind, Mode::from_raw_mode(meta.mode), 0);
                made.and_then(|()| finish_name(here, &name, &meta)).map_err(|errno| keep(&name, errno))?;
            }
            Record::Run { .. } | Record::Hole { .. } | Record::Done(_) => {
                return Err(hostile("bytes of no file", b""));
            }
        }
        Ok(())
    }

    /// The directory of a path that came before, and its last part; by no link.
    fn open_parent<'p>(&self, path: &'p std::path::Path) -> Result<(OwnedFd, &'p std::ffi::OsStr), Errno> {
        let last = path.file_name().unwrap_or_default();
        let mut at = self.root.try_clone().map_err(|_| Errno::MFILE)?;
        for part in path.parent().into_iter().flatten() {
            at = openat(&at, part, INSIDE | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        }
        Ok((at, last))
    }

    /// Puts the directory before what is said about a name in it.
    fn at(&self, error: StreamError) -> StreamError {
        let before = |at: String| {
            let parts = self.path.iter().map(|part| String::from_utf8_lossy(part).into_owned());
            parts.chain([at]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
        };
        match error {
            StreamError::Hostile { what, at } => StreamError::Hostile { what, at: before(at) },
            StreamError::Keep { at, source } => StreamError::Keep { at: before(at), source },
            other => other,
        }
    }
}

/// A file's runs, up to its end.
fn fill(file: &OwnedFd, size: u64, input: &mut impl Read) -> Result<(), StreamError> {
    let of_file = |errno: Errno| keep(b"", errno);
    ftruncate(file, size).map_err(of_file)?;
    loop {
        match Record::read(input)? {
            Record::Run { offset, bytes } if offset.saturating_add(bytes.len() as u64) <= size => {
                let (mut at, mut rest) = (offset, bytes.as_slice());
                while !rest.is_empty() {
                    let written = pwrite(file, rest, at).map_err(of_file)?;
                    at += written as u64;
                    rest = &rest[written..];
                }
            }
            Record::Hole { offset, len } if offset.saturating_add(len) <= size => {
                hole(file, offset, len).map_err(of_file)?;
            }
            Record::Done(meta) => return finish(file.as_fd(), &meta),
            _ => return Err(hostile("a file that does not end, or more of it than it has", b"")),
        }
    }
}

/// Zeros, without blocks where the filesystem can do that.
fn hole(file: &OwnedFd, offset: u64, len: u64) -> Result<(), Errno> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        other => return other,
    }
    let zeros = vec![0; 64 << 10];
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(zeros.len()).min(zeros.len());
        at += pwrite(file, &zeros[..most], at)? as u64;
    }
    Ok(())
}

/// Owner, mode, attributes and times of what is open.
fn finish(file: BorrowedFd<'_>, meta: &Meta) -> Result<(), StreamError> {
    let kept = |errno: Errno| keep(b"", errno);
    // The owner first: changing it takes setuid away.
    fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))).map_err(kept)?;
    fchmod(file, Mode::from_raw_mode(meta.mode)).map_err(kept)?;
    let mut names = vec![0u8; LIST_MAX];
    let len = match flistxattr(file, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other.map_err(kept)?,
    };
    let is = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty() && is_data(name));
    for name in is.filter(|name| meta.attributes.iter().all(|(wanted, _)| wanted != name)) {
        // One that the kernel set of itself stays.
        let _ = fremovexattr(file, name);
    }
    let mut value = vec![0u8; LIST_MAX];
    for (name, wanted) in &meta.attributes {
        let is = fgetxattr(file, name.as_slice(), &mut value);
        if is.is_ok_and(|len| value[..len] == **wanted) {
            continue;
        }
        let set = fsetxattr(file, name.as_slice(), wanted, XattrFlags::empty());
        set.map_err(|errno| keep(&[b"attribute ", name.as_slice()].concat(), errno))?;
    }
    futimens(file, &times(meta)).map_err(kept)
}

/// Owner and times of what cannot be opened.
fn finish_name(at: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<(), Errno> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    chownat(at, name, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)), nofollow)?;
    utimensat(at, name, &times(meta), nofollow)
}

fn times(meta: &Meta) -> Timestamps {
    let of = |(seconds, nanoseconds): (i64, u32)| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: of(meta.accessed), last_modification: of(meta.modified) }
}

/// Takes a name away, and what is in it. What is not there, was to be.
fn remove(at: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), StreamError> {
    if depth > DEPTH_MAX + 1 {
        return Err(hostile("directories without end", name));
    }
    let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(unlinkat(at, name, AtFlags::empty())?);
    }
    let directory = openat(at, name, INSIDE | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let inner = entry?.file_name().to_bytes().to_owned();
        if !matches!(inner.as_slice(), b"." | b"..") {
            names.push(inner);
        }
    }
    for inner in names {
        remove(directory.as_fd(), &inner, depth + 1)?;
    }
    Ok(unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

fn as_path(part: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(part))
}

fn keep(name: &[u8], errno: Errno) -> StreamError {
    StreamError::Keep { at: String::from_utf8_lossy(name).into_owned(), source: io::Error::from(errno) }
}

fn at_name(name: &[u8], error: StreamError) -> StreamError {
    let text = String::from_utf8_lossy(name).into_owned();
    match error {
        StreamError::Keep { at, source } if at.is_empty() => StreamError::Keep { at: text, source },
        StreamError::Keep { at, source } => StreamError::Keep { at: format!("{text}: {at}"), source },
        StreamError::Hostile { what, at } if at.is_empty() => StreamError::Hostile { what, at: text },
        other => other,
    }
}
