//! An app's own certificate authority: its services show each other who they are.
//!
//! The root lives ten years, sealed on disk like every other key. A service's certificate lives 24 hours (or what the node
//! sets) and never touches the disk: it is made at the first handshake and made anew at the first one after a third of its
//! life is left, or after the root was rotated; so there is no timer to miss and nothing to restart. One that cannot be
//! made anew is shown until it ends. A root that was rotated away is trusted until the last certificate it signed has
//! ended.
//!
//! ```text
//!  root 1 ──signs──┐ rotated            ┌─ forgotten
//!  ────────────────┴──── trusted ───────┘
//!                  root 2 ──signs──────────────►
//! ```
//!
//! Refuses certificates of another app's authority, and of this one without a name of this app.

mod identity;
mod verifier;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use coppice_base::{Clock, Name, Timestamp};

use crate::seal::SealKey;
use crate::secret::Secret;
use coppice_secret::durable;

pub use identity::Identity;
pub use verifier::{PeerError, PeerIdentity};

use verifier::Trust;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a root.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Of a service's certificate, usually.
pub const LEAF_LIFE: Duration = DAY;
/// Certificates begin this much before they are made: clocks of nodes differ.
const SKEW: Duration = Duration::from_secs(300);

/// Why an app's authority cannot be used. What it signed before is still good.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot keep the authority of {app} in {path}: {source}; free space, or mend the disk")]
    Io { app: Name, path: PathBuf, source: io::Error },
    #[error(
        "the authority of {app} in {path} cannot be read: {why}; restore it, or remove the file to begin a new one"
    )]
    Damaged { app: Name, path: PathBuf, why: String },
    #[error("the authority of {app} cannot sign for {what}: {why}")]
    Sign { app: Name, what: String, why: String },
}

#[derive(Clone, Serialize, Deserialize)]
struct Root {
    certificate_der: Vec<u8>,
    key_pem: Secret,
    not_before: Timestamp,
    not_after: Timestamp,
    /// When the last certificate it signed has ended; `None`: it signs.
    forgotten_at: Option<Timestamp>,
}

