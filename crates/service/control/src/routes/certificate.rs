//! Certificates.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use coppice_api::{CertificateList, CertificateSummary, InstallRequest, ProvisionRequest};
use coppice_node::Node;
use http::StatusCode;

use crate::answer::Answer;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Answer<Json<CertificateList>> {
    Ok(Json(node.certificates()?))
}

pub(super) async fn install(
    State(node): State<Arc<Node>>,
    Json(request): Json<InstallRequest>,
) -> Answer<Json<CertificateSummary>> {
    Ok(Json(node.install_certificate(&request)?))
}

pub(super) async fn provision(
    State(node): State<Arc<Node>>,
    Json(request): Json<ProvisionRequest>,
) -> Answer<Json<CertificateSummary>> {
    Ok(Json(node.provision_certificate(request).await?))
}

pub(super) async fn renew(
    State(node): State<Arc<Node>>,
    Path(domain): Path<String>,
) -> Answer<Json<CertificateSummary>> {
    Ok(Json(node.renew_certificate(&domain).await?))
}

pub(super) async fn rotate(State(node): State<Arc<Node>>, Path(app): Path<String>) -> Answer<StatusCode> {
    node.rotate_authority(&app)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(State(node): State<Arc<Node>>, Path(domain): Path<String>) -> Answer<StatusCode> {
    node.remove_certificate(&domain)?;
    Ok(StatusCode::NO_CONTENT)
}
