//! Snapshots under other names than they were taken or sent with: over all kinds, killed at each call, and refused.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use coppice_dataset::{DatasetError, DatasetName, Received, Store, StreamError};

use crate::ground::{EVERYWHERE, Ground, On, named, read, run, snapshot, stamps};
use crate::zfs::Crashing;

fn names(store: &Store, name: &DatasetName) -> Vec<String> {
    store.inspect(name).unwrap().snapshots.iter().map(|one| one.name.to_string()).collect()
}

/// A dataset with `one` in snapshot r1, `two` in r2, and `three` in its head.
fn furnished(ground: &Ground) -> DatasetName {
    let (name, head) = ground.dataset("data");
    for (release, next) in [("r1", "two"), ("r2", "three")] {
        ground.store.snapshot(&name, &snapshot(release), &stamps(&[("release", release)])).unwrap();
        fs::write(head.join("file"), next).unwrap();
    }
    name
}

fn sent(ground: &Ground, at: &str, from: Option<&str>) -> Vec<u8> {
    let mut stream = Vec::new();
    ground.store.send(&named("data"), &snapshot(at), from.map(snapshot).as_ref(), &mut stream).unwrap();
    stream
}

#[test]
fn a_snapshot_with_another_name_is_what_it_was_and_no_name_is_taken_from_another() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, store) = (furnished(&ground), &ground.store);
        let before = store.inspect(&name).unwrap();
        let rename = |from: &str, to: &str| store.rename_snapshot(&name, &snapshot(from), &snapshot(to));
        for (from, to) in [("r1", "r2"), ("r1", "r1"), ("r2", "r1")] {
            let refused = rename(from, to).unwrap_err();
            assert!(
                matches!(&refused, DatasetError::SnapshotExists { snapshot, .. } if snapshot.as_str() == to),
                "{refused}"
            );
        }
        for to in ["r1", "x"] {
            let refused = rename("r9", to).unwrap_err();
            assert!(
                matches!(&refused, DatasetError::NoSnapshot { snapshot, .. } if snapshot.as_str() == "r9"),
                "{refused}"
            );
        }
        let nobody = store.rename_snapshot(&named("nosuch"), &snapshot("r1"), &snapshot("x")).unwrap_err();
        assert!(matches!(nobody, DatasetError::NoDataset(_)), "{nobody}");
        assert_eq!(store.inspect(&name).unwrap(), before, "{:?}: what is refused changes nothing", ground.on);

        // One that a clone is of; what it carries goes with it.
        store.clone_to(&name, &snapshot("r1"), &named("copy")).unwrap();
        rename("r1", "first").unwrap();
        let after = ground.reopened().inspect(&name).unwrap();
        assert_eq!(names(store, &name), ["first", "r2"]);
        assert_eq!(
            (&after.snapshots[0].stamps, &after.snapshots[0].id),
            (&before.snapshots[0].stamps, &before.snapshots[0].id)
        );
        assert_eq!((&after.snapshots[1], &after.stamps), (&before.snapshots[1], &before.stamps));
        assert_eq!(
            (read(ground.seen(&name, "first").join("file")), read(after.head.join("file"))),
            ("one".into(), "three".into())
        );
        // It is switched to and from by its new name, and its old one is free.
        store.switch(&name, &snapshot("first"), &snapshot("r1")).unwrap();
        assert_eq!(
            (read(after.head.join("file")), read(ground.seen(&name, "r1").join("file"))),
            ("one".into(), "three".into())
        );
        rename("r1", "cut").unwrap();
        rename("first", "r1").unwrap();
        assert_eq!(names(&ground.reopened(), &name), ["cut", "r1", "r2"]);
        store.switch(&name, &snapshot("cut"), &snapshot("again")).unwrap();
        assert_eq!(read(after.head.join("file")), "three");
        store.destroy_snapshot(&name, &snapshot("r1")).unwrap();
        assert_eq!(
            (names(store, &name), read(store.head(&named("copy")).join("file"))),
            (vec!["again".into(), "cut".into(), "r2".into()], "one".into())
        );
    }
}

