//! The daemon and the launcher die in every way, and containers go on.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::node::{Node, Output, PATIENCE, busybox_tar, is_alive, kill, kill_and_wait, threads, wait_until};
use crate::remains::{containers_cgroups, links, mounts, tables};

const SERVE: &str = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";

fn pid(node: &Node, name: &str) -> u32 {
    u32::try_from(node.inspect(name)["pid"].as_u64().unwrap_or_else(|| panic!("{name} runs"))).unwrap()
}

/// A daemon that ends by `signal` and the next one: what must hold across both.
fn daemon_ends_and_returns(signal: &str) {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "web", "-p", "8080:80", "box", "sh", "-c", SERVE]);
    let talk = "i=0; while :; do i=$((i+1)); echo line $i; usleep 20000; done";
    node.ok(["run", "-d", "--name", "talks", "--network=none", "box", "sh", "-c", talk]);
    let brief = "while [ ! -e /data/go ]; do usleep 5000; done; echo last words; exit 42";
    node.ok(["run", "-d", "--name", "brief", "--network=none", "-v", "signals:/data", "box", "sh", "-c", brief]);
    node.ok(["run", "-d", "--name", "still", "--network=none", "box", "sleep", "1000"]);
    node.ok(["pause", "still"]);
    wait_until("the port answers", PATIENCE, || node.http_get(8080).is_some());
    let before = node.status();
    let (daemon, launcher) = (node.daemon_pid(), node.launcher_pid());
    let pids: Vec<u32> = ["web", "talks", "still"].iter().map(|name| pid(&node, name)).collect();
    let (brief_pid, started) = (pid(&node, "brief"), node.inspect("web")["started_at"].clone());
    let address = node.inspect("web")["address"].clone();

    kill_and_wait(daemon, signal);

    assert!(is_alive(launcher) && pids.iter().all(|pid| is_alive(*pid)), "all run on without a daemon");
    assert_eq!(node.http_get(8080).as_deref(), Some("hello\n"), "the published port answers without a daemon");
    std::fs::write(node.root().join("volumes/_node/signals/head/go"), "").unwrap();
    wait_until("one ends while nobody looks", PATIENCE, || !is_alive(brief_pid));
    node.coppice(["node", "status"]).ended_with(1).printed_some("no node runs");

    // The next command starts a daemon, which knows them all.
    assert_eq!(node.ok(["ps", "-q"]).lines().count(), 3);
    let after = node.status();
    assert_ne!(after["pid"], before["pid"]);
    assert_eq!(after["launcher_pid"], before["launcher_pid"]);
    let again: Vec<u32> = ["web", "talks", "still"].iter().map(|name| pid(&node, name)).collect();
    assert_eq!(again, pids, "the same processes");
    assert_eq!(node.inspect("web")["started_at"], started);
    assert_eq!(node.inspect("web")["address"], address);
    assert_eq!(node.inspect("still")["state"], "paused");
    node.ok(["unpause", "still"]);
    let ended = node.inspect("brief");
    assert_eq!((&ended["state"], &ended["exit_code"]), (&"exited".into(), &42.into()));
    node.coppice(["logs", "brief"]).succeeded().printed("last words");
    // The log has no gap: it was written by the launcher all the time.
    let lines = node.coppice(["logs", "talks"]).succeeded().stdout;
    for (n, line) in lines.lines().enumerate() {
        assert_eq!(line, format!("line {}", n + 1));
    }
    // What is adopted can be used as before: exec, new ports, stop.
    node.coppice(["exec", "web", "cat", "/www/index.html"]).succeeded().printed("hello");
    assert_eq!(node.http_get(8080).as_deref(), Some("hello\n"));
    node.coppice(["run", "--rm", "-p", "8080:80", "box", "true"]).ended_with(125).complained("8080");
    let other = node.coppice(["run", "--rm", "box", "hostname", "-i"]).succeeded();
    assert!(!other.stdout.contains(address.as_str().unwrap()), "an address in use is given away: {}", other.stdout);
    node.ok(["rm", "-f", "web"]);
    assert_eq!(node.http_get(8080), None);
}

