use coppice_log::ProposeError;

use crate::words::{open, release, releases_in};

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
    }
}
