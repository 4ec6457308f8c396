//! Containers and their streams.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use coppice_api::{
    ContainerDetail, ContainerSummary, Created, ErrorKind, ExecRequest, ExitReply, KillRequest, LogLine, LogStream,
    Process, RunRequest, Stats, StopRequest, stream,
};
use coppice_node::{Attached, Node};
use futures_util::StreamExt;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::{Answer, Failed, bytes, lines};
use crate::query::Query;
use crate::routes::BODY_MAX;
use crate::routes::image::{body_reader, channel_writer};

/// Log lines read ahead of a client.
pub(super) const LINES_AHEAD: usize = 256;

pub(super) async fn list(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<Vec<ContainerSummary>>> {
    Ok(Json(node.list(query.flag("all")?, query.one("app"))))
}

pub(super) async fn create(State(node): State<Arc<Node>>, Json(request): Json<RunRequest>) -> Answer<Json<Created>> {
    Ok(Json(node.create(request).await?))
}

pub(super) async fn run(State(node): State<Arc<Node>>, mut request: Request) -> Answer<Response> {
    let upgrade = hyper::upgrade::on(&mut request);
    refuse_without_upgrade(&request)?;
    let body = json::<RunRequest>(request).await?;
    let (attached, start) = node.run(body).await?;
    let id = attached.container().id.to_string();
    tokio::spawn(async move {
        // Both begin at once: the client gets its answer while the container is made.
        let (client, started) = tokio::join!(upgrade, start);
        let Ok(client) = client else { return };
        let mut client = TokioIo::new(client);
        let relayed = match started {
            Ok(words) => match tell(&mut client, &words).await {
                Ok(()) => attached.relay(client).await,
                Err(error) => Err(error),
            },
            Err(error) => refuse(client, &error).await,
        };
        if let Err(error) = relayed {
            tracing::debug!(%error, "a run's client went away");
        }
    });
    Ok(switching(&id))
}

/// What the machine cannot give comes before what the process says.
async fn tell(client: &mut (impl tokio::io::AsyncWrite + Unpin), words: &[String]) -> io::Result<()> {
    for word in words {
        send(client, stream::WORD, word.as_bytes()).await?;
    }
    Ok(())
}

async fn send(client: &mut (impl tokio::io::AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
    client.write_all(&stream::header(kind, len)).await?;
    client.write_all(payload).await
}

/// Ends a stream whose process never ran.
async fn refuse(mut client: impl tokio::io::AsyncWrite + Unpin, error: &coppice_node::NodeError) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let exit = ExitReply { code: error.exit_code(), signal: None, oom: false, error: Some(error.to_string()) };
    send(&mut client, stream::EXIT, &serde_json::to_vec(&exit)?).await?;
    client.shutdown().await
}

pub(super) async fn exec(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    mut request: Request,
) -> Answer<Response> {
    let upgrade = hyper::upgrade::on(&mut request);
    let refused = refuse_without_upgrade(&request);
    let body = json::<ExecRequest>(request).await?;
    if body.detach {
        // Its stream ends here; the process goes on.
        node.exec(&container, body).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    refused?;
    let attached = node.exec(&container, body).await?;
    Ok(relay(attached, upgrade))
}

pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    mut request: Request,
) -> Answer<Response> {
    let upgrade = hyper::upgrade::on(&mut request);
    let attached = node.attach(&container).await?;
    Ok(relay(attached, upgrade))
}

fn relay(attached: Attached, upgrade: hyper::upgrade::OnUpgrade) -> Response {
    let id = attached.container().id.to_string();
    tokio::spawn(async move {
        let Ok(client) = upgrade.await else { return };
        if let Err(error) = attached.relay(TokioIo::new(client)).await {
            tracing::debug!(%error, "an attached client went away");
        }
    });
    switching(&id)
}

fn switching(id: &str) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(stream::PROTOCOL));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(stream::CONTAINER_HEADER, id);
    }
    response
}

fn refuse_without_upgrade(request: &Request) -> Answer<()> {
    let asked = request.headers().get(header::UPGRADE).map(HeaderValue::as_bytes);
    if asked != Some(stream::PROTOCOL.as_bytes()) {
        let text = format!("this needs `Connection: upgrade` and `Upgrade: {}`", stream::PROTOCOL);
        return Err(Failed::new(ErrorKind::Invalid, text));
    }
    Ok(())
}

