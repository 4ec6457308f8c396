//! Hostile layers: each is refused or confined, and leaves nothing behind.

mod fixture;

use std::io::Write;
use std::path::Path;

use coppice_image::{ImportError, LayerError, LayerLimits, Settings, TarError, UnpackError};
use fixture::{Store, Tar, store, store_with};
use tar::EntryType;

/// The layer is refused, and the store is as empty as before.
async fn refused(tar: Vec<u8>) -> UnpackError {
    refused_by(&store(), tar).await
}

async fn refused_by(store: &Store, tar: Vec<u8>) -> UnpackError {
    let error = store.import(tar, "evil:1").await.expect_err("the layer was taken");
    store.assert_empty();
    match error {
        ImportError::Layer(LayerError::Unpack(error)) => error,
        other => panic!("{other}"),
    }
}

fn limited(change: impl FnOnce(&mut LayerLimits)) -> Store {
    let mut settings = Settings::default();
    change(&mut settings.layer);
    store_with(settings)
}

fn is_refusal(error: &UnpackError) -> bool {
    matches!(error, UnpackError::Refused { .. })
}

#[tokio::test]
async fn an_entry_that_climbs_out_with_dot_dot_is_refused() {
    for name in ["../evil", "a/../../evil", "..", "a/.."] {
        let error = refused(Tar::new().raw(EntryType::Regular, name.as_bytes(), b"", b"x").bytes()).await;
        assert!(is_refusal(&error), "{name}: {error}");
    }
}

#[tokio::test]
async fn an_absolute_entry_lands_inside_the_layer() {
    let store = store();
    let marker = format!("/tmp/coppice-attack-{}", std::process::id());
    let tar = Tar::new().raw(EntryType::Regular, marker.as_bytes(), b"", b"x").bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    assert!(!Path::new(&marker).exists());
    assert_eq!(std::fs::read(image.layers[0].join(&marker[1..])).unwrap(), b"x");
}

