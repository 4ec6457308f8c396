//! Files that are either the old or the new ones after a crash, never half of one: a temporary file beside it, synced,
//! renamed over it, and its folder synced.
//!
//! Refuses to follow what is there: the temporary file is made anew (`O_EXCL`) with its final mode.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Ends the names of files that were being written; those left behind by a crash are removed by [`sweep`].
const UNFINISHED: &str = ".unfinished";

/// A folder only its owner may look into.
pub fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts `bytes` in place of whatever `path` held.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, bytes)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    sync_folder_of(path)
}

/// As [`write`], but fails with [`io::ErrorKind::AlreadyExists`] where there is a file.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, bytes)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_folder_of(path)
}

/// Removes a file for good; one that is not there is removed already.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what a crash left half written in `folder`.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| format!(".{}", found.to_string_lossy()) == UNFINISHED) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let chance = getrandom::u64().map_err(io::Error::other)?;
    let temporary = path.with_file_name(format!(".{name}.{chance:016x}{UNFINISHED}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok(temporary)
}

pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.json");
        write(&path, b"a long first text").expect("first");
        write(&path, b"second").expect("second");
        assert_eq!(fs::read(&path).expect("read"), b"second");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_create_never_replaces_a_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        create(&path, b"first").expect("first");
        assert_eq!(create(&path, b"second").expect_err("is there").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("read"), b"first");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn what_a_crash_left_half_written_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join(".a.json.0123.unfinished"), b"half").expect("half");
        fs::write(folder.path().join("a.json"), b"whole").expect("whole");
        sweep(folder.path()).expect("sweep");
        let left: Vec<_> =
            fs::read_dir(folder.path()).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        assert_eq!(left, ["a.json"]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.json");
        fs::create_dir(&path).expect("a folder in its place");
        fs::write(path.join("child"), b"kept").expect("child");
        write(&path, b"new").expect_err("a folder is not replaced");
        assert_eq!(fs::read(path.join("child")).expect("read"), b"kept");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }
}
