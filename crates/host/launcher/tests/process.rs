//! The first process: who it is, what it may do, where it starts, how it ends.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::os::unix::fs::PermissionsExt;

use coppice_container::{DEFAULT_CAPABILITIES, Rlimit};
use coppice_launcher::protocol::{LaunchError, Reply, Request};
use rig::{Rig, why};

/// The start's words, and what the program said.
fn run_with_words(rig: &Rig, config: &coppice_container::ContainerConfig) -> (Vec<String>, String) {
    let mut daemon = rig.connect(true);
    let Reply::Started { words, .. } = daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false })
    else {
        panic!("did not start")
    };
    assert_eq!(daemon.exit_of(&config.id).code, 0, "{}", rig.log(config));
    (words, rig::lines_of(&rig.log(config), "stdout"))
}

#[test]
fn the_exit_code_is_the_programs() {
    let rig = Rig::new();
    for code in [0, 1, 7, 255] {
        assert_eq!(rig.sh(&format!("exit {code}")).exit.code, code);
    }
    let exit = rig.sh("kill -9 $$; sleep 5").exit;
    // PID 1 does not take signals from its own namespace, not even this one.
    assert_eq!((exit.code, exit.signal), (0, None));
}

#[test]
fn a_killed_program_reports_its_signal_as_shells_do() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sleep", "100"]);
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    let kill = Request::Signal { id: config.id.clone(), exec: None, signal: libc::SIGKILL, all: false };
    assert!(matches!(daemon.ask(kill), Reply::Done));
    let exit = daemon.exit_of(&config.id);
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), false));
    rig.nothing_left();
}

#[test]
fn every_process_of_a_container_can_be_killed_at_once() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sh", "-c", "sleep 100 & sleep 100 & echo up; wait"]);
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    rig::wait_for("the start", || rig.log(&config).contains("up"));
    let kill = Request::Signal { id: config.id.clone(), exec: None, signal: libc::SIGKILL, all: true };
    assert!(matches!(daemon.ask(kill), Reply::Done));
    assert_eq!(daemon.exit_of(&config.id).code, 137);
    rig.nothing_left();
}

#[test]
fn a_user_may_be_a_name_or_a_number_with_or_without_group() {
    let rig = Rig::new();
    for (user, want) in [
        ("", "0 0 0"),
        ("web", "101 102 7 102"),
        ("101", "101 102 7 102"),
        ("web:log", "101 7 7"),
        ("4000:4001", "4000 4001 4001"),
    ] {
        let mut config =
            rig.config(&["/bin/sh", "-c", "echo $(id -u) $(id -g) $(grep Groups /proc/self/status | cut -c9-)"]);
        config.process.user = user.to_owned();
        assert_eq!(rig.run(&config).ok().trim(), want, "user {user:?}");
    }
    let mut config = rig.config(&["/bin/sh", "-c", "grep Groups /proc/self/status | cut -c9-"]);
    config.process.user = "web".to_owned();
    config.process.groups = vec!["55".to_owned()];
    assert_eq!(rig.run(&config).ok().split_whitespace().collect::<Vec<_>>(), ["7", "55", "102"]);
}

#[test]
fn home_comes_from_the_containers_passwd_unless_set() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/sh", "-c", "echo $HOME; pwd; umask"]);
    config.process.user = "web".to_owned();
    config.process.cwd = "/made/here".into();
    assert_eq!(rig.run(&config).ok(), "/home/web\n/made/here\n0022\n");
    let mut config = rig.config(&["/bin/sh", "-c", "echo $HOME"]);
    config.process.env.push("HOME=/x".to_owned());
    assert_eq!(rig.run(&config).ok(), "/x\n");
}

#[test]
fn the_environment_is_exactly_what_was_given_and_home() {
    let rig = Rig::new();
    let mut config = rig.config(&["env"]);
    config.process.env = vec!["PATH=/bin".to_owned(), "A=b c".to_owned()];
    assert_eq!(rig.run(&config).ok(), "PATH=/bin\nA=b c\nHOME=/root\n");
}

