//! Which addresses of a subnet are taken. Pure; whoever owns one stores it (serde).
//!
//! An address that was released is given again only after all others were, because peers and clients may still
//! hold connections, ARP entries and host names of its last owner.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::address::Subnet4;

/// The addresses of one subnet. Never gives the network's, the gateway's or the broadcast address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    subnet: Subnet4,
    taken: BTreeSet<Ipv4Addr>,
    /// Where the search for a free one starts.
    next: Ipv4Addr,
}

/// Why an address was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("all addresses of {0} are taken; remove containers or use a larger subnet")]
    Full(Subnet4),
    #[error("{address} is not an address for containers of {subnet}")]
    Outside { address: Ipv4Addr, subnet: Subnet4 },
    #[error("{0} is taken already")]
    Taken(Ipv4Addr),
}

impl Ipam {
    pub fn new(subnet: Subnet4) -> Self {
        Self { subnet, taken: BTreeSet::new(), next: Self::first(subnet) }
    }

    fn first(subnet: Subnet4) -> Ipv4Addr {
        Ipv4Addr::from_bits(subnet.gateway().to_bits() + 1)
    }

    fn last(subnet: Subnet4) -> Ipv4Addr {
        Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1)
    }

    pub fn subnet(&self) -> Subnet4 {
        self.subnet
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.taken.len()
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<Ipv4Addr, IpamError> {
        let (first, last) = (Self::first(self.subnet), Self::last(self.subnet));
        let free = self.free_in(self.next.max(first), last).or_else(|| self.free_in(first, last));
        let ip = free.ok_or(IpamError::Full(self.subnet))?;
        self.taken.insert(ip);
        self.next = if ip == last { first } else { Ipv4Addr::from_bits(ip.to_bits() + 1) };
        Ok(ip)
    }

    /// The lowest free one from `first` to `last`: the first gap in the taken ones.
    fn free_in(&self, first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
        if first > last {
            return None;
        }
        let mut candidate = first;
        for &taken in self.taken.range(first..=last) {
            if taken > candidate {
                break;
            }
            candidate = Ipv4Addr::from_bits(candidate.to_bits() + 1);
        }
        (candidate <= last).then_some(candidate)
    }

    /// Takes a certain address.
    pub fn reserve(&mut self, ip: Ipv4Addr) -> Result<(), IpamError> {
        if !(Self::first(self.subnet)..=Self::last(self.subnet)).contains(&ip) {
            return Err(IpamError::Outside { address: ip, subnet: self.subnet });
        }
        if self.taken.insert(ip) { Ok(()) } else { Err(IpamError::Taken(ip)) }
    }

    /// Gives an address back; one that was not taken is fine.
    pub fn release(&mut self, ip: Ipv4Addr) {
        self.taken.remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Ipam {
        Ipam::new("10.9.8.0/29".parse().unwrap())
    }

    #[test]
    fn every_address_but_network_gateway_and_broadcast_is_given_once() {
        let mut ipam = small();
        let given: Vec<u8> = (0..5).map(|_| ipam.allocate().unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(ipam.allocate(), Err(IpamError::Full(ipam.subnet())));
    }

    #[test]
    fn a_released_address_is_given_last() {
        let mut ipam = small();
        let first = ipam.allocate().unwrap();
        ipam.release(first);
        let next: Vec<u8> = (0..5).map(|_| ipam.allocate().unwrap().octets()[3]).collect();
        assert_eq!(next, [3, 4, 5, 6, 2]);
    }

    #[test]
    fn reserving_is_refused_outside_and_twice_and_is_kept_over_serialisation() {
        let mut ipam = small();
        let ip = Ipv4Addr::new(10, 9, 8, 3);
        ipam.reserve(ip).unwrap();
        assert_eq!(ipam.reserve(ip), Err(IpamError::Taken(ip)));
        for outside in [0, 1, 7, 8] {
            let ip = Ipv4Addr::new(10, 9, 8, outside);
            assert!(matches!(ipam.reserve(ip), Err(IpamError::Outside { .. })), "{ip}");
        }
        let mut back: Ipam = serde_json::from_str(&serde_json::to_string(&ipam).unwrap()).unwrap();
        assert_eq!(back, ipam);
        assert_eq!(back.allocate().unwrap().octets()[3], 2);
        assert_eq!(back.allocate().unwrap().octets()[3], 4);
    }
}
