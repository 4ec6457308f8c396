//! Crons.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use coppice_api::{CronDetail, CronRun, CronRunReply, CronSummary};
use coppice_node::Node;

use crate::answer::Answer;
use crate::query::Query;

pub(super) async fn list(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<Vec<CronSummary>>> {
    Ok(Json(node.crons(query.one("app"))?))
}

pub(super) async fn one(
    State(node): State<Arc<Node>>,
    Path((app, cron)): Path<(String, String)>,
) -> Answer<Json<CronDetail>> {
    Ok(Json(node.cron(&app, &cron)?))
}

pub(super) async fn run(
    State(node): State<Arc<Node>>,
    Path((app, cron)): Path<(String, String)>,
) -> Answer<Json<CronRunReply>> {
    Ok(Json(node.run_cron(&app, &cron)?))
}

pub(super) async fn ended(
    State(node): State<Arc<Node>>,
    Path((app, cron, run)): Path<(String, String, u64)>,
) -> Answer<Json<CronRun>> {
    Ok(Json(node.cron_run(&app, &cron, run).await?))
}