#[tokio::test]
async fn writing_through_a_symlink_of_the_same_layer_stays_inside() {
    let store = store();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    // The link's target exists on the host but not in the layer.
    let error = refused_by(&store, Tar::new().symlink("x", target).file("x/evil", b"x").bytes()).await;
    assert!(matches!(error, UnpackError::Entry { .. }), "{error}");
    for climbing in ["../../../../../../../../../../tmp", "/"] {
        let name = format!("coppice-attack-{}", std::process::id());
        let tar = Tar::new().dir("tmp").symlink("x", climbing).file(&format!("x/{name}"), b"x").bytes();
        store.import(tar, "a:1").await.unwrap();
        assert!(!Path::new("/tmp").join(&name).exists() && !Path::new("/").join(&name).exists());
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_replaces_a_symlink_of_its_name_and_does_not_follow_it() {
    let store = store();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let tar = Tar::new().symlink("x", victim.to_str().unwrap()).file("x", b"evil").bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "safe");
    assert_eq!(std::fs::read(image.layers[0].join("x")).unwrap(), b"evil");
}

#[tokio::test]
async fn a_directory_entry_over_a_symlink_does_not_change_what_the_link_points_to() {
    let store = store();
    let outside = tempfile::tempdir().unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(outside.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let tar = Tar::new().symlink("x", outside.path().to_str().unwrap()).dir("x").file("x/in", b"1").bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    assert_eq!(std::fs::metadata(outside.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(std::fs::symlink_metadata(image.layers[0].join("x")).unwrap().is_dir());
}

#[tokio::test]
async fn a_link_into_proc_is_not_walked_through() {
    let store = store();
    for target in ["/proc/self/root", "/proc/self/fd/0", "/proc/1/cwd"] {
        let tar = Tar::new().symlink("x", target).file("x/tmp/evil", b"x").bytes();
        let error = refused_by(&store, tar).await;
        assert!(matches!(error, UnpackError::Entry { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_hard_link_to_a_host_file_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "secret").unwrap();
    let victim = victim.to_str().unwrap();
    for target in [victim, "/etc/passwd", "../../../../etc/passwd", "."] {
        let error = refused(Tar::new().hardlink("x", target).bytes()).await;
        assert!(is_refusal(&error), "{target}: {error}");
    }
    let through = Tar::new().symlink("up", "/").hardlink("x", &format!("up{victim}")).bytes();
    assert!(is_refusal(&refused(through).await));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(victim).unwrap().nlink(), 1);
}

#[tokio::test]
async fn device_nodes_are_counted_and_not_created() {
    let store = store();
    let tar = Tar::new()
        .dir("dev")
        .raw(EntryType::Char, b"dev/mem", b"", b"")
        .raw(EntryType::Block, b"dev/sda", b"", b"")
        .raw(EntryType::Fifo, b"dev/pipe", b"", b"")
        .bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    assert_eq!(image.devices_skipped, 2);
    assert_eq!(fixture::names(&image.layers[0].join("dev")), ["pipe"]);
}

#[tokio::test]
async fn a_whiteout_of_dot_dot_or_nothing_is_refused() {
    for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let error = refused(Tar::new().file(name, b"").bytes()).await;
        assert!(is_refusal(&error), "{name}: {error}");
    }
    assert!(is_refusal(&refused(Tar::new().file(".wh.a/b", b"").bytes()).await));
}

#[tokio::test]
async fn of_duplicate_entries_the_last_one_wins_whatever_their_types() {
    let store = store();
    let tar = Tar::new()
        .file("a", b"1")
        .file("a", b"22")
        .dir("b")
        .file("b/old", b"x")
        .file("b", b"file")
        .file("c", b"x")
        .dir("c")
        .file("c/new", b"y")
        .symlink("d", "a")
        .hardlink("d", "a")
        .dir("e")
        .file("e/kept", b"z")
        .dir("e")
        .bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    let root = &image.layers[0];
    assert_eq!(std::fs::read(root.join("a")).unwrap(), b"22");
    assert_eq!(std::fs::read(root.join("b")).unwrap(), b"file");
    assert_eq!(std::fs::read(root.join("c/new")).unwrap(), b"y");
    assert!(std::fs::symlink_metadata(root.join("d")).unwrap().is_file());
    assert_eq!(std::fs::read(root.join("e/kept")).unwrap(), b"z");
}

#[tokio::test]
async fn a_huge_sparse_file_counts_at_its_full_length() {
    let big = 1u64 << 50;
    let map = format!("{big},0");
    let tar = Tar::new()
        .pax(&[("GNU.sparse.size", big.to_string().as_bytes()), ("GNU.sparse.map", map.as_bytes())])
        .file("sparse", b"")
        .bytes();
    let error = refused(tar).await;
    assert!(matches!(error, UnpackError::TooBig(_)), "{error}");
}

#[tokio::test]
async fn a_sparse_map_that_does_not_fit_its_file_is_refused() {
    for (size, map) in [("10", "0,20"), ("10", "5,1,0,1"), ("10", "0,1,18446744073709551615,3"), ("10", "0,1")] {
        let tar = Tar::new()
            .pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())])
            .file("sparse", b"1234")
            .bytes();
        let error = refused(tar).await;
        assert!(matches!(error, UnpackError::Tar(TarError::Malformed(_))), "{map}: {error}");
    }
}

#[tokio::test]
async fn decompression_bombs_are_cut_off() {
    let zeros = vec![0; 64 << 20];
    let tar = Tar::new().file("zeros", &zeros).bytes();
    let gzip = {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(&tar).unwrap();
        out.finish().unwrap()
    };
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    for bomb in [gzip, zstd] {
        let store = limited(|limits| {
            limits.ratio_from = 1 << 20;
            limits.ratio = 100;
        });
        let error = refused_by(&store, bomb).await;
        assert!(matches!(error, UnpackError::Bomb(100)), "{error}");
    }
    // Zeros after the archive's end count as well.
    let mut padded = Tar::new().file("a", b"1").bytes();
    padded.extend(zeros);
    let store = limited(|limits| {
        limits.ratio_from = 1 << 20;
        limits.ratio = 100;
    });
    let error = refused_by(&store, zstd::encode_all(&padded[..], 1).unwrap()).await;
    assert!(matches!(error, UnpackError::Bomb(100)), "{error}");
}

#[tokio::test]
async fn layers_with_too_many_entries_or_bytes_are_refused() {
    let mut tar = Tar::new();
    for at in 0..20 {
        tar = tar.file(&format!("f{at}"), b"x");
    }
    let tar = tar.bytes();
    let error = refused_by(&limited(|limits| limits.entries = 10), tar.clone()).await;
    assert!(matches!(error, UnpackError::TooManyEntries(10)), "{error}");
    let error = refused_by(&limited(|limits| limits.bytes = 15), tar).await;
    assert!(matches!(error, UnpackError::TooBig(15)), "{error}");
}

#[tokio::test]
async fn names_and_headers_beyond_every_bound_are_refused() {
    let long = "d/".repeat(3000);
    let deep = "d/".repeat(500);
    let wide = "n".repeat(300);
    for path in [&long, &deep, &wide] {
        let error = refused(Tar::new().pax(&[("path", path.as_bytes())]).file("x", b"").bytes()).await;
        assert!(is_refusal(&error), "{error}");
    }
    let nul = refused(Tar::new().pax(&[("path", b"a\0b")]).file("x", b"").bytes()).await;
    assert!(is_refusal(&nul), "{nul}");
    let huge = vec![b'x'; 2 << 20];
    let error = refused(Tar::new().pax(&[("comment", &huge)]).file("x", b"").bytes()).await;
    assert!(matches!(error, UnpackError::Tar(TarError::HeaderTooLong(_))), "{error}");
    // Many headers before one entry count together.
    let mut chain = Tar::new();
    for at in 0..3000 {
        chain = chain.pax(&[(&format!("SCHILY.xattr.user.n{at}"), &[b'v'; 500])]);
    }
    let error = refused(chain.file("x", b"").bytes()).await;
    assert!(matches!(error, UnpackError::Tar(TarError::HeaderTooLong(_))), "{error}");
    for (key, value) in [("uid", "4294967295"), ("gid", "99999999999")] {
        let error = refused(Tar::new().pax(&[(key, value.as_bytes())]).file("x", b"").bytes()).await;
        assert!(is_refusal(&error), "{error}");
    }
}

#[tokio::test]
async fn attributes_that_steer_overlayfs_cannot_come_from_an_image() {
    let store = store();
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.user.fine", b"1"),
        ])
        .dir("d")
        .bytes();
    let image = store.import(tar, "a:1").await.unwrap();
    let mut names = vec![0; 1000];
    let directory = std::fs::File::open(image.layers[0].join("d")).unwrap();
    let length = rustix::fs::flistxattr(&directory, &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.fine\0");
}

#[tokio::test]
async fn what_is_not_a_tar_or_stops_in_the_middle_is_refused() {
    let whole = Tar::new().file("a", &[1; 4000]).bytes();
    for bad in [b"#!/bin/sh\necho no\n".repeat(100), whole[..1000].to_vec(), whole[..100].to_vec()] {
        let error = refused(bad).await;
        assert!(matches!(error, UnpackError::Tar(_)), "{error}");
    }
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(&whole).unwrap();
    let gzip = out.finish().unwrap();
    refused(gzip[..gzip.len() / 2].to_vec()).await;
}
