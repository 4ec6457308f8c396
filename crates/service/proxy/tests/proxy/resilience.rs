//! Instances that fail, leave, and come back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coppice_base::DurationText;
use coppice_route::breaker::BreakerState;

use crate::stage::{Answer, Server, Stage, read_to_end, read_until, routes, spec, wait_until};

/// An address where nothing listens, and nothing another test starts could: ports below 1024 are not handed out.
fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

fn failing() -> Server {
    Server::start(|_| b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec())
}

#[test]
fn an_instance_that_takes_no_connection_is_gone_around_for_any_method() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[nobody(), server.address]);
    for _ in 0..10 {
        let post = "POST / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(Answer::of(&stage.exchange(post.as_bytes())).status, 200);
    }
}

#[test]
fn nobody_there_is_502_and_nobody_ready_is_503() {
    let stage = Stage::serving(&[nobody()]);
    assert_eq!(stage.get("/", "").status, 502);
    let server = Server::saying("ok");
    let mut unready = routes(spec(), &[server.address]);
    unready.backends[0].instances[0].ready = false;
    stage.proxy.update(&unready).unwrap();
    let answer = stage.get("/", "");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(stage.proxy.metrics().routes[0].unavailable, 1);
}

#[test]
fn a_get_is_retried_elsewhere_after_a_5xx_and_a_post_is_not() {
    let (bad, good) = (failing(), Server::saying("ok"));
    let stage = Stage::start();
    let mut spec = spec();
    spec.retry.count = 1;
    spec.breaker.threshold = 10;
    stage.route(spec, &[bad.address, good.address]);
    // Too few for the bad one to be ejected, whoever gets how many.
    for _ in 0..8 {
        assert_eq!(stage.get("/", "").status, 200);
    }
    let post = b"POST / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let statuses: Vec<_> = (0..12).map(|_| Answer::of(&stage.exchange(post)).status).collect();
    assert!(statuses.contains(&503), "{statuses:?}");
}

#[test]
fn retries_stop_where_the_budget_ends() {
    let bad = failing();
    let stage = Stage::start();
    let mut spec = spec();
    (spec.retry.count, spec.retry.budget_percent, spec.breaker.threshold) = (5, 1, u32::MAX);
    stage.route(spec, &[bad.address]);
    for _ in 0..30 {
        assert_eq!(stage.get("/", "").status, 503);
    }
    // 30 requests, and the ten retries that a window always has.
    assert_eq!(bad.seen().len(), 40);
}

#[test]
fn a_breaker_opens_and_one_request_closes_it_again() {
    let healthy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = std::sync::Arc::clone(&healthy);
    let server = Server::start(move |_| match now.load(std::sync::atomic::Ordering::SeqCst) {
        true => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
    });
    let stage = Stage::start();
    let mut spec = spec();
    spec.breaker.timeout = DurationText(Duration::from_millis(300));
    stage.route(spec, &[server.address]);
    let statuses: Vec<_> = (0..6).map(|_| stage.get("/", "").status).collect();
    assert_eq!(statuses, [500, 500, 500, 503, 503, 503]);
    assert_eq!(server.seen().len(), 3);
    assert_eq!(stage.proxy.metrics().backends[0].breaker, BreakerState::Open);
    healthy.store(true, std::sync::atomic::Ordering::SeqCst);
    wait_until("the breaker never closed", || stage.get("/", "").status == 200);
    assert_eq!(stage.proxy.metrics().backends[0].breaker, BreakerState::Closed);
}

#[test]
fn an_answer_that_takes_too_long_is_504_and_the_connection_goes_on() {
    let server = Server::scripted(|_, _| {
        std::thread::park_timeout(Duration::from_secs(20));
        false
    });
    let stage = Stage::start();
    let mut spec = spec();
    spec.timeouts.request = DurationText(Duration::from_millis(300));
    stage.route(spec, &[server.address]);
    let begun = Instant::now();
    let mut client = stage.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 504 "));
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(5));
    client.write_all(b"GET /../ HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    read_until(&mut client, "HTTP/1.1 400 ");
}

/// A server whose queue of connections is full and never emptied: the kernel drops what would begin another.
struct Deaf {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

fn deaf() -> Deaf {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        socket.listen(0).unwrap().into_std().unwrap()
    });
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        queued.push(stream);
        assert!(queued.len() < 10, "its queue takes any number");
    }
    Deaf { address, _listener: listener, _queued: queued }
}

