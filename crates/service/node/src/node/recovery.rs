//! Apps whose database is lost, brought back from what their volumes say of them.

use std::collections::BTreeSet;

use coppice_api::{RecoverReply, RecoveredApp};
use coppice_base::Name;
use coppice_state::{Body, Release, Verdict};

use super::Node;
use crate::error::NodeError;
use crate::rollout::{Remembered, remembered};

impl Node {
    /// Takes in every app that this node's volumes know and its log does not. With `print`, says which those are and
    /// changes nothing. One that cannot be taken in is said to be so, and the others are.
    pub async fn recover_from_datasets(&self, uid: u32, print: bool) -> Result<RecoverReply, NodeError> {
        let containers = self.containers.clone();
        let found = tokio::task::spawn_blocking(move || remembered(&containers.volumes)).await;
        let found = found.unwrap_or_else(|error| Err(NodeError::Invalid(error.to_string())))?;
        let mut reply = RecoverReply::default();
        for (name, known) in found {
            if self.log.read().app(name.as_str()).is_some() {
                continue;
            }
            reply.apps.push(self.recover(uid, name, known, print).await);
        }
        if !print {
            self.agent.reconcile();
        }
        Ok(reply)
    }

    async fn recover(&self, uid: u32, app: Name, known: Remembered, print: bool) -> RecoveredApp {
        let mut words = known.words;
        let mut releases: Vec<Release> = known.releases.into_values().collect();
        let mut error = None;
        // Secrets are not on volumes: what was set again is what a release runs with now.
        let state = self.log.read();
        let newest = |secret: &Name| state.secret(secret.as_str()).and_then(|secret| secret.newest());
        let mut missing: BTreeSet<Name> = BTreeSet::new();
        for release in &mut releases {
            let used: Vec<Name> = coppice_state::secrets_used(&release.spec).into_iter().cloned().collect();
            missing.extend(used.iter().filter(|secret| newest(secret).is_none()).cloned());
            release.secrets = used.into_iter().filter_map(|name| Some((name.clone(), newest(&name)?.0))).collect();
        }
        let current =
            releases.iter().rev().find(|release| !matches!(release.verdict, Some(Verdict::RolledBack { .. })));
        let number = current.map(|release| release.number);
        for (volume, held) in &known.heads {
            if number.is_some_and(|number| number != *held) {
                words.push(format!("volume {app}/{volume} holds the data of release {held}"));
            }
        }
        let count = releases.len();
        if releases.is_empty() {
            error = Some("its volumes do not say which releases it had".to_owned());
        } else if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            error = Some(format!(
                "it uses secrets that are not here ({}): `coppice secret set` each, or restore a backup, and recover again",
                names.join(", ")
            ));
        } else if !print {
            let body = Body::RecoverApp { app: app.clone(), releases };
            error = self.propose(uid, body).await.err().map(|error| error.to_string());
        }
        RecoveredApp { app: app.to_string(), release: number, releases: count, words, error }
    }
}
