//! Two versions of the product on one root: the next daemon takes its launcher along, and nothing that runs notices.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::node::{Node, Output, PATIENCE, busybox_tar, is_alive, kill_and_wait, wait_until};

const OURS: &str = env!("CARGO_PKG_VERSION");

/// A copy of the binary under test that takes itself for another version: its own version's text, wherever it stands,
/// is replaced by one of the same length.
fn as_version(node: &Node, version: &str) -> PathBuf {
    assert_eq!(version.len(), OURS.len(), "only a text of the same length can take its place");
    let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_coppice")).unwrap();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(OURS.len()).position(|window| window == OURS.as_bytes()) {
        at += found;
        bytes[at..at + OURS.len()].copy_from_slice(version.as_bytes());
    }
    program(node, version, &bytes)
}

fn program(node: &Node, name: &str, bytes: &[u8]) -> PathBuf {
    let dir = node.dir().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("coppice");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// `ours` with its last digit changed.
fn another_version() -> String {
    let last = if OURS.ends_with('9') { "8" } else { "9" };
    format!("{}{last}", &OURS[..OURS.len() - 1])
}

#[track_caller]
fn ask(node: &Node, binary: &Path, words: &[&str]) -> Output {
    let mut command = node.inside(binary);
    command.arg("--root").arg(node.root()).args(words).stdin(Stdio::null());
    Output::of(command)
}

#[track_caller]
fn status(node: &Node, binary: &Path) -> Value {
    ask(node, binary, &["node", "status", "--json"]).succeeded().json()
}

fn pids(node: &Node, names: &[&str]) -> Vec<Option<u64>> {
    names.iter().map(|name| node.inspect(name)["pid"].as_u64()).collect()
}

/// Containers that talk, wait for a word to end with 42, and serve.
fn begin(node: &Node, binary: &Path) {
    ask(node, binary, &["import", busybox_tar().to_str().unwrap(), "box"]).succeeded();
    let run = |words: &[&str]| ask(node, binary, &[&["run", "-d", "--name"][..], words].concat()).succeeded();
    run(&[
        "talks",
        "--network=none",
        "box",
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo line $i; usleep 5000; done",
    ]);
    let brief = "while [ ! -e /data/go ]; do usleep 5000; done; echo last words; exit 42";
    run(&["brief", "--network=none", "-v", "signals:/data", "box", "sh", "-c", brief]);
    let serve = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    run(&["web", "--restart=always", "-p", "8080:80", "box", "sh", "-c", serve]);
    wait_until("the port answers", PATIENCE, || node.http_get(8080).is_some());
}

/// What began under an earlier version is whole: its log without a gap, its exit code, its port, and new ones start.
#[track_caller]
fn is_whole(node: &Node) {
    let talked = || node.coppice(["logs", "talks"]).succeeded().stdout;
    let before = talked().lines().count();
    wait_until("it goes on talking", PATIENCE, || talked().lines().count() > before + 10);
    for (n, line) in talked().lines().enumerate() {
        assert_eq!(line, format!("line {}", n + 1), "a line is lost, or told twice");
    }
    std::fs::write(node.root().join("volumes/_node/signals/head/go"), "").unwrap();
    node.wait_for_state("brief", "exited");
    assert_eq!(node.inspect("brief")["exit_code"], 42);
    assert_eq!(node.coppice(["logs", "brief"]).succeeded().stdout, "last words\n");
    assert_eq!(node.http_get(8080).as_deref(), Some("hello\n"));
    node.coppice(["exec", "talks", "echo", "inside"]).succeeded().printed("inside");
    node.coppice(["run", "--rm", "box", "echo", "new"]).succeeded().printed("new");
    let web = node.inspect("web")["pid"].as_u64().unwrap();
    kill_and_wait(u32::try_from(web).unwrap(), "KILL");
    wait_until("what is to run always comes back", PATIENCE, || node.http_get(8080).is_some());
}

fn goes_from_to(node: &Node, first: &Path, first_version: &str, second: &Path, second_version: &str) {
    begin(node, first);
    let before = status(node, first);
    assert_eq!((&before["version"], &before["launcher_version"]), (&first_version.into(), &first_version.into()));
    let running = pids(node, &["talks", "brief", "web"]);
    kill_and_wait(node.daemon_pid(), "KILL");
    ask(node, second, &["node", "start"]).succeeded();
    let after = status(node, second);
    assert_eq!((&after["version"], &after["launcher_version"]), (&second_version.into(), &second_version.into()));
    assert_eq!(after["launcher_pid"], before["launcher_pid"], "in place");
    assert_eq!(after["launcher_started_at"], before["launcher_started_at"]);
    assert_eq!(after["words"], Value::Array(Vec::new()));
    assert_eq!(pids(node, &["talks", "brief", "web"]), running, "the same processes");
    is_whole(node);
}

#[test]
fn a_newer_daemon_upgrades_the_launcher_in_place_and_containers_run_on() {
    let node = Node::new();
    let (old, version) = (as_version(&node, &another_version()), another_version());
    goes_from_to(&node, &old, &version, Path::new(env!("CARGO_BIN_EXE_coppice")), OURS);
}

#[test]
fn an_older_daemon_takes_the_launcher_back_to_its_version() {
    let node = Node::new();
    let (old, version) = (as_version(&node, &another_version()), another_version());
    goes_from_to(&node, Path::new(env!("CARGO_BIN_EXE_coppice")), OURS, &old, &version);
}

/// A process of the test's, ended with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_binary_that_cannot_start_leaves_the_launcher_as_it_was_and_the_node_says_so() {
    let node = Node::new();
    let version = another_version();
    let old = as_version(&node, &version);
    begin(&node, &old);
    let running = pids(&node, &["talks", "brief", "web"]);
    let launcher = status(&node, &old)["launcher_pid"].clone();
    kill_and_wait(node.daemon_pid(), "KILL");

    // A file that was copied half: no daemon comes of it, and what runs does not notice.
    let whole = std::fs::read(env!("CARGO_BIN_EXE_coppice")).unwrap();
    let torn = program(&node, "torn", &whole[..whole.len() / 3]);
    let mut start = node.inside(&torn);
    start.arg("--root").arg(node.root()).args(["node", "start"]).stdin(Stdio::null());
    assert_ne!(Output::of(start).code, 0);
    assert!(running.iter().flatten().all(|pid| is_alive(u32::try_from(*pid).unwrap())));

    // A daemon whose binary is whole, and torn where the launcher looks for it.
    let good = program(&node, "good", &whole);
    let mut daemon = node.inside("unshare");
    let script = format!(
        "mount --bind {good} {torn} && exec {torn} --root {root} node run",
        good = good.display(),
        torn = torn.display(),
        root = node.root().display()
    );
    daemon.args(["--mount", "--propagation", "private", "sh", "-c", &script]).stdin(Stdio::null());
    let daemon = Ended(daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_until("the daemon answers", PATIENCE, || ask(&node, &old, &["node", "status"]).code == 0);
    let found = status(&node, &old);
    assert_eq!((&found["version"], &found["launcher_version"]), (&OURS.into(), &version.as_str().into()));
    assert_eq!(found["launcher_pid"], launcher);
    let words = found["words"].to_string();
    assert!(words.contains("launcher stays at version") && words.contains("does not start"), "{words}");
    ask(&node, &old, &["node", "status"]).succeeded().printed_some("launcher stays at version");
    assert_eq!(pids(&node, &["talks", "brief", "web"]), running);
    node.coppice(["run", "--rm", "box", "echo", "new"]).succeeded().printed("new");

    // Put right, the next daemon takes it along.
    drop(daemon);
    ask(&node, &good, &["node", "start"]).succeeded();
    let found = status(&node, &good);
    assert_eq!((&found["launcher_version"], &found["launcher_pid"]), (&OURS.into(), &launcher));
    assert_eq!(pids(&node, &["talks", "brief", "web"]), running);
    is_whole(&node);
}
