//! Certificates ordered from a real authority, Pebble.

mod pebble;

use std::sync::Arc;
use std::time::Duration;

use coppice_acme::{CertificateStore, Certificates, OrderError, ProvisionError, SealKey, Source};
use coppice_base::SystemClock;
use coppice_spec::{AcmeChallenge, AcmeDirectory, PeerTls, TlsSpec};

use pebble::{MovedClock, PATIENCE, Pebble, answers, eventually, shown};

fn tls(domains: &[&str], acme: coppice_spec::AcmeSpec) -> TlsSpec {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    TlsSpec { domains, acme: Some(acme), peer: PeerTls::Off, redirect: false }
}

#[tokio::test]
async fn a_certificate_is_ordered_by_http_01_shown_by_name_and_there_after_a_restart() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = pebble.certificates(root.path(), Arc::new(SystemClock));
    let address = pebble.serve_tls(certificates.resolver());
    assert_eq!(shown(address, "http.test.example").await, None, "nothing is shown before");
    let acme = pebble.acme(AcmeChallenge::Http01);
    let record = certificates.provision("http.test.example", acme.clone()).await.expect("ordered");
    assert_eq!(record.names, ["http.test.example"]);
    assert_eq!((record.source, record.challenge(), record.managed), (Source::Acme, Some("http-01"), true));
    assert_eq!(record.directory(), Some(pebble.directory().as_str()));
    let leaf = shown(address, "http.test.example").await.expect("shown");
    assert_eq!(shown(address, "other.test.example").await, None, "nothing is shown for another name");
    drop(certificates);
    let again = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("restart");
    assert_eq!(again.list(), [record]);
    let kept = again.resolver().find("http.test.example").expect("kept");
    assert_eq!(kept.cert[0].to_vec(), leaf);
    assert_eq!(
        again.provision("http.test.example", acme).await.expect("there").fingerprint,
        again.list()[0].fingerprint
    );
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn a_certificate_is_ordered_by_tls_alpn_01() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    let address = pebble.serve_tls(certificates.resolver());
    let acme = pebble.acme(AcmeChallenge::TlsAlpn01);
    let record = certificates.provision("alpn.test.example", acme).await.expect("ordered");
    assert_eq!(record.challenge(), Some("tls-alpn-01"));
    assert!(shown(address, "alpn.test.example").await.is_some());
}

#[tokio::test]
async fn a_wildcard_is_ordered_by_dns_01_with_a_hook_and_its_record_is_gone_after() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    let record = certificates.provision("*.wild.example", pebble.acme(pebble.hook())).await.expect("ordered");
    assert_eq!(record.names, ["*.wild.example"]);
    assert!(certificates.resolver().find("any.wild.example").is_some());
    assert!(certificates.resolver().find("two.labels.wild.example").is_none());
    let line = |action| format!("{action} *.wild.example _acme-challenge.wild.example dns-01 {}\n", pebble.directory());
    assert_eq!(pebble.hook_log(), line("present") + &line("cleanup"));
    let error =
        certificates.provision("*.other.example", pebble.acme(AcmeChallenge::Http01)).await.expect_err("refused");
    assert!(error.to_string().contains("dns-01"), "{error}");
}

#[tokio::test]
async fn a_record_that_is_never_seen_is_removed_and_the_error_says_where_it_is_missing() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    let AcmeChallenge::Dns01(mut provider) = pebble.hook() else { unreachable!("it is DNS-01") };
    let script = provider.hook[1].clone();
    let log_only = std::fs::read_to_string(&script).expect("hook").lines().next().expect("a line").to_owned();
    std::fs::write(&script, log_only).expect("a hook that publishes nothing");
    provider.propagation_timeout_secs = 2;
    let acme = pebble.acme(AcmeChallenge::Dns01(provider));
    let error = certificates.provision("lost.example", acme).await.expect_err("not seen");
    assert!(error.to_string().contains(&format!("missing on {}", pebble.dns())), "{error}");
    assert!(pebble.hook_log().lines().last().expect("lines").starts_with("cleanup lost.example"));
    assert_eq!(pebble.issued(), 0);
}

