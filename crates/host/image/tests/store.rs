//! Names, removal, collection, locking, and what is left after kills and power cuts.

mod fixture;

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_base::{Bytes, Clock, Timestamp};
use coppice_image::{
    Image, ImageStore, ImportOptions, LoadError, OpenError, PruneOptions, Reference, RemoveError, ResolveError,
    Settings, TagError, silent,
};
use fixture::registry::wait_until;
use fixture::{Store, Tar, run, store, store_with};

fn layer(name: &str, size: usize) -> Vec<u8> {
    Tar::new().file(name, &vec![b'x'; size]).bytes()
}

fn pins(images: &[&Image]) -> BTreeSet<coppice_image::Digest> {
    images.iter().map(|image| image.id).collect()
}

#[tokio::test]
async fn a_tag_moves_and_an_image_goes_with_its_last_name() {
    let store = store();
    let one = store.import(layer("one", 10), "one:1").await.unwrap();
    let two = store.import(layer("two", 10), "two:1").await.unwrap();
    let name: Reference = "both:1".parse().unwrap();
    store.store.tag("one:1", &name).unwrap();
    assert_eq!(store.store.resolve("both:1").unwrap().unwrap().id, one.id);
    store.store.tag(&two.id.to_string(), &name).unwrap();
    let found = store.store.resolve("both:1").unwrap().unwrap();
    assert_eq!((found.id, found.tags.len()), (two.id, 2));
    assert!(matches!(store.store.tag("none:1", &name), Err(TagError::NotFound(_))));

    let several = store.store.remove(&two.id.short(), &BTreeSet::new(), false);
    assert!(matches!(several, Err(RemoveError::SeveralNames { .. })));
    let removed = store.store.remove("two:1", &BTreeSet::new(), false).unwrap();
    assert_eq!((removed.untagged.len(), removed.images.len()), (1, 0));
    let removed = store.store.remove("both:1", &BTreeSet::new(), false).unwrap();
    assert_eq!(removed.images, [two.id]);
    assert!(removed.freed >= Bytes(10));
    assert_eq!(store.store.list().len(), 1);
    assert_eq!((store.names("layers").len(), store.names("blobs/sha256").len()), (1, 3));
    let pinned = store.store.remove("one:1", &pins(&[&one]), true);
    assert!(matches!(pinned, Err(RemoveError::InUse(_))));
    assert!(matches!(store.store.remove("two:1", &BTreeSet::new(), true), Err(RemoveError::NotFound(_))));
}

#[tokio::test]
async fn a_layer_goes_only_with_the_last_image_that_has_it() {
    let store = store();
    let options = |word: &str| ImportOptions {
        config: coppice_image::ImageConfig { cmd: vec![word.into()], ..Default::default() },
        ..Default::default()
    };
    for word in ["a", "b"] {
        let name = Some(format!("{word}:1").parse().unwrap());
        store.store.import(Cursor::new(layer("same", 100)), name, options(word)).await.unwrap();
    }
    assert_eq!(store.names("layers").len(), 1);
    store.store.remove("a:1", &BTreeSet::new(), false).unwrap();
    let left = store.store.resolve("b:1").unwrap().unwrap();
    assert!(left.layers[0].join("same").exists());
    store.store.remove("b:1", &BTreeSet::new(), false).unwrap();
    store.assert_empty();
}

#[tokio::test]
async fn the_beginning_of_an_id_must_be_unambiguous() {
    let store = store();
    let image = store.import(layer("a", 1), "a:1").await.unwrap();
    assert_eq!(store.store.resolve(&image.id.hex()[..4]).unwrap().unwrap().id, image.id);
    assert_eq!(store.store.resolve(&image.manifest_digest.to_string()).unwrap().unwrap().id, image.id);
    assert!(store.store.resolve(&image.id.hex()[..3]).unwrap().is_none());
    assert!(matches!(store.store.resolve("No Such"), Err(ResolveError::Reference(_))));
}

#[tokio::test]
async fn prune_takes_what_has_no_name_and_all_takes_what_is_not_pinned() {
    let store = store();
    let unnamed = store.store.import(Cursor::new(layer("u", 50)), None, ImportOptions::default()).await.unwrap();
    let named = store.import(layer("n", 50), "n:1").await.unwrap();
    let running = store.import(layer("r", 50), "r:1").await.unwrap();
    fs::write(store.dir().join("ingest").join(named.id.hex()), "a partial download").unwrap();
    let kept = store.store.prune(&PruneOptions { pinned: pins(&[&unnamed]), all: false }).unwrap();
    assert!(kept.images.is_empty());
    assert!(store.names("ingest").is_empty());
    let removed = store.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(removed.images, [unnamed.id]);
    let removed = store.store.prune(&PruneOptions { pinned: pins(&[&running]), all: true }).unwrap();
    assert_eq!(removed.images, [named.id]);
    assert!(running.layers[0].join("r").exists());
    assert_eq!(store.store.list().len(), 1);
}

