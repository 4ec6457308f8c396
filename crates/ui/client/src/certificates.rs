//! Certificates.

use coppice_api::{CertificateList, CertificateSummary, InstallRequest, ProvisionRequest, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    pub async fn certificates(&self) -> Result<CertificateList, ClientError> {
        self.get(Target::of(path::CERTIFICATES)).await
    }

    pub async fn install_certificate(&self, request: &InstallRequest) -> Result<CertificateSummary, ClientError> {
        self.post(Target::of(path::CERTIFICATES), request).await
    }

    /// Returns when the certificate is there, or could not be had.
    pub async fn provision_certificate(&self, request: &ProvisionRequest) -> Result<CertificateSummary, ClientError> {
        self.post(Target::of(path::CERTIFICATE_PROVISION), request).await
    }

    /// Returns when the new one is there, or could not be had.
    pub async fn renew_certificate(&self, domain: &str) -> Result<CertificateSummary, ClientError> {
        self.post(Target::with(path::CERTIFICATE_RENEW, domain), &()).await
    }

    /// Begins a new root of an app's own authority; the one before is trusted until what it signed has ended.
    pub async fn rotate_authority(&self, app: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::APP_AUTHORITY_ROTATE, app), None::<&()>).await
    }

    pub async fn remove_certificate(&self, domain: &str) -> Result<(), ClientError> {
        self.delete(Target::with(path::CERTIFICATE, domain)).await
    }
}
