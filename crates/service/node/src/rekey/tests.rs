//! Daemons that are killed at each call of a new key, calls that fail, and disks that are full: on a real log and real files, in a
//! process of its own where it dies. What is not shown here is that of the command line (`tests/e2e/secrets.rs`).

use std::ffi::CString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use coppice_api::ErrorKind;
use coppice_base::Timestamp;
use coppice_log::{Log, OpenError, Settings, StorageError};
use coppice_secret::Material;
use coppice_state::{Actor, Command, CommandId, State};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use super::*;
use crate::root::Root;
use crate::settings::SecretSettings;

/// Secrets, their versions, and what is in them.
const VALUES: [(&str, u64, &str); 3] = [("made", 1, "three"), ("token", 1, "one"), ("token", 2, "two")];
/// Of the log: a snapshot comes every few commands, so that one fails, too.
const SMALL: Settings = Settings { snapshot_every: 4, keep_entries: 1 };

const DIR: &str = "COPPICE_REKEYER_DIR";
const KEEP: &str = "COPPICE_REKEYER_KEEP";

/// What a daemon has of it.
struct Daemon {
    log: Log,
    secrets: Secrets,
    settled: Settled,
}

impl Daemon {
    async fn start(dir: &Path) -> Self {
        Self::try_start(dir).await.unwrap()
    }

    async fn try_start(dir: &Path) -> Result<Self, OpenError> {
        let root = Root::prepare(dir).unwrap();
        let log = Log::open_with(&root.state(), crate::node::NODE, SMALL).await?;
        let secrets = Secrets::new(&root, &SecretSettings::default(), log.watch());
        let settled = secrets.keyring().settle(log.read().secret_key()).unwrap();
        Ok(Self { log, secrets, settled })
    }

    async fn propose(&self, body: Body) -> Result<Effect, NodeError> {
        let id = CommandId::generate(&mut coppice_base::SystemRandom);
        let command = Command { id, at: Timestamp(1), actor: Actor::User { uid: 0 }, body };
        Ok(self.log.propose(command).await?.effect)
    }

    async fn set(&self, name: &str, version: u64, value: &str) {
        let (name, key) = (Name::new(name).unwrap(), self.secrets.key().unwrap());
        let material = Material::of(value.as_bytes().to_vec());
        let sealed =
            Resealed { sealed: material.seal(&key, &name, version), fingerprint: material.fingerprint(&key, &name) };
        self.propose(Body::SetSecret { name, version, sealed, kind: None, key: key.id() }).await.unwrap();
    }

    async fn rekey(&self, keep_old: bool) -> Result<RekeyReply, NodeError> {
        let rekeying = Rekeying::begin(&self.secrets, keep_old)?;
        let answer = self.propose(rekeying.body()).await;
        rekeying.end(answer)
    }

    fn key_id(&self) -> String {
        self.log.read().secret_key().unwrap().to_owned()
    }

    #[track_caller]
    fn is_whole(&self, place: &str) {
        let state = self.log.read();
        assert_eq!(state.check(), Vec::<String>::new(), "{place}");
        for (name, version, value) in VALUES {
            let material = self.secrets.open(&Name::new(name).unwrap(), version);
            let material = material.unwrap_or_else(|error| panic!("{place}: {name} {version}: {error}"));
            assert_eq!(*material.value, value.as_bytes(), "{place}");
        }
    }

    async fn end(self) {
        self.log.shutdown().await;
    }
}

/// Files of keys, but for the one of certificates.
fn keys(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("keys")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A node's directory with the values in it, and the bytes of its key.
async fn ground(dir: &Path) -> Vec<u8> {
    let daemon = Daemon::start(dir).await;
    for (name, version, value) in VALUES {
        daemon.set(name, version, value).await;
    }
    daemon.end().await;
    std::fs::read(dir.join("keys/secrets.key")).unwrap()
}

fn copied(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    let done = Process::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(done.success());
    to
}

/// What the key in a file opens of a state.
fn opened_by(bytes: &[u8], state: &State) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    coppice_secret::durable::write(&path, bytes).unwrap();
    let key = Key::read(&path).unwrap();
    let versions =
        state.secrets().flat_map(|(name, secret)| secret.versions.iter().map(move |version| (name, version)));
    versions.filter(|(name, (number, version))| Material::open(&key, name, **number, &version.sealed).is_ok()).count()
}

