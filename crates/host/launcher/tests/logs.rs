//! What containers write: complete, apart, in time order, bounded.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::time::Instant;

use coppice_base::Bytes;
use coppice_launcher::protocol::{Reply, Request, StreamKind};
use rig::{Attached, Rig, lines_of};

#[test]
fn a_line_has_time_stream_and_flag() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sh", "-c", "echo out; echo err >&2; printf 'no newline'"]);
    rig.run(&config);
    let log = rig.log(&config);
    assert_eq!(log.lines().count(), 3, "{log}");
    for line in log.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        assert_eq!((fields[0].len(), &fields[0][10..11], fields[2]), (30, "T", "F"), "{line}");
        assert!(fields[0].ends_with('Z'));
    }
    assert_eq!(lines_of(&log, "stdout"), "out\nno newline\n");
    assert_eq!(lines_of(&log, "stderr"), "err\n");
}

#[test]
fn a_long_line_is_in_flagged_pieces_that_join_to_it() {
    let rig = Rig::new();
    // 40 000 characters: two pieces of 16 KiB and the rest; then exactly one piece; then one more character.
    let script = "head -c 40000 /dev/zero | tr '\\0' a; echo; head -c 16384 /dev/zero | tr '\\0' b; echo; \
                  head -c 16385 /dev/zero | tr '\\0' c; echo";
    let config = rig.config(&["/bin/sh", "-c", script]);
    rig.run(&config);
    let log = rig.log(&config);
    let flags: String = log.lines().map(|line| line.split(' ').nth(2).expect("flag")).collect();
    assert!(matches!(flags.as_str(), "PPFFPF" | "PPFPFPF"), "{flags}");
    let text = lines_of(&log, "stdout");
    let lines: Vec<usize> = text.lines().map(str::len).collect();
    assert_eq!(lines, [40_000, 16_384, 16_385]);
}

#[test]
fn a_flood_is_logged_whole_and_in_order() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/seq", "1", "100000"]);
    config.log.max_size = Bytes(64 << 20);
    let done = rig.run(&config);
    let want: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(done.ok() == want, "{} bytes instead of {}", done.stdout.len(), want.len());
}

#[test]
fn logs_are_rotated_by_size_and_the_oldest_goes() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/seq", "1", "20000"]);
    config.log.max_size = Bytes(100_000);
    config.log.max_files = 3;
    rig.run(&config);
    let path = |n: u32| match n {
        0 => config.log.path.clone(),
        n => format!("{}.{n}", config.log.path.display()).into(),
    };
    let text: String = (0..3).rev().map(|n| std::fs::read_to_string(path(n)).expect("a file")).collect();
    assert!(!path(3).exists());
    for n in 0..3 {
        assert!(std::fs::metadata(path(n)).expect("a file").len() <= 100_000);
    }
    // What is kept is the end, without a gap.
    let numbers: Vec<u32> = lines_of(&text, "stdout").lines().map(|l| l.parse().expect("a number")).collect();
    assert_eq!(numbers.last(), Some(&20_000));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert!(numbers.len() > 1000);
}

#[test]
fn one_log_file_is_never_larger_than_its_size() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/seq", "1", "20000"]);
    config.log.max_size = Bytes(50_000);
    config.log.max_files = 1;
    rig.run(&config);
    assert!(std::fs::metadata(&config.log.path).expect("a file").len() <= 50_000);
    assert!(!std::path::Path::new(&format!("{}.1", config.log.path.display())).exists());
    assert!(lines_of(&rig.log(&config), "stdout").ends_with("\n20000\n"));
}

