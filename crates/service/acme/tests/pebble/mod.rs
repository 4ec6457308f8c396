//! A real authority for a test: Pebble, its DNS server, and the ports on which it looks for answers. Everything on
//! loopback, on ports of its own, gone when dropped.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coppice_acme::{
    ACME_TLS_ALPN, Certificates, CertificatesConfig, Challenges, DemandLimits, Lookup, OrderSettings, Resolver,
};
use coppice_base::random::Seeded;
use coppice_base::{Clock, Random, SystemClock, SystemRandom, Timestamp};
use coppice_spec::{AcmeChallenge, AcmeDirectory, AcmeSpec, DnsProvider, DnsProviderKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// For anything that happens by itself. Long: the machine may be busy building.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pebble {
    children: Vec<Child>,
    folder: tempfile::TempDir,
    directory_port: u16,
    http_port: u16,
    tls_port: u16,
    dns_port: u16,
    dns_management: u16,
    root_pem: String,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pebble {
    /// `rejected`: percent of good nonces it refuses.
    pub(crate) fn start(rejected: u8) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let [directory_port, management, http_port, tls_port, dns_management, dns_port] = free_ports();
        let root_pem = web_certificate(folder.path());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{directory_port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": folder.path().join("web.pem"), "privateKey": folder.path().join("web.key"),
            "httpPort": http_port, "tlsPort": tls_port, "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        std::fs::write(folder.path().join("pebble.json"), config.to_string()).expect("config");
        let log = std::fs::File::create(folder.path().join("pebble.log")).expect("log");
        let dns = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"])
            .args(["-dns01", &format!("127.0.0.1:{dns_port}")])
            .args(["-management", &format!("127.0.0.1:{dns_management}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble-challtestsrv is installed (apt-get install pebble)");
        let pebble = Command::new("pebble")
            .args(["-dnsserver", &format!("127.0.0.1:{dns_port}")])
            .arg("-config")
            .arg(folder.path().join("pebble.json"))
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", rejected.to_string())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("pebble is installed (apt-get install pebble)");
        let children = vec![dns, pebble];
        let started =
            Self { children, folder, directory_port, http_port, tls_port, dns_port, dns_management, root_pem };
        for port in [directory_port, dns_management] {
            until("Pebble listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
        started
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.directory_port)
    }

    /// Certificates it has made.
    pub(crate) fn issued(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("pebble.log")).unwrap_or_default();
        log.matches("Issued certificate serial").count()
    }

    pub(crate) fn acme(&self, challenge: AcmeChallenge) -> AcmeSpec {
        acme(&self.directory(), challenge)
    }

    /// The PEM file to trust for the directory.
    pub(crate) fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Where it asks for HTTP-01.
    pub(crate) fn http_port(&self) -> u16 {
        self.http_port
    }

    /// DNS-01 through a program that tells Pebble's DNS server, and writes what it was asked into [`Pebble::hook_log`].
    pub(crate) fn hook(&self) -> AcmeChallenge {
        let script = format!(
            "echo \"$COPPICE_ACME_ACTION $COPPICE_ACME_DOMAIN $COPPICE_ACME_RECORD $COPPICE_ACME_CHALLENGE \
             $COPPICE_ACME_DIRECTORY_URL\" >> {log}\n\
             if [ $COPPICE_ACME_ACTION = present ]; then what=set-txt; else what=clear-txt; fi\n\
             curl -sf -d \"{{\\\"host\\\":\\\"$COPPICE_ACME_RECORD.\\\",\\\"value\\\":\\\"$COPPICE_ACME_VALUE\\\"}}\" \
             http://127.0.0.1:{port}/$what\n",
            log = self.folder.path().join("hook.log").display(),
            port = self.dns_management,
        );
        let path = self.folder.path().join("hook.sh");
        std::fs::write(&path, script).expect("hook");
        AcmeChallenge::Dns01(DnsProvider {
            kind: DnsProviderKind::Exec,
            secrets: BTreeMap::new(),
            config: BTreeMap::new(),
            hook: vec!["/bin/sh".to_owned(), path.display().to_string()],
            propagation_timeout_secs: 30,
            poll_interval_secs: 1,
        })
    }

    pub(crate) fn hook_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("hook.log")).unwrap_or_default()
    }

    pub(crate) fn dns(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.dns_port).into()
    }

    pub(crate) fn config(&self, root: &Path, clock: Arc<dyn Clock>) -> CertificatesConfig {
        config(root, clock, self.dns(), self.root_pem.clone())
    }

    /// Answers Pebble over plain HTTP from what `answers` has at that moment.
    pub(crate) fn serve_http(&self, answers: Answers) {
        serve_http(self.http_port, answers);
    }

    /// Serves TLS with `resolver` where Pebble looks for TLS-ALPN-01, and clients for certificates.
    pub(crate) fn serve_tls(&self, resolver: Arc<Resolver>) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec(), ACME_TLS_ALPN.to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let address: SocketAddr = ([127, 0, 0, 1], self.tls_port).into();
        let listener = TcpListener::bind(address).expect("the TLS port is ours");
        listener.set_nonblocking(true).expect("nonblocking");
        let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        address
    }

    /// Certificates that answer HTTP-01.
    pub(crate) fn certificates(&self, root: &Path, clock: Arc<dyn Clock>) -> Certificates {
        let certificates = Certificates::start(self.config(root, clock)).expect("start");
        self.serve_http(answers(&certificates));
        certificates
    }
}

