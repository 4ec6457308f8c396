//! WebSockets through the proxy: with a real client and server, and over a change of routes.

use std::net::SocketAddr;
use std::time::Duration;

use coppice_proxy::Routes;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::stage::{Stage, denying, routes, spec};

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

/// A server that sends back what it is sent.
async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn open(stage: &Stage) -> Socket {
    let request = "ws://example.com/chat".into_client_request().unwrap();
    let stream = tokio::net::TcpStream::connect(stage.address).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

async fn says(socket: &mut Socket, text: &str) -> Option<String> {
    socket.send(Message::text(text)).await.ok()?;
    let answer = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("no echo within 10 s");
    answer?.ok().map(|message| message.to_string())
}

#[tokio::test]
async fn a_websocket_echoes_small_and_large_messages() {
    let server = echo().await;
    let stage = Stage::serving(&[server]);
    let mut socket = open(&stage).await;
    for size in [1, 125, 70_000, 1 << 20] {
        let text = "x".repeat(size);
        assert_eq!(says(&mut socket, &text).await.as_deref(), Some(text.as_str()), "{size}");
    }
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 1);
    drop(socket);
    tokio::time::timeout(Duration::from_secs(10), async {
        while stage.proxy.in_flight("shop", "web", "web-0") > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the tunnel outlived its client");
}

#[tokio::test]
async fn a_websocket_lives_over_updates_that_keep_its_instance() {
    let (first, second) = (echo().await, echo().await);
    let stage = Stage::serving(&[first]);
    let mut socket = open(&stage).await;
    for turn in 0..20 {
        let servers = if turn % 2 == 0 { vec![first, second] } else { vec![first] };
        stage.route(spec(), &servers);
        assert_eq!(says(&mut socket, "still here").await.as_deref(), Some("still here"));
    }
}

#[tokio::test]
async fn a_websocket_of_a_leaving_instance_or_route_is_drained_to_the_deadline_and_then_ended() {
    for route_goes in [false, true] {
        let server = echo().await;
        let stage = Stage::with(|config| config.limits.drain = Duration::from_secs(2));
        stage.route(spec(), &[server]);
        let mut socket = open(&stage).await;
        let begun = std::time::Instant::now();
        if route_goes {
            stage.proxy.update(&Routes::default()).unwrap();
        } else {
            let mut leaving = routes(spec(), &[server]);
            leaving.backends[0].instances[0].draining = true;
            stage.proxy.update(&leaving).unwrap();
        }
        assert_eq!(says(&mut socket, "not yet").await.as_deref(), Some("not yet"));
        let end = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("it was never ended");
        assert!(!matches!(end, Some(Ok(_))), "{end:?}");
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_websocket_ends_when_nothing_moves_for_the_idle_time_and_one_that_talks_goes_on() {
    let server = echo().await;
    let stage = Stage::start();
    let mut spec = spec();
    spec.timeouts.idle = coppice_base::DurationText(Duration::from_secs(2));
    stage.route(spec, &[server]);
    let (mut silent, mut talking) = (open(&stage).await, open(&stage).await);
    let begun = std::time::Instant::now();
    assert_eq!(says(&mut silent, "and no more").await.as_deref(), Some("and no more"));
    let mut turns = 0;
    let end = loop {
        match tokio::time::timeout(Duration::from_millis(100), silent.next()).await {
            Ok(end) => break end,
            Err(_) => assert_eq!(says(&mut talking, "still here").await.as_deref(), Some("still here")),
        }
        turns += 1;
        assert!(turns < 200, "it was never ended");
    };
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(says(&mut talking, "and on").await.as_deref(), Some("and on"));
    assert_eq!(stage.proxy.in_flight("shop", "web", "web-0"), 1);
}

#[tokio::test]
async fn a_websocket_ends_with_the_policy_that_comes_to_deny_it_and_others_go_on() {
    let server = echo().await;
    let stage = Stage::serving(&[server]);
    stage.proxy.set_callers(denying(&["db"]));
    let mut socket = open(&stage).await;
    assert_eq!(says(&mut socket, "hello").await.as_deref(), Some("hello"));
    stage.proxy.set_callers(denying(&["cache"]));
    assert_eq!(says(&mut socket, "still here").await.as_deref(), Some("still here"));
    stage.proxy.set_callers(denying(&["web"]));
    let end = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("it was never ended");
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    let request = "ws://example.com/chat".into_client_request().unwrap();
    let stream = tokio::net::TcpStream::connect(stage.address).await.unwrap();
    let refused = tokio_tungstenite::client_async(request, stream).await.unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
    assert_eq!(stage.proxy.metrics().denied[0].requests, 2);
}
