//! Secrets on this node: opened when a container is about to get them, and nowhere else.
//!
//! ```text
//!   State: sealed versions ──open(key)──▶ Delivery ──▶ the launcher: environment, files on the container's tmpfs
//! ```
//!
//! A container's record has the numbers of the versions it was given, never values; what is opened lives until the launcher
//! has it. The key is read when something is first sealed or opened, so a node without secrets has none, and one whose key
//! cannot be read runs everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use coppice_api::ErrorKind;
use coppice_base::Name;
use coppice_container::{Mount, MountSource, SecretBytes, SecretFile, SecretFileError, SecretFiles};
use coppice_secret::{GenerateError, Key, KeySource, Keyring, KeyringError, Kind, Material, VALUE_MAX};
use coppice_spec::{OnRotate, SecretKind, SecretTarget, SecretUse, WorkloadSpec};
use coppice_state::State;
use rustix::fs::{Mode, OFlags};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::container::{Container, Phase, Record};
use crate::containers::Containers;
use crate::error::NodeError;
use crate::root::Root;
use crate::settings::{SecretKeySettings, SecretSettings};
use crate::signal::parse_signal;

/// Where in the tmpfs files are whose place is elsewhere.
const ELSEWHERE: &str = ".at";

/// Why something about secrets was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("the secrets cannot be opened: {0}")]
    Key(#[from] KeyringError),
    #[error(
        "version {version} of secret {secret} does not open: it was changed, or put in another one's place; restore the \
         state from a backup, or set it anew (`coppice secret set {secret}`)"
    )]
    Sealed { secret: Name, version: u64 },
    #[error("there is no secret {0:?}; `coppice secret ls` lists those there are")]
    Unknown(String),
    #[error(
        "there is no version {version} of secret {secret}, or no longer; `coppice secret history {secret}` lists those there are"
    )]
    UnknownVersion { secret: Name, version: u64 },
    #[error(
        "app {app} uses {}, which nobody has set: `coppice secret set {}` (or give it `generate` under [secret.NAME])",
        .secrets.iter().map(|name| format!("secret {name}")).collect::<Vec<_>>().join(", "), .secrets[0]
    )]
    Unset { app: Name, secrets: Vec<Name> },
    #[error("secret {secret} has no part {part}{}", known_part(.kind.as_ref()))]
    NoPart { secret: Name, part: Name, kind: Option<SecretKind> },
    #[error(
        "secret {secret} cannot be the environment variable {variable}: it is not text (UTF-8 without NUL); use it as a file"
    )]
    NoText { secret: Name, variable: String },
    #[error("a secret has at most {VALUE_MAX} bytes and this value has {0}: keep large files in a volume")]
    TooLong(usize),
    #[error("the value is not base64")]
    NotBase64,
    #[error("secret {0} was set by hand: a rotation needs its new value")]
    NoValue(Name),
    #[error("a secret is given or made, not both")]
    GivenAndMade,
    #[error("a value is needed, or what to make")]
    NothingGiven,
    #[error("values of secrets are for root alone, and you are uid {0}")]
    NotRoot(u32),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error(
        "it is not known yet whether the secrets have another key: {0}; they open either way, and which it is is settled when the \
         log can be written again: then run `coppice secret rekey` once more"
    )]
    Undecided(Box<NodeError>),
    #[error(
        "everything is sealed with the new key, and opens, but the old one is still in its place: {0}; then run `coppice secret rekey` once more"
    )]
    NotInPlace(KeyringError),
    #[error("container {container} does not have the new value: {source}")]
    Files { container: String, source: SecretFileError },
}

fn known_part(kind: Option<&SecretKind>) -> String {
    match kind.and_then(SecretKind::part) {
        Some(part) => format!(" but {part}"),
        None => ": it has none".to_owned(),
    }
}

