//! Archives that other tools made.

mod fixture;

use coppice_image::silent;
use fixture::{Store, Tar, run, store};

async fn load(store: &Store, path: &std::path::Path) -> Vec<std::sync::Arc<coppice_image::Image>> {
    let file = tokio::fs::File::open(path).await.unwrap();
    store.store.load(file, silent()).await.unwrap()
}

/// An OCI layout of two layers, made by umoci, tagged `t`.
fn umoci_layout(home: &std::path::Path) -> String {
    let layout = home.join("layout").to_str().unwrap().to_owned();
    let image = format!("{layout}:t");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    for (name, text) in [("one", "1"), ("two", "2")] {
        let bundle = home.join(format!("bundle-{name}"));
        let bundle = bundle.to_str().unwrap();
        run("umoci", &["unpack", "--image", &image, bundle]);
        std::fs::create_dir_all(format!("{bundle}/rootfs/etc")).unwrap();
        std::fs::write(format!("{bundle}/rootfs/etc/{name}"), text).unwrap();
        if name == "two" {
            std::fs::remove_file(format!("{bundle}/rootfs/etc/one")).unwrap();
        }
        run("umoci", &["repack", "--image", &image, bundle]);
    }
    run(
        "umoci",
        &["config", "--image", &image, "--config.cmd", "/bin/x", "--config.env", "A=b", "--config.user", "7:8"],
    );
    layout
}

#[tokio::test]
async fn archives_that_skopeo_writes_of_an_umoci_image_load_in_both_formats() {
    let store = store();
    let layout = umoci_layout(store.home.path());
    for (format, name) in [("docker-archive", "example.com/a/docker:1"), ("oci-archive", "example.com/a/oci:1")] {
        let path = store.home.path().join(format);
        let target = format!("{format}:{}:{name}", path.to_str().unwrap());
        run("skopeo", &["copy", "--insecure-policy", &format!("oci:{layout}:t"), &target]);
        let images = load(&store, &path).await;
        assert_eq!(images.len(), 1);
        let image = store.store.resolve(name).unwrap().unwrap();
        assert_eq!(image.config.cmd, ["/bin/x"]);
        assert_eq!(image.config.user, "7:8");
        assert!(image.config.env.contains(&"A=b".to_owned()));
        assert_eq!(image.layers.len(), 2);
        assert_eq!(std::fs::read_to_string(image.layers[0].join("etc/one")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(image.layers[1].join("etc/two")).unwrap(), "2");
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let whiteout = std::fs::symlink_metadata(image.layers[1].join("etc/one")).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    }
    // Both archives have the same layers, so they are there once.
    assert_eq!(store.names("layers").len(), 2);
    assert_eq!(store.names("ingest"), Vec::<String>::new());
}

#[tokio::test]
async fn an_imported_root_is_found_again_after_reopening() {
    let store = store();
    let tar = Tar::new().dir("./").dir("etc/").file("etc/a", b"hello").symlink("b", "/etc/a").bytes();
    let image = store.import(tar, "root:1").await.unwrap();
    store.store.sync().await.unwrap();
    let id = image.id;
    let store = store.reopen(Default::default());
    for name in ["root:1", "docker.io/library/root:1", &id.to_string(), &id.short(), &id.hex()[..4]] {
        assert_eq!(store.store.resolve(name).unwrap().unwrap().id, id, "{name}");
    }
    assert!(store.store.resolve("root:2").unwrap().is_none());
    let image = store.store.resolve("root:1").unwrap().unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("etc/a")).unwrap(), b"hello");
}

#[tokio::test]
async fn a_debian_root_with_a_real_redis_is_imported_as_gnu_tar_would_unpack_it() {
    let tar = fixture::debian::redis_root();
    let store = store();
    let config = coppice_image::ImageConfig {
        entrypoint: vec!["/usr/bin/redis-server".into()],
        cmd: vec!["--port".into(), "0".into()],
        exposed_ports: vec!["6379/tcp".into()],
        ..Default::default()
    };
    let options = coppice_image::ImportOptions { config, ..Default::default() };
    let file = tokio::fs::File::open(&tar).await.unwrap();
    let image = store.store.import(file, Some("redis:7".parse().unwrap()), options).await.unwrap();
    let root = &image.layers[0];
    let theirs = store.home.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let tar = tar.to_str().unwrap();
    run("tar", &["--numeric-owner", "--exclude=./dev/*", "-C", theirs.to_str().unwrap(), "-xpf", tar]);
    // Type, mode, owner, size, time and target of everything but devices, which are not made.
    let listing = |root: &std::path::Path| {
        let format = "%P %y %m %U %G %l %T@ %s\n";
        let place = root.to_str().unwrap();
        let files = run("find", &[place, "-not", "-path", "*/dev/*", "-not", "-type", "d", "-printf", format]);
        let directories =
            run("find", &[place, "-not", "-path", "*/dev/*", "-type", "d", "-printf", "%P %m %U %G %T@\n"]);
        let mut lines: Vec<String> = files.lines().chain(directories.lines()).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (ours, theirs) = (listing(root), listing(&theirs));
    let different: Vec<_> = ours.iter().zip(&theirs).filter(|(a, b)| a != b).take(5).collect();
    assert!(ours.len() == theirs.len() && different.is_empty(), "{} {} {different:#?}", ours.len(), theirs.len());
    assert!(ours.len() > 2000);
    let output = std::process::Command::new("chroot").arg(root).args(["/usr/bin/redis-server", "--version"]).output();
    let output = output.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Redis server"), "{output:?}");
}
