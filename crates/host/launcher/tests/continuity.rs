//! Daemons come and go, launchers are killed and upgraded: what that does to containers.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use coppice_base::{Bytes, ContainerId};
use coppice_launcher::protocol::{ContainerStatus, Event, LaunchError, Message, Reply, Request, StreamKind};
use rig::{Attached, Daemon, Rig, lines_of};

fn list(daemon: &mut Daemon) -> Vec<ContainerStatus> {
    match daemon.ask(Request::List) {
        Reply::Containers { containers } => containers,
        other => panic!("{other:?}"),
    }
}

fn status(daemon: &mut Daemon, id: &ContainerId) -> ContainerStatus {
    list(daemon).into_iter().find(|c| c.id == *id).expect("the container is known")
}

#[test]
fn a_container_outlives_the_daemons_connection_and_its_exit_is_kept() {
    let rig = Rig::new();
    let config =
        rig.config(&["/bin/sh", "-c", "echo up; while ! test -e /tmp/go; do sleep 0.05; done; echo down; exit 5"]);
    let pid = {
        let mut daemon = rig.connect(true);
        daemon.start(&config)
    };
    rig::wait_for("the start", || rig.log(&config).contains("up"));
    let mut daemon = rig.connect(false);
    let known = status(&mut daemon, &config.id);
    assert_eq!((known.pid, known.exit), (pid, None));
    drop(daemon);
    std::fs::create_dir_all(config.rootfs.scratch.join("upper/tmp")).expect("tmp");
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").expect("go");
    rig::wait_for("the end", || rig.log(&config).contains("down"));
    let mut daemon = rig.connect(false);
    rig::wait_for("the exit", || status(&mut daemon, &config.id).exit.is_some());
    assert_eq!(status(&mut daemon, &config.id).exit.map(|exit| exit.code), Some(5));
    assert!(matches!(daemon.ask(Request::Forget { id: config.id.clone() }), Reply::Done));
    assert!(list(&mut daemon).is_empty());
}

#[test]
fn a_daemon_hears_of_starts_that_the_one_before_it_asked_for_and_did_not_live_to_see() {
    let rig = Rig::new();
    for _ in 0..20 {
        let config = rig.config(&["/bin/sleep", "100"]);
        let mut killed = rig.connect(false);
        killed.send(Request::Start { config: Box::new(config.clone()), attach: false }, None);
        // It may not be read yet, or be under way.
        drop(killed);
        let mut daemon = rig.connect(false);
        assert_eq!(status(&mut daemon, &config.id).exit, None);
    }
}

#[test]
fn requests_about_unknown_or_known_containers_are_answered_with_what_is_wrong() {
    let rig = Rig::new();
    let mut daemon = rig.connect(false);
    let missing = ContainerId::parse("00000000000000aa").expect("id");
    let reply = daemon.ask(Request::Forget { id: missing.clone() });
    assert!(matches!(reply, Reply::Error { error: LaunchError::NoContainer(id) } if id == missing));
    let config = rig.config(&["/bin/sleep", "100"]);
    daemon.start(&config);
    let again = daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false });
    assert!(matches!(again, Reply::Error { error: LaunchError::Exists(_) }), "{again:?}");
    let early = daemon.ask(Request::Forget { id: config.id.clone() });
    assert!(matches!(early, Reply::Error { error: LaunchError::StillRunning(_) }), "{early:?}");
    let busy = daemon.ask(Request::Shutdown { kill: false });
    assert!(matches!(busy, Reply::Error { error: LaunchError::Refused(_) }), "{busy:?}");
    let hello = daemon.ask(Request::Hello { protocol: 99, events: false });
    assert!(matches!(hello, Reply::Error { error: LaunchError::Protocol { launcher: 1, daemon: 99 } }), "{hello:?}");
}

#[test]
fn what_is_not_the_protocol_ends_only_that_connection() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sleep", "100"]);
    let mut daemon = rig.connect(false);
    daemon.start(&config);
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x05\0\0\0hello", b"\0\0\0\0", b"\x02\0\0\0{}", b"\x02"] {
        let mut stream = UnixStream::connect(rig.path().join("run/launcher.sock")).expect("connect");
        stream.write_all(garbage).expect("write");
    }
    assert_eq!(status(&mut daemon, &config.id).exit, None);
}

#[test]
fn the_signals_of_terminals_and_service_managers_do_not_end_the_launcher() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sleep", "100"]);
    let mut daemon = rig.connect(false);
    daemon.start(&config);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        coppice_linux::kill(rig.launcher_pid(), signal).expect("kill");
    }
    assert_eq!(status(&mut daemon, &config.id).exit, None);
}

#[test]
fn only_one_launcher_runs_per_root() {
    let rig = Rig::new();
    let second = std::process::Command::new(Rig::binary()).arg(rig.path()).arg(&rig.cgroup).output().expect("run");
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another launcher runs"));
    // The first one's socket is untouched.
    assert!(list(&mut rig.connect(false)).is_empty());
}

#[test]
fn the_socket_is_the_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let mode = std::fs::metadata(rig.path().join("run/launcher.sock")).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn killing_the_launcher_ends_its_containers_and_the_next_one_reports_them() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let done = rig.config(&["/bin/sh", "-c", "exit 4"]);
    daemon.start(&done);
    daemon.exit_of(&done.id);
    let running = rig.config(&["/bin/sh", "-c", "sleep 1000 & sleep 1000"]);
    let pid = daemon.start(&running);
    let mut forgotten = rig.config(&["/bin/true"]);
    forgotten.process.user = "web".to_owned();
    daemon.start(&forgotten);
    daemon.exit_of(&forgotten.id);
    assert!(matches!(daemon.ask(Request::Forget { id: forgotten.id.clone() }), Reply::Done));
    rig.kill_launcher();
    rig::wait_for("the container's end", || !Path::new(&format!("/proc/{pid}")).exists());
    rig.start_launcher();
    let mut daemon = rig.connect(false);
    assert_eq!(list(&mut daemon).len(), 2);
    assert_eq!(status(&mut daemon, &done.id).exit.map(|exit| exit.code), Some(4));
    let exit = status(&mut daemon, &running.id).exit.expect("it has ended");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    rig.nothing_left();
    // And the same once more: records survive any number of launchers.
    rig.kill_launcher();
    rig.start_launcher();
    assert_eq!(list(&mut rig.connect(false)).len(), 2);
}

