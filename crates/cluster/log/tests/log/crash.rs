//! `kill -9` at every fsync, rename and unlink, and at writes: what was answered is there, whole, and it goes on.

use crate::words::{open, release, releases_in};
use crate::writer::{Writer, is_killed};

/// Releases the writer proposes: enough for some snapshots and purges (see `words::SMALL`).
const RELEASES: u64 = 24;

/// After a kill: all that was answered is there, at most the one release in flight on top; a retry of that
/// one has one effect; and the log goes on.
async fn is_whole(writer: &Writer, place: &str) {
    let answered = writer.answered();
    let log = open(&writer.log_dir()).await;
    let found = releases_in(&log.read());
    assert!((answered..=answered + 1).contains(&found), "killed at {place}: {answered} answered, {found} found");
    for number in answered + 1..=answered + 3 {
        log.propose(release(number, 0)).await.unwrap();
    }
    assert_eq!(releases_in(&log.read()), answered + 3);
    log.shutdown().await;
    let log = open(&writer.log_dir()).await;
    assert_eq!(releases_in(&log.read()), answered + 3, "killed at {place}");
    log.shutdown().await;
}

/// Kills a writer on a fresh folder at its 1st, 1 + `step`th, … call of `syscall`, until one is not killed.
/// Gives how many were.
async fn killed_at_each(syscall: &str, step: usize) -> usize {
    for (runs, when) in (1..).step_by(step).enumerate() {
        let writer = Writer::new();
        let (status, stderr) = writer.run(RELEASES, &format!("{syscall}:signal=SIGKILL:when={when}"));
        let place = format!("{syscall} {when}");
        if !is_killed(status) {
            assert!(status.success(), "{place}: {status} {stderr}");
            assert_eq!(writer.answered(), RELEASES);
            return runs;
        }
        is_whole(&writer, &place).await;
    }
    unreachable!("the range has no end")
}

#[tokio::test]
async fn answered_commands_survive_a_kill_at_every_fsync() {
    // SQLite is built to use one or the other; strace counts them apart.
    let killed = killed_at_each("fsync", 1).await + killed_at_each("fdatasync", 1).await;
    // One for each release, two for each of the snapshots (it, and the purge), and those of the first start.
    assert!(killed as u64 > RELEASES + 2 * (RELEASES / 7), "only {killed} fsyncs");
}

#[tokio::test]
async fn answered_commands_survive_a_kill_at_renames_unlinks_and_truncations() {
    assert_eq!(killed_at_each("rename", 1).await, 1, "the first start renames the whole database into place");
    assert!(killed_at_each("unlink", 1).await > 0);
    killed_at_each("ftruncate", 1).await;
}

#[tokio::test]
async fn answered_commands_survive_a_kill_at_writes() {
    // A commit is about a dozen writes; a step that shares no factor with that meets each of them.
    assert!(killed_at_each("pwrite64", 11).await > 10);
}

#[tokio::test]
async fn a_log_killed_again_and_again_while_it_recovers_keeps_what_was_answered() {
    let writer = Writer::new();
    let mut kills = 0;
    for round in 0..40 {
        let (syscall, when) =
            [("fdatasync", 1 + round / 4), ("fsync", 1), ("pwrite64", 1 + round), ("openat", 40 + round)][round % 4];
        let before = writer.answered();
        let (status, stderr) = writer.run(before + 3, &format!("{syscall}:signal=SIGKILL:when={when}"));
        assert!(is_killed(status) || status.success(), "{syscall} {when}: {status} {stderr}");
        kills += usize::from(is_killed(status));
        assert!(writer.answered() >= before);
    }
    assert!(kills > 10, "only {kills} kills");
    is_whole(&writer, "many places").await;
}