/// A clock that tests set.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn collection_takes_the_longest_unused_first_and_never_what_is_pinned() {
    let clock = Arc::new(Hand(AtomicU64::new(1)));
    let store = store_with(Settings { clock: clock.clone(), ..Settings::default() });
    let mut images = Vec::new();
    for (at, name) in ["rollback", "old", "used", "new"].into_iter().enumerate() {
        clock.0.store(10 + at as u64, Ordering::SeqCst);
        images.push(store.import(layer(name, 1 << 20), &format!("{name}:1")).await.unwrap());
    }
    clock.0.store(100, Ordering::SeqCst);
    store.store.resolve("used:1").unwrap();
    let pinned = pins(&[&images[0]]);
    // Each image takes about 2 MiB: its blob and its tree.
    let budget = Bytes(store.store.usage().unwrap().0 - (1 << 20));
    let removed = store.store.collect(budget, &pinned).unwrap();
    assert_eq!(removed.untagged.iter().map(Reference::to_string).collect::<Vec<_>>(), ["old:1"]);
    let removed = store.store.collect(Bytes(0), &pinned).unwrap();
    assert_eq!(removed.images, [images[3].id, images[2].id]);
    assert!(images[0].layers[0].join("rollback").exists());
    assert_eq!(store.store.list().len(), 1);
    // When it was last used survives a restart.
    let store = store.reopen(Settings::default());
    assert_eq!(store.store.list()[0].last_used(), Timestamp(10));
}

#[tokio::test]
async fn a_second_process_is_told_that_the_store_is_in_use() {
    let store = store();
    let second = ImageStore::open(&store.dir(), Settings::default());
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    store.reopen(Settings::default());
}

#[tokio::test]
async fn an_import_that_is_killed_leaves_nothing_after_the_next_open() {
    if let Ok(dir) = std::env::var("COPPICE_TEST_IMPORT") {
        // The process that will be killed: its input never ends.
        let store = ImageStore::open(dir.as_ref(), Settings::default()).unwrap();
        let (mut feeding, fed) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut feeding, &layer("big", 4 << 20)[..4 << 20]).await.unwrap();
            std::future::pending::<()>().await;
        });
        store.import(fed, Some("killed:1".parse().unwrap()), ImportOptions::default()).await.unwrap();
        return;
    }
    let store = store();
    store.import(layer("kept", 10), "kept:1").await.unwrap();
    let before = (store.names("layers"), store.names("blobs/sha256"));
    let Store { store: open, home } = store;
    drop(open);
    let dir = home.path().join("images");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_import_that_is_killed_leaves_nothing_after_the_next_open"])
        .env("COPPICE_TEST_IMPORT", &dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let written =
        || fixture::names(&dir.join("ingest")).iter().any(|n| dir.join("ingest").join(n).join("fs/big").exists());
    wait_until("the child unpacks", written);
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store { store: ImageStore::open(&dir, Settings::default()).unwrap(), home };
    assert_eq!(store.names("ingest"), Vec::<String>::new());
    assert_eq!((store.names("layers"), store.names("blobs/sha256")), before);
    assert!(store.store.resolve("kept:1").unwrap().is_some());
    assert!(store.store.resolve("killed:1").unwrap().is_none());
}

/// Makes the store look as if the machine had lost power: markers and records of an earlier boot.
fn age(dir: &std::path::Path) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = "00000000-0000-0000-0000-000000000000";
    let mut files = vec![dir.join("catalog.json"), dir.join("catalog.fresh.json")];
    files.extend(fixture::names(&dir.join("layers")).iter().map(|n| dir.join("layers").join(n).join("complete")));
    for file in files.iter().filter(|f| f.exists()) {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, text.replace(boot.trim(), other)).unwrap();
    }
}

