//! Containers after their start: every verb that acts on one or tells of one.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::node::{Node, Output, PATIENCE, is_alive, wait_until};

/// Runs `line` in a detached shell named `name`.
#[track_caller]
fn start(node: &Node, name: &str, line: &str) {
    node.ok(["run", "-d", "--name", name, "--network=none", "box", "sh", "-c", line]);
}

/// Something that runs until it is told to stop.
const PATIENT: &str = "trap 'echo asked; exit 3' TERM; echo ready; while :; do usleep 10000; done";
/// Something that does not listen.
const STUBBORN: &str = "trap '' TERM INT; echo ready; while :; do usleep 10000; done";

// ── create, start, stop, restart, kill, rm ──────────────────────────────────────────────────────────────────────

#[test]
fn a_created_container_runs_only_once_it_is_started() {
    let node = Node::with_busybox();
    let id = node.ok(["create", "--name", "c", "--network=none", "box", "sh", "-c", "echo ran"]);
    assert_eq!(node.inspect("c")["state"], "created");
    assert_eq!(node.json(["ps"]).as_array().unwrap().len(), 0);
    assert_eq!(node.json(["ps", "-a"])[0]["id"], id);
    node.ok(["start", "c"]);
    node.coppice(["wait", "c"]).succeeded().printed("0");
    node.coppice(["logs", "c"]).succeeded().printed("ran");
    // Once more, with its files and its log.
    node.ok(["start", "c"]);
    node.coppice(["wait", "c"]).succeeded();
    node.coppice(["logs", "c"]).succeeded().printed("ran\nran");
}

