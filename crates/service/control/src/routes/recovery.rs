//! Apps brought back from their volumes.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use coppice_api::RecoverReply;
use coppice_node::Node;

use crate::answer::Answer;
use crate::peer::Peer;
use crate::query::Query;

pub(super) async fn recover(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    query: Query,
) -> Answer<Json<RecoverReply>> {
    Ok(Json(node.recover_from_datasets(peer.uid, query.flag("print")?).await?))
}
