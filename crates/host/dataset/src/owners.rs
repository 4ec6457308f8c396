//! Whose ids are on disk: the containers' own, or those that a range of the host's shifts them to.
//!
//! Files keep the ids that containers see where the filesystem shows them shifted (id-mapped mounts). zfs-fuse cannot, so
//! there the ids on disk are those of the range of whoever has the volume mounted, and are shifted when that is another
//! one's. A tree says itself which form it has, by its root's owner; so snapshots, clones and switches carry it along. A
//! stream has the containers' ids whatever the form: it means the same everywhere.
//!
//! What this does not give: zfs-fuse asks for the host's root itself, so a container's root is to such a volume any user;
//! what images have at a volume's path has its owners, but nobody inside can change them.
//!
//! While a tree is being shifted its root's user and group are of two forms, so that one which was cut off is known, and is
//! shifted as a whole by the next. A change of owner takes set-user-id bits and capabilities away: a file that has such gets
//! another name beside, which says them, until it has them again.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use coppice_base::IdRange;
use coppice_linux::{BTRFS_MAGIC, clone_tree, idmap, make_user_namespace, statfs_magic};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, fsetxattr,
    fstat, linkat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::DatasetError;
use crate::name::DatasetName;
use crate::store::Store;
use crate::tree::open;

/// Filesystems that have id-mapped mounts on every kernel that Coppice runs on (linux/magic.h): ext4, xfs, btrfs, tmpfs.
const MAPPING: [u64; 4] = [0xef53, 0x5846_5342, BTRFS_MAGIC, 0x0102_1994];
/// Deepest directory that is looked into: each level holds a descriptor open.
const DEPTH_MAX: usize = 1000;
/// Before the names of files that are to have their mode and capabilities again: both and the inode's number follow.
const PENDING: &str = ".coppice-owner-";
pub(crate) const CAPABILITIES: &str = "security.capability";
/// Bytes of the attribute without (version 2) and with (version 3) the user that is root there (linux/capability.h).
const CAPABILITIES_2: usize = 20;
const CAPABILITIES_3: usize = 24;
/// The two versions in the attribute's first four bytes, little-endian; the lowest bit is another matter.
const REVISIONS: [u32; 2] = [0x0200_0000, 0x0300_0000];

const INSIDE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Whether the filesystem of a store shows files with other ids; asked once.
#[derive(Debug, Default)]
pub(crate) struct Mapping(OnceLock<bool>);

impl Store {
    /// Whether a dataset's files can be shown with a container's ids as they are, by an id-mapped mount.
    pub fn maps_ids(&self, name: &DatasetName) -> Result<bool, DatasetError> {
        if let Some(known) = self.mapping.0.get() {
            return Ok(*known);
        }
        let maps = maps_ids(&self.head(name))?;
        Ok(*self.mapping.0.get_or_init(|| maps))
    }

    /// Whose ids a dataset's files have on disk: a range's, or (`None`) the containers' own. Two that are not the same where
    /// a change of it was cut off.
    pub fn owned_by(&self, name: &DatasetName) -> Result<[Option<IdRange>; 2], DatasetError> {
        let head = self.ready(name)?;
        form(open(&head)?).map_err(DatasetError::errno("look at the owner of", head))
    }

    /// Has a dataset's files be a range's on disk, or (`None`) the containers' own; at once where they are. Nobody may have
    /// it mounted who is of another one. A file takes a moment; one that is cut off, the next one takes up.
    pub fn own(&self, name: &DatasetName, ids: Option<IdRange>) -> Result<(), DatasetError> {
        let held = self.hold(name)?;
        let head = held.place.head();
        shift(open(&head)?, ids).map_err(DatasetError::io("change the owners in", head))
    }
}

fn maps_ids(tree: &Path) -> Result<bool, DatasetError> {
    let magic = statfs_magic(open(tree)?).map_err(DatasetError::call("look at", tree))?;
    if MAPPING.contains(&magic) {
        return Ok(true);
    }
    // What it says of itself is not known; what it does, is.
    let tried = clone_tree(tree, false).and_then(|mount| {
        let range = IdRange::nth(0);
        idmap(mount, make_user_namespace(range.first, range.count)?, false)
    });
    match tried {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::INVAL => Ok(false),
        Err(error) => Err(DatasetError::call("look at the mount of", tree)(error)),
    }
}

/// The form of a tree by its root's user and group, which have two while it is being shifted.
pub(crate) fn form(tree: impl AsFd) -> Result<[Option<IdRange>; 2], Errno> {
    let stat = fstat(tree)?;
    Ok([IdRange::having(stat.st_uid), IdRange::having(stat.st_gid)])
}

/// An id as a container sees it.
pub(crate) fn inner(id: u32) -> u32 {
    IdRange::having(id).map_or(id, |range| id - range.first)
}

fn shifted(id: u32, ids: Option<IdRange>) -> u32 {
    let inner = inner(id);
    match ids {
        None => inner,
        Some(range) if inner < range.count => range.first + inner,
        // No container has such a one: it is nobody's in any form.
        Some(_) => id,
    }
}

