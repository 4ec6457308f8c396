//! Ends that a test asks for: this process dies at a named moment of a rollout, as of `kill -9`.
//!
//! Moments are `before ACTION` (what the machine has decided is on the log, and not done yet) and `after EVENT` (it was done,
//! and nobody has noted it). A test names a file by `COPPICE_TEST_DEATH` in the daemon's environment and writes the moment
//! into it; the file goes with the daemon, so that the next one comes past. What went by is appended to `FILE.passed`. Nobody
//! else sets that variable; without it this does nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The daemon comes past this moment, if it may.
pub(super) fn pass(when: &str, what: &str) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(file) = FILE.get_or_init(|| std::env::var_os("COPPICE_TEST_DEATH").map(PathBuf::from)) {
        pass_by(file, &format!("{when} {what}"));
    }
}

fn pass_by(file: &Path, moment: &str) {
    let passed = std::fs::File::options().append(true).create(true).open(file.with_extension("passed"));
    if let Err(error) = passed.and_then(|mut passed| writeln!(passed, "{moment}")) {
        tracing::warn!(%moment, %error, "a test will not know of it");
    }
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    if wanted.trim() == moment && std::fs::remove_file(file).is_ok() {
        let died = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        tracing::error!(%moment, ?died, "did not die");
    }
}
