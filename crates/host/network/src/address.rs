//! Names of links, subnets, and the address of a container.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// Longest link name: `IFNAMSIZ` without its final zero.
const LINK_NAME_MAX: usize = 15;

/// The name of a network link.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

impl LinkName {
    /// 1 to 15 of `a-z A-Z 0-9 - _ .`; not `.` or `..`, which the kernel refuses.
    pub fn new(text: impl Into<String>) -> Result<Self, NetworkError> {
        let text = text.into();
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let good = (1..=LINK_NAME_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(inner);
        if good { Ok(Self(text)) } else { Err(NetworkError::BadLinkName(text)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As `iifname` and `oifname` are compared: padded with zeros.
    pub(crate) fn padded(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        bytes
    }
}

impl TryFrom<String> for LinkName {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        Self::new(text)
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The host's end of a container's link: `cv` and the first 13 characters of the id that a link's name may have.
/// Ids are random, so that two on a node share these is as likely as two equal 52-bit numbers.
pub fn host_link(container_id: &str) -> LinkName {
    let mut name = String::with_capacity(LINK_NAME_MAX);
    name.push_str("cv");
    name.extend(container_id.chars().filter(char::is_ascii_alphanumeric).take(LINK_NAME_MAX - 2));
    LinkName(name)
}

/// An IPv4 subnet with room for containers: prefix 8 to 29.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet4 {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet4 {
    /// The subnet of this prefix that `address` is in.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Result<Self, NetworkError> {
        if !(8..=29).contains(&prefix) {
            return Err(NetworkError::BadSubnet(format!("{address}/{prefix}")));
        }
        Ok(Self::any(address, prefix))
    }

    /// Any prefix, for what the host has.
    pub(crate) fn any(address: Ipv4Addr, prefix: u8) -> Self {
        Self { network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix: prefix.min(32) }
    }

    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The bridge's own address: the first of the subnet.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix))
    }

    /// The half that containers have their addresses of, the gateway's included: the lower.
    pub fn containers(&self) -> Self {
        Self { network: self.network, prefix: self.prefix + 1 }
    }

    /// The half that services have their virtual addresses of: the upper.
    pub fn services(&self) -> Self {
        let bit = 1 << (31 - u32::from(self.prefix.min(31)));
        Self { network: Ipv4Addr::from_bits(self.network.to_bits() | bit), prefix: self.prefix + 1 }
    }

    pub(crate) fn mask(&self) -> [u8; 4] {
        mask(self.prefix).to_be_bytes()
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    pub fn overlaps(&self, other: &Subnet4) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl fmt::Display for Subnet4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet4 {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::BadSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let subnet = Self::of(address, prefix.parse().map_err(|_| bad())?).map_err(|_| bad())?;
        if subnet.network == address { Ok(subnet) } else { Err(bad()) }
    }
}

impl TryFrom<String> for Subnet4 {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Subnet4> for String {
    fn from(subnet: Subnet4) -> Self {
        subnet.to_string()
    }
}

/// A /64 of unique local IPv6 addresses (RFC 4193), one for each IPv4 address there is: its last four bytes are the
/// IPv4 address. So one list of what is taken serves both, and either is known by the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Ipv6Addr", into = "Ipv6Addr")]
pub struct Subnet6 {
    network: Ipv6Addr,
}

impl Subnet6 {
    /// The one of a node: `fd`, and 56 bits that are a hash of its key (FNV-1a).
    pub fn of_key(key: &str) -> Self {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let hash = key.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold);
        let upper = 0xfd << 56 | (hash ^ hash >> 56) & 0x00ff_ffff_ffff_ffff;
        Self { network: Ipv6Addr::from_bits(u128::from(upper) << 64) }
    }

    /// The one that an address is of, as the gateway's.
    pub fn around(address: Ipv6Addr) -> Result<Self, NetworkError> {
        Self::try_from(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
    }

    pub fn network(&self) -> Ipv6Addr {
        self.network
    }

    /// Always 64.
    pub fn prefix(&self) -> u8 {
        64
    }

    /// The IPv6 address that belongs to an IPv4 one.
    pub fn address(&self, ip: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() | u128::from(ip.to_bits()))
    }

    /// The IPv4 address that one of these belongs to.
    pub fn ipv4(&self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        let low = (ip.to_bits() ^ self.network.to_bits()).try_into().ok()?;
        Some(Ipv4Addr::from_bits(low))
    }

    /// What all addresses that [`Self::address`] gives begin with: 96 bits.
    pub(crate) fn stem(&self) -> [u8; 12] {
        let mut stem = [0; 12];
        stem.copy_from_slice(&self.network.octets()[..12]);
        stem
    }
}

impl TryFrom<Ipv6Addr> for Subnet6 {
    type Error = NetworkError;
    fn try_from(network: Ipv6Addr) -> Result<Self, NetworkError> {
        let [first, ..] = network.octets();
        let good = first == 0xfd && network.to_bits() as u64 == 0;
        if good { Ok(Self { network }) } else { Err(NetworkError::BadSubnet(network.to_string())) }
    }
}

impl From<Subnet6> for Ipv6Addr {
    fn from(subnet: Subnet6) -> Self {
        subnet.network
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.network)
    }
}

/// What a container's `eth0` is given: addresses of its own alone (/32 and /128), and the bridge as the way to
/// everything else. So what containers send each other passes the host, where it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    pub ip: Ipv4Addr,
    pub gateway: Ipv4Addr,
    /// `None` where the machine has no IPv6.
    pub v6: Option<Address6>,
}

/// The IPv6 part of an [`Address`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address6 {
    pub ip: Ipv6Addr,
    pub gateway: Ipv6Addr,
}

