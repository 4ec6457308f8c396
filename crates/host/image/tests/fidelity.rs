//! What a layer says is what is on disk: owners, modes, times, attributes, links, whiteouts; and it comes back out.

mod fixture;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use coppice_image::{ArchiveFormat, pack_layer, silent};
use fixture::{Tar, run, store};
use rustix::fs::XattrFlags;

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// A tree with one of everything, made on disk.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("bin/deep")).unwrap();
    fs::write(root.join("bin/su"), "program").unwrap();
    fs::hard_link(root.join("bin/su"), root.join("bin/su-link")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at all", root.join("dangling")).unwrap();
    let long = "very-long-name-".repeat(12);
    fs::write(root.join(&long), "long").unwrap();
    fs::write(root.join("bin/deep/ünïcode"), "u").unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    let own = |path: &str, uid, gid| std::os::unix::fs::lchown(root.join(path), Some(uid), Some(gid)).unwrap();
    own("bin/su", 1000, 50);
    own("dangling", 7, 8);
    own("bin/deep", 3_000_000, 3_000_001);
    let mode = |path: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/su", 0o6755);
    mode("bin/deep", 0o1777);
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    // cap_net_bind_service=ep, revision 2.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("bin/su", "security.capability", &capability);
    set("bin/deep", "user.note", b"hello\0world");
    let file = fs::File::create(root.join("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_at(b"middle", 5 << 20).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    for path in ["bin/su", "bin", "sparse"] {
        fs::File::open(root.join(path)).unwrap().set_modified(old).unwrap();
    }
}

fn assert_tree(root: &Path) {
    let found = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    let su = found("bin/su");
    assert_eq!((su.uid(), su.gid(), su.mode() & 0o7777), (1000, 50, 0o6755));
    assert_eq!((su.mtime(), su.nlink()), (1_234_567_890, 2));
    assert_eq!(su.ino(), found("bin/su-link").ino());
    assert_eq!(found("bin").mtime(), 1_234_567_890);
    let deep = found("bin/deep");
    assert_eq!((deep.uid(), deep.gid(), deep.mode() & 0o7777), (3_000_000, 3_000_001, 0o1777));
    assert_eq!((found("dangling").uid(), found("dangling").gid()), (7, 8));
    assert_eq!(fs::read_link(root.join("dangling")).unwrap(), Path::new("/nowhere/at all"));
    assert!(found("fifo").file_type().is_fifo());
    assert_eq!(found("fifo").mode() & 0o777, 0o640);
    assert_eq!(fs::read(root.join("very-long-name-".repeat(12))).unwrap(), b"long");
    assert_eq!(fs::read(root.join("bin/deep/ünïcode")).unwrap(), b"u");
    assert_eq!(xattr(&root.join("bin/su"), "security.capability").unwrap().len(), 20);
    assert_eq!(xattr(&root.join("bin/deep"), "user.note").unwrap(), b"hello\0world");
    let sparse = fs::read(root.join("sparse")).unwrap();
    assert_eq!((sparse.len(), &sparse[5 << 20..(5 << 20) + 6]), (10 << 20, &b"middle"[..]));
}

#[tokio::test]
async fn gnu_tars_of_every_format_unpack_to_the_same_tree() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    tree(&root);
    let store = store();
    // GNU tar keeps attributes only in posix format; the sparse flag makes all its sparse kinds.
    for options in [
        &["--format=posix", "--xattrs", "--xattrs-include=*"][..],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=1.0"],
    ] {
        let tar = home.path().join("out.tar");
        let mut args = vec!["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap()];
        args.extend(options);
        args.push(".");
        run("tar", &args);
        let image = store.import(fs::read(&tar).unwrap(), "a:1").await.unwrap();
        assert_tree(&image.layers[0]);
        if options.contains(&"--sparse") {
            let sparse = fs::metadata(image.layers[0].join("sparse")).unwrap();
            assert!(sparse.blocks() * 512 < 1 << 20, "{options:?}: the holes were filled");
        }
    }
    let tar = home.path().join("gnu.tar");
    let args = ["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "--format=gnu", "--sparse", "."];
    run("tar", &args);
    let image = store.import(fs::read(&tar).unwrap(), "gnu:1").await.unwrap();
    let sparse = fs::read(image.layers[0].join("sparse")).unwrap();
    assert_eq!((sparse.len(), &sparse[5 << 20..(5 << 20) + 6]), (10 << 20, &b"middle"[..]));
    assert_eq!(fs::read(image.layers[0].join("very-long-name-".repeat(12))).unwrap(), b"long");
}

#[tokio::test]
async fn whiteouts_become_overlay_devices_and_opaque_marks() {
    let store = store();
    let tar = Tar::new()
        .dir("a")
        .file("a/.wh.gone", b"")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"1")
        .file(".wh.replaced", b"")
        .dir("replaced")
        .file("replaced/new", b"2")
        .dir("later")
        .file("later/new", b"3")
        .file(".wh.later", b"")
        .file(".wh..wh.plnk", b"")
        .bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    let root = &image.layers[0];
    let gone = fs::symlink_metadata(root.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["opaque", "replaced", "later"] {
        assert_eq!(xattr(&root.join(opaque), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]), "{opaque}");
        assert!(root.join(opaque).join("new").exists());
    }
    assert_eq!(xattr(&root.join("a"), "trusted.overlay.opaque"), None);
    assert_eq!(fixture::names(root), ["a", "later", "opaque", "replaced"]);
}

#[tokio::test]
async fn packing_a_layer_puts_whiteouts_back_and_always_gives_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let store = store();
    tree(&home.path().join("root"));
    let mut first = Vec::new();
    pack_layer(&home.path().join("root"), &mut first).unwrap();
    let image = store.import(first.clone(), "a:1").await.unwrap();
    assert_tree(&image.layers[0]);
    let mut second = Vec::new();
    pack_layer(&image.layers[0], &mut second).unwrap();
    assert!(first == second, "the second packing differs");
    // Another tool reads it too.
    let path = home.path().join("first.tar");
    fs::write(&path, &first).unwrap();
    assert!(run("tar", &["-tvf", path.to_str().unwrap()]).contains("-rwsr-sr-x 1000/50"));

    let marks = Tar::new().dir("a").file("a/.wh.gone", b"").dir("b").file("b/.wh..wh..opq", b"").bytes();
    let image = store.import(marks, "b:1").await.unwrap();
    let mut packed = Vec::new();
    pack_layer(&image.layers[0], &mut packed).unwrap();
    let path = home.path().join("marks.tar");
    fs::write(&path, &packed).unwrap();
    let listed = run("tar", &["-tf", path.to_str().unwrap()]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["./", "a/", "a/.wh.gone", "b/", "b/.wh..wh..opq"]);
}