/// See the module.
pub struct Authority {
    app: Name,
    path: PathBuf,
    key: Arc<SealKey>,
    clock: Arc<dyn Clock>,
    /// Of a service's certificate.
    leaf_life: Duration,
    /// Certificates and roots that were due and could not be made.
    failures: AtomicU64,
    /// The last one signs. Never empty.
    roots: Mutex<Vec<Root>>,
    trust: RwLock<Arc<Trust>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").field("app", &self.app).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens `app`'s authority in `folder`, or begins it. `leaf_life`: how long a service's certificate lives,
    /// [`LEAF_LIFE`] where nobody says; in whole seconds, and the same for all nodes that share the authority.
    pub fn open(
        folder: &Path,
        key: Arc<SealKey>,
        app: &Name,
        clock: Arc<dyn Clock>,
        leaf_life: Duration,
    ) -> Result<Arc<Self>, AuthorityError> {
        let path = folder.join(format!("{app}.sealed"));
        let io = |source| AuthorityError::Io { app: app.clone(), path: path.clone(), source };
        durable::make_folder(folder).map_err(io)?;
        durable::sweep(folder).map_err(io)?;
        let damaged = |why: String| AuthorityError::Damaged { app: app.clone(), path: path.clone(), why };
        let roots: Vec<Root> = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => {
                let text = key.open(&purpose(app), &read.map_err(io)?).map_err(|error| damaged(error.to_string()))?;
                serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?
            }
        };
        let trust = Trust::of(roots.iter().map(|root| root.certificate_der.clone().into()))
            .map_err(|error| damaged(error.to_string()))?;
        let begun = roots.is_empty();
        let authority = Arc::new(Self {
            app: app.clone(),
            path,
            key,
            clock,
            leaf_life,
            failures: AtomicU64::new(0),
            roots: Mutex::new(roots),
            trust: RwLock::new(Arc::new(trust)),
        });
        if begun {
            authority.rotate_root()?;
        }
        Ok(authority)
    }

    /// Begins a new root, which signs from now on; the one before is trusted until what it signed has ended.
    pub fn rotate_root(&self) -> Result<(), AuthorityError> {
        let mut roots = self.roots();
        self.rotate(&mut roots)
    }

    fn rotate(&self, roots: &mut Vec<Root>) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        let mut new = roots.clone();
        new.retain(|root| root.forgotten_at.is_none_or(|at| at > now));
        if let Some(last) = new.last_mut() {
            last.forgotten_at = Some(now.plus(self.leaf_life + SKEW));
        }
        new.push(self.new_root(now)?);
        let text = Zeroizing::new(serde_json::to_vec(&new).expect("roots are always JSON"));
        durable::write(&self.path, &self.key.seal(&purpose(&self.app), &text))
            .map_err(|source| AuthorityError::Io { app: self.app.clone(), path: self.path.clone(), source })?;
        let trust = Trust::of(new.iter().map(|root| root.certificate_der.clone().into()))
            .map_err(|error| self.unsigned("its root", &*error))?;
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
        *roots = new;
        Ok(())
    }

    /// The certificates to trust, for other nodes and for people; the last one signs.
    pub fn roots_der(&self) -> Vec<CertificateDer<'static>> {
        self.roots().iter().map(|root| root.certificate_der.clone().into()).collect()
    }

    pub fn app(&self) -> &Name {
        &self.app
    }

    /// How often a root or a service's certificate that was due could not be made.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets `app`'s authority in `folder`: what it signed is trusted by nobody who opens it anew.
    pub fn remove(folder: &Path, app: &Name) -> Result<(), AuthorityError> {
        let path = folder.join(format!("{app}.sealed"));
        let io = |source| AuthorityError::Io { app: app.clone(), path: path.clone(), source };
        durable::remove(&path).map(drop).map_err(io)
    }

    /// A service's way to show who it is; `dns_names` are those it is called by.
    pub fn identity(self: &Arc<Self>, service: &Name, dns_names: Vec<String>) -> Arc<Identity> {
        Arc::new(Identity::new(Arc::clone(self), service.clone(), dns_names))
    }

    /// A new certificate for `service`, and the one that signed it.
    fn issue(&self, service: &Name, dns_names: &[String]) -> Result<Leaf, AuthorityError> {
        let now = self.clock.now();
        let mut roots = self.roots();
        let signing = roots.last().expect("opening makes one");
        if left_third(signing.not_before, signing.not_after) <= now
            && let Err(error) = self.rotate(&mut roots)
        {
            self.failed();
            // There are years left to mend it.
            tracing::error!(app = %self.app, %error, "the authority's root was not rotated; the one before signs on");
        }
        let root = roots.last().expect("opening makes one");
        let unsigned = |error: rcgen::Error| self.unsigned(service, &error);
        let issuer = Issuer::new(
            root_params(&self.app, root.not_before, root.not_after),
            KeyPair::from_pem(root.key_pem.expose()).map_err(unsigned)?,
        );
        let mut params = CertificateParams::new(dns_names.to_vec()).map_err(unsigned)?;
        let uri = spiffe_id(&self.app, service).try_into().map_err(unsigned)?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{service} of {}", self.app));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let not_after = now.plus(self.leaf_life).min(root.not_after);
        dated(&mut params, now, not_after);
        let key = KeyPair::generate().map_err(unsigned)?;
        let certificate = params.signed_by(&key, &issuer).map_err(unsigned)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], der, &default_provider())
            .map_err(|error| self.unsigned(service, &error))?;
        let signed_by = root.not_before;
        let renew_at = left_third(now, not_after);
        Ok(Leaf { certified: Arc::new(certified), not_before: now, renew_at, not_after, signed_by })
    }

    /// Whether `leaf` is still the one to show.
    fn is_current(&self, leaf: &Leaf) -> bool {
        let signs = self.roots().last().expect("opening makes one").not_before;
        self.clock.now() < leaf.renew_at && leaf.signed_by == signs
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn new_root(&self, now: Timestamp) -> Result<Root, AuthorityError> {
        let unsigned = |error: rcgen::Error| self.unsigned("its root", &error);
        let key = KeyPair::generate().map_err(unsigned)?;
        let not_after = now.plus(ROOT_LIFE);
        let certificate = root_params(&self.app, now, not_after).self_signed(&key).map_err(unsigned)?;
        Ok(Root {
            certificate_der: certificate.der().to_vec(),
            key_pem: Secret::new(key.serialize_pem()),
            not_before: now,
            not_after,
            forgotten_at: None,
        })
    }

    fn unsigned(&self, what: impl std::fmt::Display, error: &dyn std::error::Error) -> AuthorityError {
        AuthorityError::Sign { app: self.app.clone(), what: what.to_string(), why: error.to_string() }
    }

    fn roots(&self) -> MutexGuard<'_, Vec<Root>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A service's certificate with its key, in memory alone.
struct Leaf {
    certified: Arc<CertifiedKey>,
    not_before: Timestamp,
    renew_at: Timestamp,
    not_after: Timestamp,
    /// When the root that signed it began.
    signed_by: Timestamp,
}

/// `spiffe://coppice/APP/SERVICE`.
fn spiffe_id(app: &Name, service: &Name) -> String {
    format!("spiffe://coppice/{app}/{service}")
}

fn root_params(app: &Name, not_before: Timestamp, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // The date tells a root from the one after it, also by name.
    params.distinguished_name.push(DnType::CommonName, format!("coppice authority of {app}, {}", not_before.0));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dated(&mut params, not_before, not_after);
    params
}

fn dated(params: &mut CertificateParams, not_before: Timestamp, not_after: Timestamp) {
    let day_zero = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = day_zero + Duration::from_millis(not_before.0).saturating_sub(SKEW);
    params.not_after = day_zero + Duration::from_millis(not_after.0);
}

fn left_third(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    Timestamp(not_after.0 - not_after.since(not_before).as_millis() as u64 / 3)
}

fn purpose(app: &Name) -> String {
    format!("authority/{app}")
}
