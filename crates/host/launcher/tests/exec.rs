//! Processes added to a running container.

#[allow(dead_code, unreachable_pub)]
mod rig;

use coppice_base::ContainerId;
use coppice_container::{ProcessConfig, TerminalSize};
use coppice_launcher::protocol::{Event, LaunchError, Message, Reply, Request, StreamKind};
use rig::{Attached, Daemon, Rig, process};

fn running(rig: &Rig) -> (Daemon, ContainerId) {
    let config = rig.config(&["/bin/sleep", "1000"]);
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    (daemon, config.id)
}

fn exec(daemon: &mut Daemon, id: &ContainerId, number: u64, process: ProcessConfig) -> Result<Attached, LaunchError> {
    let (attached, theirs) = Attached::pair();
    let request = Request::Exec { id: id.clone(), exec: number, process: Box::new(process) };
    match daemon.ask_with(request, Some(theirs)) {
        Reply::Started { .. } => Ok(attached),
        Reply::Error { error } => Err(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_has_its_own_streams_and_exit_code() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let mut attached =
        exec(&mut daemon, &id, 1, process(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])).expect("exec");
    assert_eq!(attached.finish().code, 3);
    assert_eq!((&attached.stdout[..], &attached.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    match daemon.next() {
        Message::Event(Event::ExecExited { id: of, exec, exit }) => assert_eq!((of, exec, exit.code), (id, 1, 3)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_is_in_every_namespace_and_cgroup_of_the_container_with_its_rights() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let script = "for n in cgroup ipc mnt net pid user uts; do \
                  test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo other $n; done; \
                  diff /proc/1/cgroup /proc/self/cgroup && \
                  grep -hE '^(Cap|NoNew|Seccomp:)' /proc/1/status > /tmp/one; \
                  grep -hE '^(Cap|NoNew|Seccomp:)' /proc/self/status > /tmp/self; diff /tmp/one /tmp/self && echo same; \
                  cat /proc/self/cgroup | cut -d: -f3 | sort -u; ls -d /proc/[0-9]* | head -1";
    let mut attached = exec(&mut daemon, &id, 1, process(&["/bin/sh", "-c", script])).expect("exec");
    attached.finish();
    assert_eq!(String::from_utf8_lossy(&attached.stdout), "same\n/\n/proc/1\n");
}

#[test]
fn an_exec_reads_standard_input_to_its_end() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let mut with_input = process(&["/bin/sh", "-c", "wc -c; echo done"]);
    with_input.stdin = true;
    let mut attached = exec(&mut daemon, &id, 1, with_input).expect("exec");
    let chunk = vec![b'x'; 100_000];
    for _ in 0..20 {
        attached.send(StreamKind::Stdin, &chunk);
    }
    attached.send(StreamKind::Stdin, &[]);
    assert_eq!(attached.finish().code, 0);
    assert_eq!(String::from_utf8_lossy(&attached.stdout), "2000000\ndone\n");
}

#[test]
fn an_exec_on_a_terminal_has_its_size_and_can_be_resized_and_interrupted() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let mut terminal = process(&[
        "/bin/sh",
        "-c",
        "stty size; tty; trap 'stty size' WINCH; echo ready; until test -n \"$x\"; do read -t 1 x; done; echo got $x; sleep 100",
    ]);
    terminal.terminal = Some(TerminalSize { rows: 30, columns: 100 });
    let mut attached = exec(&mut daemon, &id, 1, terminal).expect("exec");
    attached.wait_stdout("ready");
    assert!(String::from_utf8_lossy(&attached.stdout).starts_with("30 100\r\n/dev/pts/0\r\n"));
    attached.send(StreamKind::Resize, &[40, 0, 120, 0]);
    // The signal of it interrupts `read`, so it comes before the input.
    attached.wait_stdout("40 120");
    attached.send(StreamKind::Stdin, b"hello\n");
    attached.wait_stdout("got hello");
    let resized = Request::Resize { id: id.clone(), exec: Some(1), size: TerminalSize { rows: 50, columns: 60 } };
    assert!(matches!(daemon.ask(resized), Reply::Done));
    attached.send(StreamKind::Stdin, b"\x03");
    let exit = attached.finish();
    assert_eq!(exit.code, 130, "{:?}", String::from_utf8_lossy(&attached.stdout));
}

#[test]
fn an_execs_user_is_the_containers() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let mut web = process(&["/bin/sh", "-c", "id -un; pwd; echo $HOME"]);
    web.user = "web".to_owned();
    web.cwd = "/home/web".into();
    let mut attached = exec(&mut daemon, &id, 1, web).expect("exec");
    attached.finish();
    assert_eq!(String::from_utf8_lossy(&attached.stdout), "web\n/home/web\n/home/web\n");
}

#[test]
fn an_exec_that_cannot_start_says_why() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let error = exec(&mut daemon, &id, 1, process(&["nothing-like-it"])).err();
    assert_eq!(error, Some(LaunchError::NotFound("nothing-like-it".to_owned())));
    let mut elsewhere = process(&["/bin/true"]);
    elsewhere.cwd = "/no/such/place".into();
    assert!(matches!(exec(&mut daemon, &id, 2, elsewhere).err(), Some(LaunchError::Setup { .. })));
    let missing = ContainerId::parse("00000000000000ff").expect("id");
    let error = exec(&mut daemon, &missing, 3, process(&["/bin/true"])).err();
    assert_eq!(error, Some(LaunchError::NoContainer(missing)));
    // The container is none the worse for it.
    let mut fine = exec(&mut daemon, &id, 4, process(&["/bin/true"])).expect("exec");
    assert_eq!(fine.finish().code, 0);
}

#[test]
fn an_exec_can_be_signalled_and_ends_with_the_container() {
    let rig = Rig::new();
    let (mut daemon, id) = running(&rig);
    let mut first = exec(&mut daemon, &id, 1, process(&["/bin/sleep", "1000"])).expect("exec");
    let signal = Request::Signal { id: id.clone(), exec: Some(1), signal: libc::SIGTERM, all: false };
    assert!(matches!(daemon.ask(signal), Reply::Done));
    assert_eq!(first.finish().signal, Some(libc::SIGTERM));
    let mut second = exec(&mut daemon, &id, 2, process(&["/bin/sleep", "1000"])).expect("exec");
    let kill = Request::Signal { id: id.clone(), exec: None, signal: libc::SIGKILL, all: false };
    assert!(matches!(daemon.ask(kill), Reply::Done));
    assert_eq!(second.finish().signal, Some(libc::SIGKILL));
    let error = exec(&mut daemon, &id, 3, process(&["/bin/true"])).err();
    daemon.exit_of(&id);
    assert_eq!(error, Some(LaunchError::NotRunning(id)));
}
