//! Hostile clients and hostile instances.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use coppice_spec::PathMatch;

use crate::stage::{Answer, Server, Stage, read_to_end, read_until, spec, wait_until};

/// Sends `request` with a second one hidden behind it; nothing of the second may reach the instance, and the first is
/// refused.
fn refused(stage: &Stage, server: &Server, request: &str) {
    let before = server.seen().len();
    let all = stage.exchange(request.as_bytes());
    let status = Answer::of(&all).status;
    assert!((400..=505).contains(&status) && status != 404, "{request:?}: {all}");
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{request:?} was answered twice: {all}");
    assert_eq!(server.seen().len(), before, "{request:?} reached the instance");
}

#[test]
fn a_request_whose_framing_has_two_readings_is_refused_and_the_connection_ends() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let hidden = "GET /hidden HTTP/1.1\r\nhost: example.com\r\n\r\n";
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 0\r\n\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        "content-length: 5, 5\r\n\r\nabcde",
        "content-length: +5\r\n\r\nabcde",
        "content-length: 0x5\r\n\r\nabcde",
        "content-length: 5 5\r\n\r\nabcde",
        "content-length: -1\r\n\r\n",
        "content-length: 99999999999999999999\r\n\r\n",
        "content-length:\r\n\r\n",
        "content-length : 5\r\n\r\nabcde",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "x: y\r\n\tfolded\r\n\r\n",
        "x: y\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "x: y\rz\r\n\r\n",
        "x: y\0z\r\n\r\n",
        "x y: z\r\n\r\n",
        ": z\r\n\r\n",
        "x\r\n\r\n",
        "host: other.com\r\n\r\n",
    ] {
        refused(&stage, &server, &format!("POST / HTTP/1.1\r\nhost: example.com\r\n{fields}{hidden}"));
    }
    for whole in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nhost: example.com\n\n",
        "GET / HTTP/1.0\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: example.com\r\n\r\n",
        "GET / HTTP/1.1 \r\nhost: example.com\r\n\r\n",
        "GET /\r\nhost: example.com\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: example.com\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: example.com\r\n\r\n",
        "G(T / HTTP/1.1\r\nhost: example.com\r\n\r\n",
        "GET http://example.com/ HTTP/1.1\r\nhost: example.com\r\n\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a@example.com\r\n\r\n",
    ] {
        refused(&stage, &server, &format!("{whole}{hidden}"));
    }
    assert!(stage.proxy.metrics().bad_requests >= 30);
}

#[test]
fn chunks_that_have_two_readings_end_the_request() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5 \rx\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "0\r\nx y: z\r\n\r\n",
        "0\r\nx: y\n\r\n",
    ] {
        let server = Server::saying("ok");
        let stage = Stage::serving(&[server.address]);
        let hidden = "GET /hidden HTTP/1.1\r\nhost: example.com\r\n\r\n";
        let head = "POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n";
        let all = stage.exchange(format!("{head}{body}{hidden}").as_bytes());
        assert_eq!(Answer::of(&all).status, 400, "{body:?}: {all}");
        assert!(!server.seen().iter().any(|seen| seen.contains("/hidden")), "{body:?}");
    }
}

#[test]
fn a_long_chunk_extension_is_refused() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let head = "POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n";
    let all = stage.exchange(format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1000)).as_bytes());
    assert_eq!(Answer::of(&all).status, 400, "{all}");
}

#[test]
fn an_instance_cannot_split_its_answer_into_two() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let server = Server::start(|_| answer.as_bytes().to_vec());
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    for _ in 0..5 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
        let answer = read_until(&mut client, "\r\n\r\nok");
        assert!(!answer.contains("evil"), "{answer}");
    }
    assert_eq!(server.connections(), 5, "a connection with bytes left over was used again");
}

#[test]
fn an_instance_with_malformed_framing_is_502() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "ok\r\n\r\n",
    ] {
        let server = Server::scripted(move |stream, _| {
            let _ = stream.write_all(head.as_bytes());
            false
        });
        let stage = Stage::serving(&[server.address]);
        assert_eq!(stage.get("/", "").status, 502, "{head:?}");
    }
}

