//! A tree, or its difference from another one, written as records.
//!
//! What did not change is not sent. That is a file which is the same inode, last changed well before the base's root was
//! (which its snapshot's stamps change); any other is read and compared, since a time can be set back, and a clock's tick holds
//! more than one change.
//!
//! Owners are as containers see them, whatever [form](crate::owners) the tree has.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fgetxattr, flistxattr, fstat, openat, readlinkat, seek,
    statat,
};
use rustix::io::{Errno, pread};

use super::error::StreamError;
use super::record::{Meta, RUN, Record, is_data};
use crate::owners::{CAPABILITIES, inner, of_root};

const INSIDE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOATIME);
/// Deepest directory that is sent: each level holds two descriptors open.
pub(super) const DEPTH_MAX: usize = 1000;
/// Seconds in which a file may change twice at one time, as clocks of filesystems tell it.
const TICK: i64 = 2;
/// Room for a list of attributes' names, and for a value: the kernel's limits (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// Writes the tree `now`; its difference from the tree `base`, where there is one.
pub(crate) fn pack(now: BorrowedFd<'_>, base: Option<BorrowedFd<'_>>, out: &mut impl Write) -> Result<(), StreamError> {
    let base = base.map(|base| base.try_clone_to_owned()).transpose()?;
    let sure = match &base {
        Some(base) => fstat(base)?.st_ctime - TICK,
        None => 0,
    };
    let mut packer = Packer { out: &mut *out, numbers: HashMap::new(), path: Vec::new(), sure };
    packer.directory(now.try_clone_to_owned()?, base)?;
    out.flush().map_err(StreamError::Write)
}

struct Packer<'o, W: Write> {
    out: &'o mut W,
    /// Of files with several names, by device and inode.
    numbers: HashMap<(u64, u64), u64>,
    /// What was changed last before this second was not changed since, if its time says so.
    sure: i64,
    /// Names of the directories that are open, for messages.
    path: Vec<CString>,
}

