//! The disk is full, or fails, at every place where the log writes.

use std::fs::File;
use std::path::{Path, PathBuf};

use coppice_log::{Log, OpenError, ProposeError, StorageError};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use crate::words::{open, release, releases_in};
use crate::writer::Writer;

/// A filesystem of its own in memory, taken away with the value.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn new(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={megabytes}m")).unwrap();
        mount("coppice-log-test", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .expect("mounting a tmpfs: the tests run as root");
        Self { dir }
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Takes all space but `pages` pages of 4 KiB.
    fn fill_but(&self, pages: u64) {
        let free = statvfs(self.dir.path()).unwrap().f_bavail;
        if free > pages {
            let filler = File::create(self.filler()).unwrap();
            fallocate(&filler, FallocateFlags::empty(), 0, (free - pages) * 4096).unwrap();
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.dir.path(), UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.dir.path().display());
        }
    }
}

fn is_full(error: &ProposeError) -> bool {
    matches!(error, ProposeError::Unavailable(OpenError::Storage(StorageError::Full { .. })))
}

/// Proposes releases from `first` on until one fails; gives the number of that one and its error.
async fn until_refused(log: &Log, first: u64) -> (u64, ProposeError) {
    for number in first..first + 1000 {
        if let Err(error) = log.propose(release(number, 5000)).await {
            return (number, error);
        }
    }
    panic!("a thousand releases fit on the disk");
}

#[tokio::test]
async fn a_full_disk_refuses_commands_by_name_loses_none_and_works_again_with_space() {
    let disk = SmallDisk::new(4);
    let log = open(&disk.log_dir()).await;
    for number in 1..=10 {
        log.propose(release(number, 0)).await.unwrap();
    }
    disk.fill_but(0);
    let (refused, error) = until_refused(&log, 11).await;
    assert!(is_full(&error), "{error}");
    let path = disk.log_dir().join("log.db");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    for _ in 0..3 {
        let again = log.propose(release(refused, 5000)).await.unwrap_err();
        assert!(is_full(&again), "{again}");
        assert_eq!(releases_in(&log.read()), refused - 1, "reads go on");
    }
    disk.clear();
    for number in refused..refused + 10 {
        log.propose(release(number, 5000)).await.unwrap();
    }
    log.shutdown().await;
    assert_eq!(releases_in(&open(&disk.log_dir()).await.read()), refused + 9);
}

#[tokio::test]
async fn a_node_starts_on_a_full_disk_with_all_that_was_answered() {
    let disk = SmallDisk::new(4);
    let log = open(&disk.log_dir()).await;
    disk.fill_but(2);
    let (refused, _) = until_refused(&log, 1).await;
    log.shutdown().await;
    let log = open(&disk.log_dir()).await;
    assert_eq!(releases_in(&log.read()), refused - 1);
    disk.clear();
    log.propose(release(refused, 0)).await.unwrap();
}

#[tokio::test]
async fn with_any_number_of_pages_left_what_is_answered_stays() {
    let disk = SmallDisk::new(4);
    let mut number = 1;
    for pages in 0..40 {
        let log = open(&disk.log_dir()).await;
        assert_eq!(releases_in(&log.read()), number - 1);
        disk.fill_but(pages);
        let (refused, error) = until_refused(&log, number).await;
        assert!(is_full(&error), "{pages} pages left: {error}");
        // Its own snapshot may stop the log after a command was written and before it was answered.
        assert!((refused - 1..=refused).contains(&releases_in(&log.read())), "{pages} pages left");
        disk.clear();
        log.propose(release(refused, 5000)).await.unwrap();
        number = refused + 1;
        log.shutdown().await;
    }
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_says_so_and_succeeds_with_space() {
    for pages in 0..12 {
        let disk = SmallDisk::new(1);
        disk.fill_but(pages);
        match Log::open(&disk.log_dir(), crate::words::NODE).await {
            Ok(log) => log.shutdown().await,
            Err(error) => {
                assert!(matches!(error, OpenError::Storage(StorageError::Full { .. })), "{pages} pages: {error}");
            }
        }
        disk.clear();
        open(&disk.log_dir()).await.propose(release(1, 0)).await.unwrap();
    }
}

/// What was answered to a writer whose `fault` may have ended it is there.
async fn keeps_what_was_answered(log_dir: &Path, answered: u64, fault: &str) {
    let log = open(log_dir).await;
    let found = releases_in(&log.read());
    assert!((answered..=answered + 1).contains(&found), "{fault}: {answered} answered, {found} found");
    log.propose(release(answered + 1, 0)).await.unwrap();
    log.shutdown().await;
}

#[tokio::test]
async fn failed_writes_and_fsyncs_are_tried_once_more_then_named_and_lose_nothing() {
    let (mut unfelt, mut felt) = (0, 0);
    for (call, error, step, end) in
        [("pwrite64", "ENOSPC", 11, 130), ("pwrite64", "EIO", 19, 130), ("fsync", "EIO", 3, 24)]
    {
        for (when, lasting) in (1..end).step_by(step).flat_map(|when| [(when, ""), (when, "+")]) {
            // Counted for each thread, and a log opened again has another, where it may strike once more.
            let fault = format!("{call}:error={error}:when={when}{lasting}");
            let writer = Writer::new();
            let (status, stderr) = writer.run(16, &fault);
            if status.success() {
                assert_eq!(writer.answered(), 16, "{fault}");
                unfelt += 1;
            } else {
                let (word, variant) =
                    if error == "ENOSPC" { ("no space left", "Full") } else { ("cannot be read or written", "Io") };
                assert!(stderr.contains(word) || stderr.contains(variant), "{fault}: {stderr}");
                felt += 1;
            }
            keeps_what_was_answered(&writer.log_dir(), writer.answered(), &fault).await;
        }
    }
    assert!(unfelt > 10 && felt > 10, "{unfelt} not felt, {felt} felt");
}
