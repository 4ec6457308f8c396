//! Reading and writing the kernel's cgroup files relative to a directory descriptor.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

/// Opens a directory as a base for the other functions.
pub(crate) fn dir(at: impl AsFd, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

pub(crate) fn open_write(at: impl AsFd, path: &str) -> Result<OwnedFd> {
    rustix::fs::openat(at, path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

pub(crate) fn write(at: impl AsFd, path: &str, value: &str) -> Result<()> {
    let file = open_write(at, path)?;
    // cgroup files take a value in one write or fail.
    rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes())).map(drop)
}

pub(crate) fn read(at: impl AsFd, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(at, path, flags, Mode::empty())?;
    let mut text = Vec::with_capacity(512);
    let mut chunk = [0u8; 4096];
    loop {
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut chunk))?;
        if n == 0 {
            break;
        }
        text.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8(text).map_err(|_| Errno::ILSEQ)
}

/// Makes a directory; one that exists is fine.
pub(crate) fn ensure_dir(at: impl AsFd, path: &str) -> Result<()> {
    match rustix::fs::mkdirat(at, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Names of the directories in `at`, without those that start with a dot.
pub(crate) fn subdirectories(at: impl AsFd) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(at)? {
        let entry = entry?;
        let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
        if let (true, Ok(name)) = (is_dir, entry.file_name().to_str())
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Errors that mean "not here", as opposed to "not like this".
pub(crate) fn means_unavailable(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP | Errno::NODEV)
}
