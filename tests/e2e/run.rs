//! `coppice run`: what each flag does, seen from inside the container or from the machine.

use std::process::Stdio;
use std::time::Duration;

use crate::node::{Node, Output, PATIENCE, is_alive, wait_until};

/// `run --rm` without a network, a shell's line in it.
#[track_caller]
fn sh(node: &Node, flags: &[&str], line: &str) -> Output {
    node.coppice([&["run", "--rm", "--network", "none"], flags, &["box", "sh", "-c", line]].concat())
}

// ── output, input, exit code ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn run_prints_what_the_command_prints_and_ends_with_its_code() {
    let node = Node::with_busybox();
    sh(&node, &[], "echo out; echo err >&2; exit 7").ended_with(7).printed("out").complained("err");
    sh(&node, &[], "true").succeeded().printed("");
    sh(&node, &[], "exit 255").ended_with(255);
    sh(&node, &["--init"], "kill -9 $$").ended_with(137);
}

#[test]
fn a_command_that_is_missing_ends_with_127_and_one_that_cannot_run_with_126() {
    let node = Node::with_busybox();
    node.coppice(["run", "--rm", "--network=none", "box", "nothere"]).ended_with(127).complained("nothere");
    node.coppice(["run", "--rm", "--network=none", "box", "/nothere"]).ended_with(127).complained("/nothere");
    node.coppice(["run", "--rm", "--network=none", "box", "/etc/passwd"]).ended_with(126).complained("/etc/passwd");
    node.coppice(["run", "--rm", "--network=none", "box", "/etc"]).ended_with(126);
    assert_eq!(node.ok(["ps", "-aq"]), "", "what never ran with --rm is gone");
}

#[test]
fn a_failure_of_coppice_itself_ends_with_125_and_says_why() {
    let node = Node::with_busybox();
    node.coppice(["run", "--pull=never", "nosuchimage"]).ended_with(125).complained("nosuchimage").helped();
    node.ok(["create", "--name", "held", "box", "true"]);
    node.coppice(["run", "--name", "held", "box", "true"]).ended_with(125).complained("held").helped();
    sh(&node, &["--cap-add", "NO_SUCH"], "true").ended_with(125).complained("NO_SUCH");
}

#[test]
fn bad_flags_end_with_2_and_name_the_flag() {
    let node = Node::new();
    node.coppice(["run", "--nonsense", "box"]).ended_with(2).complained("--nonsense");
    node.coppice(["run", "--memory", "lots", "box"]).ended_with(2).complained("--memory");
    node.coppice(["run", "-p", "99999:80", "box"]).ended_with(2).complained("99999");
    node.coppice(["run", "-v", "relative/../path", "box"]).ended_with(2);
    node.coppice(["run", "--restart", "sometimes", "box"]).ended_with(2).complained("sometimes");
    node.coppice(["run"]).ended_with(2);
    assert!(node.processes().is_empty(), "bad flags start no node");
}

