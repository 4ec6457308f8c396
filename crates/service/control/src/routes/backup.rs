//! A backup of the node, sent while it is made.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use coppice_node::Node;

use crate::answer::Answer;
use crate::peer::Peer;
use crate::query::Query;
use crate::routes::volume::streamed;

pub(super) async fn backup(
    State(node): State<Arc<Node>>,
    Extension(peer): Extension<Peer>,
    query: Query,
) -> Answer<Response> {
    let key_file = query.one("key_file").map(PathBuf::from);
    let prepared = node.prepare_backup(peer.uid, query.flag("volumes")?, key_file.as_deref()).await?;
    streamed(move |out| prepared.write(out)).await
}
