//! What holds for ZFS in particular: a crash between any two of its commands, clones that need what is destroyed, and names of
//! datasets as an operator sees them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coppice_dataset::{DatasetError, Store};

use crate::ground::{BASE, Ground, On, named, output, read, run, snapshot, stamps};

/// A `zfs` that fails after a number of commands, and a `zfs` that works, in turns.
pub(crate) struct Crashing {
    budget: PathBuf,
}

impl Crashing {
    /// Stands before the real one, for this thread and its children alone.
    pub(crate) fn new(folder: &Path) -> Self {
        let (real, wrapper, budget) = (folder.join("zfs"), folder.join("wrapper"), folder.join("budget"));
        fs::copy("/usr/sbin/zfs", &real).unwrap();
        fs::write(&budget, "1000000").unwrap();
        let script = format!(
            "#!/bin/sh\nread left < {budget}\n[ \"$left\" -gt 0 ] || {{ echo crashed >&2; exit 1; }}\necho $((left - 1)) > {budget}\nexec {real} \"$@\"\n",
            budget = budget.display(),
            real = real.display()
        );
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
        run("mount", &["--bind", wrapper.to_str().unwrap(), "/usr/sbin/zfs"]);
        Self { budget }
    }

    /// Does the work with one command more each time, until that is enough; `check` looks at what each left.
    pub(crate) fn at_each(
        &self,
        mut work: impl FnMut(usize) -> Result<(), DatasetError>,
        mut check: impl FnMut(usize, bool),
    ) {
        for allowed in 1..100 {
            fs::write(&self.budget, allowed.to_string()).unwrap();
            let done = work(allowed);
            fs::write(&self.budget, "1000000").unwrap();
            check(allowed, done.is_ok());
            match done {
                Ok(()) => return assert!(allowed > 2, "{allowed} commands were enough"),
                Err(error) => assert!(error.to_string().contains("crashed"), "{error}"),
            }
        }
        panic!("it never comes to an end");
    }
}

fn snapshots(store: &Store) -> Vec<String> {
    store.inspect(&named("data")).unwrap().snapshots.iter().map(|one| one.name.to_string()).collect()
}

#[test]
fn a_crash_between_any_two_commands_of_a_switch_leaves_the_old_or_the_new_whole() {
    let ground = Ground::new(On::Zfs);
    let (name, head) = ground.dataset("data");
    let store = &ground.store;
    store.stamp(&name, &stamps(&[("release", "1")])).unwrap();
    store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
    fs::write(head.join("file"), "two").unwrap();
    store.stamp(&name, &stamps(&[("release", "2")])).unwrap();
    let crashing = Crashing::new(ground.folder.path());
    let mut old = 0;
    crashing.at_each(
        |_| store.switch(&name, &snapshot("r1"), &snapshot("cut")),
        |allowed, done| {
            let found = ground.reopened().inspect(&name).unwrap();
            let names: Vec<&str> = found.snapshots.iter().map(|one| one.name.as_str()).collect();
            if read(head.join("file")) == "two" {
                old += 1;
                assert!(!done);
                assert_eq!((found.stamps.get("release"), names), (Some("2"), vec!["r1"]), "{allowed}");
                let inner = output("zfs", &["list", "-H", "-r", "-o", "name", &format!("{BASE}/shop/data")]);
                assert_eq!(inner.lines().count(), 2, "{allowed}: nothing of the new is left: {inner}");
            } else {
                assert_eq!(read(head.join("file")), "one", "{allowed}");
                assert_eq!((found.stamps.get("release"), names), (Some("1"), vec!["cut", "r1"]), "{allowed}");
                assert_eq!(found.snapshots[0].stamps.get("release"), Some("2"));
                // Back again for the next round.
                store.switch(&name, &snapshot("cut"), &snapshot("again")).unwrap();
                assert_eq!(read(head.join("file")), "two");
                store.destroy_snapshot(&name, &snapshot("cut")).unwrap();
                store.destroy_snapshot(&name, &snapshot("again")).unwrap();
                assert_eq!((snapshots(store), read(head.join("file"))), (vec!["r1".to_owned()], "two".to_owned()));
            }
        },
    );
    assert!(old > 2, "most steps come before the one that decides");
}

