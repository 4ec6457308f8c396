//! What the pool says about a volume: its generations, their snapshots, and what is written on them.

use std::collections::BTreeMap;

use super::command::zfs;
use super::property;
use crate::error::DatasetError;
use crate::name::SnapshotName;
use crate::stamps::Stamps;
use crate::store::Snapshot;

/// Which child is the head: on a volume's dataset, and what makes it one.
pub(super) const HEAD_OF: &str = "com.coppice.store:head";
/// As what the head before this one is kept: on a generation that a switch made.
pub(super) const CUT_AS: &str = "com.coppice.store:cut";
/// Most bytes of the head, whichever that is: on a volume's dataset.
pub(super) const QUOTA: &str = "com.coppice.store:quota";
/// What tells a snapshot from every other.
pub(super) const ID: &str = "com.coppice.store:id";
/// Before the snapshot that a switch takes of the head it cuts, until it has happened.
pub(super) const CUT: &str = "_cut-";
/// Before names of snapshots that are nobody's but those of clones.
pub(super) const GONE: &str = "_gone-";

/// An object's own properties, and its origin.
#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) own: BTreeMap<String, String>,
    pub(super) origin: Option<String>,
}

/// Datasets and snapshots below one, by full name.
pub(super) type Objects = BTreeMap<String, Object>;

/// Reads all below a dataset, itself included; none where there is no such.
pub(super) fn objects(dataset: &str) -> Result<Objects, DatasetError> {
    let text = match zfs(&["get", "-H", "-p", "-r", "-o", "name,property,value,source", "all", dataset]) {
        Err(DatasetError::Zfs { said, .. }) if said.contains("does not exist") => return Ok(Objects::new()),
        other => other?,
    };
    let mut all = Objects::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(property), Some(value), Some(source)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            // A value of somebody else's with a line's end in it.
            continue;
        };
        let object = all.entry(name.to_owned()).or_default();
        if property == "origin" && value != "-" {
            object.origin = Some(value.to_owned());
        }
        if matches!(source, "local" | "received") {
            object.own.insert(property.to_owned(), value.to_owned());
        }
    }
    Ok(all)
}

/// A volume.
#[derive(Debug)]
pub(super) struct Volume {
    /// Name of the child that is the head.
    pub(super) head: String,
    /// Bytes.
    pub(super) quota: Option<String>,
    /// By name of the child.
    pub(super) generations: BTreeMap<String, Generation>,
}

/// A dataset that is the head, or was.
#[derive(Debug, Default)]
pub(super) struct Generation {
    pub(super) own: BTreeMap<String, String>,
    /// Of every name, hidden ones too; with their own properties.
    pub(super) snapshots: BTreeMap<String, BTreeMap<String, String>>,
}

impl Volume {
    /// Reads it from what is below its dataset; `None` where that is not there, or half-made.
    pub(super) fn of(dataset: &str, objects: &Objects) -> Option<Self> {
        let own = &objects.get(dataset)?.own;
        let (head, quota) = (own.get(HEAD_OF)?.clone(), own.get(QUOTA).cloned());
        let mut generations: BTreeMap<String, Generation> = BTreeMap::new();
        for (name, object) in objects {
            let Some(inner) = name.strip_prefix(dataset).and_then(|rest| rest.strip_prefix('/')) else { continue };
            match inner.split_once('@') {
                None => generations.entry(inner.to_owned()).or_default().own = object.own.clone(),
                Some((child, snapshot)) => {
                    let generation = generations.entry(child.to_owned()).or_default();
                    generation.snapshots.insert(snapshot.to_owned(), object.own.clone());
                }
            }
        }
        Some(Self { head, quota, generations })
    }

    pub(super) fn head_stamps(&self) -> Stamps {
        self.generations.get(&self.head).map(|head| property::read(&head.own)).unwrap_or_default()
    }

    /// By name, of all generations.
    pub(super) fn snapshots(&self) -> Vec<Snapshot> {
        let all = self.generations.values().flat_map(|generation| &generation.snapshots);
        let mut all: Vec<Snapshot> = all
            .filter_map(|(name, own)| {
                let name = SnapshotName::new(name.as_str()).ok()?;
                Some(Snapshot { name, stamps: property::read(own), id: own.get(ID).cloned() })
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The generation that has a snapshot, and what is written on that.
    pub(super) fn find(&self, snapshot: &SnapshotName) -> Option<(&str, &BTreeMap<String, String>)> {
        self.generations
            .iter()
            .find_map(|(name, generation)| generation.snapshots.get(snapshot.as_str()).map(|own| (name.as_str(), own)))
    }

    /// A name that no generation has: `g` and a number.
    pub(super) fn free(&self) -> String {
        let number = |name: &String| name.strip_prefix('g').and_then(|number| number.parse::<u64>().ok());
        let last = self.generations.keys().filter_map(number).max().unwrap_or(0);
        format!("g{}", last + 1)
    }
}

impl Generation {
    /// Whether it has a snapshot that somebody can see.
    pub(super) fn is_kept(&self) -> bool {
        self.snapshots.keys().any(|name| SnapshotName::new(name.as_str()).is_ok())
    }
}
