//! Which addresses of a subnet are taken. Pure; whoever owns one stores it (serde), and says what time it is.
//!
//! An address that was given back rests: it is given to nobody else while a resolver, a client or a connection may still
//! know it as its last owner's. Then it is given again only after all others were.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::address::Subnet4;

/// The addresses of a subnet's lower half, for containers. Never gives the network's, the gateway's or
/// the broadcast address. Times are milliseconds of any clock that goes on while this is stored, such as the Unix one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    subnet: Subnet4,
    first: Ipv4Addr,
    last: Ipv4Addr,
    /// How long an address rests.
    rest_ms: u64,
    #[serde(skip)]
    taken: BTreeSet<Ipv4Addr>,
    /// Until when.
    resting: BTreeMap<Ipv4Addr, u64>,
    /// Where the search for a free one starts.
    next: Ipv4Addr,
}

/// Why an address was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("all addresses of {0} are taken; remove containers or use a larger subnet")]
    Full(Subnet4),
    #[error(
        "the free addresses of {subnet} were given back moments ago and may still be known as their last owners'; the \
         next is free in {wait_s} s, or use a larger subnet"
    )]
    Resting { subnet: Subnet4, wait_s: u64 },
    #[error("{address} is not an address for containers of {subnet}")]
    Outside { address: Ipv4Addr, subnet: Subnet4 },
    #[error("{0} is taken already")]
    Taken(Ipv4Addr),
}

impl Ipam {
    /// For containers. `rest_ms`: at least as long as anybody may keep an answer with an address.
    pub fn containers(subnet: Subnet4, rest_ms: u64) -> Self {
        let first = Ipv4Addr::from_bits(subnet.gateway().to_bits() + 1);
        let last = subnet.containers().broadcast();
        Self { subnet, first, last, rest_ms, taken: BTreeSet::new(), resting: BTreeMap::new(), next: first }
    }

    pub fn subnet(&self) -> Subnet4 {
        self.subnet
    }

    /// How many are taken.
    pub fn count(&self) -> usize {
        self.taken.len()
    }

    /// The next free address.
    pub fn allocate(&mut self, now_ms: u64) -> Result<Ipv4Addr, IpamError> {
        self.resting.retain(|_, until| *until > now_ms);
        let (first, last) = (self.first, self.last);
        let free = self.free_in(self.next.max(first), last).or_else(|| self.free_in(first, last));
        let ip = free.ok_or_else(|| match self.resting.values().min() {
            Some(until) => IpamError::Resting { subnet: self.subnet, wait_s: (until - now_ms).div_ceil(1000) },
            None => IpamError::Full(self.subnet),
        })?;
        self.taken.insert(ip);
        self.next = if ip == last { first } else { Ipv4Addr::from_bits(ip.to_bits() + 1) };
        Ok(ip)
    }

    /// The lowest free one from `first` to `last`: the first gap in those that are taken or rest.
    fn free_in(&self, first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
        if first > last {
            return None;
        }
        let mut candidate = first;
        let mut taken = self.taken.range(first..=last).peekable();
        let mut resting = self.resting.range(first..=last).map(|(address, _)| address).peekable();
        loop {
            // Both ascend: whichever is the candidate is passed.
            let is_taken = taken.next_if(|address| **address == candidate).is_some();
            let rests = resting.next_if(|address| **address == candidate).is_some();
            if !is_taken && !rests {
                return Some(candidate);
            }
            if candidate == last {
                return None;
            }
            candidate = Ipv4Addr::from_bits(candidate.to_bits() + 1);
        }
    }

    /// Takes a certain address, as its owner: it need not have rested.
    pub fn reserve(&mut self, ip: Ipv4Addr) -> Result<(), IpamError> {
        if !(self.first..=self.last).contains(&ip) {
            return Err(IpamError::Outside { address: ip, subnet: self.subnet });
        }
        if !self.taken.insert(ip) {
            return Err(IpamError::Taken(ip));
        }
        self.resting.remove(&ip);
        Ok(())
    }

