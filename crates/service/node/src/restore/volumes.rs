//! Volumes in a restore: their data comes in beside what they hold, and takes its place once it is decided.
//!
//! A list goes with what is restored, from before the first byte of data to the last step, and says what is to be done with
//! which volume. Snapshots are known by their ids, which they have wherever they are sent, so each step can be done again.
//!
//! Snapshots of releases that the restored log does not know get other names, also of volumes whose data is not in the backup:
//! a release that comes to have their number would take them for its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use coppice_backup::Replacement;
use coppice_dataset::{Dataset, DatasetName, Snapshot, SnapshotName, Store};
use serde::{Deserialize, Serialize};

use super::{Content, RestoreError, forget_removals, open_store};
use crate::backup::{KnownVolume, Manifest};
use crate::error::NodeError;
use crate::rollout::holder;
use crate::root::Root;
use crate::settings::Settings;
use crate::volume::snapshot_of;

/// The list.
const LIST: &str = "restoring.json";

#[derive(Serialize, Deserialize)]
struct List {
    /// What heads that are cut are called, and before names of snapshots that give theirs up.
    kept: String,
    volumes: Vec<KnownVolume>,
    /// Volumes that are not there before.
    made: BTreeSet<String>,
}

impl List {
    /// What a snapshot is called until it is decided.
    fn incoming(&self, number: usize) -> Result<SnapshotName, NodeError> {
        snapshot_of(&format!("{}{number}", self.before_incoming()))
    }

    fn before_incoming(&self) -> String {
        format!("incoming-{}.", self.kept)
    }

    /// What it is called where the backup has another one of this name.
    fn set_aside(&self, name: &SnapshotName) -> Result<SnapshotName, NodeError> {
        // Both are ASCII.
        let text = format!("{}.{name}", self.kept);
        snapshot_of(&text[..text.len().min(SnapshotName::MAX)])
    }

    fn known(&self, name: &DatasetName) -> Option<&KnownVolume> {
        let name = name.to_string();
        self.volumes.iter().find(|known| known.name == name)
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::disk(format!("cannot {what}"), source)
}

/// Takes all data in, as snapshots that nothing has use for yet. On an error all of it goes again.
pub(super) fn receive(
    root: &Root,
    settings: &Settings,
    content: &mut Content<'_>,
    replacement: &Replacement,
    manifest: &Manifest,
    kept: &str,
) -> Result<(), RestoreError> {
    let store = open_store(root, settings)?;
    let mut list = List { kept: kept.to_owned(), volumes: manifest.volumes.clone(), made: BTreeSet::new() };
    for volume in manifest.volumes.iter().filter(|volume| volume.head.is_some()) {
        if !store.has(&volume.dataset()?) {
            list.made.insert(volume.name.clone());
        }
    }
    write_list(replacement.path(), &list)?;
    let on_stream = |volume: usize, number: usize, input: &mut dyn Read| {
        let volume = list.volumes.get(volume).ok_or(NodeError::Invalid("no such volume".to_owned()))?;
        let (name, sent) = (volume.dataset()?, volume.sent());
        let there = match store.has(&name) {
            true => store.inspect(&name).map_err(NodeError::from)?.snapshots,
            false => Vec::new(),
        };
        let is_there = sent.get(number).is_some_and(|one| there.iter().any(|here| here.id.as_ref() == Some(&one.id)));
        if is_there {
            io::copy(input, &mut io::sink()).map_err(failed("read the backup"))?;
            return Ok(());
        }
        store.receive_as(&name, Some(&list.incoming(number)?), input).map_err(NodeError::from)?;
        Ok(())
    };
    let received = content.streams(&on_stream);
    if received.is_err()
        && let Err(error) = forget(&store, &list)
    {
        tracing::warn!(%error, "what came in of volumes is not all removed; the next daemon does that");
        // It finds the list.
        return received;
    }
    received
}

fn write_list(folder: &Path, list: &List) -> Result<(), NodeError> {
    let bytes = serde_json::to_vec(list).map_err(|error| NodeError::Invalid(error.to_string()))?;
    let written = File::create_new(folder.join(LIST)).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()?;
        File::open(folder)?.sync_all()
    });
    written.map_err(failed("write the list of volumes"))
}

