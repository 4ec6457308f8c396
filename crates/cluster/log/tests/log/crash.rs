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

/// What a killed writer starts on.
#[derive(Clone, Copy)]
enum Start {
    Fresh,
    /// On what one left that was killed at its 20th fsync, with a write-ahead file to recover.
    Killed,
}

/// Kills a writer at its 1st, 1 + `step`th, … call of `syscall`, each time on another folder, until one is not
/// killed. Gives how many were.
async fn killed_at_each(start: Start, syscall: &str, step: usize) -> usize {
    for (runs, when) in (1..).step_by(step).enumerate() {
        let writer = Writer::new();
        if let Start::Killed = start {
            let (status, stderr) = writer.run(RELEASES, "fsync:signal=SIGKILL:when=20");
            assert!(is_killed(status), "{status} {stderr}");
        }
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
    let killed = killed_at_each(Start::Fresh, "fsync", 1).await;
    // One for each release, two for each of the snapshots (it, and the purge), and those of the first start.
    assert!(killed as u64 > RELEASES + 2 * (RELEASES / 7), "only {killed} fsyncs");
    assert_eq!(killed_at_each(Start::Fresh, "fdatasync", 1).await, 0, "SQLite is built to use fsync");
}

#[tokio::test]
async fn answered_commands_survive_a_second_kill_at_every_fsync_of_a_recovery() {
    assert!(killed_at_each(Start::Killed, "fsync", 1).await > 10);
}

#[tokio::test]
async fn answered_commands_survive_a_kill_at_renames_unlinks_and_truncations() {
    assert_eq!(killed_at_each(Start::Fresh, "rename", 1).await, 1, "the first start renames the database into place");
    assert!(killed_at_each(Start::Fresh, "unlink", 1).await > 0);
    assert!(killed_at_each(Start::Fresh, "ftruncate", 1).await > 0);
}

#[tokio::test]
async fn answered_commands_survive_a_kill_at_writes() {
    assert!(killed_at_each(Start::Fresh, "pwrite64", 5).await > 40);
    assert!(killed_at_each(Start::Killed, "pwrite64", 7).await > 10);
}

#[tokio::test]
async fn a_log_killed_again_and_again_keeps_what_was_answered() {
    let writer = Writer::new();
    let mut kills = 0;
    for round in 0..40 {
        let (syscall, when) = [("fsync", 1 + round / 4), ("openat", 30 + round), ("pwrite64", 1 + round)][round % 3];
        let before = writer.answered();
        let (status, stderr) = writer.run(before + 3, &format!("{syscall}:signal=SIGKILL:when={when}"));
        assert!(is_killed(status) || status.success(), "{syscall} {when}: {status} {stderr}");
        kills += usize::from(is_killed(status));
        assert!(writer.answered() >= before);
    }
    assert!(kills > 20, "only {kills} kills");
    is_whole(&writer, "many places").await;
}

#[tokio::test]
async fn a_command_is_synced_before_it_is_answered() {
    let writer = Writer::new();
    // So few that no snapshot is written beside them.
    let trace = writer.trace(4);
    let mut is_synced = false;
    let mut answers = 0;
    for line in trace.lines() {
        if line.contains("log.db-wal>") {
            is_synced = line.contains("fsync(");
        } else if line.contains("answered>") {
            assert!(is_synced, "{trace}");
            answers += 1;
        }
    }
    assert_eq!(answers, 5, "what was found, and four");
}