#[test]
fn an_instance_that_does_not_accept_in_time_is_504_and_is_gone_around_for_any_method() {
    let (deaf, good) = (deaf(), Server::saying("ok"));
    let stage = Stage::start();
    let mut patient = spec();
    // More than the default, so that it cannot be the default that ends it.
    patient.timeouts.connect = DurationText(Duration::from_millis(1500));
    stage.route(patient, &[deaf.address]);
    let begun = Instant::now();
    assert_eq!(stage.get("/", "").status, 504);
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    let mut hasty = spec();
    hasty.timeouts.connect = DurationText(Duration::from_millis(100));
    stage.route(hasty, &[deaf.address, good.address]);
    let before = stage.proxy.metrics().backends[0].failures;
    let post = b"POST / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    wait_until("it was never tried", || {
        assert_eq!(Answer::of(&stage.exchange(post)).status, 200);
        stage.proxy.metrics().backends[0].failures > before
    });
}

/// A route whose streams end when nothing moves for a second.
fn idle_second(server: &Server) -> Stage {
    let stage = Stage::start();
    let mut spec = spec();
    spec.timeouts.idle = DurationText(Duration::from_secs(1));
    stage.route(spec, &[server.address]);
    stage
}

#[test]
fn an_answer_that_stands_still_is_cut_short_and_one_that_trickles_comes_whole() {
    let server = Server::scripted(|stream, request| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        let (turns, pause) = if request.contains("/still") { (1, 20_000) } else { (15, 100) };
        for _ in 0..turns {
            std::thread::park_timeout(Duration::from_millis(pause));
            let _ = stream.write_all(b"1\r\n.\r\n");
        }
        stream.write_all(b"0\r\n\r\n").is_ok()
    });
    let stage = idle_second(&server);
    let trickled = stage.get("/trickle", "");
    assert_eq!((trickled.status, trickled.body.ends_with("\r\n0\r\n\r\n")), (200, true), "{trickled:?}");
    assert_eq!(stage.proxy.metrics().backends[0].failures, 0);
    let begun = Instant::now();
    let still = stage.get("/still", "");
    assert!(still.status == 200 && still.body.contains("hello"), "{still:?}");
    assert!(!still.body.contains("0\r\n\r\n"), "the client must see that it is not whole: {still:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(stage.proxy.metrics().backends[0].failures, 1);
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 0);
}

#[test]
fn a_request_whose_body_stands_still_is_408_and_its_instance_did_not_fail() {
    let server = Server::saying("ok");
    let stage = idle_second(&server);
    for begins in ["transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", "content-length: 10\r\n\r\nhello"] {
        let begun = Instant::now();
        let answer = stage.exchange(format!("POST / HTTP/1.1\r\nhost: example.com\r\n{begins}").as_bytes());
        assert_eq!(Answer::of(&answer).status, 408, "{begins:?}: {answer}");
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    assert!(server.seen().is_empty(), "half a request was taken for one");
    assert_eq!(stage.proxy.metrics().backends[0].failures, 0);
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 0);
}

/// The status of one request to a lone `server`, and how often it was asked, where one retry is allowed.
fn asked(server: Server, on_5xx: bool, request: &str) -> (u16, usize) {
    let stage = Stage::start();
    let mut spec = spec();
    (spec.retry.count, spec.retry.on_5xx, spec.breaker.threshold) = (1, on_5xx, u32::MAX);
    stage.route(spec, &[server.address]);
    let request = format!("{request}host: example.com\r\nconnection: close\r\n\r\n");
    (Answer::of(&stage.exchange(request.as_bytes())).status, server.seen().len())
}

#[test]
fn get_head_and_options_are_retried_and_what_may_change_something_is_not() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(asked(failing(), true, &format!("{method} / HTTP/1.1\r\n")), (503, 2), "{method}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        assert_eq!(asked(failing(), true, &format!("{method} / HTTP/1.1\r\n")), (503, 1), "{method}");
    }
    let stage = Stage::start();
    let (server, mut spec) = (failing(), spec());
    (spec.retry.count, spec.breaker.threshold) = (1, u32::MAX);
    stage.route(spec, &[server.address]);
    let with_body = b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    assert_eq!(Answer::of(&stage.exchange(with_body)).status, 503);
    assert_eq!(server.seen().len(), 1, "a body may not be there any more to be sent again");
}

