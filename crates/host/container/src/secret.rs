//! Files with secrets: a tmpfs that one container has, and that nobody but the host's root puts names into.
//!
//! The tmpfs and its directories belong to the host's root, which is nobody inside; its files belong to whom they are
//! for. So the container can read (and, where their mode lets it, spoil) its own files, but puts nothing else in their
//! place, and whoever replaces one later can tell this tmpfs from one that the container made. A file is replaced by a
//! rename: a reader sees the old one or the new one, whole.
//!
//! A file that is to be elsewhere than in the tmpfs is a symbolic link to one in it, since a mount of a single file would
//! keep the old one for ever. Where the kernel can (6.4), the tmpfs is never swapped to disk.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_linux::{Attributes, FilesystemContext, SyscallError, SyscallResult, Tree, TreeError, statfs_magic};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, mkdirat, openat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use coppice_base::IdRange;

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Room for all files of a container and one more of each while it is replaced.
const SIZE: &str = "32m";
/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".unfinished";
/// Longest file that is read back.
const SIZE_MAX: u64 = 1 << 20;

/// A value. Never shown, and wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretBytes(..)")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE64_STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = BASE64_STANDARD.decode(&*text).map_err(serde::de::Error::custom)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

/// A file of the tmpfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// Relative to the tmpfs, without `..`.
    pub path: PathBuf,
    pub mode: u32,
    /// As the container sees it. So `gid`.
    pub uid: u32,
    pub gid: u32,
    pub content: SecretBytes,
}

/// Why a file with a secret was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("{0} is not a path below the container's secrets")]
    Path(PathBuf),
    #[error("{0} is to belong to an id that the container does not have")]
    Owner(PathBuf),
    #[error("the container has something else mounted over its secrets")]
    Covered,
    #[error("{path}: {errno}")]
    Errno { path: PathBuf, errno: Errno },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

/// A container's files with secrets.
#[derive(Debug)]
pub struct SecretFiles(OwnedFd);

impl SecretFiles {
    /// A detached tmpfs with these files.
    pub(crate) fn make(files: &[SecretFile], ids: IdRange) -> Result<OwnedFd, SecretFileError> {
        let tmpfs = || FilesystemContext::open("tmpfs")?.string("mode", "0755")?.string("size", SIZE);
        let attributes = Attributes::NO_SUID.and(Attributes::NO_DEV).and(Attributes::NO_EXEC);
        let mount: SyscallResult<OwnedFd> =
            tmpfs().and_then(|tmpfs| tmpfs.flag("noswap")).and_then(|tmpfs| tmpfs.mount(attributes));
        // Before 6.4 there is no such option.
        let made = Self(mount.or_else(|_| tmpfs()?.mount(attributes))?);
        files.iter().try_for_each(|file| made.put(file, ids))?;
        Ok(made.0)
    }

    /// Those of a container that runs: `root` is its root directory, `path` where the tmpfs is mounted. A container that is
    /// privileged may have mounted something else there: that is not written to.
    pub fn open(root: OwnedFd, path: &Path) -> Result<Self, SecretFileError> {
        let directory = Tree::new(root).open(path, OFlags::PATH | OFlags::DIRECTORY)?;
        let owner = fstat(&directory).map_err(|errno| SecretFileError::Errno { path: path.to_owned(), errno })?.st_uid;
        // Only the host's root makes what the host's root owns.
        if statfs_magic(&directory)? != TMPFS_MAGIC || owner != 0 {
            return Err(SecretFileError::Covered);
        }
        Ok(Self(directory))
    }

