//! What a service shows, and what it demands of others: configurations of TLS that stay good over every rotation.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, SignatureScheme};

use coppice_base::{Clock, Name, Timestamp};
use coppice_spec::PeerTls;

use super::verifier::{PeerVerifier, identify};
use super::{Authority, AuthorityError, Leaf, PeerError, PeerIdentity};

/// A service of an app, able to prove it. See [`Authority`].
pub struct Identity {
    authority: Arc<Authority>,
    service: Name,
    dns_names: Vec<String>,
    leaf: RwLock<Option<Arc<Leaf>>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Identity").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Identity {
    pub(super) fn new(authority: Arc<Authority>, service: Name, dns_names: Vec<String>) -> Self {
        Self { authority, service, dns_names, leaf: RwLock::new(None) }
    }

    /// For calling `service` of the same app, or any of it when `None`. The server must be called by one of its names.
    pub fn client_config(self: &Arc<Self>, service: Option<&Name>) -> Result<ClientConfig, rustls::Error> {
        let mut config = verifying(&self.authority, service)?.with_client_cert_resolver(Arc::<Self>::clone(self));
        // A resumed session would not look at certificates again.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// For being called. `mode`: whether callers must show that they are of this app; with [`PeerTls::Warn`] ask
    /// [`Identity::caller`] after the handshake, and count and log its errors.
    pub fn server_config(self: &Arc<Self>, mode: PeerTls) -> Result<ServerConfig, rustls::Error> {
        let config = ServerConfig::builder_with_details(provider(), time(&self.authority))
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let config = match mode {
            PeerTls::Off => config.with_no_client_auth(),
            mode => {
                let verifier = PeerVerifier::new(Arc::clone(&self.authority), None, mode);
                config.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let mut config = config.with_cert_resolver(Arc::<Self>::clone(self));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// Who called, from what the connection has of certificates after its handshake.
    pub fn caller(
        &self,
        certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>,
    ) -> Result<PeerIdentity, PeerError> {
        let Some([leaf, rest @ ..]) = certificates else { return Err(PeerError::None) };
        identify(&self.authority, leaf, rest, None, unix_time(self.authority.clock.now()))
    }

    /// When the certificate shown now ends; one is made if there is none yet, or when it is time.
    pub fn not_after(&self) -> Result<Timestamp, AuthorityError> {
        self.current().map(|leaf| leaf.not_after)
    }

    /// Whether `authority` signs for it, that very one.
    pub fn is_of(&self, authority: &Arc<Authority>) -> bool {
        Arc::ptr_eq(&self.authority, authority)
    }

    /// When the certificate that was made last was made, and when it ends; `None` before the first. Makes none.
    pub fn dates(&self) -> Option<(Timestamp, Timestamp)> {
        let leaf = self.leaf.read().unwrap_or_else(PoisonError::into_inner);
        leaf.as_ref().map(|leaf| (leaf.not_before, leaf.not_after))
    }

    /// The certificate to show, made anew when it is time; the one before while that fails and it has not ended.
    fn current(&self) -> Result<Arc<Leaf>, AuthorityError> {
        let current = self.leaf.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(leaf) = current.filter(|leaf| self.authority.is_current(leaf)) {
            return Ok(leaf);
        }
        let mut kept = self.leaf.write().unwrap_or_else(PoisonError::into_inner);
        // Another handshake may have been faster.
        if let Some(leaf) = kept.as_ref().filter(|leaf| self.authority.is_current(leaf)) {
            return Ok(Arc::clone(leaf));
        }
        match self.authority.issue(&self.service, &self.dns_names) {
            Ok(leaf) => Ok(Arc::clone(kept.insert(Arc::new(leaf)))),
            Err(error) => {
                self.authority.failed();
                let now = self.authority.clock.now();
                let before = kept.as_ref().filter(|leaf| now < leaf.not_after).ok_or(error)?;
                Ok(Arc::clone(before))
            }
        }
    }

    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        match self.current() {
            Ok(leaf) => Some(Arc::clone(&leaf.certified)),
            Err(error) => {
                tracing::error!(service = %self.service, %error, "a service cannot show who it is");
                None
            }
        }
    }
}

impl Authority {
    /// For calling `service` of this app by somebody who is none of it and shows nothing.
    pub fn stranger_config(self: &Arc<Self>, service: &Name) -> Result<ClientConfig, rustls::Error> {
        let mut config = verifying(self, Some(service))?.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The beginning of a caller's configuration, that takes `service` of the authority's app alone.
fn verifying(
    authority: &Arc<Authority>,
    service: Option<&Name>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let verifier = PeerVerifier::new(Arc::clone(authority), service.cloned(), PeerTls::Require);
    let builder = ClientConfig::builder_with_details(provider(), time(authority))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn time(authority: &Authority) -> Arc<dyn TimeProvider> {
    Arc::new(AppTime(Arc::clone(&authority.clock)))
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The node's clock, as rustls reads it.
struct AppTime(Arc<dyn Clock>);

impl std::fmt::Debug for AppTime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AppTime")
    }
}

impl TimeProvider for AppTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.0))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