#[test]
fn a_dataset_that_was_being_made_or_destroyed_is_there_whole_or_not_at_all() {
    let ground = Ground::new(On::Zfs);
    let store = &ground.store;
    let name = named("data");
    let crashing = Crashing::new(ground.folder.path());
    crashing.at_each(
        |_| store.create(&name, |head| fs::write(head.join("file"), "one")).map(drop),
        |allowed, done| {
            assert_eq!((store.has(&name), store.list().unwrap().len()), (done, usize::from(done)), "{allowed}");
            assert!(store.survey().unwrap().unreadable.is_empty());
        },
    );
    assert_eq!(read(store.head(&name).join("file")), "one");
    store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
    store.clone_to(&name, &snapshot("r1"), &named("copy")).unwrap();
    crashing.at_each(
        |_| if store.has(&name) { store.destroy(&name) } else { store.create(&name, |_| Ok(())).map(drop) },
        |_, _| {
            assert_eq!(read(store.head(&named("copy")).join("file")), "one");
            let found = store.survey().unwrap().datasets.iter().map(|one| one.name.to_string()).collect::<Vec<_>>();
            assert_eq!(found.contains(&"shop/data".to_owned()), store.has(&name), "{found:?}");
        },
    );
}

#[test]
fn what_a_clone_needs_is_kept_for_it_and_goes_with_the_last_that_needs_it() {
    let ground = Ground::new(On::Zfs);
    let store = &ground.store;
    let (name, head) = ground.dataset("data");
    for release in ["r1", "r2", "r3"] {
        fs::write(head.join("file"), release).unwrap();
        store.snapshot(&name, &snapshot(release), &stamps(&[("release", release)])).unwrap();
    }
    let copy = named("copy");
    let cloned = store.clone_to(&name, &snapshot("r2"), &copy).unwrap();
    store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
    let gone = store.prune(&name, &|one| one.stamps.get("release") == Some("r3")).unwrap();
    assert_eq!(gone.len(), 3);
    let found = store.inspect(&name).unwrap();
    assert_eq!((found.snapshots.len(), found.snapshots[0].name.as_str()), (1, "r3"));
    assert_eq!((read(head.join("file")), read(cloned.join("file"))), ("r1".into(), "r2".into()));
    // A name that is free again can be had again.
    store.snapshot(&name, &snapshot("r2"), &stamps(&[])).unwrap();
    store.switch(&name, &snapshot("r3"), &snapshot("r1")).unwrap();
    assert_eq!(read(head.join("file")), "r3");
    store.destroy(&name).unwrap();
    assert_eq!(read(cloned.join("file")), "r2");
    store.snapshot(&copy, &snapshot("r1"), &stamps(&[])).unwrap();
    assert_eq!(store.inspect(&copy).unwrap().snapshots.len(), 1);
    store.destroy(&copy).unwrap();
    assert_eq!(output("zfs", &["list", "-H", "-o", "name", "-t", "all"]), "tank\ntank/coppice\n");
}

#[test]
fn heads_that_are_not_mounted_are_again_before_anybody_uses_them() {
    let ground = Ground::new(On::Zfs);
    let (name, head) = ground.dataset("data");
    ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
    ground.store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
    run("umount", &[head.to_str().unwrap()]);
    run("umount", &[ground.root().to_str().unwrap()]);
    assert_eq!(fs::read_dir(ground.root()).unwrap().count(), 0);
    let store = Store::open_zfs(&ground.root(), BASE).unwrap();
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&name));
    store.ready(&name).unwrap();
    assert_eq!(read(head.join("file")), "one");
    // Under another root, too.
    let other = ground.folder.path().join("other");
    run("umount", &[head.to_str().unwrap()]);
    run("umount", &[ground.root().to_str().unwrap()]);
    let store = Store::open_zfs(&other, BASE).unwrap();
    assert_eq!(read(store.ready(&name).unwrap().join("file")), "one");
    // Never over what is there.
    let taken = ground.folder.path().join("taken/shop");
    fs::create_dir_all(&taken).unwrap();
    let refused = Store::open_zfs(taken.parent().unwrap(), "tank/second").unwrap_err();
    assert!(matches!(refused, DatasetError::Occupied { .. }), "{refused}");
}

#[test]
fn a_root_that_lies_on_zfs_is_kept_there_without_being_told() {
    let ground = Ground::new(On::Zfs);
    let srv = ground.folder.path().join("srv");
    run("zfs", &["create", "-o", &format!("mountpoint={}", srv.display()), "tank/srv"]);
    let root = srv.join("lib/volumes");
    let store = Store::open(&root).unwrap();
    assert_eq!(store.kind(), coppice_dataset::Kind::Zfs);
    store.create(&named("data"), |head| fs::write(head.join("file"), "one")).unwrap();
    assert_eq!(Store::open(&root).unwrap().list().unwrap(), [named("data")]);
    assert!(output("zfs", &["list", "-H", "-o", "name"]).contains("tank/srv/coppice-volumes/shop/data/g1\n"));
    // What earlier versions kept there as directories stays that.
    fs::create_dir_all(srv.join("old/shop/data/head")).unwrap();
    assert_eq!(Store::open(&srv.join("old")).unwrap().kind(), coppice_dataset::Kind::Directory);
}
