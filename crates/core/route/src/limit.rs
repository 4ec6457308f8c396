//! Token buckets by client address, in bounded memory.
//!
//! A bucket that has refilled is the same as none, so those are what is dropped when the table is full. When a flood of
//! addresses fills it faster, any bucket gives way to the newcomer: an attacker with that many addresses has that many
//! allowances anyway, and other clients must not be refused for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use coppice_base::Timestamp;
use coppice_spec::RateLimit;

/// Buckets of one route.
#[derive(Debug)]
pub struct TokenBuckets {
    buckets: HashMap<u64, Bucket>,
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of a token.
    millitokens: u64,
    at: Timestamp,
}

impl TokenBuckets {
    /// At most `most` clients are remembered.
    pub fn new(most: usize) -> Self {
        Self { buckets: HashMap::new(), most: most.max(1) }
    }

    /// Takes one token of `client`; otherwise says how long until there is one.
    pub fn take(&mut self, client: IpAddr, limit: RateLimit, now: Timestamp) -> Result<(), Duration> {
        let key = key(client);
        let full = u64::from(limit.burst.max(1)) * 1000;
        let per_second = u64::from(limit.per_second.max(1));
        // Tokens a second are millitokens a millisecond.
        let refilled = |bucket: &Bucket| {
            let gained = u64::try_from(now.since(bucket.at).as_millis()).unwrap_or(u64::MAX).saturating_mul(per_second);
            bucket.millitokens.saturating_add(gained).min(full)
        };
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| refilled(bucket) < full);
            if self.buckets.len() >= self.most
                && let Some(any) = self.buckets.keys().next().copied()
            {
                self.buckets.remove(&any);
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { millitokens: full, at: now });
        let have = refilled(bucket);
        bucket.at = now.max(bucket.at);
        if have >= 1000 {
            bucket.millitokens = have - 1000;
            return Ok(());
        }
        bucket.millitokens = have;
        Err(Duration::from_millis((1000 - have).div_ceil(per_second)))
    }

    /// How many clients are remembered.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: whoever has one address of it has all.
pub fn key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()) | 1 << 63,
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64 & !(1 << 63),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { per_second: 10, burst: 5 };

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let mut buckets = TokenBuckets::new(100);
        let now = Timestamp(1_000_000);
        assert_eq!((0..10).filter(|_| buckets.take(ip(1), LIMIT, now).is_ok()).count(), 5);
        assert_eq!(buckets.take(ip(1), LIMIT, now), Err(Duration::from_millis(100)));
        assert!(buckets.take(ip(2), LIMIT, now).is_ok());
        let later = now.plus(Duration::from_millis(100));
        assert!(buckets.take(ip(1), LIMIT, later).is_ok());
        assert!(buckets.take(ip(1), LIMIT, later).is_err());
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory() {
        let mut buckets = TokenBuckets::new(1000);
        for n in 0..100_000 {
            let _ = buckets.take(ip(n), LIMIT, Timestamp(1_000_000));
        }
        assert_eq!(buckets.len(), 1000);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket_and_mapped_addresses_are_ipv4() {
        assert_eq!(key("2001:db8::1".parse().unwrap()), key("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(key("2001:db8::1".parse().unwrap()), key("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(key("::ffff:192.0.2.1".parse().unwrap()), key("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_clock_that_steps_back_gives_no_tokens() {
        let mut buckets = TokenBuckets::new(10);
        while buckets.take(ip(1), LIMIT, Timestamp(1_000_000)).is_ok() {}
        assert!(buckets.take(ip(1), LIMIT, Timestamp(0)).is_err());
        assert!(buckets.take(ip(1), LIMIT, Timestamp(1_000_050)).is_err());
    }
}
