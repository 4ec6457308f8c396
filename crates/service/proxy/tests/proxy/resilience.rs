//! Instances that fail, leave, and come back.

use std::io::{Read, Write};
use std::net::SocketAddr;
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
