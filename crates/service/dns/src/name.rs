//! Names in wire form: labels, each after its length, and a zero for the root.
//!
//! Everything in this crate compares names as lower-case wire bytes, because that is what a packet holds: no text is
//! made or parsed while a query is answered. Only ASCII letters are folded (RFC 4343).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name on the wire with its lengths and the root (RFC 1035, 2.3.4).
pub(crate) const WIRE_MAX: usize = 255;
/// Longest label (RFC 1035, 2.3.4).
pub(crate) const LABEL_MAX: usize = 63;

/// `text` (`web.shop`, no dot at the end) in lower-case wire form; none when a label is empty or too long, or the
/// whole is.
pub(crate) fn to_wire(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        if label.is_empty() || label.len() > LABEL_MAX || !label.is_ascii() {
            return None;
        }
        wire.push(label.len() as u8);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    (wire.len() <= WIRE_MAX).then_some(wire)
}

/// The text of a name in wire form; the reverse of [`to_wire`], for names that it made.
pub(crate) fn to_text(wire: &[u8]) -> String {
    let mut text = String::with_capacity(wire.len());
    let mut rest = wire;
    while let (Some(&len), Some(above)) = (rest.first(), parent(rest)) {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&String::from_utf8_lossy(&rest[1..=usize::from(len)]));
        rest = above;
    }
    text
}

/// The name one label shorter; none of the root. `name` is well-formed wire bytes.
pub(crate) fn parent(name: &[u8]) -> Option<&[u8]> {
    match name.first() {
        None | Some(0) => None,
        Some(&len) => name.get(usize::from(len) + 1..),
    }
}

/// How many labels `name` has, without the root.
pub(crate) fn labels(name: &[u8]) -> usize {
    std::iter::successors(Some(name), |name| parent(name)).count() - 1
}

/// Whether `name` has exactly one label.
pub(crate) fn is_single_label(name: &[u8]) -> bool {
    parent(name) == Some(&[0])
}

/// Where in `name` its ancestor (or itself) `zone` begins; none when it is not below `zone`.
pub(crate) fn offset_of(name: &[u8], zone: &[u8]) -> Option<usize> {
    let at = name.len().checked_sub(zone.len())?;
    if name.get(at..)? != zone {
        return None;
    }
    // The bytes match: they are the same name only if a label starts there.
    let mut rest = name;
    while rest.len() > zone.len() {
        rest = parent(rest)?;
    }
    (rest.len() == zone.len()).then_some(at)
}

/// The name under which the pointer of `address` lives: `4.3.2.1.in-addr.arpa` or the nibbles below `ip6.arpa`.
pub(crate) fn reverse(address: IpAddr) -> Vec<u8> {
    let mut wire = Vec::with_capacity(74);
    match address {
        IpAddr::V4(v4) => {
            for octet in v4.octets().iter().rev() {
                let text = octet.to_string();
                wire.push(text.len() as u8);
                wire.extend_from_slice(text.as_bytes());
            }
            wire.extend_from_slice(IN_ADDR_ARPA);
        }
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    wire.extend_from_slice(&[1, b"0123456789abcdef"[usize::from(nibble)]]);
                }
            }
            wire.extend_from_slice(IP6_ARPA);
        }
    }
    wire
}

const IN_ADDR_ARPA: &[u8] = b"\x07in-addr\x04arpa\x00";
const IP6_ARPA: &[u8] = b"\x03ip6\x04arpa\x00";

/// A part of a reverse tree that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReverseName {
    /// The address, with zeros where the name does not say.
    pub(crate) address: IpAddr,
    /// Bits of `address` which the name says.
    pub(crate) bits: u8,
    /// Whether labels follow below a whole address.
    pub(crate) below: bool,
}

/// What a name (lower-case wire) below `in-addr.arpa` or `ip6.arpa` stands for; none for other names and for labels
/// that are no octet or nibble.
pub(crate) fn parse_reverse(name: &[u8]) -> Option<ReverseName> {
    let (suffix, is_v4) = if name.ends_with(IN_ADDR_ARPA) {
        (IN_ADDR_ARPA, true)
    } else if name.ends_with(IP6_ARPA) {
        (IP6_ARPA, false)
    } else {
        return None;
    };
    let end = offset_of(name, suffix)?;
    let mut labels = Vec::with_capacity(34);
    let mut rest = name;
    while rest.len() > name.len() - end {
        labels.push(rest.get(1..1 + usize::from(rest[0]))?);
        rest = parent(rest)?;
    }
    let parts = labels.iter().rev();
    if is_v4 {
        let mut octets = [0u8; 4];
        let mut known = 0;
        for (at, label) in parts.take(4).enumerate() {
            let text = std::str::from_utf8(label).ok()?;
            if text.len() > 1 && text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            octets[at] = text.parse().ok()?;
            known += 8;
        }
        Some(ReverseName { address: Ipv4Addr::from(octets).into(), bits: known, below: labels.len() > 4 })
    } else {
        let mut bits = 0u128;
        let mut known = 0u8;
        for label in parts.take(32) {
            let [digit] = label else { return None };
            let nibble = (*digit as char).to_digit(16)?;
            bits |= u128::from(nibble) << (124 - u32::from(known));
            known += 4;
        }
        Some(ReverseName { address: Ipv6Addr::from(bits).into(), bits: known, below: labels.len() > 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_lower_case_labels_or_nothing() {
        assert_eq!(to_wire("Web.shop").unwrap(), b"\x03web\x04shop\x00");
        assert_eq!(to_text(b"\x03web\x04shop\x00"), "web.shop");
        for bad in ["", ".", "a..b", "a.", ".a", &"x".repeat(64), &["abcdefgh"; 40].join("."), "é"] {
            assert_eq!(to_wire(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_ancestor_is_found_by_labels_and_not_by_bytes() {
        let zone = to_wire("shop").unwrap();
        assert_eq!(offset_of(&to_wire("web.shop").unwrap(), &zone), Some(4));
        assert_eq!(offset_of(&zone, &zone), Some(0));
        assert_eq!(offset_of(&to_wire("web.bigshop").unwrap(), &zone), None);
        // One label whose last bytes look like the label `shop`.
        assert_eq!(offset_of(b"\x06x\x04shop\x00", &zone), None);
    }

    #[test]
    fn an_address_and_its_reverse_name_stand_for_each_other() {
        for text in ["10.9.0.255", "fd00::1:2f", "0.0.0.0"] {
            let address: IpAddr = text.parse().unwrap();
            let bits = if address.is_ipv4() { 32 } else { 128 };
            assert_eq!(parse_reverse(&reverse(address)), Some(ReverseName { address, bits, below: false }));
        }
        let part = parse_reverse(&to_wire("9.10.in-addr.arpa").unwrap()).unwrap();
        assert_eq!((part.address, part.bits), ("10.9.0.0".parse().unwrap(), 16));
        assert!(parse_reverse(&to_wire("x.1.0.9.10.in-addr.arpa").unwrap()).unwrap().below);
        for bad in ["300.in-addr.arpa", "01.in-addr.arpa", "+1.in-addr.arpa", "ab.ip6.arpa", "shop"] {
            assert_eq!(parse_reverse(&to_wire(bad).unwrap()), None, "{bad}");
        }
    }
}