    /// Gives an address back; one that was not taken is fine. True when it rests now, which is to be stored.
    pub fn release(&mut self, ip: Ipv4Addr, now_ms: u64) -> bool {
        self.resting.retain(|_, until| *until > now_ms);
        let was_taken = self.taken.remove(&ip);
        if was_taken {
            self.resting.insert(ip, now_ms.saturating_add(self.rest_ms));
        }
        was_taken
    }

    /// Goes on with what an earlier one of the same subnet left to rest, and from where it was.
    pub fn resume(&mut self, earlier: &Self) {
        if (earlier.first, earlier.last) != (self.first, self.last) {
            return;
        }
        self.next = earlier.next;
        let free = earlier.resting.iter().filter(|(address, _)| !self.taken.contains(address));
        self.resting.extend(free.map(|(address, until)| (*address, *until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST_MS: u64 = 65_000;

    /// Six for containers: .2 to .7.
    fn small() -> Ipam {
        Ipam::containers("10.9.8.0/28".parse().unwrap(), REST_MS)
    }

    fn last(ip: Result<Ipv4Addr, IpamError>) -> u8 {
        ip.unwrap().octets()[3]
    }

    #[test]
    fn every_address_of_the_lower_half_but_network_and_gateway_is_given_once() {
        let mut ipam = small();
        let given: Vec<u8> = (0..6).map(|_| last(ipam.allocate(0))).collect();
        assert_eq!(given, [2, 3, 4, 5, 6, 7]);
        assert_eq!(ipam.allocate(0), Err(IpamError::Full(ipam.subnet())));
    }

    #[test]
    fn an_address_that_was_given_back_rests_and_is_given_last() {
        let mut ipam = small();
        let first = ipam.allocate(0).unwrap();
        ipam.release(first, 1000);
        let next: Vec<u8> = (0..5).map(|_| last(ipam.allocate(2000))).collect();
        assert_eq!(next, [3, 4, 5, 6, 7]);
        let wait = IpamError::Resting { subnet: ipam.subnet(), wait_s: 1 };
        assert_eq!(ipam.allocate(1000 + REST_MS - 1), Err(wait));
        assert_eq!(ipam.allocate(1000 + REST_MS), Ok(first));
    }

    #[test]
    fn what_rests_goes_on_resting_after_it_was_stored_and_its_own_owner_may_come_back() {
        let mut ipam = small();
        let (one, other) = (ipam.allocate(0).unwrap(), ipam.allocate(0).unwrap());
        assert!(ipam.release(one, 0) && ipam.release(other, 0) && !ipam.release(other, 0));
        let stored: Ipam = serde_json::from_str(&serde_json::to_string(&ipam).unwrap()).unwrap();
        let mut back = small();
        back.reserve(other).unwrap();
        back.resume(&stored);
        let next: Vec<u8> = (0..4).map(|_| last(back.allocate(1))).collect();
        assert_eq!(next, [4, 5, 6, 7]);
        assert!(matches!(back.allocate(1), Err(IpamError::Resting { .. })));
        back.reserve(one).unwrap();
        assert_eq!(back.allocate(u64::MAX), Err(IpamError::Full(back.subnet())));
        let mut elsewhere = Ipam::containers("10.9.9.0/28".parse().unwrap(), REST_MS);
        elsewhere.resume(&stored);
        assert_eq!(last(elsewhere.allocate(1)), 2);
    }

    #[test]
    fn reserving_is_refused_outside_and_twice() {
        let mut ipam = small();
        let ip = Ipv4Addr::new(10, 9, 8, 3);
        ipam.reserve(ip).unwrap();
        assert_eq!(ipam.reserve(ip), Err(IpamError::Taken(ip)));
        for outside in [0, 1, 8, 15] {
            let ip = Ipv4Addr::new(10, 9, 8, outside);
            assert!(matches!(ipam.reserve(ip), Err(IpamError::Outside { .. })), "{ip}");
        }
        assert_eq!((last(ipam.allocate(0)), last(ipam.allocate(0))), (2, 4));
    }
}
