//! Pull and push against Debian's docker-registry, with images that other tools made.

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use coppice_image::{
    Credentials, Image, LayerState, Progress, PullError, PullOptions, PullPolicy, PushOptions, Reference,
    RegistryError, Settings, silent,
};
use fixture::registry::{Registry, RegistryOptions};
use fixture::{Store, Tar, run, store, store_with};

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn pull(store: &Store, name: &str) -> Result<Arc<Image>, PullError> {
    store.store.pull(&reference(name), PullOptions::default(), silent()).await
}

/// Three layers: two with files, the last replacing and removing some.
fn layers() -> [Vec<u8>; 3] {
    [
        Tar::new().dir("./").dir("etc/").file("etc/one", b"1").file("etc/gone", b"x").bytes(),
        Tar::new().dir("etc/").file("etc/two", &vec![b'2'; 300_000]).bytes(),
        Tar::new().dir("etc/").file("etc/one", b"changed").file("etc/.wh.gone", b"").bytes(),
    ]
}

/// An OCI layout with these layers, by umoci, as tag `t`.
fn layout(home: &Path, layers: &[Vec<u8>]) -> String {
    let path = home.join("layout").to_str().unwrap().to_owned();
    let image = format!("{path}:t");
    run("umoci", &["init", "--layout", &path]);
    run("umoci", &["new", "--image", &image]);
    for (at, layer) in layers.iter().enumerate() {
        let tar = home.join(format!("layer-{at}.tar"));
        std::fs::write(&tar, layer).unwrap();
        run("umoci", &["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]);
    }
    run("umoci", &["config", "--image", &image, "--config.entrypoint", "/bin/x", "--config.exposedports", "80/tcp"]);
    path
}

fn publish(registry: &Registry, layout: &str, name: &str, options: &[&str]) {
    let mut args = vec!["copy", "--insecure-policy", "--dest-tls-verify=false"];
    args.extend(options);
    let (source, target) = (format!("oci:{layout}:t"), format!("docker://{}", registry.name(name)));
    args.extend([source.as_str(), &target]);
    run("skopeo", &args);
}

fn assert_content(image: &Image) {
    assert_eq!(image.layers.len(), 3);
    let read = |at: usize, path: &str| std::fs::read(image.layers[at].join(path)).unwrap();
    assert_eq!(read(0, "etc/one"), b"1");
    assert_eq!(read(1, "etc/two"), vec![b'2'; 300_000]);
    assert_eq!(read(2, "etc/one"), b"changed");
    use std::os::unix::fs::FileTypeExt;
    assert!(std::fs::symlink_metadata(image.layers[2].join("etc/gone")).unwrap().file_type().is_char_device());
    assert_eq!(image.config.entrypoint, ["/bin/x"]);
    assert_eq!(image.config.exposed_ports, ["80/tcp"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_both_formats_and_all_compressions_are_pulled_whole() {
    let registry = Registry::start(RegistryOptions::default());
    let layout = layout(registry.home.path(), &layers());
    let kinds: [(&str, &[&str]); 3] = [
        ("oci-gzip", &["--format", "oci"]),
        ("docker-gzip", &["--format", "v2s2"]),
        ("oci-zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
    ];
    for (name, options) in kinds {
        publish(&registry, &layout, &format!("x/{name}:1"), options);
        let store = store();
        let image = pull(&store, &registry.name(&format!("x/{name}:1"))).await.unwrap();
        assert_content(&image);
        assert_eq!(store.names("layers").len(), 3, "{name}");
        assert_eq!(store.names("ingest"), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_tells_of_every_layer_and_a_second_pull_finds_all_there() {
    let registry = Registry::start(RegistryOptions::default());
    publish(&registry, &layout(registry.home.path(), &layers()), "x:1", &[]);
    let store = store();
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let sink = {
        let told = told.clone();
        Arc::new(move |progress| told.lock().unwrap().push(progress)) as coppice_image::ProgressSink
    };
    let name = reference(&registry.name("x:1"));
    let always = PullOptions { policy: PullPolicy::Always, ..Default::default() };
    store.store.pull(&name, always.clone(), sink.clone()).await.unwrap();
    let first = std::mem::take(&mut *told.lock().unwrap());
    let count = |list: &[Progress], state: LayerState| list.iter().filter(|p| p.state == state).count();
    assert_eq!(count(&first, LayerState::Waiting), 3);
    assert_eq!(count(&first, LayerState::Done), 3);
    let complete = |p: &&Progress| matches!(p.state, LayerState::Downloading { done, total } if done == total);
    assert_eq!(first.iter().filter(complete).count(), 3);
    store.store.pull(&name, always, sink).await.unwrap();
    let second = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(count(&second, LayerState::Exists), 3);
    // With the registry gone, what is here is still found, and nothing is asked of it.
    drop(registry);
    store.store.pull(&name, PullOptions::default(), silent()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_what_skopeo_sees_and_can_be_pulled_back() {
    let registry = Registry::start(RegistryOptions::default());
    let first = store();
    let [one, ..] = layers();
    first.import(one, "made:1").await.unwrap();
    let name = registry.name("team/made:2");
    let digest = first.store.push("made:1", &reference(&name), PushOptions::default(), silent()).await.unwrap();
    let seen =
        run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}"), "--format", "{{.Digest}}"]);
    assert_eq!(seen.trim(), digest.to_string());
    let second = store();
    let image = pull(&second, &name).await.unwrap();
    assert_eq!(image.manifest_digest, digest);
    assert_eq!(image.id, first.store.resolve("made:1").unwrap().unwrap().id);
    let by_digest = format!("{}@{digest}", registry.name("team/made"));
    assert_eq!(second.store.resolve(&by_digest).unwrap().unwrap().id, image.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_login_gives_only_to_who_has_it() {
    let registry =
        Registry::start(RegistryOptions { login: Some(("ada", "s3cret:with:colons")), ..Default::default() });
    let layout = layout(registry.home.path(), &layers());
    publish(&registry, &layout, "x:1", &["--dest-creds", "ada:s3cret:with:colons"]);
    let name = reference(&registry.name("x:1"));
    let store = store();
    let with = |credentials| PullOptions { credentials, ..Default::default() };
    let basic = |password: &str| Credentials::Basic { username: "ada".into(), password: password.into() };
    for bad in [Credentials::Anonymous, basic("wrong")] {
        let error = store.store.pull(&name, with(bad), silent()).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::Denied { .. })), "{error}");
        store.assert_empty();
    }
    store.store.pull(&name, with(basic("s3cret:with:colons")), silent()).await.unwrap();
    let options = PushOptions { credentials: basic("s3cret:with:colons"), ..Default::default() };
    store.store.push(&name.full(), &reference(&registry.name("y:2")), options, silent()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_come_from_docker_config_its_helpers_and_its_store() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-coppicetest");
    let script = "#!/bin/sh\nread -r server\ncase \"$server\" in\nhelped.example)\n\
                  echo '{\"ServerURL\":\"x\",\"Username\":\"h\",\"Secret\":\"hp\"}';;\n\
                  stored.example) echo '{\"Username\":\"<token>\",\"Secret\":\"tok\"}';;\n\
                  *) echo 'credentials not found in native keychain'; exit 1;; esac\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = home.path().join("config.json");
    let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "aHViOnB3"}, "plain.example": {"auth": "dTpwOnE="},
        "bad.example": {"auth": "%%%"}}, "credHelpers": {"helped.example": "coppicetest", "evil.example": "../../bin/sh"},
        "credsStore": "coppicetest"}"#;
    std::fs::write(&path, config).unwrap();
    let search = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let read = |registry: &'static str| {
        let (path, search) = (path.clone(), search.clone());
        async move { Credentials::from_docker_config_in(&path, registry, Some(search.as_ref())).await }
    };
    let basic = |u: &str, p: &str| Credentials::Basic { username: u.into(), password: p.into() };
    assert_eq!(read("docker.io").await.unwrap(), basic("hub", "pw"));
    assert_eq!(read("plain.example").await.unwrap(), basic("u", "p:q"));
    assert_eq!(read("helped.example").await.unwrap(), basic("h", "hp"));
    assert_eq!(read("stored.example").await.unwrap(), Credentials::IdentityToken("tok".into()));
    assert_eq!(read("unknown.example").await.unwrap(), Credentials::Anonymous);
    assert!(read("bad.example").await.is_err());
    assert!(read("evil.example").await.is_err());
    let missing = Credentials::from_docker_config(&home.path().join("none.json"), "x.example").await.unwrap();
    assert_eq!(missing, Credentials::Anonymous);
    assert!(!format!("{:?}", basic("u", "secret")).contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_its_own_authority_is_trusted_only_when_that_is_said() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(home.path());
    let registry = Registry::start(RegistryOptions { tls: Some((certificate.clone(), key)), ..Default::default() });
    publish(&registry, &layout(registry.home.path(), &layers()), "x:1", &[]);
    let name = format!("localhost:{}/x:1", registry.address.port());
    let stranger = store();
    let error = pull(&stranger, &name).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Tls { .. })), "{error}");
    let friend = store_with(Settings { extra_roots: vec![certificate], ..Settings::default() });
    assert_content(&pull(&friend, &name).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_tried_in_order_and_then_the_registry() {
    let registry = Registry::start(RegistryOptions::default());
    let dead = format!("127.0.0.1:{}", fixture::registry::free_port());
    publish(&registry, &layout(registry.home.path(), &layers()), "library/x:1", &[]);
    let mirrors = |list: Vec<String>| {
        let origin = if list.len() == 1 { registry.address.to_string() } else { "docker.io".to_owned() };
        let mut settings = Settings { mirrors: [(origin, list)].into(), ..Settings::default() };
        settings.transfer.attempts = 1;
        settings
    };
    // docker.io cannot be reached here, so what comes came from the second mirror.
    let mirrored = store_with(mirrors(vec![dead.clone(), registry.address.to_string()]));
    assert_content(&pull(&mirrored, "x:1").await.unwrap());
    assert!(mirrored.store.resolve("docker.io/library/x:1").unwrap().is_some());
    let direct = store_with(mirrors(vec![dead]));
    assert_content(&pull(&direct, &registry.name("library/x:1")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_resolved_for_this_machine_and_a_missing_architecture_is_named() {
    let registry = Registry::start(RegistryOptions::default());
    let layout = layout(registry.home.path(), &layers());
    publish(&registry, &layout, "index:one", &[]);
    // An index with an s390x and a host entry, and one with only s390x, put together by buildah.
    let host = format!("docker://{}", registry.name("index:one"));
    let names = [format!("coppice-both-{}", std::process::id()), format!("coppice-foreign-{}", std::process::id())];
    let storage = registry.home.path().join("buildah");
    let storage = [
        "--root".to_owned(),
        storage.join("r").display().to_string(),
        "--runroot".into(),
        storage.join("rr").display().to_string(),
    ];
    let buildah = |args: &[&str]| {
        let mut all: Vec<&str> = storage.iter().map(String::as_str).collect();
        all.extend(args);
        run("buildah", &all)
    };
    for (name, with_host) in names.iter().zip([true, false]) {
        buildah(&["manifest", "create", name]);
        buildah(&["manifest", "add", "--tls-verify=false", "--arch", "s390x", "--os", "linux", name, &host]);
        if with_host {
            publish(&registry, &layout, "index:two", &["--dest-compress-format", "zstd"]);
            let host = format!("docker://{}", registry.name("index:two"));
            buildah(&["manifest", "add", "--tls-verify=false", name, &host]);
        }
        let target = format!("docker://{}", registry.name(&format!("index:{with_host}")));
        buildah(&["manifest", "push", "--all", "--tls-verify=false", name, &target]);
    }
    let store = store();
    assert_content(&pull(&store, &registry.name("index:true")).await.unwrap());
    let error = pull(&store, &registry.name("index:false")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PullError::Manifest { .. }) && text.contains("linux/s390x"), "{text}");
    assert!(text.contains("linux/amd64") || text.contains("linux/arm64"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_names_and_dead_registries_say_so() {
    let registry = Registry::start(RegistryOptions::default());
    let store = store();
    let error = pull(&store, &registry.name("no/such:1")).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::NotFound { .. })), "{error}");
    let never = PullOptions { policy: PullPolicy::Never, ..Default::default() };
    let error = store.store.pull(&reference(&registry.name("no/such:1")), never, silent()).await.unwrap_err();
    assert!(matches!(error, PullError::NotHere(_)), "{error}");
    let name = registry.name("x:1");
    drop(registry);
    let mut settings = Settings::default();
    settings.transfer.attempts = 2;
    let store = store_with(settings);
    let error = pull(&store, &name).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Connect { .. })), "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_the_same_image_at_once_share_the_work() {
    let registry = Registry::start(RegistryOptions::default());
    publish(&registry, &layout(registry.home.path(), &layers()), "x:1", &[]);
    let store = store();
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let one = |name: String| {
        let told = told.clone();
        let sink = Arc::new(move |progress| told.lock().unwrap().push(progress)) as coppice_image::ProgressSink;
        let store = store.store.clone();
        async move { store.pull(&reference(&name), PullOptions::default(), sink).await.unwrap() }
    };
    let (a, b) = tokio::join!(one(registry.name("x:1")), one(registry.name("x:1")));
    assert_eq!(a.id, b.id);
    let told = told.lock().unwrap();
    let count = |state| told.iter().filter(|p| p.state == state).count();
    assert_eq!((count(LayerState::Done), count(LayerState::Exists)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_from_https_to_plain_http_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(home.path());
    let redirect = Some("http://127.0.0.1:9/".to_owned());
    let tls = Some((certificate.clone(), key));
    let registry = Registry::start(RegistryOptions { tls, redirect, ..Default::default() });
    publish(&registry, &layout(registry.home.path(), &layers()), "x:1", &[]);
    let store = store_with(Settings { extra_roots: vec![certificate], ..Settings::default() });
    let error = pull(&store, &registry.name("x:1")).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Downgrade { .. })), "{error}");
    store.assert_empty();
}

/// A certificate of its own authority for this machine, and its key.
fn certificate(home: &Path) -> (PathBuf, PathBuf) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let (certificate, key) = (home.join("cert.pem"), home.join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}
