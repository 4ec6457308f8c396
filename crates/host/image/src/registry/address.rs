//! How local an address is, and what a registry may therefore point to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locality {
    /// Reachable from anywhere.
    Global,
    /// RFC 1918, RFC 6598 (carrier NAT), RFC 4193.
    Private,
    /// This machine.
    Loopback,
    /// Link-local, where clouds keep their metadata service; unspecified, multicast, reserved: never a registry's
    /// storage.
    Special,
}

impl Locality {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        match (a, b, c) {
            (127, ..) => Self::Loopback,
            (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Self::Private,
            // Benchmarking (RFC 2544) networks are somebody's lab.
            (198, 18..=19, _) => Self::Private,
            (0, ..) | (169, 254, _) | (192, 0, 0) | (224..=255, ..) => Self::Special,
            _ => Self::Global,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        // v4 in v6: mapped (::ffff:0:0/96), translated (64:ff9b::/96), and 6to4 (2002::/16) reach the v4 address.
        let segments = address.segments();
        let low = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match segments {
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            [0, 0, 0, 0, 0, 0xffff, high, last] | [0x64, 0xff9b, 0, 0, 0, 0, high, last] => low(high, last),
            [0x2002, high, last, ..] => low(high, last),
            [0xfc00..=0xfdff, ..] => Self::Private,
            // Global unicast is 2000::/3; all else is link-local, site-local, multicast or reserved.
            [0x2000..=0x3fff, ..] => Self::Global,
            _ => Self::Special,
        }
    }

    /// Whether a registry at this address may send us to `target`.
    pub(super) fn may_point_to(self, target: Self) -> bool {
        match target {
            Self::Global => true,
            Self::Private => matches!(self, Self::Private | Self::Loopback),
            Self::Loopback => self == Self::Loopback,
            Self::Special => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_local_as_their_networks() {
        for (text, locality) in [
            ("8.8.8.8", Locality::Global),
            ("2606:4700::1", Locality::Global),
            ("10.1.2.3", Locality::Private),
            ("172.31.0.1", Locality::Private),
            ("172.32.0.1", Locality::Global),
            ("192.168.1.1", Locality::Private),
            ("100.64.0.1", Locality::Private),
            ("fd00::1", Locality::Private),
            ("127.1.2.3", Locality::Loopback),
            ("::1", Locality::Loopback),
            ("::ffff:127.0.0.1", Locality::Loopback),
            ("::ffff:169.254.169.254", Locality::Special),
            ("64:ff9b::a9fe:a9fe", Locality::Special),
            ("2002:7f00:1::", Locality::Loopback),
            ("169.254.169.254", Locality::Special),
            ("fe80::1", Locality::Special),
            ("0.0.0.0", Locality::Special),
            ("::", Locality::Special),
            ("255.255.255.255", Locality::Special),
            ("224.0.0.1", Locality::Special),
        ] {
            assert_eq!(Locality::of(text.parse().unwrap()), locality, "{text}");
        }
    }

    #[test]
    fn only_a_registry_as_local_may_point_to_a_local_address() {
        use Locality::*;
        assert!(Global.may_point_to(Global));
        for target in [Private, Loopback, Special] {
            assert!(!Global.may_point_to(target));
        }
        assert!(Private.may_point_to(Private) && !Private.may_point_to(Loopback));
        assert!(Loopback.may_point_to(Loopback) && Loopback.may_point_to(Private));
        assert!(!Loopback.may_point_to(Special) && !Special.may_point_to(Special));
    }
}
