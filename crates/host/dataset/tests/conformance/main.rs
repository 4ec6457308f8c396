//! What holds for datasets of every kind, on real filesystems.

mod crashes;
mod ground;
mod hostile;
mod owners;
mod properties;
mod renames;
mod transfer;
mod trees;
mod zfs;

use std::os::unix::fs::MetadataExt;

use coppice_dataset::{DatasetError, DatasetName, Snapshot};
use ground::{EVERYWHERE, Ground, On, named, output, read, snapshot, stamps};

#[test]
fn a_dataset_is_there_whole_or_not_at_all() {
    for ground in EVERYWHERE.map(Ground::new) {
        let store = &ground.store;
        let failed = store.create(&named("data"), |_| Err(std::io::Error::other("no seed")));
        assert!(failed.unwrap_err().to_string().contains("no seed"));
        assert!(!store.has(&named("data")) && store.list().unwrap().is_empty());
        let (name, head) = ground.dataset("data");
        assert_eq!((read(head.join("file")), store.head(&name)), ("one".into(), head.clone()));
        assert!(matches!(store.create(&name, |_| Ok(())), Err(DatasetError::Exists(taken)) if taken == name));
        let of_none = DatasetName { app: None, ..named("cache") };
        store.create(&of_none, |_| Ok(())).unwrap();
        assert_eq!(ground.reopened().list().unwrap(), [of_none, name.clone()]);
        let found = store.inspect(&name).unwrap();
        assert_eq!((found.head, found.stamps, found.snapshots.len()), (head, stamps(&[]), 0));
    }
}

#[test]
fn a_snapshot_is_what_the_head_was_whatever_is_written_later() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let store = &ground.store;
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        std::fs::write(head.join("file"), "two").unwrap();
        std::fs::write(head.join("more"), "").unwrap();
        store.snapshot(&name, &snapshot("r2"), &stamps(&[])).unwrap();
        std::fs::remove_file(head.join("file")).unwrap();
        let at = |snapshot: &str| ground.seen(&name, snapshot);
        assert_eq!((read(at("r1").join("file")), at("r1").join("more").exists()), ("one".into(), false));
        assert_eq!((read(at("r2").join("file")), at("r2").join("more").exists()), ("two".into(), true));
        let taken = store.snapshot(&name, &snapshot("r1"), &stamps(&[]));
        assert!(matches!(taken, Err(DatasetError::SnapshotExists { .. })), "{taken:?}");
        if ground.on == On::Btrfs {
            std::fs::write(at("r1").join("file"), "no").expect_err("nobody writes to a snapshot");
        }
    }
}

#[test]
fn a_head_switched_back_is_the_snapshot_and_the_one_that_was_cut_can_be_had_again() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let store = &ground.store;
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        std::fs::write(head.join("file"), "two").unwrap();
        store.switch(&name, &snapshot("r1"), &snapshot("cut-1")).unwrap();
        assert_eq!(read(head.join("file")), "one");
        // It is a head like any other.
        std::fs::write(head.join("file"), "three").unwrap();
        store.switch(&name, &snapshot("cut-1"), &snapshot("cut-2")).unwrap();
        assert_eq!(read(head.join("file")), "two");
        // To the same as often as one likes.
        for again in ["cut-3", "cut-4"] {
            store.switch(&name, &snapshot("r1"), &snapshot(again)).unwrap();
            assert_eq!(read(head.join("file")), "one");
            std::fs::write(head.join("file"), "x").unwrap();
        }
        let names: Vec<String> =
            store.inspect(&name).unwrap().snapshots.iter().map(|one| one.name.to_string()).collect();
        assert_eq!(names, ["cut-1", "cut-2", "cut-3", "cut-4", "r1"]);
        let missing = store.switch(&name, &snapshot("r2"), &snapshot("cut-5"));
        assert!(matches!(missing, Err(DatasetError::NoSnapshot { .. })), "{missing:?}");
        let taken = store.switch(&name, &snapshot("r1"), &snapshot("cut-1"));
        assert!(matches!(taken, Err(DatasetError::SnapshotExists { .. })), "{taken:?}");
        assert_eq!(read(head.join("file")), "x");
    }
}

