//! The node's key for secrets, on disk, and how another takes its place without a moment at which neither opens them.
//!
//! ```text
//!   secrets.key              the key
//!   secrets.key.next.<id>    the one that is to be it: written first, then the log says that everything is sealed with it,
//!                            then it is renamed
//!   secrets.key.<id>         one that was, where it was to be kept (old backups are sealed with it)
//! ```
//!
//! What everything is sealed with says the log, by the key's id; whichever file has that key is the right one, so it does
//! not matter between which of these steps the power fails. A key that was to be is removed by [`Keyring::discard`] and
//! [`Keyring::settle`] alone, whose callers know what the log says: a log that could not be written may still come to say that
//! everything is sealed with it. Refuses to make a new key while the log has secrets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::key::Key;
use crate::key_file::KeyFileError;
use crate::source::{KeySource, SourceError, unwrap};

const KEY: &str = "secrets.key";
/// Begins the names of keys that are to be; one of an earlier version has no more than this.
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

impl KeyringError {
    /// The disk has no room for a key.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Source(SourceError::File(error)) if error.is_full())
    }
}

/// What became of a new key that was on its way when its daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// There was none.
    Nothing,
    /// Everything is sealed with it: it is in its place.
    Finished,
    /// Nothing is sealed with it: it is gone.
    WentBack,
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
        match (self.in_place()?, id) {
            (Some((key, as_asked)), id) if id.is_none_or(|id| key.id() == id) => {
                if !as_asked {
                    self.write(KEY, &key)?;
                }
                return Ok(key);
            }
            (None, None) => {
                let key = Key::generate();
                self.write(KEY, &key)?;
                return Ok(key);
            }
            _ => {}
        }
        let id = id.unwrap_or_default();
        for path in self.others()? {
            let Ok((key, _)) = unwrap(&path, &self.sources) else { continue };
            if key.id() == id {
                return Ok(key);
            }
        }
        Err(KeyringError::NotThere { folder: self.folder.clone(), id: id.to_owned() })
    }

    /// The key in its place, and whether it is as the source would write it.
    fn in_place(&self) -> Result<Option<(Key, bool)>, KeyringError> {
        match unwrap(&self.path(KEY), &self.sources) {
            Err(SourceError::File(error)) if error.is_not_there() => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Other files of keys than the one in its place, and what a crash left half written.
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
            if name.strip_prefix('.').unwrap_or(&name).starts_with(KEY) && name != KEY {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// A new key, on disk beside the old one.
    pub fn prepare(&self) -> Result<Key, KeyringError> {
        let key = Key::generate();
        self.write(&next(&key.id()), &key)?;
        Ok(key)
    }

    /// Has a key stay beside those to come, by its id. Gives the file, and whether it was not there yet.
    pub fn keep(&self, key: &Key) -> Result<(PathBuf, bool), KeyringError> {
        let path = self.kept(&key.id());
        if unwrap(&path, &self.sources).is_ok_and(|(found, _)| found.id() == key.id()) {
            return Ok((path, false));
        }
        self.write(&format!("{KEY}.{}", key.id()), key)?;
        Ok((path, true))
    }

    fn kept(&self, id: &str) -> PathBuf {
        self.path(&format!("{KEY}.{id}"))
    }

    /// Removes what [`keep`](Self::keep) has written of a key that is in its place.
    pub fn forget(&self, id: &str) -> Result<(), KeyringError> {
        let path = self.kept(id);
        if path.exists() && self.in_place()?.is_some_and(|(key, _)| key.id() == id) {
            remove(&path)?;
        }
        Ok(())
    }

    /// The log has refused this new key.
    pub fn discard(&self, id: &str) -> Result<(), KeyFileError> {
        remove(&self.path(&next(id)))
    }

    /// Puts the key with this id, which the log says everything is sealed with, in its place, and removes every other one that
    /// was to be, and what is half written. To be called where the log is known to the end: when a daemon starts, and when the
    /// log has just taken a new key. `None`: nothing is sealed.
    pub fn settle(&self, id: Option<&str>) -> Result<Settled, KeyringError> {
        let others = self.others()?;
        let is_hidden =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        for unfinished in others.iter().filter(is_hidden) {
            remove(unfinished)?;
        }
        let nexts: Vec<&PathBuf> = others
            .iter()
            .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(NEXT.as_bytes())))
            .collect();
        let kept = id.map(|id| self.kept(id)).filter(|kept| others.contains(kept));
        if nexts.is_empty() && kept.is_none() {
            return Ok(Settled::Nothing);
        }
        let before = self.in_place()?.map(|(key, _)| key.id());
        let mut is_in_place = id.is_none_or(|id| before.as_deref() == Some(id));
        let mut settled = Settled::Nothing;
        let mut unreadable = Vec::new();
        for next in nexts {
            let found = if is_in_place { None } else { Some(unwrap(next, &self.sources)) };
            match found {
                Some(Ok((key, _))) if Some(key.id().as_str()) == id => {
                    self.put(next, KEY)?;
                    (is_in_place, settled) = (true, Settled::Finished);
                }
                Some(Err(error)) if id.is_some_and(|id| *next == self.path(&self::next(id))) => {
                    return Err(error.into());
                }
                Some(Err(error)) => unreadable.push((next, error)),
                Some(Ok(_)) | None => {
                    remove(next)?;
                    if settled == Settled::Nothing {
                        settled = Settled::WentBack;
                    }
                }
            }
        }
        for (stray, error) in unreadable {
            // Without the right one, it may be that.
            if !is_in_place && kept.is_none() {
                return Err(error.into());
            }
            remove(stray)?;
        }
        match (kept, before) {
            // Beside itself it is of no use, and would outlive the next new key.
            (Some(kept), _) if is_in_place => remove(&kept)?,
            // Of two keys that were kept, the log of a backup has this one.
            (Some(kept), before) => {
                if let Some(before) = before {
                    self.put(&self.path(KEY), &format!("{KEY}.{before}"))?;
                }
                self.put(&kept, KEY)?;
            }
            (None, _) => {}
        }
        Ok(settled)
    }

    fn put(&self, from: &Path, name: &str) -> Result<(), KeyFileError> {
        let to = self.path(name);
        let renamed = fs::rename(from, &to).and_then(|()| durable::sync_folder_of(&to));
        renamed.map_err(|source| KeyFileError::Io { path: to, source })
    }

    fn write(&self, name: &str, key: &Key) -> Result<(), KeyringError> {
        let path = self.path(name);
        let bytes = self.sources.first().unwrap_or(&KeySource::File).wrap(key)?;
        let written = durable::make_folder(&self.folder).and_then(|()| durable::write(&path, &bytes));
        Ok(written.map_err(|source| KeyFileError::Io { path, source })?)
    }
}

