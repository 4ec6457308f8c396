//! Listening, admitting, and serving one connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use coppice_node::Node;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tower::ServiceExt;

use crate::peer::{Allowed, group_id};
use crate::{routes, scrape, telemetry};

/// Connections served at a time; more wait. A CLI needs one, a follower holds one.
const CONNECTIONS_MAX: usize = 4096;

/// How long answers on their way may take when the daemon ends.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {path}: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("there is no group {0:?} on this machine: make it, or change api.group in the settings")]
    NoGroup(String),
}

/// Serves the node's API until the node is stopped.
pub async fn serve(node: Arc<Node>) -> Result<(), ServeError> {
    let path = node.root().socket();
    let group = match node.settings().api.group.clone() {
        Some(name) => Some(group_id(&name).ok_or(ServeError::NoGroup(name))?),
        None => None,
    };
    let failed = |source| ServeError::Listen { path: path.clone(), source };
    let listener = listen(&path, group).map_err(failed)?;
    let allowed = Allowed { owner: rustix::process::geteuid(), group };
    if let Some(address) = node.settings().metrics.listen {
        tokio::spawn(scrape::serve(node.clone(), address));
    }
    if let Some(settings) = node.settings().telemetry.clone() {
        tokio::spawn(telemetry::run(node.clone(), settings));
    }
    let router = routes::router(node.clone());
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: those in use end some time.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = node.stopped() => {
                let _ = std::fs::remove_file(&path);
                drop(place);
                // Answers on their way, the one to the stop itself among them, get there; followers are cut.
                let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
                let _ = tokio::time::timeout(LAST_ANSWERS, places.acquire_many(all)).await;
                return Ok(());
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            serve_one(stream, allowed, router).await;
            drop(place);
        });
    }
}

/// A listening socket at `path` with its mode set before anyone can connect: it is made under another name.
fn listen(path: &std::path::Path, group: Option<rustix::process::Gid>) -> io::Result<UnixListener> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    let mode = match group {
        Some(group) => {
            std::os::unix::fs::chown(&fresh, None, Some(group.as_raw()))?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

async fn serve_one(stream: UnixStream, allowed: Allowed, router: Router) {
    let peer = match allowed.admit(&stream) {
        Ok(Some(peer)) => peer,
        Ok(None) => {
            tracing::warn!("refused a connection from a user who may not use the API");
            return;
        }
        Err(error) => {
            tracing::debug!(%error, "cannot tell who connected");
            return;
        }
    };
    let service =
        TowerToHyperService::new(tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request)
        }));
    let served = http1::Builder::new()
        .max_buf_size(256 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Stops the daemon, and nothing else, on SIGTERM and SIGINT.
pub async fn stop_on_signal(node: Arc<Node>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("cannot listen for signals: stop the daemon with `coppice node stop`");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    node.finish_requests().await;
    if let Err(error) = node.stop(false).await {
        tracing::warn!(%error, "stopping");
    }
}
