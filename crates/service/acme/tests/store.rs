//! Certificates that the operator brings, how they are kept, and which one a client is shown.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use coppice_acme::{
    Certificate, CertificateError, CertificateStore, Challenges, Resolver, SealKey, Source, StoreError,
};
use coppice_base::{Clock, SystemClock, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const DAY_MS: u64 = 24 * 3600 * 1000;

struct Made {
    chain: String,
    key: String,
}

/// A certificate for `names`, valid from `from` days to `to` days from now, of an authority of its own.
fn made(names: &[&str], from: i64, to: i64) -> Made {
    let now = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_millis(SystemClock.now().0);
    let day = |days: i64| if days < 0 { now - DAY * days.unsigned_abs() as u32 } else { now + DAY * days as u32 };
    let root_key = KeyPair::generate().expect("key");
    let mut root = CertificateParams::new(Vec::new()).expect("params");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "test authority");
    let root_pem = root.self_signed(&root_key).expect("root").pem();
    let key = KeyPair::generate().expect("key");
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut leaf = CertificateParams::new(names).expect("params");
    (leaf.not_before, leaf.not_after) = (day(from), day(to));
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).expect("leaf");
    Made { chain: format!("{}{root_pem}", leaf.pem()), key: key.serialize_pem() }
}

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

fn store(root: &Path) -> CertificateStore {
    let folder = root.join("certificates");
    let key = SealKey::of_folder(&root.join("seal.key"), &folder).expect("key");
    CertificateStore::open(&folder, Arc::new(key)).expect("store")
}

fn put(store: &CertificateStore, domain: &str, made: &Made) -> Result<(), StoreError> {
    let certificate = Certificate::parse(&made.chain, &made.key)?;
    store.put(domain, certificate, None, false, SystemClock.now()).map(drop)
}

fn refused(outcome: Result<(), StoreError>) -> CertificateError {
    match outcome {
        Err(StoreError::Certificate(error)) => error,
        other => panic!("not refused for the certificate: {other:?}"),
    }
}

#[test]
fn a_certificate_is_kept_over_a_restart_and_gone_when_removed() {
    let root = tempfile::tempdir().expect("root");
    let first = store(root.path());
    put(&first, "A.example.", &made(&["a.example", "b.example"], -1, 90)).expect("kept");
    let list = first.list();
    assert_eq!((list[0].domain.as_str(), list[0].names.len()), ("a.example", 2));
    assert_eq!(
        (list[0].source, list[0].managed, list[0].challenge(), list[0].directory()),
        (Source::Installed, false, None, None)
    );
    assert!(list[0].not_after > SystemClock.now().plus(DAY * 89));
    let again = store(root.path());
    assert_eq!(again.list(), list);
    assert_eq!(again.remove("a.example").expect("removed"), list[0]);
    assert!(matches!(again.remove("a.example"), Err(StoreError::Unknown { .. })));
    assert!(store(root.path()).list().is_empty());
}

#[test]
fn what_clients_would_refuse_is_refused_before_it_is_kept() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path());
    let good = made(&["a.example"], -1, 90);
    let other = made(&["a.example"], -1, 90);
    let mismatch = Made { chain: good.chain.clone(), key: other.key };
    assert!(matches!(refused(put(&store, "a.example", &mismatch)), CertificateError::Mismatch { .. }));
    assert!(matches!(refused(put(&store, "c.example", &good)), CertificateError::OtherName { .. }));
    assert!(matches!(
        refused(put(&store, "a.example", &made(&["a.example"], -9, -1))),
        CertificateError::Expired { .. }
    ));
    assert!(matches!(refused(put(&store, "a.example", &made(&["a.example"], 2, 9))), CertificateError::NotYet { .. }));
    assert!(matches!(refused(put(&store, "a.example", &made(&["127.0.0.1"], -1, 9))), CertificateError::NoNames));
    let (leaf, issuer) = good.chain.split_once("-----END CERTIFICATE-----").expect("two");
    let reversed = format!("{issuer}{leaf}-----END CERTIFICATE-----\n");
    let reversed = Made { chain: reversed, key: good.key.clone() };
    assert!(matches!(refused(put(&store, "a.example", &reversed)), CertificateError::AuthorityFirst { .. }));
    let (_, stranger) = other.chain.split_at(other.chain.find("-----END CERTIFICATE-----").expect("end") + 26);
    let twice = format!("{leaf}-----END CERTIFICATE-----\n{leaf}-----END CERTIFICATE-----\n{stranger}");
    let twice = Made { chain: twice, key: good.key.clone() };
    assert!(matches!(refused(put(&store, "a.example", &twice)), CertificateError::Order { position: 1, .. }));
    let garbage = Made { chain: "hello".to_owned(), key: good.key.clone() };
    assert!(matches!(refused(put(&store, "a.example", &garbage)), CertificateError::Chain { .. }));
    let garbage = Made { chain: good.chain.clone(), key: "hello".to_owned() };
    assert!(matches!(refused(put(&store, "a.example", &garbage)), CertificateError::Key { .. }));
    for name in ["", "a..example", "../../etc/passwd", "a/b.example", "-a.example", "*.*.example", "a b.example"] {
        assert!(matches!(refused(put(&store, name, &good)), CertificateError::BadName { .. }), "{name:?}");
    }
    assert!(store.list().is_empty());
}

