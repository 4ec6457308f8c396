//! Secrets: which versions there are, sealed, and which of them releases run with. Values never get here.
//!
//! ```text
//!   SetSecret ──▶ versions 1, 2, 3 …   ◀──pins── Release { secrets: { db: 2 } }
//! ```
//!
//! A release pins the versions that it runs with, so that going back to it brings back its values: a version that a kept
//! release pins is never dropped, others are when [`SECRET_VERSIONS_KEPT`] newer ones came. A secret that was removed
//! leaves its number behind for as long as a release remembers it, so that no other value is taken for the one it had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_base::{Name, Timestamp};
use coppice_spec::{AppSpec, SecretKind};
use serde::{Deserialize, Serialize};

use crate::{Actor, Command, Effect, Rejection, Release, ReleaseId, State};

/// Versions kept of a secret that no release pins, the newest one among them.
pub const SECRET_VERSIONS_KEPT: usize = 10;

/// Most secrets.
pub const SECRETS_MAX: usize = 1000;

/// Most bytes of sealed versions together: sealing all of them anew is one command, which the log takes whole.
pub const SEALED_MAX: usize = 3 << 20;

/// A secret's versions, by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Empty: it was removed, and a release still pins a version it had.
    pub versions: BTreeMap<u64, SecretVersion>,
    /// The number of the version that comes next. No number is used twice.
    pub next_version: u64,
}

/// One value, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVersion {
    /// Base64; opens only with the key, and as this version of this secret.
    pub sealed: String,
    /// Tells values from each other; says nothing else without the key.
    pub fingerprint: String,
    /// What it was made as; `None`: it was given.
    pub kind: Option<SecretKind>,
    pub created_at: Timestamp,
    pub actor: Actor,
}

/// A version as sealed with another key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    pub sealed: String,
    pub fingerprint: String,
}

impl Secret {
    /// The newest version; `None` of one that was removed.
    pub fn newest(&self) -> Option<(u64, &SecretVersion)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }
}

/// Secrets that workloads and crons of an app use.
pub fn secrets_used(spec: &AppSpec) -> BTreeSet<&Name> {
    let workloads = spec.workloads().map(|(_, workload)| workload);
    let all = workloads.chain(spec.crons.values().map(|cron| &cron.workload));
    all.flat_map(|workload| workload.secrets.iter().map(|used| &used.secret)).collect()
}