impl SecretsError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown(_) | Self::UnknownVersion { .. } => ErrorKind::NotFound,
            Self::Unset { .. }
            | Self::NoPart { .. }
            | Self::NoText { .. }
            | Self::TooLong(_)
            | Self::NotBase64
            | Self::NoValue(_)
            | Self::GivenAndMade
            | Self::NothingGiven
            | Self::Generate(_) => ErrorKind::Invalid,
            Self::NotRoot(_) => ErrorKind::Forbidden,
            Self::Undecided(error) => error.kind(),
            Self::Key(error) | Self::NotInPlace(error) if error.is_full() => ErrorKind::NoSpace,
            Self::NotInPlace(_) => ErrorKind::Internal,
            Self::Key(_) | Self::Sealed { .. } | Self::Files { .. } => ErrorKind::Conflict,
        }
    }
}

/// The key, and what it opens.
pub(crate) struct Secrets {
    keyring: Keyring,
    states: watch::Receiver<Arc<State>>,
    key: Mutex<Option<Key>>,
    /// One change at a time: of two that seal the same next version, one would be in vain.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Secrets {
    pub(crate) fn new(root: &Root, settings: &SecretSettings, states: watch::Receiver<Arc<State>>) -> Self {
        let keyring = keyring(root, settings);
        Self { keyring, states, key: Mutex::default(), changing: tokio::sync::Mutex::default() }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.states.borrow().clone()
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The key that everything is sealed with. With a passphrase, the first call takes a moment.
    pub(crate) fn key(&self) -> Result<Key, SecretsError> {
        let state = self.state();
        let mut known = self.key.lock().expect("no panic holds this lock");
        if let Some(key) = known.as_ref().filter(|key| state.secret_key().is_none_or(|id| key.id() == id)) {
            return Ok(key.clone());
        }
        let key = self.keyring.open(state.secret_key())?;
        *known = Some(key.clone());
        Ok(key)
    }

    /// Another one is in its place.
    pub(crate) fn forget_key(&self) {
        *self.key.lock().expect("no panic holds this lock") = None;
    }

    /// A value as it was set or made.
    pub(crate) fn open(&self, secret: &Name, version: u64) -> Result<Material, SecretsError> {
        let state = self.state();
        let known = state.secret(secret.as_str()).ok_or_else(|| SecretsError::Unknown(secret.to_string()))?;
        let sealed = known.versions.get(&version);
        let sealed = sealed.ok_or_else(|| SecretsError::UnknownVersion { secret: secret.clone(), version })?;
        Material::open(&self.key()?, secret, version, &sealed.sealed)
            .map_err(|_| SecretsError::Sealed { secret: secret.clone(), version })
    }

    /// A value or another part of it, as a workload uses it.
    fn part(&self, used: &SecretUse, version: u64) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
        let material = self.open(&used.secret, version)?;
        match material.part(used.part.as_ref()) {
            Some(bytes) => Ok(Zeroizing::new(bytes.to_vec())),
            None => {
                let state = self.state();
                let secret = state.secret(used.secret.as_str());
                let kind = secret.and_then(|secret| secret.versions.get(&version)?.kind.clone());
                let part = used.part.clone().expect("every secret has a value");
                Err(SecretsError::NoPart { secret: used.secret.clone(), part, kind })
            }
        }
    }

    /// All that a container is given: the versions in its record; the newest ones where nobody pins any.
    pub(crate) fn delivery(&self, record: &Record) -> Result<Delivery, SecretsError> {
        self.part_of_delivery(record, |_| true)
    }

