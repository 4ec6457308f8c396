//! What the launcher holds for the next daemon.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use coppice_launcher::protocol::{KEPT_MAX, KEPT_NAMES_MAX, LaunchError, Reply, Request};
use rig::{Daemon, Rig};

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

fn keep(daemon: &mut Daemon, name: &str, listener: &TcpListener) {
    let reply = daemon.keep(name, &[listener.as_fd()], 1);
    assert!(matches!(reply, Reply::Done), "{reply:?}");
}

fn take_up(daemon: &mut Daemon, name: &str) -> TcpListener {
    let mut fds: Vec<OwnedFd> = daemon.kept(name);
    assert_eq!(fds.len(), 1);
    fds.remove(0).into()
}

fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Error { error: LaunchError::Refused(why) } => why,
        other => panic!("{other:?}"),
    }
}

/// Nobody listens there any more: the last to hold the socket may be about to end.
fn wait_until_closed(address: SocketAddr) {
    rig::wait_for("the socket to be closed", || TcpStream::connect(address).is_err());
}

#[test]
fn who_connects_while_there_is_no_daemon_is_served_by_the_next_one() {
    let rig = Rig::new();
    let (listener, address) = listening();
    let mut daemon = rig.connect(false);
    keep(&mut daemon, "http", &listener);
    drop((daemon, listener));
    let mut client = TcpStream::connect(address).expect("it waits");
    client.write_all(b"hello").expect("write");
    // Nor does another program of the launcher lose it; and a daemon that dies as soon as it has taken it up.
    let mut other = rig.connect(false);
    assert!(matches!(other.ask(Request::Upgrade { binary: Rig::binary() }), Reply::Done));
    drop(take_up(&mut rig.connect(false), "http"));
    let mut daemon = rig.connect(false);
    let listener = take_up(&mut daemon, "http");
    let (mut served, _) = listener.accept().expect("accept");
    let mut said = [0; 5];
    served.read_exact(&mut said).expect("read");
    assert_eq!(&said, b"hello");
    assert!(daemon.kept("https").is_empty());
}

#[test]
fn sockets_that_are_given_up_or_replaced_and_those_of_a_launcher_that_ends_are_closed() {
    let rig = Rig::new();
    let mut daemon = rig.connect(false);
    let ((first, old), (second, new)) = (listening(), listening());
    keep(&mut daemon, "http", &first);
    keep(&mut daemon, "http", &second);
    drop((first, second));
    wait_until_closed(old);
    TcpStream::connect(new).expect("it is held");
    assert!(matches!(daemon.keep("http", &[], 0), Reply::Done));
    wait_until_closed(new);
    let (last, address) = listening();
    keep(&mut daemon, "http", &last);
    drop(last);
    assert!(matches!(daemon.ask(Request::Shutdown { kill: true }), Reply::Done));
    wait_until_closed(address);
    rig.kill_launcher();
}

#[test]
fn only_so_many_are_held() {
    let rig = Rig::new();
    let mut daemon = rig.connect(false);
    let (listener, _) = listening();
    let most = KEPT_MAX as usize;
    let many = vec![listener.as_fd(); most + 1];
    assert!(matches!(daemon.keep("0", &many[..most], most), Reply::Done));
    assert!(refusal(daemon.keep("0", &many, most + 1)).contains("at most 32"));
    assert_eq!(daemon.kept("0").len(), most, "those of before are held on");
    assert!(refusal(daemon.keep("0", &many[..1], 2)).contains("2 fds were to be held and 1 came"));
    for name in 1..KEPT_NAMES_MAX {
        keep(&mut daemon, &name.to_string(), &listener);
    }
    assert!(refusal(daemon.keep("one more", &many[..1], 1)).contains("under 8 names already"));
    keep(&mut daemon, "0", &listener);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", rig.launcher_pid())).expect("fds");
    let sockets = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let inode =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener))).expect("own");
    assert_eq!(sockets.filter(|socket| *socket == inode).count(), KEPT_NAMES_MAX, "what was refused is closed");
}

#[test]
fn containers_have_none_of_them_before_and_after_an_upgrade() {
    let rig = Rig::new();
    let (listener, _) = listening();
    keep(&mut rig.connect(false), "http", &listener);
    for _ in 0..2 {
        let fds = rig.sh("ls -l /proc/self/fd");
        assert!(!fds.ok().contains("socket"), "{}", fds.stdout);
        let mut other = rig.connect(false);
        assert!(matches!(other.ask(Request::Upgrade { binary: Rig::binary() }), Reply::Done));
    }
}

#[test]
fn a_program_that_knows_nothing_of_them_is_not_left_with_them() {
    let rig = Rig::new();
    let old = rig.path().join("old");
    let script =
        format!("#!/bin/sh\n[ -z \"$COPPICE_LAUNCHER_TRIAL\" ] || exit 0\nexec {} \"$@\"\n", Rig::binary().display());
    std::fs::write(&old, script).expect("script");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let (listener, address) = listening();
    keep(&mut rig.connect(false), "http", &listener);
    drop(listener);
    TcpStream::connect(address).expect("it is held");
    let mut other = rig.connect(false);
    assert!(matches!(other.ask(Request::Upgrade { binary: old }), Reply::Done));
    assert!(rig.connect(false).kept("http").is_empty());
    wait_until_closed(address);
}

#[test]
fn a_launcher_from_before_it_could_is_known_by_what_it_does_not_say() {
    let text = r#"{"hello":{"protocol":1,"pid":7,"version":"0.1.0","since":0}}"#;
    let said: Reply = serde_json::from_str(text).expect("an older launcher's words");
    assert!(matches!(said, Reply::Hello { keeps: false, .. }), "{said:?}");
}
