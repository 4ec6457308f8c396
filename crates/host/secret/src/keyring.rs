//! The node's key for secrets, on disk, and how another takes its place without a moment at which neither opens them.
//!
//! ```text
//!   secrets.key          the key
//!   secrets.key.next     the one that is to be it: written first, then the log says that everything is sealed with it,
//!                        then it is renamed
//!   secrets.key.<id>     one that was, where it was to be kept (old backups are sealed with it)
//! ```
//!
//! What everything is sealed with says the log, by the key's id; whichever file has that key is the right one, so it does
//! not matter between which of these steps the power fails. Refuses to make a new key while the log has secrets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::key::Key;
use crate::key_file::KeyFileError;
use crate::source::{KeySource, SourceError, unwrap};

const KEY: &str = "secrets.key";
const NEXT: &str = "secrets.key.next";

/// Why there is no key for the secrets. None was made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "the key {id} that the secrets are sealed with is not in {folder}: restore `{KEY}` there from a backup, or remove \
         the secrets (`coppice secret rm --force`) and set them anew"
    )]
    NotThere { folder: PathBuf, id: String },
}

impl From<KeyFileError> for KeyringError {
    fn from(error: KeyFileError) -> Self {
        Self::Source(error.into())
    }
}

/// The folder with the key. Used by one process at a time: the node's, which holds its lock.
#[derive(Clone, Debug)]
pub struct Keyring {
    folder: PathBuf,
    /// The first writes, the others may still open.
    sources: Vec<KeySource>,
}