#[test]
fn stop_asks_with_term_and_the_command_may_end_by_itself() {
    let node = Node::with_busybox();
    start(&node, "p", PATIENT);
    node.wait_for_log("p", "ready");
    let begun = Instant::now();
    node.ok(["stop", "p"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "it did not wait for the timeout");
    assert_eq!(node.inspect("p")["exit_code"], 3);
    node.coppice(["logs", "p"]).printed_some("asked");
    node.ok(["stop", "p"]);
}

#[test]
fn stop_kills_after_the_timeout() {
    let node = Node::with_busybox();
    start(&node, "s", STUBBORN);
    node.wait_for_log("s", "ready");
    let begun = Instant::now();
    node.ok(["stop", "-t", "1", "s"]);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let detail = node.inspect("s");
    assert_eq!((&detail["exit_code"], &detail["signal"]), (&137.into(), &9.into()));
}

#[test]
fn the_stop_signal_and_timeout_are_the_containers_own() {
    let node = Node::with_busybox();
    let line = "trap 'exit 11' USR1; trap '' TERM; echo ready; while :; do usleep 10000; done";
    node.ok(["run", "-d", "--name", "u", "--network=none", "--stop-signal", "USR1", "box", "sh", "-c", line]);
    node.wait_for_log("u", "ready");
    node.ok(["stop", "u"]);
    assert_eq!(node.inspect("u")["exit_code"], 11);
    node.ok(["run", "-d", "--name", "t", "--network=none", "--stop-timeout", "200ms", "box", "sh", "-c", STUBBORN]);
    node.wait_for_log("t", "ready");
    let begun = Instant::now();
    node.ok(["stop", "t"]);
    assert!(begun.elapsed() < Duration::from_secs(5));
    node.coppice(["create", "--stop-signal", "NONSENSE", "box", "true"]).ended_with(2).complained("NONSENSE");
}

#[test]
fn a_paused_container_can_be_stopped() {
    let node = Node::with_busybox();
    start(&node, "p", PATIENT);
    node.wait_for_log("p", "ready");
    node.ok(["pause", "p"]);
    node.ok(["stop", "p"]);
    assert_eq!(node.inspect("p")["exit_code"], 3);
}

#[test]
fn restart_stops_and_starts_and_leaves_the_files() {
    let node = Node::with_busybox();
    start(&node, "r", "echo x >> /runs; wc -l < /runs; exec sleep 1000");
    node.wait_for_log("r", "1");
    let before = node.inspect("r")["pid"].as_u64();
    node.ok(["restart", "-t", "0", "r"]);
    node.wait_for_log("r", "2");
    let after = node.inspect("r");
    assert_ne!(after["pid"].as_u64(), before);
    assert_eq!(after["state"], "running");
    assert_eq!(after["restarts"], 0, "a restart that was asked for is none of the supervisor's");
}

#[test]
fn kill_sends_the_signal_that_is_named() {
    let node = Node::with_busybox();
    start(&node, "k", "trap 'echo hup' HUP; echo ready; while :; do usleep 10000; done");
    node.wait_for_log("k", "ready");
    node.ok(["kill", "-s", "HUP", "k"]);
    node.wait_for_log("k", "hup");
    assert_eq!(node.inspect("k")["state"], "running");
    node.ok(["kill", "k"]);
    node.wait_for_state("k", "exited");
    assert_eq!(node.inspect("k")["exit_code"], 137);
    node.coppice(["kill", "k"]).ended_with(1).complained("not running").helped();
    node.coppice(["kill", "-s", "NONSENSE", "k"]).ended_with(2).complained("NONSENSE");
}

#[test]
fn rm_refuses_what_runs_unless_forced() {
    let node = Node::with_busybox();
    start(&node, "r", "exec sleep 1000");
    let pid = u32::try_from(node.inspect("r")["pid"].as_u64().unwrap()).unwrap();
    node.coppice(["rm", "r"]).ended_with(1).complained("remove it with --force");
    assert_eq!(node.inspect("r")["state"], "running");
    node.ok(["rm", "-f", "r"]);
    assert!(!is_alive(pid));
    assert_eq!(node.ok(["ps", "-aq"]), "");
    wait_until("its directory is gone", PATIENCE, || {
        std::fs::read_dir(node.root().join("containers")).unwrap().count() == 0
    });
    node.ok(["create", "--name", "a", "box", "true"]);
    node.ok(["create", "--name", "b", "box", "true"]);
    node.coppice(["rm", "a", "nothere", "b"]).ended_with(1).complained("nothere");
    assert_eq!(node.ok(["ps", "-aq"]), "", "the others are removed all the same");
}

#[test]
fn an_exec_beside_a_pause_is_answered_at_once_whichever_comes_first() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "p", "--network=none", "box", "sleep", "1000"]);
    let (mut begun, mut refused) = (0, 0);
    for _ in 0..25 {
        let add = || {
            let mut exec = node.command(["exec", "--detach", "p", "true"]);
            exec.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut execs: Vec<_> = (0..2).map(|_| add()).collect();
        let pause = node.command(["pause", "p"]).stdout(Stdio::null()).spawn().unwrap();
        execs.extend((0..2).map(|_| add()));
        Output::of_child(pause).succeeded();
        for mut exec in execs {
            wait_until("the exec is answered while the container is paused", PATIENCE, || {
                exec.try_wait().unwrap().is_some()
            });
            match Output::of_child(exec) {
                said if said.code == 0 => begun += 1,
                said => {
                    said.complained("paused").complained("coppice unpause p");
                    refused += 1;
                }
            }
        }
        node.ok(["unpause", "p"]);
    }
    assert!(begun + refused == 100, "{begun} {refused}");
}

#[test]
fn pause_really_freezes_and_unpause_goes_on() {
    let node = Node::with_busybox();
    start(&node, "p", "i=0; while :; do i=$((i+1)); echo $i > /count; usleep 5000; done");
    let count = || node.coppice(["cp", "p:/count", "-"]).succeeded().bytes;
    wait_until("it counts", PATIENCE, || node.coppice(["exec", "p", "grep", "-q", "10", "/count"]).code == 0);
    node.ok(["pause", "p"]);
    assert_eq!(node.inspect("p")["state"], "paused");
    let pid = node.inspect("p")["pid"].as_u64().unwrap();
    let cpu =
        || std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap().split(' ').next().unwrap().to_owned();
    let (used, counted) = (cpu(), count());
    for _ in 0..5 {
        assert_eq!(count(), counted, "it counts while it is paused");
    }
    assert_eq!(cpu(), used, "it uses the processor while it is paused");
    node.coppice(["exec", "p", "true"]).ended_with(125).complained("paused").helped();
    node.coppice(["pause", "p"]).ended_with(2).complained("paused already");
    node.ok(["unpause", "p"]);
    assert_eq!(node.inspect("p")["state"], "running");
    wait_until("it counts on", PATIENCE, || count() != counted);
    node.coppice(["unpause", "p"]).ended_with(2).complained("not paused");
}

