//! `run --rm` answers when the container has ended, and clears up after the answer: a daemon that dies between the two
//! has not lost the promise.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::node::{Node, Output, PATIENCE, is_alive, kill, wait_until};
use crate::remains::{containers_cgroups, links};

/// What is in one of the node's directories.
fn entries(node: &Node, directory: &str) -> Vec<PathBuf> {
    std::fs::read_dir(node.root().join(directory)).unwrap().flatten().map(|entry| entry.path()).collect()
}

#[track_caller]
fn nothing_is_left(node: &Node) {
    assert_eq!(node.json(["ps", "-a"]).as_array().unwrap().len(), 0);
    wait_until("the directories are gone", PATIENCE, || entries(node, "containers").is_empty());
    wait_until("the anonymous volumes are gone", PATIENCE, || entries(node, "volumes").is_empty());
    wait_until("the cgroups are gone", PATIENCE, || containers_cgroups(node).is_empty());
    wait_until("only the bridge is left", PATIENCE, || links(node).len() <= 2);
}

/// Killed with the test: it would wait for the end of its delays.
struct Strace(Child);

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same name, the same work.
fn run_x(node: &Node) -> Command {
    let mut command = node.command(["run", "--rm", "--name", "x", "-v", "/anonymous", "box", "echo", "said"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_daemon_killed_as_soon_as_run_rm_has_answered_leaves_nothing_and_the_name_free() {
    let node = Node::with_busybox();
    for _ in 0..20 {
        let daemon = i32::try_from(node.daemon_pid()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        let run = Output::of(run_x(&node));
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
        run.succeeded().printed("said");
        Output::of(run_x(&node)).succeeded().printed("said");
    }
    nothing_is_left(&node);
}

#[test]
fn a_daemon_killed_between_the_answer_of_run_rm_and_the_end_of_its_files_leaves_nothing_and_the_name_free() {
    let node = Node::with_busybox();
    // Before the record is gone; after it, before the first of the other files; and before the second of them.
    for unlink in 1..=3 {
        let run = node.command(["run", "--rm", "--name", "x", "-v", "/anonymous", "box", "sleep", "1000"]);
        let run = { run }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("it runs", PATIENCE, || {
            let containers = node.json(["ps"]);
            let is_there = containers.as_array().unwrap().iter().any(|one| one["name"] == "x");
            // One that is starting has no process yet.
            is_there && node.inspect("x")["pid"].is_u64()
        });
        let (daemon, first) = (node.daemon_pid(), node.inspect("x")["pid"].as_u64().unwrap() as u32);
        let traced = node.dir().join("traced");
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=unlink,unlinkat", "-e"])
            // Longer than the test looks at it.
            .arg(format!("inject=unlink,unlinkat:delay_enter=60s:when={unlink}+"))
            .args(["-p", &daemon.to_string(), "-o"])
            .arg(&traced)
            .spawn()
            .unwrap();
        let strace = Strace(strace);
        let has_tracer = |status: String| status.lines().any(|line| line == format!("TracerPid:\t{}", strace.0.id()));
        wait_until("all its threads are traced", PATIENCE, || {
            let threads = std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flatten();
            threads
                .map(|thread| thread.path().join("status"))
                .all(|path| std::fs::read_to_string(path).map_or(true, has_tracer))
        });
        kill(first, "KILL");
        Output::of_child(run).ended_with(137);
        // Answered, and its files are still there.
        wait_until("it is at the removal", PATIENCE, || {
            let text = std::fs::read_to_string(&traced).unwrap_or_default();
            text.lines().filter(|line| line.contains("unlink")).count() >= unlink
        });
        let left = entries(&node, "containers");
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].join("container.json").exists(), unlink == 1, "{left:?}");
        // In this order: without strace it goes on.
        kill(daemon, "KILL");
        drop(strace);
        wait_until("the daemon is gone", PATIENCE, || !is_alive(daemon));
        Output::of(run_x(&node)).succeeded().printed("said");
        nothing_is_left(&node);
    }
}
