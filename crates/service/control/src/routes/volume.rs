//! Volumes and their snapshots. Each of these may copy data: they run on threads that may block.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use bytes::Bytes;
use coppice_api::{
    SnapshotDetail, VolumeCloneRequest, VolumeDetail, VolumeReceiveReply, VolumeRollbackReply, VolumeRollbackRequest,
    VolumeSnapshotRequest, VolumeSummary,
};
use coppice_node::{Node, NodeError};
use futures_util::StreamExt;
use http::StatusCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::{Answer, bytes};
use crate::peer::Peer;
use crate::query::Query;
use crate::routes::image::body_reader;

/// Parts of a stream that are made ahead of a client.
const PARTS_AHEAD: usize = 8;
/// Bytes of a part.
const PART: usize = 256 << 10;

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

pub(super) async fn send(State(node): State<Arc<Node>>, query: Query) -> Answer<Response> {
    let (volume, snapshot) = (query.required("volume")?.to_owned(), query.required("snapshot")?.to_owned());
    let from = query.one("from").map(str::to_owned);
    streamed(move |out| node.send_volume(&volume, &snapshot, from.as_deref(), out)).await
}

/// What blocking work writes, as it is written.
pub(super) async fn streamed(
    work: impl FnOnce(&mut dyn io::Write) -> Result<(), NodeError> + Send + 'static,
) -> Answer<Response> {
    let (sender, mut parts) = mpsc::channel(PARTS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(PART, Parts(sender.clone()));
        let worked = work(&mut out).and_then(|()| {
            io::Write::flush(&mut out).map_err(|_| NodeError::Invalid("nobody reads any more".to_owned()))
        });
        if let Err(error) = worked {
            // What is half of a part goes nowhere; nobody reads any more, or hears why.
            drop(out.into_parts());
            let _ = sender.blocking_send(Err(error));
        }
    });
    // What is wrong before anything was sent is an answer like any other.
    let first = parts.recv().await.transpose()?;
    let rest = ReceiverStream::new(parts).map(|part| {
        part.map_err(|error| {
            tracing::warn!(%error, "a stream ended early");
            io::Error::other(error)
        })
    });
    Ok(bytes(futures_util::stream::iter(first.map(Ok)).chain(rest)))
}

pub(super) async fn receive(
    State(node): State<Arc<Node>>,
    query: Query,
    body: Body,
) -> Answer<Json<VolumeReceiveReply>> {
    // First, so that a refusal below reads the body to its end too.
    let mut reader = tokio_util::io::SyncIoBridge::new(body_reader(body));
    let volume = query.required("volume")?.to_owned();
    apart(move || node.receive_volume(&volume, &mut reader)).await.map(Json)
}

/// Blocking code's output as parts of an answer.
struct Parts(mpsc::Sender<Result<Bytes, NodeError>>);

impl io::Write for Parts {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(part))).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) async fn remove(State(node): State<Arc<Node>>, query: Query) -> Answer<StatusCode> {
    let (volume, snapshot) = (query.required("volume")?.to_owned(), query.one("snapshot").map(str::to_owned));
    apart(move || node.remove_volume(&volume, snapshot.as_deref())).await?;
    Ok(StatusCode::NO_CONTENT)
}
