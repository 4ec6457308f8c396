//! Encryption between the services of an app, over real handshakes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coppice_acme::{Authority, Identity, LEAF_LIFE, PeerError, PeerIdentity, ROOT_LIFE, SealKey};
use coppice_base::{Clock, Name, SystemClock, Timestamp};
use coppice_spec::PeerTls;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A clock the test moves ahead of the real one.
#[derive(Default)]
struct MovedClock(AtomicU64);

impl MovedClock {
    fn ahead(&self, by: Duration) {
        self.0.store(u64::try_from(by.as_millis()).expect("fits"), Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }
}

fn name(name: &str) -> Name {
    name.parse().expect("a name")
}

fn authority(root: &Path, app: &str, clock: Arc<dyn Clock>) -> Arc<Authority> {
    let folder = root.join("certificates");
    let key = SealKey::of_folder(&root.join("seal.key"), &folder).expect("key");
    Authority::open(&folder.join("authority"), Arc::new(key), &name(app), clock, LEAF_LIFE).expect("authority")
}

fn service(authority: &Arc<Authority>, service: &str) -> Arc<Identity> {
    authority.identity(&name(service), vec![service.to_owned()])
}

struct Met {
    caller: Result<PeerIdentity, PeerError>,
    server_leaf: Vec<u8>,
}

/// A handshake and a byte each way. The caller's error, or else the server's, is what stopped it.
async fn meet(
    server: &Arc<Identity>,
    mode: PeerTls,
    client: rustls::ClientConfig,
    called: &str,
) -> Result<Met, String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(Arc::new(server.server_config(mode).expect("server config")));
    let name = ServerName::try_from(called.to_owned()).expect("name");
    let serve = async {
        let mut stream = acceptor.accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(server.caller(stream.get_ref().1.peer_certificates()))
    };
    let call = async {
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, near).await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.get_ref().1.peer_certificates().expect("shown")[0].to_vec())
    };
    let (served, called) = tokio::join!(serve, call);
    Ok(Met { caller: served?, server_leaf: called? })
}