async fn json<T: serde::de::DeserializeOwned>(request: Request) -> Answer<T> {
    let invalid = |error: String| Failed::new(ErrorKind::Invalid, error);
    let body = axum::body::to_bytes(request.into_body(), BODY_MAX).await.map_err(|e| invalid(e.to_string()))?;
    serde_json::from_slice(&body).map_err(|e| invalid(format!("the request's body: {e}")))
}

pub(super) async fn inspect(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
) -> Answer<Json<ContainerDetail>> {
    Ok(Json(node.inspect(&container)?))
}

pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    query: Query,
) -> Answer<StatusCode> {
    node.remove(&container, query.flag("force")?, query.flag("volumes")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn start(State(node): State<Arc<Node>>, Path(container): Path<String>) -> Answer<StatusCode> {
    node.start(&container).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn stop(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    Json(request): Json<StopRequest>,
) -> Answer<StatusCode> {
    node.stop_container(&container, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn restart(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    Json(request): Json<StopRequest>,
) -> Answer<StatusCode> {
    node.restart(&container, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn kill(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    Json(request): Json<KillRequest>,
) -> Answer<StatusCode> {
    node.kill(&container, &request.signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn pause(State(node): State<Arc<Node>>, Path(container): Path<String>) -> Answer<StatusCode> {
    node.set_paused(&container, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn unpause(State(node): State<Arc<Node>>, Path(container): Path<String>) -> Answer<StatusCode> {
    node.set_paused(&container, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn wait(State(node): State<Arc<Node>>, Path(container): Path<String>) -> Answer<Json<ExitReply>> {
    Ok(Json(node.wait(&container).await?))
}

pub(super) async fn logs(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    query: Query,
) -> Answer<Response> {
    let (sender, receiver) = tokio::sync::mpsc::channel(LINES_AHEAD);
    node.container_logs(&container, query.log()?, sender).await?;
    let wanted = wanted_stream(&query)?;
    Ok(lines(ReceiverStream::new(receiver).filter(move |line| std::future::ready(wanted(line)))))
}

/// Whether a line is of a stream that was asked for; both unless one is switched off.
pub(super) fn wanted_stream(query: &Query) -> Answer<impl Fn(&LogLine) -> bool + Send + 'static> {
    let stdout = query.parsed("stdout")?.unwrap_or(true);
    let stderr = query.parsed("stderr")?.unwrap_or(true);
    Ok(move |line: &LogLine| match line.stream {
        LogStream::Stdout => stdout,
        LogStream::Stderr => stderr,
    })
}

pub(super) async fn top(State(node): State<Arc<Node>>, Path(container): Path<String>) -> Answer<Json<Vec<Process>>> {
    Ok(Json(node.top(&container)?))
}

pub(super) async fn stats(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<Vec<Stats>>> {
    Ok(Json(node.stats(&query.all("container"))?))
}

pub(super) async fn copy_out(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    query: Query,
) -> Answer<Response> {
    let path = std::path::PathBuf::from(query.required("path")?);
    // What does not exist is an error with a status, not a cut stream.
    let (writer, parts) = channel_writer();
    let mut working = tokio::task::spawn_blocking(move || node.copy_out(&container, &path, writer));
    let mut parts = Box::pin(parts);
    let first = tokio::select! {
        biased;
        first = parts.next() => first,
        done = &mut working => {
            done.map_err(|e| Failed::new(ErrorKind::Internal, e.to_string()))??;
            parts.next().await
        }
    };
    if first.is_none() {
        working.await.map_err(|e| Failed::new(ErrorKind::Internal, e.to_string()))??;
        return Ok(bytes(futures_util::stream::empty()));
    }
    let rest = futures_util::stream::iter(first).chain(parts);
    Ok(bytes(rest))
}

pub(super) async fn copy_in(
    State(node): State<Arc<Node>>,
    Path(container): Path<String>,
    query: Query,
    body: Body,
) -> Answer<StatusCode> {
    // First, so that a refusal below reads the body to its end too.
    let reader = tokio_util::io::SyncIoBridge::new(body_reader(body));
    let path = std::path::PathBuf::from(query.required("path")?);
    tokio::task::spawn_blocking(move || node.copy_in(&container, &path, reader))
        .await
        .map_err(|e| Failed::new(ErrorKind::Internal, e.to_string()))??;
    Ok(StatusCode::NO_CONTENT)
}