fn read_list(folder: &Path) -> Result<Option<List>, NodeError> {
    match fs::read(folder.join(LIST)) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| NodeError::Invalid(format!("{}: {error}", folder.join(LIST).display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read the list of volumes")(error)),
    }
}

/// Removes what came in of a restore that did not come to be, and its folder.
pub(super) fn discard(root: &Root, settings: &Settings, unfinished: &Path) -> Result<(), NodeError> {
    match read_list(unfinished) {
        Ok(Some(list)) => forget(&open_store(root, settings)?, &list)?,
        // It was not yet written, or not whole: nothing had come in.
        Ok(None) | Err(NodeError::Invalid(_)) => {}
        Err(error) => return Err(error),
    }
    fs::remove_dir_all(unfinished).map_err(failed("remove what is left of a restore"))
}

fn forget(store: &Store, list: &List) -> Result<(), NodeError> {
    let before = list.before_incoming();
    for volume in &list.volumes {
        let name = volume.dataset()?;
        if !store.has(&name) {
            continue;
        }
        if list.made.contains(&volume.name) {
            store.destroy(&name)?;
            continue;
        }
        for snapshot in store.inspect(&name)?.snapshots {
            if snapshot.name.as_str().starts_with(&before) {
                store.destroy_snapshot(&name, &snapshot.name)?;
            }
        }
    }
    Ok(())
}

/// Has volumes hold what was restored. Nothing where nothing is left to do.
pub(super) fn settle(root: &Root, settings: &Settings) -> Result<(), NodeError> {
    let Some(list) = read_list(root.path())? else { return Ok(()) };
    forget_removals(root)?;
    let store = open_store(root, settings)?;
    for name in store.list()? {
        settle_one(&store, &list, &name)?;
    }
    let path = root.path().join(LIST);
    let removed = fs::remove_file(&path).and_then(|()| File::open(root.path())?.sync_all());
    removed.map_err(failed("end the restore"))
}

fn settle_one(store: &Store, list: &List, name: &DatasetName) -> Result<(), NodeError> {
    let known = list.known(name);
    let wanted = known.map(|known| known.snapshots.as_slice()).unwrap_or_default();
    let head = known.and_then(|known| known.head.as_ref());
    let kept = snapshot_of(&list.kept)?;
    let mut dataset = store.inspect(name)?;
    let of_id = |dataset: &Dataset, id: &str| {
        dataset.snapshots.iter().find(|one| one.id.as_deref() == Some(id)).map(|one| one.name.clone())
    };
    if let Some(head) = head
        && !list.made.contains(&name.to_string())
        && !dataset.snapshots.iter().any(|one| one.name == kept)
        && let Some(incoming) = of_id(&dataset, &head.id)
    {
        store.switch(name, &incoming, &kept)?;
        dataset = store.inspect(name)?;
    }
    let is_known = |one: &Snapshot| {
        let ids = wanted.iter().chain(head).map(|known| known.id.as_str());
        one.id.as_deref().is_some_and(|id| ids.into_iter().any(|known| known == id))
    };
    let in_the_way = |one: &&Snapshot| {
        let text = one.name.as_str();
        !is_known(one) && one.name != kept && (holder(text).is_some() || wanted.iter().any(|known| known.name == text))
    };
    for snapshot in dataset.snapshots.iter().filter(in_the_way) {
        store.rename_snapshot(name, &snapshot.name, &list.set_aside(&snapshot.name)?)?;
    }
    for one in wanted {
        let right = snapshot_of(&one.name)?;
        if let Some(now) = of_id(&dataset, &one.id).filter(|now| *now != right) {
            store.rename_snapshot(name, &now, &right)?;
        }
    }
    if let Some(incoming) = head.and_then(|head| of_id(&dataset, &head.id)) {
        store.destroy_snapshot(name, &incoming)?;
    }
    Ok(())
}
