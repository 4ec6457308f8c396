//! Where a container listens, as the kernel lists it of the network that a process is in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` of include/net/tcp_states.h, as `/proc/net/tcp` writes it.
const LISTENING: &str = "0A";

/// Where processes in the network of `pid` listen for TCP, in order; `None` when the process has ended.
pub(crate) fn listening(pid: u32) -> Option<Vec<SocketAddr>> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).ok();
    let mut sockets = parse(&read("tcp")?);
    // A kernel without IPv6 has no list of it.
    sockets.extend(read("tcp6").map(|text| parse(&text)).unwrap_or_default());
    sockets.sort();
    sockets.dedup();
    Some(sockets)
}

/// Whether the network of `pid` has a default route for IPv4.
pub(crate) fn has_default_route(pid: u32) -> bool {
    // Columns: link, destination, gateway, flags, …; addresses are hexadecimal.
    std::fs::read_to_string(format!("/proc/{pid}/net/route"))
        .is_ok_and(|text| text.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("00000000")))
}

/// The second column is the local address, the fourth the state.
fn parse(text: &str) -> Vec<SocketAddr> {
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(3) == Some(&LISTENING)).filter_map(|row| socket(row.get(1)?)).collect()
}

/// Address and port in hexadecimal; an address is in words of four bytes, each as the machine stores it.
fn socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = address.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_and_others_passed_over() {
        // Lines of a kernel's own /proc/net/tcp and tcp6, columns behind the fourth cut.
        let four = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A\n   1: 00000000:0050 00000000:0000 0A\n   2: 0100007F:1F90 0100007F:A0B0 01\n";
        let six = "  sl  local_address                         remote_address                        st\n   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A\n";
        if cfg!(target_endian = "little") {
            assert_eq!(parse(four), ["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:80".parse().unwrap()]);
            assert_eq!(parse(six), ["[::1]:80".parse().unwrap()]);
        }
        assert_eq!(parse("nonsense\nmore nonsense : : 0A\n"), []);
    }

    #[test]
    fn a_socket_of_this_process_is_listed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening(std::process::id()).unwrap().contains(&listener.local_addr().unwrap()));
        assert_eq!(listening(u32::MAX), None);
    }
}
