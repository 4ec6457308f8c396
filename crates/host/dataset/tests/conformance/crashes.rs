//! A crash at each step leaves the old or the new, whole; and a full disk loses nothing.

use std::fs;

use crate::ground::{Ground, On, TREES, named, read, snapshot, stamps};

#[test]
fn a_switch_that_was_cut_off_at_any_step_is_undone_or_finished_by_whoever_looks_next() {
    for ground in TREES.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let folder = ground.root().join("shop/data");
        let store = &ground.store;
        store.stamp(&name, &stamps(&[("release", "1")])).unwrap();
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        // What a switch makes first, before it cuts anything: taken from a dataset beside.
        let prepare = || {
            let beside = named("beside");
            let made = store.clone_to(&name, &snapshot("r1"), &beside).unwrap();
            fs::rename(made, folder.join("next")).unwrap();
            fs::write(ground.root().join("shop/beside/head"), "").unwrap();
            fs::remove_dir_all(ground.root().join("shop/beside")).unwrap();
        };
        fs::write(head.join("file"), "two").unwrap();
        store.stamp(&name, &stamps(&[("release", "2")])).unwrap();

        // Cut off before the old head was renamed: the old one, and nothing of the new.
        prepare();
        let found = ground.reopened().inspect(&name).unwrap();
        assert_eq!((read(head.join("file")), found.stamps.get("release")), ("two".into(), Some("2")));
        assert!(!folder.join("next").exists());

        // Cut off after: the new one, and the old one kept.
        prepare();
        fs::rename(&head, folder.join("snapshots/cut")).unwrap();
        let found = ground.reopened().inspect(&name).unwrap();
        assert_eq!((read(head.join("file")), found.stamps.get("release")), ("one".into(), Some("1")));
        assert_eq!(found.snapshots[0].stamps.get("release"), Some("2"));
        assert_eq!(read(folder.join("snapshots/cut/file")), "two");
        if ground.on == On::Btrfs {
            fs::write(folder.join("snapshots/cut/file"), "no").expect_err("what was cut is closed");
        }
        fs::write(head.join("file"), "three").unwrap();
        store.switch(&name, &snapshot("cut"), &snapshot("cut-2")).unwrap();
        assert_eq!(read(head.join("file")), "two");
    }
}

#[test]
fn halves_of_snapshots_and_datasets_are_nobodys_and_go() {
    for ground in TREES.map(Ground::new) {
        let (name, _) = ground.dataset("data");
        let store = &ground.store;
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let snapshots = ground.root().join("shop/data/snapshots");
        // A snapshot that was being made, or removed.
        fs::rename(snapshots.join("r1"), snapshots.join(".aside-r1")).unwrap();
        assert!(ground.reopened().inspect(&name).unwrap().snapshots.is_empty());
        assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 0);
        // A dataset that was.
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        fs::rename(ground.root().join("shop/data"), ground.root().join("shop/.aside-data")).unwrap();
        assert!(ground.reopened().list().unwrap().is_empty() && !store.has(&name));
        let (_, head) = ground.dataset("data");
        assert_eq!((read(head.join("file")), store.inspect(&name).unwrap().snapshots.len()), ("one".into(), 0));
        assert_eq!(fs::read_dir(ground.root().join("shop")).unwrap().count(), 1);
    }
}

#[test]
fn a_full_disk_refuses_a_snapshot_or_switch_and_leaves_all_as_it_was() {
    let ground = Ground::new(On::Tmpfs);
    let (name, head) = ground.dataset("data");
    fs::write(head.join("large"), vec![1u8; 3 << 20]).unwrap();
    ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
    fs::write(head.join("large"), vec![2u8; 4 << 20]).unwrap();
    let failed = ground.store.snapshot(&name, &snapshot("r2"), &stamps(&[])).unwrap_err().to_string();
    assert!(failed.contains("No space left"), "{failed}");
    let failed = ground.store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap_err().to_string();
    assert!(failed.contains("No space left"), "{failed}");
    let names: Vec<String> =
        ground.store.inspect(&name).unwrap().snapshots.iter().map(|one| one.name.to_string()).collect();
    assert_eq!(names, ["r1"]);
    assert_eq!(fs::read(head.join("large")).unwrap(), vec![2u8; 4 << 20]);
    // With room again, it works.
    fs::write(head.join("large"), "").unwrap();
    ground.store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
    assert_eq!(fs::read(head.join("large")).unwrap(), vec![1u8; 3 << 20]);
}
