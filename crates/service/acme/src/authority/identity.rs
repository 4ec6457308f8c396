//! What a service shows, and what it demands of others: configurations of TLS that stay good over every rotation.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

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
        let verifier = PeerVerifier::new(Arc::clone(&self.authority), service.cloned(), PeerTls::Require);
        let mut config = ClientConfig::builder_with_details(provider(), self.time())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::<Self>::clone(self));
        // A resumed session would not look at certificates again.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// For being called. `mode`: whether callers must show that they are of this app; with [`PeerTls::Warn`] ask
    /// [`Identity::caller`] after the handshake, and count and log its errors.
    pub fn server_config(self: &Arc<Self>, mode: PeerTls) -> Result<ServerConfig, rustls::Error> {
        let config = ServerConfig::builder_with_details(provider(), self.time())
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

    /// When the certificate shown now ends; one is made if there is none yet.
    pub fn not_after(&self) -> Result<Timestamp, AuthorityError> {
        self.current().map(|leaf| leaf.not_after)
    }

    /// The certificate to show, made anew when it is time.
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
        let leaf = Arc::new(self.authority.issue(&self.service, &self.dns_names)?);
        *kept = Some(Arc::clone(&leaf));
        Ok(leaf)
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

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(AppTime(Arc::clone(&self.authority.clock)))
    }
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
