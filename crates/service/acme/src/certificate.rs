//! A certificate with its key, checked: what it takes for one to be kept and shown to clients.
//!
//! Refuses a key that is not the certificate's, a chain out of order, dates that are not now, and names it is not for,
//! before anything is stored: a client's error message is a bad place to learn of it.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use coppice_base::Timestamp;

/// Why a certificate was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate is not PEM with at least one CERTIFICATE block: {why}; give the full chain, leaf first")]
    Chain { why: String },
    #[error("the key is not PEM with one private key that rustls can use: {why}; give an ECDSA, Ed25519 or RSA key")]
    Key { why: String },
    #[error("the private key is not the one of the certificate for {names}; give the key its request was made with")]
    Mismatch { names: String },
    #[error(
        "certificate {position} of the chain was issued by \"{issuer}\", but the next one is \"{next}\"; put the leaf \
         first and each issuer after what it issued"
    )]
    Order { position: usize, issuer: String, next: String },
    #[error("the first certificate is an authority's own (\"{subject}\"); put the leaf first")]
    AuthorityFirst { subject: String },
    #[error("the certificate for {names} ended on {ended}; get a new one from its authority")]
    Expired { names: String, ended: String },
    #[error("the certificate for {names} is not valid before {begins}; install it then, or check the machine's clock")]
    NotYet { names: String, begins: String },
    #[error("the certificate names no host (no DNS names in subjectAltName); clients take none from the common name")]
    NoNames,
    #[error("the certificate is for {names}, not for {wanted}")]
    OtherName { names: String, wanted: String },
    #[error("\"{name}\" is not a DNS name: {why}")]
    BadName { name: String, why: &'static str },
}

/// A chain and its key that belong together, with what was read from the leaf.
#[derive(Clone)]
pub struct Certificate {
    /// DNS names, lower case; wildcards as `*.example.org`.
    pub names: Vec<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// SHA-256 of the leaf, in hexadecimal.
    pub fingerprint: String,
    pub(crate) chain_pem: String,
    pub(crate) key_pem: Zeroizing<String>,
    pub(crate) certified: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads `chain_pem` (leaf first) and `key_pem`. Dates are not judged: a kept certificate may have ended since.
    pub fn parse(chain_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError::Chain { why: error.to_string() })?;
        let Some(first) = chain.first() else {
            return Err(CertificateError::Chain { why: "there is none".to_owned() });
        };
        let parsed = chain.iter().map(|der| read(der)).collect::<Result<Vec<_>, _>>()?;
        let leaf = &parsed[0];
        if leaf.is_ca() {
            return Err(CertificateError::AuthorityFirst { subject: leaf.subject().to_string() });
        }
        for (position, pair) in parsed.windows(2).enumerate() {
            if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
                return Err(CertificateError::Order {
                    position: position + 1,
                    issuer: pair[0].issuer().to_string(),
                    next: pair[1].subject().to_string(),
                });
            }
        }
        let names = names_of(leaf);
        if names.is_empty() {
            return Err(CertificateError::NoNames);
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| CertificateError::Key { why: error.to_string() })?;
        let (not_before, not_after) = (moment(leaf.validity().not_before), moment(leaf.validity().not_after));
        let fingerprint = hex::encode(Sha256::digest(first));
        let certified =
            CertifiedKey::from_der(chain.clone(), key, &default_provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch { names: names.join(", ") },
                error => CertificateError::Key { why: error.to_string() },
            })?;
        Ok(Self {
            names,
            not_before,
            not_after,
            fingerprint,
            chain_pem: chain_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            certified: Arc::new(certified),
        })
    }

    /// Whether it may be shown to clients now, for `domain` when one is given.
    pub fn check(&self, domain: Option<&str>, now: Timestamp) -> Result<(), CertificateError> {
        let names = self.names.join(", ");
        if self.not_after <= now {
            return Err(CertificateError::Expired { names, ended: date(self.not_after) });
        }
        if self.not_before > now {
            return Err(CertificateError::NotYet { names, begins: date(self.not_before) });
        }
        match domain {
            Some(wanted) if !self.covers(wanted) => {
                Err(CertificateError::OtherName { names, wanted: wanted.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Whether clients who ask for `domain` take it; a wildcard stands for one label.
    pub fn covers(&self, domain: &str) -> bool {
        self.names.iter().any(|name| {
            name == domain
                || name.strip_prefix("*.").is_some_and(|parent| {
                    domain.split_once('.').is_some_and(|(label, rest)| rest == parent && label != "*")
                })
        })
    }
}

/// `name` in lower case without its last dot, if it is a host name or `*.` and one.
pub fn domain_name(name: &str) -> Result<String, CertificateError> {
    let wrong = |why| Err(CertificateError::BadName { name: name.to_owned(), why });
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let host = lower.strip_prefix("*.").unwrap_or(&lower);
    if lower.len() > 253 {
        return wrong("it has more than 253 characters");
    }
    for label in host.split('.') {
        if label.is_empty() || label.len() > 63 {
            return wrong("its labels need 1 to 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return wrong("its labels take a-z, 0-9, - and _ (write other letters in Punycode)");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("a label begins or ends with a hyphen");
        }
    }
    Ok(lower)
}

fn read<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(CertificateError::Chain { why: error.to_string() }),
    }
}

fn names_of(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|found| &found.value.general_names);
    let mut found: Vec<_> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => domain_name(name).ok(),
            _ => None,
        })
        .collect();
    found.dedup();
    found
}

fn moment(time: x509_parser::time::ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

/// `2026-11-21 14:38 UTC`.
pub(crate) fn date(at: Timestamp) -> String {
    match i64::try_from(at.0).map(jiff::Timestamp::from_millisecond) {
        Ok(Ok(at)) => at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        _ => format!("{} ms after 1970", at.0),
    }
}
