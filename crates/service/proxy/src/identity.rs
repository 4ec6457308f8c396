//! Who a client is, and what a request is called on its way: addresses behind other proxies, request ids, trace context.

use std::net::{IpAddr, SocketAddr};

use coppice_spec::Cidr;

/// The far end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who opened the connection, whatever a PROXY header says.
    pub(crate) far_end: IpAddr,
    /// The client, or the proxy in front (from the PROXY protocol, where that is spoken).
    pub(crate) address: SocketAddr,
    /// Where the client thinks it connected to.
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
    /// `address` is one of [`crate::Config::trusted`].
    pub(crate) trusted: bool,
    /// The address alone, as it is written for instances.
    pub(crate) text: Box<str>,
}

impl Peer {
    pub(crate) fn new(far_end: IpAddr, address: SocketAddr, local: SocketAddr, tls: bool, trusted: bool) -> Self {
        let text = address.ip().to_canonical().to_string().into_boxed_str();
        Self { far_end: far_end.to_canonical(), address, local, tls, trusted, text }
    }
}

/// The client of a request: behind a trusted proxy, the last address in X-Forwarded-For that is not itself trusted.
pub(crate) fn client(peer: &Peer, forwarded_for: Option<&[u8]>, trusted: &[Cidr]) -> IpAddr {
    let mut client = peer.address.ip().to_canonical();
    let Some(list) = forwarded_for.filter(|_| peer.trusted) else { return client };
    for hop in list.rsplit(|byte| *byte == b',') {
        let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| address(hop.trim())) else { break };
        client = address;
        if !trusted.iter().any(|network| network.contains(address)) {
            break;
        }
    }
    client
}

fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.parse().ok();
    bare.or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|ip: IpAddr| ip.to_canonical())
}

/// A request id that may be taken over: short, and nothing in it that a log could stumble over.
pub(crate) fn is_request_id(text: &[u8]) -> bool {
    let fits =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    (1..=128).contains(&text.len()) && text.iter().all(fits)
}

/// 16 or 32 lower-case hex digits of random bits.
pub(crate) fn hex_digits<const N: usize>(mut random: impl FnMut() -> u64) -> [u8; N] {
    const PAIRS: [[u8; 2]; 256] = {
        let digits = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut at = 0;
        while at < 256 {
            pairs[at] = [digits[at >> 4], digits[at & 15]];
            at += 1;
        }
        pairs
    };
    let mut out = [0; N];
    for chunk in out.chunks_mut(16) {
        for (pair, byte) in chunk.chunks_exact_mut(2).zip(random().to_le_bytes()) {
            pair.copy_from_slice(&PAIRS[usize::from(byte)]);
        }
    }
    out
}

/// Bytes of a `traceparent` of version 00.
pub(crate) const TRACEPARENT: usize = 55;

/// The `traceparent` to send on (W3C Trace Context): of the same trace with our span as parent, or a new trace when
/// `incoming` is none or malformed. The second is whether the trace goes on, and `tracestate` with it.
/// Whether a new one is `kept` is for others to say: those that collect spans of this proxy.
pub(crate) fn traceparent(
    incoming: Option<&[u8]>,
    kept: bool,
    mut random: impl FnMut() -> u64,
) -> ([u8; TRACEPARENT], bool) {
    let known = incoming.filter(|text| is_traceparent(text));
    let mut out = [b'-'; TRACEPARENT];
    out[..2].copy_from_slice(b"00");
    match known {
        Some(text) => {
            out[3..35].copy_from_slice(&text[3..35]);
            out[53..].copy_from_slice(&text[53..55]);
        }
        None => {
            out[3..35].copy_from_slice(&hex_digits::<32>(&mut random));
            out[53..].copy_from_slice(if kept { b"01" } else { b"00" });
        }
    }
    out[36..52].copy_from_slice(&hex_digits::<16>(&mut random));
    (out, known.is_some())
}

/// Whether somebody keeps this trace: the lowest bit of its flags.
pub(crate) fn is_sampled(trace: &[u8; TRACEPARENT]) -> bool {
    matches!(trace[54], b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f')
}

fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    // A higher version may be longer, but begins alike.
    let sized =
        text.len() == TRACEPARENT || (text.len() > TRACEPARENT && text[TRACEPARENT] == b'-' && &text[..2] != b"00");
    sized
        && text[2] == b'-'
        && text[35] == b'-'
        && text[52] == b'-'
        && hex(&text[..2])
        && &text[..2] != b"ff"
        && hex(&text[3..35])
        && !zero(&text[3..35])
        && hex(&text[36..52])
        && !zero(&text[36..52])
        && hex(&text[53..55])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, trusted: bool) -> Peer {
        let address = SocketAddr::new(address.parse().unwrap(), 1234);
        Peer::new(address.ip(), address, address, false, trusted)
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_up_to_the_first_stranger() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let of = |peer: Peer, list: &str| client(&peer, Some(list.as_bytes()), &trusted).to_string();
        assert_eq!(of(peer("192.0.2.1", false), "1.1.1.1"), "192.0.2.1");
        assert_eq!(of(peer("10.0.0.1", true), "1.1.1.1"), "1.1.1.1");
        assert_eq!(of(peer("10.0.0.1", true), "6.6.6.6, 1.1.1.1, 10.0.0.2"), "1.1.1.1");
        assert_eq!(of(peer("10.0.0.1", true), "1.1.1.1, nonsense, 10.0.0.2"), "10.0.0.2");
        assert_eq!(of(peer("10.0.0.1", true), ""), "10.0.0.1");
        assert_eq!(of(peer("10.0.0.1", true), "[2001:db8::1]:80"), "2001:db8::1");
    }

    #[test]
    fn a_trace_goes_on_and_a_broken_one_begins_anew() {
        let mut turn = 0u64;
        let mut random = || {
            turn += 1;
            coppice_route::hash::mix(turn)
        };
        let known = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (next, continued) = traceparent(Some(known), false, &mut random);
        assert!(continued && next[..36] == known[..36] && next[53..] == known[53..] && next[36..52] != known[36..52]);
        for bad in [
            &b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"[..],
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            b"",
        ] {
            let (made, continued) = traceparent(Some(bad), false, &mut random);
            assert!(!continued && is_traceparent(&made));
        }
    }
}
