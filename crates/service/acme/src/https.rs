//! Requests to authorities and DNS providers: one connection each, bounded in time and size.
//!
//! A few requests an order do not pay for a pool, and a fresh connection never meets one that the other side has
//! closed. Trusts the machine's authorities and those added. Refuses plain HTTP to anything but this machine: what is
//! sent are credentials. Follows no redirect.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Answers longer than this are refused; a chain of certificates has some 10 kB.
const MOST_BODY_BYTES: usize = 1 << 20;

/// Why a request was not answered. Whether the other side acted on it is not known, unless it was never sent.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    #[error("\"{url}\" is no address to ask: {why}; give https://HOST/…")]
    Address { url: String, why: &'static str },
    #[error("cannot reach {host}: {source}; check the machine's network, DNS and firewall")]
    Connect { host: String, source: std::io::Error },
    #[error(
        "{host} is not trusted or does not speak TLS: {source}; for an authority of your own, add its root certificate"
    )]
    Tls { host: String, source: std::io::Error },
    #[error("{host} did not answer within {} s", .within.as_secs_f32())]
    Slow { host: String, within: Duration },
    #[error("{host} broke off: {why}")]
    Broken { host: String, why: String },
    #[error("{host} answered with more than {MOST_BODY_BYTES} bytes")]
    Large { host: String },
    #[error("a root certificate to trust is not PEM: {why}")]
    Root { why: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// See the module. Clones share the configuration.
#[derive(Clone)]
pub struct Https {
    tls: TlsConnector,
    within: Duration,
    /// To others than this machine, too.
    plain: bool,
}

impl Https {
    /// `extra_roots`: PEM certificates trusted beside the machine's. `within`: for one request with its answer.
    pub fn new(extra_roots: &[String], within: Duration) -> Result<Self, HttpsError> {
        let mut roots = RootCertStore::empty();
        // What the machine's store has that we cannot read is not trusted; that is all.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for pem in extra_roots {
            for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let der = der.map_err(|error| HttpsError::Root { why: error.to_string() })?;
                roots.add(der)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(tls)), within, plain: false })
    }

    /// Speaks plain HTTP to any address that says so: for what is sent where the operator said, in the operator's own
    /// network.
    pub fn with_plain(self) -> Self {
        Self { plain: true, ..self }
    }

    /// Sends `request`, whose URI is absolute, and collects the answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpsError> {
        let target = Target::of(request.uri(), self.plain)?;
        let host = target.host.clone();
        match tokio::time::timeout(self.within, self.exchange(request, target)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpsError::Slow { host, within: self.within }),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, target: Target) -> Result<Response<Bytes>, HttpsError> {
        let host = target.host.clone();
        let tcp = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(|source| HttpsError::Connect { host: host.clone(), source })?;
        if !target.secure {
            return speak(tcp, request, host).await;
        }
        let name = ServerName::try_from(target.host)
            .map_err(|_| HttpsError::Address { url: host.clone(), why: "its host is no name TLS knows" })?;
        let stream =
            self.tls.connect(name, tcp).await.map_err(|source| HttpsError::Tls { host: host.clone(), source })?;
        speak(stream, request, host).await
    }
}

async fn speak<S>(stream: S, mut request: Request<Full<Bytes>>, host: String) -> Result<Response<Bytes>, HttpsError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| HttpsError::Broken { host: host.clone(), why: error.to_string() };
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let wrong = |why| HttpsError::Address { url: format!("{authority}{path}"), why };
    if !request.headers().contains_key(header::HOST) {
        let value = authority.parse().map_err(|_| wrong("its host is no header"))?;
        request.headers_mut().insert(header::HOST, value);
    }
    *request.uri_mut() = path.parse().map_err(|_| wrong("its path is none"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection is driven here and not by a task of its own, so that a cancelled request leaves nothing running.
    let exchange = async {
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body =
            Limited::new(body, MOST_BODY_BYTES).collect().await.map_err(|error| match error
                .downcast::<http_body_util::LengthLimitError>(
            ) {
                Ok(_) => HttpsError::Large { host: host.clone() },
                Err(error) => HttpsError::Broken { host: host.clone(), why: error.to_string() },
            })?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        _ended = connection => exchange.await,
    }
}

struct Target {
    host: String,
    port: u16,
    secure: bool,
}

impl Target {
    fn of(uri: &Uri, plain: bool) -> Result<Self, HttpsError> {
        let wrong = |why| HttpsError::Address { url: uri.to_string(), why };
        let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if plain => false,
            Some("http") if host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()) => false,
            Some("http") => return Err(wrong("plain HTTP is for addresses of this machine alone")),
            _ => return Err(wrong("it has no scheme we speak")),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { host, port, secure })
    }
}

/// The ACME client's way to the network. Keeps what `Retry-After` the authority last gave with an error, which the
/// client itself drops.
#[derive(Clone)]
pub(crate) struct AcmeTransport {
    https: Https,
    retry_after: Arc<Mutex<Option<RetryAfter>>>,
}

/// An authority's word on when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    Seconds(u64),
    /// Seconds since 1970.
    At(u64),
}

impl AcmeTransport {
    pub(crate) fn new(https: Https) -> Self {
        Self { https, retry_after: Arc::default() }
    }

    /// What the last error said, once.
    pub(crate) fn take_retry_after(&self) -> Option<RetryAfter> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, instant_acme::Error> {
        let other = |error: HttpsError| instant_acme::Error::Other(Box::new(error));
        let (parts, body) = request.into_parts();
        // The wrapper's body cannot fail.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let answer = self.https.send(Request::from_parts(parts, Full::new(body))).await.map_err(other)?;
        if answer.status().is_client_error() || answer.status().is_server_error() {
            let given = answer.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = given;
        }
        Ok(BytesResponse::from(answer.map(Full::new)))
    }
}

impl HttpClient for AcmeTransport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

/// `120` or `Fri, 31 Dec 1999 23:59:59 GMT` (RFC 9110, 10.2.3).
fn retry_after(value: &str) -> Option<RetryAfter> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(RetryAfter::Seconds(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_second();
    Some(RetryAfter::At(u64::try_from(at).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_read() {
        assert_eq!(retry_after("120"), Some(RetryAfter::Seconds(120)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(RetryAfter::At(946_684_799)));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn plain_http_goes_to_this_machine_alone_unless_it_is_allowed() {
        assert!(Target::of(&Uri::from_static("http://10.0.0.1:4318/v1"), true).is_ok_and(|target| !target.secure));
        assert!(Target::of(&Uri::from_static("http://127.0.0.1:8055/dir"), false).is_ok());
        assert!(Target::of(&Uri::from_static("http://[::1]/dir"), false).is_ok());
        for url in ["http://example.org/dir", "http://localhost.example/dir", "http://10.0.0.1/dir", "/dir"] {
            assert!(Target::of(&url.parse().expect("uri"), false).is_err(), "{url}");
        }
        assert_eq!(Target::of(&Uri::from_static("https://example.org/dir"), false).expect("secure").port, 443);
    }
}