#[test]
fn stamps_go_with_the_data_they_are_of() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, _) = ground.dataset("data");
        let store = &ground.store;
        let (first, second) = (stamps(&[("release", "1"), ("git", "abc")]), stamps(&[("release", "2")]));
        store.stamp(&name, &first).unwrap();
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        store.stamp(&name, &second).unwrap();
        let found = ground.reopened().inspect(&name).unwrap();
        assert_eq!((&found.stamps, &found.snapshots[0].stamps), (&second, &first));
        store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
        let found = ground.reopened().inspect(&name).unwrap();
        let of: Vec<_> = found.snapshots.iter().map(|one| (one.name.as_str(), &one.stamps)).collect();
        assert_eq!((&found.stamps, of), (&first, vec![("cut", &second), ("r1", &first)]));
        store.snapshot(&name, &snapshot("r1b"), &stamps(&[("git", "def"), ("why", "by hand")])).unwrap();
        let found = ground.reopened().inspect(&name).unwrap();
        assert_eq!(found.snapshots[2].stamps, stamps(&[("release", "1"), ("git", "def"), ("why", "by hand")]));
    }
}

#[test]
fn a_directory_that_is_there_becomes_a_dataset() {
    for ground in EVERYWHERE.map(Ground::new) {
        let there = ground.root().join("shop/.there");
        std::fs::create_dir_all(there.join("sub")).unwrap();
        std::fs::write(there.join("sub/file"), "kept").unwrap();
        std::os::unix::fs::chown(&there, Some(999), Some(999)).unwrap();
        let head = ground.store.adopt(&named("data"), &there).unwrap();
        assert_eq!(
            (read(head.join("sub/file")), head.metadata().unwrap().uid(), there.exists()),
            ("kept".into(), 999, false)
        );
        ground.store.snapshot(&named("data"), &snapshot("r1"), &stamps(&[])).unwrap();
        assert_eq!(ground.store.ready(&named("data")).unwrap(), head);
    }
}

#[test]
fn a_clone_has_a_life_of_its_own() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let store = &ground.store;
        store.stamp(&name, &stamps(&[("release", "1")])).unwrap();
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let copy = named("preview");
        let cloned = store.clone_to(&name, &snapshot("r1"), &copy).unwrap();
        std::fs::write(cloned.join("file"), "mine").unwrap();
        assert_eq!(
            (read(head.join("file")), store.inspect(&copy).unwrap().stamps.get("release")),
            ("one".into(), Some("1"))
        );
        store.destroy(&name).unwrap();
        assert_eq!(read(cloned.join("file")), "mine");
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&copy));
        assert!(matches!(store.clone_to(&name, &snapshot("r1"), &named("x")), Err(DatasetError::NoDataset(_))));
        assert!(matches!(store.clone_to(&copy, &snapshot("r1"), &named("x")), Err(DatasetError::NoSnapshot { .. })));
    }
}

#[test]
fn what_is_destroyed_leaves_nothing() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, _) = ground.dataset("data");
        let store = &ground.store;
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        store.snapshot(&name, &snapshot("r2"), &stamps(&[])).unwrap();
        store.destroy_snapshot(&name, &snapshot("r1")).unwrap();
        assert_eq!(store.inspect(&name).unwrap().snapshots.len(), 1);
        assert!(matches!(store.destroy_snapshot(&name, &snapshot("r1")), Err(DatasetError::NoSnapshot { .. })));
        store.destroy(&name).unwrap();
        assert!(matches!(store.destroy(&name), Err(DatasetError::NoDataset(_))));
        assert_eq!(std::fs::read_dir(ground.root()).unwrap().count(), 0);
        if ground.on == On::Zfs {
            assert_eq!(output("zfs", &["list", "-H", "-o", "name", "-t", "all"]), "tank\ntank/coppice\n");
        }
        // The name is free.
        ground.dataset("data");
    }
}