#[test]
fn a_missing_program_is_not_found_and_a_bad_one_not_executable() {
    let rig = Rig::new();
    let error = rig.refused(&rig.config(&["no-such-program"]));
    assert_eq!(error, LaunchError::NotFound("no-such-program".to_owned()));
    let error = rig.refused(&rig.config(&["/bin/none"]));
    assert_eq!(error, LaunchError::NotFound("/bin/none".to_owned()));
    std::fs::write(rig.path().join("layer/bin/data"), "text").expect("write");
    for program in ["data", "/bin/data", "/etc"] {
        let error = rig.refused(&rig.config(&[program]));
        assert!(matches!(&error, LaunchError::NotExecutable { why, .. } if why.contains("permission")), "{error:?}");
    }
    let script = rig.path().join("layer/bin/script");
    std::fs::write(&script, "#!/no/interpreter\n").expect("write");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("chmod");
    let error = rig.refused(&rig.config(&["script"]));
    assert!(matches!(&error, LaunchError::NotExecutable { why, .. } if why.contains("interpreter")), "{error:?}");
    std::fs::set_permissions(rig.path().join("layer/bin/data"), PermissionsExt::from_mode(0o755)).expect("chmod");
    let error = rig.refused(&rig.config(&["data"]));
    assert!(matches!(&error, LaunchError::NotExecutable { why, .. } if why.contains("format")), "{error:?}");
    rig.nothing_left();
}

#[test]
fn a_program_is_looked_up_in_the_containers_path() {
    let rig = Rig::new();
    std::fs::create_dir_all(rig.path().join("layer/opt/tools")).expect("mkdir");
    std::os::unix::fs::symlink("/bin/busybox", rig.path().join("layer/opt/tools/hostid")).expect("link");
    let mut config = rig.config(&["hostid"]);
    config.process.env = vec!["PATH=/nowhere:/opt/tools:/bin".to_owned()];
    rig.run(&config).ok();
}

#[test]
fn capabilities_are_exactly_the_documented_set() {
    let rig = Rig::new();
    let done = rig.sh("grep Cap /proc/self/status");
    let sets: Vec<(String, u64)> = done
        .ok()
        .lines()
        .map(|line| {
            let (name, hex) = line.split_once(':').expect("a colon");
            (name.to_owned(), u64::from_str_radix(hex.trim(), 16).expect("hex"))
        })
        .collect();
    let want = |name: &str| if matches!(name, "CapPrm" | "CapEff" | "CapBnd") { DEFAULT_CAPABILITIES } else { 0 };
    assert_eq!(sets.len(), 5);
    for (name, set) in sets {
        assert_eq!(set, want(&name), "{name}: {set:#x}");
    }
}

#[test]
fn a_user_other_than_root_has_capabilities_only_in_its_bounding_set() {
    let rig = Rig::new();
    let mut config = rig.config(&["grep", "-E", "Cap(Prm|Eff|Amb|Inh)", "/proc/self/status"]);
    config.process.user = "web".to_owned();
    assert!(rig.run(&config).ok().lines().all(|line| line.ends_with("\t0000000000000000")));
}

#[test]
fn no_new_privileges_keeps_setuid_programs_from_raising_the_user() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/sh", "-c", "/probe euid"]);
    rig.add_probe();
    std::fs::set_permissions(rig.path().join("layer/probe"), PermissionsExt::from_mode(0o4755)).expect("chmod");
    config.process.user = "web".to_owned();
    assert_eq!(rig.run(&config).ok(), "101\n");
    let mut config = rig.config(&["/bin/sh", "-c", "/probe euid"]);
    config.process.user = "web".to_owned();
    config.process.no_new_privileges = false;
    assert_eq!(rig.run(&config).ok(), "0\n");
}

#[test]
fn resource_limits_are_set_and_what_cannot_be_raised_is_said() {
    let rig = Rig::new();
    let nofile = 7;
    let mut config = rig.config(&["/bin/sh", "-c", "ulimit -Sn; ulimit -Hn"]);
    config.process.rlimits = vec![Rlimit { resource: nofile, soft: 100, hard: 200 }];
    let (words, said) = run_with_words(&rig, &config);
    assert_eq!(said, "100\n200\n");
    assert!(words.iter().all(|word| !word.contains("resource limit")), "{words:?}");
    // Beyond what the kernel lets anyone have (fs.nr_open).
    let mut config = rig.config(&["/bin/sh", "-c", "ulimit -Hn"]);
    config.process.rlimits = vec![Rlimit { resource: nofile, soft: 1 << 40, hard: 1 << 40 }];
    let (words, _) = run_with_words(&rig, &config);
    assert!(words.iter().any(|word| word.contains("resource limit 7")), "{words:?}");
}