#[test]
fn a_killed_daemon_takes_nothing_with_it_and_the_next_one_adopts_all() {
    daemon_ends_and_returns("KILL");
}

#[test]
fn a_daemon_told_to_end_takes_nothing_with_it_and_the_next_one_adopts_all() {
    daemon_ends_and_returns("TERM");
}

#[test]
fn a_container_with_a_policy_that_failed_while_the_daemon_was_away_is_started_again() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "--restart=always", "--network=none", "box", "sleep", "1000"]);
    let first = pid(&node, "a");
    kill_and_wait(node.daemon_pid(), "KILL");
    kill_and_wait(first, "KILL");
    wait_until("it is back", PATIENCE, || {
        node.inspect("a")["pid"].as_u64().is_some_and(|pid| pid != u64::from(first) && is_alive(pid as u32))
    });
}

#[test]
fn the_daemon_comes_before_what_it_runs_and_what_it_runs_does_not() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "--network=none", "box", "sleep", "1000"]);
    let own = threads(node.daemon_pid());
    // The first is the main thread. What unpacks and copies comes after what serves.
    assert_eq!(own[0].1, -10, "{own:?}");
    for (of, wanted) in [("worker", -10), ("coppice-log-db", -10), ("blocking", 0)] {
        let nices: Vec<i32> = own.iter().filter(|(name, _)| name.starts_with(of)).map(|(_, nice)| *nice).collect();
        assert!(!nices.is_empty() && nices.iter().all(|nice| *nice == wanted), "{of}: {own:?}");
    }
    assert_eq!(threads(pid(&node, "a"))[0].1, 0);
    assert!(threads(node.launcher_pid()).iter().all(|(_, nice)| *nice == 0));
}

#[test]
fn a_container_that_was_asked_down_stays_down_after_the_daemon_returns() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "--restart=always", "--network=none", "box", "sleep", "1000"]);
    node.ok(["stop", "-t", "0", "a"]);
    kill_and_wait(node.daemon_pid(), "KILL");
    node.ok(["node", "start"]);
    node.ok(["run", "--rm", "--network=none", "box", "usleep", "500000"]);
    assert_eq!(node.inspect("a")["state"], "exited");
}

#[test]
fn a_run_with_rm_that_ended_while_the_daemon_was_away_is_removed_by_the_next() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--rm", "--name", "a", "--network=none", "box", "sleep", "1000"]);
    let first = pid(&node, "a");
    kill_and_wait(node.daemon_pid(), "KILL");
    kill_and_wait(first, "KILL");
    node.ok(["node", "start"]);
    wait_until("it is gone", PATIENCE, || node.ok(["ps", "-aq"]).is_empty());
    node.ok(["run", "-d", "--name", "a", "--network=none", "box", "sleep", "1000"]);
}

#[test]
fn a_killed_launcher_is_replaced_and_what_is_to_run_always_comes_back() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "once", "--network=none", "box", "sleep", "1000"]);
    node.ok([
        "run",
        "-d",
        "--name",
        "always",
        "--restart=always",
        "-p",
        "8080:80",
        "box",
        "sh",
        "-c",
        &format!("rm -rf /www; {SERVE}"),
    ]);
    wait_until("the port answers", PATIENCE, || node.http_get(8080).is_some());
    let (once, always) = (pid(&node, "once"), pid(&node, "always"));
    let launcher = node.launcher_pid();
    kill_and_wait(launcher, "KILL");
    wait_until("its containers die with it", PATIENCE, || !is_alive(once) && !is_alive(always));
    wait_until("there is a new launcher", PATIENCE, || {
        node.status()["launcher_pid"].as_u64().is_some_and(|pid| pid != u64::from(launcher) && is_alive(pid as u32))
    });
    node.wait_for_state("once", "exited");
    wait_until("what is to run always is back", PATIENCE, || {
        node.inspect("always")["pid"].as_u64().is_some_and(|pid| pid != u64::from(always) && is_alive(pid as u32))
    });
    wait_until("and answers", PATIENCE, || node.http_get(8080).as_deref() == Some("hello\n"));
    node.coppice(["run", "--rm", "--network=none", "box", "echo", "works"]).succeeded().printed("works");
}

