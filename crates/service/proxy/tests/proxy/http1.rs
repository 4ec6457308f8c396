//! HTTP/1.1 and 1.0 through the proxy, byte by byte.

use std::io::{Read, Write};
use std::time::Duration;

use coppice_proxy::Routes;

use crate::stage::{Answer, Server, Stage, read_to_end, read_until};

#[test]
fn a_request_reaches_its_instance_and_the_answer_comes_back() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let answer = stage.get("/a/b?c=d", "x-mine: 1\r\n");
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    let seen = server.seen().remove(0);
    assert!(seen.starts_with("GET /a/b?c=d HTTP/1.1\r\nhost: example.com\r\n"), "{seen}");
    for line in ["x-mine: 1\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n", "traceparent: 00-"] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert!(!seen.contains("connection:"), "{seen}");
}

#[test]
fn a_host_or_path_that_no_route_takes_is_not_found() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let other = stage.exchange(b"GET / HTTP/1.1\r\nhost: other.com\r\nconnection: close\r\n\r\n");
    assert_eq!(Answer::of(&other).status, 404);
    stage.proxy.update(&Routes::default()).unwrap();
    assert_eq!(stage.get("/", "").status, 404);
    assert!(server.seen().is_empty());
}

#[test]
fn one_connection_carries_many_requests_and_so_does_the_one_behind() {
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    for _ in 0..20 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
        read_until(&mut client, "hello");
    }
    assert_eq!((server.seen().len(), server.connections()), (20, 1));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(|request| {
        let path = request.split(' ').nth(1).unwrap().to_owned();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).into_bytes()
    });
    let stage = Stage::serving(&[server.address]);
    let one = |path: &str, last: &str| format!("GET {path} HTTP/1.1\r\nhost: example.com\r\n{last}\r\n");
    let all = stage.exchange((one("/1", "") + &one("/2", "") + &one("/3", "connection: close\r\n")).as_bytes());
    let bodies: Vec<_> = all.match_indices("\r\n\r\n/").map(|(at, _)| &all[at + 4..at + 6]).collect();
    assert_eq!(bodies, ["/1", "/2", "/3"]);
}

#[test]
fn bodies_of_both_framings_arrive_whole_both_ways() {
    let server = Server::start(|request| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            .into_bytes()
    });
    let stage = Stage::serving(&[server.address]);
    let body = "x".repeat(200_000);
    let head = "POST / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n";
    let sized = stage.exchange(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    assert_eq!(sized.matches('x').count() - Answer::of(&sized).head.matches('x').count(), 200_000);
    let chunked = stage.exchange(
        format!("{head}transfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n")
            .as_bytes(),
    );
    assert!(chunked.contains("hello"), "{chunked}");
    assert!(server.seen()[1].contains(" world\r\n"), "{}", server.seen()[1]);
}

#[test]
fn trailers_pass_and_those_that_would_change_the_message_do_not() {
    let answer =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\ncontent-length: 9\r\n\r\n";
    let server = Server::start(|_| answer.as_bytes().to_vec());
    let stage = Stage::serving(&[server.address]);
    let all = stage.exchange(b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n");
    assert!(all.ends_with("2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"), "{all}");
}

#[test]
fn an_answer_without_length_is_framed_for_11_and_ends_the_connection_for_10() {
    let server = Server::scripted(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").unwrap();
        false
    });
    let stage = Stage::serving(&[server.address]);
    let new = stage.exchange(b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n");
    assert!(new.contains("transfer-encoding: chunked") && new.ends_with("d\r\nuntil the end\r\n0\r\n\r\n"), "{new}");
    let old = stage.exchange(b"GET / HTTP/1.0\r\nhost: example.com\r\n\r\n");
    assert!(!old.contains("chunked") && old.ends_with("\r\n\r\nuntil the end"), "{old}");
}

#[test]
fn answers_without_a_body_do_not_hold_up_the_next() {
    let server = Server::start(|request| {
        let status = match request {
            head if head.starts_with("HEAD") => "200 OK\r\ncontent-length: 500",
            get if get.contains("/304") => "304 Not Modified\r\ncontent-length: 500",
            _ => "204 No Content",
        };
        format!("HTTP/1.1 {status}\r\n\r\n").into_bytes()
    });
    let stage = Stage::serving(&[server.address]);
    let all = stage.exchange(
        b"HEAD / HTTP/1.1\r\nhost: example.com\r\n\r\nGET /304 HTTP/1.1\r\nhost: example.com\r\n\r\n\
          GET /204 HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n",
    );
    let statuses: Vec<_> = all.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "304", "204"]);
    assert_eq!(all.matches("content-length: 500").count(), 2);
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on() {
    let server = Server::saying("done");
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    read_until(&mut client, "100 Continue\r\n\r\n");
    client.write_all(b"abc").unwrap();
    read_until(&mut client, "done");
    assert!(!server.seen()[0].contains("expect"));
}

#[test]
fn events_reach_the_client_as_they_are_sent() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::scripted(move |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n").unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"data: 2\n\n").unwrap();
        false
    });
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").unwrap();
    read_until(&mut client, "data: 1\n\n");
    go.send(()).unwrap();
    assert!(read_to_end(&mut client).contains("data: 2\n\n"));
}

#[test]
fn a_slow_reader_holds_up_its_sender_and_not_the_memory() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&sent);
    let server = Server::scripted(move |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let piece = [b'x'; 65_536];
        while let Ok(written) = stream.write(&piece) {
            count.fetch_add(written, std::sync::atomic::Ordering::SeqCst);
        }
        false
    });
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    let mut piece = [0; 1000];
    client.read_exact(&mut piece).unwrap();
    let mut last = usize::MAX;
    // The server stops when the sockets' buffers and the proxy's own are full.
    crate::stage::wait_until("the server was never held up", || {
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        std::thread::park_timeout(Duration::from_millis(600));
        let held = now == last && now > 0;
        last = now;
        held
    });
    // Linux's socket buffers grow to about 6 MiB each way and connection by default.
    assert!(last < 40 << 20, "{last} bytes were taken of a client that reads nothing");
}

#[test]
fn an_instance_that_breaks_off_is_not_passed_off_as_whole() {
    let server = Server::scripted(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
        false
    });
    let stage = Stage::serving(&[server.address]);
    let all = stage.exchange(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n");
    assert!(all.contains("hello") && !all.ends_with("0\r\n\r\n"), "{all}");
}

#[test]
fn a_request_that_comes_byte_by_byte_is_the_same_request() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let request = "\r\nPOST /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\n";
    let mut client = stage.connect();
    client.set_nodelay(true).unwrap();
    for turn in 0..2 {
        for byte in request.as_bytes() {
            client.write_all(&[*byte]).unwrap();
            std::thread::yield_now();
        }
        read_until(&mut client, "\r\n\r\nok");
        let seen = server.seen().remove(turn);
        assert!(seen.starts_with("POST /a HTTP/1.1\r\n") && seen.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{seen}");
    }
}