#[test]
fn without_retry_on_5xx_a_5xx_is_the_answer_and_no_answer_is_retried_still() {
    let closing = || Server::scripted(|_, _| false);
    for method in ["GET", "HEAD", "OPTIONS"] {
        let line = format!("{method} / HTTP/1.1\r\n");
        assert_eq!(asked(failing(), false, &line), (503, 1), "{method}");
        assert_eq!(asked(closing(), false, &line), (502, 2), "{method}");
    }
    for method in ["PUT", "DELETE", "POST"] {
        assert_eq!(asked(closing(), false, &format!("{method} / HTTP/1.1\r\n")), (502, 1), "{method}");
    }
}

/// Waits until requests reach `server` again, as long as a first ejection may take and more.
fn until_asked_again(stage: &Stage, server: &Server, before: usize) {
    let by = Instant::now() + coppice_route::outlier::EJECTED + Duration::from_secs(20);
    while server.seen().len() == before {
        assert!(Instant::now() < by, "it never got a request again");
        assert_eq!(stage.get("/", "").status, 200);
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn an_instance_that_mostly_fails_is_ejected_gets_no_request_and_comes_back() {
    let healthy = std::sync::Arc::new(AtomicBool::new(false));
    let now = std::sync::Arc::clone(&healthy);
    let bad = Server::start(move |_| match now.load(Ordering::SeqCst) {
        true => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        false => b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
    });
    let good = Server::saying("ok");
    let stage = Stage::start();
    let mut spec = spec();
    // The breaker is not what takes it out.
    spec.breaker.threshold = u32::MAX;
    stage.route(spec, &[bad.address, good.address]);
    let ejected = |at: usize| stage.proxy.metrics().backends[at].ejected;
    let begun = Instant::now();
    wait_until("it was never ejected", || {
        assert!(matches!(stage.get("/", "").status, 200 | 500));
        ejected(0)
    });
    let before = bad.seen().len();
    assert!(before >= coppice_route::outlier::LEAST as usize, "{before} are too few to conclude from");
    assert_eq!((ejected(1), stage.proxy.metrics().backends[0].breaker), (false, BreakerState::Closed));
    for _ in 0..30 {
        assert_eq!(stage.get("/", "").body, "ok");
    }
    assert_eq!(bad.seen().len(), before, "it was asked while it was ejected");
    healthy.store(true, Ordering::SeqCst);
    until_asked_again(&stage, &bad, before);
    assert!(!ejected(0));
    // Time is told to a tenth of a second.
    assert!(begun.elapsed() + Duration::from_secs(1) >= coppice_route::outlier::EJECTED, "{:?}", begun.elapsed());
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_is_replaced_unseen() {
    // Answers, then closes without saying so, as servers do whose idle time is over.
    let server = Server::scripted(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        false
    });
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    for _ in 0..50 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
        let answer = read_until(&mut client, "\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        if !answer.ends_with("ok") {
            let mut rest = [0; 2];
            client.read_exact(&mut rest).unwrap();
        }
    }
    assert_eq!(stage.proxy.metrics().backends[0].failures, 0);
}

#[test]
fn a_draining_instance_finishes_what_it_has_and_gets_nothing_new() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Server::scripted(move |stream, _| {
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").is_ok()
    });
    let next = Server::saying("next");
    let stage = Stage::serving(&[slow.address]);
    let mut waiting = stage.connect();
    waiting.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    wait_until("the request did not arrive", || stage.proxy.in_flight("shop", "web", "web-0") == 1);
    let mut leaving = routes(spec(), &[slow.address, next.address]);
    leaving.backends[0].instances[0].draining = true;
    stage.proxy.update(&leaving).unwrap();
    for _ in 0..10 {
        assert_eq!(stage.get("/", "").body, "next");
    }
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 1);
    go.send(()).unwrap();
    read_until(&mut waiting, "slow");
    wait_until("it still counts", || stage.proxy.in_flight("shop", "web", "web-0") == 0);
}