    /// Of that, what these uses ask for.
    fn part_of_delivery(
        &self,
        record: &Record,
        is_asked: impl Fn(&SecretUse) -> bool,
    ) -> Result<Delivery, SecretsError> {
        let mut delivery = Delivery::default();
        let uses = record.spec.workload.secrets.iter().enumerate();
        for (at, used) in uses.filter(|(_, used)| is_asked(used)) {
            let version = match record.secrets.files.get(&used.secret) {
                Some(version) => *version,
                None => self.newest(&used.secret)?,
            };
            let value = self.part(used, version)?;
            match &used.target {
                SecretTarget::Env(variable) => delivery.env.push(variable_of(used, variable, &value)?),
                SecretTarget::File { path, .. } => {
                    let file = file_of(at, used, value).expect("its target is a file");
                    if let Some(place) = elsewhere(path) {
                        delivery.links.insert(place, file.path.clone());
                    }
                    delivery.files.push(file);
                }
            }
        }
        Ok(delivery)
    }

    fn newest(&self, secret: &Name) -> Result<u64, SecretsError> {
        let state = self.state();
        let newest = state.secret(secret.as_str()).and_then(|secret| secret.newest()).map(|(version, _)| version);
        newest.ok_or_else(|| SecretsError::Unknown(secret.to_string()))
    }
}

/// Where the key is.
pub(crate) fn keyring(root: &Root, settings: &SecretSettings) -> Keyring {
    Keyring::new(&root.keys(), source(&settings.key), settings.previous_key.as_ref().map(source))
}

fn source(settings: &SecretKeySettings) -> KeySource {
    match settings {
        SecretKeySettings::File => KeySource::File,
        SecretKeySettings::PassphraseFile(path) => KeySource::Passphrase { path: path.clone() },
        SecretKeySettings::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            KeySource::Credential { directory, name: name.clone() }
        }
    }
}

/// As the crate that makes them calls it.
pub(crate) fn kind_of(kind: &SecretKind) -> Kind {
    match kind {
        SecretKind::Random256 => Kind::Random256,
        SecretKind::Password => Kind::Password,
        SecretKind::Ed25519 => Kind::Ed25519,
        SecretKind::Tls { name } => Kind::Tls { name: name.clone() },
    }
}

/// One line end is left out: it is what `echo` adds.
fn variable_of(used: &SecretUse, variable: &str, value: &[u8]) -> Result<Zeroizing<String>, SecretsError> {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Ok(Zeroizing::new(format!("{variable}={text}"))),
        _ => Err(SecretsError::NoText { secret: used.secret.clone(), variable: variable.to_owned() }),
    }
}

/// The file of the `at`th secret of a workload; `None`: it is none.
fn file_of(at: usize, used: &SecretUse, value: Zeroizing<Vec<u8>>) -> Option<SecretFile> {
    let SecretTarget::File { path, mode, uid, gid } = &used.target else { return None };
    Some(SecretFile { path: in_tmpfs(at, path), mode: *mode, uid: *uid, gid: *gid, content: SecretBytes(value) })
}

fn in_tmpfs(at: usize, path: &str) -> PathBuf {
    let absolute = SecretUse::absolute(path);
    match Path::new(&absolute).strip_prefix(SecretUse::DIRECTORY) {
        Ok(below) => below.to_owned(),
        Err(_) => Path::new(ELSEWHERE).join(at.to_string()),
    }
}

/// The place of a file that is not below the directory of secrets.
fn elsewhere(path: &str) -> Option<PathBuf> {
    let absolute = PathBuf::from(SecretUse::absolute(path));
    (!absolute.starts_with(SecretUse::DIRECTORY)).then_some(absolute)
}

/// What a container is given. Never shown.
#[derive(Clone, Default)]
pub(crate) struct Delivery {
    env: Vec<Zeroizing<String>>,
    files: Vec<SecretFile>,
    links: BTreeMap<PathBuf, PathBuf>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Delivery(..)")
    }
}

impl Delivery {
    /// Adds its variables, in place of those of the same names (the image may have set some).
    pub(crate) fn add_to(&self, env: &mut Vec<String>) {
        for entry in &self.env {
            let key = entry.split('=').next();
            env.retain(|old| old.split('=').next() != key);
            env.push(entry.to_string());
        }
    }

