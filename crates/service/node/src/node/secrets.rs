//! What can be asked about secrets. Every change is in the log before it is answered; values leave by
//! [`Node::secret_value`] alone.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_api::{
    RekeyReply, RekeyRequest, SecretCheck, SecretReply, SecretRequest, SecretState, SecretSummary, SecretText,
    SecretUser, SecretValue, SecretVersionSummary,
};
use coppice_base::Name;
use coppice_secret::{Material, VALUE_MAX, generate};
use coppice_spec::{AppSpec, OnRotate, SecretKind, SecretTarget, SecretUse, WorkloadSpec};
use coppice_state::{Body, Resealed, SecretVersion, State, secrets_used};

use super::Node;
use crate::container::{Owner, Phase};
use crate::error::NodeError;
use crate::events::About;
use crate::rekey::Rekeying;
use crate::secrets::{SecretsError, Wrong, kind_of};

/// How a kind is called.
fn kind_text(version: &SecretVersion) -> Option<String> {
    let text = match version.kind.as_ref()? {
        SecretKind::Random256 => "random-256",
        SecretKind::Password => "password",
        SecretKind::Ed25519 => "ed25519",
        SecretKind::Tls { .. } => "tls",
    };
    Some(text.to_owned())
}

fn target_text(target: &SecretTarget) -> String {
    match target {
        SecretTarget::Env(variable) => format!("env {variable}"),
        SecretTarget::File { path, .. } => format!("file {}", SecretUse::absolute(path)),
    }
}

fn rotation_text(on_rotate: &OnRotate) -> String {
    match on_rotate {
        OnRotate::Nothing => "nothing".to_owned(),
        OnRotate::Restart => "restart".to_owned(),
        OnRotate::Signal(signal) => format!("signal {signal}"),
    }
}

/// Everything of an app that runs.
fn users_in(spec: &AppSpec) -> impl Iterator<Item = (&Name, &WorkloadSpec)> {
    spec.workloads().chain(spec.crons.iter().map(|(name, cron)| (name, &cron.workload)))
}

/// Uses of a secret by current releases.
fn users_of(state: &State, secret: &Name) -> Vec<SecretUser> {
    let mut users = Vec::new();
    for (app, wanted) in state.apps() {
        let Some(version) = wanted.current().secrets.get(secret) else { continue };
        for (workload, definition) in users_in(wanted.spec()) {
            let uses = definition.secrets.iter().filter(|used| used.secret == *secret);
            users.extend(uses.map(|used| SecretUser {
                app: app.clone(),
                workload: workload.clone(),
                version: *version,
                target: target_text(&used.target),
                on_rotate: rotation_text(&used.on_rotate),
            }));
        }
    }
    users
}

/// A secret's name as it came in a request.
fn named(text: &str) -> Result<Name, NodeError> {
    Name::new(text).map_err(|error| NodeError::Invalid(error.to_string()))
}

fn value_of(text: &SecretText) -> Result<Material, SecretsError> {
    let bytes = BASE64_STANDARD.decode(&text.0).map_err(|_| SecretsError::NotBase64)?;
    match bytes.len() {
        length if length > VALUE_MAX => Err(SecretsError::TooLong(length)),
        _ => Ok(Material::of(bytes)),
    }
}

impl Node {
    pub fn secrets(&self) -> Vec<SecretSummary> {
        let state = self.log.read();
        let summary = |(name, secret): (&Name, &coppice_state::Secret)| {
            let (number, newest) = secret.newest()?;
            Some(SecretSummary {
                name: name.clone(),
                kind: kind_text(newest),
                version: number,
                versions: secret.versions.len(),
                fingerprint: newest.fingerprint.clone(),
                created_at: newest.created_at,
                by: newest.actor.to_string(),
                used_by: users_of(&state, name),
            })
        };
        state.secrets().filter_map(summary).collect()
    }

    pub fn secret_history(&self, name: &str) -> Result<Vec<SecretVersionSummary>, NodeError> {
        let state = self.log.read();
        let secret = state.secret(name).ok_or_else(|| SecretsError::Unknown(name.to_owned()))?;
        let pinned_by = |number: u64| {
            let users = state.secret_users(name).filter(|(_, version)| *version == number);
            users.map(|(release, _)| format!("{} release {}", release.spec.name, release.number)).collect()
        };
        let versions = secret.versions.iter().map(|(number, version)| SecretVersionSummary {
            version: *number,
            kind: kind_text(version),
            fingerprint: version.fingerprint.clone(),
            created_at: version.created_at,
            by: version.actor.to_string(),
            pinned_by: pinned_by(*number),
        });
        Ok(versions.collect())
    }

    /// A new version, for releases from now on.
    pub async fn set_secret(&self, uid: u32, name: &str, request: SecretRequest) -> Result<SecretReply, NodeError> {
        let name = named(name)?;
        let (material, kind) = match (&request.value, request.generate) {
            (Some(_), Some(_)) => return Err(SecretsError::GivenAndMade.into()),
            (None, None) => return Err(SecretsError::NothingGiven.into()),
            (Some(value), None) => (value_of(value)?, None),
            (None, Some(kind)) => (self.made(&kind)?, Some(kind)),
        };
        let _changing = self.containers.secrets.changing.lock().await;
        let version = self.add_version(uid, &name, &material, kind).await?;
        self.tell_secret("secret-set", &name, version);
        let users = users_of(&self.log.read(), &name);
        Ok(SecretReply { name, version, users })
    }