#[test]
fn input_reaches_the_command_with_i_only() {
    let node = Node::with_busybox();
    let base = ["run", "--rm", "--network=none"];
    let with = |flag: &[&'static str]| [&base[..], flag, &["box", "cat"]].concat();
    node.coppice_fed(with(&["-i"]), b"one\ntwo\n").succeeded().printed("one\ntwo");
    node.coppice_fed(with(&[]), b"one\ntwo\n").succeeded().printed("");
    let megabyte = vec![b'x'; 1 << 20];
    let output = node.coppice_fed(["run", "--rm", "-i", "--network=none", "box", "wc", "-c"], &megabyte);
    output.succeeded().printed("1048576");
}

#[test]
fn much_output_arrives_whole_and_in_order() {
    let node = Node::with_busybox();
    let output = sh(&node, &[], "seq 1 60000").succeeded();
    let wanted: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert!(output.stdout == wanted, "{} bytes of {}", output.stdout.len(), wanted.len());
}

#[test]
fn a_terminal_shows_the_shell_takes_keys_and_follows_the_window() {
    let node = Node::with_busybox();
    let mut terminal = node.terminal(["run", "--rm", "-it", "--network=none", "box", "sh"]);
    terminal.type_in("tty; stty size\r");
    terminal.wait_for("/dev/");
    terminal.wait_for("24 80");
    terminal.resize(40, 100);
    terminal.type_in("while [ \"$(stty size)\" != '40 100' ]; do usleep 10000; done; echo re''sized\r");
    terminal.wait_for("resized");
    // The keys' own interrupt ends what runs in front, not the shell.
    // By a shell of its own, which is in front already when it says so.
    terminal.type_in("sh -c \"echo wa''iting; exec sleep 1000\"\r");
    terminal.wait_for("waiting");
    terminal.type_in("\x03");
    terminal.type_in("echo al''ive\r");
    terminal.wait_for("alive");
    terminal.type_in("exit 9\r");
    assert_eq!(terminal.wait(), 9);
}

#[test]
fn the_detach_keys_leave_the_container_running_and_attach_comes_back() {
    let node = Node::with_busybox();
    let mut terminal = node.terminal(["run", "-it", "--name", "shell", "--network=none", "box", "sh"]);
    terminal.type_in("echo he''re\r");
    terminal.wait_for("here");
    terminal.type_in("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(node.inspect("shell")["state"], "running");
    let mut again = node.terminal(["attach", "shell"]);
    again.type_in("echo ba''ck\r");
    again.wait_for("back");
    again.type_in("exit 4\r");
    assert_eq!(again.wait(), 4);
}

#[test]
fn a_terminal_asked_for_on_a_pipe_is_refused_with_a_word() {
    let node = Node::with_busybox();
    node.coppice(["run", "--rm", "-it", "box", "true"]).ended_with(2).complained("terminal").helped();
}

#[test]
fn detached_prints_the_id_and_the_container_runs_on() {
    let node = Node::with_busybox();
    let id = node.ok(["run", "-d", "--network=none", "box", "sleep", "1000"]);
    assert_eq!(id.len(), node.inspect(&id)["id"].as_str().unwrap().len());
    assert_eq!(node.inspect(&id)["state"], "running");
    assert_eq!(node.json(["ps"])[0]["id"], id);
}

#[test]
fn rm_removes_the_container_when_it_ends_and_without_it_it_stays() {
    let node = Node::with_busybox();
    sh(&node, &["--name", "gone"], "true").succeeded();
    node.coppice(["inspect", "gone"]).ended_with(1);
    node.coppice(["run", "--name", "kept", "--network=none", "box", "sh", "-c", "exit 3"]).ended_with(3);
    let kept = node.inspect("kept");
    assert_eq!((&kept["state"], &kept["exit_code"]), (&"exited".into(), &3.into()));
}

#[test]
fn a_name_in_use_is_refused_with_who_holds_it() {
    let node = Node::with_busybox();
    let id = node.ok(["run", "-d", "--name", "web", "--network=none", "box", "sleep", "1000"]);
    let refused = node.coppice(["run", "-d", "--name", "web", "--network=none", "box", "sleep", "1000"]);
    refused.ended_with(125).complained("\"web\" is taken").complained(&id[..12]).complained("coppice rm web");
    node.ok(["rm", "-f", "web"]);
    node.ok(["run", "-d", "--name", "web", "--network=none", "box", "sleep", "1000"]);
}

#[test]
fn a_signal_to_run_reaches_the_command() {
    let node = Node::with_busybox();
    let line = "trap 'echo got it; exit 5' TERM; echo ready; while :; do usleep 10000; done";
    let mut command = node.command(["run", "--rm", "--name", "t", "--network=none", "box", "sh", "-c", line]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it runs", PATIENCE, || node.coppice(["logs", "t"]).stdout.contains("ready"));
    crate::node::kill(child.id(), "TERM");
    Output::of_child(child).ended_with(5).printed_some("got it");
}

// ── environment, user, directory, command ───────────────────────────────────────────────────────────────────────

#[test]
fn environment_comes_from_flags_files_and_the_caller() {
    let node = Node::with_busybox();
    node.file("vars", "FROM_FILE=f\n# comment\n\nBOTH=file\n");
    let mut command = node.command([
        "run",
        "--rm",
        "--network=none",
        "-e",
        "A=1 2",
        "-e",
        "CALLER",
        "-e",
        "BOTH=flag",
        "--env-file",
        "vars",
        "box",
        "sh",
        "-c",
        "echo \"$A|$CALLER|$FROM_FILE|$BOTH|$PATH\"",
    ]);
    command.env("CALLER", "mine");
    Output::of(command)
        .succeeded()
        .printed("1 2|mine|f|flag|/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

#[test]
fn user_names_and_numbers_take_the_images_groups() {
    let node = Node::with_busybox();
    sh(&node, &[], "id -u; id -g").succeeded().printed("0\n0");
    sh(&node, &["--user", "app"], "id -u; id -g; id -G").succeeded().printed("1000\n1000\n1000 2000");
    sh(&node, &["--user", "1234"], "id -u; id -g").succeeded().printed("1234\n0");
    sh(&node, &["--user", "1234:5678"], "id -u; id -g").succeeded().printed("1234\n5678");
    sh(&node, &["--user", "app:extra"], "id -u; id -g").succeeded().printed("1000\n2000");
    sh(&node, &["--user", "ghost"], "true").ended_with(125).complained("ghost");
    sh(&node, &["--user", "app"], "echo $HOME").succeeded().printed("/home/app");
}

#[test]
fn the_working_directory_is_the_flags_and_made_when_missing() {
    let node = Node::with_busybox();
    sh(&node, &[], "pwd").succeeded().printed("/");
    sh(&node, &["-w", "/tmp"], "pwd").succeeded().printed("/tmp");
    sh(&node, &["-w", "/new/place"], "pwd; touch x").succeeded().printed("/new/place");
    node.coppice(["run", "--rm", "-w", "relative", "box", "pwd"]).ended_with(2);
}

#[test]
fn entrypoint_replaces_the_images() {
    let node = Node::new();
    let tar = crate::node::busybox_tar().to_str().unwrap();
    node.ok(["import", "--entrypoint", r#"["echo","entry"]"#, "--cmd", r#"["cmd"]"#, tar, "made"]);
    let run = |words: &[&str]| node.coppice([&["run", "--rm", "--network=none"], words].concat());
    run(&["made"]).succeeded().printed("entry cmd");
    run(&["made", "mine"]).succeeded().printed("entry mine");
    run(&["--entrypoint", "id", "made", "-u"]).succeeded().printed("0");
    run(&["--entrypoint", "", "made", "echo", "bare"]).succeeded().printed("bare");
    node.busybox_image();
    run(&["box"]).ended_with(125).complained("names no command");
}

#[test]
fn the_images_user_environment_and_directory_hold_unless_flags_say_otherwise() {
    let node = Node::new();
    let tar = crate::node::busybox_tar().to_str().unwrap();
    node.ok(["import", "--user", "app", "--env", "FROM=image", "--workdir", "/home/app", tar, "made"]);
    let run = |flags: &[&str]| {
        let line = ["made", "sh", "-c", "id -un; pwd; echo $FROM"];
        node.coppice([&["run", "--rm", "--network=none"], flags, &line].concat())
    };
    run(&[]).succeeded().printed("app\n/home/app\nimage");
    run(&["--user", "root", "-w", "/tmp", "-e", "FROM=flag"]).succeeded().printed("root\n/tmp\nflag");
}

#[test]
fn hostname_hosts_and_resolver_are_the_containers_own() {
    let node = Node::with_busybox();
    sh(&node, &["--hostname", "tree"], "hostname; cat /etc/hostname; echo $HOSTNAME")
        .succeeded()
        .printed("tree\ntree\ntree");
    sh(&node, &["--name", "oak"], "hostname").succeeded().printed("oak");
    sh(&node, &["--add-host", "db:10.1.2.3"], "grep -w db /etc/hosts").succeeded().printed("10.1.2.3\tdb");
    sh(&node, &[], "grep -c localhost /etc/hosts").succeeded().printed("2");
    // Names resolve through the image's own resolver: what is refused was found.
    sh(&node, &["--name", "elm"], "wget -O - http://elm:1/").ended_with(1).complained("refused");
    sh(&node, &[], "wget -O - http://localhost:1/").ended_with(1).complained("refused");
    sh(&node, &[], "echo '1.2.3.4 mine' >> /etc/hosts && test -w /etc/resolv.conf && echo writable")
        .succeeded()
        .printed("writable");
}

// ── filesystem ──────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_named_volume_outlives_its_containers_and_is_filled_from_the_image() {
    let node = Node::with_busybox();
    sh(&node, &["-v", "data:/data"], "echo kept > /data/x").succeeded();
    sh(&node, &["-v", "data:/data:ro"], "cat /data/x; touch /data/y 2>&1")
        .ended_with(1)
        .printed_some("kept")
        .printed_some("Read-only");
    sh(&node, &["-v", "etc:/etc"], "cat /etc/group").succeeded().printed_some("extra:x:2000:app");
    sh(&node, &["-v", "home:/home/app"], "stat -c %u:%g /home/app").succeeded().printed("1000:1000");
    sh(&node, &["-v", "home:/home/app", "--user", "app"], "touch ~/mine && echo could").succeeded().printed("could");
}

#[test]
fn a_bind_mount_shows_the_machines_directory_with_the_ids_it_has_there() {
    let node = Node::with_busybox();
    let shared = node.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("hello"), "from outside\n").unwrap();
    let bind = format!("{}:/mnt", shared.display());
    sh(&node, &["-v", &bind], "cat /mnt/hello; echo inside > /mnt/reply").succeeded().printed("from outside");
    assert_eq!(std::fs::read_to_string(shared.join("reply")).unwrap(), "inside\n");
    let read_only = format!("{bind}:ro");
    sh(&node, &["-v", &read_only], "echo x > /mnt/no").ended_with(1).complained("Read-only");
    assert!(!shared.join("no").exists());
    let file = format!("{}:/etc/motd:ro", shared.join("hello").display());
    sh(&node, &["-v", &file], "cat /etc/motd").succeeded().printed("from outside");
    let missing = format!("{}:/mnt", node.dir().join("missing").display());
    sh(&node, &["-v", &missing], "true").ended_with(125).complained("missing");
    assert!(!node.dir().join("missing").exists(), "a path that is not there is not made by mistake");
}

#[test]
fn a_read_only_root_cannot_be_written_but_tmpfs_and_volumes_can() {
    let node = Node::with_busybox();
    sh(&node, &["--read-only"], "touch /x").ended_with(1).complained("Read-only");
    sh(&node, &["--read-only", "--tmpfs", "/run:size=1m", "-v", "d:/data"], "touch /run/x /data/x && echo both")
        .succeeded()
        .printed("both");
    sh(&node, &["--tmpfs", "/run:size=1m"], "dd if=/dev/zero of=/run/x bs=1M count=2 2>&1")
        .ended_with(1)
        .printed_some("No space");
    sh(&node, &["--shm-size", "2m"], "df -k /dev/shm | tail -1 | awk '{print $2}'").succeeded().printed("2048");
}

#[test]
fn two_containers_of_one_image_do_not_see_each_others_writes() {
    let node = Node::with_busybox();
    sh(&node, &[], "echo changed > /etc/passwd; rm -r /home; touch /new").succeeded();
    sh(&node, &[], "grep -c root /etc/passwd; ls -d /home; ls /new 2>&1").ended_with(1).printed_some("1\n/home\n");
}

// ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn more_memory_than_the_limit_ends_with_137_and_says_oom() {
    let node = Node::with_busybox();
    let eat = ["run", "--name", "eater", "--network=none", "--memory", "16m", "box", "sh", "-c", "tail /dev/zero"];
    // The shell runs tail in its own place: the killed one is the first process.
    node.coppice(eat).ended_with(137).complained("memory");
    let detail = node.inspect("eater");
    assert_eq!((&detail["oom_killed"], &detail["exit_code"]), (&true.into(), &137.into()));
    // Not even enough to be made with.
    sh(&node, &["--memory", "1k"], "true").ended_with(125).complained("more memory than its limit");
}

#[test]
fn memory_cpu_and_process_limits_are_in_the_kernel() {
    let node = Node::with_busybox();
    node.ok([
        "run",
        "-d",
        "--name",
        "l",
        "--network=none",
        "--memory=32m",
        "--cpus=0.5",
        "--pids=17",
        "box",
        "sleep",
        "1000",
    ]);
    let id = node.inspect("l")["id"].as_str().unwrap().to_owned();
    let dirs = node.cgroup_dirs();
    let find = |file: &str| {
        let mut found =
            dirs.iter().filter(|dir| dir.ends_with(&id)).filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
        found.next().map(|text| text.trim().to_owned())
    };
    let one_of =
        |v1: &str, v2: &str| find(v1).or_else(|| find(v2)).unwrap_or_else(|| panic!("no {v1} or {v2} in {dirs:?}"));
    assert_eq!(one_of("memory.limit_in_bytes", "memory.max"), (32 << 20).to_string());
    assert_eq!(one_of("pids.max", "pids.max"), "17");
    let cpu = find("cpu.cfs_quota_us").map_or_else(
        || find("cpu.max").expect("a CPU limit"),
        |quota| format!("{quota} {}", find("cpu.cfs_period_us").unwrap()),
    );
    let (quota, period) = cpu.split_once(' ').unwrap();
    assert_eq!(2 * quota.parse::<u64>().unwrap(), period.parse::<u64>().unwrap(), "half a core: {cpu}");
}

#[test]
fn a_limit_that_the_machine_cannot_give_is_said_attached_or_not_and_the_command_runs() {
    let node = Node::with_busybox();
    node.ok(["node", "stop", "--all"]);
    // A machine without control groups, as far as the node sees.
    let mut hide = node.inside("mount");
    hide.args(["-t", "tmpfs", "none", "/sys/fs/cgroup"]);
    Output::of(hide).succeeded();
    for flags in [&[][..], &["-d"]] {
        let said = sh(&node, &[flags, &["-m", "64m"]].concat(), "echo it runs").succeeded();
        assert!(said.stderr.contains("warning: The limit of 64MiB memory is not enforced"), "{}", said.stderr);
    }
}

#[test]
fn a_fork_bomb_stays_within_its_limit() {
    let node = Node::with_busybox();
    let line = "for i in $(seq 1 50); do sleep 100 & done; echo started";
    let output = sh(&node, &["--pids", "10"], line);
    assert!(output.stderr.contains("fork"), "{}", output.stderr);
}

#[test]
fn ulimit_sets_the_number_of_open_files() {
    let node = Node::with_busybox();
    sh(&node, &["--ulimit", "nofile=123"], "ulimit -n; ulimit -Hn").succeeded().printed("123\n123");
    node.coppice(["run", "--rm", "--ulimit", "stack=1", "box", "true"]).ended_with(2).complained("nofile");
}

// ── capabilities ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn capabilities_are_added_and_dropped() {
    let node = Node::with_busybox();
    let caps = |flags: &[&str]| {
        let text = sh(&node, flags, "grep CapEff /proc/self/status").succeeded().stdout;
        u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    const CHOWN: u64 = 1;
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    let usual = caps(&[]);
    assert_eq!(usual & (NET_ADMIN | SYS_ADMIN), 0, "{usual:x}");
    assert_eq!(usual & CHOWN, CHOWN, "{usual:x}");
    assert_eq!(caps(&["--cap-add", "NET_ADMIN"]), usual | NET_ADMIN);
    assert_eq!(caps(&["--cap-drop", "CHOWN"]), usual & !CHOWN);
    assert_eq!(caps(&["--cap-drop", "ALL"]), 0);
    assert_eq!(caps(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]), CHOWN);
}

#[test]
fn privileged_is_refused_by_default_and_the_refusal_names_the_setting() {
    let node = Node::with_busybox();
    sh(&node, &["--privileged"], "true").ended_with(125).complained("allow_privileged").complained("node.toml");
    assert_eq!(node.ok(["ps", "-aq"]), "");
}

#[test]
fn privileged_is_allowed_where_the_node_says_so() {
    let node = Node::with_settings("[containers]\nallow_privileged = true\n");
    node.busybox_image();
    sh(&node, &["--privileged"], "mount -t tmpfs x /tmp && grep NoNewPrivs /proc/self/status")
        .succeeded()
        .printed("NoNewPrivs:\t0");
    sh(&node, &[], "mount -t tmpfs x /tmp").ended_with(1);
}

#[test]
fn root_inside_is_nobody_outside() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "--network=none", "box", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "b", "--network=none", "box", "sleep", "1000"]);
    let uid = |name: &str| {
        let pid = node.inspect(name)["pid"].as_u64().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    let (a, b) = (uid("a"), uid("b"));
    assert!(a >= 1 << 28 && b >= 1 << 28 && a != b, "{a} {b}");
    assert_eq!(node.json(["top", "a"])[0]["uid"], 0, "top shows ids as the container sees them");
}

#[test]
fn init_reaps_what_the_command_leaves_and_passes_signals_on() {
    let node = Node::with_busybox();
    sh(&node, &["--init"], "cat /proc/1/cmdline | tr '\\0' ' '; echo; echo $$").succeeded();
    let first = sh(&node, &["--init"], "echo $$").succeeded().stdout;
    assert_ne!(first.trim(), "1");
    sh(&node, &["--init"], "exit 6").ended_with(6);
    sh(&node, &["--init"], "(sleep 0.05 &) ; sleep 0.3; ps -o stat | grep -c Z").ended_with(1).printed("0");
    let line = "trap 'exit 8' TERM; echo ready; while :; do usleep 10000; done";
    node.ok(["run", "-d", "--name", "t", "--init", "--network=none", "box", "sh", "-c", line]);
    node.wait_for_log("t", "ready");
    node.ok(["stop", "t"]);
    assert_eq!(node.inspect("t")["exit_code"], 8);
}

// ── network ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn without_a_network_there_is_loopback_alone() {
    let node = Node::with_busybox();
    sh(&node, &[], "ip -o link | wc -l; ip -o link | grep -c 'lo:.*UP'").succeeded().printed("1\n1");
}

