//! Encryption of private keys at rest: XChaCha20-Poly1305 under a key of 32 bytes in a file of its own, elsewhere in the
//! node's root, so that a copy of the certificates folder alone gives nobody a key.
//!
//! A sealed text is bound to what it is (`certificate/example.org`), so that one file cannot pass for another. Refuses
//! key files that others may read, that are no regular file, or that are not the one the folder was sealed with; and
//! never makes a new key for a folder that has sealed files already, since that would lose them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::durable;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Begins every sealed text; the number is the format's.
const MAGIC: &[u8] = b"coppice-sealed-1\n";
/// A sealed text in the folder that says which key the others were sealed with.
const PROOF: &str = "key-proof";

/// Why the key of the certificates folder was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot use the key file {path}: {source}; check that its folder exists and is writable")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the key file {path} has mode {mode:04o}: others could read it; run `chmod 600 {path}`, and issue the \
         certificates anew if somebody may have"
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error("the key file {path} belongs to user {owner}, not to the one who runs the node; `chown` it")]
    Owner { path: PathBuf, owner: u32 },
    #[error("{path} is not a regular file of {KEY_BYTES} bytes; restore it from a backup")]
    Shape { path: PathBuf },
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

/// A sealed text did not open: another key, another place, or changed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed with another key or for another place, or was changed; restore it from a backup")]
pub struct SealError;

/// The key; never shown.
pub struct SealKey {
    key: Zeroizing<[u8; KEY_BYTES]>,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SealKey(..)")
    }
}

impl SealKey {
    /// Reads the key at `path` and proves that it is `folder`'s; both are made when neither is there.
    pub fn of_folder(path: &Path, folder: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { path: path.to_path_buf(), source };
        durable::make_folder(folder).map_err(io)?;
        let proof = folder.join(PROOF);
        let proved = proof.try_exists().map_err(io)?;
        let key = match Self::read(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if proved {
                    return Err(KeyError::Gone { path: path.to_path_buf(), folder: folder.to_path_buf() });
                }
                Self::make(path)?
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
        Ok(key)
    }

    fn make(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { path: path.to_path_buf(), source };
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *key).map_err(|error| io(io::Error::other(error)))?;
        if let Some(parent) = path.parent() {
            durable::make_folder(parent).map_err(io)?;
        }
        match durable::create(path, &*key) {
            // Another process of ours made it first: its key is the one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            made => made.map_err(io).map(|()| Self { key }),
        }
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { path: path.to_path_buf(), source };
        let found = fs::symlink_metadata(path).map_err(io)?;
        if !found.is_file() || found.len() != KEY_BYTES as u64 {
            return Err(KeyError::Shape { path: path.to_path_buf() });
        }
        if found.mode() & 0o077 != 0 {
            return Err(KeyError::Mode { path: path.to_path_buf(), mode: found.mode() & 0o7777 });
        }
        // `/proc/self` belongs to whom we run as.
        let own = fs::metadata("/proc/self").map_err(io)?.uid();
        if found.uid() != own {
            return Err(KeyError::Owner { path: path.to_path_buf(), owner: found.uid() });
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(io)?);
        let key =
            <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Shape { path: path.to_path_buf() })?;
        Ok(Self { key: Zeroizing::new(key) })
    }

    /// `plain`, readable only with this key and as `what`.
    pub fn seal(&self, what: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("getrandom(2) works on every kernel Coppice starts on");
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: what.as_bytes() })
            .expect("only texts of more than 256 GiB cannot be sealed");
        [MAGIC, &nonce, &sealed].concat()
    }

    /// What was sealed as `what`.
    pub fn open(&self, what: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let rest = sealed.strip_prefix(MAGIC).ok_or(SealError)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError)?;
        let payload = Payload { msg: text, aad: what.as_bytes() };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| SealError)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&(*self.key).into())
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
        assert!(matches!(error, KeyError::Mode { mode: 0o640, .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn another_key_is_refused_and_none_is_made_for_a_folder_that_has_sealed_files() {
        let at = places();
        SealKey::of_folder(&at.key, &at.folder).expect("made");
        fs::write(&at.key, [7; KEY_BYTES]).expect("another key");
        assert!(matches!(SealKey::of_folder(&at.key, &at.folder), Err(KeyError::Wrong { .. })));
        fs::remove_file(&at.key).expect("remove");
        assert!(matches!(SealKey::of_folder(&at.key, &at.folder), Err(KeyError::Gone { .. })));
        assert!(!at.key.exists(), "no key was made");
    }

    #[test]
    fn a_key_file_that_is_short_or_a_link_is_refused() {
        let at = places();
        SealKey::of_folder(&at.key, &at.folder).expect("made");
        let elsewhere = at.key.with_extension("elsewhere");
        fs::rename(&at.key, &elsewhere).expect("move");
        std::os::unix::fs::symlink(&elsewhere, &at.key).expect("link");
        assert!(matches!(SealKey::of_folder(&at.key, &at.folder), Err(KeyError::Shape { .. })));
        fs::remove_file(&at.key).expect("remove");
        durable::write(&at.key, b"short").expect("short");
        assert!(matches!(SealKey::of_folder(&at.key, &at.folder), Err(KeyError::Shape { .. })));
    }

    #[test]
    fn a_sealed_text_opens_only_in_its_own_place_and_unchanged() {
        let at = places();
        let key = SealKey::of_folder(&at.key, &at.folder).expect("made");
        let sealed = key.seal("certificate/a.example", b"secret");
        assert_eq!(key.open("certificate/b.example", &sealed), Err(SealError));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open("certificate/a.example", &changed), Err(SealError), "byte {at}");
            assert_eq!(key.open("certificate/a.example", &sealed[..at]), Err(SealError), "cut at {at}");
        }
    }

    #[test]
    fn the_key_is_not_shown_in_a_log() {
        let at = places();
        assert_eq!(format!("{:?}", SealKey::of_folder(&at.key, &at.folder).expect("made")), "SealKey(..)");
    }
}