    /// The tmpfs with its files, where there are some.
    pub(crate) fn mount(&self) -> Option<Mount> {
        let source = MountSource::Secrets { files: self.files.clone(), links: self.links.clone() };
        (!self.files.is_empty()).then(|| Mount { target: SecretUse::DIRECTORY.into(), read_only: false, source })
    }
}

/// A running container's files with secrets.
fn files_of(phase: &Phase) -> Option<Result<SecretFiles, SecretFileError>> {
    let Phase::Running { pid, .. } = phase else { return None };
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|errno| SecretFileError::Errno { path, errno });
    Some(root.and_then(|root| SecretFiles::open(root, Path::new(SecretUse::DIRECTORY))))
}

/// The versions that a workload's instances are to run with.
pub(crate) fn pins(workload: &WorkloadSpec, pinned: &BTreeMap<Name, u64>) -> BTreeMap<Name, u64> {
    let used = workload.secrets.iter().map(|used| &used.secret);
    used.filter_map(|secret| Some((secret.clone(), *pinned.get(secret)?))).collect()
}

/// Of those, the ones that another value of replaces the instance for.
pub(crate) fn replacing_pins(workload: &WorkloadSpec, pinned: &BTreeMap<Name, u64>) -> BTreeMap<Name, u64> {
    let used = workload.secrets.iter().filter(|used| used.on_rotate == OnRotate::Restart).map(|used| &used.secret);
    used.filter_map(|secret| Some((secret.clone(), *pinned.get(secret)?))).collect()
}

impl Containers {
    /// Gives a running container other versions: its files are replaced, then it gets the signals that its spec asks for.
    /// Its environment is as it was until it starts again. Nothing is done where it has them.
    pub(crate) async fn give_secrets(
        &self,
        container: &Container,
        pins: &BTreeMap<Name, u64>,
    ) -> Result<(), NodeError> {
        let _doing = container.doing.lock().await;
        let record = container.record();
        let is_new = |used: &&SecretUse| pins.get(&used.secret) != record.secrets.files.get(&used.secret);
        let changed: Vec<&SecretUse> = record.spec.workload.secrets.iter().filter(is_new).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let Some(files) = files_of(&record.phase) else { return Ok(()) };
        let fresh = {
            let mut fresh = record.clone();
            fresh.secrets.files.clone_from(pins);
            fresh
        };
        let delivery = self.secrets.part_of_delivery(&fresh, |used| is_new(&used))?;
        if !delivery.files.is_empty() {
            let put = |files: SecretFiles| delivery.files.iter().try_for_each(|file| files.put(file, record.ids()));
            let failed = |source| SecretsError::Files { container: record.name.clone(), source };
            files.and_then(put).map_err(failed)?;
        }
        let signals: BTreeSet<&str> = changed
            .iter()
            .filter_map(|used| match &used.on_rotate {
                OnRotate::Signal(signal) => Some(signal.as_str()),
                OnRotate::Nothing | OnRotate::Restart => None,
            })
            .collect();
        for signal in signals {
            self.signal(container, parse_signal(signal)?).await?;
        }
        // Last: a daemon that dies before it gives them, and the signal, once more.
        let record = container.change(|record| record.secrets.files.clone_from(pins));
        self.write_record(container)
            .map_err(|source| NodeError::disk(format!("cannot record container {}", record.name), source))?;
        let names: BTreeSet<String> = changed
            .iter()
            .map(|used| format!("{} version {}", used.secret, pins.get(&used.secret).unwrap_or(&0)))
            .collect();
        self.tell(container, "secret", names.into_iter().collect::<Vec<_>>().join(", "));
        Ok(())
    }