#[test]
fn the_hosts_network_is_the_nodes_own() {
    let node = Node::with_busybox();
    let inside = node.coppice(["run", "--rm", "--network=host", "box", "readlink", "/proc/self/ns/net"]).succeeded();
    let outside = std::fs::read_link(format!("/proc/{}/ns/net", node.daemon_pid())).unwrap();
    assert_eq!(inside.stdout.trim(), outside.to_str().unwrap());
}

#[test]
fn a_published_port_answers_on_the_machine() {
    let node = Node::with_busybox();
    let serve = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    node.ok(["run", "-d", "--name", "web", "-p", "8080:80", "box", "sh", "-c", serve]);
    wait_until("the port answers", PATIENCE, || node.http_get(8080).as_deref() == Some("hello\n"));
    let address = node.inspect("web")["address"].as_str().unwrap().to_owned();
    assert_eq!(node.http(&format!("http://{address}/")).as_deref(), Some("hello\n"));
    assert_eq!(node.inspect("web")["ports"][0]["host"], 8080);
    let taken = node.coppice(["run", "--rm", "-p", "8080:80", "box", "true"]);
    taken.ended_with(125).complained("8080").complained("publish another port");
    // It runs on after the refused one's clean-up, and the port closes with it.
    assert_eq!(node.http_get(8080).as_deref(), Some("hello\n"));
    node.ok(["rm", "-f", "web"]);
    assert_eq!(node.http_get(8080), None);
    node.ok(["run", "--rm", "-p", "8080:80", "box", "true"]);
}

