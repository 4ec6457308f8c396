//! Opening, proposing, reading, when nothing goes wrong on the disk.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use coppice_log::{COMMAND_MAX, Log, OpenError, ProposeError, StorageError};
use coppice_state::{Body, CommandId, NodeId, Rejection};

use crate::words::{NODE, SMALL, name, open, release, releases_in};

#[tokio::test]
async fn what_was_proposed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    for first in [1, 31, 61] {
        let log = open(dir.path()).await;
        assert_eq!(releases_in(&log.read()), first - 1);
        for number in first..first + 30 {
            let applied = log.propose(release(number, 0)).await.unwrap();
            assert_eq!(applied.revision, number);
            assert_eq!(releases_in(&log.read()), number, "applied before it is answered");
        }
        log.shutdown().await;
        assert!(matches!(log.propose(release(1, 0)).await, Err(ProposeError::ShutDown)));
        assert_eq!(releases_in(&log.read()), first + 29, "reads go on");
    }
}

#[tokio::test]
async fn a_rejected_command_says_why_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut unknown = release(1, 0);
    unknown.body = Body::Remove { app: name("ghost"), remove_volumes: true };
    let error = log.propose(unknown).await.unwrap_err();
    assert!(matches!(&error, ProposeError::Rejected(Rejection::UnknownApp(app)) if *app == name("ghost")), "{error}");
    log.propose(release(1, 0)).await.unwrap();
    log.shutdown().await;
    assert_eq!(releases_in(&open(dir.path()).await.read()), 1);
}

#[tokio::test]
async fn a_retry_has_one_effect_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.propose(release(1, 0)).await.unwrap();
    let mut restart = release(2, 0);
    restart.body = Body::Restart { app: name("shop"), workloads: Default::default() };
    let first = log.propose(restart.clone()).await.unwrap();
    log.snapshot_now().await.unwrap();
    log.shutdown().await;
    let log = open(dir.path()).await;
    assert_eq!(log.propose(restart).await.unwrap(), first);
    assert_eq!(log.read().app("shop").unwrap().generation("web"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_proposed_at_once_are_each_applied_once_and_watchers_only_see_newer_states() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.propose(release(1, 0)).await.unwrap();
    let mut watch = log.watch();
    let proposals: Vec<_> = (2..=60u64)
        .map(|id| {
            let mut restart = release(1, 0);
            restart.id = CommandId(id.into());
            restart.body = Body::Restart { app: name("shop"), workloads: Default::default() };
            let log = log.clone();
            tokio::spawn(async move { log.propose(restart).await.unwrap().revision })
        })
        .collect();
    let mut seen = watch.borrow_and_update().revision();
    while seen < 60 {
        watch.changed().await.unwrap();
        let newer = watch.borrow_and_update().revision();
        assert!(newer > seen);
        seen = newer;
    }
    let mut revisions = Vec::new();
    for proposal in proposals {
        revisions.push(proposal.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=60).collect::<Vec<_>>());
    assert_eq!(log.read().app("shop").unwrap().generation("web"), 59);
}

#[tokio::test]
async fn snapshots_bound_the_log_and_may_be_larger_than_one_row() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    // The state keeps 20 releases, so snapshots of 20 × 200 kB: four rows.
    for number in 1..=60 {
        log.propose(release(number, 200_000)).await.unwrap();
    }
    log.snapshot_now().await.unwrap();
    log.shutdown().await;
    let database = rusqlite::Connection::open(dir.path().join("log.db")).unwrap();
    let count = |table| database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    assert!(count("snapshot").unwrap() >= 4);
    let entries = count("log").unwrap();
    assert!(entries <= 2 + 7, "{entries} entries are left of 60");
    drop(database);
    let size = std::fs::metadata(dir.path().join("log.db")).unwrap().len();
    assert!(size < 30_000_000, "{size} bytes");
    assert_eq!(releases_in(&open(dir.path()).await.read()), 60);
}

#[tokio::test]
async fn a_command_too_large_is_refused_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let error = log.propose(release(1, COMMAND_MAX)).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { size } if size > COMMAND_MAX), "{error}");
    log.propose(release(1, COMMAND_MAX / 2)).await.unwrap();
}

#[tokio::test]
async fn a_log_in_use_is_refused_by_name_and_free_after_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let error = Log::open(dir.path(), NODE).await.err().unwrap();
    assert!(matches!(error, OpenError::Storage(StorageError::InUse { .. })), "{error}");
    assert!(error.to_string().contains("log.db"), "{error}");
    log.propose(release(1, 0)).await.unwrap();
    log.shutdown().await;
    open(dir.path()).await;
}

#[tokio::test]
async fn a_log_of_another_node_or_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.shutdown().await;
    let error = Log::open(dir.path(), NodeId(2)).await.err().unwrap();
    assert!(matches!(error, OpenError::Storage(StorageError::OtherNode { found: 1, wanted: 2, .. })), "{error}");
    rusqlite::Connection::open(dir.path().join("log.db")).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = Log::open(dir.path(), NODE).await.err().unwrap();
    assert!(matches!(error, OpenError::Storage(StorageError::LaterFormat { found: 9, .. })), "{error}");
}

#[tokio::test]
async fn the_log_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (outer, inner) = (dir.path().join("deep"), dir.path().join("deep/er"));
    let log = open(&inner).await;
    log.propose(release(1, 0)).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&outer), mode(&inner)), (0o700, 0o700));
    assert_eq!((mode(&inner.join("log.db")), mode(&inner.join("log.db-wal"))), (0o600, 0o600));
}

#[tokio::test]
async fn a_cluster_of_one_is_ready_within_a_tenth_of_a_second() {
    let mut fastest = [Duration::MAX; 2];
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        for fastest in &mut fastest {
            let start = Instant::now();
            let log = Log::open_with(dir.path(), NODE, SMALL).await.unwrap();
            *fastest = start.elapsed().min(*fastest);
            log.propose(release(1, 0)).await.unwrap();
            log.shutdown().await;
        }
    }
    assert!(fastest.iter().all(|time| *time < Duration::from_millis(100)), "first start, second start: {fastest:?}");
}