impl State {
    /// Those that were not removed.
    pub fn secrets(&self) -> impl Iterator<Item = (&Name, &Secret)> {
        let there = self.secrets.iter().filter(|(_, secret)| !secret.versions.is_empty());
        there.map(|(name, secret)| (name, secret.as_ref()))
    }

    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).filter(|secret| !secret.versions.is_empty()).map(Arc::as_ref)
    }

    /// The number that the next version of a secret gets.
    pub fn next_secret_version(&self, name: &str) -> u64 {
        self.secrets.get(name).map_or(1, |secret| secret.next_version)
    }

    /// Id of the key that all versions are sealed with; `None`: there are none.
    pub fn secret_key(&self) -> Option<&str> {
        self.secret_key.as_deref().filter(|_| self.secrets().next().is_some())
    }

    /// Kept releases that pin a version of a secret, with the version.
    pub fn secret_users(&self, name: &str) -> impl Iterator<Item = (&Release, u64)> {
        let releases = self.apps.values().flat_map(|app| &app.releases);
        releases.filter_map(move |release| Some((release.as_ref(), *release.secrets.get(name)?)))
    }

    /// Whether a release of `spec` may run with these versions.
    pub(crate) fn check_pins(&self, spec: &AppSpec, pins: &BTreeMap<Name, u64>) -> Result<(), Rejection> {
        if let Some(secret) = secrets_used(spec).into_iter().find(|secret| !pins.contains_key(secret.as_str())) {
            return Err(Rejection::SecretNotPinned { app: spec.name.clone(), secret: secret.clone() });
        }
        self.known_versions(pins)
    }

    fn known_versions(&self, pins: &BTreeMap<Name, u64>) -> Result<(), Rejection> {
        let is_there =
            |name: &Name, version: &u64| self.secret(name.as_str()).is_some_and(|s| s.versions.contains_key(version));
        match pins.iter().find(|(name, version)| !is_there(name, version)) {
            Some((secret, version)) => {
                Err(Rejection::UnknownSecretVersion { secret: secret.clone(), version: *version })
            }
            None => Ok(()),
        }
    }

    pub(crate) fn set_secret(
        &mut self,
        command: &Command,
        name: &Name,
        version: u64,
        sealed: &Resealed,
        kind: Option<&SecretKind>,
        key: &str,
    ) -> Result<Effect, Rejection> {
        if self.secret_key().is_some_and(|current| current != key) {
            return Err(Rejection::OtherSecretKey);
        }
        if version != self.next_secret_version(name.as_str()) {
            return Err(Rejection::SecretVersionTaken { secret: name.clone(), version });
        }
        if self.secret(name.as_str()).is_none() && self.secrets().count() >= SECRETS_MAX {
            return Err(Rejection::TooManySecrets);
        }
        if self.sealed_bytes() + sealed.sealed.len() > SEALED_MAX {
            return Err(Rejection::SecretsTooLarge);
        }

        self.secret_key = Some(key.to_owned());
        let none = || Arc::new(Secret { versions: BTreeMap::new(), next_version: version });
        let secret = Arc::make_mut(self.secrets.entry(name.clone()).or_insert_with(none));
        let Resealed { sealed, fingerprint } = sealed.clone();
        let (created_at, actor) = (command.at, command.actor.clone());
        secret.versions.insert(version, SecretVersion { sealed, fingerprint, kind: kind.cloned(), created_at, actor });
        secret.next_version = version + 1;
        self.drop_old_secrets();
        Ok(Effect::Recorded)
    }

    pub(crate) fn remove_secret(&mut self, name: &Name, force: bool) -> Result<Effect, Rejection> {
        if self.secret(name.as_str()).is_none() {
            return Err(Rejection::UnknownSecret(name.clone()));
        }
        let by: Vec<String> = self
            .secret_users(name.as_str())
            .map(|(release, _)| format!("release {} of app {}", release.number, release.spec.name))
            .collect();
        if !force && !by.is_empty() {
            return Err(Rejection::SecretInUse { secret: name.clone(), by });
        }

        if let Some(secret) = self.secrets.get_mut(name) {
            Arc::make_mut(secret).versions.clear();
        }
        self.drop_old_secrets();
        Ok(Effect::Removed)
    }

    pub(crate) fn rekey(
        &mut self,
        from: &str,
        to: &str,
        versions: &BTreeMap<Name, BTreeMap<u64, Resealed>>,
    ) -> Result<Effect, Rejection> {
        if self.secret_key() != Some(from) {
            return Err(Rejection::OtherSecretKey);
        }
        let is_all = self
            .secrets()
            .map(|(name, secret)| (name, secret.versions.keys().collect::<Vec<_>>()))
            .eq(versions.iter().map(|(name, versions)| (name, versions.keys().collect::<Vec<_>>())));
        if !is_all {
            return Err(Rejection::SecretsChanged);
        }

        self.secret_key = Some(to.to_owned());
        for (name, resealed) in versions {
            let secret = Arc::make_mut(self.secrets.get_mut(name).expect("the deciding half found it"));
            for (number, Resealed { sealed, fingerprint }) in resealed {
                let version = secret.versions.get_mut(number).expect("the deciding half found it");
                version.sealed.clone_from(sealed);
                version.fingerprint.clone_from(fingerprint);
            }
        }
        Ok(Effect::Recorded)
    }

    pub(crate) fn pin_secrets(
        &mut self,
        app: &Name,
        id: ReleaseId,
        pins: &BTreeMap<Name, u64>,
    ) -> Result<Effect, Rejection> {
        let current = self.apps.get(app).ok_or_else(|| Rejection::UnknownApp(app.clone()))?.current();
        if current.id != id {
            return Err(Rejection::StaleRelease { app: app.clone(), expected: id, current: Some(current.id) });
        }
        self.known_versions(pins)?;
        if let Some(secret) = pins.keys().find(|secret| !current.secrets.contains_key(secret.as_str())) {
            return Err(Rejection::SecretNotUsed { app: app.clone(), secret: secret.clone() });
        }

        let app = Arc::make_mut(self.apps.get_mut(app).expect("the deciding half found it"));
        let release = Arc::make_mut(app.releases.last_mut().expect("an app has a release (State::check)"));
        release.secrets.extend(pins.iter().map(|(name, version)| (name.clone(), *version)));
        self.drop_old_secrets();
        Ok(Effect::Recorded)
    }

    fn sealed_bytes(&self) -> usize {
        self.secrets.values().flat_map(|secret| secret.versions.values()).map(|version| version.sealed.len()).sum()
    }

    /// Drops versions beyond [`SECRET_VERSIONS_KEPT`] that no release pins, and what is left of secrets that were removed
    /// once none does.
    pub(crate) fn drop_old_secrets(&mut self) {
        if self.secrets.is_empty() {
            return;
        }
        let mut pinned: BTreeMap<Name, BTreeSet<u64>> = BTreeMap::new();
        for (name, version) in self.apps.values().flat_map(|app| &app.releases).flat_map(|release| &release.secrets) {
            pinned.entry(name.clone()).or_default().insert(*version);
        }
        self.secrets.retain(|name, secret| {
            let pins = pinned.get(name);
            let is_pinned = |version: &u64| pins.is_some_and(|pins| pins.contains(version));
            let free: Vec<u64> = secret.versions.keys().filter(|version| !is_pinned(version)).copied().collect();
            let newest = secret.newest().map(|(number, _)| number);
            // The newest one counts as kept, pinned or not.
            let kept = SECRET_VERSIONS_KEPT - usize::from(newest.is_some_and(|newest| is_pinned(&newest)));
            if let Some(excess) = free.len().checked_sub(kept).filter(|excess| *excess > 0) {
                let secret = Arc::make_mut(secret);
                for version in &free[..excess] {
                    secret.versions.remove(version);
                }
            }
            !secret.versions.is_empty() || pins.is_some()
        });
    }

    /// The part of [`State::check`] that is about secrets.
    pub(crate) fn check_secrets(&self, broken: &mut Vec<String>) {
        for (name, secret) in &self.secrets {
            if secret.newest().is_some_and(|(newest, _)| newest >= secret.next_version) {
                broken.push(format!("secret {name} has a version that is still to come"));
            }
            if secret.versions.is_empty() && self.secret_users(name.as_str()).next().is_none() {
                broken.push(format!("secret {name} was removed, and nobody remembers it"));
            }
        }
        if self.sealed_bytes() > SEALED_MAX {
            broken.push(format!("secrets have more than {SEALED_MAX} bytes"));
        }
        if self.secrets().next().is_some() && self.secret_key.is_none() {
            broken.push("secrets are sealed with no key".to_owned());
        }
        for release in self.apps.values().flat_map(|app| &app.releases) {
            for (name, version) in &release.secrets {
                if self.secrets.get(name).is_none_or(|secret| *version >= secret.next_version) {
                    broken.push(format!("release {} pins version {version} of {name}, which never was", release.id));
                }
            }
            for secret in secrets_used(&release.spec).into_iter().filter(|name| !release.secrets.contains_key(*name)) {
                broken.push(format!("release {} uses secret {secret} and pins no version of it", release.id));
            }
        }
    }
}
