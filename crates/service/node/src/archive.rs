//! Files in and out of containers (`cp`), and from images into new volumes: tar on one side, a tree reached by fd
//! on the other.
//!
//! The tree belongs to a container that may be hostile and may be changing it, so every path is resolved by the
//! kernel inside it ([`Tree`]), names of a tar are taken component by component, and what a tar names is made anew,
//! never written through. Ids in the tar are the container's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use coppice_container::{IdRange, Rootfs, rootfs};
use coppice_linux::{Tree, TreeError};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fstat, mkdirat,
    openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{EntryType, Header};

use crate::container::{Container, Phase};
use crate::containers::Containers;
use crate::error::NodeError;

/// Deepest directory that is packed; a container can nest deeper, to no good end.
const DEPTH_MAX: usize = 256;

/// A tree to copy from or to, and how its ids relate to the container's.
pub(crate) struct Place {
    tree: Tree<OwnedFd>,
    /// The container's ids on this tree: an id in the range is shifted back; others are the layers' own.
    ids: IdRange,
    /// Layers are seen unshifted here, so directories on the way to a change must be given shifted owners, as the
    /// change copies them up.
    mends_ancestors: bool,
}

fn disk(path: &Path, source: impl Into<io::Error>) -> NodeError {
    NodeError::disk(path.display().to_string(), source.into())
}

fn tree_error(error: TreeError) -> NodeError {
    match error.errno {
        Errno::NOENT => NodeError::NoPath(error.path),
        errno => disk(&error.path, errno),
    }
}

/// The tree of a container: through its first process while it runs, else its layers mounted for the occasion.
pub(crate) fn open(containers: &Containers, container: &Container) -> Result<Place, NodeError> {
    let record = container.record();
    if let Phase::Running { pid, .. } = record.phase {
        let path = PathBuf::from(format!("/proc/{pid}/root"));
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| disk(&path, e))?;
        return Ok(Place { tree: Tree::new(root), ids: record.ids(), mends_ancestors: false });
    }
    let image = containers.image(&record.image_id)?;
    let scratch = containers.root.container(&record.id).join("scratch");
    let spec = Rootfs { layers: image.layers.clone(), scratch, read_only: false };
    let root = rootfs::mount_detached(&spec, None, &containers.root.run())
        .map_err(|e| NodeError::disk("cannot mount the container's files", io::Error::other(e)))?;
    Ok(Place { tree: Tree::new(root), ids: record.ids(), mends_ancestors: true })
}

impl Place {
    fn inside(&self, id: u32) -> u32 {
        let shifted = id.wrapping_sub(self.ids.first);
        if shifted < self.ids.count {
            shifted
        } else if id < self.ids.count {
            id
        } else {
            65_534 // nobody: an id the container has no name for
        }
    }

    fn outside(&self, id: u64) -> u32 {
        let id = u32::try_from(id).ok().filter(|id| *id < self.ids.count).unwrap_or(65_534);
        self.ids.first + id
    }