#[test]
fn a_launcher_that_is_stopped_keeps_a_new_daemon_from_starting_with_a_word_and_nothing_is_lost() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "on", "--network=none", "box", "sleep", "1000"]);
    let (daemon, launcher, on) = (node.daemon_pid(), node.launcher_pid(), pid(&node, "on"));
    kill(launcher, "STOP");
    kill_and_wait(daemon, "KILL");
    node.coppice(["ps"]).ended_with(1).complained("launcher does not answer").complained("kill -CONT");
    kill(launcher, "CONT");
    assert_eq!(pid(&node, "on"), on);
    assert_eq!(node.launcher_pid(), launcher);
}

#[test]
fn a_root_with_spaces_and_letters_of_any_script_is_a_root_like_any_other() {
    let node = Node::new();
    let root = node.dir().join("r oot ünï %s");
    let at = |words: &[&str]| {
        let mut command = node.inside(env!("CARGO_BIN_EXE_coppice"));
        command.arg("--root").arg(&root).args(words).stdin(Stdio::null());
        Output::of(command)
    };
    at(&["import", busybox_tar().to_str().unwrap(), "box"]).succeeded();
    at(&["run", "--rm", "-v", "data:/data", "box", "sh", "-c", "echo here > /data/x; cat /data/x"])
        .succeeded()
        .printed("here");
    at(&["node", "stop", "--all"]).succeeded();
}

#[test]
fn daemon_and_launcher_killed_together_leave_a_node_that_works() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "once", "--network=none", "box", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "always", "--restart=always", "--network=none", "box", "sleep", "1000"]);
    let pids = [node.daemon_pid(), node.launcher_pid(), pid(&node, "once"), pid(&node, "always")];
    kill(pids[0], "KILL");
    kill(pids[1], "KILL");
    wait_until("all are gone", PATIENCE, || pids.iter().all(|pid| !is_alive(*pid)));
    let lost = node.inspect("once");
    assert_eq!((&lost["state"], &lost["exit_code"]), (&"exited".into(), &137.into()));
    wait_until("what is to run always is back", PATIENCE, || node.inspect("always")["state"] == "running");
    node.ok(["start", "once"]);
    assert_eq!(node.inspect("once")["state"], "running");
}