#[tokio::test]
async fn a_record_left_by_an_order_that_was_cut_short_is_removed_by_the_next() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let mut config = pebble.config(root.path(), Arc::new(SystemClock));
    // Nobody there has the record, so the order waits for it.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("port");
    config.order.propagation.resolvers = vec![silent.local_addr().expect("address")];
    let certificates = Certificates::start(config).expect("start");
    certificates.want([&tls(&["left.example"], pebble.acme(pebble.hook()))]);
    eventually("the record is published", || pebble.hook_log().starts_with("present left.example")).await;
    drop(certificates);
    assert!(!pebble.hook_log().contains("cleanup"));
    let again = pebble.certificates(root.path(), Arc::new(SystemClock));
    again.provision("left.example", pebble.acme(AcmeChallenge::Http01)).await.expect("ordered another way");
    assert!(pebble.hook_log().lines().last().expect("lines").starts_with("cleanup left.example"));
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn a_certificate_is_renewed_when_a_third_of_its_life_is_left_and_shown_without_a_restart() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let clock = Arc::new(MovedClock::default());
    let certificates = pebble.certificates(root.path(), Arc::<MovedClock>::clone(&clock));
    let address = pebble.serve_tls(certificates.resolver());
    certificates.want([&tls(&["renewed.test.example"], pebble.acme(AcmeChallenge::Http01))]);
    eventually("it is ordered", || !certificates.list().is_empty()).await;
    let first = certificates.list().remove(0);
    let shown_first = shown(address, "renewed.test.example").await.expect("shown");
    let life = first.not_after.since(first.not_before);
    clock.ahead(life / 2);
    certificates.wake();
    tokio::task::yield_now().await;
    assert_eq!(certificates.list()[0], first, "not before its time");
    clock.ahead(life / 3 * 2 + Duration::from_secs(1));
    certificates.wake();
    eventually("it is renewed", || certificates.list()[0].fingerprint != first.fingerprint).await;
    clock.ahead(Duration::ZERO);
    assert_ne!(shown(address, "renewed.test.example").await.expect("shown"), shown_first);
}

#[tokio::test]
async fn a_restart_orders_nothing_anew_and_another_authority_does() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let mut acme = pebble.acme(AcmeChallenge::Http01);
    let first = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    let served = answers(&first);
    pebble.serve_http(Arc::clone(&served));
    first.want([&tls(&["moved.test.example"], acme.clone())]);
    eventually("it is ordered", || !first.list().is_empty()).await;
    let record = first.list().remove(0);
    drop(first);
    let again = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("restart");
    *served.lock().expect("lock") = Some(again.challenges());
    again.want([]);
    assert!(!again.list()[0].managed, "a name nobody wants is not renewed");
    again.want([&tls(&["moved.test.example"], acme.clone())]);
    assert!(again.list()[0].managed);
    // The same server by another name is another directory.
    acme.directory = AcmeDirectory::Url(pebble.directory().replace("127.0.0.1", "localhost"));
    again.want([&tls(&["moved.test.example"], acme.clone())]);
    eventually("it is ordered there", || again.list()[0].fingerprint != record.fingerprint).await;
    assert_eq!(again.list()[0].directory(), Some(acme.directory.url()));
    assert_eq!(pebble.issued(), 2);
}

