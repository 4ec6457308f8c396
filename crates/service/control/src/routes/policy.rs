//! Who may speak to whom.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use coppice_api::{PolicyRuleRequest, PolicyRuleSummary};
use coppice_node::Node;
use http::StatusCode;

use crate::answer::Answer;
use crate::peer::Peer;
use crate::query::Query;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Answer<Json<Vec<PolicyRuleSummary>>> {
    Ok(Json(node.policy_rules()))
}

pub(super) async fn set(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<PolicyRuleRequest>,
) -> Answer<StatusCode> {
    node.set_policy_rule(peer.uid, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    query: Query,
) -> Answer<StatusCode> {
    node.remove_policy_rule(peer.uid, query.required("from")?, query.required("to")?).await?;
    Ok(StatusCode::NO_CONTENT)
}
