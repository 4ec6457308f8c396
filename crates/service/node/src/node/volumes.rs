//! What can be asked about volumes, and done with them by hand.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use coppice_api::{
    SnapshotDetail, VolumeCloneRequest, VolumeDetail, VolumeKind, VolumeReceiveReply, VolumeRollbackReply,
    VolumeRollbackRequest, VolumeSnapshotRequest, VolumeSummary,
};
use coppice_dataset::{Dataset, DatasetName, Kind, Snapshot, SnapshotName, Stamps};

use super::Node;
use crate::error::NodeError;
use crate::volume::{dataset_of, snapshot_of};

/// Names of snapshots that nobody named: this and the first number that is free.
const BY_HAND: &str = "manual";
/// Names of heads that were cut by a rollback.
const CUT: &str = "cut";

impl Node {
    /// All there are, by name.
    pub fn volumes(&self) -> Result<Vec<VolumeSummary>, NodeError> {
        let survey = self.containers.volumes.survey()?;
        for (volume, error) in &survey.unreadable {
            tracing::warn!(%volume, %error, "cannot look at a volume");
        }
        Ok(survey.datasets.iter().map(|dataset| self.volume_summary(dataset)).collect())
    }

    pub fn volume(&self, volume: &str) -> Result<VolumeDetail, NodeError> {
        self.volume_detail(&dataset_of(volume)?)
    }

    /// What the volume is now, under a name. Containers may use it where that is of one moment.
    pub fn snapshot_volume(&self, uid: u32, request: &VolumeSnapshotRequest) -> Result<SnapshotDetail, NodeError> {
        let name = dataset_of(&request.volume)?;
        let volumes = &self.containers.volumes;
        if volumes.kind() == Kind::Directory {
            self.refuse_in_use(&name, "a snapshot of a directory takes its time, and would be of many moments")?;
        }
        let snapshot = match &request.snapshot {
            Some(text) => snapshot_of(text)?,
            None => free_name(&volumes.inspect(&name)?, BY_HAND)?,
        };
        let mut stamps = Stamps::default();
        let pairs = [("created_at", self.containers.clock.now().0.to_string()), ("created_by", format!("uid {uid}"))];
        for (key, value) in pairs {
            stamps.set(key, value).map_err(|error| NodeError::Invalid(error.to_string()))?;
        }
        volumes.snapshot(&name, &snapshot, &stamps)?;
        let now = volumes.inspect(&name)?.snapshots.into_iter().find(|one| one.name == snapshot);
        now.map(snapshot_detail).ok_or_else(|| NodeError::Invalid(format!("snapshot {snapshot} was removed meanwhile")))
    }

    /// Has the volume be what a snapshot is. What it was is kept.
    pub fn roll_volume_back(&self, request: &VolumeRollbackRequest) -> Result<VolumeRollbackReply, NodeError> {
        let (name, to) = (dataset_of(&request.volume)?, snapshot_of(&request.snapshot)?);
        self.refuse_in_use(&name, "it would go on with what is cut")?;
        let volumes = &self.containers.volumes;
        let kept = free_name(&volumes.inspect(&name)?, CUT)?;
        volumes.switch(&name, &to, &kept)?;
        Ok(VolumeRollbackReply { kept: kept.to_string() })
    }

    /// Makes a volume of another one's snapshot.
    pub fn clone_volume(&self, request: &VolumeCloneRequest) -> Result<VolumeDetail, NodeError> {
        let (name, to) = (dataset_of(&request.volume)?, dataset_of(&request.to)?);
        self.containers.volumes.clone_to(&name, &snapshot_of(&request.snapshot)?, &to)?;
        self.volume_detail(&to)
    }

    /// Writes a snapshot, or its difference from another one, to `out`. Blocks as long as that takes.
    pub fn send_volume(
        &self,
        volume: &str,
        snapshot: &str,
        from: Option<&str>,
        out: &mut dyn Write,
    ) -> Result<(), NodeError> {
        let from = from.map(snapshot_of).transpose()?;
        Ok(self.containers.volumes.send(&dataset_of(volume)?, &snapshot_of(snapshot)?, from.as_ref(), out)?)
    }

    /// Keeps what `input` says as a snapshot, or makes a volume of it. Containers may use it: what it is stays.
    pub fn receive_volume(&self, volume: &str, input: &mut dyn Read) -> Result<VolumeReceiveReply, NodeError> {
        let name = dataset_of(volume)?;
        let received = self.containers.volumes.receive(&name, input)?;
        Ok(VolumeReceiveReply {
            volume: name.to_string(),
            snapshot: received.snapshot.to_string(),
            made: received.made,
        })
    }

    /// A snapshot; without one the volume, which nobody may use then.
    pub fn remove_volume(&self, volume: &str, snapshot: Option<&str>) -> Result<(), NodeError> {
        let name = dataset_of(volume)?;
        match snapshot {
            Some(snapshot) => Ok(self.containers.volumes.destroy_snapshot(&name, &snapshot_of(snapshot)?)?),
            None => {
                self.refuse_in_use(&name, "its data would be lost to it")?;
                Ok(self.containers.volumes.destroy(&name)?)
            }
        }
    }

    fn volume_summary(&self, dataset: &Dataset) -> VolumeSummary {
        VolumeSummary {
            name: dataset.name.to_string(),
            kind: match self.containers.volumes.kind() {
                Kind::Btrfs => VolumeKind::Btrfs,
                Kind::Zfs => VolumeKind::Zfs,
                Kind::Directory => VolumeKind::Directory,
            },
            snapshots: dataset.snapshots.len(),
            used_by: self.users_of(&dataset.name),
        }
    }

    fn volume_detail(&self, name: &DatasetName) -> Result<VolumeDetail, NodeError> {
        let dataset = self.containers.volumes.inspect(name)?;
        let VolumeSummary { name: text, kind, used_by, .. } = self.volume_summary(&dataset);
        Ok(VolumeDetail {
            name: text,
            kind,
            used_by,
            path: dataset.head.display().to_string(),
            size: self.containers.volumes.size(name)?,
            stamps: pairs(&dataset.stamps),
            snapshots: dataset.snapshots.into_iter().map(snapshot_detail).collect(),
        })
    }

    /// Running containers that have it mounted.
    fn users_of(&self, name: &DatasetName) -> Vec<String> {
        let uses = |container: &crate::container::Container| {
            container.phase().is_running() && container.read(|record| crate::volume::mounts(record, name))
        };
        let all = self.containers.table.all();
        all.into_iter().filter(|container| uses(container)).map(|container| container.name()).collect()
    }

    fn refuse_in_use(&self, name: &DatasetName, why: &'static str) -> Result<(), NodeError> {
        let by = self.users_of(name);
        if by.is_empty() { Ok(()) } else { Err(NodeError::VolumeInUse { volume: name.to_string(), by, why }) }
    }
}

/// The first of PREFIX-1, PREFIX-2, … that no snapshot has.
fn free_name(dataset: &Dataset, prefix: &str) -> Result<SnapshotName, NodeError> {
    let taken = |text: &str| dataset.snapshots.iter().any(|one| one.name.as_str() == text);
    let free = (1u64..).map(|number| format!("{prefix}-{number}")).find(|text| !taken(text));
    snapshot_of(&free.unwrap_or_default())
}

fn pairs(stamps: &Stamps) -> BTreeMap<String, String> {
    stamps.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn snapshot_detail(snapshot: Snapshot) -> SnapshotDetail {
    SnapshotDetail { name: snapshot.name.to_string(), stamps: pairs(&snapshot.stamps) }
}