fn next(id: &str) -> String {
    format!("{NEXT}.{id}")
}

fn remove(path: &Path) -> Result<(), KeyFileError> {
    durable::remove(path).map(drop).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
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
        assert_eq!(ground.plain().settle(Some(&old)).unwrap(), Settled::Nothing);
        // Before the log has it.
        let lost = ground.plain().prepare().unwrap().id();
        fs::write(ground.at("keys/.secrets.key.next.01.unfinished"), "half").unwrap();
        fs::write(ground.at("keys/.certificates.key.01.unfinished"), "somebody else's").unwrap();
        assert_eq!(ground.plain().open(Some(&old)).unwrap().id(), old);
        assert_eq!(ground.plain().settle(Some(&old)).unwrap(), Settled::WentBack);
        assert_eq!(ground.names(), [".certificates.key.01.unfinished", "secrets.key"], "{lost} is gone");
        // After the log has it.
        let new = ground.plain().prepare().unwrap().id();
        assert_eq!(ground.plain().open(Some(&new)).unwrap().id(), new, "before anything is settled");
        assert_eq!(ground.plain().settle(Some(&new)).unwrap(), Settled::Finished);
        assert_eq!(ground.names(), [".certificates.key.01.unfinished", "secrets.key"]);
        // After the rename.
        assert_eq!(ground.plain().settle(Some(&new)).unwrap(), Settled::Nothing);
        assert_eq!(ground.plain().open(Some(&new)).unwrap().id(), new);
        assert!(ground.plain().open(Some(&old)).is_err(), "the old one is gone");
    }

    #[test]
    fn of_several_new_keys_the_log_may_name_any_until_it_is_known_to_the_end() {
        for named in 0..3 {
            let ground = Ground::new();
            ground.plain().open(None).unwrap();
            let nexts: Vec<String> = (0..3).map(|_| ground.plain().prepare().unwrap().id()).collect();
            ground.plain().discard(&nexts[(named + 1) % 3]).unwrap();
            // One that nobody can read stops none of them.
            fs::write(ground.at("keys/secrets.key.next.0000000000000000"), "bad").unwrap();
            assert_eq!(ground.plain().open(Some(&nexts[named])).unwrap().id(), nexts[named]);
            assert_eq!(ground.plain().settle(Some(&nexts[named])).unwrap(), Settled::Finished);
            assert_eq!(ground.names(), ["secrets.key"]);
            assert_eq!(ground.plain().open(Some(&nexts[named])).unwrap().id(), nexts[named]);
        }
    }

    #[test]
    fn a_new_key_of_an_earlier_version_is_settled_too() {
        let ground = Ground::new();
        ground.plain().open(None).unwrap();
        let new = ground.plain().prepare().unwrap().id();
        fs::rename(ground.at(&format!("keys/secrets.key.next.{new}")), ground.at("keys/secrets.key.next")).unwrap();
        assert_eq!(ground.plain().settle(Some(&new)).unwrap(), Settled::Finished);
        assert_eq!(
            (ground.plain().open(Some(&new)).unwrap().id(), ground.names()),
            (new, vec!["secrets.key".to_owned()])
        );
    }

    #[test]
    fn a_key_that_does_not_open_for_now_is_left_where_it_is() {
        let ground = Ground::new();
        let source = ground.passphrase("one", "correct horse battery");
        let ring = ground.ring(source, None);
        ring.open(None).unwrap();
        let new = ring.prepare().unwrap().id();
        fs::rename(ground.at("one"), ground.at("away")).unwrap();
        ring.settle(Some(&new)).unwrap_err();
        assert_eq!(ground.names().len(), 2);
        fs::rename(ground.at("away"), ground.at("one")).unwrap();
        assert_eq!(ring.settle(Some(&new)).unwrap(), Settled::Finished);
    }

    #[test]
    fn an_old_key_that_was_to_be_kept_is_found_again() {
        let ground = Ground::new();
        let ring = ground.plain();
        let old = ring.open(None).unwrap();
        let (new, kept) = (ring.prepare().unwrap().id(), format!("secrets.key.{}", old.id()));
        assert_eq!(ring.keep(&old).unwrap(), (ground.at("keys").join(&kept), true));
        ring.settle(Some(&new)).unwrap();
        assert_eq!(ring.settle(Some(&new)).expect("done already"), Settled::Nothing);
        assert_eq!(ground.names(), ["secrets.key", &kept]);
        assert_eq!(ring.open(Some(&new)).unwrap().id(), new);
        assert_eq!(ring.open(Some(&old.id())).unwrap().id(), old.id());
        // It is in use once more, with the log of an old backup: both are there still.
        assert!(!ring.keep(&old).unwrap().1);
        ring.forget(&old.id()).unwrap();
        assert_eq!(ring.settle(Some(&old.id())).unwrap(), Settled::Nothing);
        assert_eq!(ground.names(), ["secrets.key", &format!("secrets.key.{new}")]);
        assert_eq!(ring.open(Some(&old.id())).unwrap().id(), old.id());
        assert_eq!(ring.open(Some(&new)).unwrap().id(), new);
    }

    #[test]
    fn a_key_that_was_kept_for_another_that_did_not_come_is_not_left_beside_itself() {
        let ground = Ground::new();
        let ring = ground.plain();
        let old = ring.open(None).unwrap();
        ring.keep(&old).unwrap();
        ring.forget(&old.id()).unwrap();
        assert_eq!(ground.names(), ["secrets.key"]);
        // And where that crashed, too.
        ring.keep(&old).unwrap();
        ring.prepare().unwrap();
        assert_eq!(ring.settle(Some(&old.id())).unwrap(), Settled::WentBack);
        assert_eq!(ground.names(), ["secrets.key"]);
        // One that is damaged is written anew.
        fs::write(ground.at(&format!("keys/secrets.key.{}", old.id())), "bad").unwrap();
        let (path, is_written) = ring.keep(&old).unwrap();
        assert!(is_written && unwrap(&path, &[KeySource::File]).unwrap().0.id() == old.id());
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
