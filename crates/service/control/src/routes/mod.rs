//! The routes, one file per noun.

mod app;
mod backup;
mod certificate;
mod container;
mod cron;
mod image;
pub(crate) mod metrics;
mod network;
mod node;
mod policy;
mod preview;
mod recovery;
mod release;
mod secret;
mod volume;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use coppice_api::{ErrorKind, path};
use coppice_node::Node;
use http::header;

use crate::answer::Failed;

/// Longest JSON body: a spec with many services and large environments is far below.
const BODY_MAX: usize = 8 << 20;

pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route(path::VERSION, get(node::version))
        .route(path::NODE, get(node::status))
        .route(path::NODE_STOP, post(node::stop))
        .route(path::OPENAPI, get(node::openapi))
        .route(path::METRICS, get(metrics::json))
        .route(path::METRICS_TEXT, get(metrics::text))
        .route(path::EVENTS, get(node::events))
        .route(path::APPS, get(app::list).post(app::apply))
        .route(path::APPS_PLAN, post(app::plan))
        .route(path::APP, get(app::status).delete(app::down))
        .route(path::APP_WORKLOADS, post(app::workloads))
        .route(path::APP_LOGS, get(app::logs))
        .route(path::APP_HISTORY, get(release::history))
        .route(path::APP_RELEASE, get(release::one))
        .route(path::APP_ROLLBACK, post(release::rollback))
        .route(path::APP_ROLLOUT_PAUSE, post(release::pause))
        .route(path::APP_ROLLOUT_RESUME, post(release::resume))
        .route(path::APP_ROLLOUT_CANCEL, post(release::cancel))
        .route(path::PREVIEWS, get(preview::list).post(preview::up))
        .route(path::PREVIEW, delete(preview::discard))
        .route(path::PREVIEW_PROMOTE, post(preview::promote))
        .route(path::APP_WORKER_RUN, post(app::run_worker))
        .route(path::CRONS, get(cron::list))
        .route(path::APP_CRON, get(cron::one))
        .route(path::APP_CRON_RUN, post(cron::run))
        .route(path::APP_CRON_ONE, get(cron::ended))
        .route(path::CONTAINERS, get(container::list).post(container::create))
        .route(path::RUN, post(container::run))
        .route(path::CONTAINER, get(container::inspect).delete(container::remove))
        .route(path::CONTAINER_START, post(container::start))
        .route(path::CONTAINER_STOP, post(container::stop))
        .route(path::CONTAINER_RESTART, post(container::restart))
        .route(path::CONTAINER_KILL, post(container::kill))
        .route(path::CONTAINER_PAUSE, post(container::pause))
        .route(path::CONTAINER_UNPAUSE, post(container::unpause))
        .route(path::CONTAINER_WAIT, post(container::wait))
        .route(path::CONTAINER_EXEC, post(container::exec))
        .route(path::CONTAINER_ATTACH, post(container::attach))
        .route(path::CONTAINER_LOGS, get(container::logs))
        .route(path::CONTAINER_TOP, get(container::top))
        .route(path::CONTAINER_ARCHIVE, get(container::copy_out).put(container::copy_in))
        .route(path::STATS, get(container::stats))
        .route(path::IMAGES, get(image::list).merge(delete(image::remove)))
        .route(path::IMAGE_INSPECT, get(image::inspect))
        .route(path::IMAGE_PULL, post(image::pull))
        .route(path::IMAGE_PUSH, post(image::push))
        .route(path::IMAGE_TAG, post(image::tag))
        .route(path::IMAGE_IMPORT, post(image::import))
        .route(path::IMAGE_EXPORT, get(image::export))
        .route(path::IMAGE_LOAD, post(image::load))
        .route(path::IMAGE_SAVE, get(image::save))
        .route(path::IMAGE_PRUNE, post(image::prune))
        .route(path::APP_AUTHORITY_ROTATE, post(certificate::rotate))
        .route(path::CERTIFICATES, get(certificate::list).post(certificate::install))
        .route(path::CERTIFICATE_PROVISION, post(certificate::provision))
        .route(path::CERTIFICATE, delete(certificate::remove))
        .route(path::CERTIFICATE_RENEW, post(certificate::renew))
        .route(path::NETWORK, get(network::status))
        .route(path::NETWORK_DOCTOR, get(network::doctor))
        .route(path::POLICY, get(policy::list).post(policy::set).delete(policy::remove))
        .route(path::RECOVER, post(recovery::recover))
        .route(path::BACKUP, get(backup::backup))
        .route(path::SECRETS, get(secret::list))
        .route(path::SECRET, get(secret::history).post(secret::set).delete(secret::remove))
        .route(path::SECRET_ROTATE, post(secret::rotate))
        .route(path::SECRET_VALUE, get(secret::value))
        .route(path::SECRETS_KEY, post(secret::change_key))
        .route(path::SECRETS_CHECK, get(secret::check))
        .route(path::VOLUMES, get(volume::list).delete(volume::remove))
        .route(path::VOLUME, get(volume::one))
        .route(path::VOLUME_SNAPSHOT, post(volume::snapshot))
        .route(path::VOLUME_ROLLBACK, post(volume::rollback))
        .route(path::VOLUME_CLONE, post(volume::clone))
        .route(path::VOLUME_STREAM, get(volume::send).post(volume::receive))
        .fallback(unknown)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(refuse_browsers))
        .with_state(node)
}

async fn unknown(request: Request) -> Response {
    let text = format!("no {} {}: this node may be older than the client", request.method(), request.uri().path());
    Failed::new(ErrorKind::NotFound, text).into_response()
}

/// A browser that was led here through a proxy says where the page came from, or for whom the request is.
async fn refuse_browsers(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.as_bytes());
    let is_ours = matches!(host, None | Some(b"" | b"coppice" | b"localhost"));
    if !is_ours || request.headers().contains_key(header::ORIGIN) {
        let text = "requests from web pages are refused: send `Host: coppice` and no Origin";
        return Failed::new(ErrorKind::Forbidden, text).into_response();
    }
    next.run(request).await
}