    /// A new version, which the apps that use the secret get at once.
    pub async fn rotate_secret(&self, uid: u32, name: &str, request: SecretRequest) -> Result<SecretReply, NodeError> {
        let name = named(name)?;
        let _changing = self.containers.secrets.changing.lock().await;
        let state = self.log.read();
        let secret = state.secret(name.as_str()).ok_or_else(|| SecretsError::Unknown(name.to_string()))?;
        let before = secret.newest().and_then(|(_, version)| version.kind.clone());
        let (material, kind) = match (&request.value, request.generate.or(before)) {
            (Some(value), _) => (value_of(value)?, None),
            (None, Some(kind)) => (self.made(&kind)?, Some(kind)),
            (None, None) => return Err(SecretsError::NoValue(name).into()),
        };
        let version = self.add_version(uid, &name, &material, kind).await?;
        let state = self.log.read();
        let using = state.apps().filter(|(_, app)| app.current().secrets.contains_key(&name));
        let using: Vec<_> = using.map(|(app, wanted)| (app.clone(), wanted.current().id)).collect();
        for (app, release) in &using {
            let secrets = BTreeMap::from([(name.clone(), version)]);
            let pinned = self.propose(uid, Body::PinSecrets { app: app.clone(), release: *release, secrets }).await;
            // A release that came meanwhile has the new version already.
            if let Err(error) = pinned
                && !matches!(&error, NodeError::Rejected(why) if matches!(**why, coppice_state::Rejection::StaleRelease { .. }))
            {
                return Err(error);
            }
        }
        self.tell_secret("secret-rotate", &name, version);
        self.agent.reconcile();
        for (app, _) in using {
            if let Some(app) = self.agent.get(app.as_str()) {
                // Those that are replaced are told so, and the others have the new value, when this is answered.
                app.supervisor().caught_up().await;
                app.give_secrets().await;
            }
        }
        let users = users_of(&self.log.read(), &name);
        Ok(SecretReply { name, version, users })
    }

    pub async fn remove_secret(&self, uid: u32, name: &str, force: bool) -> Result<(), NodeError> {
        let _changing = self.containers.secrets.changing.lock().await;
        if self.log.read().secret(name).is_none() {
            return Err(SecretsError::Unknown(name.to_owned()).into());
        }
        let name = named(name)?;
        self.propose(uid, Body::RemoveSecret { name: name.clone(), force }).await?;
        let about = About { name: Some(name.as_str()), ..About::default() };
        self.containers.events.emit("node", "secret-remove", name.as_str(), about);
        Ok(())
    }

    /// A value, for root. The public half of a key pair, or its certificate, is for everybody.
    pub fn secret_value(
        &self,
        uid: u32,
        name: &str,
        version: Option<u64>,
        part: Option<&str>,
    ) -> Result<SecretValue, NodeError> {
        let state = self.log.read();
        let secret = state.secret(name).ok_or_else(|| SecretsError::Unknown(name.to_owned()))?;
        let name = named(name)?;
        let part = part.map(named).transpose()?;
        let newest = secret.newest().map(|(number, _)| number).unwrap_or_default();
        let version = version.unwrap_or(newest);
        let kind = secret.versions.get(&version).and_then(|version| version.kind.clone());
        let is_public = matches!(kind, Some(SecretKind::Ed25519 | SecretKind::Tls { .. })) && part.is_some();
        if uid != 0 && !is_public {
            return Err(SecretsError::NotRoot(uid).into());
        }
        let material = self.containers.secrets.open(&name, version)?;
        let value = match (material.part(part.as_ref()), part) {
            (Some(bytes), _) => SecretText(BASE64_STANDARD.encode(bytes)),
            (None, Some(part)) => return Err(SecretsError::NoPart { secret: name, part, kind }.into()),
            (None, None) => SecretText(String::new()),
        };
        Ok(SecretValue { name, version, value })
    }

    /// Another key for everything, instead of the one it is sealed with.
    pub async fn change_secrets_key(&self, uid: u32, request: RekeyRequest) -> Result<RekeyReply, NodeError> {
        let secrets = &self.containers.secrets;
        let _changing = secrets.changing.lock().await;
        let rekeying = Rekeying::begin(secrets, request.keep_old)?;
        let answer = self.propose(uid, rekeying.body()).await;
        let reply = rekeying.end(answer)?;
        self.containers.events.emit("node", "secrets-rekey", &self.containers.root.key(), About::default());
        Ok(reply)
    }