    /// Packs the file or directory at `path` (a last symlink is packed as such) under its own name.
    pub(crate) fn pack(&self, path: &Path, out: impl Write) -> Result<(), NodeError> {
        let fd = self.tree.open(path, OFlags::PATH | OFlags::NOFOLLOW).map_err(tree_error)?;
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let mut tar = tar::Builder::new(out);
        let packed = if name == "." {
            self.pack_directory(&mut tar, &fd, Path::new("."), 0)
        } else {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/"));
            let parent = self.tree.open(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(tree_error)?;
            self.pack_entry(&mut tar, &parent, name, Path::new(name), 0)
        };
        packed.and_then(|()| tar.finish()).map_err(|e| disk(path, e))
    }

    fn header(&self, stat: &Stat) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(self.inside(stat.st_uid)));
        header.set_gid(u64::from(self.inside(stat.st_gid)));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        header
    }

    fn pack_entry<W: Write>(
        &self,
        tar: &mut tar::Builder<W>,
        dir: &OwnedFd,
        name: &OsStr,
        shown: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut header = self.header(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < DEPTH_MAX => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(dir, name, flags, Mode::empty())?;
                self.pack_directory(tar, &fd, shown, depth)
            }
            FileType::RegularFile => {
                // NONBLOCK: it may have become a pipe since.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(openat(dir, name, flags, Mode::empty())?);
                let meta = file.metadata()?;
                if !meta.is_file() {
                    return Ok(());
                }
                header.set_entry_type(EntryType::Regular);
                header.set_size(meta.len());
                // A file that shrinks meanwhile is filled up, one that grows is cut: the header has said its size.
                let body = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
                tar.append_data(&mut header, shown, body)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())?;
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, shown, OsStr::from_bytes(target.as_bytes()))
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                tar.append_data(&mut header, shown, io::empty())
            }
            // Sockets and devices mean nothing elsewhere.
            _ => Ok(()),
        }
    }

    fn pack_directory<W: Write>(
        &self,
        tar: &mut tar::Builder<W>,
        fd: &OwnedFd,
        shown: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let mut header = self.header(&fstat(fd)?);
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, shown, io::empty())?;
        let reading = openat(fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::new(reading)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            match self.pack_entry(tar, fd, &name, &shown.join(&name), depth + 1) {
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Unpacks a tar into the directory `path`, which must exist. Names with `..` are refused; symlinks in the
    /// container are followed inside it only.
    pub(crate) fn unpack(&self, path: &Path, input: impl Read) -> Result<(), NodeError> {
        self.tree.open(path, OFlags::PATH | OFlags::DIRECTORY).map_err(tree_error)?;
        let mut tar = tar::Archive::new(input);
        let mut directories = Vec::new();
        for entry in tar.entries().map_err(|e| disk(path, e))? {
            let mut entry = entry.map_err(|e| NodeError::Invalid(format!("not a readable tar: {e}")))?;
            let name = entry.path().map_err(|e| NodeError::Invalid(format!("not a readable tar: {e}")))?.into_owned();
            let relative = plain(&name)
                .ok_or_else(|| NodeError::Invalid(format!("the tar names {}, which leads outside", name.display())))?;
            let target = path.join(&relative);
            if relative.as_os_str().is_empty() {
                continue; // the directory itself keeps what it has
            }
            self.unpack_entry(&target, &mut entry, &mut directories)?;
        }
        // Times of directories last, since filling them changed them.
        for (target, mtime) in directories.into_iter().rev() {
            if let Ok((parent, name)) = self.parent(&target) {
                set_mtime(&parent, &name, mtime).map_err(|e| disk(&target, e))?;
            }
        }
        Ok(())
    }

    fn parent(&self, target: &Path) -> Result<(OwnedFd, std::ffi::OsString), NodeError> {
        let invalid = || NodeError::Invalid(format!("{} names no file", target.display()));
        let name = target.file_name().ok_or_else(invalid)?.to_owned();
        let parent = target.parent().ok_or_else(invalid)?;
        if self.mends_ancestors {
            let mut so_far = PathBuf::from("/");
            for component in parent.components() {
                so_far.push(component);
                self.mend(&so_far)?;
            }
        }
        let parent = self.tree.open(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(tree_error)?;
        Ok((parent, name))
    }

    /// Gives a directory that shows a layer's own ids the shifted ones.
    fn mend(&self, path: &Path) -> Result<(), NodeError> {
        let fd = self.tree.open(path, OFlags::PATH | OFlags::DIRECTORY).map_err(tree_error)?;
        let stat = fstat(&fd).map_err(|e| disk(path, e))?;
        if stat.st_uid < self.ids.count || stat.st_gid < self.ids.count {
            self.own(&fd, "", u64::from(self.inside(stat.st_uid)), u64::from(self.inside(stat.st_gid)))
                .map_err(|e| disk(path, e))?;
        }
        Ok(())
    }

    fn own(&self, dir: impl AsFd, name: impl rustix::path::Arg, uid: u64, gid: u64) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.outside(uid)), Gid::from_raw(self.outside(gid)));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
    }

    fn unpack_entry<R: Read>(
        &self,
        target: &Path,
        entry: &mut tar::Entry<'_, R>,
        directories: &mut Vec<(PathBuf, u64)>,
    ) -> Result<(), NodeError> {
        let failed = |e: Errno| disk(target, e);
        let malformed =
            |e: io::Error| NodeError::Invalid(format!("{}: not a readable tar entry: {e}", target.display()));
        let (parent, name) = self.parent(target)?;
        let header = entry.header().clone();
        let mode = Mode::from_raw_mode(header.mode().map_err(malformed)? & 0o7777);
        let (uid, gid) = (header.uid().map_err(malformed)?, header.gid().map_err(malformed)?);
        let mtime = header.mtime().map_err(malformed)?;
        let there = match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(errno)),
        };
        let is_directory = header.entry_type() == EntryType::Directory;
        match there {
            Some(FileType::Directory) if is_directory => {}
            Some(FileType::Directory) => {
                return Err(NodeError::Invalid(format!("{} is a directory in the container", target.display())));
            }
            Some(_) => unlinkat(&parent, &name, AtFlags::empty()).map_err(failed)?,
            None => {}
        }
        match header.entry_type() {
            EntryType::Directory => {
                if there != Some(FileType::Directory) {
                    mkdirat(&parent, &name, mode).map_err(failed)?;
                }
                directories.push((target.to_owned(), mtime));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(&parent, &name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
                io::copy(entry, &mut File::from(file)).map_err(|e| disk(target, e))?;
            }
            EntryType::Symlink => {
                let link = entry.link_name().map_err(malformed)?.unwrap_or_default();
                symlinkat(link.as_ref(), &parent, &name).map_err(failed)?;
            }
            EntryType::Link => {
                let link = entry.link_name().map_err(malformed)?.unwrap_or_default();
                let source = plain(&link).ok_or_else(|| {
                    NodeError::Invalid(format!("the tar links to {}, which leads outside", link.display()))
                })?;
                // Hard links name entries of the same tar, from its top.
                let base = target
                    .ancestors()
                    .nth(plain(&entry.path().map_err(malformed)?).unwrap_or_default().components().count());
                let (from, from_name) = self.parent(&base.unwrap_or(Path::new("/")).join(source))?;
                return rustix::fs::linkat(&from, &from_name, &parent, &name, AtFlags::empty()).map_err(failed);
            }
            EntryType::Fifo => {
                rustix::fs::mknodat(&parent, &name, FileType::Fifo, mode, 0).map_err(failed)?;
            }
            // Devices are not made, and other types carry no file.
            _ => return Ok(()),
        }
        self.own(&parent, &name, uid, gid).map_err(failed)?;
        if header.entry_type() != EntryType::Symlink {
            // After the owner, since a change of owner takes setuid away.
            chmodat(&parent, &name, mode, AtFlags::empty()).map_err(failed)?;
        }
        if !is_directory {
            set_mtime(&parent, &name, mtime).map_err(failed)?;
        }
        Ok(())
    }
}