pub(crate) fn acme(directory: &str, challenge: AcmeChallenge) -> AcmeSpec {
    let directory = AcmeDirectory::Url(directory.to_owned());
    AcmeSpec { email: "admin@test.example".to_owned(), directory, challenge, on_demand: false }
}

pub(crate) fn config(root: &Path, clock: Arc<dyn Clock>, dns: SocketAddr, root_pem: String) -> CertificatesConfig {
    CertificatesConfig {
        folder: root.join("certificates"),
        key_file: root.join("keys/certificates.key"),
        extra_roots: vec![root_pem],
        request_within: PATIENCE,
        order: OrderSettings { within: PATIENCE, propagation: Lookup { resolvers: vec![dns], name_server_port: None } },
        demand: DemandLimits::default(),
        routed: Arc::new(|name| name.ends_with(".routed.example")),
        default_domain: None,
        clock,
        random: Box::new(Seeded::new(7)),
    }
}

/// Answers on `port` of this machine from what `answers` has at that moment.
pub(crate) fn serve_http(port: u16, answers: Answers) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the HTTP port is ours");
    listener.set_nonblocking(true).expect("nonblocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let body = answers.lock().expect("lock").as_ref().and_then(|found| found.response_to_path(path));
                let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
                let body = body.unwrap_or_default();
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
}

/// Who answers over HTTP now; `None`: nobody.
pub(crate) type Answers = Arc<Mutex<Option<Arc<Challenges>>>>;

pub(crate) fn answers(certificates: &Certificates) -> Answers {
    Arc::new(Mutex::new(Some(certificates.challenges())))
}

/// A clock the test moves, beside the real one.
#[derive(Default)]
pub(crate) struct MovedClock(AtomicU64);

impl MovedClock {
    pub(crate) fn ahead(&self, by: Duration) {
        self.0.store(u64::try_from(by.as_millis()).expect("fits"), Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }
}

/// The leaf that a server shows for `name`, and nothing of whether it is to be trusted.
pub(crate) async fn shown(address: SocketAddr, name: &str) -> Option<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAny))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(address).await.expect("connect");
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("name");
    let stream = connector.connect(name, stream).await.ok()?;
    let certificates = stream.get_ref().1.peer_certificates()?;
    Some(certificates[0].to_vec())
}

#[derive(Debug)]
struct TakesAny;

impl rustls::client::danger::ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Waits, but not for ever.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// As [`until`], letting other tasks run.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ports nobody listens on, below those the kernel gives to outgoing connections: between our look and the server's
/// bind none of these takes them.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let mut held = Vec::new();
    while held.len() < COUNT {
        let port = u16::try_from(10_000 + SystemRandom.below(20_000)).expect("fits");
        // Free for both, since DNS takes both.
        if let (Ok(tcp), Ok(udp)) = (TcpListener::bind(("127.0.0.1", port)), UdpSocket::bind(("127.0.0.1", port))) {
            held.push((port, tcp, udp));
        }
    }
    std::array::from_fn(|number| held[number].0)
}

/// Writes `web.pem` and `web.key` for 127.0.0.1; returns the root that signed them.
fn web_certificate(folder: &Path) -> String {
    let root_key = rcgen::KeyPair::generate().expect("key");
    let mut root = rcgen::CertificateParams::new(Vec::new()).expect("params");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = root.self_signed(&root_key).expect("root").pem();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = rcgen::KeyPair::generate().expect("key");
    let web = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("params");
    let web = web.signed_by(&key, &issuer).expect("certificate");
    let path = |name: &str| -> PathBuf { folder.join(name) };
    std::fs::write(path("root.pem"), &pem).expect("root");
    std::fs::write(path("web.pem"), web.pem()).expect("certificate");
    std::fs::write(path("web.key"), key.serialize_pem()).expect("key");
    pem
}
