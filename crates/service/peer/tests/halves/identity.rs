//! Who is let through, and what is seen on the wire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coppice_acme::LEAF_LIFE;
use coppice_peer::Published;
use coppice_spec::PeerTls;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{DB, OTHER, Stage, WEB, connect, echo, inside, name, talk, wait_until};

#[test]
fn a_service_of_the_app_reaches_another_one_and_the_wire_carries_tls_alone() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        echo((DB, 5432).into(), "db").await;
        assert_eq!(talk(WEB, (DB, 5432), "a secret of ours").await.unwrap(), "db says: a secret of ours");
        let heard = stage.wire.heard.lock().unwrap().clone();
        // A record of a handshake (RFC 8446, 5.1).
        assert_eq!(heard[..2], [22, 3]);
        let has = |text: &str| heard.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!has("secret") && !has("says") && !has("shop"), "it can be read on the wire");
        assert!(heard.len() > 1000, "two certificates went over it");
        let (near, far) = stage.counts();
        assert_eq!((far.handshakes, far.warned, near.refused, far.handshake_failures), (1, 0, 0, 0));
        wait_until("it is closed", || stage.counts().0.open == 0).await;
    });
}

#[test]
fn where_it_is_required_nobody_else_gets_through_and_each_refusal_is_counted() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        echo((DB, 5432).into(), "db").await;
        let nobody: IpAddr = Ipv4Addr::new(127, 9, 7, 7).into();
        for (stranger, count) in [(OTHER, 1), (nobody, 2)] {
            let refused = talk(stranger, (DB, 5432), "let me in").await;
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{stranger}");
            assert_eq!(stage.counts().0.refused, count);
        }
        assert!(stage.wire.heard.lock().unwrap().is_empty(), "it came as far as the wire");
        assert_eq!(talk(WEB, (DB, 5432), "me").await.unwrap(), "db says: me");
    });
}

#[test]
fn what_the_policy_denies_is_refused_to_services_of_the_app_too() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Require);
        echo((DB, 5432).into(), "db").await;
        stage.near.set_policy(Arc::new(|from, to| (from, to) == (WEB, DB)));
        talk(WEB, (DB, 5432), "me").await.unwrap_err();
        assert_eq!(stage.counts().0.refused, 1);
        stage.near.set_policy(Arc::new(|from, to| (from, to) == (DB, WEB)));
        assert_eq!(talk(WEB, (DB, 5432), "me").await.unwrap(), "db says: me");
    });
}

#[test]
fn where_it_warns_a_stranger_gets_through_encrypted_and_is_counted() {
    inside(|| async {
        let stage = Stage::new().await;
        let authority = stage.shop(PeerTls::Warn);
        echo((DB, 5432).into(), "db").await;
        assert_eq!(talk(OTHER, (DB, 5432), "a stranger").await.unwrap(), "db says: a stranger");
        assert_eq!(talk(WEB, (DB, 5432), "a friend").await.unwrap(), "db says: a friend");
        let (near, far) = stage.counts();
        assert_eq!((far.warned, far.handshakes, near.refused), (1, 1, 0));
        assert!(!stage.wire.heard.lock().unwrap().windows(8).any(|window| window == b"stranger"));
        // From then on it is required; what was counted stays.
        stage.update(Stage::apps(&authority, PeerTls::Require));
        talk(OTHER, (DB, 5432), "a stranger").await.unwrap_err();
        assert_eq!((stage.counts().1.warned, stage.counts().0.refused), (1, 1));
    });
}

#[test]
fn the_inbound_half_itself_demands_a_certificate_of_the_app_and_a_destination_of_the_service() {
    inside(|| async {
        let stage = Stage::new().await;
        let authority = stage.shop(PeerTls::Require);
        echo((DB, 5432).into(), "db").await;
        // Plain text, as somebody on the network would send it.
        let mut plain = TcpStream::connect(stage.far.inbound()).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!answer.windows(2).any(|window| window == b"db"), "{answer:?}");
        wait_until("it is counted", || stage.far.snapshot().strays == 1).await;

        let db = name("db");
        let known = server_name_of(&stage).await;
        let reach = async |config: rustls::ClientConfig, server: &str, to: SocketAddr| -> std::io::Result<u8> {
            let mut config = config;
            config.alpn_protocols = vec![b"coppice-peer/1".to_vec()];
            let stream = TcpStream::connect(stage.far.inbound()).await?;
            let server = ServerName::try_from(server.to_owned()).unwrap();
            let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(server, stream).await?;
            let SocketAddr::V4(to) = to else { unreachable!("they are all of IPv4") };
            let question = [&[1, 4][..], &to.ip().octets(), &to.port().to_be_bytes()].concat();
            tls.write_all(&question).await?;
            let mut answer = [0; 2];
            tls.read_exact(&mut answer).await?;
            Ok(answer[1])
        };
        let web = authority.identity(&name("web"), vec!["web".to_owned()]);
        let as_web = || web.client_config(Some(&db)).unwrap();
        assert_eq!(reach(as_web(), &known, (DB, 5432).into()).await.unwrap(), 0);
        assert_eq!(reach(as_web(), &known, (DB, 1).into()).await.unwrap(), 1, "nobody listens there");
        assert_eq!(reach(as_web(), &known, (WEB, 5432).into()).await.unwrap(), 2, "another service's address");
        assert_eq!(reach(as_web(), &known, "127.0.0.1:22".parse().unwrap()).await.unwrap(), 2, "the host's");
        reach(authority.stranger_config(&db).unwrap(), &known, (DB, 5432).into()).await.unwrap_err();
        // One of another app, that trusts this one.
        let other = stage.authority("other", LEAF_LIFE).identity(&name("web"), vec!["web".to_owned()]);
        let mut disguised = authority.stranger_config(&db).unwrap();
        disguised.client_auth_cert_resolver = other;
        reach(disguised, &known, (DB, 5432).into()).await.unwrap_err();
        assert_eq!(stage.counts().1.handshake_failures, 2);
        reach(as_web(), "db.shop", (DB, 5432).into()).await.unwrap_err();
        assert_eq!(stage.far.snapshot().strays, 2);
        // From where no half is, not even a handshake is begun.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, 9), 0).into()).unwrap();
        if let Ok(mut stream) = socket.connect(stage.far.inbound()).await {
            assert!(stream.read_u8().await.is_err());
        }
        wait_until("it is counted", || stage.far.snapshot().strays == 3).await;
    });
}

