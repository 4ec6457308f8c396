//! Records that prove to an authority that a name is ours (DNS-01): put into the zone by whoever holds it, looked for
//! until all its name servers have them, and taken out again.
//!
//! Publishing is idempotent and never removes another's record of the same name: two orders (a name and its wildcard)
//! may have theirs at once. Refuses secrets in files that others may read.

mod bearer;
mod cloudflare;
mod exec;
mod gcloud;
pub(crate) mod propagation;
#[cfg(test)]
mod requests;
mod route53;
mod sigv4;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use coppice_spec::{DnsProvider, DnsProviderKind};

use crate::https::{Https, HttpsError};
use crate::secret::Secret;

/// Seconds a record may be kept in caches: as short as the providers take.
const TTL_SECONDS: u32 = 60;

/// Why a record was not published, seen or withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("{provider} needs `{key}` in {place}; see the manifest's documentation of tls.acme.dns")]
    Missing { provider: &'static str, place: &'static str, key: &'static str },
    #[error("`{key}` of {provider} is not usable: {why}")]
    Setting { provider: &'static str, key: String, why: &'static str },
    #[error("the secret file {path} cannot be read: {source}")]
    Secret { path: PathBuf, source: std::io::Error },
    #[error("the secret file {path} has mode {mode:04o}: others could read it; run `chmod 600 {path}`")]
    SecretMode { path: PathBuf, mode: u32 },
    #[error("{provider}: {source}")]
    Https { provider: &'static str, source: HttpsError },
    #[error(
        "{provider} answered {status} to {action}: {detail}; check that the credentials are for the zone and may change it"
    )]
    Refused { provider: &'static str, action: &'static str, status: u16, detail: String },
    #[error("{provider} gave an answer that makes no sense: {why}")]
    Nonsense { provider: &'static str, why: String },
    #[error("the hook {program} cannot be run: {source}; check that it exists and is executable")]
    HookStart { program: String, source: std::io::Error },
    #[error("the hook {program} failed at {action} ({status}): {output}")]
    HookFailed { program: String, action: &'static str, status: String, output: String },
    #[error("the hook {program} did not end its {action} within {within_secs} s and was killed")]
    HookSlow { program: String, action: &'static str, within_secs: u64 },
    #[error(
        "the TXT record of {name} was not on all name servers of its zone within {within_secs} s (missing on {missing}); \
         raise propagation_timeout_secs, or check that the provider holds the zone"
    )]
    NotSeen { name: String, within_secs: u64, missing: String },
    #[error("{name} is no name to look up: {why}")]
    Name { name: String, why: String },
}

/// A TXT record for a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The certificate's name, wildcards as `*.example.org`.
    pub domain: String,
    /// The record's name without the last dot: `_acme-challenge.example.org`.
    pub name: String,
    pub value: String,
    /// The authority's directory.
    pub directory: String,
}

/// Who holds the zone.
pub(crate) enum Provider {
    Cloudflare(cloudflare::Cloudflare),
    Exec(exec::Hook),
    Gcloud(gcloud::Gcloud),
    Route53(route53::Route53),
}

impl Provider {
    /// Reads the provider's settings and secrets.
    pub(crate) fn of(spec: &DnsProvider, https: &Https) -> Result<Self, ProviderError> {
        Ok(match spec.kind {
            DnsProviderKind::Cloudflare => Self::Cloudflare(cloudflare::Cloudflare::of(spec, https)?),
            DnsProviderKind::Exec => Self::Exec(exec::Hook::of(spec)?),
            DnsProviderKind::Gcloud => Self::Gcloud(gcloud::Gcloud::of(spec, https)?),
            DnsProviderKind::Route53 => Self::Route53(route53::Route53::of(spec, https)?),
        })
    }

    pub(crate) async fn publish(&self, record: &Record) -> Result<(), ProviderError> {
        match self {
            Self::Cloudflare(provider) => provider.publish(record).await,
            Self::Exec(provider) => provider.publish(record).await,
            Self::Gcloud(provider) => provider.publish(record).await,
            Self::Route53(provider) => provider.publish(record).await,
        }
    }

    /// Removes the record; one that is not there is removed already.
    pub(crate) async fn withdraw(&self, record: &Record) -> Result<(), ProviderError> {
        match self {
            Self::Cloudflare(provider) => provider.withdraw(record).await,
            Self::Exec(provider) => provider.withdraw(record).await,
            Self::Gcloud(provider) => provider.withdraw(record).await,
            Self::Route53(provider) => provider.withdraw(record).await,
        }
    }
}

/// Reads the file that `key` of the provider's secrets names.
fn secret(provider: &'static str, spec: &DnsProvider, key: &'static str) -> Result<Secret, ProviderError> {
    let path = spec.secrets.get(key).ok_or(ProviderError::Missing { provider, place: "secrets", key })?;
    secret_file(Path::new(path))
}

/// What a secret file holds; its last newline is not the secret's.
fn secret_file(path: &Path) -> Result<Secret, ProviderError> {
    let failed = |source| ProviderError::Secret { path: path.to_path_buf(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(ProviderError::SecretMode { path: path.to_path_buf(), mode });
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The value of `key` in the provider's configuration.
fn setting<'a>(provider: &'static str, spec: &'a DnsProvider, key: &'static str) -> Result<&'a str, ProviderError> {
    spec.config.get(key).map(String::as_str).ok_or(ProviderError::Missing { provider, place: "config", key })
}

/// The provider's address: its own, or `endpoint` of the configuration.
fn endpoint(spec: &DnsProvider, own: &str) -> String {
    spec.config.get("endpoint").map_or(own, String::as_str).trim_end_matches('/').to_owned()
}

/// As much of an answer as belongs in an error.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(500)]).replace(|letter: char| letter.is_control(), " ")
}