#[test]
fn wait_prints_the_code_of_each_when_it_has_ended() {
    let node = Node::with_busybox();
    start(&node, "five", "usleep 200000; exit 5");
    start(&node, "six", "exit 6");
    node.coppice(["wait", "five", "six"]).ended_with(6).printed("5\n6");
    assert_eq!(node.inspect("five")["state"], "exited");
    start(&node, "killed", "exec sleep 1000");
    let waiting = node.command(["wait", "killed"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    node.ok(["kill", "killed"]);
    Output::of_child(waiting).ended_with(137).printed("137");
}

// ── inspect, ps, stats, top, events ─────────────────────────────────────────────────────────────────────────────

#[test]
fn inspect_tells_what_was_asked_and_what_is() {
    let node = Node::with_busybox();
    let flags = ["--name=i", "--network=none", "-e", "A=b", "-w", "/tmp", "--user=app", "-v", "data:/data:ro"];
    node.ok([&["run", "-d", "--memory=64m", "--label", "k=v"][..], &flags, &["box", "sleep", "1000"]].concat());
    let detail = node.inspect("i");
    assert_eq!(detail["name"], "i");
    assert_eq!(detail["args"], serde_json::json!(["sleep", "1000"]));
    assert_eq!(detail["user"], "app");
    assert_eq!(detail["working_dir"], "/tmp");
    assert!(detail["env"].as_array().unwrap().contains(&"A=b".into()), "{detail}");
    let mount = &detail["mounts"][0];
    assert_eq!(
        (&mount["target"], &mount["read_only"], &mount["kind"]),
        (&"/data".into(), &true.into(), &"volume".into())
    );
    assert!(detail["image_id"].as_str().unwrap().starts_with("sha256:"));
    assert!(detail["uid_first"].as_u64().unwrap() > 0 && detail["uid_count"] == 65536);
    assert!(
        detail["capabilities"].as_array().unwrap().iter().any(|name| name == "CHOWN" || name == "CAP_CHOWN"),
        "{detail}"
    );
    assert!(std::path::Path::new(detail["log_path"].as_str().unwrap()).exists());
    // By the beginning of its id too.
    let id = detail["id"].as_str().unwrap();
    assert_eq!(node.inspect(&id[..6])["name"], "i");
}

#[test]
fn ps_lists_what_runs_and_with_a_all() {
    let node = Node::with_busybox();
    start(&node, "up", "exec sleep 1000");
    start(&node, "down", "exit 2");
    node.wait_for_state("down", "exited");
    let running = node.coppice(["ps"]).succeeded().printed_some("up");
    assert!(!running.stdout.contains("down"), "{}", running.stdout);
    let all = node.coppice(["ps", "-a"]).succeeded().printed_some("up").printed_some("Exited (2)");
    assert!(all.stdout.starts_with("CONTAINER ID"), "{}", all.stdout);
    assert_eq!(node.ok(["ps", "-q"]).lines().count(), 1);
    let down = node.json(["ps", "-a"]);
    let down = down.as_array().unwrap().iter().find(|container| container["name"] == "down").unwrap();
    assert_eq!((&down["state"], &down["exit_code"]), (&"exited".into(), &2.into()));
    assert!(down["finished_at"].as_u64() >= down["started_at"].as_u64());
}

#[test]
fn stats_tells_what_it_uses() {
    let node = Node::with_busybox();
    start(&node, "busy", "dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; while :; do :; done");
    wait_until("it has used some", PATIENCE, || {
        let stats = node.json(["stats", "--no-stream", "busy"]);
        let one = stats.as_array().map_or(&stats, |list| &list[0]);
        let number = |key: &str| one[key].as_u64().unwrap_or_default();
        number("cpu_usec") > 1000 && number("memory_bytes") > 8 << 20 && number("pids") >= 1
    });
    node.coppice(["stats", "--no-stream"]).succeeded().printed_some("busy");
    node.ok(["kill", "busy"]);
    node.wait_for_state("busy", "exited");
    node.coppice(["stats", "--no-stream", "busy"]).ended_with(1).complained("not running");
}

#[test]
fn top_shows_the_processes() {
    let node = Node::with_busybox();
    start(&node, "t", "sleep 998 & sleep 999");
    wait_until("both are there", PATIENCE, || node.json(["top", "t"]).as_array().unwrap().len() == 2);
    let output = node.coppice(["top", "t"]).succeeded().printed_some("sleep 998").printed_some("sleep 999");
    assert!(output.stdout.starts_with("UID"), "{}", output.stdout);
}

#[test]
fn events_tell_what_happened_in_order() {
    let node = Node::with_busybox();
    node.ok(["node", "start"]);
    let seen = node.dir().join("seen");
    let mut following = node.command(["events", "--since", "1h", "--json"]);
    let mut following = following.stdout(std::fs::File::create(&seen).unwrap()).spawn().unwrap();
    start(&node, "e", "exit 4");
    node.wait_for_state("e", "exited");
    node.ok(["rm", "e"]);
    let past = node.coppice(["events", "--no-follow", "--json"]).succeeded().json_lines();
    let of_e = past.iter().filter(|event| event["name"] == "e");
    let actions: Vec<&str> = of_e.map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["start", "exit", "remove"]);
    assert!(past.iter().any(|event| event["message"] == "exited with code 4"), "{past:?}");
    assert!(past.windows(2).all(|pair| pair[0]["at"].as_u64() <= pair[1]["at"].as_u64()));
    let followed = || std::fs::read_to_string(&seen).unwrap();
    wait_until("who follows sees the last one", PATIENCE, || followed().contains("\"remove\""));
    let followed: Vec<serde_json::Value> =
        followed().lines().map(|line| serde_json::from_str(line).expect("one event a line")).collect();
    assert!(followed.ends_with(&past), "{followed:?}");
    kill_and_wait_child(&mut following);
}

// ── logs ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn logs_keep_output_and_errors_apart() {
    let node = Node::with_busybox();
    start(&node, "l", "echo out; echo err >&2; echo out again");
    node.ok(["wait", "l"]);
    let output = node.coppice(["logs", "l"]).succeeded().printed("out\nout again");
    assert_eq!(output.stderr, "err\n");
    node.coppice(["logs", "--stderr", "l"]).printed("");
    let only = node.coppice(["logs", "--stdout", "l"]).printed("out\nout again");
    assert_eq!(only.stderr, "");
    let lines = node.coppice(["logs", "--json", "l"]).succeeded().json_lines();
    let streams: Vec<_> =
        lines.iter().map(|line| (line["stream"].as_str().unwrap(), line["text"].as_str().unwrap())).collect();
    assert!(streams.contains(&("stderr", "err")) && streams.contains(&("stdout", "out again")), "{streams:?}");
}