#[test]
fn operations_on_one_dataset_wait_for_each_other() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        store_from_threads(&ground, 4, |store, thread| {
            for round in 0..5 {
                store.snapshot(&name, &snapshot(&format!("s{thread}-{round}")), &stamps(&[])).unwrap();
                store
                    .switch(&name, &snapshot(&format!("s{thread}-{round}")), &snapshot(&format!("c{thread}-{round}")))
                    .unwrap();
            }
        });
        assert_eq!((store_len(&ground, &name), read(head.join("file"))), (40, "one".into()));
        // Of those who make the same one, one does.
        let made = std::sync::atomic::AtomicUsize::new(0);
        store_from_threads(&ground, 4, |store, _| {
            if store.create(&named("same"), |_| Ok(())).is_ok() {
                made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}

fn store_len(ground: &Ground, name: &DatasetName) -> usize {
    ground.store.inspect(name).unwrap().snapshots.len()
}

/// Threads start in the mount namespace of the one that starts them.
fn store_from_threads(ground: &Ground, count: usize, work: impl Fn(coppice_dataset::Store, usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..count {
            let (work, store) = (&work, ground.reopened());
            scope.spawn(move || work(store, thread));
        }
    });
}

#[test]
fn the_size_is_what_the_head_takes_on_disk() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let before = ground.store.size(&name).unwrap();
        std::fs::write(head.join("large"), vec![7u8; 1 << 20]).unwrap();
        std::fs::hard_link(head.join("large"), head.join("same")).unwrap();
        std::fs::File::create(head.join("hole")).unwrap().set_len(1 << 30).unwrap();
        // ZFS counts what it has written down, which takes seconds, or a snapshot.
        ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        rustix::fs::syncfs(std::fs::File::open(&head).unwrap()).unwrap();
        let now = ground.store.size(&name).unwrap() - before;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&now), "{:?}: {now}", ground.on);
        assert_eq!(head.join("large").metadata().unwrap().nlink(), 2);
    }
}

#[test]
fn what_nobody_wants_to_keep_goes_and_what_others_came_from_stays_theirs() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let store = &ground.store;
        for release in ["r1", "r2", "r3", "r4"] {
            store.snapshot(&name, &snapshot(release), &stamps(&[("release", release)])).unwrap();
        }
        let cloned = store.clone_to(&name, &snapshot("r1"), &named("copy")).unwrap();
        store.switch(&name, &snapshot("r2"), &snapshot("cut")).unwrap();
        let keep = |one: &Snapshot| matches!(one.stamps.get("release"), Some("r3" | "r4"));
        assert_eq!(store.prune(&name, &keep).unwrap(), [snapshot("cut"), snapshot("r1"), snapshot("r2")]);
        assert_eq!(store.prune(&name, &keep).unwrap(), []);
        let found = ground.reopened().inspect(&name).unwrap();
        assert_eq!(found.snapshots.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["r3", "r4"]);
        assert_eq!((read(head.join("file")), read(cloned.join("file"))), ("one".into(), "one".into()));
        store.switch(&name, &snapshot("r4"), &snapshot("r1")).unwrap();
    }
}

#[test]
fn all_there_is_can_be_read_at_once_from_the_datasets_alone() {
    for ground in EVERYWHERE.map(Ground::new) {
        let store = &ground.store;
        for volume in ["a", "b"] {
            let (name, _) = ground.dataset(volume);
            store.stamp(&name, &stamps(&[("release", "2"), ("why", "a line\nand a tab\t")])).unwrap();
            store.snapshot(&name, &snapshot("r1"), &stamps(&[("release", "1")])).unwrap();
        }
        let survey = ground.reopened().survey().unwrap();
        assert!(survey.unreadable.is_empty(), "{:?}", survey.unreadable);
        let one_by_one = ["a", "b"].map(|volume| store.inspect(&named(volume)).unwrap());
        assert_eq!(survey.datasets, one_by_one);
        assert_eq!(survey.datasets[0].snapshots[0].stamps.get("why"), Some("a line\nand a tab\t"));
        if ground.on != On::Zfs {
            // One whose head was lost is no reason to know nothing of the others.
            std::fs::remove_dir_all(ground.root().join("shop/a/snapshots"))
                .or_else(|_| std::fs::rename(ground.root().join("shop/a/snapshots"), ground.root().join(".lost")))
                .unwrap();
            let survey = store.survey().unwrap();
            assert_eq!((survey.datasets.len(), survey.unreadable.len()), (1, 1), "{survey:?}");
            assert_eq!(survey.unreadable[0].0, named("a"));
        }
    }
}
