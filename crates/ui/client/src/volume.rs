//! Volumes and their snapshots.

use coppice_api::{
    SnapshotDetail, VolumeCloneRequest, VolumeDetail, VolumeReceiveReply, VolumeRollbackReply, VolumeRollbackRequest,
    VolumeSnapshotRequest, VolumeSummary, path,
};

use crate::target::Target;
use crate::{Client, ClientError, Download, Upload};

impl Client {
    pub async fn volumes(&self) -> Result<Vec<VolumeSummary>, ClientError> {
        self.get(Target::of(path::VOLUMES)).await
    }

    pub async fn volume(&self, volume: &str) -> Result<VolumeDetail, ClientError> {
        self.get(Target::of(path::VOLUME).query("volume", volume)).await
    }

    pub async fn snapshot_volume(&self, request: &VolumeSnapshotRequest) -> Result<SnapshotDetail, ClientError> {
        self.post(Target::of(path::VOLUME_SNAPSHOT), request).await
    }

    /// What uses it must have been stopped.
    pub async fn roll_volume_back(&self, request: &VolumeRollbackRequest) -> Result<VolumeRollbackReply, ClientError> {
        self.post(Target::of(path::VOLUME_ROLLBACK), request).await
    }

    pub async fn clone_volume(&self, request: &VolumeCloneRequest) -> Result<VolumeDetail, ClientError> {
        self.post(Target::of(path::VOLUME_CLONE), request).await
    }

    /// A snapshot, or its difference from another one, as a stream of bytes.
    pub async fn send_volume(&self, volume: &str, snapshot: &str, from: Option<&str>) -> Result<Download, ClientError> {
        let target = Target::of(path::VOLUME_STREAM).query("volume", volume).query("snapshot", snapshot);
        self.get_bytes(target.maybe("from", from)).await
    }

    /// Keeps what such a stream says as a snapshot, or makes a volume of it.
    pub async fn receive_volume(&self, volume: &str, stream: Upload) -> Result<VolumeReceiveReply, ClientError> {
        self.upload(Target::of(path::VOLUME_STREAM).query("volume", volume), stream).await
    }

    /// A snapshot; without one the volume, and all its snapshots.
    pub async fn remove_volume(&self, volume: &str, snapshot: Option<&str>) -> Result<(), ClientError> {
        let target = Target::of(path::VOLUMES).query("volume", volume);
        self.delete(snapshot.into_iter().fold(target, |target, snapshot| target.query("snapshot", snapshot))).await
    }
}