#[test]
fn what_is_received_has_the_name_it_is_given_and_is_known_by_its_id() {
    for ground in EVERYWHERE.map(Ground::new) {
        let name = furnished(&ground);
        let (full, difference) = (sent(&ground, "r1", None), sent(&ground, "r2", Some("r1")));
        let (to, copy) = (ground.second(), named("copy"));
        let receive = |as_: &str, mut stream: &[u8]| to.receive_as(&copy, Some(&snapshot(as_)), &mut stream);
        let no_base = receive("x", &difference).unwrap_err();
        assert!(matches!(no_base, DatasetError::Stream { source: StreamError::NoBase(_), .. }), "{no_base}");
        assert!(receive("x", &full[..full.len() - 1]).is_err() && to.list().unwrap().is_empty());
        assert_eq!(receive("first", &full).unwrap(), Received { snapshot: snapshot("first"), made: true });
        let origin = ground.store.inspect(&name).unwrap();
        let found = to.inspect(&copy).unwrap();
        assert_eq!(
            (&found.snapshots[0].id, &found.snapshots[0].stamps),
            (&origin.snapshots[0].id, &origin.snapshots[0].stamps)
        );
        assert_eq!((names(&to, &copy), read(found.head.join("file"))), (vec!["first".to_owned()], "one".into()));

        // A name that is there is refused, whatever the stream calls itself; nothing is left of either.
        for stream in [&full, &difference] {
            let taken = receive("first", stream).unwrap_err();
            assert!(matches!(taken, DatasetError::SnapshotExists { .. }), "{taken}");
        }
        assert!(receive("second", &difference[..difference.len() / 2]).is_err());
        assert_eq!(to.inspect(&copy).unwrap(), found);
        ground.nothing_staged();
        // The base is found by what it is, not by its name; and a name is free that the stream had where it was sent.
        assert_eq!(receive("second", &difference).unwrap(), Received { snapshot: snapshot("second"), made: false });
        to.rename_snapshot(&copy, &snapshot("first"), &snapshot("r2")).unwrap();
        receive("third", &difference).unwrap();
        assert_eq!(names(&to, &copy), ["r2", "second", "third"]);
        assert_eq!(read(found.head.join("file")), "one");
        to.switch(&copy, &snapshot("third"), &snapshot("cut")).unwrap();
        assert_eq!(read(found.head.join("file")), "two");
        to.destroy_snapshot(&copy, &snapshot("r2")).unwrap();
        to.destroy(&copy).unwrap();
        ground.nothing_staged();
    }
}

const ROOT: &str = "COPPICE_DATASET_ROOT";
const WORK: &str = "COPPICE_DATASET_WORK";

/// Not a test by itself: a process that is killed in the middle of its work.
#[test]
fn operator() {
    let (Some(root), Ok(work)) = (std::env::var_os(ROOT), std::env::var(WORK)) else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    let name = named("data");
    match work.split_once(' ').unwrap() {
        ("rename", to) => store.rename_snapshot(&name, &snapshot("r1"), &snapshot(to)).unwrap(),
        (_, stream) => {
            store.receive_as(&name, Some(&snapshot("came")), &mut File::open(stream).unwrap()).map(drop).unwrap();
        }
    }
}