#[tokio::test]
async fn two_requests_at_once_make_one_order() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = pebble.certificates(root.path(), Arc::new(SystemClock));
    let acme = pebble.acme(AcmeChallenge::Http01);
    let (one, two) = tokio::join!(
        certificates.provision("once.test.example", acme.clone()),
        certificates.provision("once.test.example", acme)
    );
    assert_eq!(one.expect("one"), two.expect("two"));
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn an_authority_that_refuses_half_of_all_nonces_is_asked_again() {
    let (pebble, root) = (Pebble::start(50), tempfile::tempdir().expect("root"));
    let certificates = pebble.certificates(root.path(), Arc::new(SystemClock));
    let acme = pebble.acme(AcmeChallenge::Http01);
    certificates.provision("nonce.test.example", acme).await.expect("ordered");
    // Some ten requests, three tries each: seven of ten orders would fail if they were not gone on with.
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn a_wrong_answer_is_told_with_the_authority_s_reason_and_the_next_order_is_a_new_one() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    let served = answers(&certificates);
    let right = served.lock().expect("lock").take();
    pebble.serve_http(Arc::clone(&served));
    let acme = pebble.acme(AcmeChallenge::Http01);
    let error = certificates.provision("wrong.test.example", acme).await.expect_err("not proved");
    let ProvisionError::Order(order) = &error else { panic!("{error}") };
    assert!(matches!(**order, OrderError::Validation { challenge: "http-01", .. }), "{error}");
    assert!(error.to_string().contains("404"), "the authority's own reason: {error}");
    let setback = certificates.setbacks().remove("wrong.test.example").expect("remembered");
    assert_eq!((setback.failures, setback.why), (1, error.to_string()));
    *served.lock().expect("lock") = right;
    certificates.renew("wrong.test.example").await.expect("ordered");
    assert!(certificates.setbacks().is_empty());
}

#[tokio::test]
async fn an_order_cut_short_after_the_certificate_was_made_is_taken_up_without_a_second_one() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let acme = pebble.acme(AcmeChallenge::Http01);
    let certificates = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    let served = answers(&certificates);
    pebble.serve_http(Arc::clone(&served));
    certificates.want([&tls(&["cut.test.example"], acme.clone())]);
    eventually("the certificate is made", || pebble.issued() == 1).await;
    drop(certificates);
    let again = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("restart");
    *served.lock().expect("lock") = Some(again.challenges());
    again.provision("cut.test.example", acme).await.expect("taken up");
    assert_eq!(pebble.issued(), 1);
    let left = std::fs::read_dir(root.path().join("certificates/orders")).expect("orders").count();
    assert_eq!(left, 0, "no order is left to take up");
}

#[tokio::test]
async fn an_order_cut_short_before_it_was_proved_is_taken_up_too() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let acme = pebble.acme(AcmeChallenge::Http01);
    let certificates = Certificates::start(pebble.config(root.path(), Arc::new(SystemClock))).expect("start");
    certificates.want([&tls(&["early.test.example"], acme.clone())]);
    let orders = root.path().join("certificates/orders");
    eventually("the order is on disk", || std::fs::read_dir(&orders).expect("orders").next().is_some()).await;
    drop(certificates);
    let again = pebble.certificates(root.path(), Arc::new(SystemClock));
    again.provision("early.test.example", acme).await.expect("taken up, or ordered anew if it was found wrong");
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn an_authority_that_is_down_is_told_so_and_the_failure_is_remembered_across_a_restart() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let config = || pebble.config(root.path(), Arc::new(SystemClock));
    let certificates = Certificates::start(config()).expect("start");
    let mut acme = pebble.acme(AcmeChallenge::Http01);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    acme.directory = AcmeDirectory::Url(format!("https://{closed}/dir"));
    let error = certificates.provision("down.test.example", acme.clone()).await.expect_err("down");
    assert!(error.to_string().contains("cannot reach 127.0.0.1"), "{error}");
    let setback = certificates.setbacks().remove("down.test.example").expect("remembered");
    drop(certificates);
    let again = Certificates::start(config()).expect("restart");
    again.want([&tls(&["down.test.example"], acme)]);
    assert_eq!(again.setbacks().remove("down.test.example"), Some(setback));
}

#[tokio::test]
async fn an_authority_that_never_answers_is_given_up_in_time() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let mut config = pebble.config(root.path(), Arc::new(SystemClock));
    config.request_within = Duration::from_millis(300);
    let certificates = Certificates::start(config).expect("start");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let mut acme = pebble.acme(AcmeChallenge::Http01);
    acme.directory = AcmeDirectory::Url(format!("https://{}/dir", silent.local_addr().expect("address")));
    let order = certificates.provision("slow.test.example", acme);
    let error = tokio::time::timeout(PATIENCE, order).await.expect("given up").expect_err("slow");
    assert!(error.to_string().contains("did not answer within 0.3 s"), "{error}");
}