#[tokio::test]
async fn export_shows_what_the_stacked_layers_show() {
    let store = store();
    let layers = [
        Tar::new().dir("etc").file("etc/kept", b"1").file("etc/gone", b"1").dir("op").file("op/old", b"1"),
        Tar::new().dir("etc").file("etc/.wh.gone", b"").file("etc/new", b"2").dir("op").file("op/.wh..wh..opq", b""),
        Tar::new().dir("op").file("op/last", b"3").file("etc/kept", b"3").hardlink("etc/same", "etc/kept"),
    ];
    let home = tempfile::tempdir().unwrap();
    let layout = home.path().join("layout").to_str().unwrap().to_owned();
    let image = format!("{layout}:t");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    for layer in layers {
        let tar = home.path().join("layer.tar");
        fs::write(&tar, layer.bytes()).unwrap();
        run("umoci", &["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]);
    }
    let archive = home.path().join("a.tar");
    let target = format!("oci-archive:{}:x.example/a:1", archive.to_str().unwrap());
    run("skopeo", &["copy", "--insecure-policy", &format!("oci:{image}"), &target]);
    store.store.load(tokio::fs::File::open(&archive).await.unwrap(), silent()).await.unwrap();
    let out = home.path().join("root.tar");
    store.store.export("x.example/a:1", tokio::fs::File::create(&out).await.unwrap()).await.unwrap();
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    run("tar", &["-C", root.to_str().unwrap(), "-xf", out.to_str().unwrap()]);
    assert_eq!(fixture::names(&root.join("etc")), ["kept", "new", "same"]);
    assert_eq!(fixture::names(&root.join("op")), ["last"]);
    assert_eq!(fs::read(root.join("etc/same")).unwrap(), b"3");
    // As umoci sees it.
    let bundle = home.path().join("bundle");
    run("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let theirs = bundle.join("rootfs");
    let difference = std::process::Command::new("diff").args(["-r"]).args([&root, &theirs]).output().unwrap();
    assert!(difference.status.success(), "{}", String::from_utf8_lossy(&difference.stdout));
}

#[tokio::test]
async fn saved_archives_are_reproducible_and_other_tools_read_them() {
    let store = store();
    let tar = Tar::new().dir("etc").file("etc/a", b"1").bytes();
    let compressed = zstd::encode_all(&tar[..], 3).unwrap();
    let image = store.import(compressed, "saved.example/a:1").await.unwrap();
    store.store.tag("saved.example/a:1", &"saved.example/b:2".parse().unwrap()).unwrap();
    let home = tempfile::tempdir().unwrap();
    for (format, transport) in [(ArchiveFormat::Docker, "docker-archive"), (ArchiveFormat::Oci, "oci-archive")] {
        let mut bytes = Vec::new();
        for path in [home.path().join("one"), home.path().join("two")] {
            let names = ["saved.example/a:1".to_owned(), "saved.example/b:2".to_owned()];
            store.store.save(&names, format, tokio::fs::File::create(&path).await.unwrap()).await.unwrap();
            bytes.push(fs::read(&path).unwrap());
        }
        assert!(bytes[0] == bytes[1], "{transport} differs from one time to the next");
        let source = format!("{transport}:{}:saved.example/b:2", home.path().join("one").display());
        let target = format!("dir:{}", home.path().join(transport).display());
        run("skopeo", &["copy", "--insecure-policy", &source, &target]);
        let fresh = fixture::store();
        let file = tokio::fs::File::open(home.path().join("one")).await.unwrap();
        fresh.store.load(file, silent()).await.unwrap();
        for name in ["saved.example/a:1", "saved.example/b:2"] {
            assert_eq!(fresh.store.resolve(name).unwrap().unwrap().id, image.id);
        }
    }
}
