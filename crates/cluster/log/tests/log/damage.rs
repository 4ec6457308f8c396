//! Files torn or garbled while the node is down: all there is, or a clear word; never a silent loss of what was
//! checkpointed.

use std::path::Path;

use coppice_log::{Log, OpenError, StorageError};
use tempfile::TempDir;

use crate::words::{NODE, SMALL, open, release, releases_in};

const RELEASES: u64 = 20;

/// The files of a log that was shut down: all in `log.db`.
async fn closed_log() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    for number in 1..=RELEASES {
        log.propose(release(number, 0)).await.unwrap();
    }
    log.shutdown().await;
    assert!(!dir.path().join("log.db-wal").exists());
    dir
}

/// The files of a node that lost power: `checkpointed` releases in `log.db`, the others in its write-ahead file.
async fn dead_log(checkpointed: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    for number in 1..=checkpointed {
        log.propose(release(number, 0)).await.unwrap();
    }
    log.shutdown().await;
    let log = open(dir.path()).await;
    for number in checkpointed + 1..=RELEASES {
        log.propose(release(number, 0)).await.unwrap();
    }
    for file in ["log.db", "log.db-wal"] {
        std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
    }
    log.shutdown().await;
    copy
}

fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Opens a log; gives the releases in it, or the complaint, which names the file and what to do.
async fn found(dir: &Path) -> Result<u64, String> {
    match Log::open_with(dir, NODE, SMALL).await {
        Ok(log) => {
            let releases = releases_in(&log.read());
            log.propose(release(releases + 1, 0)).await.unwrap();
            log.shutdown().await;
            Ok(releases)
        }
        Err(OpenError::Storage(error @ (StorageError::Damaged { .. } | StorageError::LaterFormat { .. }))) => {
            assert!(error.to_string().contains("log.db"), "{error}");
            Err(error.to_string())
        }
        // Bits of SQLite's header say who may write, and a row of ours says whose the log is.
        Err(OpenError::Storage(error @ (StorageError::OtherNode { .. } | StorageError::Io { .. }))) => {
            Err(error.to_string())
        }
        Err(error) => panic!("neither open nor refused as damaged: {error}"),
    }
}

#[tokio::test]
async fn a_byte_changed_anywhere_in_the_database_is_harmless_or_noticed() {
    let dir = closed_log().await;
    let size = std::fs::metadata(dir.path().join("log.db")).unwrap().len() as usize;
    let mut noticed = 0;
    for at in (0..100).chain((100..size).step_by((size / 300) | 1)) {
        let copy = copy_of(dir.path());
        change(&copy.path().join("log.db"), |bytes| bytes[at] ^= 0x40);
        match found(copy.path()).await {
            Ok(releases) => assert_eq!(releases, RELEASES, "byte {at}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 50, "only {noticed} changed bytes were noticed");
}

#[tokio::test]
async fn a_database_cut_short_emptied_or_gone_is_refused_and_not_begun_anew() {
    let dir = closed_log().await;
    let size = std::fs::metadata(dir.path().join("log.db")).unwrap().len() as usize;
    for length in [0, 1, 99, 4096, 8192].into_iter().chain((0..size).step_by(5000)).chain([size - 1]) {
        let copy = copy_of(dir.path());
        change(&copy.path().join("log.db"), |bytes| bytes.truncate(length));
        match found(copy.path()).await {
            Ok(releases) => assert_eq!(releases, RELEASES, "{length} bytes: only free pages may be missed by nobody"),
            Err(complaint) => assert!(complaint.contains("restore it from a backup"), "{length} bytes: {complaint}"),
        }
    }
    let dead = dead_log(10).await;
    std::fs::remove_file(dead.path().join("log.db")).unwrap();
    assert!(found(dead.path()).await.unwrap_err().contains("log.db-wal is there"));
}

#[tokio::test]
async fn a_database_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.db");
    for content in [&b"not a database at all, but long enough to look at"[..], &[0; 8192]] {
        std::fs::write(&path, content).unwrap();
        found(dir.path()).await.unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn a_torn_write_ahead_file_keeps_what_was_checkpointed_and_whole_commands_only() {
    let dir = dead_log(10).await;
    assert_eq!(found(copy_of(dir.path()).path()).await, Ok(RELEASES), "untouched");
    let size = std::fs::metadata(dir.path().join("log.db-wal")).unwrap().len() as usize;
    let mut least = u64::MAX;
    for length in (0..size).step_by((size / 150) | 1).chain([size - 1]) {
        let copy = copy_of(dir.path());
        change(&copy.path().join("log.db-wal"), |bytes| bytes.truncate(length));
        let releases = found(copy.path()).await.unwrap();
        assert!((10..=RELEASES).contains(&releases), "cut at {length}: {releases}");
        least = least.min(releases);
    }
    assert_eq!(least, 10, "without the file there is what was checkpointed");
}

#[tokio::test]
async fn a_garbled_write_ahead_file_is_refused_unless_it_looks_like_a_torn_last_write() {
    let dir = dead_log(10).await;
    let size = std::fs::metadata(dir.path().join("log.db-wal")).unwrap().len() as usize;
    let mut refused = 0;
    for at in (0..40).chain((40..size).step_by((size / 150) | 1)).chain(size - 40..size) {
        let copy = copy_of(dir.path());
        change(&copy.path().join("log.db-wal"), |bytes| bytes[at] ^= 0x10);
        match found(copy.path()).await {
            Ok(releases) => assert!(releases >= RELEASES - 1, "byte {at}: {releases} of {RELEASES}"),
            Err(complaint) => {
                assert!(complaint.contains("write-ahead file"), "{complaint}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}