#[test]
fn logs_show_the_last_lines_with_times_from_a_moment_on() {
    let node = Node::with_busybox();
    start(&node, "l", "for i in 1 2 3 4 5; do echo line $i; usleep 20000; done");
    node.ok(["wait", "l"]);
    node.coppice(["logs", "--tail", "2", "l"]).succeeded().printed("line 4\nline 5");
    node.coppice(["logs", "--tail", "0", "l"]).succeeded().printed("");
    let stamped = node.coppice(["logs", "-t", "l"]).succeeded();
    let third = stamped.stdout.lines().nth(2).unwrap();
    let (time, text) = third.split_once(' ').unwrap();
    assert_eq!(text, "line 3");
    assert!(time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{time}");
    node.coppice(["logs", "--since", time, "l"]).succeeded().printed("line 3\nline 4\nline 5");
    node.coppice(["logs", "--since", "1h", "l"]).succeeded().printed_some("line 1");
    node.coppice(["logs", "--since", "yesterday-ish", "l"]).ended_with(2).complained("--since");
}

#[test]
fn following_logs_shows_lines_as_they_come_and_ends_with_the_container() {
    let node = Node::with_busybox();
    start(&node, "l", "echo first; while [ ! -e /go ]; do usleep 5000; done; echo last");
    let follower = node.command(["logs", "-f", "l"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    node.wait_for_log("l", "first");
    // It may end before touch does, and takes it along.
    node.coppice(["exec", "l", "touch", "/go"]);
    Output::of_child(follower).succeeded().printed("first\nlast");
}

#[test]
fn logs_are_rotated_and_bounded() {
    let node = Node::with_settings("[logs]\nmax_size = 65536\nmax_files = 2\n");
    node.busybox_image();
    start(&node, "l", "seq 1 100000");
    node.ok(["wait", "l"]);
    let log = std::path::PathBuf::from(node.inspect("l")["log_path"].as_str().unwrap());
    let files: Vec<_> = std::fs::read_dir(log.parent().unwrap()).unwrap().flatten().collect();
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    // One line may pass the limit of each.
    assert!(files.len() <= 2 && bytes <= 2 * (65536 + 256), "{} files, {bytes} bytes", files.len());
    node.coppice(["logs", "--tail", "1", "l"]).succeeded().printed("100000");
}

// ── exec, attach ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn exec_runs_beside_the_command_and_ends_with_its_code() {
    let node = Node::with_busybox();
    node.ok([
        "run",
        "-d",
        "--name",
        "e",
        "--network=none",
        "-e",
        "FROM=run",
        "--user",
        "app",
        "-w",
        "/tmp",
        "box",
        "sleep",
        "1000",
    ]);
    let exec = |words: &[&str]| node.coppice([&["exec"], words].concat());
    exec(&["e", "sh", "-c", "echo out; echo err >&2; exit 12"]).ended_with(12).printed("out").complained("err");
    exec(&["e", "sh", "-c", "id -un; pwd; echo $FROM"]).succeeded().printed("app\n/tmp\nrun");
    exec(&["--user", "root", "-w", "/etc", "-e", "FROM=exec", "e", "sh", "-c", "id -un; pwd; echo $FROM"])
        .succeeded()
        .printed("root\n/etc\nexec");
    exec(&["e", "sh", "-c", "ps -o pid,args | grep -c 'sleep 100[0]'"]).succeeded().printed("1");
    node.coppice_fed(["exec", "-i", "e", "cat"], b"through\n").succeeded().printed("through");
    exec(&["e", "nothere"]).ended_with(127).complained("nothere");
    exec(&["e", "/etc/passwd"]).ended_with(126);
    exec(&["--privileged", "e", "true"]).ended_with(125).complained("allow_privileged");
    // It is in the container's cgroup, so it counts and ends with it.
    let line =
        "cat /proc/self/cgroup > /tmp/exec; cat /proc/1/cgroup > /tmp/first; cmp /tmp/exec /tmp/first && echo same";
    exec(&["e", "sh", "-c", line]).succeeded().printed("same");
}

#[test]
fn exec_with_a_terminal_has_its_size_and_keys() {
    let node = Node::with_busybox();
    start(&node, "e", "exec sleep 1000");
    let mut terminal = node.terminal(["exec", "-it", "e", "sh"]);
    terminal.type_in("stty size; tty\r");
    terminal.wait_for("24 80");
    terminal.wait_for("/dev/pts/");
    terminal.resize(30, 90);
    terminal.type_in("while [ \"$(stty size)\" != '30 90' ]; do usleep 10000; done; echo re''sized\r");
    terminal.wait_for("resized");
    terminal.type_in("exit 21\r");
    assert_eq!(terminal.wait(), 21);
    assert_eq!(node.inspect("e")["state"], "running");
}

#[test]
fn what_exec_started_ends_with_the_container() {
    let node = Node::with_busybox();
    start(&node, "e", "exec sleep 1000");
    let mut command = node.command(["exec", "e", "sleep", "1000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it runs", PATIENCE, || node.json(["top", "e"]).as_array().unwrap().len() == 2);
    node.ok(["kill", "e"]);
    Output::of_child(child).ended_with(137);
    node.coppice(["exec", "e", "true"]).ended_with(125).complained("not running").helped();
}

#[test]
fn attach_shows_what_comes_and_ends_with_the_code() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "-i", "--name", "a", "--network=none", "box", "sh", "-c", "read x; echo got $x; exit 14"]);
    node.coppice_fed(["attach", "a"], b"word\n").ended_with(14).printed_some("got word");
    node.coppice(["attach", "a"]).ended_with(1).complained("not running");
}