    /// Whether a container has what it is to have, of one secret: `Ok(None)` where it has, else what is wrong.
    pub(crate) fn check_secret(
        &self,
        record: &Record,
        used: &SecretUse,
        at: usize,
        wanted: u64,
    ) -> Result<Option<Wrong>, SecretsError> {
        let name = &record.name;
        match &used.target {
            SecretTarget::Env(variable) => match record.secrets.env.get(&used.secret) {
                Some(has) if *has != wanted => Ok(Some(Wrong::Drift(format!(
                    "{name} was started with version {has} in {variable}: it has version {wanted} when it starts again"
                )))),
                _ => Ok(None),
            },
            SecretTarget::File { path, .. } => {
                let failed = |source| SecretsError::Files { container: name.clone(), source };
                let Some(files) = files_of(&record.phase) else { return Ok(None) };
                let found = files.and_then(|files| files.read(&in_tmpfs(at, path))).map_err(failed)?;
                let expected = self.secrets.part(used, wanted)?;
                Ok(match found {
                    None => Some(Wrong::Missing(format!("{name} has no {}", SecretUse::absolute(path)))),
                    Some(found) if *found != *expected => Some(Wrong::Drift(format!(
                        "{name} has another value in {} than version {wanted}",
                        SecretUse::absolute(path)
                    ))),
                    Some(_) => None,
                })
            }
        }
    }
}

/// What is wrong with an instance's value.
#[derive(Debug)]
pub(crate) enum Wrong {
    Missing(String),
    Drift(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn uses(target: SecretTarget, on_rotate: OnRotate) -> SecretUse {
        SecretUse { secret: name("db"), part: None, target, on_rotate }
    }

    fn file(path: &str) -> SecretTarget {
        SecretTarget::File { path: path.to_owned(), mode: 0o400, uid: 0, gid: 0 }
    }

    #[test]
    fn files_elsewhere_are_links_into_the_tmpfs() {
        assert_eq!((in_tmpfs(3, "db"), elsewhere("db")), ("db".into(), None));
        assert_eq!((in_tmpfs(3, "/run/secrets/a/b"), elsewhere("/run/secrets/a/b")), ("a/b".into(), None));
        assert_eq!((in_tmpfs(3, "/etc/key"), elsewhere("/etc/key")), (".at/3".into(), Some("/etc/key".into())));
    }

    #[test]
    fn a_variable_is_text_without_the_line_end_that_echo_adds() {
        let used = uses(SecretTarget::Env("X".to_owned()), OnRotate::Restart);
        assert_eq!(*variable_of(&used, "X", b"a=b\n").unwrap(), "X=a=b");
        assert_eq!(*variable_of(&used, "X", b"a\n\n").unwrap(), "X=a\n");
        for bad in [&b"a\0b"[..], b"\xff"] {
            assert!(matches!(variable_of(&used, "X", bad), Err(SecretsError::NoText { .. })));
        }
    }

    #[test]
    fn only_uses_that_ask_for_it_replace_an_instance() {
        let mut workload = WorkloadSpec::of("image");
        workload.secrets = vec![uses(file("a"), OnRotate::Signal("HUP".to_owned()))];
        let pinned = BTreeMap::from([(name("db"), 2), (name("other"), 1)]);
        assert_eq!(pins(&workload, &pinned), BTreeMap::from([(name("db"), 2)]));
        assert!(replacing_pins(&workload, &pinned).is_empty());
        workload.secrets.push(uses(file("b"), OnRotate::Restart));
        assert_eq!(replacing_pins(&workload, &pinned), BTreeMap::from([(name("db"), 2)]));
    }

    #[test]
    fn a_delivery_is_not_shown_and_wins_over_what_the_image_sets() {
        let delivery = Delivery { env: vec![Zeroizing::new("X=hunter2".to_owned())], ..Delivery::default() };
        assert_eq!(format!("{delivery:?}"), "Delivery(..)");
        let mut env = vec!["X=image".to_owned(), "Y=1".to_owned()];
        delivery.add_to(&mut env);
        assert_eq!(env, ["Y=1", "X=hunter2"]);
        assert!(delivery.mount().is_none(), "no file, no tmpfs");
    }
}