/// The name that `db`'s certificate is asked for by, as it goes over the wire.
async fn server_name_of(stage: &Stage) -> String {
    talk(WEB, (DB, 5432), "").await.unwrap();
    let heard = stage.wire.heard.lock().unwrap().clone();
    let end = heard.windows(14).position(|window| window == b".peer.internal").expect("a server name");
    String::from_utf8(heard[end - 32..end + 14].to_vec()).unwrap()
}

#[test]
fn a_connection_that_was_not_redirected_is_refused() {
    inside(|| async {
        let stage = Stage::new().await;
        stage.shop(PeerTls::Warn);
        echo((DB, 5432).into(), "db").await;
        let here: IpAddr = Ipv4Addr::LOCALHOST.into();
        talk(here, stage.near.outbound()[0], "").await.unwrap_err();
        // Redirected, to nobody who is called with TLS.
        talk(WEB, (OTHER, 80), "").await.unwrap_err();
        assert_eq!(stage.near.snapshot().strays, 2);
    });
}

#[test]
fn virtual_addresses_and_published_ports_lead_to_ready_instances_by_turns() {
    inside(|| async {
        let stage = Stage::new().await;
        let authority = stage.authority("shop", LEAF_LIFE);
        let mut apps = Stage::apps(&authority, PeerTls::Require);
        let db = &mut apps[0].workloads[1];
        let address = |last| IpAddr::V4(Ipv4Addr::new(127, 9, 1, last));
        for (last, ready) in [(12, true), (13, false)] {
            let mut instance = db.instances[0].clone();
            (instance.key, instance.addresses, instance.ready) = (format!("db-{last}"), vec![address(last)], ready);
            db.instances.push(instance);
        }
        let host = Ipv4Addr::new(127, 9, 200, 1).into();
        db.virtual_addresses = vec![address(100)];
        db.published = vec![
            Published { host_ip: None, host: 15432, container: 5432 },
            Published { host_ip: Some(host), host: 25432, container: 5432 },
        ];
        stage.update(apps);
        for (last, says) in [(2, "first"), (12, "second"), (13, "third")] {
            echo((address(last), 5432).into(), says).await;
        }
        let mut said = Vec::new();
        for to in [(address(100), 5432), (address(100), 5432), (host, 15432), (host, 25432)] {
            said.push(talk(WEB, to, "").await.unwrap());
        }
        assert_eq!(said, ["first says: ", "second says: ", "first says: ", "second says: "]);
        // Through a published port, the host's own programs are strangers like others.
        talk(host, (host, 15432), "").await.unwrap_err();
        assert_eq!(stage.counts().0.refused, 1);
        talk(WEB, (address(99), 25432), "").await.unwrap_err();
        assert_eq!(
            talk(WEB, (address(13), 5432), "").await.unwrap(),
            "third says: ",
            "an instance asked by its address"
        );
    });
}

#[test]
fn certificates_and_roots_are_rotated_while_a_connection_is_open_and_it_goes_on() {
    inside(|| async {
        let stage = Stage::new().await;
        let life = Duration::from_secs(600);
        let authority = stage.authority("shop", life);
        stage.update(Stage::apps(&authority, PeerTls::Require));
        let listener = tokio::net::TcpListener::bind((DB, 5432)).await.unwrap();
        let mut ours = connect(WEB, (DB, 5432)).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        drop(listener);
        echo((DB, 5433).into(), "db").await;
        let dates = || (stage.counts().1.certificate_made_at.unwrap(), stage.counts().1.certificate_ends_at.unwrap());
        let first = dates();
        assert_eq!(first.1.since(first.0), life);
        let mut before = first;
        for ahead in [life / 3 * 2 + Duration::from_secs(1), life * 3] {
            stage.clock.ahead(ahead);
            assert_eq!(talk(WEB, (DB, 5433), "anew").await.unwrap(), "db says: anew");
            assert!(dates().0 > before.0, "the certificate of before is shown");
            before = dates();
            ours.write_all(b"a").await.unwrap();
            assert_eq!(theirs.read_u8().await.unwrap(), b'a');
            theirs.write_all(b"b").await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap(), b'b');
        }
        authority.rotate_root().unwrap();
        assert_eq!(authority.roots_der().len(), 2);
        assert_eq!(talk(WEB, (DB, 5433), "new root").await.unwrap(), "db says: new root");
        assert_eq!(stage.counts().1.handshakes, 4);
        assert_eq!(stage.counts().1.rotation_failures, 0);
        // The same with an app that was told anew: its certificates stay.
        let kept = dates();
        stage.update(Stage::apps(&authority, PeerTls::Require));
        assert_eq!(dates(), kept);
        ours.write_all(b"x").await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), b'x');
    });
}