#[tokio::test]
async fn a_power_cut_keeps_what_was_synced_and_drops_what_is_in_doubt() {
    let store = store();
    store.import(layer("synced", 10), "synced:1").await.unwrap();
    store.store.sync().await.unwrap();
    let Store { store: open, home } = store;
    drop(open);
    let dir = home.path().join("images");
    // A layer and a catalog that were written but never synced, as a cut leaves them.
    age(&dir);
    let catalog = fs::read_to_string(dir.join("catalog.json")).unwrap();
    assert!(!catalog.contains("unsynced_since"));
    fs::write(dir.join("catalog.fresh.json"), &catalog[..catalog.len() / 2]).unwrap();
    let torn = dir.join("layers").join("ab".repeat(32));
    fs::create_dir_all(torn.join("fs")).unwrap();
    fs::write(torn.join("complete"), "").unwrap();
    let store = Store { store: ImageStore::open(&dir, Settings::default()).unwrap(), home };
    assert!(store.store.resolve("synced:1").unwrap().is_some());
    assert!(!torn.exists());

    // An image whose record was never vouched for, from another boot: gone with its layer, and no name is left.
    store.import(layer("doubt", 10), "doubt:1").await.unwrap();
    store.store.sync().await.unwrap();
    let Store { store: open, home } = store;
    drop(open);
    let mut catalog: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("catalog.json")).unwrap()).unwrap();
    let manifest = catalog["tags"]["docker.io/library/doubt:1"].as_str().unwrap().to_owned();
    catalog["images"][&manifest]["unsynced_since"] = "another boot".into();
    fs::write(dir.join("catalog.json"), serde_json::to_vec(&catalog).unwrap()).unwrap();
    age(&dir);
    let store = Store { store: ImageStore::open(&dir, Settings::default()).unwrap(), home };
    assert!(store.store.resolve("doubt:1").unwrap().is_none());
    assert!(store.store.resolve("synced:1").unwrap().is_some());
    assert_eq!(store.names("layers").len(), 1);
}

#[tokio::test]
async fn closing_the_store_makes_what_was_just_imported_durable() {
    let Store { store, home } = store();
    let options = ImportOptions::default();
    store.import(Cursor::new(layer("a", 10)), Some("a:1".parse().unwrap()), options).await.unwrap();
    drop(store);
    let catalog = fs::read_to_string(home.path().join("images/catalog.json")).unwrap();
    assert!(catalog.contains("library/a:1") && !catalog.contains("unsynced_since"), "{catalog}");
    assert!(!home.path().join("images/catalog.fresh.json").exists());
}

#[tokio::test]
async fn resolving_a_name_takes_microseconds() {
    let store = store();
    for at in 0..50 {
        store.import(layer(&format!("f{at}"), 1), &format!("registry.example:5000/team/app{at}:1")).await.unwrap();
    }
    let began = std::time::Instant::now();
    for _ in 0..1000 {
        assert!(store.store.resolve("registry.example:5000/team/app7:1").unwrap().is_some());
    }
    let each = began.elapsed() / 1000;
    assert!(each < std::time::Duration::from_micros(100), "{each:?}");
}

async fn load(store: &Store, archive: Vec<u8>) -> Result<Vec<Arc<Image>>, LoadError> {
    store.store.load(Cursor::new(archive), silent()).await
}

#[tokio::test]
async fn hostile_archives_are_refused_whole() {
    let good = layer("a", 10);
    let config = |ids: &[&[u8]]| {
        let ids: Vec<_> = ids.iter().map(|l| coppice_image::Digest::of(l)).collect();
        serde_json::to_vec(&serde_json::json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ids}}))
        .unwrap()
    };
    let manifest = |config: &str, tag: &str, layers: &[&str]| {
        serde_json::to_vec(&serde_json::json!([{"Config": config, "RepoTags": [tag], "Layers": layers}])).unwrap()
    };
    let archive =
        |files: &[(&str, &[u8])]| files.iter().fold(Tar::new(), |tar, (name, data)| tar.file(name, data)).bytes();
    let one = config(&[&good]);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("a root filesystem", good.clone()),
        ("climbing member", Tar::new().raw(tar::EntryType::Regular, b"../x", b"", b"1").bytes()),
        ("climbing link", Tar::new().symlink("manifest.json", "../../../etc/passwd").bytes()),
        ("absolute link", Tar::new().symlink("manifest.json", "/etc/passwd").bytes()),
        ("link to itself", Tar::new().symlink("manifest.json", "manifest.json").bytes()),
        ("device", Tar::new().raw(tar::EntryType::Char, b"manifest.json", b"", b"").bytes()),
        ("climbing config", archive(&[("manifest.json", &manifest("../../etc/passwd", "a:1", &[]))])),
        (
            "other layer than the configuration says",
            archive(&[("c", &one), ("l", &layer("b", 10)), ("manifest.json", &manifest("c", "a:1", &["l"]))]),
        ),
        ("bad name", archive(&[("c", &one), ("l", &good), ("manifest.json", &manifest("c", "../a:1", &["l"]))])),
        (
            "fewer layers than the configuration says",
            archive(&[("c", &one), ("manifest.json", &manifest("c", "a:1", &[]))]),
        ),
        ("wrong blob", {
            let digest = coppice_image::Digest::of(b"right");
            let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":5}}]}}"#);
            archive(&[("index.json", index.as_bytes()), (&format!("blobs/sha256/{}", digest.hex()), b"wrong")])
        }),
    ] {
        let store = store();
        assert!(load(&store, bytes).await.is_err(), "{what}");
        store.assert_empty();
    }
    // A bad image takes the good ones of its archive with it.
    let store = store();
    let both = serde_json::to_vec(&serde_json::json!([
        {"Config": "c", "RepoTags": ["good:1"], "Layers": ["l"]},
        {"Config": "c", "RepoTags": ["bad:1"], "Layers": ["missing"]},
    ]));
    let both = archive(&[("c", &one), ("l", &good), ("manifest.json", &both.unwrap())]);
    assert!(matches!(load(&store, both).await, Err(LoadError::Missing(_))));
    store.assert_empty();
    let fine = archive(&[("c", &one), ("l", &good), ("manifest.json", &manifest("c", "a:1", &["l"]))]);
    assert_eq!(load(&store, fine).await.unwrap().len(), 1);
}