impl Address {
    /// What a container with `ip` has on a bridge with these subnets.
    pub fn of(ip: Ipv4Addr, subnet: Subnet4, subnet6: Option<Subnet6>) -> Self {
        let gateway = subnet.gateway();
        let v6 = subnet6.map(|of| Address6 { ip: of.address(ip), gateway: of.address(gateway) });
        Self { ip, gateway, v6 }
    }

    /// Locally administered, and a function of the address: who has the one has the other, so that a packet's source
    /// is checked without a list of who is there, and nobody has to ask for it. `02:c0` and the IPv4 address.
    pub fn mac(&self) -> [u8; 6] {
        mac(self.ip)
    }

    pub(crate) fn gateway_mac(&self) -> [u8; 6] {
        mac(self.gateway)
    }
}

/// The first bytes of all our MAC addresses; four of an IPv4 address follow.
pub(crate) const MAC_STEM: [u8; 2] = [0x02, 0xc0];

pub(crate) fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    let [first, second] = MAC_STEM;
    [first, second, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_are_what_the_kernel_takes_and_bounded() {
        for bad in ["", "sixteen-letters-", "a/b", "a b", ".", "..", "a:1", "é", "a\0", "%d"] {
            assert!(LinkName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(LinkName::new("cop1a2b3c").unwrap().padded()[..10], *b"cop1a2b3c\0");
        assert_eq!(host_link("0123456789abcdef").as_str(), "cv0123456789abc");
        assert!(LinkName::new(host_link("../../etc").as_str()).is_ok());
    }

    #[test]
    fn subnets_know_their_gateway_and_what_overlaps() {
        let subnet: Subnet4 = "10.88.0.0/16".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 88, 255, 255));
        assert!(subnet.overlaps(&Subnet4::any(Ipv4Addr::new(10, 88, 7, 1), 24)));
        assert!(subnet.overlaps(&Subnet4::any(Ipv4Addr::new(10, 0, 0, 1), 8)));
        assert!(!subnet.overlaps(&Subnet4::any(Ipv4Addr::new(10, 89, 0, 0), 16)));
        for bad in ["10.88.0.1/16", "10.88.0.0", "10.88.0.0/30", "10.88.0.0/7", "x/16", "10.88.0.0/99", ""] {
            assert!(bad.parse::<Subnet4>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_subnets_halves_are_for_containers_and_for_services() {
        let subnet: Subnet4 = "10.88.0.0/16".parse().unwrap();
        assert_eq!(subnet.containers().to_string(), "10.88.0.0/17");
        assert_eq!(subnet.services().to_string(), "10.88.128.0/17");
        let small: Subnet4 = "10.9.8.8/29".parse().unwrap();
        assert_eq!(
            (small.containers().to_string(), small.services().to_string()),
            ("10.9.8.8/30".into(), "10.9.8.12/30".into())
        );
    }

    #[test]
    fn an_ipv6_address_and_its_ipv4_one_are_known_by_each_other() {
        let subnet = Subnet6::of_key("1a2b3c");
        assert_ne!(subnet, Subnet6::of_key("1a2b3d"));
        assert!(subnet.network().is_unique_local() && subnet.to_string().ends_with("::/64"), "{subnet}");
        let ip = Ipv4Addr::new(10, 88, 0, 2);
        let address = subnet.address(ip);
        assert!(address.to_string().ends_with("::a58:2"), "{address}");
        assert_eq!(subnet.ipv4(address), Some(ip));
        assert_eq!(subnet.ipv4(Subnet6::of_key("other").address(ip)), None);
        assert_eq!(Subnet6::try_from(Ipv6Addr::from(subnet)).unwrap(), subnet);
        assert!(Subnet6::try_from("fd00::1".parse::<Ipv6Addr>().unwrap()).is_err());
    }
}