#[test]
fn a_program_starts_with_usual_signals_and_open_files() {
    let rig = Rig::new();
    let done = rig.sh("grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status | cut -f2; ulimit -Sn");
    let lines: Vec<&str> = done.ok().lines().collect();
    let soft = coppice_linux::prlimit(0, 7, None).expect("prlimit").soft;
    // Nothing blocked, nothing ignored, nothing caught; the launcher's own higher limit is not handed on.
    assert_eq!(&lines[..3], ["0000000000000000"; 3]);
    assert!(lines[3].parse::<u64>().expect("a number") <= soft, "{lines:?}");
}

#[test]
fn memory_and_pids_limits_hold_and_an_oom_kill_is_told() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/sh", "-c", "x=$(head -c 200m /dev/zero | tr '\\0' x); echo survived"]);
    config.limits.memory = Some(coppice_base::Bytes(32 << 20));
    let mut daemon = rig.connect(true);
    let Reply::Started { words, .. } = daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false })
    else {
        panic!("did not start")
    };
    let exit = daemon.exit_of(&config.id);
    if words.is_empty() {
        assert!(exit.oom, "{exit:?}");
        assert!(!rig.log(&config).contains("survived"));
    }
    let mut config = rig.config(&["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 3 & done; echo all"]);
    config.limits.pids = Some(5);
    let mut daemon = rig.connect(true);
    let Reply::Started { words, .. } = daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false })
    else {
        panic!("did not start")
    };
    daemon.exit_of(&config.id);
    if words.is_empty() {
        assert!(rig.log(&config).contains("can't fork"), "{}", rig.log(&config));
    }
}

#[test]
fn a_small_init_reaps_forwards_signals_and_ends_as_the_program_ends() {
    let rig = Rig::new();
    rig.add_probe();
    let mut config = rig.config(&["/probe", "trap"]);
    config.init = true;
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    rig::wait_for("the program", || rig.log(&config).contains("ready"));
    let term = Request::Signal { id: config.id.clone(), exec: None, signal: libc::SIGTERM, all: false };
    assert!(matches!(daemon.ask(term), Reply::Done));
    assert_eq!(daemon.exit_of(&config.id).code, 7);
    assert!(rig.log(&config).contains("got TERM"));
    // Orphans are reaped: no zombie stays.
    let mut config = rig.config(&[
        "/bin/sh",
        "-c",
        "echo $$; (sleep 0.1 &) ; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l",
    ]);
    config.init = true;
    assert_eq!(rig.run(&config).ok(), "2\n0\n");
    let mut config = rig.config(&["/bin/sh", "-c", "kill -9 $$"]);
    config.init = true;
    assert_eq!(rig.run(&config).exit.code, 137);
    let mut config = rig.config(&["no-such-program"]);
    config.init = true;
    assert_eq!(rig.refused(&config), LaunchError::NotFound("no-such-program".to_owned()));
}

#[test]
fn hostile_user_files_are_refused_without_waiting_for_them() {
    let rig = Rig::new();
    let passwd = rig.path().join("layer/etc/passwd");
    std::fs::remove_file(&passwd).expect("remove");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .expect("fifo");
    assert!(why(&rig.refused(&rig.config(&["/bin/true"]))).contains("not a regular file"));
    std::fs::remove_file(&passwd).expect("remove");
    std::fs::File::create(&passwd).expect("create").set_len(1 << 40).expect("huge");
    assert!(why(&rig.refused(&rig.config(&["/bin/true"]))).contains("larger than"));
    std::fs::remove_file(&passwd).expect("remove");
    std::os::unix::fs::symlink("/proc/self/mem", &passwd).expect("link");
    rig.refused(&rig.config(&["/bin/true"]));
    std::fs::remove_file(&passwd).expect("remove");
    rig.sh("true").ok();
}
