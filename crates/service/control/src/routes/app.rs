//! Apps.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use coppice_api::{AppStatus, AppSummary, AppliedReply, ApplyRequest, PlanReply, WorkerRunReply, WorkloadRequest};
use coppice_node::Node;
use http::StatusCode;
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::{Answer, lines};
use crate::peer::Peer;
use crate::query::Query;
use crate::routes::container::{LINES_AHEAD, wanted_stream};

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<Vec<AppSummary>> {
    Json(node.apps())
}

pub(super) async fn apply(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<ApplyRequest>,
) -> Answer<Json<AppliedReply>> {
    let app = request.spec.name.clone();
    let reply = node.apply(peer.uid, request).await?;
    Ok(Json(node.applied(app.as_str(), reply)?))
}

pub(super) async fn plan(State(node): State<Arc<Node>>, Json(request): Json<ApplyRequest>) -> Answer<Json<PlanReply>> {
    Ok(Json(node.plan(&request.spec)))
}

pub(super) async fn status(State(node): State<Arc<Node>>, Path(app): Path<String>) -> Answer<Json<AppStatus>> {
    Ok(Json(node.app_status(&app)?))
}

pub(super) async fn down(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    node.down(peer.uid, &app, query.flag("volumes")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn workloads(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path(app): Path<String>,
    Json(request): Json<WorkloadRequest>,
) -> Answer<StatusCode> {
    node.workloads(peer.uid, &app, &request.action, &request.targets).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn run_worker(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Path((app, worker)): Path<(String, String)>,
) -> Answer<Json<WorkerRunReply>> {
    Ok(Json(node.run_worker(peer.uid, &app, &worker).await?))
}

pub(super) async fn logs(State(node): State<Arc<Node>>, Path(app): Path<String>, query: Query) -> Answer<Response> {
    let (sender, receiver) = tokio::sync::mpsc::channel(LINES_AHEAD);
    node.app_logs(&app, &query.all("workload"), query.log()?, sender).await?;
    let wanted = wanted_stream(&query)?;
    use futures_util::StreamExt;
    Ok(lines(ReceiverStream::new(receiver).filter(move |line| std::future::ready(wanted(line)))))
}
