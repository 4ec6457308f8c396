//! Secrets.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use coppice_api::{
    RekeyReply, RekeyRequest, SecretCheck, SecretReply, SecretRequest, SecretSummary, SecretValue, SecretVersionSummary,
};
use coppice_node::Node;
use http::StatusCode;

use crate::answer::Answer;
use crate::peer::Peer;
use crate::query::Query;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Answer<Json<Vec<SecretSummary>>> {
    Ok(Json(node.secrets()))
}

pub(super) async fn history(
    State(node): State<Arc<Node>>,
    Path(secret): Path<String>,
) -> Answer<Json<Vec<SecretVersionSummary>>> {
    Ok(Json(node.secret_history(&secret)?))
}

pub(super) async fn set(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(secret): Path<String>,
    Json(request): Json<SecretRequest>,
) -> Answer<Json<SecretReply>> {
    Ok(Json(node.set_secret(peer.uid, &secret, request).await?))
}

pub(super) async fn rotate(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(secret): Path<String>,
    Json(request): Json<SecretRequest>,
) -> Answer<Json<SecretReply>> {
    Ok(Json(node.rotate_secret(peer.uid, &secret, request).await?))
}

pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(secret): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    node.remove_secret(peer.uid, &secret, query.flag("force")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn value(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(secret): Path<String>,
    query: Query,
) -> Answer<Json<SecretValue>> {
    Ok(Json(node.secret_value(peer.uid, &secret, query.parsed("version")?, query.one("part"))?))
}

pub(super) async fn change_key(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<RekeyRequest>,
) -> Answer<Json<RekeyReply>> {
    Ok(Json(node.change_secrets_key(peer.uid, request).await?))
}

pub(super) async fn check(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<Vec<SecretCheck>>> {
    Ok(Json(node.check_secrets(&query.all("secret"))?))
}