#[test]
fn a_port_published_on_one_address_answers_on_that_one_alone() {
    let node = Node::with_busybox();
    let mut address = node.inside("ip");
    address.args(["address", "add", "192.0.2.1/24", "dev", "lo"]);
    Output::of(address).succeeded();
    let serve = "mkdir /www; echo one > /www/index.html; exec httpd -f -p 80 -h /www";
    node.ok(["run", "-d", "--name", "web", "-p", "192.0.2.1:8080:80", "box", "sh", "-c", serve]);
    wait_until("the port answers", PATIENCE, || node.http("http://192.0.2.1:8080/").as_deref() == Some("one\n"));
    assert_eq!(node.http_get(8080), None);
    // The same port of another address is free.
    node.ok(["run", "-d", "--name", "two", "-p", "127.0.0.1:8080:80", "box", "sh", "-c", &serve.replace("one", "two")]);
    wait_until("the other answers", PATIENCE, || node.http_get(8080).as_deref() == Some("two\n"));
    assert_eq!(node.http("http://192.0.2.1:8080/").as_deref(), Some("one\n"));
}

#[test]
fn a_port_without_a_number_gets_a_free_one() {
    let node = Node::with_busybox();
    let serve = "mkdir /www; echo free > /www/index.html; exec httpd -f -p 80 -h /www";
    node.ok(["run", "-d", "--name", "web", "-p", "80", "box", "sh", "-c", serve]);
    let port = u16::try_from(node.inspect("web")["ports"][0]["host"].as_u64().unwrap()).unwrap();
    assert_ne!(port, 0);
    wait_until("the port answers", PATIENCE, || node.http_get(port).as_deref() == Some("free\n"));
}

