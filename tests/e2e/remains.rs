//! What is left behind: nothing, after runs, failed starts and a full disk.
// Parts of a test's binary are not an interface.
#![allow(unreachable_pub)]

use std::path::Path;
use std::process::Stdio;

use crate::node::{Node, Output, PATIENCE, wait_until};

// ── leaks ───────────────────────────────────────────────────────────────────────────────────────────────────────

pub fn links(node: &Node) -> Vec<String> {
    let mut ip = node.inside("ip");
    ip.args(["-o", "link"]);
    let text = Output::of(ip).succeeded().stdout;
    text.lines().filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned())).collect()
}

pub fn tables(node: &Node) -> String {
    let mut nft = node.inside("nft");
    nft.args(["list", "tables"]);
    Output::of(nft).succeeded().stdout
}

/// Mounts below the node's root, as its processes see them.
pub fn mounts(node: &Node) -> usize {
    let root = node.root().to_str().unwrap();
    let mut all = vec![node.see(Path::new("/")).parent().unwrap().join("mountinfo")];
    all.extend(node.processes().iter().map(|pid| format!("/proc/{pid}/mountinfo").into()));
    let count = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.contains(root)).count()
    };
    all.iter().map(count).sum()
}

/// Cgroups of containers; what the node keeps for all of them begins with a dot.
pub fn containers_cgroups(node: &Node) -> Vec<std::path::PathBuf> {
    let parent = node.cgroup();
    let is_containers = |dir: &std::path::PathBuf| {
        !dir.ends_with(&parent) && !dir.file_name().unwrap().to_string_lossy().starts_with('.')
    };
    node.cgroup_dirs().into_iter().filter(is_containers).collect()
}

#[test]
fn fifty_runs_leave_nothing_behind() {
    let node = Node::with_busybox();
    node.ok(["run", "--rm", "-v", "/anonymous", "box", "true"]);
    let before_mounts = mounts(&node);
    let fds = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let (daemon, launcher) = (node.daemon_pid(), node.launcher_pid());
    let before_fds = (fds(daemon), fds(launcher));
    for _ in 0..50 {
        node.ok(["run", "--rm", "-v", "/anonymous", "box", "true"]);
    }
    let containers = node.root().join("containers");
    wait_until("the directories are gone", PATIENCE, || std::fs::read_dir(&containers).unwrap().count() == 0);
    // The kernel takes a namespace apart, and the link with it, a moment after its last process.
    wait_until("only the bridge is left", PATIENCE, || links(&node).len() == 2);
    assert_eq!(mounts(&node), before_mounts, "mounts");
    assert_eq!(node.processes().len(), 2, "processes");
    let children = format!("/proc/{launcher}/task/{launcher}/children");
    wait_until("the launcher has no children", PATIENCE, || {
        std::fs::read_to_string(&children).unwrap().trim().is_empty()
    });
    wait_until("the cgroups are gone", PATIENCE, || containers_cgroups(&node).is_empty());
    let close = |now: usize, before: usize| now <= before + 4;
    assert!(close(fds(daemon), before_fds.0) && close(fds(launcher), before_fds.1), "descriptors");
    assert_eq!(node.json(["ps", "-a"]).as_array().unwrap().len(), 0);
    assert_eq!(std::fs::read_dir(node.root().join("volumes")).unwrap().count(), 0, "anonymous volumes");
}

#[test]
fn failed_starts_leave_nothing_behind() {
    let node = Node::with_busybox();
    for _ in 0..10 {
        node.coppice(["run", "--rm", "box", "nothere"]).ended_with(127);
        node.coppice(["run", "--rm", "-v", "/nothere/at/all:/x", "box", "true"]).ended_with(125);
    }
    let containers = node.root().join("containers");
    wait_until("the directories are gone", PATIENCE, || std::fs::read_dir(&containers).unwrap().count() == 0);
    wait_until("only the bridge is left", PATIENCE, || links(&node).len() == 2);
    wait_until("the cgroups are gone", PATIENCE, || containers_cgroups(&node).is_empty());
}

// ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_full_disk_gives_clear_errors_and_the_node_works_again_when_there_is_room() {
    let node = Node::on_small_disk(24 << 20);
    node.busybox_image();
    node.ok([
        "run",
        "-d",
        "--name",
        "before",
        "--network=none",
        "box",
        "sh",
        "-c",
        "while :; do echo tick; usleep 10000; done",
    ]);
    node.wait_for_log("before", "tick");
    let ballast = node.root().join("ballast");
    let mut fill = node.inside("dd");
    fill.args(["if=/dev/zero", "bs=64k", &format!("of={}", ballast.display())]);
    assert_ne!(Output::of(fill).code, 0, "the disk is full");
    let mut fill = node.inside("dd");
    fill.args([
        "if=/dev/zero",
        "bs=1",
        "oflag=append",
        "conv=notrunc",
        "count=65536",
        &format!("of={}", ballast.display()),
    ]);
    fill.stderr(Stdio::null());
    Output::of(fill);

    node.coppice(["run", "--name", "during", "--network=none", "box", "true"])
        .ended_with(125)
        .complained("No space left");
    let tar = crate::node::busybox_tar().to_str().unwrap();
    node.coppice(["import", "--env", "A=b", tar, "another"]).ended_with(1).complained("the disk is full");
    assert_eq!(node.json(["images"]).as_array().unwrap().len(), 1);
    assert_eq!(node.inspect("before")["state"], "running", "what runs goes on");
    node.coppice(["exec", "before", "echo", "reached"]).succeeded().printed("reached");

    let mut clear = node.inside("rm");
    clear.arg(&ballast);
    Output::of(clear).succeeded();
    node.coppice(["run", "--rm", "--name", "during", "--network=none", "box", "echo", "works"])
        .succeeded()
        .printed("works");
    let lines = || node.coppice(["logs", "before"]).succeeded().stdout.lines().count();
    let had = lines();
    wait_until("its log goes on", PATIENCE, || lines() > had);
    node.ok(["import", "--env", "A=b", tar, "another"]);
}