#[test]
fn who_waits_for_an_instance_to_drain_is_told_when_its_last_request_has_ended() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Server::scripted(move |stream, _| {
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").is_ok()
    });
    let stage = Stage::serving(&[slow.address]);
    let mut clients: Vec<_> = (0..2).map(|_| stage.connect()).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap());
    wait_until("the requests did not arrive", || stage.proxy.in_flight("shop", "web", "web-0") == 2);
    // Gone from the routes altogether, and asked for by its name all the same.
    stage.route(spec(), &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let drained = runtime.spawn(stage.proxy.drained("shop", "web", "web-0"));
    let nobody = runtime.spawn(stage.proxy.drained("shop", "web", "web-9"));
    wait_until("one that is unknown has nothing to end", || nobody.is_finished());
    go.send(()).unwrap();
    wait_until("the first did not end", || stage.proxy.in_flight("shop", "web", "web-0") == 1);
    assert!(!drained.is_finished(), "it has a request still");
    go.send(()).unwrap();
    wait_until("nobody told that it has drained", || drained.is_finished());
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 0);
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let server = Server::scripted(|stream, _| stream.read(&mut [0]).is_err());
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    wait_until("the request did not arrive", || stage.proxy.in_flight("shop", "web", "web-0") == 1);
    drop(client);
    wait_until("it is still in flight", || stage.proxy.in_flight("shop", "web", "web-0") == 0);
    assert_eq!(stage.proxy.metrics().routes[0].aborted, 1);
}

#[test]
fn a_drained_proxy_answers_what_it_has_and_its_successor_takes_the_same_port() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::scripted(move |stream, request| {
        if request.contains("/slow") {
            wait.lock().unwrap().recv().unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let stage = Stage::serving(&[server.address]);
    let (mut slow, mut idle) = (stage.connect(), stage.connect());
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    read_until(&mut idle, "ok");
    wait_until("the request did not arrive", || stage.proxy.in_flight("shop", "web", "web-0") == 1);
    let sockets = stage.proxy.listeners().unwrap();
    let draining = std::thread::spawn(move || stage.proxy.drain(Duration::from_secs(10)));
    let next = Stage::with(|config| {
        config.listeners = sockets.into_iter().map(coppice_proxy::Listener::plain).collect();
    });
    next.route(spec(), &[server.address]);
    assert_eq!(next.get("/", "").status, 200);
    go.send(()).unwrap();
    let last = read_to_end(&mut slow);
    assert!(last.contains("connection: close") || last.ends_with("ok"), "{last}");
    assert_eq!(read_to_end(&mut idle), "");
    assert_eq!(draining.join().unwrap(), 0);
}

#[test]
fn a_socket_that_is_added_later_is_accepted_from_as_the_first_is_and_closed_with_it() {
    let server = Server::saying("ok");
    let stage = Stage::serving(&[server.address]);
    let added = crate::stage::socket();
    let address = added.local_addr().unwrap();
    stage.proxy.listen(coppice_proxy::Listener::plain(added)).unwrap();
    assert_eq!(stage.proxy.addresses(), [stage.address, address]);
    assert_eq!(stage.proxy.listeners().unwrap().len(), 2);
    let ask = |address| {
        let mut client = crate::stage::connect(address);
        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").unwrap();
        read_to_end(&mut client)
    };
    // More than one worker's share.
    for _ in 0..8 {
        assert!(ask(address).ends_with("ok"));
    }
    assert!(ask(stage.address).ends_with("ok"));
    let refused = stage.proxy.listen(coppice_proxy::Listener::tls(crate::stage::socket()));
    assert!(matches!(refused, Err(coppice_proxy::StartError::NoTls)), "{refused:?}");
    assert_eq!(stage.proxy.drain(Duration::from_secs(10)), 0);
    assert!(std::net::TcpStream::connect(address).is_err(), "somebody listens");
}

#[test]
fn nobody_is_lost_between_proxies_that_follow_each_other_on_one_socket() {
    let server = Server::saying("ok");
    let held = crate::stage::socket();
    let address = held.local_addr().unwrap();
    let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (answered, over) = (&answered, &over);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let mut client = crate::stage::connect(address);
                        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").unwrap();
                        let answer = read_to_end(&mut client);
                        assert!(answer.ends_with("ok"), "{answer:?} after {}", answered.load(Ordering::Relaxed));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..6 {
            let before = answered.load(Ordering::Relaxed);
            // Routes first: who waits is not told that there are none.
            let stage = Stage::without_sockets();
            stage.route(spec(), &[server.address]);
            stage.proxy.listen(coppice_proxy::Listener::plain(held.try_clone().unwrap())).unwrap();
            wait_until("requests are answered", || {
                answered.load(Ordering::Relaxed) > before + 40 || clients.iter().any(|client| client.is_finished())
            });
            stage.proxy.close();
            wait_until("it has ended", || stage.proxy.has_ended());
        }
        over.store(true, Ordering::Relaxed);
        // Those that have connected since are answered, too.
        let last = Stage::without_sockets();
        last.route(spec(), &[server.address]);
        last.proxy.listen(coppice_proxy::Listener::plain(held.try_clone().unwrap())).unwrap();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}
