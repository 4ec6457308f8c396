//! The network, as it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use coppice_api::{DoctorReport, NetworkStatus};
use coppice_node::Node;

use crate::answer::Answer;
use crate::query::Query;

pub(super) async fn status(State(node): State<Arc<Node>>) -> Json<NetworkStatus> {
    // The kernel is asked about its rules.
    let looked = tokio::task::spawn_blocking(move || node.network_status());
    Json(looked.await.expect("looking does not panic"))
}

pub(super) async fn doctor(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<DoctorReport>> {
    let (from, to) = (query.one("from").map(str::to_owned), query.one("to").map(str::to_owned));
    // Connections are tried.
    let diagnosis = tokio::task::spawn_blocking(move || node.diagnose(from.as_deref(), to.as_deref()));
    Ok(Json(diagnosis.await.expect("a diagnosis does not panic")?))
}