    /// Whether secrets open, and whether the instances that use them have what they are to have.
    pub fn check_secrets(&self, names: &[String]) -> Result<Vec<SecretCheck>, NodeError> {
        let all = || self.log.read().secrets().map(|(name, _)| name.clone()).collect();
        let names: Vec<Name> = match names {
            [] => all(),
            names => names.iter().map(|name| named(name)).collect::<Result<_, _>>()?,
        };
        Ok(names.into_iter().map(|name| self.check_secret(name)).collect())
    }

    fn check_secret(&self, name: Name) -> SecretCheck {
        let state = self.log.read();
        let found = |state: SecretState, detail: String| SecretCheck { name: name.clone(), state, detail };
        let Some(secret) = state.secret(name.as_str()) else {
            return found(SecretState::Unset, "it has no value".to_owned());
        };
        for number in secret.versions.keys() {
            if let Err(error) = self.containers.secrets.open(&name, *number) {
                return found(SecretState::ReadError, error.to_string());
            }
        }
        for container in self.containers.table.all() {
            let record = container.record();
            let Owner::App { app, .. } = &record.owner else { continue };
            let wanted = state.app(app.as_str()).and_then(|app| app.current().secrets.get(&name).copied());
            let (Some(wanted), Phase::Running { .. }) = (wanted, &record.phase) else { continue };
            for (at, used) in record.spec.workload.secrets.iter().enumerate().filter(|(_, used)| used.secret == name) {
                match self.containers.check_secret(&record, used, at, wanted) {
                    Ok(None) => {}
                    Ok(Some(Wrong::Missing(detail))) => return found(SecretState::FileMissing, detail),
                    Ok(Some(Wrong::Drift(detail))) => return found(SecretState::Drift, detail),
                    Err(error) => return found(SecretState::ReadError, error.to_string()),
                }
            }
        }
        found(SecretState::Ok, String::new())
    }

    /// Secrets that an app uses and that are neither there nor made.
    pub(super) fn refuse_unset_secrets(&self, spec: &AppSpec) -> Result<(), NodeError> {
        let state = self.log.read();
        let is_made = |name: &Name| spec.secrets.get(name).is_some_and(|secret| secret.generate.is_some());
        let unset =
            secrets_used(spec).into_iter().filter(|name| state.secret(name.as_str()).is_none() && !is_made(name));
        let unset: Vec<Name> = unset.cloned().collect();
        if !unset.is_empty() {
            return Err(SecretsError::Unset { app: spec.name.clone(), secrets: unset }.into());
        }
        for (_, definition) in users_in(spec) {
            for used in &definition.secrets {
                let Some(part) = &used.part else { continue };
                let declared = || spec.secrets.get(&used.secret).and_then(|secret| secret.generate.clone());
                let kind = match state.secret(used.secret.as_str()).and_then(|secret| secret.newest()) {
                    Some((_, newest)) => newest.kind.clone(),
                    None => declared(),
                };
                if kind.as_ref().and_then(SecretKind::part) != Some(part.as_str()) {
                    let (secret, part) = (used.secret.clone(), part.clone());
                    return Err(SecretsError::NoPart { secret, part, kind }.into());
                }
            }
        }
        Ok(())
    }

    /// The versions that a release of `spec` runs with: the newest. Secrets that the app declares and nobody has set yet
    /// are made.
    pub(super) async fn secrets_of(&self, uid: u32, spec: &AppSpec) -> Result<BTreeMap<Name, u64>, NodeError> {
        if spec.secrets.is_empty() && secrets_used(spec).is_empty() {
            return Ok(BTreeMap::new());
        }
        self.refuse_unset_secrets(spec)?;
        let _changing = self.containers.secrets.changing.lock().await;
        for (name, declared) in &spec.secrets {
            if let (Some(kind), None) = (&declared.generate, self.log.read().secret(name.as_str())) {
                let material = self.made(kind)?;
                let version = self.add_version(uid, name, &material, Some(kind.clone())).await?;
                self.tell_secret("secret-set", name, version);
            }
        }
        let state = self.log.read();
        let newest = |name: &Name| Some((name.clone(), state.secret(name.as_str())?.newest()?.0));
        Ok(secrets_used(spec).into_iter().filter_map(newest).collect())
    }

    fn made(&self, kind: &SecretKind) -> Result<Material, SecretsError> {
        Ok(generate(&kind_of(kind), self.clock.now())?)
    }

    /// To be called by who has `changing`.
    async fn add_version(
        &self,
        uid: u32,
        name: &Name,
        material: &Material,
        kind: Option<SecretKind>,
    ) -> Result<u64, NodeError> {
        let key = self.containers.secrets.key()?;
        let version = self.log.read().next_secret_version(name.as_str());
        let sealed =
            Resealed { sealed: material.seal(&key, name, version), fingerprint: material.fingerprint(&key, name) };
        self.propose(uid, Body::SetSecret { name: name.clone(), version, sealed, kind, key: key.id() }).await?;
        Ok(version)
    }

    fn tell_secret(&self, action: &str, name: &Name, version: u64) {
        let message = format!("version {version}");
        let about = About { name: Some(name.as_str()), message, ..About::default() };
        self.containers.events.emit("node", action, name.as_str(), about);
    }
}
