//! Registries that lie, cut, stall and point elsewhere; disks that fill up; processes that are killed.

mod fixture;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coppice_image::{
    Credentials, Digest, Image, ImageStore, LayerError, ManifestError, PullError, PullOptions, RegistryError, Settings,
    silent,
};
use fixture::hostile::{End, Hostile, Reply, Served, range};
use fixture::registry::wait_until;
use fixture::{Store, Tar, run, store_with};

/// A gzip layer of about 3 MB that does not compress.
fn served() -> Served {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..3 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let tar = Tar::new().dir("etc").file("etc/noise", &noise).bytes();
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut out, &tar).unwrap();
    Served::new(&tar, out.finish().unwrap())
}

/// Impatient: two attempts, short pauses and windows.
fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.transfer.attempts = 2;
    settings.transfer.backoff = Duration::from_millis(20);
    settings.transfer.stall_window = Duration::from_millis(400);
    settings.transfer.response = Duration::from_secs(2);
    settings
}

async fn pull_with(store: &ImageStore, server: &Hostile, options: PullOptions) -> Result<Arc<Image>, PullError> {
    let name = format!("{}/x:1", server.address).parse().unwrap();
    store.pull(&name, options, silent()).await
}

async fn pull(store: &Store, server: &Hostile) -> Result<Arc<Image>, PullError> {
    pull_with(&store.store, server, PullOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_with_other_content_of_the_same_length_is_refused_and_removed() {
    let served = served();
    for flip in [10, 1_000_000, served.layer.len() - 5] {
        let served = served.clone();
        let server = Hostile::start(move |asked| {
            let mut reply = served.answer(asked);
            if served.is_layer(asked) {
                reply.body[flip] ^= 1;
            }
            reply
        });
        let store = store_with(settings());
        let error = pull(&store, &server).await.unwrap_err();
        assert!(matches!(error, PullError::Layer { source: LayerError::WrongDigest { .. }, .. }), "{flip}: {error}");
        store.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_longer_or_shorter_than_said_is_refused() {
    let served = served();
    let longer = {
        let served = served.clone();
        Hostile::start(move |asked| {
            let mut reply = served.answer(asked);
            if served.is_layer(asked) {
                reply.body.extend([0; 100_000]);
            }
            reply
        })
    };
    let store = store_with(settings());
    let error = pull(&store, &longer).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::WrongSize { .. })), "{error}");
    store.assert_empty();
    let shorter = Hostile::start(move |asked| {
        if served.is_layer(asked) && range(asked).is_some() {
            return Reply::new(416, "");
        }
        let mut reply = served.answer(asked);
        if served.is_layer(asked) {
            reply.body.truncate(1_000_000);
        }
        reply
    });
    let store = store_with(settings());
    let error = pull(&store, &shorter).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Status { status: 416, .. })), "{error}");
    assert!(store.store.list().is_empty() && store.names("layers").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_unpacks_to_other_content_than_the_configuration_says_is_refused() {
    let honest = served();
    let other = Tar::new().file("other", b"1").bytes();
    let mut lying = honest.clone();
    lying.config = Served::new(&other, other.clone()).config;
    lying.manifest = Served::manifest_of(&lying.config, &[(lying.layer_digest, lying.layer.len())]);
    let server = Hostile::start(move |asked| lying.answer(asked));
    let store = store_with(settings());
    let error = pull(&store, &server).await.unwrap_err();
    assert!(matches!(error, PullError::Layer { source: LayerError::WrongDiffId { .. }, .. }), "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_closes_at_99_percent_is_resumed_by_range() {
    let served = served();
    let cut = served.layer.len() * 99 / 100;
    let server = {
        let served = served.clone();
        Hostile::start(move |asked| {
            let end = if served.is_layer(asked) && range(asked).is_none() { End::Cut(cut) } else { End::Whole };
            served.answer(asked).ending(end)
        })
    };
    let store = store_with(settings());
    let image = pull(&store, &server).await.unwrap();
    assert_eq!(std::fs::metadata(image.layers[0].join("etc/noise")).unwrap().len(), 3 << 20);
    let ranges: Vec<_> = server.asked().iter().filter(|a| served.is_layer(a)).map(range).collect();
    assert_eq!(ranges, [None, Some(cut)]);
    assert_eq!(store.names("ingest"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_knows_no_ranges_is_resumed_by_skipping() {
    let served = served();
    let times = AtomicUsize::new(0);
    let server = Hostile::start(move |asked| {
        if !served.is_layer(asked) {
            return served.answer(asked);
        }
        let end = if times.fetch_add(1, Ordering::SeqCst) == 0 { End::Cut(1_500_000) } else { End::Whole };
        Reply::new(200, served.layer.clone()).ending(end)
    });
    let image = pull(&store_with(settings()), &server).await.unwrap();
    assert_eq!(image.config.cmd, ["/x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_sends_next_to_nothing_is_cut_and_the_error_says_so() {
    for sent in [0, 1, 100_000] {
        let served = served();
        let server = Hostile::start(move |asked| {
            let end = if served.is_layer(asked) { End::Stall(sent.min(1000)) } else { End::Whole };
            served.answer(asked).ending(end)
        });
        let store = store_with(settings());
        let began = std::time::Instant::now();
        let error = pull(&store, &server).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::Stalled { .. })), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(store.store.list().is_empty() && store.names("layers").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_or_realm_on_the_metadata_address_is_refused() {
    let served = served();
    let redirecting = {
        let served = served.clone();
        Hostile::start(move |asked| match served.is_layer(asked) {
            true => Reply::new(307, "").header("Location", "http://169.254.169.254/latest/meta-data/"),
            false => served.answer(asked),
        })
    };
    let challenging = Hostile::start(|_| {
        Reply::new(401, "").header("WWW-Authenticate", r#"Bearer realm="http://169.254.169.254/token",service="x""#)
    });
    for server in [redirecting, challenging] {
        let store = store_with(settings());
        let error = pull(&store, &server).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::LocalAddress { .. })), "{error}");
        assert!(store.store.list().is_empty() && store.names("layers").is_empty());
    }
}

/// Runs the test `name` of this binary again, alone in a network namespace that has a public address (TEST-NET-1).
fn in_a_network_with_a_public_address(name: &str) {
    let script = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && exec \"$@\"";
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh"]).arg(own).args(["--exact", name, "--nocapture"]);
    let output = command.env("COPPICE_TEST_PUBLIC", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_elsewhere_may_not_redirect_to_this_machine_nor_be_spoken_to_in_plain_http_unasked() {
    if std::env::var_os("COPPICE_TEST_PUBLIC").is_none() {
        return in_a_network_with_a_public_address(
            "a_registry_elsewhere_may_not_redirect_to_this_machine_nor_be_spoken_to_in_plain_http_unasked",
        );
    }
    let served = served();
    let inner = {
        let served = served.clone();
        Hostile::start(move |asked| served.answer(asked))
    };
    let insecure = PullOptions { insecure: true, ..Default::default() };
    let location = format!("http://{}/v2/x/blobs/{}", inner.address, served.layer_digest);
    let outer = {
        let served = served.clone();
        Hostile::start_on("192.0.2.7", move |asked| match served.is_layer(asked) {
            true => Reply::new(302, "").header("Location", location.clone()),
            false => served.answer(asked),
        })
    };
    let store = store_with(settings());
    let error = pull_with(&store.store, &outer, insecure.clone()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::LocalAddress { .. })), "{error}");
    assert!(inner.asked().is_empty(), "the local server was asked");
    // The other way round is fine: a local registry may send us out.
    let location = format!("http://{}/v2/x/blobs/{}", "192.0.2.7", served.layer_digest);
    let public = {
        let served = served.clone();
        Hostile::start_on("192.0.2.7", move |asked| served.answer(asked))
    };
    let location = location.replace("192.0.2.7/", &format!("{}/", public.address));
    let local = Hostile::start(move |asked| match served.is_layer(asked) {
        true => Reply::new(302, "").header("Location", location.clone()),
        false => served.answer(asked),
    });
    pull_with(&store_with(settings()).store, &local, PullOptions::default()).await.unwrap();
    // Nor is plain HTTP spoken to it unasked.
    let store = store_with(settings());
    let error = pull_with(&store.store, &public, PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Tls { .. })), "{error}");
    let mut trusting = settings();
    trusting.insecure.insert(public.address.to_string());
    pull_with(&store_with(trusting).store, &public, PullOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_redirects_end() {
    let served = served();
    let server = Hostile::start(move |asked| match served.is_layer(asked) {
        true => Reply::new(302, "").header("Location", asked.path.clone()),
        false => served.answer(asked),
    });
    let error = pull(&store_with(settings()), &server).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::TooManyRedirects { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_with_the_login_and_go_to_nobody_else() {
    let served = served();
    let storage = {
        let served = served.clone();
        Hostile::start(move |_| Reply::new(200, served.layer.clone()))
    };
    let place = storage.address;
    for identity in [false, true] {
        let served = served.clone();
        let server = Hostile::start(move |asked| {
            if asked.path.starts_with("/token") {
                let login = match identity {
                    true => asked.method == "POST" && asked.body.contains("refresh_token=r%2Ft"),
                    false => asked.headers.get("authorization").is_some_and(|a| a == "Basic dTpw"),
                };
                let scope = format!("{}{}", asked.path, asked.body).contains("scope=repository%3Ax%3Apull");
                return match login && scope {
                    true => Reply::new(200, r#"{"token": "t0k"}"#),
                    false => Reply::new(401, ""),
                };
            }
            if asked.headers.get("authorization").is_none_or(|a| a != "Bearer t0k") {
                let realm = format!("http://{}/token", asked.headers["host"]);
                let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="repository:x:pull""#);
                return Reply::new(401, "").header("WWW-Authenticate", challenge);
            }
            match served.is_layer(asked) {
                true => Reply::new(307, "").header("Location", format!("http://{place}/blob?signed=1")),
                false => served.answer(asked),
            }
        });
        let credentials = match identity {
            true => Credentials::IdentityToken("r/t".into()),
            false => Credentials::Basic { username: "u".into(), password: "p".into() },
        };
        let options = PullOptions { credentials, ..Default::default() };
        pull_with(&store_with(settings()).store, &server, options).await.unwrap();
        let error = pull(&store_with(settings()), &server).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::Denied { .. })), "{error}");
    }
    assert!(!storage.asked().is_empty());
    assert!(storage.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_are_tried_again_and_lasting_ones_are_not() {
    let served = served();
    let times = AtomicUsize::new(0);
    let server = Hostile::start(move |asked| match times.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => Reply::new(if asked.path.contains("blobs") { 503 } else { 429 }, "busy"),
        _ => served.answer(asked),
    });
    pull(&store_with(settings()), &server).await.unwrap();
    let refusing = Hostile::start(|_| Reply::new(400, r#"{"errors":[{"code":"NAME_INVALID","message":"bad name"}]}"#));
    let error = pull(&store_with(settings()), &refusing).await.unwrap_err();
    assert!(error.to_string().contains("bad name"), "{error}");
    assert_eq!(refusing.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_endless_lie_about_their_digest_or_list_a_million_layers_are_refused() {
    let served = served();
    let huge = Hostile::start(|_| Reply::new(200, vec![b' '; 5 << 20]));
    let store = store_with(settings());
    let error = pull(&store, &huge).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::TooLong { .. })), "{error}");
    let lying = {
        let served = served.clone();
        Hostile::start(move |asked| served.answer(asked))
    };
    let name = format!("{}/x@{}", lying.address, Digest::of(b"other")).parse().unwrap();
    let error = store.store.pull(&name, PullOptions::default(), silent()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::WrongDigest { .. })), "{error}");
    let many = {
        let layers = vec![(served.layer_digest, 1); 10_000];
        let manifest = Served::manifest_of(&served.config, &layers);
        Hostile::start(move |_| Reply::new(200, manifest.clone()))
    };
    let error = pull(&store, &many).await.unwrap_err();
    let too_many = matches!(error, PullError::Manifest { source: ManifestError::TooManyLayers(10_000), .. });
    assert!(too_many, "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_image_for_another_architecture_is_refused_unless_it_is_asked_for() {
    let mut served = served();
    let own = coppice_image::Platform::host().architecture;
    served.config = String::from_utf8(served.config).unwrap().replace(&own, "s390x").into_bytes();
    served.manifest = Served::manifest_of(&served.config, &[(served.layer_digest, served.layer.len())]);
    let server = Hostile::start(move |asked| served.answer(asked));
    let store = store_with(settings());
    let error = pull(&store, &server).await.unwrap_err();
    assert!(matches!(error, PullError::Manifest { source: ManifestError::Platform { .. }, .. }), "{error}");
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    store.assert_empty();
    let asked = PullOptions { platform: Some("linux/s390x".parse().unwrap()), ..Default::default() };
    pull_with(&store.store, &server, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_given_up_leaves_no_layer_and_the_next_one_goes_on() {
    let served = served();
    let half = served.layer.len() / 2;
    let server = {
        let served = served.clone();
        Hostile::start(move |asked| {
            let end = if served.is_layer(asked) && range(asked).is_none() { End::Stall(half) } else { End::Whole };
            served.answer(asked).ending(end)
        })
    };
    let patient = Settings::default();
    let store = store_with(patient);
    let partial = store.dir().join("ingest").join(served.layer_digest.hex());
    let (open, name) = (store.store.clone(), format!("{}/x:1", server.address).parse().unwrap());
    let pulling = tokio::spawn(async move { open.pull(&name, PullOptions::default(), silent()).await });
    wait_until("half has come", || std::fs::metadata(&partial).is_ok_and(|m| m.len() == half as u64));
    pulling.abort();
    let _ = pulling.await;
    wait_until("the worker has cleaned up", || store.names("ingest") == [served.layer_digest.hex()]);
    pull(&store, &server).await.unwrap();
    let ranges: Vec<_> = server.asked().iter().filter(|a| served.is_layer(a)).map(range).collect();
    assert_eq!(ranges, [None, Some(half)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_killed_at_99_percent_goes_on_where_it_was() {
    if let Ok(place) = std::env::var("COPPICE_TEST_PULL") {
        // The process that will be killed.
        let (dir, name) = place.split_once(' ').unwrap();
        let store = ImageStore::open(Path::new(dir), Settings::default()).unwrap();
        let _ = store.pull(&name.parse().unwrap(), PullOptions::default(), silent()).await;
        return;
    }
    let served = served();
    let most = served.layer.len() * 99 / 100;
    let server = {
        let served = served.clone();
        Hostile::start(move |asked| {
            let end = if served.is_layer(asked) && range(asked).is_none() { End::Stall(most) } else { End::Whole };
            served.answer(asked).ending(end)
        })
    };
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("images");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_pull_killed_at_99_percent_goes_on_where_it_was"])
        .env("COPPICE_TEST_PULL", format!("{} {}/x:1", dir.display(), server.address))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let partial = dir.join("ingest").join(served.layer_digest.hex());
    wait_until("99 % have come", || std::fs::metadata(&partial).is_ok_and(|m| m.len() == most as u64));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fixture::names(&dir.join("ingest")).len(), 2, "the half-unpacked layer should still be there");

    let store = ImageStore::open(&dir, settings()).unwrap();
    assert_eq!(fixture::names(&dir.join("ingest")), [served.layer_digest.hex()]);
    assert!(store.list().is_empty());
    let image = pull_with(&store, &server, PullOptions::default()).await.unwrap();
    assert_eq!(std::fs::metadata(image.layers[0].join("etc/noise")).unwrap().len(), 3 << 20);
    let ranges: Vec<_> = server.asked().iter().filter(|a| served.is_layer(a)).map(range).collect();
    assert_eq!(ranges, [None, Some(most)]);
    assert!(fixture::names(&dir.join("ingest")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_download_left_damaged_is_fetched_again() {
    let served = served();
    let server = {
        let served = served.clone();
        Hostile::start(move |asked| served.answer(asked))
    };
    let store = store_with(settings());
    std::fs::write(store.dir().join("ingest").join(served.layer_digest.hex()), vec![7; 100_000]).unwrap();
    pull(&store, &server).await.unwrap();
    let ranges: Vec<_> = server.asked().iter().filter(|a| served.is_layer(a)).map(range).collect();
    assert_eq!(ranges, [Some(100_000), None]);
}

/// A small filesystem of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "coppice-test", home.path().to_str().unwrap()]);
        Self(home)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_any_point_is_a_clear_error_and_loses_nothing_that_was_there() {
    let served = served();
    let server = Hostile::start(move |asked| served.answer(asked));
    // The blob and the tree take 3 MiB each: the disk fills while downloading, while unpacking, or not at all.
    let mut failures = 0;
    for size in ["512k", "1m", "2m", "3m", "4m", "5m", "6m", "6200k", "6250k", "6300k", "6400k", "8m"] {
        let disk = SmallDisk::mount(size);
        let dir = disk.0.path().join("images");
        let store = ImageStore::open(&dir, settings()).unwrap();
        let small = Tar::new().file("a", b"1").bytes();
        let options = coppice_image::ImportOptions::default();
        let kept = store.import(std::io::Cursor::new(small), Some("kept:1".parse().unwrap()), options).await.unwrap();
        store.sync().await.unwrap();
        let held = || (fixture::names(&dir.join("blobs/sha256")), fixture::names(&dir.join("layers")));
        let before = held();
        if let Err(error) = pull_with(&store, &server, PullOptions::default()).await {
            failures += 1;
            assert!(error.to_string().contains("disk is full: free space"), "{size}: {error}");
            assert_eq!(held(), before, "{size}");
            assert!(fixture::names(&dir.join("ingest")).is_empty(), "{size}");
        }
        drop(store);
        let store = ImageStore::open(&dir, settings()).unwrap();
        assert_eq!(store.resolve("kept:1").unwrap().unwrap().id, kept.id);
    }
    assert!((6..12).contains(&failures), "{failures}");
}