/// Not a test by itself: a daemon that gives the secrets another key, and once more where it failed.
#[test]
fn rekeyer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let keep = std::env::var_os(KEEP).is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let daemon = Daemon::start(Path::new(&dir)).await;
        for turn in ["first", "second"] {
            match daemon.rekey(keep).await {
                Ok(_) => break,
                Err(error) => eprintln!("{turn} {:?}: {error}", error.kind()),
            }
        }
        daemon.end().await;
    });
}

/// Runs the rekeyer under strace with `inject`: how it ended, and what it said.
fn rekeyer_with(dir: &Path, inject: &str, keep: bool) -> (Ended, String) {
    let call = inject.split(':').next().unwrap();
    let mut command = Process::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={inject}")]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "rekey::tests::rekeyer", "--nocapture"]);
    command.env(DIR, dir).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    if keep {
        command.env(KEEP, "");
    }
    let done = command.output().expect("strace runs: it is one of the packages that the tests need");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    // strace ends as its tracee did.
    let ended = match (done.status.code(), done.status.signal()) {
        (Some(0), _) => Ended::Well,
        (Some(137), _) | (_, Some(9)) => Ended::Killed,
        _ => Ended::Badly,
    };
    (ended, said)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Well,
    Killed,
    /// It could not even start, as where the log did not open.
    Badly,
}

#[tokio::test]
async fn a_daemon_killed_at_any_call_of_a_new_key_leaves_one_that_opens_everything_and_the_next_says_which() {
    let base = tempfile::tempdir().unwrap();
    let old = ground(base.path()).await;
    let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
    // All calls by which something on disk changes: of the keyring, and of the log.
    for (call, step, keep) in [
        ("fsync", 1, false),
        ("fsync", 1, true),
        ("rename", 1, false),
        ("rename", 1, true),
        ("unlink", 1, false),
        ("unlink", 1, true),
        ("write", 1, false),
        ("pwrite64", 2, false),
        ("openat", 5, true),
    ] {
        for when in (1..).step_by(step) {
            let place = format!("{call} {when}, keep {keep}");
            let dir = copied(base.path());
            let (ended, said) = rekeyer_with(dir.path(), &format!("{call}:signal=SIGKILL:when={when}"), keep);
            assert_ne!(ended, Ended::Badly, "{place}: {said}");
            let daemon = Daemon::start(dir.path()).await;
            daemon.is_whole(&place);
            let kept = format!("secrets.key.{}", Key::read(&base.path().join("keys/secrets.key")).unwrap().id());
            let has_new = opened_by(&old, &daemon.log.read()) == 0;
            let expected = if has_new && keep { vec!["secrets.key", &kept] } else { vec!["secrets.key"] };
            assert_eq!(keys(dir.path()), expected, "{place}");
            let is_old = std::fs::read(dir.path().join("keys/secrets.key")).unwrap() == old;
            assert_ne!(is_old, has_new, "{place}");
            match daemon.settled {
                Settled::Finished => assert!(has_new, "{place}"),
                Settled::WentBack => assert!(is_old, "{place}"),
                Settled::Nothing => {}
            }
            *outcomes.entry(format!("{:?}", daemon.settled)).or_default() += u32::from(ended == Ended::Killed);
            // It goes on, and the next new key leaves nothing of what was.
            daemon.rekey(false).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            daemon.is_whole(&place);
            assert_eq!(opened_by(&old, &daemon.log.read()), 0);
            daemon.end().await;
            if ended == Ended::Well {
                assert!(has_new, "{place}: {said}");
                break;
            }
        }
    }
    assert!(["Nothing", "Finished", "WentBack"].iter().all(|which| outcomes.get(*which) > Some(&1)), "{outcomes:?}");
}

#[tokio::test]
async fn a_call_that_fails_in_a_new_key_loses_no_secret_nor_does_the_next_try() {
    let base = tempfile::tempdir().unwrap();
    ground(base.path()).await;
    let mut felt = 0;
    for (fault, end) in
        [("fsync:error=EIO", 12), ("rename:error=EIO", 4), ("unlink:error=EIO", 4), ("pwrite64:error=ENOSPC", 12)]
    {
        for (when, lasting) in (1..end).flat_map(|when| [(when, ""), (when, "+")]) {
            let fault = format!("{fault}:when={when}{lasting}");
            let dir = copied(base.path());
            let (_, said) = rekeyer_with(dir.path(), &fault, false);
            felt += usize::from(said.contains("first "));
            let daemon = Daemon::start(dir.path()).await;
            daemon.is_whole(&format!("{fault}: {said}"));
            assert_eq!(keys(dir.path()), ["secrets.key"], "{fault}: {said}");
            daemon.end().await;
        }
    }
    assert!(felt > 5, "only {felt} felt");
}