/// A small filesystem for logs, unmounted at the end. It has to be in the launcher's view: launchers follow the host.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&path).expect("mkdir");
        let options = std::ffi::CString::new(format!("size={size}")).expect("text");
        rustix::mount::mount("none", &path, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .expect("mount");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_loses_lines_says_how_many_and_never_stops_the_container() {
    let rig = Rig::new();
    // Mounted before the launcher starts, so that it is there however mounts propagate on this machine.
    rig.kill_launcher();
    let disk = SmallDisk::mount(rig.path().join("small"), "256k");
    rig.start_launcher();
    let filler = disk.0.join("filler");
    let mut config =
        rig.config(&["/bin/sh", "-c", "echo first; seq 1 50000; echo full > /tmp/full; read x; echo last; seq 1 3"]);
    config.log.path = disk.0.join("log");
    config.log.max_size = Bytes(64 << 20);
    config.process.stdin = true;
    let mut daemon = rig.connect(true);
    let (mut attached, theirs) = Attached::pair();
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    std::fs::write(&filler, "").expect("filler");
    // The container gets through all its output although the log stops at 256 KiB.
    attached.wait_stdout("\n50000\n");
    let before = std::fs::read_to_string(&config.log.path).expect("log");
    assert!(before.ends_with('\n') && before.len() < 300_000, "torn or too long: {}", before.len());
    assert!(lines_of(&before, "stdout").lines().count() < 20_000);
    // Space comes back.
    rustix::mount::mount_remount(&disk.0, rustix::mount::MountFlags::empty(), "size=8m").expect("remount");
    attached.send(StreamKind::Stdin, b"go\n");
    assert_eq!(attached.finish().code, 0);
    let log = std::fs::read_to_string(&config.log.path).expect("log");
    // A later, smaller piece may have fitted before space came back: then there are several notes.
    let notes = log.lines().filter(|line| line.contains("lines of output were lost"));
    let lost: usize =
        notes.map(|note| note.split(' ').find_map(|word| word.parse::<usize>().ok()).expect("a number")).sum();
    let kept = lines_of(&log, "stdout").lines().count();
    assert!(lost > 30_000);
    assert_eq!(kept + lost, 50_000 + 5, "{kept} kept, {lost} lost");
    assert!(log.ends_with(" 3\n"), "{log}");
}

#[test]
fn an_attached_client_gets_streams_apart_and_then_the_exit() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sh", "-c", "echo out; echo err >&2; exit 9"]);
    let mut daemon = rig.connect(true);
    let (mut attached, theirs) = Attached::pair();
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    assert_eq!(attached.finish().code, 9);
    assert_eq!((&attached.stdout[..], &attached.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert!(attached.frame().is_none(), "the exit is the last frame");
    // The log has it all too.
    assert_eq!(lines_of(&rig.log(&config), "stdout"), "out\n");
}

#[test]
fn a_client_can_attach_later_and_feed_standard_input() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/sh", "-c", "echo early; while read x; do echo got $x; done; echo end"]);
    config.process.stdin = true;
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    rig::wait_for("the start", || rig.log(&config).contains("early"));
    for word in ["one", "two"] {
        let (mut attached, theirs) = Attached::pair();
        assert!(matches!(daemon.ask_with(Request::Attach { id: config.id.clone() }, Some(theirs)), Reply::Done));
        attached.send(StreamKind::Stdin, format!("{word}\n").as_bytes());
        attached.wait_stdout(&format!("got {word}\n"));
        // Leaving does not end the container's input.
    }
    let (mut attached, theirs) = Attached::pair();
    assert!(matches!(daemon.ask_with(Request::Attach { id: config.id.clone() }, Some(theirs)), Reply::Done));
    attached.send(StreamKind::Stdin, &[]);
    assert_eq!(attached.finish().code, 0);
    assert!(rig.log(&config).ends_with(" end\n"));
}

#[test]
fn a_terminal_container_has_a_console_of_its_size() {
    let rig = Rig::new();
    let mut config =
        rig.config(&["/bin/sh", "-c", "stty size; tty; test -c /dev/console && echo console; read x; echo got $x"]);
    config.process.terminal = Some(coppice_container::TerminalSize { rows: 33, columns: 111 });
    let mut daemon = rig.connect(true);
    let (mut attached, theirs) = Attached::pair();
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    attached.wait_stdout("console\r\n");
    assert!(String::from_utf8_lossy(&attached.stdout).starts_with("33 111\r\n/dev/pts/0\r\n"));
    attached.send(StreamKind::Stdin, b"word\n");
    assert_eq!(attached.finish().code, 0);
    assert!(String::from_utf8_lossy(&attached.stdout).ends_with("got word\r\n"));
}

#[test]
fn keys_and_a_window_of_before_the_terminal_is_there_reach_it() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/sh", "-c", "read x; echo got $x; stty size"]);
    config.process.terminal = Some(coppice_container::TerminalSize { rows: 33, columns: 111 });
    let mut daemon = rig.connect(true);
    let (mut attached, theirs) = Attached::pair();
    // In the socket before there is a process: a client may type as soon as it has its answer.
    attached.send(StreamKind::Resize, &[40, 0, 120, 0]);
    attached.send(StreamKind::Stdin, b"early\n");
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    assert_eq!(attached.finish().code, 0);
    assert!(String::from_utf8_lossy(&attached.stdout).ends_with("got early\r\n40 120\r\n"), "{:?}", attached.stdout);
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_the_container_goes_on() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/sh", "-c", "seq 1 300000; echo end"]);
    config.log.max_size = Bytes(64 << 20);
    let mut daemon = rig.connect(true);
    let (attached, theirs) = Attached::pair();
    let begun = Instant::now();
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    // Meanwhile others are served.
    let other = rig.sh("echo quick");
    assert_eq!(other.ok(), "quick\n");
    assert!(begun.elapsed() < rig::deadline() / 7);
    assert_eq!(daemon.exit_of(&config.id).code, 0);
    assert!(rig.log(&config).ends_with(" end\n"), "the log has everything");
    drop(attached);
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/seq", "1", "200000"]);
    config.log.max_size = Bytes(64 << 20);
    let mut daemon = rig.connect(true);
    let (mut attached, theirs) = Attached::pair();
    let reply = daemon.ask_with(Request::Start { config: Box::new(config.clone()), attach: true }, Some(theirs));
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    // Behind by more than every buffer in between, but within the launcher's patience.
    rig::wait_for("the container to wait", || rig.log(&config).len() > 500_000);
    assert_eq!(attached.finish().code, 0);
    let want: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(attached.stdout == want.as_bytes(), "{} bytes instead of {}", attached.stdout.len(), want.len());
}