/// A directory that is being sent.
struct Level {
    now: OwnedFd,
    base: Option<OwnedFd>,
    left: std::vec::IntoIter<CString>,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, now: OwnedFd, base: Option<OwnedFd>) -> Result<(), StreamError> {
        let mut levels = vec![self.enter(now, base)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.left.next() else {
                let meta = meta(&level.now, &fstat(&level.now).map_err(io::Error::from)?)?;
                self.put(&Record::Leave(meta))?;
                levels.pop();
                self.path.pop();
                continue;
            };
            let (now, base) = (level.now.as_fd(), level.base.as_ref().map(AsFd::as_fd));
            let deeper = self.entry(now, base, &name).map_err(|error| self.at(&name, error))?;
            if let Some((now, base)) = deeper {
                if levels.len() > DEPTH_MAX {
                    let text = format!("deeper than {DEPTH_MAX} directories");
                    return Err(self.at(&name, io::Error::other(text).into()));
                }
                self.path.push(name);
                levels.push(self.enter(now, base)?);
            }
        }
        Ok(())
    }

    /// Takes away what is not there any more.
    fn enter(&mut self, now: OwnedFd, base: Option<OwnedFd>) -> Result<Level, StreamError> {
        let names = names(&now)?;
        if let Some(base) = &base {
            for gone in self::names(base)?.difference(&names) {
                self.put(&Record::Remove(gone.as_bytes().to_owned()))?;
            }
        }
        Ok(Level { now, base, left: names.into_iter().collect::<Vec<_>>().into_iter() })
    }

    /// Sends one; a directory is entered, and given back.
    fn entry(
        &mut self,
        now: BorrowedFd<'_>,
        base: Option<BorrowedFd<'_>>,
        name: &CString,
    ) -> Result<Option<(OwnedFd, Option<OwnedFd>)>, StreamError> {
        let stat = stat(now, name)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let before = match base.map(|base| self::stat(base, name)) {
            None | Some(Err(Errno::NOENT)) => None,
            Some(before) => Some(before?),
        };
        let text = || name.as_bytes().to_owned();
        // What another name's file shares, or shared, is sent whole: a change of it would change all names of it there.
        let alone = |stat: &Stat| stat.st_nlink == 1;
        let same_kind = before.as_ref().filter(|before| FileType::from_raw_mode(before.st_mode) == kind);
        let changed = same_kind.filter(|before| kind == FileType::Directory || (alone(before) && alone(&stat)));
        if let Some(before) = changed {
            if kind != FileType::Directory && stat.st_ctime < self.sure && same_inode(before, &stat) {
                return Ok(None);
            }
        } else if before.is_some() {
            self.put(&Record::Remove(text()))?;
        }
        match kind {
            FileType::Directory => {
                let open = |at: BorrowedFd<'_>| openat(at, name, INSIDE | OFlags::DIRECTORY, Mode::empty());
                let inner = (open(now)?, base.filter(|_| changed.is_some()).map(open).transpose()?);
                self.put(&Record::Enter(text()))?;
                return Ok(Some(inner));
            }
            FileType::RegularFile => {
                let file = openat(now, name, INSIDE, Mode::empty())?;
                let stat = fstat(&file)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(io::Error::other("it became something else while it was sent").into());
                }
                if let (Some(base), Some(_)) = (base, changed) {
                    let before = openat(base, name, INSIDE, Mode::empty())?;
                    return self.change(text(), &before, &file, &stat).map(|()| None);
                }
                let mut number = 0;
                if stat.st_nlink > 1 {
                    let next = self.numbers.len() as u64 + 1;
                    number = *self.numbers.entry((stat.st_dev, stat.st_ino)).or_insert(next);
                    if number != next {
                        return self.put(&Record::Link { name: text(), number }).map(|()| None);
                    }
                }
                self.put(&Record::File { name: text(), size: stat.st_size.unsigned_abs(), number })?;
                self.runs(&file, stat.st_size.unsigned_abs())?;
                self.put(&Record::Done(meta(&file, &stat)?))?;
            }
            FileType::Symlink => {
                let target = readlinkat(now, name, Vec::new())?;
                if changed.is_some() {
                    self.put(&Record::Remove(text()))?;
                }
                self.put(&Record::Symlink { name: text(), target: target.into_bytes(), meta: bare(&stat) })?;
            }
            FileType::Fifo | FileType::Socket => {
                if changed.is_some() {
                    self.put(&Record::Remove(text()))?;
                }
                self.put(&Record::Special { name: text(), meta: bare(&stat) })?;
            }
            _ => return Err(StreamError::Device { at: String::new() }),
        }
        Ok(None)
    }

    /// A file's bytes, without what it has no blocks for.
    fn runs(&mut self, file: &OwnedFd, size: u64) -> Result<(), StreamError> {
        let mut at = 0;
        while let Some((begin, end)) = data(file, at, size)? {
            at = begin;
            while at < end {
                let bytes = read(file, at, end)?;
                if bytes.is_empty() {
                    return Ok(());
                }
                let offset = at;
                at += bytes.len() as u64;
                if bytes.iter().any(|byte| *byte != 0) {
                    self.put(&Record::Run { offset, bytes })?;
                }
            }
        }
        Ok(())
    }

    /// What is other in a file than before.
    fn change(&mut self, name: Vec<u8>, before: &OwnedFd, file: &OwnedFd, stat: &Stat) -> Result<(), StreamError> {
        let (size, meta) = (stat.st_size.unsigned_abs(), meta(file, stat)?);
        let was = fstat(before).map_err(io::Error::from)?;
        let mut record = Some(Record::Change { name, size });
        let mut at = 0;
        while at < size {
            // Where neither has blocks, both are the same.
            let next = [data(file, at, size)?, data(before, at, size)?];
            let Some(begin) = next.into_iter().flatten().map(|(begin, _)| begin).min() else { break };
            // In steps that are the same for both.
            at = begin - begin % RUN as u64;
            let end = (at + RUN as u64).min(size);
            let (mut now, mut old) = (read(file, at, end)?, read(before, at, end)?);
            let len = usize::try_from(end - at).unwrap_or(RUN);
            now.resize(len, 0);
            old.resize(len, 0);
            if now != old {
                record.take().map_or(Ok(()), |record| self.put(&record))?;
                if now.iter().all(|byte| *byte == 0) {
                    self.put(&Record::Hole { offset: at, len: end - at })?;
                } else {
                    self.put(&Record::Run { offset: at, bytes: now })?;
                }
            }
            at = end;
        }
        // That somebody read it is no difference.
        let before = Meta { accessed: meta.accessed, ..self::meta(before, &was)? };
        let same = was.st_size == stat.st_size && before == meta;
        if record.is_some() && same {
            return Ok(());
        }
        record.take().map_or(Ok(()), |record| self.put(&record))?;
        self.put(&Record::Done(meta))
    }

    fn put(&mut self, record: &Record) -> Result<(), StreamError> {
        record.write(self.out).map_err(StreamError::Write)
    }

    /// Says where it happened, as far as nobody did.
    fn at(&self, name: &CString, error: StreamError) -> StreamError {
        let parts = self.path.iter().chain([name]).map(|part| part.to_string_lossy().into_owned());
        let at = parts.collect::<Vec<_>>().join("/");
        match error {
            StreamError::Device { .. } => StreamError::Device { at },
            StreamError::Read(source) => StreamError::Keep { at, source },
            other => other,
        }
    }
}