#[test]
fn a_torn_journal_is_read_up_to_the_tear() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let config = rig.config(&["/bin/sh", "-c", "exit 6"]);
    daemon.start(&config);
    daemon.exit_of(&config.id);
    rig.kill_launcher();
    let path = rig.path().join("run/launcher.journal");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("journal");
    file.write_all(b"{\"exit\":{\"id\":\"00").expect("write");
    rig.start_launcher();
    assert_eq!(status(&mut rig.connect(false), &config.id).exit.map(|exit| exit.code), Some(6));
}

#[test]
fn an_upgrade_keeps_pid_containers_and_every_line() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let mut config = rig.config(&["/bin/sh", "-c", "seq 1 200000; printf half; echo -line; read x; echo $x; exit 3"]);
    config.log.max_size = Bytes(64 << 20);
    config.process.stdin = true;
    let (mut attached, theirs) = Attached::pair();
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    let Reply::Started { pid, .. } = reply else { panic!("{reply:?}") };
    let ended = rig.config(&["/bin/sh", "-c", "exit 8"]);
    daemon.start(&ended);
    daemon.exit_of(&ended.id);
    let launcher = rig.launcher_pid();
    for _ in 0..3 {
        let mut daemon = rig.connect(false);
        assert!(matches!(daemon.ask(Request::Upgrade { binary: Rig::binary() }), Reply::Done));
    }
    assert_eq!(rig.launcher_pid(), launcher);
    let mut daemon = rig.connect(true);
    assert_eq!(status(&mut daemon, &config.id).pid, pid);
    assert_eq!(status(&mut daemon, &ended.id).exit.map(|exit| exit.code), Some(8));
    // The attached client came along, and what it says still arrives.
    attached.send(StreamKind::Stdin, b"word\n");
    assert_eq!(attached.finish().code, 3);
    assert_eq!(daemon.exit_of(&config.id).code, 3);
    let want: String = (1..=200_000).map(|n| format!("{n}\n")).chain(["half-line\nword\n".to_owned()]).collect();
    assert!(lines_of(&rig.log(&config), "stdout") == want, "lines were lost");
    assert!(attached.stdout == want.as_bytes(), "the client lost output");
    // New containers start as before, and execs and limits work on old ones.
    assert_eq!(rig.sh("echo new").ok(), "new\n");
    rig.nothing_left();
}

#[test]
fn an_exit_during_an_upgrade_is_not_lost() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let configs: Vec<_> = (0..20).map(|n| rig.config(&["/bin/sh", "-c", &format!("exit {n}")])).collect();
    for config in &configs {
        daemon.send(Request::Start { config: Box::new(config.clone()), attach: false }, None);
    }
    let mut other = rig.connect(false);
    assert!(matches!(other.ask(Request::Upgrade { binary: Rig::binary() }), Reply::Done));
    let mut daemon = rig.connect(false);
    for (code, config) in (0..).zip(&configs) {
        rig::wait_for("the exit", || list(&mut daemon).iter().any(|c| c.id == config.id && c.exit.is_some()));
        assert_eq!(status(&mut daemon, &config.id).exit.map(|exit| exit.code), Some(code));
    }
}

#[test]
fn an_upgrade_to_something_that_does_not_start_changes_nothing() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let config = rig.config(&["/bin/sleep", "100"]);
    daemon.start(&config);
    for binary in ["/does/not/exist", "/bin/false", "/etc/passwd"] {
        let reply = daemon.ask(Request::Upgrade { binary: binary.into() });
        assert!(
            matches!(&reply, Reply::Error { error: LaunchError::Refused(why) } if why.contains("as it was")),
            "{reply:?}"
        );
    }
    assert_eq!(status(&mut daemon, &config.id).exit, None);
    let kill = Request::Signal { id: config.id.clone(), exec: None, signal: libc::SIGKILL, all: false };
    assert!(matches!(daemon.ask(kill), Reply::Done));
    assert_eq!(daemon.exit_of(&config.id).code, 137);
}

#[test]
fn events_reach_every_connection_that_asked() {
    let rig = Rig::new();
    let (mut first, mut second, mut silent) = (rig.connect(true), rig.connect(true), rig.connect(false));
    let config = rig.config(&["/bin/true"]);
    first.start(&config);
    assert_eq!(first.exit_of(&config.id).code, 0);
    assert!(matches!(second.next(), Message::Event(Event::Exited { .. })));
    assert_eq!(list(&mut silent).len(), 1);
}

#[test]
fn shutdown_with_kill_ends_everything_and_leaves_nothing() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let config = rig.config(&["/bin/sleep", "100"]);
    let pid = daemon.start(&config);
    assert!(matches!(daemon.ask(Request::Shutdown { kill: true }), Reply::Done));
    rig::wait_for("the container's end", || !Path::new(&format!("/proc/{pid}")).exists());
    rig.kill_launcher();
    rig.start_launcher();
    assert_eq!(status(&mut rig.connect(false), &config.id).exit.map(|exit| exit.code), Some(137));
    rig.nothing_left();
}
