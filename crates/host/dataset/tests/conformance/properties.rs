//! How datasets are kept: compression, quotas and record sizes, and what is kept beside them.

use std::fs;
use std::io::Write;

use coppice_dataset::{ATTACHMENT_MAX, Compression, DatasetError, Properties};

use crate::ground::{BASE, EVERYWHERE, Ground, On, named, output, read, snapshot, stamps};

const ALL: Properties =
    Properties { compression: Some(Compression::Gzip), quota: Some(4 << 20), record_size: Some(64 << 10) };

/// Writes what does not compress until it is refused, or `most` is there.
fn write_until_full(path: &std::path::Path, most: usize) -> std::io::Result<()> {
    let mut random = fs::File::open("/dev/urandom").unwrap();
    let mut file = fs::File::create(path)?;
    let mut piece = vec![0; 64 << 10];
    for _ in 0..most / piece.len() {
        std::io::Read::read_exact(&mut random, &mut piece).unwrap();
        file.write_all(&piece)?;
        file.sync_all()?;
    }
    Ok(())
}

#[test]
fn a_full_quota_stops_its_own_volume_and_no_other_and_goes_with_the_head() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let (_, other) = ground.dataset("other");
        let store = &ground.store;
        let quota = Properties { quota: Some(4 << 20), ..Properties::default() };
        let words = store.set_properties(&name, &quota).unwrap();
        assert_eq!(store.properties(&name), quota);
        if matches!(ground.on, On::Xfs | On::Tmpfs) {
            assert!(words.len() == 1 && words[0].contains("no limit of their own"), "{words:?}");
            continue;
        }
        assert_eq!(words, Vec::<String>::new());
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let full = write_until_full(&head.join("large"), 16 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(rustix::io::Errno::DQUOT.raw_os_error()), "{:?}: {full}", ground.on);
        write_until_full(&other.join("large"), 8 << 20).unwrap();
        // A full one can be looked after.
        store.stamp(&name, &stamps(&[("release", "2")])).unwrap();
        store.snapshot(&name, &snapshot("full"), &stamps(&[])).unwrap();
        store.attach(&name, &snapshot("record"), b"kept").unwrap();
        write_until_full(&head.join("again"), 4 << 20).unwrap_err();
        // The new head has it, too; and a larger one lets more in at once.
        store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
        write_until_full(&head.join("large"), 16 << 20).unwrap_err();
        store.set_properties(&name, &Properties { quota: Some(16 << 20), ..quota }).unwrap();
        write_until_full(&head.join("more"), 6 << 20).unwrap();
        store.set_properties(&name, &Properties::default()).unwrap();
        write_until_full(&head.join("most"), 20 << 20).unwrap();
    }
}

#[test]
fn what_is_written_is_compressed_where_the_storage_can_and_a_word_says_where_it_cannot() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, head) = ground.dataset("data");
        let store = &ground.store;
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        let words = store.set_properties(&name, &ALL).unwrap();
        match ground.on {
            On::Xfs | On::Tmpfs => assert_eq!(words.len(), 3, "{words:?}"),
            On::Btrfs => assert!(words.len() == 1 && words[0].contains("only ZFS"), "{words:?}"),
            On::Zfs => {
                assert!(words.len() == 1 && words[0].contains("zfs-fuse ends when"), "{words:?}");
                let own = |property| output("zfs", &["get", "-H", "-p", "-o", "value", property, &generation(1)]);
                assert_eq!(
                    (own("compression"), own("recordsize"), own("refquota")),
                    ("gzip\n".into(), "131072\n".into(), "4194304\n".into())
                );
                // zfs-fuse has neither.
                let words = store
                    .set_properties(
                        &name,
                        &Properties { compression: Some(Compression::Zstd), record_size: Some(1 << 20), ..ALL },
                    )
                    .unwrap();
                assert!(words.len() == 2 && words[0].contains("its own is used"), "{words:?}");
                assert_eq!(own("compression"), "on\n");
            }
        }
        if matches!(ground.on, On::Btrfs | On::Zfs) {
            store.set_properties(&name, &ALL).unwrap();
            for round in ["now", "after"] {
                // Sixteen times what the quota has room for.
                fs::write(head.join(round), vec![7u8; 64 << 20]).unwrap();
                rustix::fs::syncfs(fs::File::open(&head).unwrap()).unwrap();
                fs::remove_file(head.join(round)).unwrap();
                if round == "now" {
                    store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
                }
            }
            store.set_properties(&name, &Properties::default()).unwrap();
        }
        assert_eq!(read(head.join("file")), "one");
    }
}

fn generation(number: u32) -> String {
    format!("{BASE}/shop/data/g{number}")
}

#[test]
fn what_is_attached_is_there_whatever_becomes_of_the_head_and_goes_with_the_dataset() {
    for ground in EVERYWHERE.map(Ground::new) {
        let (name, _) = ground.dataset("data");
        let store = &ground.store;
        let record = vec![b'x'; 100 << 10];
        store.snapshot(&name, &snapshot("r1"), &stamps(&[])).unwrap();
        store.attach(&name, &snapshot("release-1"), &record).unwrap();
        store.attach(&name, &snapshot("release-2"), b"two").unwrap();
        store.attach(&name, &snapshot("release-2"), b"three").unwrap();
        store.switch(&name, &snapshot("r1"), &snapshot("cut")).unwrap();
        let again = ground.reopened();
        assert_eq!(again.attached(&name, &snapshot("release-1")).unwrap(), Some(record));
        assert_eq!(again.attached(&name, &snapshot("release-2")).unwrap(), Some(b"three".to_vec()));
        assert_eq!(again.attachments(&name).unwrap(), [snapshot("release-1"), snapshot("release-2")]);
        store.remove_attachment(&name, &snapshot("release-1")).unwrap();
        assert_eq!(again.attached(&name, &snapshot("release-1")).unwrap(), None);
        let large = store.attach(&name, &snapshot("large"), &vec![0; ATTACHMENT_MAX + 1]).unwrap_err();
        assert!(matches!(large, DatasetError::Attachment { .. }), "{large}");
        if ground.on == On::Tmpfs {
            fs::write(store.head(&name).join("large"), vec![1; 7 << 20]).unwrap();
            let full = store.attach(&name, &snapshot("release-2"), &vec![1; 1 << 20]).unwrap_err().to_string();
            assert!(full.contains("No space left"), "{full}");
            assert_eq!(again.attached(&name, &snapshot("release-2")).unwrap(), Some(b"three".to_vec()));
            assert_eq!(again.attachments(&name).unwrap().len(), 1);
        }
        store.destroy(&name).unwrap();
        ground.dataset("data");
        assert!(again.attachments(&name).unwrap().is_empty());
        assert!(matches!(store.attach(&named("no"), &snapshot("x"), b""), Err(DatasetError::NoDataset(_))));
    }
}
