//! Paths inside a directory tree that someone else may be changing: resolved by the kernel, by fd.
//!
//! A [`Tree`] is a directory that acts as `/`. Every lookup is one `openat2` with `RESOLVE_IN_ROOT` (absolute
//! symlinks and `..` stay inside) and `RESOLVE_NO_MAGICLINKS` (`/proc/self/fd/N` and its like are refused), and
//! gives an fd; nothing is looked up twice. Refused: returning paths as strings.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, symlinkat, unlinkat};
use rustix::io::Errno;

/// Why a path of a tree could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {errno}", path = path.display())]
pub struct TreeError {
    pub path: PathBuf,
    pub errno: Errno,
}

/// A directory that acts as the root of every lookup.
pub struct Tree<Fd> {
    root: Fd,
}

/// A race with a rename makes `openat2` say EAGAIN; someone who renames for ever gets an error, not our time.
const RETRIES: u32 = 64;

impl<Fd: AsFd> Tree<Fd> {
    pub fn new(root: Fd) -> Self {
        Self { root }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path with `flags`, following symlinks inside the tree.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, TreeError> {
        self.open_resolving(path, flags, Mode::empty(), ResolveFlags::empty())
    }

    /// Opens a path that must have no symlink anywhere.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, TreeError> {
        self.open_resolving(path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    }

    fn open_resolving(&self, path: &Path, flags: OFlags, mode: Mode, more: ResolveFlags) -> Result<OwnedFd, TreeError> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let mut tries = 0;
        loop {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
                other => return other.map_err(|errno| TreeError { path: path.to_owned(), errno }),
            }
        }
    }

    /// An `O_PATH` fd of the directory at `path`, which is made, with its parents, where missing.
    pub fn directory(&self, path: &Path, mode: u32) -> Result<OwnedFd, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(TreeError { errno: Errno::NOENT, .. }) => {}
            other => return other,
        }
        let failed = |errno| TreeError { path: path.to_owned(), errno };
        let (parent, name) = self.parent_of(path, mode)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        self.open(path, flags)
    }

    /// An `O_PATH` fd of the directory `name` right below the root, made when missing. A symlink there is refused
    /// (ELOOP).
    pub fn top_directory(&self, name: &str, mode: u32) -> Result<OwnedFd, TreeError> {
        let path = Path::new(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_plain(path, flags) {
            Err(TreeError { errno: Errno::NOENT, .. }) => {}
            other => return other,
        }
        match mkdirat(&self.root, path, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => self.open_plain(path, flags),
            Err(errno) => Err(TreeError { path: path.to_owned(), errno }),
        }
    }

    /// An `O_PATH` fd of the file at `path`, made empty, with its parents, where missing. A directory there is
    /// refused (EISDIR).
    pub fn file(&self, path: &Path, mode: u32) -> Result<OwnedFd, TreeError> {
        let failed = |errno| TreeError { path: path.to_owned(), errno };
        let fd = match self.open(path, OFlags::PATH) {
            Err(TreeError { errno: Errno::NOENT, .. }) => {
                let (parent, name) = self.parent_of(path, 0o755)?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                match openat(&parent, name, flags, Mode::from_raw_mode(mode)) {
                    Ok(_) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                self.open(path, OFlags::PATH)?
            }
            other => other?,
        };
        let kind = FileType::from_raw_mode(fstat(&fd).map_err(failed)?.st_mode);
        if kind == FileType::Directory { Err(failed(Errno::ISDIR)) } else { Ok(fd) }
    }

    /// Makes `path` a symbolic link to `target`, in place of a file or link that is there. A directory there is refused
    /// (EISDIR).
    pub fn link(&self, path: &Path, target: &Path) -> Result<(), TreeError> {
        let failed = |errno| TreeError { path: path.to_owned(), errno };
        let (parent, name) = self.parent_of(path, 0o755)?;
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        symlinkat(target, &parent, name).map_err(failed)
    }

    fn parent_of<'p>(&self, path: &'p Path, mode: u32) -> Result<(OwnedFd, &'p OsStr), TreeError> {
        match (path.parent(), path.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) if name.as_bytes().len() <= 255 => {
                let parent = if parent.as_os_str().is_empty() { Path::new("/") } else { parent };
                Ok((self.directory(parent, mode)?, name))
            }
            _ => Err(TreeError { path: path.to_owned(), errno: Errno::INVAL }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    fn tree(directory: &Path) -> Tree<OwnedFd> {
        Tree::new(
            openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open"),
        )
    }

    fn inode(fd: &OwnedFd) -> (u64, u64) {
        let stat = fstat(fd).expect("fstat");
        (stat.st_dev, stat.st_ino)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("mkdir");
        std::fs::write(root.join("etc/passwd"), "inside").expect("write");
        symlink("/etc/passwd", root.join("absolute")).expect("link");
        symlink("../../../../../../etc/passwd", root.join("relative")).expect("link");
        symlink("/proc/self/root/etc/passwd", root.join("magic")).expect("link");
        let tree = tree(&root);
        let inside = inode(&tree.open(Path::new("/etc/passwd"), OFlags::PATH).expect("open"));
        for name in ["absolute", "relative", "/../../etc/passwd"] {
            assert_eq!(inode(&tree.open(Path::new(name), OFlags::PATH).expect(name)), inside, "{name}");
        }
        assert!(tree.open(Path::new("magic"), OFlags::PATH).is_err());
        assert_eq!(tree.open_plain(Path::new("absolute"), OFlags::PATH).expect_err("a link").errno, Errno::LOOP);
    }

    #[test]
    fn a_link_takes_the_place_of_files_and_links_and_of_no_directory() {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc/directory")).expect("mkdir");
        std::fs::write(root.join("etc/file"), "text").expect("write");
        let tree = tree(&root);
        for name in ["/etc/file", "/etc/file", "/new/place"] {
            tree.link(Path::new(name), Path::new("/run/x")).expect(name);
            assert_eq!(std::fs::read_link(root.join(&name[1..])).expect("a link"), Path::new("/run/x"));
        }
        assert_eq!(tree.link(Path::new("/etc/directory"), Path::new("/x")).expect_err("refused").errno, Errno::ISDIR);
    }

    #[test]
    fn magic_links_are_refused_even_in_proc_itself() {
        let tree = tree(Path::new("/"));
        for path in ["/proc/self/fd/0", "/proc/self/cwd", "/proc/self/root/etc", "/proc/self/exe"] {
            assert_eq!(tree.open(Path::new(path), OFlags::PATH).expect_err(path).errno, Errno::LOOP);
        }
    }

    #[test]
    fn missing_targets_are_made_inside_and_never_through_a_dangling_link() {
        let directory = tempfile::tempdir().expect("tempdir");
        let root = directory.path().join("root");
        std::fs::create_dir(&root).expect("mkdir");
        let outside = directory.path().join("outside");
        symlink(&outside, root.join("dangling")).expect("link");
        let tree = tree(&root);
        tree.directory(Path::new("/a/b/c"), 0o755).expect("made");
        assert!(root.join("a/b/c").is_dir());
        tree.file(Path::new("/a/x/file"), 0o644).expect("made");
        assert!(root.join("a/x/file").is_file());
        assert_eq!(tree.file(Path::new("/a/b"), 0o644).expect_err("a directory").errno, Errno::ISDIR);
        assert!(tree.directory(Path::new("/dangling/x"), 0o755).is_err());
        assert!(tree.file(Path::new("/dangling"), 0o644).is_err());
        assert!(!outside.exists());
        assert_eq!(tree.top_directory("dangling", 0o755).expect_err("a link").errno, Errno::LOOP);
        tree.top_directory("proc", 0o555).expect("made");
    }
}
