//! TLS of clients: which settings a connection gets is asked when its ClientHello is known.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;

/// What a client says of itself before it is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientName {
    /// SNI, in lower case.
    pub server_name: Option<String>,
    /// It is an authority that validates TLS-ALPN-01 (RFC 8737).
    pub acme: bool,
}

/// Gives each connection its settings: certificate, protocols, client certificates.
pub trait TlsSettings: Send + Sync {
    /// `None` refuses the connection. May take its time (a certificate is ordered when its name is first asked for), within
    /// [`crate::Limits::header_timeout`].
    fn settings(&self, client: ClientName) -> Pin<Box<dyn Future<Output = Option<Arc<ServerConfig>>> + Send + '_>>;
}

/// The same settings for everyone; a resolver in them may still choose the certificate.
impl TlsSettings for Arc<ServerConfig> {
    fn settings(&self, _client: ClientName) -> Pin<Box<dyn Future<Output = Option<Arc<ServerConfig>>> + Send + '_>> {
        Box::pin(std::future::ready(Some(Self::clone(self))))
    }
}

/// Protocol of a TLS-ALPN-01 validation.
pub(crate) const ACME: &[u8] = b"acme-tls/1";

/// Settings with the proxy's protocols, session tickets and the certificates of `resolver`. Fails when the random source
/// does, or ring lacks a version of TLS.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> io::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME.to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(io::Error::other)?;
    // One ticket is enough to resume; each more is a record and a signature's worth of work.
    config.send_tls13_tickets = 1;
    Ok(config)
}