/// Has all of a tree be in one form.
pub(crate) fn shift(tree: impl AsFd, ids: Option<IdRange>) -> io::Result<()> {
    let tree = tree.as_fd();
    let [user, group] = form(tree)?;
    if [user, group] == [ids; 2] {
        return Ok(());
    }
    // It is not to look whole before it is.
    if user != ids {
        fchown(tree, None, Some(Gid::from_raw(shifted(fstat(tree)?.st_gid, ids))))?;
    }
    let mut shifter = Shifter { ids, has_attributes: true };
    shifter.directory(openat(tree, c".", INSIDE | OFlags::DIRECTORY, Mode::empty())?, 0)?;
    rustix::fs::syncfs(tree)?;
    let stat = fstat(tree)?;
    let (uid, gid) = (shifted(stat.st_uid, ids), shifted(stat.st_gid, ids));
    fchown(tree, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::syncfs(tree)?)
}

struct Shifter {
    ids: Option<IdRange>,
    /// False once the filesystem has said that it keeps none.
    has_attributes: bool,
}

impl Shifter {
    fn directory(&mut self, directory: OwnedFd, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("deeper than {DEPTH_MAX} directories")));
        }
        // Names come and go here while it is read.
        let names: Result<Vec<CString>, Errno> =
            Dir::read_from(&directory)?.map(|entry| Ok(entry?.file_name().to_owned())).collect();
        for name in names?.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            match self.entry(directory.as_fd(), name, depth) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("{}: {error}", name.to_string_lossy());
                    return Err(io::Error::new(error.kind(), text));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn entry(&mut self, at: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.directory(openat(at, name, INSIDE | OFlags::DIRECTORY, Mode::empty())?, depth + 1)?;
            }
            FileType::RegularFile => {
                if let Some(special) = Special::parse(name, &stat) {
                    self.special(at, name, &stat, &special)?;
                    return Ok(unlinkat(at, name, AtFlags::empty())?);
                }
                let file = openat(at, name, INSIDE, Mode::empty())?;
                let capabilities = self.capabilities(&file)?;
                if self.is_to_change(&stat) && (stat.st_mode & 0o6000 != 0 || capabilities.is_some()) {
                    let special = Special { mode: stat.st_mode & 0o7777, capabilities };
                    let pending = special.name(&stat);
                    match linkat(at, name, at, pending.as_str(), AtFlags::empty()) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    self.special(at, name, &stat, &special)?;
                    return Ok(unlinkat(at, pending.as_str(), AtFlags::empty())?);
                }
            }
            _ => {}
        }
        self.chown(at, name, &stat)
    }

    fn is_to_change(&self, stat: &Stat) -> bool {
        [stat.st_uid, stat.st_gid].into_iter().any(|id| shifted(id, self.ids) != id)
    }

    fn chown(&self, at: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        if !self.is_to_change(stat) {
            return Ok(());
        }
        let (uid, gid) = (shifted(stat.st_uid, self.ids), shifted(stat.st_gid, self.ids));
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives a file its owner, and what a change of that takes away.
    fn special(&self, at: BorrowedFd<'_>, name: &CStr, stat: &Stat, special: &Special) -> io::Result<()> {
        self.chown(at, name, stat)?;
        let file = openat(at, name, INSIDE, Mode::empty())?;
        fchmod(&file, Mode::from_raw_mode(special.mode))?;
        if let Some(capabilities) = &special.capabilities {
            let value = of_root(capabilities, self.ids);
            fsetxattr(&file, CAPABILITIES, &value, XattrFlags::empty())?;
        }
        Ok(())
    }

    fn capabilities(&mut self, file: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        if !self.has_attributes {
            return Ok(None);
        }
        let mut value = [0; 64];
        match fgetxattr(file, CAPABILITIES, &mut value) {
            Ok(len) => Ok(Some(value[..len].to_vec())),
            Err(Errno::NODATA) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.has_attributes = false;
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What a file loses with its owner.
#[derive(Debug, PartialEq, Eq)]
struct Special {
    mode: u32,
    /// The attribute's value.
    capabilities: Option<Vec<u8>>,
}

impl Special {
    fn name(&self, stat: &Stat) -> String {
        let mut text = format!("{PENDING}{:o}-", self.mode);
        for byte in self.capabilities.iter().flatten() {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, "-{}", stat.st_ino);
        text
    }

    /// What a name says of the file that has it; `None` where it is no such name, or another file's.
    fn parse(name: &CStr, stat: &Stat) -> Option<Self> {
        let mut parts = name.to_str().ok()?.strip_prefix(PENDING)?.split('-');
        let (mode, capabilities, inode) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = capabilities.as_bytes().chunks(2).map(|pair| {
            let digits = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
        let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?;
        let is_it = parts.next().is_none() && inode.parse() == Ok(stat.st_ino) && stat.st_nlink > 1;
        is_it.then_some(Self { mode, capabilities: (!bytes.is_empty()).then_some(bytes) })
    }
}

/// A file's capabilities, as those of the root of a container with these ids. What is none of a container's is as it was.
pub(crate) fn of_root(value: &[u8], ids: Option<IdRange>) -> Vec<u8> {
    let word = |at: usize| value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let root = match (word(0).map(|magic| magic & !1), value.len()) {
        (Some(revision), CAPABILITIES_2) if revision == REVISIONS[0] => 0,
        (Some(revision), CAPABILITIES_3) if revision == REVISIONS[1] => word(CAPABILITIES_2).unwrap_or_default(),
        _ => return value.to_vec(),
    };
    let (old, root) = (root, shifted(root, ids));
    if root == old {
        return value.to_vec();
    }
    let flags = word(0).unwrap_or_default() & 1;
    let sets = &value[4..CAPABILITIES_2];
    match root {
        0 => [&(REVISIONS[0] | flags).to_le_bytes(), sets].concat(),
        root => [&(REVISIONS[1] | flags).to_le_bytes(), sets, &root.to_le_bytes()].concat(),
    }
}