/// A filesystem of 1 MiB in memory, taken away with the value.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = CString::new("size=1m,mode=700").unwrap();
        mount("coppice-rekey-test", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .expect("mounting a tmpfs: the tests run as root");
        Self(dir)
    }

    /// Takes all space but `pages` pages of 4 KiB.
    fn fill_but(&self, pages: u64) {
        let free = statvfs(self.0.path()).unwrap().f_bavail;
        if free > pages {
            let filler = std::fs::File::create(self.0.path().join("filler")).unwrap();
            fallocate(&filler, FallocateFlags::empty(), 0, (free - pages) * 4096).unwrap();
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0.path(), UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.path().display());
        }
    }
}

#[tokio::test]
async fn a_new_key_on_a_full_disk_is_refused_by_name_and_no_secret_is_lost_however_often_it_is_tried() {
    let mut refused = 0;
    for pages in 0..30 {
        let disk = SmallDisk::new();
        let dir = disk.0.path().join("r");
        let old = ground(&dir).await;
        let daemon = Daemon::start(&dir).await;
        disk.fill_but(pages);
        for turn in 0..3 {
            let place = format!("{pages} pages left, turn {turn}");
            if let Err(error) = daemon.rekey(turn % 2 == 1).await {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{place}: {error}");
                let said = error.to_string();
                assert!(said.contains("secrets.key") || said.contains("log.db"), "{place}: {said}");
                refused += 1;
            }
            daemon.is_whole(&place);
        }
        daemon.end().await;
        // A daemon that starts there has all of it, too; what it has to tidy up needs no space. Its log may need a page.
        let daemon = match Daemon::try_start(&dir).await {
            Ok(daemon) => {
                daemon.is_whole(&format!("{pages} pages left, started"));
                disk.clear();
                daemon
            }
            Err(OpenError::Storage(StorageError::Full { .. })) => {
                disk.clear();
                Daemon::start(&dir).await
            }
            Err(error) => panic!("{pages} pages left: {error}"),
        };
        daemon.rekey(false).await.unwrap();
        daemon.is_whole(&format!("{pages} pages left, with space"));
        assert_eq!(opened_by(&old, &daemon.log.read()), 0);
        let names = keys(&dir);
        assert!(names.iter().all(|name| name == "secrets.key" || !name.contains("next")), "{names:?}");
        daemon.end().await;
    }
    assert!(refused > 10, "only {refused} were refused");
}

#[tokio::test]
async fn a_new_key_whose_answer_was_not_heard_is_found_and_a_further_one_is_not_lost_to_it() {
    let dir = tempfile::tempdir().unwrap();
    ground(dir.path()).await;
    let daemon = Daemon::start(dir.path()).await;
    let before = daemon.key_id();
    // The client went away: nobody ends it, and the log takes it.
    let unheard = Rekeying::begin(&daemon.secrets, false).unwrap();
    let body = unheard.body();
    drop(unheard);
    // Another comes before that one is in the log.
    let second = Rekeying::begin(&daemon.secrets, false).unwrap();
    daemon.propose(body).await.unwrap();
    let answer = daemon.propose(second.body()).await;
    assert!(matches!(second.end(answer), Err(NodeError::Rejected(_))));
    assert_ne!(daemon.key_id(), before);
    daemon.is_whole("unheard");
    daemon.rekey(false).await.unwrap();
    daemon.is_whole("heard");
    assert_eq!(keys(dir.path()), ["secrets.key"]);
    daemon.end().await;
}

#[tokio::test]
async fn where_nothing_is_sealed_there_is_a_new_key_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let before = daemon.secrets.key().unwrap().id();
    assert_eq!(daemon.rekey(false).await.unwrap(), RekeyReply { secrets: 0, versions: 0, old_key: None });
    assert_ne!(daemon.secrets.key().unwrap().id(), before);
    assert_eq!(keys(dir.path()), ["secrets.key"]);
    for (name, version, value) in VALUES {
        daemon.set(name, version, value).await;
    }
    daemon.is_whole("sealed");
    daemon.end().await;
}
