//! What volumes remember of their app: a record of each release beside the head, so that a lost database is no lost history.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_dataset::{DatasetName, SnapshotName, Stamps, Store};
use coppice_state::{App as AppState, Release};

use super::data::snapshot_name;
use crate::error::NodeError;
use crate::preview::{CLONED_FOR, STAMP, is_of};

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

/// Whether a volume says that it is a preview's. A clone of it that is called otherwise says so, too, and is not.
fn is_of_preview(app: &Name, stamps: &Stamps) -> bool {
    let mut marks = [CLONED_FOR, STAMP].into_iter().filter_map(|key| stamps.get(key));
    marks.any(|mark| is_of(app, mark))
}

/// Apps as their volumes remember them. Previews stand for a time, and beside an app: none comes back.
pub(crate) fn remembered(store: &Store) -> Result<BTreeMap<Name, Remembered>, NodeError> {
    let mut apps: BTreeMap<Name, Remembered> = Default::default();
    let survey = store.survey()?;
    for (name, error) in survey.unreadable {
        if let Some(app) = name.app.clone() {
            apps.entry(app).or_default().words.push(format!("volume {name} cannot be read: {error}"));
        }
    }
    for dataset in survey.datasets {
        let Some(app) = dataset.name.app.clone().filter(|app| !is_of_preview(app, &dataset.stamps)) else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_preview_is_remembered_and_a_volume_of_another_name_that_says_so_is() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        for (volume, key, mark) in [
            ("shop/data", "number", "1"),
            ("shop-fix/data", CLONED_FOR, "shop/fix"),
            ("shop-new/data", STAMP, "shop/new"),
            ("copy/data", STAMP, "shop/new"),
            ("other/data", CLONED_FOR, "nonsense"),
        ] {
            let (app, volume) = volume.split_once('/').unwrap();
            let name = DatasetName { app: Some(Name::new(app).unwrap()), volume: Name::new(volume).unwrap() };
            store.create(&name, |_| Ok(())).unwrap();
            let mut stamps = Stamps::default();
            stamps.set(key, mark).unwrap();
            store.stamp(&name, &stamps).unwrap();
            store.attach(&name, &record_key(1).unwrap(), b"damaged").unwrap();
        }
        let found = remembered(&store).unwrap();
        assert_eq!(found.keys().map(|app| app.as_str()).collect::<Vec<_>>(), ["copy", "other", "shop"]);
        // What cannot be read is said, and keeps nothing else back.
        let shop = &found["shop"];
        assert!(shop.words[0].contains("release-1 of volume shop/data cannot be read"), "{:?}", shop.words);
        assert_eq!((shop.releases.len(), shop.heads.values().copied().collect::<Vec<_>>()), (0, vec![1]));
    }
}
