//! Connections: resolve, judge the address, connect, TLS, HTTP/1.1; idle ones are used again.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use super::address::Locality;
use super::body::RequestBody;
use super::error::RegistryError;
use crate::store::Settings;

/// One end point: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) https: bool,
    /// Without brackets when it is an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// `host`, `host:port`, `[v6]:port`.
    pub(super) fn new(https: bool, authority: &str) -> Option<Self> {
        let authority: http::uri::Authority = authority.parse().ok()?;
        // User names in an address are a way to mislead readers of messages.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Self { https, host, port })
    }

    /// As the Host header has it.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.https { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether the name itself says that this is our own machine.
    pub(super) fn is_this_machine(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|a| Locality::of(a) == Locality::Loopback)
    }
}

/// Who sent us to an origin, and how local that one is: the bound on where it may send us.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    pub(super) from: String,
    pub(super) locality: Locality,
}

pub(super) struct Connection {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) locality: Locality,
}

/// Opens connections and keeps idle ones, for all operations of a store.
pub(crate) struct Connector {
    settings: Settings,
    tls: OnceLock<tokio_rustls::TlsConnector>,
    idle: Mutex<HashMap<Origin, Vec<Connection>>>,
}

/// Idle connections kept for one origin.
const IDLE_MAX: usize = 8;

impl Connector {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), tls: OnceLock::new(), idle: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// An idle connection or a new one. `pointer`: who sent us there, unless it is the registry itself.
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        pointer: Option<&Pointer>,
    ) -> Result<Connection, RegistryError> {
        if let Some(connection) = self.take_idle(origin, pointer) {
            return Ok(connection);
        }
        let host = origin.authority();
        let work = self.open(origin, pointer);
        match tokio::time::timeout(self.settings.transfer.connect, work).await {
            Ok(result) => result,
            Err(_) => Err(RegistryError::Connect { host, source: io::ErrorKind::TimedOut.into() }),
        }
    }

    /// Gives a connection back. Its last response may still be under way: it is used again when that is over.
    pub(super) fn give_back(&self, origin: &Origin, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let list = idle.entry(origin.clone()).or_default();
        list.retain(|c| !c.sender.is_closed());
        if list.len() < IDLE_MAX {
            list.push(connection);
        }
    }

    fn take_idle(&self, origin: &Origin, pointer: Option<&Pointer>) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let list = idle.get_mut(origin)?;
        list.retain(|c| !c.sender.is_closed());
        let allowed = |c: &Connection| pointer.is_none_or(|p| p.locality.may_point_to(c.locality));
        let at = list.iter().position(|c| c.sender.is_ready() && allowed(c))?;
        Some(list.swap_remove(at))
    }

    async fn open(&self, origin: &Origin, pointer: Option<&Pointer>) -> Result<Connection, RegistryError> {
        let host = origin.authority();
        let failed = |source| RegistryError::Connect { host: host.clone(), source };
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((origin.host.as_str(), origin.port)).await.map_err(failed)?.collect();
        let mut last = None;
        for address in addresses {
            let locality = Locality::of(address.ip());
            if let Some(pointer) = pointer
                && !pointer.locality.may_point_to(locality)
            {
                last = Some(RegistryError::LocalAddress {
                    from: pointer.from.clone(),
                    host: host.clone(),
                    address: address.ip(),
                });
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Requests are small and waited for.
                    stream.set_nodelay(true).map_err(failed)?;
                    let sender = self.handshake(origin, stream).await?;
                    return Ok(Connection { sender, locality });
                }
                Err(error) => last = Some(failed(error)),
            }
        }
        Err(last.unwrap_or_else(|| failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))))
    }

    async fn handshake(&self, origin: &Origin, stream: TcpStream) -> Result<SendRequest<RequestBody>, RegistryError> {
        let host = origin.authority();
        if !origin.https {
            return start(stream, &host).await;
        }
        let tls_failed = |source| RegistryError::Tls { host: host.clone(), source };
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|_| tls_failed(io::Error::new(io::ErrorKind::InvalidInput, "the host name is not valid")))?;
        let connector = self.tls(&host).map_err(tls_failed)?;
        let stream = connector.connect(name, stream).await.map_err(tls_failed)?;
        start(stream, &host).await
    }

    /// The connector every registry has, or one with a registry's own authorities.
    fn tls(&self, host: &str) -> io::Result<tokio_rustls::TlsConnector> {
        let own = own_authorities(&self.settings.certificate_dirs, host)?;
        if !own.is_empty() {
            return self.trusting(own);
        }
        if let Some(connector) = self.tls.get() {
            return Ok(connector.clone());
        }
        let connector = self.trusting(Vec::new())?;
        Ok(self.tls.get_or_init(|| connector).clone())
    }

    /// Trusts the system's authorities, the extra roots, and these.
    fn trusting(&self, own: Vec<CertificateDer<'static>>) -> io::Result<tokio_rustls::TlsConnector> {
        let mut roots = rustls::RootCertStore::empty();
        // Certificates that do not parse are the system's business; without any, connections fail with a clear word.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for path in &self.settings.extra_roots {
            for certificate in read_pem(path)? {
                roots.add(certificate).map_err(io::Error::other)?;
            }
        }
        for certificate in own {
            roots.add(certificate).map_err(io::Error::other)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config).into())
    }
}

/// The certificates in `<dir>/<host>/*.crt`; a directory that is not there has none.
fn own_authorities(dirs: &[PathBuf], host: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut own = Vec::new();
    for dir in dirs {
        let Ok(entries) = std::fs::read_dir(dir.join(host)) else { continue };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "crt")) {
            own.append(&mut read_pem(file)?);
        }
    }
    Ok(own)
}

fn read_pem(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let failed = |error| io::Error::other(format!("certificate {}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed)
}

async fn start<S>(stream: S, host: &str) -> Result<SendRequest<RequestBody>, RegistryError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| RegistryError::Broken { host: host.to_owned(), source: Box::new(source) };
    let (sender, connection) =
        Builder::new().max_buf_size(512 << 10).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when the sender and the last response are dropped, or the peer hangs up; failures reach the response.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
