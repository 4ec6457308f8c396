//! The proxy by itself, for measurements: `proxy LISTEN BACKEND [THREADS [CERT KEY]]` serves every host `localhost` and
//! `127.0.0.1` from one backend, on LISTEN and, with a certificate, over TLS on the port after it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use coppice_base::Name;
use coppice_proxy::{Backend, Config, Endpoint, Listener, Proxy, Route, Routes, server_config};
use coppice_spec::RouteSpec;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backend, rest @ ..] = &words[..] else {
        return Err("proxy LISTEN BACKEND [THREADS [CERT KEY]]".into());
    };
    let listen: SocketAddr = listen.parse()?;
    let mut config = Config::new(vec![Listener::plain(TcpListener::bind(listen)?)], "measured");
    config.threads = rest.first().map_or(Ok(0), |threads| threads.parse())?;
    if let [_, certificate, key] = rest {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::from_pem_file(key)?)?;
        let settings = server_config(Arc::new(One(Arc::new(CertifiedKey::new(chain, key)))))?;
        let port = SocketAddr::new(listen.ip(), listen.port() + 1);
        config.listeners.push(Listener::tls(TcpListener::bind(port)?));
        config.tls = Some(Arc::new(Arc::new(settings)));
    }
    let proxy = Proxy::start(config)?;
    let mut spec = RouteSpec::of(Name::new("default")?, "localhost");
    spec.hosts.push("127.0.0.1".to_owned());
    let route =
        Route { app: Name::new("bench")?, service: Name::new("web")?, spec, https_only: false, send_proxy: None };
    let instance =
        Endpoint { name: "web-0".to_owned(), address: backend.parse()?, ready: true, draining: false, fresh: false };
    let backend = Backend {
        app: Name::new("bench")?,
        service: Name::new("web")?,
        instances: vec![instance],
        fresh_percent: None,
    };
    proxy.update(&Routes { routes: vec![route], backends: vec![backend] })?;
    loop {
        std::thread::park();
    }
}
