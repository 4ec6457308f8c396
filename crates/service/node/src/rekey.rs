//! Another key for the secrets, in steps between any of which the daemon may die, and each of which may find the disk full.
//!
//! ```text
//!   the new key is on disk ──▶ the log has everything sealed with it ──▶ it is in the old one's place
//!        │ dies: the returning daemon goes back   │ dies: the returning daemon finishes
//! ```
//!
//! What the log says decides. A log that could not be written may have the command all the same: until that is known the new
//! key stays beside the old one, and everything opens with whichever it is.

use std::collections::BTreeMap;

use coppice_api::RekeyReply;
use coppice_base::Name;
use coppice_secret::{Key, Settled};
use coppice_state::{Body, Effect, Rejection, Resealed};

use crate::error::NodeError;
use crate::events::{About, Events};
use crate::secrets::{Secrets, SecretsError};

/// A new key on its way. To be made by who holds the lock of the secrets' changes, until it has ended.
pub(crate) struct Rekeying<'s> {
    secrets: &'s Secrets,
    old: Key,
    new: Key,
    /// The old one was kept for this, and is to be forgotten if nothing comes of it.
    is_kept_anew: bool,
    versions: BTreeMap<Name, BTreeMap<u64, Resealed>>,
    reply: RekeyReply,
}

impl<'s> Rekeying<'s> {
    /// Seals everything anew, with a key that is on disk when this returns.
    pub(crate) fn begin(secrets: &'s Secrets, keep_old: bool) -> Result<Self, SecretsError> {
        let old = secrets.key()?;
        let keyring = secrets.keyring();
        let kept = if keep_old {
            Some(keyring.keep(&old)?)
        } else {
            // Of one that was to be kept and then stayed in its place.
            keyring.forget(&old.id())?;
            None
        };
        let is_kept_anew = kept.as_ref().is_some_and(|(_, is_anew)| *is_anew);
        let new = keyring.prepare().inspect_err(|_| undo(secrets, None, is_kept_anew.then_some(&old)))?;
        let versions =
            reseal(secrets, &new).inspect_err(|_| undo(secrets, Some(&new), is_kept_anew.then_some(&old)))?;
        let reply = RekeyReply {
            secrets: versions.len(),
            versions: versions.values().map(BTreeMap::len).sum(),
            old_key: kept.map(|(path, _)| path.display().to_string()),
        };
        Ok(Self { secrets, old, new, is_kept_anew, versions, reply })
    }

    /// What the log is to take. It is asked where nothing is sealed, too: its answer says that nothing is on the way to it.
    pub(crate) fn body(&self) -> Body {
        Body::Rekey { from: self.old.id(), to: self.new.id(), versions: self.versions.clone() }
    }

    /// With the log's answer.
    pub(crate) fn end(self, answer: Result<Effect, NodeError>) -> Result<RekeyReply, NodeError> {
        let nothing_is_sealed = || self.versions.is_empty() && self.secrets.state().secret_key().is_none();
        match answer {
            Ok(_) => {}
            Err(NodeError::Rejected(why)) if matches!(*why, Rejection::OtherSecretKey) && nothing_is_sealed() => {}
            Err(NodeError::Rejected(why)) => {
                undo(self.secrets, Some(&self.new), self.is_kept_anew.then_some(&self.old));
                return Err(NodeError::Rejected(why));
            }
            Err(error) => return Err(SecretsError::Undecided(Box::new(error)).into()),
        }
        let new = self.new.id();
        let settled = self.secrets.keyring().settle(Some(&new));
        self.secrets.forget_key();
        settled.map_err(SecretsError::NotInPlace)?;
        Ok(self.reply)
    }
}

fn reseal(secrets: &Secrets, new: &Key) -> Result<BTreeMap<Name, BTreeMap<u64, Resealed>>, SecretsError> {
    let mut versions: BTreeMap<Name, BTreeMap<u64, Resealed>> = BTreeMap::new();
    for (name, secret) in secrets.state().secrets() {
        for number in secret.versions.keys() {
            let material = secrets.open(name, *number)?;
            let resealed =
                Resealed { sealed: material.seal(new, name, *number), fingerprint: material.fingerprint(new, name) };
            versions.entry(name.clone()).or_default().insert(*number, resealed);
        }
    }
    Ok(versions)
}

/// Nothing will be sealed with the new key. What cannot be removed now is when the next daemon starts.
fn undo(secrets: &Secrets, new: Option<&Key>, kept: Option<&Key>) {
    let keyring = secrets.keyring();
    let discarded = new.map_or(Ok(()), |new| keyring.discard(&new.id())).map_err(Into::into);
    let forgotten = kept.map_or(Ok(()), |kept| keyring.forget(&kept.id()));
    if let Err(error) = discarded.and(forgotten) {
        tracing::warn!(%error, "a key that is of no use stays beside the secrets' key until the next start");
    }
}

/// Finishes what a daemon that died in the middle had begun, or goes back, and says which. The log is open, and nobody has
/// asked for a secret yet.
pub(crate) fn settle(secrets: &Secrets, events: &Events, root: &str) {
    let (what, settled) = match secrets.keyring().settle(secrets.state().secret_key()) {
        Ok(Settled::Nothing) => return,
        Ok(Settled::Finished) => ("finished", "the secrets have the new key, which is in its place"),
        Ok(Settled::WentBack) => ("went back", "the secrets have the key that they had"),
        Err(error) => {
            tracing::warn!(%error, "cannot tidy up the keys of the secrets: it is tried again at the next start");
            return;
        }
    };
    let message = format!("{what}: a daemon died while it gave the secrets another key; {settled}");
    tracing::info!("{message}");
    events.emit("node", "secrets-rekey", root, About { message, ..About::default() });
}

#[cfg(test)]
mod tests;
