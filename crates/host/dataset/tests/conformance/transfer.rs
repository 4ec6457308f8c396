//! Snapshots sent and received: between all kinds, and what is refused.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use coppice_dataset::{DatasetError, Received, Store, StreamError};

use crate::ground::{EVERYWHERE, Ground, On, named, output, run, snapshot, stamps};

/// Every file below a directory, with all that is to come through; and the bytes' checksums.
fn listing(tree: &Path) -> String {
    let script = r#"cd "$1" && find . -mindepth 1 -type d -printf '%p d %m %U %G %Ts\n' | sort
        find . ! -type d -printf '%p %y %m %U %G %n %l %s %Ts\n' | sort
        find . -type f -exec sha256sum {} + | sort; stat -c '%a %u %g' ."#;
    output("sh", &["-c", script, "sh", tree.to_str().unwrap()])
}

/// A bit of everything.
fn furnish(head: &Path) {
    fs::create_dir_all(head.join("deep/er")).unwrap();
    fs::write(head.join("deep/er/tool"), "x").unwrap();
    chown(head.join("deep/er/tool"), Some(999), Some(998)).unwrap();
    fs::set_permissions(head.join("deep/er/tool"), PermissionsExt::from_mode(0o4750)).unwrap();
    fs::hard_link(head.join("deep/er/tool"), head.join("deep/second")).unwrap();
    fs::write(head.join("gone"), "soon").unwrap();
    fs::create_dir_all(head.join("folder/full/of")).unwrap();
    fs::write(head.join("folder/full/of/files"), "").unwrap();
    symlink("/etc/passwd", head.join("link")).unwrap();
    symlink("folder", head.join("becomes")).unwrap();
    run("mkfifo", &[head.join("pipe").to_str().unwrap()]);
    rustix::fs::setxattr(head.join("file"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    let hole = fs::File::create(head.join("hole")).unwrap();
    hole.set_len(8 << 20).unwrap();
    hole.write_all_at(b"end", (8 << 20) - 3).unwrap();
    let bytes: Vec<u8> = (0..1u32 << 19).map(|at| (at % 251) as u8).collect();
    fs::write(head.join("large"), bytes).unwrap();
    chown(head, Some(999), Some(999)).unwrap();
}

/// What an app does in a release.
fn change(head: &Path) {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::remove_file(head.join("gone")).unwrap();
    fs::remove_dir_all(head.join("folder")).unwrap();
    fs::write(head.join("folder"), "a file now").unwrap();
    fs::remove_file(head.join("becomes")).unwrap();
    fs::create_dir(head.join("becomes")).unwrap();
    fs::write(head.join("becomes/inner"), "new").unwrap();
    fs::write(head.join("deep/second"), "xy").unwrap();
    let large = fs::File::options().write(true).open(head.join("large")).unwrap();
    large.write_all_at(b"here", 150_000).unwrap();
    large.write_all_at(&[0; 131_072], 262_144).unwrap();
    // As it was, but for its bytes.
    let before = head.join("file").metadata().unwrap();
    fs::write(head.join("file"), "two").unwrap();
    fs::File::options().write(true).open(head.join("file")).unwrap().set_modified(before.modified().unwrap()).unwrap();
    rustix::fs::setxattr(head.join("file"), "user.note", b"changed", rustix::fs::XattrFlags::empty()).unwrap();
    fs::set_permissions(head.join("deep"), PermissionsExt::from_mode(0o1777)).unwrap();
    fs::File::open(head.join("deep")).unwrap().set_modified(old).unwrap();
}

fn sent(store: &Store, at: &str, from: Option<&str>) -> Vec<u8> {
    let mut stream = Vec::new();
    store.send(&named("data"), &snapshot(at), from.map(snapshot).as_ref(), &mut stream).unwrap();
    stream
}

fn names(store: &Store, volume: &str) -> Vec<String> {
    store.inspect(&named(volume)).unwrap().snapshots.iter().map(|one| one.name.to_string()).collect()
}

#[test]
fn what_is_sent_from_any_kind_is_the_same_on_any_other_in_full_and_by_difference() {
    let grounds = EVERYWHERE.map(Ground::new);
    let copy = named("data");
    for from in &grounds {
        let (name, head) = from.dataset("data");
        furnish(&head);
        from.store.stamp(&name, &stamps(&[("release", "1")])).unwrap();
        from.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let first = listing(&head);
        change(&head);
        from.store.stamp(&name, &stamps(&[("release", "2")])).unwrap();
        from.store.snapshot(&name, &snapshot("r2"), &stamps(&[("why", "a change")])).unwrap();
        let second = listing(&head);
        let (full, difference) = (sent(&from.store, "r1", None), sent(&from.store, "r2", Some("r1")));
        assert!(difference.len() < full.len() / 2, "{:?}: {} of {}", from.on, difference.len(), full.len());
        // That of two that are the same says so.
        from.store.snapshot(&name, &snapshot("r2b"), &stamps(&[])).unwrap();
        let none = sent(&from.store, "r2b", Some("r2"));
        assert!(none.len() < 2000, "{:?}: {}", from.on, none.len());
        for to in &grounds {
            let store = to.second();
            let received = store.receive(&copy, &mut full.as_slice()).unwrap();
            assert_eq!(received, Received { snapshot: snapshot("r1"), made: true });
            let head = store.head(&copy);
            assert_eq!(listing(&head), first, "{:?} to {:?}", from.on, to.on);
            let found = store.inspect(&copy).unwrap();
            let origin = from.store.inspect(&name).unwrap();
            assert_eq!((&found.stamps, &found.snapshots[0]), (&stamps(&[("release", "1")]), &origin.snapshots[0]));
            // The head stays what it is, whoever uses it.
            let received = store.receive(&copy, &mut difference.as_slice()).unwrap();
            assert_eq!(received, Received { snapshot: snapshot("r2"), made: false });
            assert_eq!(listing(&head), first);
            store.switch(&copy, &snapshot("r2"), &snapshot("cut")).unwrap();
            assert_eq!(listing(&head), second, "{:?} to {:?}", from.on, to.on);
            assert_eq!(
                store.inspect(&copy).unwrap().snapshots[1..],
                [origin.snapshots[0].clone(), origin.snapshots[1].clone()]
            );
            // And on from there, by what came by difference.
            assert_eq!(store.receive(&copy, &mut none.as_slice()).unwrap().snapshot, snapshot("r2b"));
            store.destroy(&copy).unwrap();
            to.nothing_staged();
        }
        from.store.destroy(&name).unwrap();
    }
}

#[test]
fn a_stream_that_is_cut_torn_or_no_stream_changes_nothing() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        furnish(&head);
        ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let (full, to) = (sent(&ground.store, "r1", None), ground.second());
        let refused = |stream: &[u8]| match to.receive(&name, &mut &*stream).unwrap_err() {
            DatasetError::Stream { source, .. } => source,
            other => panic!("{other}"),
        };
        for len in [0, 1, 14, 15, 18, 30, 200, full.len() / 2, full.len() - 33, full.len() - 1] {
            let refused = refused(&full[..len]);
            assert!(matches!(refused, StreamError::Cut | StreamError::Foreign), "{len}: {refused}");
        }
        for at in [3, 16, 25, 60, full.len() / 3, full.len() - 20] {
            let mut torn = full.clone();
            torn[at] ^= 0x41;
            refused(&torn);
        }
        let longer = [full.as_slice(), b"x"].concat();
        assert!(matches!(refused(&longer), StreamError::Torn));
        assert!(matches!(refused(b"\x1f\x8b\x08 something else, and longer than that"), StreamError::Foreign));
        let mut newer = full.clone();
        newer[15] = 2;
        assert!(matches!(refused(&newer), StreamError::Version(2)));
        assert!(to.list().unwrap().is_empty());
        ground.nothing_staged();
        // Into one that is there, it is the same; and a name that is taken is refused before anything comes.
        to.receive(&name, &mut full.as_slice()).unwrap();
        let mut first = Endless { stream: full.clone(), at: 0 };
        let taken = to.receive(&name, &mut first).unwrap_err();
        assert!(matches!(taken, DatasetError::SnapshotExists { .. }), "{taken}");
        ground.store.snapshot(&name, &snapshot("r2"), &stamps(&[])).unwrap();
        let difference = sent(&ground.store, "r2", Some("r1"));
        refused(&difference[..difference.len() - 1]);
        assert_eq!(names(&to, "data"), ["r1"]);
        // Of a snapshot that only has the same name, it is none.
        to.destroy_snapshot(&name, &snapshot("r1")).unwrap();
        to.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        assert!(matches!(refused(&difference), StreamError::NoBase(base) if base == "r1"));
        to.destroy(&name).unwrap();
        assert!(matches!(refused(&difference), StreamError::NoBase(_)));
        ground.nothing_staged();
        let missing = ground.store.send(&name, &snapshot("r9"), None, &mut Vec::new()).unwrap_err();
        assert!(matches!(missing, DatasetError::NoSnapshot { .. }), "{missing}");
    }
}

