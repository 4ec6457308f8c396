//! How many questions one client may ask: a token bucket each, in a table that never grows.
//!
//! An address has two places in the table, chosen by a hash nobody outside can know. It is refused only when both are
//! full: to keep another client from asking, one must hit the same two places, not just one. Nothing is allocated or
//! locked, so made-up addresses cost no memory.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Places: 32 KiB in all.
const PLACES: usize = 4096;

/// The limit of all clients.
pub(crate) struct Limiter {
    /// When each bucket will be full again, in nanoseconds after `begin` (the generic cell rate algorithm: one number
    /// instead of a count and a time).
    places: Box<[AtomicU64]>,
    hash: RandomState,
    begin: Instant,
    interval_ns: u64,
    burst_ns: u64,
}

impl Limiter {
    /// Lets each client ask `per_second` (at least 1) questions, and `burst` at once after a rest.
    pub(crate) fn new(per_second: u32, burst: u32, begin: Instant) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hash: RandomState::new(),
            begin,
            interval_ns,
            burst_ns: interval_ns.saturating_mul(u64::from(burst.max(1))),
        }
    }

    /// Takes one token of `client`'s; false when it has none.
    pub(crate) fn admit(&self, client: IpAddr, now: Instant) -> bool {
        let now_ns = u64::try_from(now.saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX / 2);
        let hash = self.hash.hash_one(client) as usize;
        let mut admitted = false;
        for place in [hash, hash >> 32] {
            let place = &self.places[place % PLACES];
            let full_at = place.load(Ordering::Relaxed).max(now_ns) + self.interval_ns;
            if full_at - now_ns <= self.burst_ns {
                admitted = true;
                // Two threads may spend the same token: the limit is no accounting.
                place.store(full_at, Ordering::Relaxed);
            }
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 9, 0, last])
    }

    #[test]
    fn a_client_may_ask_its_burst_and_then_its_rate() {
        let begin = Instant::now();
        let limiter = Limiter::new(100, 20, begin);
        let admitted = (0..1000).filter(|_| limiter.admit(client(1), begin)).count();
        assert_eq!(admitted, 20);
        let mut later = 0;
        for ms in 0..1000 {
            later += usize::from(limiter.admit(client(1), begin + Duration::from_millis(ms)));
        }
        assert!((95..=101).contains(&later), "{later} in a second at 100/s");
    }

    #[test]
    fn one_client_at_its_limit_does_not_stop_others() {
        let begin = Instant::now();
        let limiter = Limiter::new(100, 20, begin);
        while limiter.admit(client(1), begin) {}
        let stopped = (2..=250).filter(|last| !limiter.admit(client(*last), begin)).count();
        // Both places shared with client 1: about 250 × (2 / 4096)².
        assert!(stopped <= 1, "{stopped}");
    }
}