#[tokio::test]
async fn archives_that_buildah_and_docker_layouts_with_links_make_load() {
    let home = tempfile::tempdir().unwrap();
    let place = |name: &str| home.path().join(name).display().to_string();
    let storage =
        ["--root".to_owned(), place("r"), "--runroot".into(), place("rr"), "--storage-driver".into(), "vfs".into()];
    let buildah = |args: &[&str]| {
        let mut all: Vec<&str> = storage.iter().map(String::as_str).collect();
        all.extend(args);
        run("buildah", &all)
    };
    fs::write(place("content"), "hello").unwrap();
    for format in ["oci", "docker"] {
        let container = buildah(&["from", "scratch"]);
        let container = container.trim();
        buildah(&["copy", container, &place("content"), "/srv/content"]);
        let health: &[&str] = if format == "docker" { &["--healthcheck", "CMD /bin/check"] } else { &[] };
        let mut args = vec!["config", "--cmd", "/bin/run", "--workingdir", "/srv", "--stop-signal", "SIGQUIT"];
        args.extend(health);
        args.push(container);
        buildah(&args);
        let name = format!("built.example/{format}:1");
        buildah(&["commit", "--format", format, container, &name]);
        let archive = place(&format!("{format}.tar"));
        buildah(&["push", &name, &format!("{format}-archive:{archive}:{name}")]);
        let store = store();
        let images = load(&store, fs::read(&archive).unwrap()).await.unwrap();
        let image = &images[0];
        assert_eq!((image.config.cmd.join(" "), &*image.config.working_dir), ("/bin/run".to_owned(), "/srv"));
        assert_eq!(image.config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(fs::read_to_string(image.layers.last().unwrap().join("srv/content")).unwrap(), "hello");
        assert_eq!(image.tags[0].full(), name);
        if format == "docker" {
            assert_eq!(image.config.healthcheck.as_ref().unwrap().test, ["CMD", "/bin/check"]);
        }
    }
}

#[tokio::test]
async fn an_import_on_top_of_an_image_has_its_layers_and_what_it_does_not_say_itself() {
    let store = store();
    let config = coppice_image::ImageConfig {
        entrypoint: vec!["/base".into()],
        cmd: vec!["serve".into()],
        env: vec!["PATH=/bin".into(), "A=base".into()],
        working_dir: "/srv".into(),
        ..Default::default()
    };
    let options = ImportOptions { config, ..Default::default() };
    let name = |text: &str| Some(text.parse::<Reference>().unwrap());
    let base = store.store.import(Cursor::new(layer("one", 10)), name("base:1"), options).await.unwrap();
    let config = coppice_image::ImageConfig {
        entrypoint: vec!["/app/bin/shop".into()],
        env: vec!["A=over".into()],
        ..Default::default()
    };
    let options = || ImportOptions { config: config.clone(), base: Some(base.clone()), ..Default::default() };
    let over = store.store.import(Cursor::new(layer("two", 20)), name("over:1"), options()).await.unwrap();
    assert_eq!((over.layers.len(), &over.layers[0]), (2, &base.layers[0]));
    assert_eq!(over.config.entrypoint, ["/app/bin/shop"]);
    assert!(over.config.cmd.is_empty(), "another entry point has its own arguments");
    assert_eq!(over.config.env, ["PATH=/bin", "A=over"]);
    assert_eq!((over.config.working_dir.as_str(), over.config.history.len()), ("/srv", 2));

    // The base's layers stay for as long as something is on them.
    store.store.remove("base:1", &BTreeSet::new(), false).unwrap();
    assert!(over.layers.iter().all(|layer| layer.is_dir()));
    let gone = store.store.import(Cursor::new(layer("three", 5)), name("late:1"), options()).await.unwrap_err();
    assert!(matches!(gone, coppice_image::ImportError::NoBase(id) if id == base.id), "{gone}");
}