#[test]
fn a_command_that_waits_on_a_killed_daemon_says_that_the_container_goes_on() {
    let node = Node::with_busybox();
    let mut command =
        node.command(["run", "--name", "on", "--network=none", "box", "sh", "-c", "echo up; exec sleep 1000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    node.wait_for_log("on", "up");
    kill_and_wait(node.daemon_pid(), "KILL");
    Output::of_child(child).ended_with(125).complained("goes on").complained("coppice attach");
    assert_eq!(node.inspect("on")["state"], "running");
}

#[test]
fn a_command_killed_while_it_starts_the_node_leaves_a_start_that_the_next_one_finds() {
    let node = Node::new();
    for round in 0..12 {
        let mut starter = node.command(["node", "start"]);
        let mut starter = starter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // A different moment each time: before there is a daemon, while it starts, when it listens.
        let moment = Instant::now() + Duration::from_millis(6 * round);
        wait_until("the moment has come", PATIENCE, || Instant::now() >= moment);
        starter.kill().unwrap();
        starter.wait().unwrap();
        node.coppice(["ps"]).succeeded();
        node.ok(["node", "stop", "--all"]);
    }
    assert!(node.processes().is_empty());
}

/// Four containers that are being started.
fn four_starts(node: &Node, round: u32) -> Vec<Child> {
    let start = |n| {
        let name = format!("r{round}n{n}");
        let mut command = node.command(["run", "-d", "--name", &name, "--network=none", "box", "sleep", "1000"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    (0..4).map(start).collect()
}

/// After deaths in the middle of things: what the node says is what there is.
#[track_caller]
fn is_whole(node: &Node) {
    let containers = node.json(["ps", "-a"]);
    let containers = containers.as_array().unwrap();
    let pids: Vec<u32> = containers.iter().filter_map(|container| Some(container["pid"].as_u64()? as u32)).collect();
    for container in containers {
        let runs = container["state"] == "running";
        assert_eq!(runs, container["pid"].as_u64().is_some_and(|pid| is_alive(pid as u32)), "{container}");
    }
    wait_until("no process is in a cgroup but the containers'", PATIENCE, || {
        let procs = |dir: &std::path::PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let found: Vec<String> = containers_cgroups(node).iter().map(procs).collect();
        found.iter().flat_map(|text| text.lines()).all(|pid| pids.contains(&pid.parse().unwrap()))
    });
    wait_until("there are as many directories as containers", PATIENCE, || {
        std::fs::read_dir(node.root().join("containers")).unwrap().count() == containers.len()
    });
}

#[test]
fn a_daemon_killed_while_containers_start_leaves_each_whole_or_not_there() {
    let node = Node::with_busybox();
    for round in 0..8_u32 {
        let daemon = node.daemon_pid();
        let starting = four_starts(&node, round);
        // A different moment each time: after so many of them are known.
        wait_until("some are made", PATIENCE, || {
            let made = std::fs::read_dir(node.root().join("containers")).unwrap().count();
            made >= (round % 5) as usize
        });
        kill_and_wait(daemon, "KILL");
        for child in starting {
            let output = Output::of_child(child);
            // Who was told that it runs was told the truth.
            if output.code == 0 {
                assert_eq!(node.inspect(output.stdout.trim())["state"], "running");
            }
        }
        is_whole(&node);
        for id in node.ok(["ps", "-aq"]).lines() {
            node.ok(["rm", "-f", id]);
        }
        is_whole(&node);
    }
}

#[test]
fn a_launcher_killed_while_containers_start_leaves_each_whole_or_not_there() {
    let node = Node::with_busybox();
    for round in 0..4_u32 {
        let launcher = node.launcher_pid();
        let starting = four_starts(&node, round);
        wait_until("some are made", PATIENCE, || {
            std::fs::read_dir(node.root().join("containers")).unwrap().count() > (round % 4) as usize
        });
        kill_and_wait(launcher, "KILL");
        for child in starting {
            Output::of_child(child);
        }
        wait_until("there is a new launcher", PATIENCE, || {
            node.status()["launcher_pid"].as_u64().is_some_and(|pid| pid != u64::from(launcher) && is_alive(pid as u32))
        });
        wait_until("none that died is said to run", PATIENCE, || {
            let containers = node.json(["ps"]);
            containers.as_array().unwrap().iter().all(|one| one["pid"].as_u64().is_some_and(|pid| is_alive(pid as u32)))
        });
        is_whole(&node);
        for id in node.ok(["ps", "-aq"]).lines() {
            node.ok(["rm", "-f", id]);
        }
        is_whole(&node);
    }
}

#[test]
fn thirty_runs_at_once_each_end_with_their_own_output_and_code() {
    let node = Node::with_busybox();
    let started: Vec<_> = (0..30)
        .map(|n| {
            let line = format!("echo out {n}; echo err {n} >&2; exit {n}");
            let mut command = node.command(["run", "--rm", "box", "sh", "-c", &line]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (n, child) in started.into_iter().enumerate() {
        let output = Output::of_child(child).ended_with(n as i32).printed(&format!("out {n}"));
        assert_eq!(output.stderr, format!("err {n}\n"));
    }
    assert_eq!(node.ok(["ps", "-aq"]), "");
}

#[test]
fn a_name_is_free_as_soon_as_its_run_has_ended() {
    let node = Node::with_busybox();
    for _ in 0..20 {
        node.ok(["run", "--rm", "--name", "same", "--network=none", "box", "true"]);
    }
}

#[test]
fn rules_that_another_program_flushed_are_put_back() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "web", "-p", "8080:80", "box", "sh", "-c", SERVE]);
    wait_until("the port answers", PATIENCE, || node.http_get(8080).is_some());
    let mut flush = node.inside("nft");
    flush.args(["flush", "ruleset"]);
    Output::of(flush).succeeded();
    wait_until("the port answers again", PATIENCE, || node.http_get(8080).as_deref() == Some("hello\n"));
}

// ── the socket ──────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_socket_is_its_owners_alone() {
    let node = Node::new();
    node.ok(["node", "start"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node.root().join("run/coppice.sock")), 0o600);
    assert_eq!(mode(&node.root().join("run/launcher.sock")) & 0o077, 0);
    as_nobody(&node, &[]).ended_with(1).complained("ermission").helped();
}

#[test]
fn a_group_may_be_let_in_and_nobody_else() {
    let node = Node::with_settings("[api]\ngroup = \"games\"\n");
    node.ok(["node", "start"]);
    let socket = std::fs::metadata(node.root().join("run/coppice.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    // games is group 60 on Debian (base-passwd).
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&socket), 60);
    as_nobody(&node, &["--groups", "60"]).succeeded();
    as_nobody(&node, &["--clear-groups"]).ended_with(1).complained("ermission");
}

#[test]
fn another_user_is_refused_even_when_the_sockets_mode_would_let_them_in() {
    let node = Node::new();
    node.ok(["node", "start"]);
    std::fs::set_permissions(node.root().join("run/coppice.sock"), PermissionsExt::from_mode(0o666)).unwrap();
    let refused = as_nobody(&node, &["--clear-groups"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(!refused.stdout.contains("CONTAINER"), "{}", refused.stdout);
    node.ok(["ps"]);
}

/// `coppice ps` as nobody (65534), with setpriv's `flags` for groups.
fn as_nobody(node: &Node, flags: &[&str]) -> Output {
    let flags = if flags.is_empty() { &["--clear-groups"] } else { flags };
    let mut command = node.inside("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534"]).args(flags);
    // The folder of the build may be closed to others: a copy they can reach.
    let copy = node.dir().join("coppice");
    if !copy.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_coppice"), &copy).unwrap();
    }
    command.arg(copy).arg("--root").arg(node.root()).arg("ps").stdin(Stdio::null());
    Output::of(command)
}

// ── starting, stopping, status ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn commands_that_start_the_daemon_at_once_make_one_daemon() {
    let node = Node::new();
    let start = || node.command(["ps", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started: Vec<_> = (0..6).map(|_| start()).collect();
    for child in started {
        Output::of_child(child).succeeded();
    }
    assert_eq!(node.processes().len(), 2, "one daemon and one launcher");
}

#[test]
fn status_says_which_processes_which_version_and_for_how_long() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--network=none", "box", "sleep", "1000"]);
    let status = node.status();
    let (daemon, launcher) = (node.daemon_pid(), node.launcher_pid());
    assert!(is_alive(daemon) && is_alive(launcher) && daemon != launcher);
    let mut processes = node.processes();
    processes.sort_unstable();
    let mut named = vec![daemon, launcher];
    named.sort_unstable();
    assert_eq!(processes, named);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["launcher_version"], env!("CARGO_PKG_VERSION"));
    let uptime = status["uptime_ms"].as_u64().unwrap();
    assert!(uptime < 60_000, "{uptime}");
    wait_until("time passes", PATIENCE, || node.status()["uptime_ms"].as_u64().unwrap() > uptime);
    assert_eq!(status["root"], node.root().to_str().unwrap());
    assert_eq!((&status["containers_running"], &status["containers_total"]), (&1.into(), &1.into()));
    assert_eq!(status["images"], 1);
    assert!(["v1", "v2", "hybrid"].iter().any(|kind| status["cgroup"] == *kind), "{status}");
    node.coppice(["node", "status"]).succeeded().printed_some("launcher").printed_some(&daemon.to_string());
}

#[test]
fn status_and_stop_do_not_start_a_node() {
    let node = Node::new();
    node.coppice(["node", "status"]).ended_with(1).printed_some("no node runs");
    node.coppice(["node", "stop"]).succeeded().printed_some("no node runs");
    node.coppice(["node", "stop", "--all"]).ended_with(1).helped();
    node.coppice(["version"]).succeeded().printed_some("no node runs");
    assert!(node.processes().is_empty());
}

#[test]
fn stop_leaves_the_containers_and_stop_all_leaves_nothing() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "-p", "8080:80", "box", "sh", "-c", SERVE]);
    node.ok([
        "run",
        "-d",
        "--name",
        "b",
        "--restart=always",
        "--network=none",
        "--stop-timeout=0s",
        "box",
        "sleep",
        "1000",
    ]);
    let (a, launcher) = (pid(&node, "a"), node.launcher_pid());
    wait_until("the port answers", PATIENCE, || node.http_get(8080).is_some());
    node.coppice(["node", "stop"]).succeeded().printed_some("containers go on");
    assert!(is_alive(a) && is_alive(launcher));
    assert!(node.http_get(8080).is_some());
    node.ok(["node", "start"]);
    assert_eq!(pid(&node, "a"), a);
    let b = pid(&node, "b");
    node.coppice(["stop", "-t", "0", "a"]).succeeded();
    node.coppice(["node", "stop", "--all"]).succeeded();
    assert!(!is_alive(a) && !is_alive(b) && !is_alive(launcher));
    assert!(node.processes().is_empty());
    assert_eq!(node.cgroup_dirs(), Vec::<std::path::PathBuf>::new(), "no cgroup is left");
    // The kernel takes a namespace apart, and its link with it, a moment after its last process.
    wait_until("only loopback is left", PATIENCE, || links(&node) == ["lo"]);
    assert!(!tables(&node).contains("coppice"), "{}", tables(&node));
    assert_eq!(mounts(&node), 0);
    // What was there is there again with the next daemon.
    assert_eq!(node.json(["ps", "-a"]).as_array().unwrap().len(), 2);
}

