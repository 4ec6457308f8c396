//! `/metrics` over TCP, for a Prometheus: where the settings say so, and nothing else of the API.
//!
//! Anyone who reaches the port may read. One connection, one answer; a port that is taken does not keep the daemon from
//! its work: it is tried again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use coppice_node::Node;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::routes::metrics;

/// Scrapes at a time; more wait. A node has one Prometheus, or two.
const CONNECTIONS_MAX: usize = 16;

/// A connection ends after; a scrape takes milliseconds, and Prometheus gives up after 10 s by default.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// Between tries to have the port.
const PAUSE: Duration = Duration::from_secs(2);

/// Serves until the node is stopped.
pub(crate) async fn serve(node: Arc<Node>, address: SocketAddr) {
    let router = Router::new().route(coppice_api::path::METRICS_TEXT, get(metrics::text)).with_state(node.clone());
    tokio::select! {
        () = listen(router, address) => {}
        () = node.stopped() => {}
    }
}

async fn listen(router: Router, address: SocketAddr) {
    let listener = bind(address).await;
    tracing::info!(%address, "metrics are served");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: those in use end some time.
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let serving = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_LIMIT, serving).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a scrape ended early"),
                Err(_) => tracing::debug!("a scrape took too long"),
            }
            drop(place);
        });
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut said: Option<io::ErrorKind> = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if said == Some(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, %address, "metrics are not served yet: free the port, or change [metrics] in node.toml");
                said = Some(error.kind());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