impl Keyring {
    /// `source`: what protects the key; `previous`: what did, so that the one can take the place of the other.
    pub fn new(folder: &Path, source: KeySource, previous: Option<KeySource>) -> Self {
        Self { folder: folder.to_owned(), sources: [source].into_iter().chain(previous).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The key with this id, wherever a crash has left it. `None`: nothing is sealed yet, any key will do, and one is made
    /// where there is none.
    pub fn open(&self, id: Option<&str>) -> Result<Key, KeyringError> {
        let path = self.path(KEY);
        let current = match unwrap(&path, &self.sources) {
            Err(SourceError::File(error)) if error.is_not_there() => None,
            other => Some(other?),
        };
        match current {
            Some((key, as_asked)) if id.is_none_or(|id| key.id() == id) => {
                // One that was to be the key, had the log agreed.
                self.discard_next()?;
                if !as_asked {
                    self.write(KEY, &key)?;
                }
                return Ok(key);
            }
            None if id.is_none() => {
                let key = Key::generate();
                self.write(KEY, &key)?;
                return Ok(key);
            }
            _ => {}
        }
        let id = id.unwrap_or_default();
        let next = self.path(NEXT);
        for path in self.others()? {
            let Ok((key, _)) = unwrap(&path, &self.sources) else { continue };
            if key.id() != id {
                continue;
            }
            if path == next {
                self.promote()?;
            }
            return Ok(key);
        }
        Err(KeyringError::NotThere { folder: self.folder.clone(), id: id.to_owned() })
    }

    fn others(&self) -> Result<Vec<PathBuf>, KeyFileError> {
        let failed = |source| KeyFileError::Io { path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(KEY) && name != KEY {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// A new key, on disk beside the old one.
    pub fn prepare(&self) -> Result<Key, KeyringError> {
        let key = Key::generate();
        self.write(NEXT, &key)?;
        Ok(key)
    }

    /// Has the current key stay beside the next one, by its id.
    pub fn keep(&self, id: &str) -> Result<PathBuf, KeyFileError> {
        let (from, to) = (self.path(KEY), self.path(&format!("{KEY}.{id}")));
        match fs::hard_link(&from, &to).and_then(|()| durable::sync_folder_of(&to)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(KeyFileError::Io { path: to, source: error })
            }
            _ => Ok(to),
        }
    }

    /// Puts the new key in the old one's place: nothing is sealed with that any more. One who opened it meanwhile has done
    /// so already.
    pub fn replace(&self) -> Result<(), KeyFileError> {
        match self.promote() {
            Err(error) if error.is_not_there() => Ok(()),
            other => other,
        }
    }

    fn promote(&self) -> Result<(), KeyFileError> {
        let (from, to) = (self.path(NEXT), self.path(KEY));
        let renamed = fs::rename(&from, &to).and_then(|()| durable::sync_folder_of(&to));
        renamed.map_err(|source| KeyFileError::Io { path: to, source })
    }

    /// The log did not take the new key.
    pub fn discard_next(&self) -> Result<(), KeyFileError> {
        let path = self.path(NEXT);
        durable::remove(&path).map(drop).map_err(|source| KeyFileError::Io { path, source })
    }

    fn write(&self, name: &str, key: &Key) -> Result<(), KeyringError> {
        let path = self.path(name);
        let bytes = self.sources.first().unwrap_or(&KeySource::File).wrap(key)?;
        let written = durable::make_folder(&self.folder).and_then(|()| durable::write(&path, &bytes));
        Ok(written.map_err(|source| KeyFileError::Io { path, source })?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Ground {
        folder: tempfile::TempDir,
    }

    impl Ground {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn ring(&self, source: KeySource, previous: Option<KeySource>) -> Keyring {
            Keyring::new(&self.at("keys"), source, previous)
        }

        fn plain(&self) -> Keyring {
            self.ring(KeySource::File, None)
        }

        fn passphrase(&self, name: &str, text: &str) -> KeySource {
            durable::write(&self.at(name), text.as_bytes()).unwrap();
            KeySource::Passphrase { path: self.at(name) }
        }

        fn credential(&self, name: &str, text: &[u8]) -> KeySource {
            fs::write(self.at(name), text).unwrap();
            KeySource::Credential { directory: Some(self.folder.path().to_owned()), name: name.to_owned() }
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.at("keys"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_key_is_made_only_where_nothing_is_sealed() {
        let ground = Ground::new();
        let error = ground.plain().open(Some("0123456789abcdef")).unwrap_err();
        assert!(matches!(error, KeyringError::NotThere { .. }), "{error}");
        let id = ground.plain().open(None).unwrap().id();
        assert_eq!(ground.plain().open(Some(&id)).unwrap().id(), id);
        fs::remove_file(ground.at("keys/secrets.key")).unwrap();
        assert!(matches!(ground.plain().open(Some(&id)), Err(KeyringError::NotThere { .. })));
        assert!(ground.names().is_empty(), "none was made");
    }

    #[test]
    fn a_crash_at_any_step_of_a_new_key_leaves_the_one_that_the_log_names() {
        let ground = Ground::new();
        let old = ground.plain().open(None).unwrap().id();
        // Before the log has it.
        let lost = ground.plain().prepare().unwrap().id();
        assert_eq!(ground.plain().open(Some(&old)).unwrap().id(), old);
        assert_eq!(ground.names(), ["secrets.key"], "{lost} is gone");
        // After the log has it.
        let new = ground.plain().prepare().unwrap().id();
        assert_eq!(ground.plain().open(Some(&new)).unwrap().id(), new);
        assert_eq!(ground.names(), ["secrets.key"]);
        // After the rename.
        assert_eq!(ground.plain().open(Some(&new)).unwrap().id(), new);
        assert!(ground.plain().open(Some(&old)).is_err(), "the old one is gone");
    }

    #[test]
    fn an_old_key_that_was_to_be_kept_is_found_again() {
        let ground = Ground::new();
        let old = ground.plain().open(None).unwrap().id();
        let new = ground.plain().prepare().unwrap().id();
        ground.plain().keep(&old).unwrap();
        ground.plain().replace().unwrap();
        ground.plain().replace().expect("done already");
        assert_eq!(ground.names(), ["secrets.key".to_owned(), format!("secrets.key.{old}")]);
        assert_eq!(ground.plain().open(Some(&new)).unwrap().id(), new);
        assert_eq!(ground.plain().open(Some(&old)).unwrap().id(), old);
    }

    #[test]
    fn a_passphrase_wraps_the_key_and_another_one_does_not_open_it() {
        let ground = Ground::new();
        let source = ground.passphrase("one", "correct horse battery\n");
        let key = ground.ring(source.clone(), None).open(None).unwrap();
        let file = fs::read(ground.at("keys/secrets.key")).unwrap();
        assert!(!file.windows(8).any(|window| window == &key.bytes()[..8]), "the key is not in it as it is");
        assert_eq!(ground.ring(source.clone(), None).open(Some(&key.id())).unwrap().id(), key.id());
        let other = ground.passphrase("two", "incorrect horse battery");
        let error = ground.ring(other.clone(), None).open(Some(&key.id())).unwrap_err();
        assert!(matches!(error, KeyringError::Source(SourceError::Wrong { .. })), "{error}");
        let error = ground.plain().open(Some(&key.id())).unwrap_err();
        assert!(matches!(error, KeyringError::Source(SourceError::Wrapped { .. })), "{error}");
        // The old passphrase beside the new one: the new one is enough from then on.
        assert_eq!(ground.ring(other.clone(), Some(source.clone())).open(Some(&key.id())).unwrap().id(), key.id());
        assert_eq!(ground.ring(other, None).open(Some(&key.id())).unwrap().id(), key.id());
        assert!(ground.ring(source, None).open(Some(&key.id())).is_err());
    }

    #[test]
    fn a_plain_key_is_wrapped_when_a_passphrase_is_named_and_so_is_the_next() {
        let ground = Ground::new();
        let key = ground.plain().open(None).unwrap();
        let source = ground.passphrase("one", "correct horse battery");
        let ring = ground.ring(source, None);
        assert_eq!(ring.open(Some(&key.id())).unwrap().id(), key.id());
        assert_ne!(fs::read(ground.at("keys/secrets.key")).unwrap(), key.bytes());
        let next = ring.prepare().unwrap();
        assert_eq!(ring.open(Some(&next.id())).unwrap().id(), next.id());
        assert!(ground.plain().open(Some(&next.id())).is_err());
    }

    #[test]
    fn a_credential_is_32_bytes_or_64_digits_and_has_to_be_there() {
        let ground = Ground::new();
        let raw = ground.credential("raw", &[7; 32]);
        let key = ground.ring(raw, None).open(None).unwrap();
        let digits = ground.credential("digits", format!("{}\n", "07".repeat(32)).as_bytes());
        assert_eq!(ground.ring(digits, None).open(Some(&key.id())).unwrap().id(), key.id(), "the same credential");
        let refused = |source: KeySource| match ground.ring(source, None).open(Some(&key.id())) {
            Err(KeyringError::Source(error)) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(refused(ground.credential("short", b"hunter2")), SourceError::Credential { .. }));
        assert!(matches!(refused(ground.credential("other", &[8; 32])), SourceError::Wrong { .. }));
        let none = KeySource::Credential { directory: None, name: "raw".to_owned() };
        assert!(matches!(refused(none), SourceError::NoCredentials { .. }));
        let outside = KeySource::Credential { directory: Some("/".into()), name: "../etc/passwd".to_owned() };
        assert!(matches!(refused(outside), SourceError::CredentialName { .. }));
    }

    #[test]
    fn passphrases_that_are_short_or_that_others_may_read_are_refused() {
        let ground = Ground::new();
        let short = ground.passphrase("short", "hunter2\n");
        let error = ground.ring(short, None).open(None).unwrap_err();
        assert!(matches!(error, KeyringError::Source(SourceError::Short { .. })), "{error}");
        let open = ground.passphrase("open", "correct horse battery");
        fs::set_permissions(ground.at("open"), fs::Permissions::from_mode(0o644)).unwrap();
        let error = ground.ring(open, None).open(None).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
