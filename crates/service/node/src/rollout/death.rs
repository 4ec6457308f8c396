//! Moments of a rollout at which a test has this process die, as of `kill -9`, or rest while the test does something.
//!
//! Moments are `before ACTION` (what the machine has decided is on the log, and not done yet) and `after EVENT` (it was done,
//! and nobody has noted it). A test names a file by `COPPICE_TEST_DEATH` in the daemon's environment and writes into it the
//! moment, at which the daemon dies; the file goes with the daemon, so that the next one comes past. With `hold` before the
//! moment the rollout rests there until the test takes the file away: by then the disk may be full. What went by is appended
//! to `FILE.passed`. Nobody else sets that variable; without it this does nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Between two looks whether the file is still there.
const PAUSE: Duration = Duration::from_millis(2);

/// The rollout comes past this moment, if it may.
pub(super) async fn pass(when: &str, what: &str) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(file) = FILE.get_or_init(|| std::env::var_os("COPPICE_TEST_DEATH").map(PathBuf::from)) {
        pass_by(file, &format!("{when} {what}")).await;
    }
}

async fn pass_by(file: &Path, moment: &str) {
    let passed = std::fs::File::options().append(true).create(true).open(file.with_extension("passed"));
    if let Err(error) = passed.and_then(|mut passed| writeln!(passed, "{moment}")) {
        tracing::warn!(%moment, %error, "a test will not know of it");
    }
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    if wanted.trim() == moment && std::fs::remove_file(file).is_ok() {
        let died = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        tracing::error!(%moment, ?died, "did not die");
    }
    if wanted.trim().strip_prefix("hold ") == Some(moment) {
        while file.exists() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
