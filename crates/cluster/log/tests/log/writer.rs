//! A process of its own that opens a log and proposes commands: this test binary, started again.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::words::{open, release, releases_in};

const DIR: &str = "COPPICE_LOG_WRITER_DIR";
const UP_TO: &str = "COPPICE_LOG_WRITER_UP_TO";

/// Not a test by itself: what [`Writer`] runs. Notes the last release it finds, proposes the next ones up to a
/// number, one after the other, and notes each answer before it goes on.
#[test]
fn writer() {
    let (Some(dir), Ok(up_to)) = (std::env::var_os(DIR), std::env::var(UP_TO)) else { return };
    let dir = PathBuf::from(dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let log = open(&dir.join("log")).await;
        let mut answered = OpenOptions::new().create(true).append(true).open(dir.join("answered")).unwrap();
        let found = releases_in(&log.read());
        answered.write_all(format!("{found}\n").as_bytes()).unwrap();
        for number in found + 1..=up_to.parse().unwrap() {
            if let Err(error) = log.propose(release(number, 0)).await {
                eprintln!("release {number}: {error}");
                std::process::exit(3);
            }
            answered.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        log.shutdown().await;
    });
}

/// A folder with a log and the answers that writers got.
pub(crate) struct Writer {
    dir: TempDir,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The last release that was answered, or found by a later writer; every one before it was, too.
    pub(crate) fn answered(&self) -> u64 {
        let lines = std::fs::read_to_string(self.dir.path().join("answered")).unwrap_or_default();
        lines.lines().map(|line| line.parse().unwrap()).max().unwrap_or(0)
    }

    /// Runs the writer up to release `up_to` under strace with `inject` (its `-e inject=` value).
    pub(crate) fn run(&self, up_to: u64, inject: &str) -> (ExitStatus, String) {
        let call = inject.split(':').next().unwrap();
        self.strace(up_to, &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={inject}")])
    }

    /// Runs the writer up to release `up_to`; gives its writes and syncs in order, with the files' names.
    pub(crate) fn trace(&self, up_to: u64) -> String {
        let trace = self.dir.path().join("trace");
        let (status, stderr) =
            self.strace(up_to, &["-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", trace.to_str().unwrap()]);
        assert!(status.success(), "{status} {stderr}");
        std::fs::read_to_string(trace).unwrap()
    }

    fn strace(&self, up_to: u64, arguments: &[&str]) -> (ExitStatus, String) {
        let done = Command::new("strace")
            .args(["-f", "-qq"])
            .args(arguments)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "writer::writer", "--nocapture"])
            .env(DIR, self.dir.path())
            .env(UP_TO, up_to.to_string())
            .stdin(Stdio::null())
            .output()
            .expect("strace runs: it is one of the packages that the tests need");
        (done.status, String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

pub(crate) fn is_killed(status: ExitStatus) -> bool {
    // strace ends as its tracee did.
    status.signal() == Some(9) || status.code() == Some(128 + 9)
}
