//! A copy of a log that goes on meanwhile.

use std::time::Duration;

use coppice_log::{CopyError, Log, OpenError, StorageError};
use coppice_state::NodeId;

use crate::words::{NODE, open, release, releases_in};

#[tokio::test]
async fn a_copy_opens_as_the_log_was_when_it_was_made_and_the_log_goes_on() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(here.path()).await;
    // Behind a snapshot, commands purged.
    for number in 1..=10 {
        log.propose(release(number, 1000)).await.unwrap();
    }
    let state = log.read();
    log.copy_to(there.path()).await.unwrap();
    log.propose(release(11, 0)).await.unwrap();
    let taken = log.copy_to(there.path()).await.expect_err("it was written over");
    assert!(matches!(taken, CopyError::Storage(StorageError::Io { .. })), "{taken}");

    let copy = open(there.path()).await;
    assert_eq!((releases_in(&copy.read()), copy.read()), (10, state));
    copy.propose(release(11, 0)).await.expect("a copy is a log");
    copy.shutdown().await;
    log.shutdown().await;
    assert!(matches!(log.copy_to(there.path()).await, Err(CopyError::ShutDown)));
    let other = Log::open(there.path(), NodeId(NODE.0 + 1)).await.map(drop).unwrap_err();
    assert!(matches!(other, OpenError::Storage(StorageError::OtherNode { .. })), "{other}");
}

#[tokio::test]
async fn while_it_is_held_a_log_does_not_change_and_what_waited_goes_on() {
    let here = tempfile::tempdir().unwrap();
    let log = open(here.path()).await;
    log.propose(release(1, 0)).await.unwrap();
    let held = log.hold().await;
    let (there, other) = (tempfile::tempdir().unwrap(), log.clone());
    let mut waiting = tokio::spawn(async move { other.propose(release(2, 0)).await });
    log.copy_to(there.path()).await.unwrap();
    tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.expect_err("it waits as long as it is held");
    assert_eq!(releases_in(&log.read()), 1);
    drop(held);
    waiting.await.unwrap().unwrap();
    assert_eq!(releases_in(&log.read()), 2);
    log.shutdown().await;
}
