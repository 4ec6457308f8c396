//! Previews.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use coppice_api::{PreviewReply, PreviewRequest, PreviewSummary, PromoteReply};
use coppice_node::Node;
use http::StatusCode;

use crate::answer::Answer;
use crate::peer::Peer;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<Vec<PreviewSummary>> {
    Json(node.previews())
}

pub(super) async fn up(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<PreviewRequest>,
) -> Answer<Json<PreviewReply>> {
    // A caller that goes away leaves nothing half-way.
    let up = tokio::spawn(async move { node.up_preview(peer.uid, request).await });
    Ok(Json(up.await.expect("it does not panic")?))
}

pub(super) async fn discard(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
) -> Answer<StatusCode> {
    node.discard_preview(peer.uid, &app).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn promote(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
) -> Answer<Json<PromoteReply>> {
    // A caller that goes away does not keep the preview from going when the app has become what it is.
    let promoted = tokio::spawn(async move { node.promote_preview(peer.uid, &app).await });
    Ok(Json(promoted.await.expect("it does not panic")?))
}