/// Kills an operator at each call of this kind; `check` looks at what each has left, and makes it as it was. How many it killed.
fn killed_at_each(root: &Path, work: &str, call: &str, mut check: impl FnMut(&str)) -> usize {
    for when in 1..100 {
        let mut command = Command::new("strace");
        let inject = format!("--inject={call}:signal=KILL:when={when}");
        command.args(["-f", "-qq", "-o", "/dev/null", &format!("--trace={call}"), &inject]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", "renames::operator"]);
        let done = command.env(ROOT, root).env(WORK, work).stdin(Stdio::null()).output().expect("strace runs");
        let is_killed = done.status.signal() == Some(9) || done.status.code() == Some(128 + 9);
        assert!(is_killed || done.status.success(), "{call} {when}: {}", String::from_utf8_lossy(&done.stdout));
        check(&format!("{work}, killed at {call} {when}"));
        if !is_killed {
            return when - 1;
        }
    }
    panic!("it never comes to an end");
}

#[test]
fn a_rename_or_a_receiver_that_is_killed_at_any_call_leaves_all_of_it_or_nothing() {
    for ground in [On::Btrfs, On::Xfs].map(Ground::new) {
        let (name, store) = (furnished(&ground), &ground.store);
        let mut killed = 0;
        for call in ["rename", "fsync"] {
            killed += killed_at_each(&ground.root(), "rename one", call, |place| {
                let left = names(&ground.reopened(), &name);
                assert!(left == ["one", "r2"] || left == ["r1", "r2"], "{place}: {left:?}");
                assert_eq!(read(ground.seen(&name, &left[0]).join("file")), "one", "{place}");
                if left[0] == "one" {
                    store.rename_snapshot(&name, &snapshot("one"), &snapshot("r1")).unwrap();
                }
            });
        }
        assert!(killed > 1, "{killed}");

        let (base, full) = (ground.folder.path().join("base"), ground.folder.path().join("full"));
        fs::write(&base, sent(&ground, "r1", None)).unwrap();
        fs::write(&full, sent(&ground, "r2", None)).unwrap();
        let difference = ground.folder.path().join("difference");
        fs::write(&difference, sent(&ground, "r2", Some("r1"))).unwrap();
        let to = ground.second();
        let came = ground.second_root().join("shop/data/snapshots/came/file");
        let again = |stream: &Path| {
            to.receive_as(&name, Some(&snapshot("came")), &mut File::open(stream).unwrap()).unwrap();
            assert_eq!(read(&came), "two");
        };
        let calls = ["rename", "mkdir", "ioctl", "syncfs"];
        // A dataset that is made of it.
        let mut killed = 0;
        for call in calls {
            killed += killed_at_each(&ground.second_root(), &format!("receive {}", full.display()), call, |place| {
                let store = Store::open(&ground.second_root()).unwrap();
                if store.has(&name) {
                    assert_eq!(
                        (names(&store, &name), read(&came)),
                        (vec!["came".to_owned()], "two".to_owned()),
                        "{place}"
                    );
                    assert_eq!(read(store.head(&name).join("file")), "two", "{place}");
                } else {
                    assert!(store.list().unwrap().is_empty(), "{place}");
                    again(&full);
                }
                to.destroy(&name).unwrap();
            });
        }
        // One that is there.
        to.receive(&name, &mut File::open(&base).unwrap()).unwrap();
        for call in calls {
            killed +=
                killed_at_each(&ground.second_root(), &format!("receive {}", difference.display()), call, |place| {
                    let store = Store::open(&ground.second_root()).unwrap();
                    assert_eq!(read(store.head(&name).join("file")), "one", "{place}");
                    match names(&store, &name).len() {
                        1 => again(&difference),
                        _ => assert_eq!(
                            (names(&store, &name), read(&came)),
                            (vec!["came".into(), "r1".into()], "two".into()),
                            "{place}"
                        ),
                    }
                    to.destroy_snapshot(&name, &snapshot("came")).unwrap();
                });
        }
        assert!(killed > 8, "{:?}: {killed}", ground.on);
        // What the last one left goes with the next.
        again(&difference);
        ground.nothing_staged();
    }
}

#[test]
fn a_crash_between_any_two_commands_of_a_rename_or_a_receiver_leaves_all_of_it_or_nothing() {
    let ground = Ground::new(On::Zfs);
    let (name, store) = (furnished(&ground), &ground.store);
    let (base, full) = (sent(&ground, "r1", None), sent(&ground, "r2", None));
    let difference = sent(&ground, "r2", Some("r1"));
    let to = ground.second();
    let crashing = Crashing::new(ground.folder.path());
    crashing.at_each(
        |_| store.rename_snapshot(&name, &snapshot("r1"), &snapshot("one")),
        |allowed, done| {
            let first = if done { "one" } else { "r1" };
            assert_eq!(names(store, &name), [first, "r2"], "{allowed}");
        },
    );
    assert_eq!(read(ground.seen(&name, "one").join("file")), "one");
    let came = snapshot("came");
    crashing.at_each(
        |_| to.receive_as(&name, Some(&came), &mut full.as_slice()).map(drop),
        |allowed, done| {
            // What was done may not have been said: its staging was not taken away.
            assert!(to.has(&name) || !done, "{allowed}");
            if to.has(&name) {
                assert_eq!(
                    (names(&to, &name), read(to.head(&name).join("file"))),
                    (vec!["came".to_owned()], "two".to_owned())
                );
                if !done {
                    to.destroy(&name).unwrap();
                }
            }
        },
    );
    to.destroy(&name).unwrap();
    to.receive(&name, &mut base.as_slice()).unwrap();
    crashing.at_each(
        |_| to.receive_as(&name, Some(&came), &mut difference.as_slice()).map(drop),
        |allowed, done| {
            assert_eq!(read(to.head(&name).join("file")), "one", "{allowed}");
            let is_there = names(&to, &name).len() == 2;
            assert!(is_there || !done, "{allowed}");
            if is_there {
                assert_eq!(names(&to, &name), ["came", "r1"], "{allowed}");
                if !done {
                    to.destroy_snapshot(&name, &came).unwrap();
                }
            }
        },
    );
    to.switch(&name, &came, &snapshot("cut")).unwrap();
    assert_eq!(read(to.head(&name).join("file")), "two");
    let mut sink = Vec::new();
    to.send(&name, &came, None, &mut sink).unwrap();
    ground.nothing_staged();
}

#[test]
fn what_a_killed_one_left_and_cannot_be_removed_is_in_nobodys_way_and_goes_when_it_can() {
    for ground in [On::Btrfs, On::Xfs, On::Zfs].map(Ground::new) {
        let name = furnished(&ground);
        let to = ground.second();
        let left = ground.second_root().join(".staging-0123");
        let tree = left.join("tree");
        fs::create_dir_all(&tree).unwrap();
        // On ZFS somebody else's clone is of it, elsewhere its file may not go.
        let (staged, half) = ("tank/second/_staging-0123", tree.join("half"));
        if ground.on == On::Zfs {
            run("zfs", &["create", "-o", "mountpoint=none", staged]);
            run("zfs", &["snapshot", &format!("{staged}@theirs")]);
            run("zfs", &["clone", "-o", "mountpoint=none", &format!("{staged}@theirs"), "tank/theirs"]);
        } else {
            fs::write(&half, "half").unwrap();
            run("chattr", &["+i", half.to_str().unwrap()]);
        }
        let (full, difference) = (sent(&ground, "r1", None), sent(&ground, "r2", Some("r1")));
        to.receive(&name, &mut full.as_slice()).unwrap();
        to.receive_as(&name, Some(&snapshot("two")), &mut difference.as_slice()).unwrap();
        let mut sink = Vec::new();
        to.send(&name, &snapshot("two"), Some(&snapshot("r1")), &mut sink).unwrap();
        assert!(left.exists(), "{:?}", ground.on);
        if ground.on == On::Zfs {
            run("zfs", &["destroy", "tank/theirs"]);
        } else {
            run("chattr", &["-i", half.to_str().unwrap()]);
        }
        to.receive_as(&name, Some(&snapshot("three")), &mut difference.as_slice()).unwrap();
        ground.nothing_staged();
    }
}
