//! Host ports: which are free, and keeping one.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use crate::netspace::Netspace;
use coppice_network::{PortError, Protocol, hold_port, port_is_free};

const LOCALHOST: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

#[test]
fn a_port_another_program_listens_on_is_not_free() {
    Netspace::new().run(|| {
        let tcp = TcpListener::bind("127.0.0.1:8080").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        assert!(!port_is_free(LOCALHOST, Protocol::Tcp, 8080));
        assert!(!port_is_free(None, Protocol::Tcp, 8080), "all addresses include that one");
        assert!(port_is_free(LOCALHOST, Protocol::Udp, 8080), "the other protocol is apart");
        assert!(!port_is_free(LOCALHOST, Protocol::Udp, 53));
        let error = hold_port(None, Protocol::Tcp, 8080).unwrap_err();
        assert!(error.to_string().contains("port 8080 of 0.0.0.0 is in use"), "{error}");
        drop((tcp, udp));
        assert!(port_is_free(None, Protocol::Tcp, 8080));
        assert!(port_is_free(None, Protocol::Udp, 53));
    });
}

#[test]
fn a_held_port_is_kept_from_others_until_it_is_dropped() {
    Netspace::new().run(|| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let held = hold_port(None, protocol, 0).unwrap();
            assert_ne!(held.port(), 0, "the kernel picked one");
            assert!(matches!(hold_port(LOCALHOST, protocol, held.port()), Err(PortError::InUse { .. })));
            let port = held.port();
            let bound = match protocol {
                Protocol::Tcp => TcpListener::bind(("127.0.0.1", port)).is_ok(),
                Protocol::Udp => UdpSocket::bind(("127.0.0.1", port)).is_ok(),
            };
            assert!(!bound, "{protocol:?}");
            drop(held);
            // A program that another test starts at this moment has it between its fork and its exec.
            let deadline = Instant::now() + Duration::from_secs(5);
            while !port_is_free(LOCALHOST, protocol, port) {
                assert!(Instant::now() < deadline, "{protocol:?} port {port} stays taken");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn an_address_the_machine_does_not_have_is_refused() {
    let elsewhere = Some(IpAddr::from([203, 0, 113, 7]));
    let held = Netspace::new().run(move || hold_port(elsewhere, Protocol::Tcp, 80));
    assert!(matches!(held, Err(PortError::NotHere(_))), "{held:?}");
}
