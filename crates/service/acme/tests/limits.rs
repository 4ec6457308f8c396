//! What authorities ask of their clients: to stay away for a while. By servers made for the purpose, since Pebble has
//! no limits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coppice_acme::{Certificates, CertificatesConfig, DemandLimits, Lookup, OrderError, OrderSettings, ProvisionError};
use coppice_base::random::Seeded;
use coppice_base::{Clock, SystemClock, Timestamp};
use coppice_spec::{AcmeChallenge, AcmeDirectory, AcmeSpec, PeerTls, TlsSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A directory whose `newAccount` answers with `answer`; counts how often.
async fn authority(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let (address, asked) = (listener.local_addr().expect("address"), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let answer = match text.split(' ').nth(1) {
                Some("/dir") => {
                    let at = |path: &str| format!("http://{address}/{path}");
                    let body = serde_json_text(&[
                        ("newNonce", at("nonce")),
                        ("newAccount", at("account")),
                        ("newOrder", at("order")),
                        ("revokeCert", at("revoke")),
                        ("keyChange", at("key")),
                    ]);
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                }
                Some("/nonce") => "HTTP/1.1 200 OK\r\nreplay-nonce: abc\r\ncontent-length: 0\r\n\r\n".to_owned(),
                _ => {
                    count.fetch_add(1, Ordering::SeqCst);
                    answer.to_owned()
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked)
}

fn serde_json_text(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("\"{key}\":\"{value}\"")).collect();
    format!("{{{}}}", pairs.join(","))
}

fn certificates(root: &Path) -> Certificates {
    Certificates::start(CertificatesConfig {
        folder: root.join("certificates"),
        key_file: root.join("certificates.key"),
        extra_roots: Vec::new(),
        request_within: Duration::from_secs(30),
        order: OrderSettings { within: Duration::from_secs(30), propagation: Lookup::default() },
        demand: DemandLimits::default(),
        routed: Arc::new(|_| true),
        default_domain: None,
        clock: Arc::new(SystemClock),
        random: Box::new(Seeded::new(1)),
    })
    .expect("start")
}

fn acme(address: SocketAddr) -> AcmeSpec {
    AcmeSpec {
        email: "a@test.example".to_owned(),
        directory: AcmeDirectory::Url(format!("http://{address}/dir")),
        challenge: AcmeChallenge::Http01,
        on_demand: false,
    }
}

#[tokio::test]
async fn an_authority_that_limits_us_is_left_alone_as_long_as_it_says_for_all_its_names() {
    let (address, asked) = authority(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7200\r\nconnection: close\r\n\r\n\
         {\"type\":\"urn:ietf:params:acme:error:rateLimited\",\"detail\":\"too many orders: 5 now\"}",
    )
    .await;
    let root = tempfile::tempdir().expect("root");
    let certificates = certificates(root.path());
    let error = certificates.provision("a.test.example", acme(address)).await.expect_err("limited");
    let ProvisionError::Order(order) = &error else { panic!("{error}") };
    let OrderError::RateLimited { until: Some(until), .. } = &**order else { panic!("{error}") };
    let two_hours = SystemClock.now().plus(Duration::from_secs(7200));
    assert!(*until <= two_hours && *until > Timestamp(two_hours.0 - 60_000), "{error}");
    assert!(certificates.setbacks()["a.test.example"].until >= *until);
    // Another name, asked for by hand.
    let error = certificates.provision("b.test.example", acme(address)).await.expect_err("limited");
    assert!(matches!(error, ProvisionError::Limited { .. }), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it was not asked again");
}

#[tokio::test]
async fn an_authority_that_answers_with_a_web_page_is_told_as_such() {
    let (address, _) =
        authority("HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 15\r\n\r\n<html>no</html>")
            .await;
    let root = tempfile::tempdir().expect("root");
    let certificates = certificates(root.path());
    let error = certificates.provision("a.test.example", acme(address)).await.expect_err("no JSON");
    let ProvisionError::Order(order) = &error else { panic!("{error}") };
    assert!(matches!(**order, OrderError::Nonsense { until: Some(_), .. }), "{error}");
}

#[tokio::test]
async fn what_a_manifest_wants_is_not_removed_and_an_installed_certificate_is_not_renewed() {
    let root = tempfile::tempdir().expect("root");
    let certificates = certificates(root.path());
    let made = rcgen::generate_simple_self_signed(vec!["own.test.example".to_owned()]).expect("made");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let record = certificates.install(None, &chain, &key).expect("installed");
    assert_eq!((record.domain.as_str(), record.managed), ("own.test.example", false));
    assert!(certificates.resolver().find("own.test.example").is_some(), "shown at once");
    assert!(matches!(certificates.renew("own.test.example").await, Err(ProvisionError::NotManaged { .. })));
    // An authority nobody listens for: the name is wanted, and has no certificate of it yet.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let tls = TlsSpec {
        domains: vec!["own.test.example".to_owned()],
        acme: Some(acme(closed)),
        peer: PeerTls::Off,
        redirect: false,
    };
    certificates.want([&tls]);
    assert!(matches!(certificates.remove("own.test.example"), Err(ProvisionError::Wanted { .. })));
    certificates.want([]);
    certificates.remove("own.test.example").expect("removed");
    assert!(certificates.resolver().find("own.test.example").is_none());
    assert!(certificates.list().is_empty());
}
