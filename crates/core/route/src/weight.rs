//! Which of a route's services takes a request, by their shares.
//!
//! Shares are dealt by smooth weighted round robin: 70:30 is not seventy in a row. The order repeats after as many requests
//! as the shares sum up to, so it is worked out once and a counter walks through it: no state but one atomic.

use std::sync::atomic::{AtomicU32, Ordering};

/// Shares of services, by index.
#[derive(Debug)]
pub struct WeightedChoice {
    order: Vec<u16>,
    next: AtomicU32,
}

impl WeightedChoice {
    /// `weights` are shares, whose sum is small (100 in a spec). An index without weight is never chosen.
    pub fn new(weights: &[u32]) -> Self {
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut current = vec![0i64; weights.len()];
        let mut order = Vec::new();
        for _ in 0..total {
            for (have, weight) in current.iter_mut().zip(weights) {
                *have += i64::from(*weight);
            }
            // The first of the largest, so that the order does not depend on the iterator's taste.
            let Some(best) = (0..current.len()).reduce(|best, at| if current[at] > current[best] { at } else { best })
            else {
                break;
            };
            current[best] -= total;
            order.push(u16::try_from(best).unwrap_or(u16::MAX));
        }
        Self { order, next: AtomicU32::new(0) }
    }

    /// The service of the next request; 0 where no service has weight.
    pub fn next(&self) -> usize {
        if self.order.len() < 2 {
            return self.order.first().map_or(0, |at| usize::from(*at));
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        usize::from(self.order[turn % self.order.len()])
    }

    /// The service of every request with this hash.
    pub fn by_hash(&self, hash: u64) -> usize {
        match self.order.len() {
            0 => 0,
            len => usize::from(self.order[(hash % len as u64) as usize]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_after_one_round_and_spread_within_it() {
        let choice = WeightedChoice::new(&[70, 30]);
        let round: Vec<usize> = (0..100).map(|_| choice.next()).collect();
        assert_eq!(round.iter().filter(|at| **at == 0).count(), 70);
        let longest = round.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert_eq!(longest, Some(3));
    }

    #[test]
    fn one_hash_is_always_the_same_service_and_many_keep_the_shares() {
        let choice = WeightedChoice::new(&[90, 10]);
        let second = (0..10_000u64).filter(|key| choice.by_hash(crate::hash::mix(*key)) == 1).count();
        assert!((800..1200).contains(&second), "{second}");
        assert_eq!(choice.by_hash(42), choice.by_hash(42));
    }

    #[test]
    fn no_weights_are_the_first_service() {
        assert_eq!(WeightedChoice::new(&[]).next(), 0);
        assert_eq!(WeightedChoice::new(&[100]).next(), 0);
    }
}
