//! Answers to the challenges of authorities, while an order is under way: tokens over HTTP (RFC 8555, 8.3) and
//! certificates in a TLS handshake (RFC 8737). The proxy asks here; orders put answers in and take them out.
//!
//! Refuses to answer for a name or token no order is under way for.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Begins the paths that authorities ask for over plain HTTP; the token follows.
pub const HTTP_CHALLENGE_PREFIX: &str = "/.well-known/acme-challenge/";

/// See the module.
#[derive(Default)]
pub struct Challenges {
    tokens: RwLock<HashMap<String, String>>,
    certificates: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Challenges(..)")
    }
}

impl Challenges {
    /// The body (`text/plain` or `application/octet-stream`) for [`HTTP_CHALLENGE_PREFIX`] and `token`, if an order
    /// waits for it.
    pub fn response(&self, token: &str) -> Option<String> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// As [`Challenges::response`], from a request's path.
    pub fn response_to_path(&self, path: &str) -> Option<String> {
        self.response(path.strip_prefix(HTTP_CHALLENGE_PREFIX)?)
    }

    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.certificates.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Answers with `text` for `token` until the guard is dropped.
    pub(crate) fn answer_token(self: &Arc<Self>, token: String, text: String) -> Answered {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), text);
        Answered { challenges: Arc::clone(self), what: What::Token(token) }
    }

    /// Answers handshakes for `name` with a certificate that holds `digest`, until the guard is dropped.
    pub(crate) fn answer_handshake(self: &Arc<Self>, name: &str, digest: &[u8]) -> Result<Answered, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // Not `from_der`: it reads the certificate back and refuses the critical extension that is the point of it.
        let key = any_supported_type(&der).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
        let mut certificates = self.certificates.write().unwrap_or_else(PoisonError::into_inner);
        certificates.insert(name.to_owned(), Arc::new(certified));
        Ok(Answered { challenges: Arc::clone(self), what: What::Handshake(name.to_owned()) })
    }
}

/// While it lives, a challenge is answered.
pub(crate) struct Answered {
    challenges: Arc<Challenges>,
    what: What,
}

enum What {
    Token(String),
    Handshake(String),
}

impl Drop for Answered {
    fn drop(&mut self) {
        match &self.what {
            What::Token(token) => {
                self.challenges.tokens.write().unwrap_or_else(PoisonError::into_inner).remove(token);
            }
            What::Handshake(name) => {
                self.challenges.certificates.write().unwrap_or_else(PoisonError::into_inner).remove(name);
            }
        }
    }
}
