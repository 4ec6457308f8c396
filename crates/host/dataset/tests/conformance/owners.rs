//! Whose ids files have on disk where their filesystem shows them to one range at a time.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use coppice_base::IdRange;

use crate::ground::{EVERYWHERE, Ground, On, named, output, snapshot, stamps};

/// `cap_net_raw=p`, version 2 (linux/capability.h).
const CAPABILITIES: [u8; 20] = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What an image begins a volume with: directories, several names, a link, and what a change of owner takes away.
fn furnish(head: &Path) {
    fs::create_dir_all(head.join("deep/er")).unwrap();
    fs::write(head.join("deep/er/tool"), "x").unwrap();
    chown(head.join("deep/er/tool"), Some(999), Some(998)).unwrap();
    fs::set_permissions(head.join("deep/er/tool"), PermissionsExt::from_mode(0o6755)).unwrap();
    fs::hard_link(head.join("deep/er/tool"), head.join("deep/second")).unwrap();
    symlink("/etc/passwd", head.join("link")).unwrap();
    fs::write(head.join("able"), "x").unwrap();
    rustix::fs::setxattr(head.join("able"), "security.capability", &CAPABILITIES, rustix::fs::XattrFlags::empty())
        .unwrap();
    chown(head, Some(999), Some(998)).unwrap();
}

fn capabilities(path: &Path) -> Vec<u8> {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, "security.capability", &mut value).unwrap();
    value[..len].to_vec()
}

/// Every file, its owner less `first`, and its mode.
fn listing(head: &Path, first: u32) -> String {
    let text = output("find", &[head.to_str().unwrap(), "-printf", "%P %y %m %U %G %n\n"]);
    let own = |id: &str| id.parse::<u32>().unwrap().wrapping_sub(first).to_string();
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut parts: Vec<String> = line.split(' ').map(str::to_owned).collect();
            (parts[3], parts[4]) = (own(&parts[3]), own(&parts[4]));
            parts.join(" ")
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn files_are_of_whose_turn_it_is_with_all_that_belongs_to_them() {
    let [one, two] = [IdRange::nth(3), IdRange::nth(40)];
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let store = &ground.store;
        assert_eq!(store.maps_ids(&name).unwrap(), ground.on != On::Zfs, "{:?}", ground.on);
        furnish(&head);
        let before = listing(&head, 0);
        store.snapshot(&name, &snapshot("before"), &stamps(&[])).unwrap();
        for ids in [Some(one), Some(one), Some(two), None, Some(one)] {
            store.own(&name, ids).unwrap();
            assert_eq!(store.owned_by(&name).unwrap(), [ids; 2]);
            let first = ids.map_or(0, |range| range.first);
            assert_eq!(listing(&head, first), before, "{:?} {ids:?}", ground.on);
            let mut able = CAPABILITIES.to_vec();
            if ids.is_some() {
                able[3] = 3;
                able.extend(first.to_le_bytes());
            }
            assert_eq!(capabilities(&head.join("able")), able, "{:?} {ids:?}", ground.on);
        }
        // Snapshots, clones and switches carry it along; a stream has what containers see.
        store.snapshot(&name, &snapshot("after"), &stamps(&[])).unwrap();
        let copy = named("copy");
        store.clone_to(&name, &snapshot("after"), &copy).unwrap();
        assert_eq!(store.owned_by(&copy).unwrap(), [Some(one); 2]);
        store.switch(&name, &snapshot("before"), &snapshot("cut")).unwrap();
        assert_eq!((store.owned_by(&name).unwrap(), listing(&head, 0)), ([None; 2], before.clone()));
        let mut stream = Vec::new();
        store.send(&name, &snapshot("after"), None, &mut stream).unwrap();
        let to = ground.second();
        to.receive(&name, &mut stream.as_slice()).unwrap();
        assert_eq!(listing(&to.head(&name), 0), before);
        assert_eq!(capabilities(&to.head(&name).join("able")), CAPABILITIES);
        // A difference that comes is in one form with what it is from.
        to.own(&name, Some(two)).unwrap();
        to.snapshot(&name, &snapshot("theirs"), &stamps(&[])).unwrap();
        let (there, back) = (named("there"), named("back"));
        let mut stream = Vec::new();
        to.send(&name, &snapshot("theirs"), None, &mut stream).unwrap();
        store.receive(&there, &mut stream.as_slice()).unwrap();
        store.own(&there, Some(one)).unwrap();
        fs::write(to.head(&name).join("new"), "x").unwrap();
        chown(to.head(&name).join("new"), Some(two.first + 7), Some(two.first + 7)).unwrap();
        to.snapshot(&name, &snapshot("newer"), &stamps(&[])).unwrap();
        let mut stream = Vec::new();
        to.send(&name, &snapshot("newer"), Some(&snapshot("theirs")), &mut stream).unwrap();
        store.receive(&there, &mut stream.as_slice()).unwrap();
        store.clone_to(&there, &snapshot("newer"), &back).unwrap();
        let form = store.owned_by(&back).unwrap()[0].map_or(0, |range| range.first);
        assert_eq!(listing(&store.head(&back), form), listing(&to.head(&name), two.first));
    }
}

#[test]
fn a_change_of_owners_that_was_cut_off_anywhere_is_taken_up_whoever_comes_next() {
    let (one, two) = (IdRange::nth(3), IdRange::nth(4));
    for ground in [On::Xfs, On::Zfs].map(Ground::new) {
        let (name, head) = ground.dataset("data");
        furnish(&head);
        let before = listing(&head, 0);
        for (next, ids) in [Some(one), Some(two), None, Some(two)].into_iter().zip([two, two, one, one]) {
            // As a kill leaves it: the root says that it goes on, some files are changed, and one has lost what it had.
            chown(&head, None, Some(ids.first + 998)).unwrap();
            let tool = head.join("deep/er/tool");
            let pending = head.join(format!("deep/.coppice-owner-6755--{}", tool.metadata().unwrap().ino()));
            fs::hard_link(&tool, &pending).unwrap();
            chown(&tool, Some(ids.first + 999), Some(ids.first + 998)).unwrap();
            assert_eq!(tool.metadata().unwrap().mode() & 0o6000, 0, "the kernel took it away");
            let [user, group] = ground.store.owned_by(&name).unwrap();
            assert_ne!(user, group);
            ground.store.own(&name, next).unwrap();
            assert_eq!(ground.store.owned_by(&name).unwrap(), [next; 2]);
            assert_eq!(listing(&head, next.map_or(0, |range| range.first)), before, "{:?} {next:?}", ground.on);
        }
        // A name of a file's own that only looks so is one.
        fs::write(head.join(".coppice-owner-4755--1"), "mine").unwrap();
        ground.store.own(&name, Some(one)).unwrap();
        assert_eq!(fs::read_to_string(head.join(".coppice-owner-4755--1")).unwrap(), "mine");
    }
}
