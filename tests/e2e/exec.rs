//! `exec -d`, and commands whose daemon is killed or stopped under them.

use std::process::Stdio;
use std::time::Instant;

use crate::node::{Node, Output, PATIENCE, kill_and_wait, wait_until};

/// A node with a container `e` that sleeps.
fn node() -> Node {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "e", "--network=none", "box", "sleep", "1000"]);
    node
}

#[test]
fn a_detached_exec_returns_at_once_and_runs_on_by_itself() {
    let node = node();
    let began = Instant::now();
    let line = "echo $A $B > /said; id -un >> /said; pwd >> /said; echo lost; exec sleep 500";
    let env = node.file("vars", "B=file\n");
    let flags = ["exec", "-d", "-e", "A=flag", "--env-file", env.to_str().unwrap(), "-u", "app", "-w", "/tmp"];
    node.ok(["exec", "e", "sh", "-c", "touch /said; chmod 666 /said"]);
    node.coppice([&flags[..], &["e", "sh", "-c", line]].concat()).succeeded().printed("");
    assert!(began.elapsed() < PATIENCE, "it waited for the command");
    let sleeps = || node.coppice(["exec", "e", "sh", "-c", "ps -o args | grep -c '^sleep 500'"]).stdout;
    wait_until("the command is there", PATIENCE, || sleeps().trim() == "1");
    node.coppice(["exec", "e", "cat", "/said"]).succeeded().printed("flag file\napp\n/tmp");
    // It does not need the daemon that started it.
    kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(sleeps().trim(), "1");
    // With a terminal it is the same.
    node.coppice(["exec", "-dt", "e", "sh", "-c", "tty > /tty; exec sleep 500"]).succeeded();
    wait_until("the other is there, too", PATIENCE, || sleeps().trim() == "2");
    node.coppice(["exec", "e", "cat", "/tty"]).succeeded().printed("/dev/pts/0");
}

#[test]
fn a_detached_exec_that_cannot_start_says_why_with_the_code_of_an_attached_one() {
    let node = node();
    node.coppice(["exec", "-d", "e", "nothere"]).ended_with(127).complained("nothere");
    node.coppice(["exec", "-d", "e", "/etc/passwd"]).ended_with(126);
    node.coppice(["exec", "-d", "nobody", "true"]).ended_with(125).complained("nobody");
    node.ok(["kill", "e"]);
    node.wait_for_state("e", "exited");
    node.coppice(["exec", "-d", "e", "true"]).ended_with(125).complained("not running");
}

#[test]
fn reads_do_not_notice_that_the_daemon_is_killed_under_them() {
    let node = node();
    for round in 0..12 {
        let daemon = node.daemon_pid();
        let reads: Vec<_> = [&["ps"][..], &["inspect", "e"], &["images"]]
            .iter()
            .map(|words| node.command(*words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
            .collect();
        kill_and_wait(daemon, "KILL");
        for read in reads {
            let said = Output::of_child(read);
            assert_eq!(said.code, 0, "round {round}: {}", said.stderr);
        }
    }
}

#[test]
fn a_wait_goes_on_with_the_next_daemon() {
    let node = node();
    let wait = node.command(["wait", "e"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let daemon = node.daemon_pid();
    let connected = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", wait.id())).into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.to_string_lossy().starts_with("socket:"))
    };
    wait_until("it has asked", PATIENCE, connected);
    kill_and_wait(daemon, "KILL");
    node.ok(["kill", "e"]);
    Output::of_child(wait).ended_with(137).printed("137");
}

#[test]
fn a_command_during_or_after_a_stop_finds_the_next_daemon_at_once() {
    let node = node();
    for _ in 0..6 {
        node.ok(["node", "stop"]);
        node.coppice(["run", "--rm", "--network=none", "box", "echo", "ran"]).succeeded().printed("ran");
        let stop = node.command(["node", "stop"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        node.coppice(["ps"]).succeeded().printed_some("sleep 1000");
        Output::of_child(stop).succeeded();
    }
}
