//! Encryption of private keys at rest ([`Key`](coppice_secret::Key)): the key is in a file of its own, elsewhere in the
//! node's root, so that a copy of the certificates folder alone gives nobody a key.
//!
//! A sealed text is bound to what it is (`certificate/example.org`), so that one file cannot pass for another. Refuses
//! key files that others may read, that are no regular file, or that are not the one the folder was sealed with; and
//! never makes a new key for a folder that has sealed files already, since that would lose them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coppice_secret::{Key, KeyFileError, SealError, durable};
use zeroize::Zeroizing;

/// A sealed text in the folder that says which key the others were sealed with.
const PROOF: &str = "key-proof";

/// Why the key of the certificates folder was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error(
        "the key file {path} is gone, but {folder} has keys sealed with it; restore it from a backup, or move {folder} \
         away to order and install the certificates anew"
    )]
    Gone { path: PathBuf, folder: PathBuf },
    #[error(
        "the key in {path} is not the one {folder} was sealed with; restore the right one from a backup, or move \
         {folder} away to order and install the certificates anew"
    )]
    Wrong { path: PathBuf, folder: PathBuf },
}

/// The key; never shown.
#[derive(Debug)]
pub struct SealKey(Key);

impl SealKey {
    /// Reads the key at `path` and proves that it is `folder`'s; both are made when neither is there.
    pub fn of_folder(path: &Path, folder: &Path) -> Result<Self, KeyError> {
        let io = |source: io::Error| KeyFileError::Io { path: path.to_path_buf(), source };
        durable::make_folder(folder).map_err(io)?;
        let proof = folder.join(PROOF);
        let proved = proof.try_exists().map_err(io)?;
        let key = match Key::read(path) {
            Err(error) if error.is_not_there() => {
                if proved {
                    return Err(KeyError::Gone { path: path.to_path_buf(), folder: folder.to_path_buf() });
                }
                Key::make(path)?
            }
            other => other?,
        };
        if proved {
            let sealed = fs::read(&proof).map_err(io)?;
            key.open(PROOF, &sealed)
                .map_err(|SealError| KeyError::Wrong { path: path.to_path_buf(), folder: folder.to_path_buf() })?;
        } else {
            durable::write(&proof, &key.seal(PROOF, b"")).map_err(io)?;
        }
        Ok(Self(key))
    }

    /// `plain`, readable only with this key and as `what`.
    pub fn seal(&self, what: &str, plain: &[u8]) -> Vec<u8> {
        self.0.seal(what, plain)
    }

    /// What was sealed as `what`.
    pub fn open(&self, what: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.0.open(what, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Places {
        _root: tempfile::TempDir,
        key: PathBuf,
        folder: PathBuf,
    }

    fn places() -> Places {
        let root = tempfile::tempdir().expect("folder");
        let (key, folder) = (root.path().join("keys/certificates.key"), root.path().join("certificates"));
        Places { _root: root, key, folder }
    }

    #[test]
    fn the_key_is_made_once_with_mode_0600_and_opens_what_it_sealed() {
        let at = places();
        let sealed = SealKey::of_folder(&at.key, &at.folder).expect("made").seal("a", b"secret");
        assert_eq!(fs::metadata(&at.key).expect("key").permissions().mode() & 0o7777, 0o600);
        let again = SealKey::of_folder(&at.key, &at.folder).expect("read");
        assert_eq!(*again.open("a", &sealed).expect("open"), b"secret");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn a_key_file_others_may_read_is_refused_with_its_mode() {
        let at = places();
        SealKey::of_folder(&at.key, &at.folder).expect("made");
        fs::set_permissions(&at.key, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = SealKey::of_folder(&at.key, &at.folder).expect_err("refused");
        assert!(matches!(error, KeyError::File(KeyFileError::Mode { mode: 0o640, .. })), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn another_key_is_refused_and_none_is_made_for_a_folder_that_has_sealed_files() {
        let at = places();
        SealKey::of_folder(&at.key, &at.folder).expect("made");
        fs::write(&at.key, [7; 32]).expect("another key");
        assert!(matches!(SealKey::of_folder(&at.key, &at.folder), Err(KeyError::Wrong { .. })));
        fs::remove_file(&at.key).expect("remove");
        assert!(matches!(SealKey::of_folder(&at.key, &at.folder), Err(KeyError::Gone { .. })));
        assert!(!at.key.exists(), "no key was made");
    }

    #[test]
    fn the_key_is_not_shown_in_a_log() {
        let at = places();
        assert_eq!(format!("{:?}", SealKey::of_folder(&at.key, &at.folder).expect("made")), "SealKey(Key(..))");
    }
}
