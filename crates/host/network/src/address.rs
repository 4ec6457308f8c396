//! Names of links, subnets, and the address of a container.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// Longest link name: `IFNAMSIZ` without its final zero.
const LINK_NAME_MAX: usize = 15;

/// The name of a network link.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
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

/// What a container's `eth0` is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Address {
    pub ip: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
}

impl Address {
    /// Locally administered, and a function of the address: a successor with the same address needs no new ARP.
    pub fn mac(&self) -> [u8; 6] {
        mac(self.ip)
    }
}

pub(crate) fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0xc0, a, b, c, d]
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
}
