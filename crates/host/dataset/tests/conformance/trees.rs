//! What is in a snapshot: every attribute of every kind of file, and nothing from outside.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use coppice_dataset::DatasetError;

use crate::ground::{EVERYWHERE, Ground, On, named, read, run, snapshot, stamps};

#[test]
fn owners_modes_times_attributes_links_holes_and_special_files_are_kept() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
        fs::create_dir_all(head.join("deep/er")).unwrap();
        fs::write(head.join("deep/er/tool"), "x").unwrap();
        chown(head.join("deep/er/tool"), Some(999), Some(998)).unwrap();
        fs::set_permissions(head.join("deep/er/tool"), PermissionsExt::from_mode(0o4750)).unwrap();
        fs::File::open(head.join("deep/er/tool")).unwrap().set_modified(old).unwrap();
        let was = head.join("deep/er/tool").metadata().unwrap().modified().unwrap();
        // zfs-fuse sets whole seconds.
        assert!(was == old || ground.on == On::Zfs);
        fs::set_permissions(head.join("deep"), PermissionsExt::from_mode(0o1777)).unwrap();
        fs::hard_link(head.join("deep/er/tool"), head.join("second")).unwrap();
        symlink("/etc/passwd", head.join("link")).unwrap();
        run("mkfifo", &[head.join("pipe").to_str().unwrap()]);
        rustix::fs::setxattr(head.join("file"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
        let hole = fs::File::create(head.join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&hole, b"end", (1 << 30) - 3).unwrap();
        chown(&head, Some(999), Some(999)).unwrap();

        ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        ground.store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
        let tool = head.join("deep/er/tool").metadata().unwrap();
        assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (999, 998, 0o4750));
        assert_eq!((tool.modified().unwrap(), tool.nlink()), (was, 2));
        assert_eq!(tool.ino(), head.join("second").metadata().unwrap().ino());
        assert_eq!(head.join("deep").metadata().unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(head.join("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert!(head.join("pipe").metadata().unwrap().file_type().is_fifo());
        let mut note = [0; 16];
        let len = rustix::fs::getxattr(head.join("file"), "user.note", &mut note).unwrap();
        assert_eq!(&note[..len], b"kept");
        let hole = head.join("hole").metadata().unwrap();
        assert_eq!((hole.len(), hole.blocks() < 1024), (1 << 30, true), "{:?}", ground.on);
        assert_eq!(head.metadata().unwrap().uid(), 999);
    }
}

#[test]
fn a_tree_that_wants_out_is_copied_as_it_is() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let outside = ground.root().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, head.join("dir")).unwrap();
        symlink(outside.join("secret"), head.join("leak")).unwrap();
        symlink("loop", head.join("loop")).unwrap();
        ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        ground.store.destroy(&name).unwrap();
        assert_eq!(read(outside.join("secret")), "secret");
    }
}

#[test]
fn a_snapshot_on_a_filesystem_that_shares_blocks_takes_no_room() {
    for ground in [On::Btrfs, On::Xfs].map(Ground::new) {
        let name = named("data");
        let head = ground.store.create(&name, |head| fs::write(head.join("large"), vec![7; 64 << 20])).unwrap();
        let free = || {
            rustix::fs::syncfs(fs::File::open(&head).unwrap()).unwrap();
            let room = rustix::fs::statvfs(ground.root()).unwrap();
            room.f_bavail * room.f_frsize
        };
        let before = free();
        ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        ground.store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
        assert!(before.saturating_sub(free()) < 8 << 20, "{:?}: {} of {before}", ground.on, free());
        assert_eq!(fs::metadata(head.join("large")).unwrap().len(), 64 << 20);
    }
}

#[test]
fn directories_deeper_than_descriptors_reach_are_refused_with_where() {
    let ground = Ground::new(On::Tmpfs);
    let (name, head) = ground.dataset("data");
    let script = "i=0; while [ $i -lt 1002 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done";
    let status = Command::new("sh").args(["-c", script]).current_dir(&head).status().unwrap();
    assert!(status.success());
    let error = ground.store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap_err().to_string();
    assert!(error.contains("deeper than 1000 directories"), "{}", &error[error.len().saturating_sub(200)..]);
    assert!(ground.store.inspect(&name).unwrap().snapshots.is_empty());
}

#[test]
fn what_finds_no_room_half_way_gives_its_room_back_at_once_and_the_dataset_is_as_it_was() {
    let ground = Ground::new(On::Tmpfs);
    let (name, head) = ground.dataset("data");
    let room = || rustix::fs::statvfs(ground.root()).unwrap().f_bfree;
    // Two of it fit, three do not.
    std::fs::write(head.join("large"), vec![1u8; 3 << 20]).unwrap();
    ground.store.snapshot(&name, &snapshot("first"), &stamps(&[])).unwrap();
    let before = room();
    let folder = ground.root().join("shop/data");
    let whole = |what: &str| {
        wait_until_it_is(before, &room, what);
        assert!(!folder.join("next").exists(), "{what}");
        assert_eq!(std::fs::read_dir(folder.join("snapshots")).unwrap().count(), 1, "{what}");
        assert_eq!(std::fs::metadata(head.join("large")).unwrap().len(), 3 << 20, "{what}");
    };
    let is_full = |error: DatasetError| matches!(error, DatasetError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
    assert!(is_full(ground.store.snapshot(&name, &snapshot("second"), &stamps(&[])).unwrap_err()));
    whole("a snapshot");
    assert!(is_full(ground.store.switch(&name, &snapshot("first"), &snapshot("kept")).unwrap_err()));
    whole("a switch");
}

/// Of a test beside this one in the same process, a program that is just being started has our files open for a moment.
fn wait_until_it_is(before: u64, room: &dyn Fn() -> u64, what: &str) {
    for _ in 0..500 {
        if room() == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(room(), before, "{what}");
}