#[test]
fn a_header_bomb_is_431_and_takes_no_memory_beyond_its_buffer() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let many = format!("GET / HTTP/1.1\r\nhost: example.com\r\n{}\r\n", "a: b\r\n".repeat(1000));
    assert_eq!(Answer::of(&stage.exchange(many.as_bytes())).status, 431);
    let long = format!("GET / HTTP/1.1\r\nhost: example.com\r\na: {}\r\n\r\n", "b".repeat(100_000));
    assert_eq!(Answer::of(&stage.exchange(long.as_bytes())).status, 431);
    let line = format!("GET /{} HTTP/1.1\r\nhost: example.com\r\n\r\n", "b".repeat(100_000));
    assert_eq!(Answer::of(&stage.exchange(line.as_bytes())).status, 431);
    assert!(server.seen().is_empty());
}

#[test]
fn a_head_that_comes_a_byte_at_a_time_is_cut_off() {
    let server = Server::saying("ok");
    let stage = Stage::with(|config| config.limits.header_timeout = Duration::from_millis(500));
    stage.route(spec(), &[server.address]);
    let begun = Instant::now();
    let mut client = stage.connect();
    let request =
        b"GET / HTTP/1.1\r\nhost: example.com\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for byte in request {
        if client.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(30));
    }
    let all = read_to_end(&mut client);
    assert!(all.is_empty() || Answer::of(&all).status == 408, "{all}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // One that says nothing at all goes the same way.
    let mut silent = stage.connect();
    assert_eq!(read_to_end(&mut silent), "");
    wait_until("connections are left", || stage.proxy.metrics().connections == 0);
}

#[test]
fn a_body_that_trickles_is_cut_off() {
    let server = Server::saying("ok");
    let stage = Stage::with(|config| {
        config.limits.header_timeout = Duration::from_millis(500);
        config.limits.body_rate = 1000;
    });
    stage.route(spec(), &[server.address]);
    let mut client = stage.connect();
    client.write_all(b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 100000\r\n\r\n").unwrap();
    let begun = Instant::now();
    while client.write_all(b"x").is_ok() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "it trickled on for {:?}", begun.elapsed());
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 0);
}

#[test]
fn a_path_cannot_climb_out_of_its_rewrite() {
    let server = Server::saying("ok");
    let stage = Stage::start();
    let mut spec = spec();
    (spec.path, spec.rewrite) = (PathMatch::Prefix("/files".to_owned()), Some("/public".to_owned()));
    stage.route(spec, &[server.address]);
    for path in [
        "/files/../secret",
        "/files/%2e%2e/secret",
        "/files/..%2fsecret",
        "/files/%2e%2e%2fsecret",
        "/files/..%5csecret",
        "/files/..\\secret",
        "/files/..;/secret",
        "/files//../secret",
        "/files/a/%2E./secret",
        "/files/%00",
        "/files/..",
    ] {
        assert_eq!(stage.get(path, "").status, 400, "{path}");
    }
    assert!(server.seen().is_empty());
    assert_eq!(stage.get("/files//a%2Db/%252e%252e/", "").status, 200);
    assert!(server.seen()[0].starts_with("GET /public/a-b/%252e%252e/ HTTP/1.1\r\n"), "{}", server.seen()[0]);
}

#[test]
fn a_client_cannot_take_our_fields_away_or_pass_those_of_the_hop() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let fields = "Connection: close, x-hop, cookie, x-forwarded-for, host\r\nx-hop: 1\r\ncookie: a=b\r\n\
                  keep-alive: 5\r\nproxy-connection: x\r\nproxy-authorization: x\r\nTE: gzip\r\n";
    let request = format!("GET / HTTP/1.1\r\nhost: example.com\r\n{fields}\r\n");
    stage.exchange(request.as_bytes());
    let seen = server.seen().remove(0);
    for kept in ["host: example.com", "cookie: a=b", "x-forwarded-for: 127.0.0.1"] {
        assert!(seen.contains(kept), "{kept} in {seen}");
    }
    for gone in ["x-hop", "keep-alive", "proxy-", "te: ", "onnection"] {
        assert!(!seen.to_ascii_lowercase().contains(gone), "{gone} in {seen}");
    }
}