#[test]
fn a_port_that_a_program_of_the_machine_has_is_refused() {
    let node = Node::with_busybox();
    let mut httpd = node.inside("/bin/busybox");
    let mut httpd = httpd.args(["httpd", "-f", "-p", "8081", "-h", "/tmp"]).spawn().unwrap();
    wait_until("the program listens", PATIENCE, || listens(&node, 8081));
    let refused = node.coppice(["run", "-d", "-p", "8081:80", "box", "sleep", "1000"]);
    let _ = httpd.kill();
    let _ = httpd.wait();
    refused.ended_with(125).complained("8081");
    assert_eq!(node.ok(["ps", "-q"]), "");
}

fn listens(node: &Node, port: u16) -> bool {
    let mut cat = node.inside("cat");
    cat.arg("/proc/self/net/tcp6").arg("/proc/self/net/tcp");
    Output::of(cat).stdout.contains(&format!(":{port:04X} "))
}

#[test]
fn containers_on_the_bridge_reach_each_other_and_the_node() {
    let node = Node::with_busybox();
    let serve = "mkdir /www; echo there > /www/index.html; exec httpd -f -p 80 -h /www";
    node.ok(["run", "-d", "--name", "web", "box", "sh", "-c", serve]);
    let address = node.inspect("web")["address"].as_str().unwrap().to_owned();
    let ask =
        format!("for i in $(seq 1 50); do wget -q -O - http://{address}/ 2>/dev/null && break; usleep 20000; done");
    node.coppice(["run", "--rm", "box", "sh", "-c", &ask]).succeeded().printed("there");
    // What is refused was reached.
    let own = node.coppice(["run", "--rm", "--name", "me", "box", "wget", "-O", "-", "http://me:1/"]);
    own.ended_with(1).complained("(10.").complained("refused");
    let gateway = "wget -O - http://$(ip route | awk '/default/{print $3}'):1/";
    node.coppice(["run", "--rm", "box", "sh", "-c", gateway]).ended_with(1).complained("refused");
}

