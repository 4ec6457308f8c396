//! Certificates.

use coppice_base::Timestamp;
use coppice_spec::AcmeSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a certificate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateSource {
    /// Ordered from an ACME authority.
    Acme,
    /// Brought by the operator.
    Installed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateSummary {
    /// The name it is kept under.
    pub domain: String,
    /// All DNS names it is for.
    pub names: Vec<String>,
    #[schema(value_type = u64)]
    pub not_before: Timestamp,
    #[schema(value_type = u64)]
    pub not_after: Timestamp,
    pub source: CertificateSource,
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    /// Renewed by itself.
    pub managed: bool,
    /// `http-01`, `tls-alpn-01` or `dns-01`; none for installed ones.
    pub challenge: Option<String>,
    /// Who holds the zone for `dns-01`.
    pub provider: Option<String>,
    /// The authority's directory; none for installed ones.
    pub directory_url: Option<String>,
    /// SHA-256 of the leaf, in hexadecimal.
    pub fingerprint: String,
}

/// A name whose last order failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateFailure {
    pub domain: String,
    /// One after the other.
    pub failures: u32,
    /// When it is ordered again.
    #[schema(value_type = u64)]
    pub next_at: Timestamp,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateList {
    pub certificates: Vec<CertificateSummary>,
    pub failed: Vec<CertificateFailure>,
    /// Files that could not be read, in sentences.
    pub words: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstallRequest {
    /// The name to keep it under; none: its first.
    pub domain: Option<String>,
    /// PEM, leaf first.
    pub chain: String,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for InstallRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("InstallRequest").field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionRequest {
    pub domain: String,
    /// As `tls.acme` of a service.
    #[schema(value_type = Object)]
    pub acme: AcmeSpec,
}
