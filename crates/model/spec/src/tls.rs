//! Certificates of a service's names, and encryption between services.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `[service.X.tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSpec {
    /// Names a certificate is wanted for; lower case. With ACME each gets one of its own; `*.` needs DNS-01. Without ACME
    /// the certificate is one that was installed by hand (`coppice cert install`).
    pub domains: Vec<String>,
    pub acme: Option<AcmeSpec>,
    /// Connections from other services of the app.
    pub peer: PeerTls,
    /// Plain HTTP requests for these names are answered with a redirect to HTTPS.
    pub redirect: bool,
}

/// Whether services must show a certificate of the app's own authority when they call this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerTls {
    #[default]
    Off,
    /// Taken without one too, counted and logged.
    Warn,
    Require,
}

/// How certificates are ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeSpec {
    /// Where the authority writes to; no `mailto:`.
    pub email: String,
    pub directory: AcmeDirectory,
    pub challenge: AcmeChallenge,
    /// Ordered when the first client asks for the name, not at `up`.
    pub on_demand: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcmeDirectory {
    #[default]
    LetsEncrypt,
    LetsEncryptStaging,
    /// An RFC 8555 directory.
    Url(String),
}

impl AcmeDirectory {
    /// The directory's address; Let's Encrypt's are from its documentation.
    pub fn url(&self) -> &str {
        match self {
            Self::LetsEncrypt => "https://acme-v02.api.letsencrypt.org/directory",
            Self::LetsEncryptStaging => "https://acme-staging-v02.api.letsencrypt.org/directory",
            Self::Url(url) => url,
        }
    }
}

/// How the authority is shown that a name is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum AcmeChallenge {
    #[default]
    Http01,
    TlsAlpn01,
    Dns01(DnsProvider),
}

/// Who holds the zone for DNS-01. `secrets` name files or node secrets, never values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsProvider {
    pub kind: DnsProviderKind,
    /// Key → where its value is: the path of a file on the node (0600).
    pub secrets: BTreeMap<String, String>,
    /// Key → value, such as `zone_id`.
    pub config: BTreeMap<String, String>,
    /// argv for [`DnsProviderKind::Exec`].
    pub hook: Vec<String>,
    /// Seconds until the record must be seen, at least 1.
    pub propagation_timeout_secs: u64,
    /// Seconds between looks, at least 1.
    pub poll_interval_secs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsProviderKind {
    Cloudflare,
    Route53,
    Gcloud,
    Exec,
}
