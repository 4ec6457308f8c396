//! What volumes remember of their app: a record of each release beside the head, so that a lost database is no lost history.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_dataset::{DatasetName, SnapshotName, Store};
use coppice_state::{App as AppState, Release};

use super::data::snapshot_name;
use crate::error::NodeError;

/// Under which key a release's record is kept beside a volume.
fn record_key(number: u64) -> Result<SnapshotName, NodeError> {
    snapshot_name(&format!("release-{number}"))
}

/// Has every release of the app be known from its volume alone.
pub(super) fn keep(store: &Store, dataset: &DatasetName, state: &AppState) -> Result<(), NodeError> {
    let mut keys = BTreeSet::new();
    for release in state.releases.iter().filter(|release| release.verdict.is_some()) {
        let key = record_key(release.number)?;
        let bytes = serde_json::to_vec(&**release).map_err(|error| NodeError::Invalid(error.to_string()))?;
        if store.attached(dataset, &key)?.as_ref() != Some(&bytes) {
            store.attach(dataset, &key, &bytes)?;
        }
        keys.insert(key);
    }
    for key in store.attachments(dataset)?.into_iter().filter(|key| key.as_str().starts_with("release-")) {
        if !keys.contains(&key) {
            store.remove_attachment(dataset, &key)?;
        }
    }
    Ok(())
}

/// What the volumes of one app know of it.
#[derive(Default)]
pub(crate) struct Remembered {
    /// By number.
    pub(crate) releases: BTreeMap<u64, Release>,
    /// What is odd about it, as sentences.
    pub(crate) words: Vec<String>,
    /// Numbers of the releases whose data the volumes' heads hold, by volume.
    pub(crate) heads: BTreeMap<Name, u64>,
}

/// Apps as their volumes remember them.
pub(crate) fn remembered(store: &Store) -> Result<BTreeMap<Name, Remembered>, NodeError> {
    let mut apps: BTreeMap<Name, Remembered> = Default::default();
    let survey = store.survey()?;
    for (name, error) in survey.unreadable {
        if let Some(app) = name.app.clone() {
            apps.entry(app).or_default().words.push(format!("volume {name} cannot be read: {error}"));
        }
    }
    for dataset in survey.datasets {
        let Some(app) = dataset.name.app.clone() else { continue };
        let known = apps.entry(app.clone()).or_default();
        if let Some(number) = dataset.stamps.get("number").and_then(|number| number.parse().ok()) {
            known.heads.insert(dataset.name.volume.clone(), number);
        }
        for key in store.attachments(&dataset.name)? {
            if !key.as_str().starts_with("release-") {
                continue;
            }
            let bytes = store.attached(&dataset.name, &key)?.unwrap_or_default();
            match serde_json::from_slice::<Release>(&bytes) {
                Ok(release) if release.spec.name == app => {
                    // One volume may have been away when a verdict came: what is known later is known better.
                    let newer = known.releases.get(&release.number).is_none_or(|old| old.ended_at < release.ended_at);
                    if newer {
                        known.releases.insert(release.number, release);
                    }
                }
                Ok(release) => {
                    known.words.push(format!("{key} of volume {} is of app {}", dataset.name, release.spec.name))
                }
                Err(error) => known.words.push(format!("{key} of volume {} cannot be read: {error}", dataset.name)),
            }
        }
    }
    Ok(apps)
}