#[test]
fn two_who_are_attached_both_see_the_output() {
    let node = Node::with_busybox();
    start(&node, "a", "while [ ! -e /go ]; do usleep 5000; done; echo seen");
    let attach =
        || node.command(["attach", "--no-stdin", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (one, two) = (attach(), attach());
    // Attached as soon as the daemon has taken both on; the log is no witness of that, the sockets are.
    let connected = |pid: u32| {
        let mut fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
    };
    wait_until("both are connected", PATIENCE, || connected(one.id()) && connected(two.id()));
    node.coppice(["exec", "a", "sh", "-c", "usleep 300000; touch /go"]);
    Output::of_child(one).succeeded().printed("seen");
    Output::of_child(two).succeeded().printed("seen");
}

#[test]
fn a_command_line_killed_during_run_leaves_the_container_running() {
    let node = Node::with_busybox();
    let mut command = node.command([
        "run",
        "--name",
        "on",
        "--network=none",
        "box",
        "sh",
        "-c",
        "echo up; sleep 1; echo later; exec sleep 1000",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    node.wait_for_log("on", "up");
    kill_and_wait_child(&mut child);
    node.wait_for_log("on", "later");
    assert_eq!(node.inspect("on")["state"], "running");
}

fn kill_and_wait_child(child: &mut std::process::Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

// ── what is not there ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_container_that_is_not_there_ends_every_verb_with_1_and_a_next_step() {
    let node = Node::with_busybox();
    for words in [
        &["start", "ghost"][..],
        &["stop", "ghost"],
        &["restart", "ghost"],
        &["kill", "ghost"],
        &["rm", "ghost"],
        &["pause", "ghost"],
        &["unpause", "ghost"],
        &["wait", "ghost"],
        &["inspect", "ghost"],
        &["stats", "--no-stream", "ghost"],
        &["top", "ghost"],
        &["logs", "ghost"],
        &["attach", "ghost"],
        &["cp", "ghost:/etc/passwd", "-"],
    ] {
        node.coppice(words).ended_with(1).complained("ghost").helped();
    }
    node.coppice(["exec", "ghost", "true"]).ended_with(125).complained("ghost").helped();
}

#[test]
fn an_id_that_begins_two_containers_is_refused_with_both_names() {
    let node = Node::with_busybox();
    // 17 ids cannot have 17 different first digits.
    let names: Vec<String> = (0..17).map(|n| format!("n{n}")).collect();
    let ids: Vec<String> = names.iter().map(|name| node.ok(["create", "--name", name, "box", "true"])).collect();
    let first = |id: &String| id[..1].to_owned();
    let digit =
        ids.iter().map(first).find(|digit| ids.iter().filter(|id| id.starts_with(digit.as_str())).count() > 1).unwrap();
    let refused = node.coppice(["rm", &digit]).ended_with(2).complained("could be");
    let listed = names
        .iter()
        .zip(&ids)
        .filter(|(_, id)| id.starts_with(&digit))
        .all(|(name, _)| refused.stderr.contains(name.as_str()));
    assert!(listed, "{}", refused.stderr);
}
