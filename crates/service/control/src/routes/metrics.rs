//! What the node counts and measures, as JSON and as text.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use coppice_api::{ErrorKind, Metrics};
use coppice_node::Node;
use http::header;

use crate::answer::{Answer, Failed};
use crate::metrics;

/// Cgroups are read on a thread that may wait.
async fn read(node: Arc<Node>) -> Answer<Metrics> {
    let reading = tokio::task::spawn_blocking(move || node.metrics());
    reading.await.map_err(|error| Failed::new(ErrorKind::Internal, format!("cannot read the metrics: {error}")))
}

pub(super) async fn json(State(node): State<Arc<Node>>) -> Answer<Json<Metrics>> {
    Ok(Json(read(node).await?))
}

pub(crate) async fn text(State(node): State<Arc<Node>>) -> Answer<Response> {
    let text = metrics::text(&read(node).await?);
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
