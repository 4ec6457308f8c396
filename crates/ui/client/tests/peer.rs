//! The client against peers that are slow, cut off, rude or of another version. A peer here is a socket with a script;
//! the real node is tested end to end elsewhere.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use coppice_api::{ErrorKind, PullRequest, RunRequest, TransferLine};
use coppice_client::{Client, ClientError, Frame, ImportOptions, LogFilter, Upload};
use coppice_spec::{RestartPolicy, RunSpec, WorkloadSpec};

/// What a peer does with a connection once it has the request.
type Script = Box<dyn FnOnce(&mut UnixStream) + Send>;

struct Peer {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    requests: std::sync::mpsc::Receiver<String>,
}

/// Answers one connection after the other with each script; requests (head and body as far as announced) are kept.
fn peer(scripts: Vec<Script>) -> Peer {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream);
            let _ = sender.send(request);
            script(&mut stream);
        }
    });
    Peer { _dir: dir, socket, requests }
}

fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let announced = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let chunked = lower.contains("transfer-encoding: chunked");
            if (chunked && body.ends_with("0\r\n\r\n")) || (!chunked && body.len() >= announced.unwrap_or(0)) {
                return text;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return text,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

fn says(text: impl Into<Vec<u8>>) -> Script {
    let bytes = text.into();
    Box::new(move |stream| {
        let _ = stream.write_all(&bytes);
    })
}

fn json(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: coppice-stream\r\ncoppice-container: 00ff\r\n\r\n";

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = coppice_api::stream::header(kind, payload.len() as u32).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn run_request() -> RunRequest {
    let spec = RunSpec {
        name: None,
        workload: WorkloadSpec::of("redis"),
        ports: vec![],
        restart: RestartPolicy::Never,
        health: None,
        remove: true,
        tty: false,
        interactive: true,
    };
    RunRequest { spec, start: true, size: None }
}

fn logs() -> LogFilter {
    LogFilter { query: Default::default(), stdout: true, stderr: true }
}

#[tokio::test]
async fn nobody_on_the_socket_is_told_apart_from_a_socket_one_may_not_use() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(dir.path().join("none")).apps().await.unwrap_err();
    assert!(error.nobody_there() && error.to_string().contains("none"), "{error}");
    assert!(error.next_step().unwrap().contains("coppice node start"));
    // A socket file whose owner has died.
    let dead = dir.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    assert!(Client::new(&dead).apps().await.unwrap_err().nobody_there());
    // Something else there is not "nobody": starting a daemon would not help.
    let long = dir.path().join("x".repeat(200));
    assert!(!Client::new(long).apps().await.unwrap_err().nobody_there());
}

#[tokio::test]
async fn a_refusal_comes_through_with_its_words_and_code() {
    let body = r#"{"kind":"cannot_start","message":"no such program: frob","exit_code":127}"#;
    let peer = peer(vec![says(json("422 Unprocessable Entity", body))]);
    match Client::new(&peer.socket).start("web").await.unwrap_err() {
        ClientError::Api(error) => {
            assert_eq!((error.kind, error.exit_code), (ErrorKind::CannotStart, Some(127)));
            assert_eq!(error.message, "no such program: frob");
        }
        other => panic!("{other}"),
    }
    assert!(peer.requests.recv().unwrap().starts_with("POST /v1/containers/web/start HTTP/1.1\r\n"));
}

#[tokio::test]
async fn one_request_is_one_connection_and_no_version_is_asked() {
    let peer = peer(vec![says(json("200 OK", "[]"))]);
    let client = Client::connect(&peer.socket).await.unwrap();
    assert!(client.containers(true, Some("my app")).await.unwrap().is_empty());
    assert!(peer.requests.recv().unwrap().starts_with("GET /v1/containers?all=true&app=my%20app HTTP/1.1\r\n"));
    assert!(peer.requests.recv().is_err(), "only one connection was made");
}

#[tokio::test]
async fn an_answer_of_another_version_is_named_as_such() {
    let peer = peer(vec![
        says(json("200 OK", r#"{"unheard":"of"}"#)),
        says(json("200 OK", r#"{"version":"9.9.9","api":99}"#)),
    ]);
    let error = Client::new(&peer.socket).node().await.unwrap_err();
    assert!(matches!(error, ClientError::Version { theirs: 99, .. }), "{error}");
    assert!(error.to_string().contains("9.9.9") && error.next_step().is_some());
}

#[tokio::test]
async fn garbage_is_called_garbage() {
    for text in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 abc\r\n\r\n"] {
        let peer = peer(vec![says(text), says(text)]);
        let error = Client::new(&peer.socket).apps().await.unwrap_err();
        assert!(matches!(error, ClientError::Garbled { .. }), "{text:?}: {error}");
    }
    // HTTP, but some other server's.
    let peer = peer(vec![says(json("404 Not Found", "<html>")), says(json("404 Not Found", "<html>"))]);
    let error = Client::new(&peer.socket).apps().await.unwrap_err();
    assert!(matches!(error, ClientError::Garbled { .. }), "{error}");
}

#[tokio::test]
async fn a_cut_answer_is_never_taken_for_a_whole_one() {
    for text in ["", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[]"] {
        let peer = peer(vec![says(text)]);
        let error = Client::new(&peer.socket).apps().await.unwrap_err();
        assert!(matches!(error, ClientError::Lost { .. }), "{text:?}: {error}");
    }
    // A tar without its end, in chunks.
    let peer = peer(vec![says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")]);
    let mut download = Client::new(&peer.socket).export("x").await.unwrap();
    assert_eq!(download.next().await.unwrap().unwrap(), "abc");
    assert!(matches!(download.next().await, Err(ClientError::Lost { .. })));
}

#[tokio::test]
async fn lines_cut_anywhere_come_out_whole_and_as_they_come() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let peer = peer(vec![Box::new(move |stream: &mut UnixStream| {
        let done = r#"{"done":{"id":"i","digest":"d"}}"#;
        let error = r#"{"error":{"kind":"upstream","message":"gone"}}"#;
        let (first, rest) = done.split_at(10);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        send(stream, first);
        // The rest only after the test has seen that nothing came out yet.
        wait.recv_timeout(Duration::from_secs(10)).unwrap();
        send(stream, &format!("{rest}\n\n{error}"));
        send(stream, "\n");
        stream.write_all(b"0\r\n\r\n").unwrap();
    })]);
    let client = Client::new(&peer.socket);
    let request = PullRequest { reference: "redis".into(), always: true, insecure: false, login: None };
    let mut lines = client.pull(&request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), lines.next()).await;
    assert!(early.is_err(), "half a line came out");
    go.send(()).unwrap();
    assert!(matches!(lines.next().await.unwrap().unwrap(), TransferLine::Done { .. }));
    assert!(matches!(lines.next().await.unwrap().unwrap(), TransferLine::Error(error) if error.message == "gone"));
    assert!(lines.next().await.unwrap().is_none());
}

/// One chunk of a body.
fn send(stream: &mut UnixStream, text: &str) {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).unwrap();
}

#[tokio::test]
async fn a_line_that_is_no_json_and_a_stream_that_breaks_are_errors() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let broken = peer(vec![says(format!("{head}5\r\nnope\n\r\n0\r\n\r\n"))]);
    let mut lines = Client::new(&broken.socket).container_logs("web", &logs()).await.unwrap();
    assert!(matches!(lines.next().await, Err(ClientError::Garbled { .. })));
    let cut = peer(vec![says(head)]);
    let mut lines = Client::new(&cut.socket).container_logs("web", &logs()).await.unwrap();
    assert!(matches!(lines.next().await, Err(ClientError::Lost { .. })));
}

#[tokio::test]
async fn a_run_is_one_request_whose_frames_may_be_cut_anywhere() {
    let mut wire = UPGRADED.as_bytes().to_vec();
    // The first frames come in the same piece as the head of the answer.
    wire.extend(frame(6, b"no memory limit"));
    wire.extend(frame(1, b"out"));
    wire.extend(frame(2, b"err"));
    let tail = frame(4, br#"{"code":7,"signal":null,"oom":false}"#);
    let (seen_sender, seen) = std::sync::mpsc::channel();
    let peer = peer(vec![Box::new(move |stream: &mut UnixStream| {
        stream.write_all(&wire).unwrap();
        // Standard input, its end, a window and a signal.
        let mut got = vec![0; 5 + 2 + 5 + 5 + 4 + 5 + 4];
        stream.read_exact(&mut got).unwrap();
        seen_sender.send(got).unwrap();
        for byte in tail {
            stream.write_all(&[byte]).unwrap();
        }
    })]);
    let attached = Client::new(&peer.socket).run(&run_request()).await.unwrap();
    assert_eq!(attached.container.as_deref(), Some("00ff"));
    let request = peer.requests.recv().unwrap().to_ascii_lowercase();
    assert!(request.starts_with("post /v1/run http/1.1\r\n"), "{request}");
    assert!(request.contains("upgrade: coppice-stream") && request.contains("connection: upgrade"), "{request}");
    let (mut reader, mut writer) = attached.stream.split();
    assert_eq!(reader.next().await.unwrap(), Some(Frame::Word("no memory limit".into())));
    assert_eq!(reader.next().await.unwrap(), Some(Frame::Stdout("out".into())));
    assert_eq!(reader.next().await.unwrap(), Some(Frame::Stderr("err".into())));
    writer.stdin(b"in").await.unwrap();
    writer.close_stdin().await.unwrap();
    writer.resize(coppice_api::TerminalSize { rows: 24, columns: 80 }).await.unwrap();
    writer.signal(15).await.unwrap();
    let mut want = frame(0, b"in");
    want.extend(frame(0, b""));
    want.extend(frame(3, &[24, 0, 80, 0]));
    want.extend(frame(5, &[15, 0, 0, 0]));
    assert_eq!(seen.recv().unwrap(), want);
    assert!(matches!(reader.next().await.unwrap(), Some(Frame::Exit(reply)) if reply.code == 7));
}

#[tokio::test]
async fn a_run_that_loses_its_node_says_so() {
    let mut half = UPGRADED.as_bytes().to_vec();
    half.extend(&frame(1, b"output")[..7]);
    let peer = peer(vec![says(half)]);
    let attached = Client::new(&peer.socket).run(&run_request()).await.unwrap();
    let (mut reader, _writer) = attached.stream.split();
    assert!(matches!(reader.next().await, Err(ClientError::Lost { .. })));
}

#[tokio::test]
async fn an_upload_arrives_whole_and_a_reader_that_fails_is_named() {
    let reply = r#"{"images":[],"words":["left out /dev/null"]}"#;
    let peer_whole = peer(vec![says(json("200 OK", reply))]);
    let options = ImportOptions {
        name: "redis:7".into(),
        command: Some(vec!["redis-server".into(), "--port".into()]),
        env: vec!["A=b c".into()],
        ..Default::default()
    };
    let upload = Upload::new(std::io::Cursor::new("tar bytes"));
    let loaded = Client::new(&peer_whole.socket).import(&options, upload).await.unwrap();
    assert_eq!(loaded.words, ["left out /dev/null"]);
    let request = peer_whole.requests.recv().unwrap();
    let want =
        "POST /v1/images/import?name=redis%3A7&cmd=%5B%22redis-server%22%2C%22--port%22%5D&env=%5B%22A%3Db%20c%22%5D ";
    assert!(request.starts_with(want), "{request}");
    assert!(request.contains("tar bytes"), "{request}");

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let peer_cut = peer(vec![says("")]);
    let error = Client::new(&peer_cut.socket).load(Upload::new(Broken)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Upload(why) if why.to_string().contains("the disk is gone")), "{error}");
}

/// A peer that closes each connection as it comes, `cuts` times, with the request unread or read, and then answers.
fn dying_peer(
    cuts: usize,
    reads: bool,
    answer: &'static str,
) -> (Peer, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, requests) = std::sync::mpsc::channel();
    let served = std::sync::Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    std::thread::spawn(move || {
        for _ in 0..cuts {
            let (mut stream, _) = listener.accept().unwrap();
            if reads {
                let _ = sender.send(read_request(&mut stream));
            } else {
                // Its request has begun to come, and is left where it is.
                let mut fds = [rustix::event::PollFd::new(&stream, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, None).unwrap();
            }
        }
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = sender.send(read_request(&mut stream));
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (Peer { _dir: dir, socket, requests }, served)
}

fn reviving(peer: &Peer) -> Client {
    Client::new(&peer.socket).reviving(Box::new(|| Box::pin(async { true })))
}

#[tokio::test]
async fn a_read_is_sent_again_when_the_node_goes_away_under_it() {
    for reads in [false, true] {
        let (peer, served) = dying_peer(2, reads, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]");
        assert!(reviving(&peer).apps().await.unwrap().is_empty());
        assert_eq!(served.load(std::sync::atomic::Ordering::SeqCst), 1);
        // Whoever has no way to a node is told at once.
        let (peer, _) = dying_peer(1, reads, "");
        assert!(Client::new(&peer.socket).apps().await.is_err());
    }
    let (peer, _) = dying_peer(100, true, "");
    assert!(matches!(reviving(&peer).apps().await.unwrap_err(), ClientError::Lost { .. }), "it gives up");
}

#[tokio::test]
async fn a_run_is_sent_again_only_when_the_node_has_not_read_it() {
    let answer: &'static str = UPGRADED;
    let (peer, served) = dying_peer(1, false, answer);
    assert_eq!(reviving(&peer).run(&run_request()).await.unwrap().container.as_deref(), Some("00ff"));
    assert_eq!(served.load(std::sync::atomic::Ordering::SeqCst), 1);
    let (peer, served) = dying_peer(1, true, answer);
    let error = reviving(&peer).run(&run_request()).await.err().expect("it may have been done");
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    assert_eq!(served.load(std::sync::atomic::Ordering::SeqCst), 0, "never twice");
    // Without a way to a node, an unread one is told apart all the same.
    let (peer, _) = dying_peer(1, false, answer);
    let error = Client::new(&peer.socket).run(&run_request()).await.err().unwrap();
    assert!(matches!(error, ClientError::Unread { .. }) && error.to_string().contains("nothing was done"), "{error}");
}