/// Trusts the app's roots as they are now and no others; shows nothing.
fn without_certificate(authority: &Authority) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for root in authority.roots_der() {
        roots.add(root).expect("root");
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn services_of_an_app_know_each_other_and_nobody_else_is_taken() {
    let root = tempfile::tempdir().expect("root");
    let app = authority(root.path(), "shop", Arc::new(SystemClock));
    let other = authority(root.path(), "other", Arc::new(SystemClock));
    let (web, db) = (service(&app, "web"), service(&app, "db"));
    let met =
        meet(&db, PeerTls::Require, web.client_config(Some(&name("db"))).expect("client"), "db").await.expect("met");
    assert_eq!(met.caller, Ok(PeerIdentity { app: name("shop"), service: "web".to_owned() }));
    let none = meet(&db, PeerTls::Require, without_certificate(&app), "db").await;
    assert!(none.is_err(), "a caller without a certificate");
    let stranger = service(&other, "web");
    let refused = meet(&db, PeerTls::Require, stranger.client_config(None).expect("client"), "db").await;
    assert!(refused.is_err(), "a caller of another app");
    let refused = meet(&service(&other, "db"), PeerTls::Off, web.client_config(None).expect("client"), "db").await;
    assert!(refused.is_err(), "a server of another app");
    let refused = meet(&db, PeerTls::Off, web.client_config(Some(&name("cache"))).expect("client"), "db").await;
    assert!(refused.is_err(), "another service than the one meant");
    let refused = meet(&db, PeerTls::Off, web.client_config(None).expect("client"), "cache").await;
    assert!(refused.is_err(), "a name the server is not called by");
}

#[tokio::test]
async fn with_warn_a_caller_without_a_certificate_or_of_another_app_is_taken_and_told() {
    let root = tempfile::tempdir().expect("root");
    let app = authority(root.path(), "shop", Arc::new(SystemClock));
    let other = authority(root.path(), "other", Arc::new(SystemClock));
    let db = service(&app, "db");
    let met = meet(&db, PeerTls::Warn, without_certificate(&app), "db").await.expect("taken");
    assert_eq!(met.caller, Err(PeerError::None));
    // It trusts the app's root, but shows its own app's certificate.
    let mut stranger = without_certificate(&app);
    stranger.client_auth_cert_resolver = service(&other, "web");
    let met = meet(&db, PeerTls::Warn, stranger, "db").await.expect("taken");
    assert!(matches!(met.caller, Err(PeerError::Untrusted { .. })), "{:?}", met.caller);
    let met = meet(&db, PeerTls::Off, without_certificate(&app), "db").await.expect("not asked");
    assert_eq!(met.caller, Err(PeerError::None));
    let met = meet(&db, PeerTls::Warn, app.stranger_config(&name("db")).expect("client"), "db").await.expect("taken");
    assert_eq!(met.caller, Err(PeerError::None));
    let refused = meet(&db, PeerTls::Require, app.stranger_config(&name("db")).expect("client"), "db").await;
    assert!(refused.is_err(), "a stranger");
    let cheated = meet(&db, PeerTls::Warn, app.stranger_config(&name("web")).expect("client"), "db").await;
    assert!(cheated.is_err(), "another service than the stranger means");
}

#[tokio::test]
async fn a_service_s_certificate_is_made_anew_at_a_third_of_its_life_with_the_same_configuration() {
    let root = tempfile::tempdir().expect("root");
    let clock = Arc::new(MovedClock::default());
    let app = authority(root.path(), "shop", Arc::<MovedClock>::clone(&clock));
    let (web, db) = (service(&app, "web"), service(&app, "db"));
    let client = web.client_config(None).expect("client");
    let mut shown = Vec::new();
    for ahead in [Duration::ZERO, LEAF_LIFE / 2, LEAF_LIFE / 3 * 2 + Duration::from_secs(5), LEAF_LIFE * 30] {
        clock.ahead(ahead);
        let met = meet(&db, PeerTls::Require, client.clone(), "db").await.expect("met");
        assert!(met.caller.is_ok(), "{:?}", met.caller);
        assert!(db.not_after().expect("leaf").since(clock.now()) > LEAF_LIFE / 3 - Duration::from_secs(10));
        shown.push(met.server_leaf);
    }
    assert_eq!(shown[0], shown[1], "half of its life is no reason");
    shown.dedup();
    assert_eq!(shown.len(), 3);
}

#[tokio::test]
async fn a_root_is_rotated_without_a_restart_and_the_one_before_is_trusted_as_long_as_its_certificates() {
    let root = tempfile::tempdir().expect("root");
    let clock = Arc::new(MovedClock::default());
    let app = authority(root.path(), "shop", Arc::<MovedClock>::clone(&clock));
    let (web, db) = (service(&app, "web"), service(&app, "db"));
    let client = web.client_config(None).expect("client");
    let before = meet(&db, PeerTls::Require, client.clone(), "db").await.expect("before").server_leaf;
    // Another node that has not heard of the rotation still trusts the old root alone.
    let old_root = without_certificate(&app);
    app.rotate_root().expect("rotate");
    assert_eq!(app.roots_der().len(), 2);
    let after = meet(&db, PeerTls::Require, client.clone(), "db").await.expect("after").server_leaf;
    assert_ne!(before, after);
    assert!(meet(&db, PeerTls::Off, old_root, "db").await.is_err(), "the new root signs");
    let leaf = rustls::pki_types::CertificateDer::from(before);
    assert!(db.caller(Some(std::slice::from_ref(&leaf))).is_ok(), "the old root's certificates are trusted");
    clock.ahead(LEAF_LIFE + Duration::from_secs(600));
    assert!(db.caller(Some(std::slice::from_ref(&leaf))).is_err(), "until they end");
    app.rotate_root().expect("rotate");
    assert_eq!(app.roots_der().len(), 2, "the first root is forgotten");
    let again = authority(root.path(), "shop", Arc::<MovedClock>::clone(&clock));
    assert_eq!(again.roots_der(), app.roots_der(), "a restart finds the same roots");
    let text = std::fs::read(root.path().join("certificates/authority/shop.sealed")).expect("file");
    assert!(!String::from_utf8_lossy(&text).contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_root_that_cannot_be_rotated_in_time_signs_on() {
    let root = tempfile::tempdir().expect("root");
    let clock = Arc::new(MovedClock::default());
    let app = authority(root.path(), "shop", Arc::<MovedClock>::clone(&clock));
    let (web, db) = (service(&app, "web"), service(&app, "db"));
    let client = web.client_config(None).expect("client");
    clock.ahead(ROOT_LIFE / 4 * 3);
    // A folder that is gone fails a write as a full disk does.
    std::fs::rename(root.path().join("certificates"), root.path().join("away")).expect("away");
    meet(&db, PeerTls::Require, client.clone(), "db").await.expect("met");
    assert_eq!(app.roots_der().len(), 1);
    assert_eq!(app.failures(), 2, "one for each certificate that came with it");
    std::fs::rename(root.path().join("away"), root.path().join("certificates")).expect("back");
    clock.ahead(ROOT_LIFE / 4 * 3 + LEAF_LIFE);
    meet(&db, PeerTls::Require, client, "db").await.expect("met");
    assert_eq!(app.roots_der().len(), 2, "rotated by itself as soon as it could be");
}

#[tokio::test]
async fn a_node_may_set_how_long_certificates_live_and_a_removed_authority_is_another_one() {
    let root = tempfile::tempdir().expect("root");
    let clock = Arc::new(MovedClock::default());
    let folder = root.path().join("certificates");
    let key = Arc::new(SealKey::of_folder(&root.path().join("seal.key"), &folder).expect("key"));
    let life = Duration::from_secs(60);
    let open = || Authority::open(&folder, key.clone(), &name("shop"), clock.clone(), life).expect("authority");
    let app = open();
    let (web, db) = (service(&app, "web"), service(&app, "db"));
    assert_eq!(db.dates(), None, "none is made before it is needed");
    let client = web.client_config(Some(&name("db"))).expect("client");
    let first = meet(&db, PeerTls::Require, client.clone(), "db").await.expect("met").server_leaf;
    let (made, ends) = db.dates().expect("made");
    assert_eq!(ends.since(made), life);
    clock.ahead(Duration::from_secs(41));
    let second = meet(&db, PeerTls::Require, client.clone(), "db").await.expect("met").server_leaf;
    assert_ne!(first, second);
    assert!(db.dates().expect("made").0 > made);

    Authority::remove(&folder, &name("shop")).expect("removed");
    Authority::remove(&folder, &name("shop")).expect("there is none: so be it");
    let refused = meet(&service(&open(), "db"), PeerTls::Require, client, "db").await;
    assert!(refused.is_err(), "of before");
}