#[test]
fn an_upgrade_that_the_instance_refuses_opens_no_tunnel() {
    let server = Server::start(|request| match request.contains("/chat") {
        true => b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret".to_vec(),
    });
    let stage = Stage::start();
    let mut spec = spec();
    spec.path = PathMatch::Prefix("/chat".to_owned());
    stage.route(spec, &[server.address]);
    let upgrade = "GET /chat HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 777\r\n\r\n";
    let hidden = "GET /internal HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n";
    let all = stage.exchange(format!("{upgrade}{hidden}").as_bytes());
    assert!(all.starts_with("HTTP/1.1 426 ") && all.contains("HTTP/1.1 404 ") && !all.contains("secret"), "{all}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_flood_of_connections_is_bounded() {
    let server = Server::saying("ok");
    let stage = Stage::with(|config| config.limits.connections = 20);
    stage.route(spec(), &[server.address]);
    let held: Vec<_> = (0..60).map(|_| stage.connect()).collect();
    wait_until("none was refused", || stage.proxy.metrics().refused >= 40);
    assert!(stage.proxy.metrics().connections <= 20);
    drop(held);
    wait_until("they are still counted", || stage.proxy.metrics().connections == 0);
    assert_eq!(stage.get("/", "").status, 200);
}

/// Frames of HTTP/2, by hand: what no decent client sends.
mod frames {
    pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(crate) const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// `:method: GET`, `:path: /`, `:scheme: http` by index, `:authority: example.com` as a literal.
    pub(crate) const GET: &[u8] = b"\x82\x84\x86\x41\x0bexample.com";

    /// The same as a POST.
    pub(crate) const POST: &[u8] = b"\x83\x84\x86\x41\x0bexample.com";
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const CONTINUATION: u8 = 9;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;

    /// A literal field that enters no table; at most 126 bytes each.
    pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |of: &[u8]| u8::try_from(of.len()).unwrap();
        assert!(length(name) < 127 && length(value) < 127);
        [&[0, length(name)], name, &[length(value)], value].concat()
    }

    pub(crate) fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
    }
}

/// What the proxy says before it closes, or `None` when it does not close for ten seconds.
fn ended(client: &mut std::net::TcpStream) -> bool {
    let mut piece = [0; 65_536];
    loop {
        match client.read(&mut piece) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn rapid_resets_end_the_connection_and_reach_the_instance_a_bounded_number_of_times() {
    let server = Server::scripted(|stream, _| stream.read(&mut [0]).is_err());
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    client.write_all(&[frames::PREFACE, frames::SETTINGS].concat()).unwrap();
    let mut sent = 0u32;
    for turn in 0..5000u32 {
        let stream = turn * 2 + 1;
        let pair = [frames::frame(1, 5, stream, frames::GET), frames::frame(3, 0, stream, &[0, 0, 0, 8])].concat();
        if client.write_all(&pair).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(ended(&mut client), "{sent} resets were suffered");
    assert!(server.seen().len() < 1000, "{} reached the instance", server.seen().len());
    let other = stage.exchange(b"GET / HTTP/1.1\r\nhost: other.com\r\nconnection: close\r\n\r\n");
    assert_eq!(Answer::of(&other).status, 404, "the proxy no longer answers");
}

#[test]
fn a_flood_of_continuation_frames_ends_the_connection() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    client.write_all(&[frames::PREFACE, frames::SETTINGS].concat()).unwrap();
    client.write_all(&frames::frame(1, 1, 1, frames::GET)).unwrap();
    // Never END_HEADERS. Each piece is a literal that grows the list.
    let piece = [&b"\x00\x03abc\x7f\xf9\x06"[..], &[b'v'; 1000]].concat();
    let mut sent = 0;
    while sent < 20_000 && client.write_all(&frames::frame(9, 0, 1, &piece)).is_ok() {
        sent += 1;
    }
    assert!(sent < 20_000 && ended(&mut client), "{sent} frames were taken");
    assert_eq!(stage.get("/", "").status, 200);
}

#[test]
fn frames_that_break_the_protocol_end_the_connection_only() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    for bad in [
        frames::frame(1, 5, 2, frames::GET),
        frames::frame(0, 0, 1, b"data before headers"),
        frames::frame(8, 0, 0, &[0, 0, 0, 0]),
        frames::frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        frames::frame(1, 5, 1, &[0xff; 40]),
        frames::frame(9, 4, 1, &[]),
        vec![0xff; 64],
    ] {
        let mut client = stage.connect();
        client.write_all(&[frames::PREFACE, frames::SETTINGS, &bad].concat()).unwrap();
        assert!(ended(&mut client), "{bad:?}");
    }
    assert_eq!(stage.get("/", "").status, 200);
}

/// How the request on stream 1 ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// With 200.
    Answered,
    /// With another status, a reset of the stream or the connection, or its end.
    Refused,
}