#[test]
fn a_damaged_file_is_told_of_and_left_and_the_others_work() {
    let root = tempfile::tempdir().expect("root");
    put(&store(root.path()), "a.example", &made(&["a.example"], -1, 90)).expect("kept");
    put(&store(root.path()), "*.b.example", &made(&["*.b.example"], -1, 90)).expect("kept");
    let damaged = root.path().join("certificates/a.example.json");
    let text = std::fs::read_to_string(&damaged).expect("file");
    std::fs::write(&damaged, &text[..text.len() / 2]).expect("cut");
    let again = store(root.path());
    assert_eq!(again.list().len(), 1);
    assert_eq!(again.damaged()[0].path, damaged);
    assert!(damaged.exists());
    // A key of one name does not open under another.
    std::fs::write(&damaged, text.replace("a.example", "c.example")).expect("renamed inside");
    std::fs::rename(&damaged, root.path().join("certificates/c.example.json")).expect("rename");
    assert_eq!(store(root.path()).damaged().len(), 1);
}

/// A small disk of its own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self(folder)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.path().join("filler")).expect("filler");
        while file.write_all(&[0; 512]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_of_and_the_certificate_there_was_is_kept() {
    let disk = SmallDisk::new();
    let store = store(disk.0.path());
    put(&store, "a.example", &made(&["a.example"], -1, 90)).expect("kept");
    let before = store.list();
    disk.fill();
    for domain in ["a.example", "b.example"] {
        let error = put(&store, domain, &made(&[domain], -1, 90)).expect_err("no space");
        assert!(error.to_string().contains("No space left on device"), "{error}");
    }
    assert_eq!(store.list(), before);
    std::fs::remove_file(disk.0.path().join("filler")).expect("freed");
    let again = self::store(disk.0.path());
    assert_eq!((again.list(), again.damaged().len()), (before, 0));
    put(&again, "a.example", &made(&["a.example"], -1, 90)).expect("kept again");
}

#[test]
fn a_name_of_its_own_goes_before_a_wildcard_and_a_wildcard_is_for_one_label() {
    let root = tempfile::tempdir().expect("root");
    let store = store(root.path());
    put(&store, "*.example.org", &made(&["*.example.org", "example.org"], -1, 90)).expect("kept");
    put(&store, "www.example.org", &made(&["www.example.org"], -1, 30)).expect("kept");
    let resolver = Resolver::new(Arc::new(Challenges::default()), None);
    resolver.set(&store.certificates(), None);
    let key = |name: &str| resolver.find(name).map(|found| found.cert[0].to_vec());
    let leaf = |domain: &str| {
        let certificates = store.certificates();
        let found = certificates.iter().find(|(kept, _)| kept == domain).expect("kept");
        found.1.fingerprint.clone()
    };
    let shown = |name: &str| key(name).map(|der| hex_sha256(&der));
    assert_eq!(shown("www.example.org"), Some(leaf("www.example.org")));
    assert_eq!(shown("shop.example.org"), Some(leaf("*.example.org")));
    assert_eq!(shown("example.org"), Some(leaf("*.example.org")));
    assert_eq!(shown("a.b.example.org"), None);
    assert_eq!(shown("example.com"), None);
    store.remove("www.example.org").expect("removed");
    resolver.set(&store.certificates(), None);
    assert_eq!(shown("www.example.org"), Some(leaf("*.example.org")), "the next handshake sees the change");
}

fn hex_sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_key_is_not_shown_in_a_log() {
    let made = made(&["a.example"], -1, 90);
    let certificate = Certificate::parse(&made.chain, &made.key).expect("parse");
    let shown = format!("{certificate:?}");
    assert!(shown.contains("a.example") && !shown.contains("PRIVATE"), "{shown}");
    assert!(certificate.not_after > Timestamp(SystemClock.now().0 + 89 * DAY_MS));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whoever brings a certificate may bring anything.
    #[test]
    fn a_changed_byte_of_a_certificate_or_key_makes_no_panic(
        at in 0..700usize, changed: u8, key: bool,
    ) {
        let made = MADE.get_or_init(|| made(&["a.example"], -1, 90));
        let change = |pem: &str| {
            let mut bytes = pem.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = changed;
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (chain, key) =
            if key { (made.chain.clone(), change(&made.key)) } else { (change(&made.chain), made.key.clone()) };
        if let Ok(certificate) = Certificate::parse(&chain, &key) {
            // Taken for what its bytes are; whether anybody trusts it is the client's to judge.
            proptest::prop_assert!(!certificate.names.is_empty());
        }
    }
}

static MADE: std::sync::OnceLock<Made> = std::sync::OnceLock::new();
