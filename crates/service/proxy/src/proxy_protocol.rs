//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): who the client is, told before its first byte.

use std::net::{IpAddr, SocketAddr};

/// Which version is sent to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    V1,
    V2,
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1.
const LINE: usize = 107;
/// Longest header of version 2 that is taken: addresses and a kilobyte of extensions.
const LONGEST: usize = 16 + 1024;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Addresses of client and destination; `None`: the sender speaks for itself (a health check). Bytes of the header.
    Header(Option<(SocketAddr, SocketAddr)>, usize),
    /// More bytes are needed.
    More,
    /// It is not a PROXY header.
    Malformed,
}

/// Reads a header at the start of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Read {
    if bytes.starts_with(b"PROXY ") {
        return line(bytes);
    }
    if bytes.starts_with(SIGNATURE) {
        return binary(bytes);
    }
    let begins = |with: &[u8]| with.starts_with(bytes);
    if begins(b"PROXY ") || begins(SIGNATURE) { Read::More } else { Read::Malformed }
}

fn line(bytes: &[u8]) -> Read {
    let Some(end) = bytes[..bytes.len().min(LINE)].windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= LINE { Read::Malformed } else { Read::More };
    };
    let Ok(text) = std::str::from_utf8(&bytes[..end]) else { return Read::Malformed };
    let words: Vec<&str> = text.split(' ').collect();
    let addresses = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let address = |ip: &str, port: &str| -> Option<SocketAddr> {
                let ip: IpAddr = ip.parse().ok()?;
                let fits = ip.is_ipv4() == (family == "TCP4") && (port == "0" || !port.starts_with(['0', '+']));
                fits.then_some(SocketAddr::new(ip, port.parse().ok()?))
            };
            let (Some(from), Some(to)) = (address(from, from_port), address(to, to_port)) else {
                return Read::Malformed;
            };
            Some((from, to))
        }
        _ => return Read::Malformed,
    };
    Read::Header(addresses, end + 2)
}

fn binary(bytes: &[u8]) -> Read {
    let Some(head) = bytes.get(12..16) else { return Read::More };
    let length = 16 + usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[0] >> 4 != 2 || length > LONGEST {
        return Read::Malformed;
    }
    let Some(body) = bytes.get(16..length) else { return Read::More };
    let port = |at: usize| body.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    let addresses = match (head[0] & 15, head[1]) {
        (0, _) => None,
        (1, 0x11) => {
            let ip = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?));
            match (ip(0), ip(4), port(8), port(10)) {
                (Some(from), Some(to), Some(a), Some(b)) => Some((SocketAddr::new(from, a), SocketAddr::new(to, b))),
                _ => return Read::Malformed,
            }
        }
        (1, 0x21) => {
            let ip = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?));
            match (ip(0), ip(16), port(32), port(34)) {
                (Some(from), Some(to), Some(a), Some(b)) => Some((SocketAddr::new(from, a), SocketAddr::new(to, b))),
                _ => return Read::Malformed,
            }
        }
        // Families we do not route by, such as Unix sockets.
        (1, _) => None,
        _ => return Read::Malformed,
    };
    Read::Header(addresses, length)
}

impl ProxyHeader {
    /// The header for a connection of `from` to `to`.
    pub(crate) fn write(self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let (from, to) = (canonical(from), canonical(to));
        let (from, to) = if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (mapped(from), mapped(to)) };
        match self {
            Self::V1 => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
            }
            Self::V2 => {
                let mut body = Vec::new();
                for address in [from, to] {
                    match address.ip() {
                        IpAddr::V4(ip) => body.extend_from_slice(&ip.octets()),
                        IpAddr::V6(ip) => body.extend_from_slice(&ip.octets()),
                    }
                }
                body.extend_from_slice(&from.port().to_be_bytes());
                body.extend_from_slice(&to.port().to_be_bytes());
                let family = if from.is_ipv4() { 0x11 } else { 0x21 };
                let length = if from.is_ipv4() { 12 } else { 36 };
                [&SIGNATURE[..], &[0x21, family, 0, length], &body].concat()
            }
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(from: &str, to: &str) -> (SocketAddr, SocketAddr) {
        (from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn what_is_written_is_read_and_every_shorter_piece_asks_for_more() {
        for (from, to) in [pair("192.0.2.1:1000", "198.51.100.2:443"), pair("[2001:db8::1]:1", "[2001:db8::2]:65535")] {
            for version in [ProxyHeader::V1, ProxyHeader::V2] {
                let mut bytes = version.write(from, to);
                let length = bytes.len();
                bytes.extend_from_slice(b"GET /");
                assert_eq!(read(&bytes), Read::Header(Some((from, to)), length));
                for cut in 0..length {
                    assert_eq!(read(&bytes[..cut]), Read::More, "{version:?} {cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_header_is_malformed() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 70000\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP9 192.0.2.1 192.0.2.2 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab",
        ] {
            assert_eq!(read(bad), Read::Malformed, "{bad:?}");
        }
        assert_eq!(read(&[b"PROXY ", &[b'1'; 110][..]].concat()), Read::Malformed);
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Read::Header(None, 15));
    }
}
