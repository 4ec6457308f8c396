//! Releases: history, rollback, and ruling a rollout.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use coppice_api::{ReleaseEntry, RollbackReply, RollbackRequest};
use coppice_node::{Control, Node};
use http::StatusCode;

use crate::answer::Answer;
use crate::peer::Peer;
use crate::query::Query;

/// Longest that one request waits for the end of a release.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

pub(super) async fn history(State(node): State<Arc<Node>>, Path(app): Path<String>) -> Answer<Json<Vec<ReleaseEntry>>> {
    Ok(Json(node.history(&app)?))
}

pub(super) async fn one(
    State(node): State<Arc<Node>>,
    Path((app, release)): Path<(String, String)>,
    query: Query,
) -> Answer<Json<ReleaseEntry>> {
    Ok(Json(match query.parsed("wait_ms")? {
        Some(wait_ms) => {
            let patience = Duration::from_millis(wait_ms).min(PATIENCE_MAX);
            node.release_once_over(&app, &release, patience).await?
        }
        None => node.release_entry(&app, &release)?,
    }))
}

pub(super) async fn rollback(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
    Json(request): Json<RollbackRequest>,
) -> Answer<Json<RollbackReply>> {
    Ok(Json(node.rollback_or_print(peer.uid, &app, request).await?))
}

pub(super) async fn pause(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
) -> Answer<StatusCode> {
    control(&node, &peer, &app, Control::Pause)
}

pub(super) async fn resume(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
) -> Answer<StatusCode> {
    control(&node, &peer, &app, Control::Resume)
}

pub(super) async fn cancel(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
) -> Answer<StatusCode> {
    control(&node, &peer, &app, Control::Cancel)
}

fn control(node: &Node, peer: &Peer, app: &str, control: Control) -> Answer<StatusCode> {
    node.control_rollout(peer.uid, app, control)?;
    Ok(StatusCode::NO_CONTENT)
}