/// Reads frames until the request on stream 1 is answered or refused.
fn outcome(client: &mut std::net::TcpStream) -> Outcome {
    loop {
        let mut head = [0; 9];
        if let Err(error) = client.read_exact(&mut head) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither answered nor refused");
            return Outcome::Refused;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut body = vec![0; length];
        if client.read_exact(&mut body).is_err() {
            return Outcome::Refused;
        }
        match head[3] {
            // 0x88 is `:status: 200` by index.
            frames::HEADERS if body.first() == Some(&0x88) => return Outcome::Answered,
            frames::HEADERS | 3 | 7 => return Outcome::Refused,
            _ => {}
        }
    }
}

/// The outcome of frames that follow a decent beginning, on a connection of their own.
fn over_http2(stage: &Stage, frames: &[u8]) -> Outcome {
    let mut client = stage.connect();
    client.write_all(&[frames::PREFACE, frames::SETTINGS, frames].concat()).unwrap();
    outcome(&mut client)
}

#[test]
fn a_body_of_http2_that_contradicts_its_length_is_refused_and_hides_no_request() {
    use frames::{DATA, END_HEADERS, END_STREAM, HEADERS, field, frame};
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let head = |fields: &[u8], flags| frame(HEADERS, END_HEADERS | flags, 1, &[frames::POST, fields].concat());
    let length = |told: &str| field(b"content-length", told.as_bytes());
    let data = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let hidden = b"12345GET /hidden HTTP/1.1\r\nhost: example.com\r\n\r\n";
    for (name, all) in [
        ("more than told", [head(&length("5"), 0), data(hidden)].concat()),
        ("some where none was told", [head(&length("0"), 0), data(hidden)].concat()),
        ("less than told", [head(&length("100"), 0), data(hidden)].concat()),
        ("none where some was told", head(&length("5"), END_STREAM)),
        ("two lengths", [head(&[length("5"), length("50")].concat(), 0), data(b"12345")].concat()),
        ("a sign", [head(&length("+5"), 0), data(b"12345")].concat()),
        ("two in one", [head(&length("5, 50"), 0), data(b"12345")].concat()),
        ("not decimal", [head(&length("0x5"), 0), data(b"12345")].concat()),
        ("beyond all numbers", [head(&length("99999999999999999999"), 0), data(b"12345")].concat()),
    ] {
        assert_eq!(over_http2(&stage, &all), Outcome::Refused, "{name}");
        assert_eq!(server.seen(), [""; 0], "{name}");
    }
    // Told and kept, and then something more on a stream that is over.
    let more = frame(DATA, END_STREAM, 1, &hidden[5..]);
    over_http2(&stage, &[head(&length("5"), 0), data(b"12345"), more].concat());
    assert_eq!(over_http2(&stage, &[head(&length("5"), 0), data(b"12345")].concat()), Outcome::Answered);
    assert_eq!(over_http2(&stage, &[head(&[], 0), data(hidden)].concat()), Outcome::Answered);
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.starts_with("POST / HTTP/1.1\r\n")), "{seen:?}");
}