#[test]
fn install_prints_a_unit_that_starts_this_program_and_leaves_containers_alone() {
    let node = Node::new();
    let unit = node.coppice(["node", "install", "--print"]).succeeded().stdout;
    for part in [
        "[Unit]",
        "[Service]",
        "[Install]",
        "ExecStart=",
        "node run",
        "KillMode=process",
        "Delegate=yes",
        "WantedBy=multi-user.target",
    ] {
        assert!(unit.contains(part), "{part} is not in:\n{unit}");
    }
    assert!(unit.contains(node.root().to_str().unwrap()), "{unit}");
    assert!(node.processes().is_empty());
}

#[test]
fn a_wrong_node_toml_is_refused_with_its_place_and_nothing_starts() {
    let node = Node::with_settings("[logs]\nmax_sice = 1\n");
    node.coppice(["node", "start"]).ended_with(2).complained("max_sice").complained("line 2").helped();
    assert!(node.processes().is_empty(), "{:?}", node.processes());
    node.set("");
    node.ok(["node", "start"]);
}

#[test]
fn an_unusable_root_is_refused_with_a_next_step() {
    let node = Node::new();
    node.file("file", "");
    let at = |root: &str| {
        let mut command = node.inside(env!("CARGO_BIN_EXE_coppice"));
        command.args(["--root", root, "ps"]).stdin(Stdio::null());
        Output::of(command)
    };
    at(node.dir().join("file").to_str().unwrap()).ended_with(1).helped();
    let long = node.dir().join("x".repeat(110));
    at(long.to_str().unwrap()).ended_with(2).complained("long");
}
