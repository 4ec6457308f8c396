//! Processes' streams carried between a peer that plays the node and pipes or a terminal that play the caller.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc;

use coppice_api::RunRequest;
use coppice_api::stream::{EXIT, RESIZE, SIGNAL, STDERR, STDIN, STDOUT, WORD, header, parse_header};
use coppice_spec::{RestartPolicy, RunSpec, WorkloadSpec};

use super::*;
use crate::terminal::tests::{ONE_RAW, echoes, pty};

fn typed(parts: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut keys = Detach::default();
    let mut out = Vec::new();
    for part in parts {
        match keys.filter(part) {
            Typed::Bytes(bytes) => out.extend(bytes),
            Typed::Detach(bytes) => {
                out.extend(bytes);
                return (out, true);
            }
        }
    }
    (out, false)
}

#[test]
fn ctrl_p_ctrl_q_detaches_wherever_reads_cut_it() {
    assert_eq!(typed(&[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
    assert_eq!(typed(&[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
}

#[test]
fn ctrl_p_alone_reaches_the_process_with_the_next_key() {
    assert_eq!(typed(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
    assert_eq!(typed(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
    assert_eq!(typed(&[b"\x11"]), (b"\x11".to_vec(), false));
}

/// A node of one connection: upgrades, then does what `script` says.
fn node(script: impl FnOnce(&mut UnixStream) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
        let upgraded = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: coppice-stream\r\n\r\n";
        stream.write_all(upgraded.as_bytes()).unwrap();
        script(&mut stream);
    });
    (dir, socket)
}

fn send(stream: &mut UnixStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    stream.write_all(&header(kind, payload.len() as u32))?;
    stream.write_all(payload)
}

fn receive(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let (kind, len) = parse_header(head);
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload)?;
    Ok((kind, payload))
}

fn exit(stream: &mut UnixStream, code: u8) {
    let _ = send(stream, EXIT, format!(r#"{{"code":{code},"signal":null,"oom":false}}"#).as_bytes());
}

async fn open(socket: &PathBuf) -> (Client, Stream) {
    let client = Client::new(socket);
    let spec = RunSpec {
        name: None,
        workload: WorkloadSpec::of("x"),
        ports: vec![],
        restart: RestartPolicy::Never,
        health: None,
        remove: true,
        tty: false,
        interactive: true,
    };
    let attached = client.run(&RunRequest { spec, start: true, size: None }).await.unwrap();
    (client, attached.stream)
}

#[tokio::test]
async fn megabytes_go_in_and_come_out_at_once() {
    // A process like `cat`: it stops reading its input while nobody reads its output.
    let (_dir, socket) = node(|stream| {
        loop {
            match receive(stream) {
                Ok((STDIN, bytes)) if bytes.is_empty() => break,
                Ok((STDIN, bytes)) => send(stream, STDOUT, &bytes).unwrap(),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        send(stream, WORD, b"no \x1b limit").unwrap();
        send(stream, STDERR, b"done").unwrap();
        exit(stream, 3);
    });
    let (client, stream) = open(&socket).await;
    let data: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let (stdin, mut feed) = io::pipe().unwrap();
    let (mut drain, stdout) = io::pipe().unwrap();
    let (mut errors, stderr) = io::pipe().unwrap();
    let input = data.clone();
    let feeding = std::thread::spawn(move || feed.write_all(&input).unwrap());
    let draining = std::thread::spawn(move || {
        let mut all = Vec::new();
        drain.read_to_end(&mut all).unwrap();
        all
    });
    let caller = Caller {
        stdin: Some(stdin.as_fd()),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        style: Style::plain(),
        tty: false,
        signals: true,
        resize: false,
    };
    let ending = carry(&client, None, stream, caller).await;
    assert!(matches!(ending, Ending::Exit(reply) if reply.code == 3));
    drop((stdout, stderr));
    feeding.join().unwrap();
    assert!(draining.join().unwrap() == data, "what came out is not what went in");
    let mut said = String::new();
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(said, "warning: no \\u{1b} limit\ndone");
}

#[tokio::test]
async fn input_from_a_plain_file_is_sent_with_its_end() {
    let (sender, seen) = mpsc::channel();
    let (_dir, socket) = node(move |stream| {
        sender.send([receive(stream).unwrap(), receive(stream).unwrap()]).unwrap();
        exit(stream, 0);
    });
    let (client, stream) = open(&socket).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from a file").unwrap();
    let stdin = std::fs::File::open(file.path()).unwrap();
    let out = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let caller = Caller {
        stdin: Some(stdin.as_fd()),
        stdout: out.as_fd(),
        stderr: out.as_fd(),
        style: Style::plain(),
        tty: false,
        signals: false,
        resize: false,
    };
    assert!(matches!(carry(&client, None, stream, caller).await, Ending::Exit(reply) if reply.code == 0));
    assert_eq!(seen.recv().unwrap(), [(STDIN, b"from a file".to_vec()), (STDIN, vec![])]);
}

#[tokio::test]
async fn a_terminal_is_raw_while_attached_and_put_back_after_the_detach_keys() {
    let _one = ONE_RAW.lock().await;
    let (control, terminal) = pty();
    let window = rustix::termios::Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&control, window).unwrap();
    let typist = control.try_clone().unwrap();
    let (sender, seen) = mpsc::channel();
    let (_dir, socket) = node(move |stream| {
        // The window comes first; then keys, which only a raw terminal sends without a line's end.
        let resize = receive(stream).unwrap();
        rustix::io::write(&typist, b"\x03k\x10\x11").unwrap();
        let mut keys = Vec::new();
        while keys.len() < 2 {
            keys.extend(receive(stream).unwrap().1);
        }
        sender.send((resize, keys)).unwrap();
        let _ = receive(stream);
    });
    let (client, stream) = open(&socket).await;
    let fd = terminal.as_fd();
    let caller = Caller {
        stdin: Some(fd),
        stdout: fd,
        stderr: fd,
        style: Style::plain(),
        tty: true,
        signals: true,
        resize: true,
    };
    assert!(matches!(carry(&client, None, stream, caller).await, Ending::Detached));
    assert_eq!(seen.recv().unwrap(), ((RESIZE, vec![30, 0, 100, 0]), b"\x03k".to_vec()));
    assert!(echoes(&terminal), "the terminal was left raw");
}

#[tokio::test]
async fn a_node_that_goes_away_is_told_and_the_terminal_put_back() {
    let _one = ONE_RAW.lock().await;
    let (_control, terminal) = pty();
    let (_dir, socket) = node(|stream| {
        let _ = send(stream, STDOUT, b"so far");
    });
    let (client, stream) = open(&socket).await;
    let fd = terminal.as_fd();
    let caller = Caller {
        stdin: Some(fd),
        stdout: fd,
        stderr: fd,
        style: Style::plain(),
        tty: true,
        signals: true,
        resize: true,
    };
    assert!(matches!(carry(&client, None, stream, caller).await, Ending::Lost(ClientError::Lost { .. })));
    assert!(echoes(&terminal), "the terminal was left raw");
}

#[tokio::test]
async fn output_nobody_reads_any_more_ends_it() {
    let (_dir, socket) = node(|stream| while send(stream, STDOUT, &[b'y'; 4096]).is_ok() {});
    let (client, stream) = open(&socket).await;
    let (reader, stdout) = io::pipe().unwrap();
    drop(reader);
    let fd = stdout.as_fd();
    let caller = Caller {
        stdin: None,
        stdout: fd,
        stderr: fd,
        style: Style::plain(),
        tty: false,
        signals: false,
        resize: false,
    };
    let ending = carry(&client, None, stream, caller).await;
    assert!(matches!(ending, Ending::Output(error) if error.kind() == io::ErrorKind::BrokenPipe));
}

#[tokio::test]
async fn signals_reach_the_process_without_a_terminal() {
    let (sender, seen) = mpsc::channel();
    let (go, first_seen) = mpsc::channel();
    let (_dir, socket) = node(move |stream| {
        receive(stream).unwrap();
        go.send(()).unwrap();
        // A second piece of input: by now everything the caller waits for has been set up.
        receive(stream).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR2).unwrap();
        sender.send(receive(stream).unwrap()).unwrap();
        exit(stream, 0);
    });
    let (client, stream) = open(&socket).await;
    let (stdin, mut feed) = io::pipe().unwrap();
    let feeding = std::thread::spawn(move || {
        feed.write_all(b"1").unwrap();
        first_seen.recv().unwrap();
        feed.write_all(b"2").unwrap();
        feed
    });
    let out = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let caller = Caller {
        stdin: Some(stdin.as_fd()),
        stdout: out.as_fd(),
        stderr: out.as_fd(),
        style: Style::plain(),
        tty: false,
        signals: true,
        resize: false,
    };
    assert!(matches!(carry(&client, None, stream, caller).await, Ending::Exit(reply) if reply.code == 0));
    assert_eq!(seen.recv().unwrap(), (SIGNAL, 12i32.to_le_bytes().to_vec()));
    feeding.join().unwrap();
}