fn set_mtime(dir: &OwnedFd, name: &OsStr, mtime: u64) -> Result<(), Errno> {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    utimensat(dir, name, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW)
}

/// A tar's name without `.` and leading `/`; `None` when it has `..`.
fn plain(name: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// Fills the new directory `to` with what the layers show at `path`, ids as in the image, and gives it that
/// directory's owner and mode. Nothing there: `to` stays as it is. `scratch` is a directory of the caller's own, gone
/// afterwards, which an overlay can have its upper layer on; `to` may lie where none can (zfs-fuse).
pub(crate) fn copy_from_layers(layers: &[PathBuf], path: &Path, to: &Path, scratch: &Path) -> io::Result<()> {
    std::fs::create_dir_all(scratch)?;
    let copied = copy_with_scratch(layers, path, to, scratch);
    // The view is unmounted: its fd was closed with `copy_with_scratch`.
    let cleared = std::fs::remove_dir_all(scratch);
    copied.and(cleared)
}

fn copy_with_scratch(layers: &[PathBuf], path: &Path, to: &Path, scratch: &Path) -> io::Result<()> {
    // Ids are taken over as they are: the range is "no shift".
    let ids = IdRange { first: 0, count: u32::MAX };
    let spec = Rootfs { layers: layers.to_vec(), scratch: scratch.to_owned(), read_only: true };
    let root = rootfs::mount_detached(&spec, None, scratch).map_err(io::Error::other)?;
    let from = Place { tree: Tree::new(root), ids, mends_ancestors: false };
    let dir = match from.tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        Err(TreeError { errno: Errno::NOENT | Errno::NOTDIR, .. }) => return Ok(()),
        Err(error) => return Err(error.errno.into()),
    };
    let stat = fstat(&dir)?;
    let target = rustix::fs::open(to, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let into = Place { tree: Tree::new(target), ids, mends_ancestors: false };
    let (reader, writer) = io::pipe()?;
    let packed = std::thread::scope(|scope| {
        let packing = scope.spawn(|| {
            let mut tar = tar::Builder::new(io::BufWriter::new(writer));
            from.pack_directory(&mut tar, &dir, Path::new("."), 0)?;
            tar.into_inner()?.flush()
        });
        let unpacked = into.unpack(Path::new("/"), io::BufReader::new(reader)).map_err(io::Error::other);
        packing.join().map_err(|_| io::Error::other("packing panicked"))?.and(unpacked)
    });
    packed?;
    std::os::unix::fs::chown(to, Some(stat.st_uid), Some(stat.st_gid))?;
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn place(dir: &Path, first: u32) -> Place {
        let root = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        Place { tree: Tree::new(root), ids: IdRange { first, count: 65_536 }, mends_ancestors: false }
    }

    fn tar_of(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, data) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(5);
            header.set_gid(6);
            header.set_mtime(0);
            header.set_size(if *kind == EntryType::Regular { data.len() as u64 } else { 0 });
            // Raw, because the tar crate would refuse hostile names itself.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.as_mut_bytes()[157..157 + data.len()].copy_from_slice(data.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, if *kind == EntryType::Regular { data.as_bytes() } else { &[] }).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn what_is_packed_unpacks_with_ids_shifted() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d/file"), "hello").unwrap();
        symlink("file", from.path().join("d/link")).unwrap();
        for path in ["d", "d/file"] {
            std::os::unix::fs::chown(from.path().join(path), Some(1_000_033), Some(1_000_044)).unwrap();
        }
        let mut tar = Vec::new();
        place(from.path(), 1_000_000).pack(Path::new("/d"), &mut tar).unwrap();
        place(to.path(), 2_000_000).unpack(Path::new("/"), &tar[..]).unwrap();
        let file = to.path().join("d/file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello");
        assert_eq!((file.metadata().unwrap().uid(), file.metadata().unwrap().gid()), (2_000_033, 2_000_044));
        assert_eq!(std::fs::read_link(to.path().join("d/link")).unwrap(), Path::new("file"));
    }

    #[test]
    fn a_tar_cannot_leave_the_tree_by_names_or_links() {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let place = place(inside.path(), 0);
        assert!(place.unpack(Path::new("/"), &tar_of(&[("../evil", EntryType::Regular, "x")])[..]).is_err());
        // A symlink out of the tree is followed inside the tree only.
        let up = outside.path().to_str().unwrap();
        let through = tar_of(&[("out", EntryType::Symlink, up), ("out/victim", EntryType::Regular, "owned")]);
        assert!(place.unpack(Path::new("/"), &through[..]).is_err());
        // A file replaces a symlink instead of being written through it.
        symlink(&victim, inside.path().join("s")).unwrap();
        place.unpack(Path::new("/"), &tar_of(&[("s", EntryType::Regular, "mine")])[..]).unwrap();
        assert_eq!(std::fs::read_to_string(inside.path().join("s")).unwrap(), "mine");
        let hard = tar_of(&[("h", EntryType::Link, victim.to_str().unwrap())]);
        assert!(place.unpack(Path::new("/"), &hard[..]).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "safe");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = place(dir.path(), 0).pack(Path::new("/none"), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/none does not exist"), "{error}");
        let error = place(dir.path(), 0).unpack(Path::new("/"), &b"garbage"[..]).unwrap_err();
        assert!(matches!(error, NodeError::Invalid(_)), "{error}");
    }
}
