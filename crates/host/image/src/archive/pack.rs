//! Trees back into tar streams: one layer (overlay whiteouts put back as `.wh.` entries), or several merged into the
//! root filesystem they make.
//!
//! Names are sorted and only what a tree holds is written, so the same tree always gives the same bytes. Paths are
//! opened beneath the layer's directory without following symlinks, since a container may still be writing there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::read::{Entry, Kind};
use super::write::TarWriter;
use crate::unpack::{is_whiteout, xattr_allowed};

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Writes the overlay directory `layer` (a layer of the store, or a container's upper directory) as an image layer.
pub fn pack_layer(layer: &Path, out: &mut dyn Write) -> io::Result<()> {
    let root = File::open(layer)?;
    let mut names = BTreeMap::new();
    for found in walk(root.as_fd())? {
        match found {
            Found::Entry(path) => names.insert(path, false),
            Found::Whiteout(path) => {
                let (parent, name) = split(&path);
                names.insert([parent, b".wh.", name].concat(), true)
            }
            Found::Opaque(path) => names.insert([&path[..], b"/.wh..wh..opq"].concat(), true),
        };
    }
    let mut writer = TarWriter::new(out);
    let mut links = HashMap::new();
    for (path, is_mark) in names {
        if is_mark {
            let path = path.strip_prefix(b"/").unwrap_or(&path);
            let mut entry = blank(path, Kind::File);
            entry.mode = 0;
            writer.entry(&entry, &mut io::empty())?;
        } else {
            emit(&mut writer, 0, root.as_fd(), &path, &mut links)?;
        }
    }
    writer.finish().map(|_| ())
}

/// What several layers show when they are stacked: each path and the layer it comes from.
#[derive(Default)]
pub(crate) struct Merged {
    paths: BTreeMap<Vec<u8>, usize>,
    roots: Vec<File>,
}

impl Merged {
    /// Stacks one more layer on top.
    pub(crate) fn add(&mut self, layer: &Path) -> io::Result<()> {
        let root = File::open(layer)?;
        let number = self.roots.len();
        for found in walk(root.as_fd())? {
            match found {
                Found::Whiteout(path) => {
                    self.clear_below(&path, number);
                    self.paths.remove(&path);
                }
                Found::Opaque(path) => self.clear_below(&path, number),
                Found::Entry(path) => {
                    let new_is_directory = is_directory(root.as_fd(), &path)?;
                    let old = self.paths.get(&path).copied();
                    let merges = match old {
                        Some(old) => new_is_directory && is_directory(self.roots[old].as_fd(), &path)?,
                        None => true,
                    };
                    if !merges {
                        self.clear_below(&path, number);
                    }
                    self.paths.insert(path, number);
                }
            }
        }
        self.roots.push(root);
        Ok(())
    }

    /// Forgets what layers under `number` have below `path`.
    fn clear_below(&mut self, path: &[u8], number: usize) {
        let (from, to) = if path.is_empty() {
            (Vec::new(), vec![0xff; 1])
        } else {
            // '0' is the byte after '/'.
            ([path, b"/"].concat(), [path, b"0"].concat())
        };
        let old: Vec<Vec<u8>> = self
            .paths
            .range(from..to)
            .filter(|(below, layer)| **layer < number && !below.is_empty())
            .map(|(below, _)| below.clone())
            .collect();
        for below in old {
            self.paths.remove(&below);
        }
    }
}

/// Writes the merged tree as one root filesystem.
pub(crate) fn write_merged(merged: &Merged, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = TarWriter::new(out);
    let mut links = HashMap::new();
    for (path, layer) in &merged.paths {
        emit(&mut writer, *layer, merged.roots[*layer].as_fd(), path, &mut links)?;
    }
    writer.finish().map(|_| ())
}

enum Found {
    Entry(Vec<u8>),
    Whiteout(Vec<u8>),
    /// The directory hides what is below it.
    Opaque(Vec<u8>),
}

/// Everything beneath `root`, parents first; marks of a directory before its entries. The root itself is `""`.
fn walk(root: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
    let mut all = vec![Found::Entry(Vec::new())];
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let directory = open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut flag = [0; 1];
        if rustix::fs::fgetxattr(&directory, c"trusted.overlay.opaque", &mut flag) == Ok(1) && flag == *b"y" {
            all.push(Found::Opaque(path.clone()));
        }
        let mut names: Vec<CString> = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for name in names {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.as_bytes());
            let found = rustix::fs::statat(&directory, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            if is_whiteout(&found) {
                all.push(Found::Whiteout(below));
                continue;
            }
            all.push(Found::Entry(below.clone()));
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                pending.push(below);
            }
        }
    }
    Ok(all)
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let mut flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !flags.contains(OFlags::PATH) {
        // Should a fifo have taken a file's place, opening it must not wait for a writer.
        flags |= OFlags::NONBLOCK;
    }
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH)?)
}

fn is_directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<bool> {
    let found = rustix::fs::fstat(open(root, path, OFlags::PATH)?)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// Directory with its slash, and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => path.split_at(at + 1),
        None => (b"", path),
    }
}

fn blank(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        link: Vec::new(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        size: 0,
        segments: None,
        xattrs: Vec::new(),
    }
}

/// Writes one path. `links`: files with several names that were written already.
fn emit(
    writer: &mut TarWriter<&mut dyn Write>,
    layer: usize,
    root: BorrowedFd<'_>,
    path: &[u8],
    links: &mut HashMap<(usize, u64), Vec<u8>>,
) -> io::Result<()> {
    let node = open(root, path, OFlags::PATH)?;
    let found: Stat = rustix::fs::fstat(&node)?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        // Sockets and devices do not travel.
        _ => return Ok(()),
    };
    let mut entry = blank(path, kind);
    entry.mode = found.st_mode & 0o7777;
    entry.uid = u64::from(found.st_uid);
    entry.gid = u64::from(found.st_gid);
    entry.mtime = (found.st_mtime, u32::try_from(found.st_mtime_nsec).unwrap_or(0));
    if kind == Kind::Directory {
        entry.path = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
    } else if found.st_nlink > 1 {
        if let Some(first) = links.get(&(layer, found.st_ino)) {
            entry.kind = Kind::Hardlink;
            entry.link.clone_from(first);
            return writer.entry(&entry, &mut io::empty());
        }
        links.insert((layer, found.st_ino), path.to_vec());
    }
    match kind {
        Kind::Symlink => {
            entry.link = rustix::fs::readlinkat(&node, c"", Vec::new())?.into_bytes();
            writer.entry(&entry, &mut io::empty())
        }
        Kind::File => {
            let mut file = File::from(open(root, path, OFlags::RDONLY)?);
            entry.size = u64::try_from(found.st_size).unwrap_or(0);
            entry.xattrs = xattrs(file.as_fd())?;
            writer.entry(&entry, &mut file)
        }
        Kind::Directory => {
            entry.xattrs = xattrs(open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?.as_fd())?;
            writer.entry(&entry, &mut io::empty())
        }
        _ => writer.entry(&entry, &mut io::empty()),
    }
}

/// Those attributes that unpacking would take, sorted.
fn xattrs(fd: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut list = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| xattr_allowed(name)) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
        value.truncate(length);
        list.push((name.to_vec(), value));
    }
    list.sort();
    Ok(list)
}