#[tokio::test]
async fn an_authority_nobody_vouches_for_is_not_asked() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let mut config = pebble.config(root.path(), Arc::new(SystemClock));
    config.extra_roots.clear();
    let certificates = Certificates::start(config).expect("start");
    let error =
        certificates.provision("a.test.example", pebble.acme(AcmeChallenge::Http01)).await.expect_err("refused");
    assert!(error.to_string().contains("is not trusted"), "{error}");
}

#[tokio::test]
async fn a_client_s_wish_orders_only_names_that_are_routed() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = pebble.certificates(root.path(), Arc::new(SystemClock));
    let address = pebble.serve_tls(certificates.resolver());
    let mut acme = pebble.acme(AcmeChallenge::Http01);
    acme.on_demand = true;
    certificates.want([&tls(&["*.routed.example", "*.unrouted.example"], acme)]);
    assert_eq!(shown(address, "shop.routed.example").await, None, "the first handshake comes too early");
    eventually("it was ordered", || certificates.resolver().find("shop.routed.example").is_some()).await;
    assert!(shown(address, "shop.routed.example").await.is_some());
    for name in ["shop.unrouted.example", "too.deep.routed.example"] {
        assert!(matches!(certificates.demand(name).await, Err(ProvisionError::Demand(_))), "{name}");
    }
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn no_key_is_on_disk_in_the_clear() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let certificates = pebble.certificates(root.path(), Arc::new(SystemClock));
    certificates.provision("sealed.test.example", pebble.acme(AcmeChallenge::Http01)).await.expect("ordered");
    let mut folders = vec![root.path().join("certificates")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(&path).expect("read")).into_owned();
            assert!(!text.contains("PRIVATE KEY") && !text.contains("key_pkcs8"), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 3, "the certificate, the account and the proof were looked at");
    let other = root.path().join("elsewhere");
    let key = SealKey::of_folder(&root.path().join("other.key"), &other).expect("another key");
    let store = CertificateStore::open(&root.path().join("certificates"), Arc::new(key)).expect("open");
    assert_eq!((store.list().len(), store.damaged().len()), (0, 1), "another key opens nothing");
}

/// Set for [`the_node_that_is_killed`]: what it is told, a line each.
const CHILD: &str = "COPPICE_ACME_TEST_CHILD";

/// Not a test by itself: the process that the next one kills.
#[tokio::test]
async fn the_node_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let told: Vec<_> = told.split('\n').collect();
    let [root, dns, trusted, directory, http_port] = told[..] else { panic!("five lines") };
    let trusted = std::fs::read_to_string(trusted).expect("root");
    let config = pebble::config(root.as_ref(), Arc::new(SystemClock), dns.parse().expect("address"), trusted);
    let certificates = Certificates::start(config).expect("start");
    pebble::serve_http(http_port.parse().expect("port"), answers(&certificates));
    certificates.want([&tls(&["killed.test.example"], pebble::acme(directory, AcmeChallenge::Http01))]);
    std::future::pending::<()>().await;
}

/// Killed with SIGKILL when dropped.
struct Node(std::process::Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_node_killed_when_its_certificate_was_just_made_gets_that_one_and_no_second() {
    let (pebble, root) = (Pebble::start(0), tempfile::tempdir().expect("root"));
    let told = [
        root.path().display().to_string(),
        pebble.dns().to_string(),
        pebble.root_file().display().to_string(),
        pebble.directory(),
        pebble.http_port().to_string(),
    ];
    let node = Node(
        std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "the_node_that_is_killed"])
            .env(CHILD, told.join("\n"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("node"),
    );
    eventually("the certificate is made", || pebble.issued() == 1).await;
    drop(node);
    let certificates = pebble.certificates(root.path(), Arc::new(SystemClock));
    let acme = pebble.acme(AcmeChallenge::Http01);
    let record = certificates.provision("killed.test.example", acme).await.expect("taken up");
    assert_eq!(record.names, ["killed.test.example"]);
    assert_eq!(pebble.issued(), 1);
}