// ── restart policies ────────────────────────────────────────────────────────────────────────────────────────────

fn pid_of(node: &Node, name: &str) -> Option<u32> {
    node.inspect(name)["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap())
}

#[test]
fn restart_always_brings_a_killed_container_back_with_a_new_process() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "--restart=always", "--network=none", "box", "sleep", "1000"]);
    let before = pid_of(&node, "a").unwrap();
    crate::node::kill_and_wait(before, "KILL");
    wait_until("it is back", PATIENCE, || pid_of(&node, "a").is_some_and(|pid| pid != before && is_alive(pid)));
    assert_eq!(node.inspect("a")["restarts"], 1);
    // Asked to stop, it stays down.
    node.ok(["stop", "-t", "1", "a"]);
    assert_eq!(node.inspect("a")["state"], "exited");
    node.ok(["start", "a"]);
    assert_eq!(node.inspect("a")["state"], "running");
}

#[test]
fn restart_on_failure_restarts_failures_and_leaves_success_alone() {
    let node = Node::with_busybox();
    let line = "echo run >> /runs; [ $(wc -l < /runs) -ge 3 ]";
    node.ok(["run", "-d", "--name", "third", "--restart=on-failure", "--network=none", "box", "sh", "-c", line]);
    wait_until("it succeeds at last", PATIENCE, || {
        let detail = node.inspect("third");
        detail["state"] == "exited" && detail["exit_code"] == 0
    });
    assert_eq!(node.inspect("third")["restarts"], 2, "its files stayed from run to run");
}

#[test]
fn a_container_without_a_policy_stays_down() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "a", "--network=none", "box", "sleep", "1000"]);
    crate::node::kill_and_wait(pid_of(&node, "a").unwrap(), "KILL");
    node.wait_for_state("a", "exited");
    assert_eq!(node.inspect("a")["exit_code"], 137);
    assert_eq!(node.inspect("a")["signal"], 9);
}

#[test]
fn a_health_check_says_how_the_container_is() {
    let node = Node::with_busybox();
    let health = ["--health-cmd", "test -e /ok", "--health-interval", "100ms", "--health-retries", "2"];
    node.ok([&["run", "-d", "--name", "h", "--network=none"][..], &health, &["box", "sleep", "1000"]].concat());
    let is = |health: &str| node.inspect("h")["health"] == health;
    wait_until("it is unhealthy", PATIENCE, || is("unhealthy"));
    node.ok(["exec", "h", "touch", "/ok"]);
    wait_until("it is healthy", PATIENCE, || is("healthy"));
    node.ok(["exec", "h", "rm", "/ok"]);
    wait_until("it is unhealthy again", Duration::from_secs(10), || is("unhealthy"));
}