/// A stream that never ends: whoever reads it to its end hangs.
struct Endless {
    stream: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let len = room.len().min(64);
        for byte in &mut room[..len] {
            *byte = self.stream[self.at % self.stream.len()];
            self.at += 1;
        }
        assert!(self.at < 16 << 20, "it is read on and on");
        Ok(len)
    }
}

#[test]
fn a_full_disk_or_a_killed_receiver_leaves_what_was_there() {
    let ground = Ground::new(On::Tmpfs);
    let (name, head) = ground.dataset("data");
    fs::write(head.join("large"), vec![1u8; 3 << 20]).unwrap();
    ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
    let full = sent(&ground.store, "r1", None);
    let to = ground.second();
    let failed = to.receive(&named("copy"), &mut full.as_slice()).unwrap_err().to_string();
    assert!(failed.contains("large: No space left"), "{failed}");
    assert!(to.list().unwrap().is_empty());
    ground.nothing_staged();
    // What one left behind that was killed, the next one clears away.
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, _) = ground.dataset("data");
        ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let full = sent(&ground.store, "r1", None);
        let to = ground.second();
        let left = ground.second_root().join(".staging-0123");
        fs::create_dir_all(left.join("tree/half")).unwrap();
        to.receive(&name, &mut full.as_slice()).unwrap();
        assert!(!left.exists());
        ground.nothing_staged();
    }
}
