//! Whether a certificate is one of a service of this app: signed by a root of the app's authority that is trusted now,
//! within its dates, and named `spiffe://coppice/APP/SERVICE`.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use coppice_base::Name;
use coppice_spec::PeerTls;

use super::Authority;

/// A service of this app that proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub app: Name,
    pub service: String,
}

/// Why a caller is not known to be of this app.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("it showed no certificate; set tls.peer on the calling service's node, or call through it")]
    None,
    #[error("its certificate is not of the authority of {app}, or not of now: {why}")]
    Untrusted { app: Name, why: String },
    #[error("its certificate names {found}, not {wanted}")]
    Named { found: String, wanted: String },
}

/// The roots trusted now, ready to verify with.
pub(super) struct Trust {
    client: Option<Arc<dyn ClientCertVerifier>>,
    server: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust {
    pub(super) fn of(
        certificates: impl Iterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate)?;
        }
        if roots.is_empty() {
            return Ok(Self { client: None, server: None });
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let server = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
        Ok(Self { client: Some(client), server: Some(server) })
    }
}

/// Who holds `leaf`, if the authority vouches for it at `now`. `service`: the only one that will do.
pub(super) fn identify(
    authority: &Authority,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    service: Option<&Name>,
    now: UnixTime,
) -> Result<PeerIdentity, PeerError> {
    let app = authority.app();
    let untrusted = |why: String| PeerError::Untrusted { app: app.clone(), why };
    let trust = authority.trust();
    let verifier = trust.client.as_ref().ok_or_else(|| untrusted("there is no root".to_owned()))?;
    verifier.verify_client_cert(leaf, rest, now).map_err(|error| untrusted(error.to_string()))?;
    named(app, leaf, service)
}

fn named(app: &Name, leaf: &CertificateDer<'_>, service: Option<&Name>) -> Result<PeerIdentity, PeerError> {
    let wanted = format!("spiffe://coppice/{app}/{}", service.map_or("…", Name::as_str));
    let Some(found) = spiffe_name(leaf) else {
        return Err(PeerError::Named { found: "no service".to_owned(), wanted });
    };
    let prefix = format!("spiffe://coppice/{app}/");
    match found.strip_prefix(&prefix) {
        Some(holder) if !holder.contains('/') && service.is_none_or(|service| service.as_str() == holder) => {
            Ok(PeerIdentity { app: app.clone(), service: holder.to_owned() })
        }
        _ => Err(PeerError::Named { found, wanted }),
    }
}

/// The one URI of a certificate; SPIFFE forbids more.
fn spiffe_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let one = uris.next()?;
    uris.next().is_none().then_some(one)
}

pub(super) struct PeerVerifier {
    authority: Arc<Authority>,
    service: Option<Name>,
    mode: PeerTls,
}

impl std::fmt::Debug for PeerVerifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PeerVerifier").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl PeerVerifier {
    pub(super) fn new(authority: Arc<Authority>, service: Option<Name>, mode: PeerTls) -> Self {
        Self { authority, service, mode }
    }
}

fn refused(error: &PeerError) -> Error {
    match error {
        PeerError::Untrusted { .. } | PeerError::None => Error::InvalidCertificate(CertificateError::UnknownIssuer),
        PeerError::Named { .. } => Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of roots would go stale with a rotation; a service has one certificate anyhow.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mode == PeerTls::Require
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match identify(&self.authority, leaf, rest, self.service.as_ref(), now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            // Taken, and told by `Identity::caller`.
            Err(_) if self.mode == PeerTls::Warn => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(refused(&error)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = self.authority.trust();
        let verifier = trust.server.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_server_cert(leaf, rest, name, ocsp, now)?;
        named(self.authority.app(), leaf, self.service.as_ref()).map_err(|error| refused(&error))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(self)
    }
}
