//! Files that keys are in: regular, of the one who runs the node, and readable by nobody else.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::durable;
use crate::key::{KEY_BYTES, Key};

/// Longer than any file of a key.
const SIZE_MAX: u64 = 4096;

/// Why a file of a key (or passphrase) was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot use the key file {path}: {source}; {}", what_to_do(.source))]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the key file {path} has mode {mode:04o}: others could read it; run `chmod 600 {path}`, and make what it protects \
         anew if somebody may have"
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error("the key file {path} belongs to user {owner}, not to the one who runs the node; `chown` it")]
    Owner { path: PathBuf, owner: u32 },
    #[error("{path} is not a key file (a regular one of {KEY_BYTES} bytes); restore it from a backup")]
    Shape { path: PathBuf },
}

fn what_to_do(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "free some space there and try again",
        _ => "check that its folder exists and is writable",
    }
}

impl KeyFileError {
    /// The disk has no room for it.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    pub fn is_not_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What a file has that nobody else may read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_path_buf(), source };
    let found = fs::symlink_metadata(path).map_err(io)?;
    if !found.is_file() || found.len() > SIZE_MAX {
        return Err(KeyFileError::Shape { path: path.to_path_buf() });
    }
    if found.mode() & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_path_buf(), mode: found.mode() & 0o7777 });
    }
    // `/proc/self` belongs to whom we run as.
    let own = fs::metadata("/proc/self").map_err(io)?.uid();
    if found.uid() != own {
        return Err(KeyFileError::Owner { path: path.to_path_buf(), owner: found.uid() });
    }
    fs::read(path).map(Zeroizing::new).map_err(io)
}

/// A key as 32 bytes.
pub(crate) fn key_of(path: &Path, bytes: &[u8]) -> Result<Key, KeyFileError> {
    let bytes = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_| KeyFileError::Shape { path: path.to_path_buf() })?;
    Ok(Key::from_bytes(Zeroizing::new(bytes)))
}

impl Key {
    /// The key in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        key_of(path, &read_private(path)?)
    }

    /// A new key in a new file; where another process of ours was first, its key.
    pub fn make(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { path: path.to_path_buf(), source };
        let key = Self::generate();
        if let Some(parent) = path.parent() {
            durable::make_folder(parent).map_err(io)?;
        }
        match durable::create(path, key.bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            made => made.map_err(io).map(|()| key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_with_mode_0600_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/a.key");
        assert!(Key::read(&path).unwrap_err().is_not_there());
        let made = Key::make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(Key::read(&path).unwrap().id(), made.id());
        assert_eq!(Key::make(&path).unwrap().id(), made.id(), "the first stays");
    }

    #[test]
    fn a_key_file_others_may_read_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        Key::make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Key::read(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Mode { mode: 0o640, .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_key_file_that_is_short_or_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("a.key"), folder.path().join("b.key"));
        Key::make(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(Key::read(&path), Err(KeyFileError::Shape { .. })));
        fs::remove_file(&path).unwrap();
        durable::write(&path, b"short").unwrap();
        assert!(matches!(Key::read(&path), Err(KeyFileError::Shape { .. })));
    }
}
