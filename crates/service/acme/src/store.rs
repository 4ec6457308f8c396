//! The certificates this node has, on disk: one file each with the chain, the sealed key and where it came from.
//!
//! One file, so that no crash parts a chain from its key. A file that cannot be read is told of and left alone: the
//! others work, and nothing is deleted that somebody may restore. Refuses certificates that fail their check.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coppice_base::Timestamp;
use coppice_spec::{AcmeChallenge, AcmeSpec};
use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, CertificateError, domain_name};
use crate::seal::SealKey;
use coppice_secret::durable;

/// Where a certificate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Ordered from an ACME authority.
    Acme,
    /// Brought by the operator.
    Installed,
}

/// What is known of a certificate, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// The name it is kept under.
    pub domain: String,
    /// All DNS names it is for.
    pub names: Vec<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub source: Source,
    pub created_at: Timestamp,
    /// Renewed by itself.
    pub managed: bool,
    /// Ordered by the operator, not by a manifest: renewed until it is removed.
    pub by_hand: bool,
    /// With what it was ordered, and will be again; `None` for installed ones.
    pub acme: Option<AcmeSpec>,
    /// SHA-256 of the leaf, in hexadecimal.
    pub fingerprint: String,
}

impl CertificateRecord {
    /// `http-01`, `tls-alpn-01` or `dns-01`; `None` for installed ones.
    pub fn challenge(&self) -> Option<&'static str> {
        self.acme.as_ref().map(|acme| challenge_name(&acme.challenge))
    }

    /// The address of the authority's directory; `None` for installed ones.
    pub fn directory(&self) -> Option<&str> {
        self.acme.as_ref().map(|acme| acme.directory.url())
    }
}

/// As RFC 8555 and RFC 8737 write it.
pub(crate) fn challenge_name(challenge: &AcmeChallenge) -> &'static str {
    match challenge {
        AcmeChallenge::Http01 => "http-01",
        AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
        AcmeChallenge::Dns01(_) => "dns-01",
    }
}

/// Why a certificate was not kept, read or removed. The certificates kept before are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("cannot write or read {path}: {source}; the certificates kept before are unchanged")]
    Io { path: PathBuf, source: io::Error },
    #[error("there is no certificate for {domain}; `coppice cert list` shows those there are")]
    Unknown { domain: String },
}

/// A file of the folder that is no certificate of ours; it was left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub path: PathBuf,
    pub why: String,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    record: CertificateRecord,
    chain: String,
    /// Sealed, in base64.
    key: String,
}

#[derive(Clone)]
struct Kept {
    record: CertificateRecord,
    certificate: Certificate,
}

/// See the module.
pub struct CertificateStore {
    folder: PathBuf,
    key: Arc<SealKey>,
    kept: Mutex<BTreeMap<String, Kept>>,
    damaged: Vec<Damaged>,
}

impl CertificateStore {
    /// Opens `folder`, which `key` is the key of, and reads every certificate in it.
    pub fn open(folder: &Path, key: Arc<SealKey>) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { path: folder.to_path_buf(), source };
        durable::make_folder(folder).map_err(io)?;
        durable::sweep(folder).map_err(io)?;
        let (mut kept, mut damaged) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            match load(&path, &key) {
                Ok(found) => drop(kept.insert(found.record.domain.clone(), found)),
                Err(why) => damaged.push(Damaged { path, why }),
            }
        }
        Ok(Self { folder: folder.to_path_buf(), key, kept: Mutex::new(kept), damaged })
    }

    /// Files that could not be read when the store was opened.
    pub fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    /// Checks and keeps a certificate under `domain`, in place of the one kept under it before. `acme`: with what it was
    /// ordered.
    pub fn put(
        &self,
        domain: &str,
        certificate: Certificate,
        acme: Option<AcmeSpec>,
        by_hand: bool,
        now: Timestamp,
    ) -> Result<CertificateRecord, StoreError> {
        let domain = domain_name(domain)?;
        certificate.check(Some(&domain), now)?;
        let record = CertificateRecord {
            names: certificate.names.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            source: if acme.is_some() { Source::Acme } else { Source::Installed },
            created_at: now,
            managed: acme.is_some(),
            by_hand,
            acme,
            fingerprint: certificate.fingerprint.clone(),
            domain,
        };
        let on_disk = OnDisk {
            chain: certificate.chain_pem.clone(),
            key: BASE64_STANDARD.encode(self.key.seal(&purpose(&record.domain), certificate.key_pem.as_bytes())),
            record: record.clone(),
        };
        let path = self.path_of(&record.domain);
        let text = serde_json::to_vec_pretty(&on_disk).expect("a record is always JSON");
        // The lock is held while writing, so that the file and what is remembered agree about who came last.
        let mut kept = self.kept();
        durable::write(&path, &text).map_err(|source| StoreError::Io { path, source })?;
        kept.insert(record.domain.clone(), Kept { record: record.clone(), certificate });
        Ok(record)
    }

    /// Removes the certificate kept under `domain`, from disk too.
    pub fn remove(&self, domain: &str) -> Result<CertificateRecord, StoreError> {
        let domain = domain_name(domain)?;
        let mut kept = self.kept();
        if !kept.contains_key(&domain) {
            return Err(StoreError::Unknown { domain });
        }
        let path = self.path_of(&domain);
        durable::remove(&path).map_err(|source| StoreError::Io { path, source })?;
        Ok(kept.remove(&domain).expect("was there under the same lock").record)
    }

    /// Every certificate's record, by domain.
    pub fn list(&self) -> Vec<CertificateRecord> {
        self.kept().values().map(|kept| kept.record.clone()).collect()
    }

    pub fn get(&self, domain: &str) -> Option<CertificateRecord> {
        self.kept().get(domain).map(|kept| kept.record.clone())
    }

    /// What a resolver needs: each domain with its certificate.
    pub fn certificates(&self) -> Vec<(String, Certificate)> {
        self.kept().iter().map(|(domain, kept)| (domain.clone(), kept.certificate.clone())).collect()
    }

    fn path_of(&self, domain: &str) -> PathBuf {
        self.folder.join(format!("{}.{EXTENSION}", file_stem(domain)))
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const EXTENSION: &str = "json";

/// `*` is a name's, not a file's; `+` is in no DNS name.
pub(crate) fn file_stem(domain: &str) -> String {
    domain.replacen('*', "+", 1)
}

/// What a sealed key is bound to.
fn purpose(domain: &str) -> String {
    format!("certificate/{domain}")
}

fn load(path: &Path, key: &SealKey) -> Result<Kept, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let on_disk: OnDisk = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if path.file_stem().is_none_or(|stem| *stem != *file_stem(&on_disk.record.domain)) {
        return Err(format!("it is for {}, which is not its name", on_disk.record.domain));
    }
    let sealed = BASE64_STANDARD.decode(&on_disk.key).map_err(|error| error.to_string())?;
    let opened = key.open(&purpose(&on_disk.record.domain), &sealed).map_err(|error| error.to_string())?;
    let key_pem = std::str::from_utf8(&opened).map_err(|error| error.to_string())?;
    let certificate = Certificate::parse(&on_disk.chain, key_pem).map_err(|error| error.to_string())?;
    Ok(Kept { record: on_disk.record, certificate })
}
