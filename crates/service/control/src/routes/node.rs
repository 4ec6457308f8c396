//! The node itself, and its events.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use coppice_api::{API, Event, NodeStatus, StopNodeRequest, VersionReply};
use coppice_base::Timestamp;
use coppice_node::Node;
use futures_util::StreamExt;
use http::StatusCode;
use tokio_stream::wrappers::BroadcastStream;

use crate::answer::{Answer, lines};
use crate::query::Query;

pub(super) async fn version() -> Json<VersionReply> {
    Json(VersionReply { version: env!("CARGO_PKG_VERSION").to_owned(), api: API })
}

pub(super) async fn status(State(node): State<Arc<Node>>) -> Json<NodeStatus> {
    Json(node.status())
}

pub(super) async fn stop(State(node): State<Arc<Node>>, Json(request): Json<StopNodeRequest>) -> Answer<StatusCode> {
    node.give_up_sockets().await;
    node.stop(request.containers).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(crate::openapi::document())
}

pub(super) async fn events(State(node): State<Arc<Node>>, query: Query) -> Answer<Response> {
    let since = query.parsed("since")?.map(Timestamp);
    let app = query.one("app").map(str::to_owned);
    let wanted = move |event: &Event| app.is_none() || event.app == app;
    let (past, later) = node.events().follow(since);
    let past = futures_util::stream::iter(past);
    if !query.flag("follow")? {
        return Ok(lines(past.filter(move |event| std::future::ready(wanted(event)))));
    }
    // One who fell behind is told by an event of its own.
    let later = BroadcastStream::new(later).map(|event| {
        event.unwrap_or_else(|lagged| Event {
            at: Timestamp::ZERO,
            object: "node".to_owned(),
            action: "lagged".to_owned(),
            id: String::new(),
            name: None,
            app: None,
            message: lagged.to_string(),
        })
    });
    let until = async move { node.stopped().await };
    let all = past.chain(later).filter(move |event| std::future::ready(wanted(event)));
    Ok(lines(all.take_until(Box::pin(until))))
}
