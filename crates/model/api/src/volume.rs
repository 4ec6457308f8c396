//! Volumes and their snapshots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a volume's head and snapshots are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// Subvolumes: a snapshot is of one moment and takes the same time for any size.
    Btrfs,
    /// Datasets of a ZFS pool: a snapshot is of one moment and takes the same time for any size.
    Zfs,
    /// Directories: files share their blocks where the filesystem can do that, and are copied where it cannot.
    Directory,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeSummary {
    /// `shop/data`; `data` of the containers that are of no app.
    pub name: String,
    pub kind: VolumeKind,
    /// How many there are.
    pub snapshots: usize,
    /// Containers that have it mounted now.
    pub used_by: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeDetail {
    /// `shop/data`.
    pub name: String,
    pub kind: VolumeKind,
    /// Containers that have it mounted now.
    pub used_by: Vec<String>,
    /// Where its data is on the host.
    pub path: String,
    /// Bytes on disk of its head, shared with snapshots or not.
    pub size: u64,
    /// What is written on it.
    pub stamps: BTreeMap<String, String>,
    /// By name.
    pub snapshots: Vec<SnapshotDetail>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotDetail {
    pub name: String,
    /// Those of the volume at its time, and `created_at` (milliseconds since 1970) and `created_by` (`uid 0`).
    pub stamps: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSnapshotRequest {
    /// `shop/data`.
    pub volume: String,
    /// `None`: the first of manual-1, manual-2, … that is free.
    pub snapshot: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRollbackRequest {
    pub volume: String,
    /// What it is to be again.
    pub snapshot: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeRollbackReply {
    /// The snapshot that holds what the volume was until now.
    pub kept: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeCloneRequest {
    pub volume: String,
    pub snapshot: String,
    /// The new volume.
    pub to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeReceiveReply {
    /// Into which.
    pub volume: String,
    /// What the snapshot that came is called, there as here.
    pub snapshot: String,
    /// Whether the volume was made of it; else what it is now stays, and it has one more snapshot.
    pub made: bool,
}
