//! Volumes and their snapshots. Each of these may copy data: they run on threads that may block.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use coppice_api::{
    SnapshotDetail, VolumeCloneRequest, VolumeDetail, VolumeRollbackReply, VolumeRollbackRequest,
    VolumeSnapshotRequest, VolumeSummary,
};
use coppice_node::{Node, NodeError};
use http::StatusCode;

use crate::answer::Answer;
use crate::peer::Peer;
use crate::query::Query;

/// Runs it where it may block.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, NodeError> + Send + 'static) -> Answer<T> {
    Ok(tokio::task::spawn_blocking(work).await.expect("work on volumes does not panic")?)
}

pub(super) async fn list(State(node): State<Arc<Node>>) -> Answer<Json<Vec<VolumeSummary>>> {
    apart(move || node.volumes()).await.map(Json)
}

pub(super) async fn one(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<VolumeDetail>> {
    let volume = query.required("volume")?.to_owned();
    apart(move || node.volume(&volume)).await.map(Json)
}

pub(super) async fn snapshot(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<VolumeSnapshotRequest>,
) -> Answer<Json<SnapshotDetail>> {
    apart(move || node.snapshot_volume(peer.uid, &request)).await.map(Json)
}

pub(super) async fn rollback(
    State(node): State<Arc<Node>>,
    Json(request): Json<VolumeRollbackRequest>,
) -> Answer<Json<VolumeRollbackReply>> {
    apart(move || node.roll_volume_back(&request)).await.map(Json)
}

pub(super) async fn clone(
    State(node): State<Arc<Node>>,
    Json(request): Json<VolumeCloneRequest>,
) -> Answer<Json<VolumeDetail>> {
    apart(move || node.clone_volume(&request)).await.map(Json)
}

pub(super) async fn remove(State(node): State<Arc<Node>>, query: Query) -> Answer<StatusCode> {
    let (volume, snapshot) = (query.required("volume")?.to_owned(), query.one("snapshot").map(str::to_owned));
    apart(move || node.remove_volume(&volume, snapshot.as_deref())).await?;
    Ok(StatusCode::NO_CONTENT)
}
