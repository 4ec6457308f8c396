//! What connections carry: large, slow, cut and many.

use std::time::Duration;

use coppice_peer::Limits;
use coppice_spec::PeerTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::stage::{DB, Stage, WEB, connect, echo, inside, talk, wait_until};

#[test]
fn a_large_body_goes_both_ways_whole_after_the_client_has_ended_its_own_way() {
    inside(|| async {
        const SIZE: u64 = 64 << 20;
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        let listener = TcpListener::bind((DB, 80)).await.unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            tokio::io::copy(&mut tokio::io::repeat(7).take(read), &mut stream).await.unwrap();
            read
        });
        let mut stream = connect(WEB, (DB, 80)).await.unwrap();
        tokio::io::copy(&mut tokio::io::repeat(3).take(SIZE), &mut stream).await.unwrap();
        stream.shutdown().await.unwrap();
        let got = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
        assert_eq!((served.await.unwrap(), got), (SIZE, SIZE));
    });
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_back() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        let listener = TcpListener::bind((DB, 80)).await.unwrap();
        let mut stream = connect(WEB, (DB, 80)).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let mut written = 0u64;
        // Until nothing goes for a while: the kernel's buffers are full, and ours.
        while let Ok(wrote) = tokio::time::timeout(Duration::from_secs(1), stream.write(&[1; 1 << 16])).await {
            written += wrote.unwrap() as u64;
            // Sockets take some MiB each (net.ipv4.tcp_wmem and tcp_rmem); there are six on the way.
            assert!(written < 100 << 20, "somewhere it is kept without bounds");
        }
        stream.shutdown().await.unwrap();
        assert_eq!(tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await.unwrap(), written);
    });
}

#[test]
fn what_breaks_on_one_side_is_reset_on_the_other_and_never_ends_as_if_it_were_whole() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        let listener = TcpListener::bind((DB, 80)).await.unwrap();
        // The wire is cut: an end without that of TLS.
        let mut stream = connect(WEB, (DB, 80)).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        theirs.write_all(b"half of it").await.unwrap();
        let mut half = [0; 10];
        stream.read_exact(&mut half).await.unwrap();
        stage.wire.cut();
        for side in [&mut stream, &mut theirs] {
            let mut rest = Vec::new();
            assert!(side.read_to_end(&mut rest).await.is_err(), "it ended as if it were whole");
        }
        // The instance is killed with data unread: its kernel resets.
        let mut stream = connect(WEB, (DB, 80)).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        rustix::net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).unwrap();
        drop(theirs);
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).await.is_err());
        wait_until("both are closed", || stage.counts().0.open == 0).await;
    });
}

#[test]
fn an_instance_that_does_not_answer_is_a_reset_and_counted() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        talk(WEB, (DB, 9), "anybody?").await.unwrap_err();
        assert_eq!(stage.counts().1.unreachable, 1);
    });
}

#[test]
fn a_thousand_connections_at_once_are_served_and_those_above_the_limit_closed() {
    inside(|| async {
        const COUNT: usize = 1000;
        let mut limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limits.current = limits.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).unwrap();
        let patience = Duration::from_secs(60);
        let stage = Stage::with(Limits { connections: COUNT, handshake: patience, connect: patience }).await;
        stage.shop(PeerTls::Require);
        echo((DB, 80).into(), "db").await;
        let mut clients = tokio::task::JoinSet::new();
        let (all_open, opened) = tokio::sync::watch::channel(0);
        for client in 0..COUNT {
            let mut opened = opened.clone();
            clients.spawn(async move {
                let mut stream = connect(WEB, (DB, 80)).await.unwrap();
                let text = client.to_string();
                stream.write_all(text.as_bytes()).await.unwrap();
                opened.wait_for(|open| *open == COUNT).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer, format!("db says: {text}"));
            });
        }
        wait_until("all are through", || stage.counts().1.handshakes == COUNT as u64).await;
        talk(WEB, (DB, 80), "one more").await.unwrap_err();
        assert_eq!(stage.near.snapshot().overloaded, 1);
        all_open.send(COUNT).unwrap();
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        wait_until("all are closed", || stage.counts().0.open == 0).await;
        assert_eq!(talk(WEB, (DB, 80), "one more").await.unwrap(), "db says: one more");
    });
}

#[test]
fn one_who_says_nothing_is_not_waited_for_without_end() {
    inside(|| async {
        let short = Duration::from_millis(200);
        let stage = Stage::with(Limits { handshake: short, connect: short, ..Limits::default() }).await;
        stage.shop(PeerTls::Require);
        let mut silent = tokio::net::TcpStream::connect(stage.far.inbound()).await.unwrap();
        let mut nothing = Vec::new();
        let _ = silent.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    });
}