impl From<Errno> for StreamError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

fn stat(at: BorrowedFd<'_>, name: &CString) -> Result<Stat, Errno> {
    statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn names(directory: &OwnedFd) -> Result<BTreeSet<CString>, StreamError> {
    let mut all = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            all.insert(name);
        }
    }
    Ok(all)
}

/// Whether it is one inode that nobody changed: on another device (a snapshot's), its number and times are those of the first.
fn same_inode(before: &Stat, now: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec, stat.st_size, stat.st_mode);
    before.st_dev != now.st_dev && of(before) == of(now)
}

/// The next bytes from an offset on that a file has blocks for.
fn data(file: &OwnedFd, at: u64, size: u64) -> Result<Option<(u64, u64)>, StreamError> {
    if at >= size {
        return Ok(None);
    }
    let begin = match seek(file, SeekFrom::Data(at)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(begin))?.min(size);
    Ok((begin < size).then_some((begin, end)))
}

/// At most [`RUN`] bytes; fewer where the file ends.
fn read(file: &OwnedFd, at: u64, end: u64) -> Result<Vec<u8>, StreamError> {
    let mut bytes = vec![0; usize::try_from(end - at).unwrap_or(RUN).min(RUN)];
    let mut filled = 0;
    while filled < bytes.len() {
        match pread(file, &mut bytes[filled..], at + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Of what cannot be opened.
fn bare(stat: &Stat) -> Meta {
    let nanoseconds = |value: u64| u32::try_from(value).unwrap_or(0);
    Meta {
        mode: stat.st_mode,
        uid: inner(stat.st_uid),
        gid: inner(stat.st_gid),
        accessed: (stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        attributes: Vec::new(),
    }
}

fn meta(file: &OwnedFd, stat: &Stat) -> Result<Meta, StreamError> {
    let mut meta = bare(stat);
    let mut names = vec![0u8; XATTR_MAX];
    let len = match flistxattr(file, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut value = vec![0u8; XATTR_MAX];
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty() && is_data(name)) {
        let len = match fgetxattr(file, name, &mut value) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        let value =
            if name == CAPABILITIES.as_bytes() { of_root(&value[..len], None) } else { value[..len].to_owned() };
        meta.attributes.push((name.to_owned(), value));
    }
    meta.attributes.sort();
    Ok(meta)
}