    /// Puts a file in place of what is there.
    pub fn put(&self, file: &SecretFile, ids: IdRange) -> Result<(), SecretFileError> {
        let failed = |errno| SecretFileError::Errno { path: file.path.clone(), errno };
        let parts = parts(&file.path)?;
        let Some((name, parents)) = parts.split_last() else { return Err(SecretFileError::Path(file.path.clone())) };
        if file.uid >= ids.count || file.gid >= ids.count {
            return Err(SecretFileError::Owner(file.path.clone()));
        }
        let mut directory =
            self.0.try_clone().map_err(|source| SecretFileError::Io { path: file.path.clone(), source })?;
        for parent in parents {
            match mkdirat(&directory, *parent, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = openat(&directory, *parent, flags, Mode::empty()).map_err(failed)?;
        }
        let draft = format!(".{}{UNFINISHED}", name.display());
        write(directory.as_fd(), &draft, file, ids)
            .map_err(|source| SecretFileError::Io { path: file.path.clone(), source })?;
        renameat(&directory, draft.as_str(), &directory, *name).map_err(|errno| {
            // What failed is told; a draft that stays is as private as the file.
            let _ = unlinkat(&directory, draft.as_str(), AtFlags::empty());
            failed(errno)
        })
    }

    /// What a file has; `None` where there is none.
    pub fn read(&self, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SecretFileError> {
        parts(path)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(SecretFileError::Errno { path: path.to_owned(), errno }),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let read = file.take(SIZE_MAX).read_to_end(&mut bytes);
        read.map_err(|source| SecretFileError::Io { path: path.to_owned(), source })?;
        Ok(Some(bytes))
    }
}

/// Names of a path, each of which is one.
fn parts(path: &Path) -> Result<Vec<&std::ffi::OsStr>, SecretFileError> {
    let names = path.components().map(|component| match component {
        Component::Normal(name) => Ok(name),
        _ => Err(SecretFileError::Path(path.to_owned())),
    });
    names.collect()
}

fn write(directory: BorrowedFd<'_>, name: &str, file: &SecretFile, ids: IdRange) -> std::io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        // What a crash left.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut fresh = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
    fresh.write_all(&file.content.0)?;
    fchown(&fresh, Some(Uid::from_raw(ids.first + file.uid)), Some(Gid::from_raw(ids.first + file.gid)))?;
    // After the owner: a change of that takes bits away.
    fchmod(&fresh, Mode::from_raw_mode(file.mode & 0o777))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file(path: &str, content: &str) -> SecretFile {
        let content = SecretBytes(Zeroizing::new(content.as_bytes().to_vec()));
        SecretFile { path: path.into(), mode: 0o440, uid: 7, gid: 8, content }
    }

    fn stat(files: &SecretFiles, path: &str) -> std::fs::Metadata {
        File::from(openat(&files.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()).metadata().unwrap()
    }

    #[test]
    fn files_have_their_owner_and_mode_and_are_replaced_whole() {
        let ids = IdRange::nth(3);
        let files = SecretFiles(SecretFiles::make(&[file("a", "one"), file("deep/down/b", "two")], ids).unwrap());
        let found = stat(&files, "deep/down/b");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (ids.first + 7, ids.first + 8, 0o440));
        let before = File::from(openat(&files.0, "a", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap());
        files.put(&file("a", "another"), ids).unwrap();
        assert_eq!(&**files.read(Path::new("a")).unwrap().unwrap(), b"another");
        let mut old = String::new();
        (&before).read_to_string(&mut old).unwrap();
        assert_eq!(old, "one", "who has it open reads on what it was");
        assert_eq!(files.read(Path::new("none")).unwrap(), None);
    }

    #[test]
    fn paths_that_lead_out_and_ids_that_are_not_the_containers_are_refused() {
        let ids = IdRange::nth(3);
        let refused = |file: SecretFile| SecretFiles::make(&[file], ids).unwrap_err().to_string();
        for path in ["../a", "/a", "", "a/../../b"] {
            assert!(refused(file(path, "x")).contains("is not a path below"), "{path:?}");
        }
        assert!(refused(SecretFile { uid: 65_536, ..file("a", "x") }).contains("does not have"));
    }

    #[test]
    fn a_directory_that_is_not_the_hosts_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("secrets")).unwrap();
        let root = openat(rustix::fs::CWD, directory.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        std::os::unix::fs::chown(directory.path().join("secrets"), Some(1000), None).unwrap();
        assert!(matches!(SecretFiles::open(root, Path::new("/secrets")), Err(SecretFileError::Covered)));
    }

    #[test]
    fn values_are_not_shown_and_pass_a_socket_as_they_are() {
        let one = file("a", "hunter2");
        assert!(!format!("{one:?}").contains("hunter2"));
        assert_eq!(serde_json::from_str::<SecretFile>(&serde_json::to_string(&one).unwrap()).unwrap(), one);
    }
}