#[test]
fn fields_of_http2_that_http1_would_read_otherwise_never_reach_an_instance() {
    use frames::{END_HEADERS, END_STREAM, HEADERS, field, frame};
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let ask = |block: &[u8]| over_http2(&stage, &frame(HEADERS, END_HEADERS | END_STREAM, 1, block));
    let fields: &[(&[u8], &[u8])] = &[
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"connection", b"close"),
        (b"connection", b"x-forwarded-for"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"websocket"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Upper", b"1"),
        (b"x y", b"1"),
        (b"x:y", b"1"),
        (b"x\r\ny", b"1"),
        (b"x\ny", b"1"),
        (b"x\0y", b"1"),
        (b"x: y\r\ntransfer-encoding", b"chunked"),
        (b"", b"1"),
        (b"x", b"y\r\ntransfer-encoding: chunked"),
        (b"x", b"y\r\n\r\nGET /hidden HTTP/1.1\r\nhost: example.com\r\n\r\n"),
        (b"x", b"y\nz"),
        (b"x", b"y\rz"),
        (b"x", b"y\0z"),
        (b"cookie", b"a=b\r\nx: y"),
        (b"host", b"example.com\r\nx: y"),
        (b"host", b"other.com"),
        (b":path", b"/again"),
        (b":status", b"200"),
        (b":unknown", b"1"),
    ];
    for (name, value) in fields {
        let told = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        assert_eq!(ask(&[frames::GET, &field(name, value)].concat()), Outcome::Refused, "{told:?}");
    }
    let pseudo = |name: &[u8], value: &[u8]| {
        let all: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"example.com")];
        all.into_iter().flat_map(|(of, said)| field(of, if of == name { value } else { said })).collect::<Vec<_>>()
    };
    let lines: &[(&[u8], &[u8])] = &[
        (b":method", b"GET /hidden HTTP/1.1\r\nx: y"),
        (b":method", b"G T"),
        (b":method", b""),
        (b":method", b"CONNECT"),
        (b":path", b"/ HTTP/1.1\r\nhost: example.com\r\n\r\nGET /hidden"),
        (b":path", b"/a b"),
        (b":path", b"/a\0b"),
        (b":path", b"/a\nb"),
        (b":path", b""),
        (b":path", b"hidden"),
        (b":path", b"http://example.com/hidden"),
        (b":path", b"/../hidden"),
        (b":authority", b"example.com\r\nx: y"),
        (b":authority", b"example.com /hidden"),
        (b":authority", b"a@example.com"),
        (b":authority", b""),
    ];
    for (name, value) in lines {
        let told = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        assert_eq!(ask(&pseudo(name, value)), Outcome::Refused, "{told:?}");
    }
    assert_eq!((server.connections(), server.seen().len()), (0, 0), "{:?}", server.seen());
    // The same, said decently.
    assert_eq!(ask(&pseudo(b":path", b"/seen")), Outcome::Answered);
    assert_eq!(ask(&[frames::GET, &field(b"te", b"trailers"), &field(b"x", b"y")].concat()), Outcome::Answered);
    assert!(server.seen()[0].starts_with("GET /seen HTTP/1.1\r\n"), "{:?}", server.seen());
    assert!(server.seen()[1].contains("\r\nx: y\r\n") && !server.seen()[1].contains("te: "), "{:?}", server.seen());
}

