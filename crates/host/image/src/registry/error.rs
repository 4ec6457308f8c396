//! What can go wrong between here and a registry.

use std::io;
use std::net::IpAddr;

use crate::digest::Digest;

/// Why a registry did not give or take something.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("could not connect to {host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error(
        "no trusted connection to {host}: {source}; if the registry's certificate authority is your own, put its \
         certificate where the node looks: certs.d/{host}/ca.crt in its state directory, or /etc/docker/certs.d/{host}/ca.crt; \
         if it speaks plain HTTP on purpose, say --insecure"
    )]
    Tls { host: String, source: io::Error },
    #[error(
        "{from} pointed to {host}, which is {address}: a registry elsewhere may not lead to a local address; refused"
    )]
    LocalAddress { from: String, host: String, address: IpAddr },
    #[error("{from} pointed from HTTPS to plain HTTP at {to}; refused")]
    Downgrade { from: String, to: String },
    #[error("{host} sent too many redirects")]
    TooManyRedirects { host: String },
    #[error("{host} sent an address that is not one: {text:?}")]
    BadUrl { host: String, text: String },
    #[error("{host} has no {what}")]
    NotFound { host: String, what: String },
    #[error(
        "{host} denied access to {what}: check the name, and log in with `coppice login {host}`, or again if the user or password was wrong"
    )]
    Denied { host: String, what: String },
    #[error("{host} answered {status} for {what}{}", .detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Status { host: String, what: String, status: u16, detail: Option<String>, retry_after: Option<u64> },
    #[error("{host} asked for a login that is not understood: {challenge:?}")]
    Challenge { host: String, challenge: String },
    #[error("the connection to {host} broke: {source}")]
    Broken { host: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{host} did not answer in time")]
    Silent { host: String },
    #[error("{host} sent fewer than {bytes} bytes in {seconds} seconds of waiting; the connection was cut")]
    Stalled { host: String, bytes: u64, seconds: u64 },
    #[error("{host} sent more than {max} bytes for {what}, the most that is accepted")]
    TooLong { host: String, what: String, max: u64 },
    #[error("{host} sent {got} bytes for {digest}, which should be {want} long")]
    WrongSize { host: String, digest: Digest, want: u64, got: u64 },
    #[error("{host} sent content with the digest {got} for {want}: it was damaged or forged")]
    WrongDigest { host: String, want: Digest, got: Digest },
    #[error("{host} sent other bytes of {digest} than asked for")]
    WrongRange { host: String, digest: Digest },
    #[error("{host} answered an upload without saying where to send it")]
    NoLocation { host: String },
    #[error("a local file could not be read for the upload: {0}")]
    File(#[source] io::Error),
    /// The receiving side ended; its own error says why.
    #[error("the download was stopped because its content was refused")]
    Unwanted,
}

impl RegistryError {
    /// Whether trying again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Stalled { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}