#[test]
fn who_is_slow_over_http2_is_cut_off_wherever_it_stops() {
    use frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame};
    let server = Server::saying(&"x".repeat(100_000));
    let stage = Stage::with(|config| {
        config.limits.header_timeout = Duration::from_millis(500);
        config.limits.keep_alive = Duration::from_millis(500);
    });
    let mut spec = spec();
    spec.timeouts.idle = coppice_base::DurationText(Duration::from_secs(1));
    stage.route(spec, &[server.address]);
    let closed_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let asks = frame(HEADERS, END_HEADERS | END_STREAM, 1, frames::GET);
    let elsewhere = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x84\x86\x41\x09other.com");
    let uploads = frame(HEADERS, END_HEADERS, 1, frames::POST);
    let begun = frame(HEADERS, END_STREAM, 1, frames::GET);
    let ways: [(&str, Vec<u8>); 9] = [
        ("half a preface", PREFACE[..12].to_vec()),
        ("a preface but for its last byte", PREFACE[..23].to_vec()),
        ("silent after the preface", PREFACE.to_vec()),
        ("half a frame", [PREFACE, SETTINGS, &asks[..20]].concat()),
        ("headers that never end", [PREFACE, SETTINGS, &begun].concat()),
        ("a body that never comes", [PREFACE, SETTINGS, &uploads].concat()),
        ("a window that never opens", [PREFACE, &closed_window, &asks].concat()),
        ("a window that never opens for our own answer", [PREFACE, &closed_window, &elsewhere].concat()),
        ("silent after an answer", [PREFACE, SETTINGS, &asks].concat()),
    ];
    let mut clients: Vec<_> = ways
        .iter()
        .map(|(name, bytes)| {
            let mut client = stage.connect();
            client.write_all(bytes).unwrap();
            (*name, client)
        })
        .collect();
    // One that goes on with its headers, and one that only says that it is there.
    let mut dripping = stage.connect();
    dripping.write_all(&[PREFACE, SETTINGS, &begun].concat()).unwrap();
    let mut knocking = stage.connect();
    knocking.write_all(&[PREFACE, SETTINGS].concat()).unwrap();
    let drop_of_header = frame(CONTINUATION, 0, 1, b"\0\x01a\x01b");
    let ping = frame(6, 0, 0, &[0; 8]);
    let (mut drips, mut knocks) = (0, 0);
    while drips + knocks < 400 {
        let dripped = dripping.write_all(&drop_of_header).is_ok();
        let knocked = knocking.write_all(&ping).is_ok();
        (drips, knocks) = (drips + u32::from(dripped), knocks + u32::from(knocked));
        if !dripped && !knocked {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert!(drips + knocks < 400, "headers dripped {drips} times, and {knocks} pings were taken");
    for (name, client) in &mut clients {
        assert!(ended(client), "{name}");
    }
    wait_until("connections are left", || stage.proxy.metrics().connections == 0);
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 0);
    assert!(server.seen().iter().all(|seen| seen.starts_with("GET / ")), "{:?}", server.seen());
}

/// The most memory this process has had, in bytes.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_small_block_of_http2_fields_that_unpacks_to_a_large_one_is_refused_and_takes_no_memory() {
    use frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, frame};
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    // A field of 4000 bytes that enters the table (its length as 127 + 3873), and then a byte each time it is repeated.
    let entry = [&b"\x40\x01a\x7f\xa1\x1e"[..], &[b'v'; 4000]].concat();
    let block = |times| [frames::GET, &entry, &vec![0xbe; times]].concat();
    let bomb = |times| {
        let block = block(times);
        let mut pieces = block.chunks(16_384).peekable();
        let mut all = Vec::new();
        let mut kind = (HEADERS, END_STREAM);
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            all.extend(frame(kind.0, kind.1 | end, 1, piece));
            kind = (CONTINUATION, 0);
        }
        all
    };
    assert_eq!(over_http2(&stage, &bomb(3)), Outcome::Answered, "16 kB are no bomb");
    assert!(server.seen()[0].len() > 4 * 4000);
    let before = most_memory();
    // 80 kB, 48 MB and 240 MB of fields.
    for times in [20, 12_000, 60_000] {
        assert_eq!(over_http2(&stage, &bomb(times)), Outcome::Refused, "{times}");
    }
    let grown = most_memory() - before;
    assert!(grown < 32 << 20, "{grown} bytes");
    assert_eq!(server.seen().len(), 1);
    assert_eq!(stage.get("/", "").status, 200);
}
