//! Ejection of an instance that answers badly compared with what a healthy one does: the breaker sees failures in a row,
//! this sees a share of failures among answers that are fine.
//!
//! Half or more of at least [`LEAST`] requests of a window failed: ejected for [`EJECTED`], twice as long after each
//! ejection that follows soon, at most [`LONGEST`]. The balancer ignores ejections of more than half of the instances: then
//! it is not the instances.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use coppice_base::Timestamp;

/// What counts as recent.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Requests in a window below which nothing is concluded.
pub const LEAST: u32 = 10;
/// First ejection.
pub const EJECTED: Duration = Duration::from_secs(15);
/// Longest ejection.
pub const LONGEST: Duration = Duration::from_secs(240);

#[derive(Debug, Default)]
pub struct Outlier {
    window_from: AtomicU64,
    requests: AtomicU32,
    failures: AtomicU32,
    ejected_until: AtomicU64,
    times: AtomicU32,
}

impl Outlier {
    pub fn ejected(&self, now: Timestamp) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now.0
    }

    /// Counts an outcome; ejects where it is one too many.
    pub fn record(&self, ok: bool, now: Timestamp) {
        let from = self.window_from.load(Ordering::Relaxed);
        if now.since(Timestamp(from)) >= WINDOW
            && self.window_from.compare_exchange(from, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.requests.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
            // A long good time makes the next ejection a first one again.
            if now.since(Timestamp(self.ejected_until.load(Ordering::Relaxed))) > LONGEST {
                self.times.store(0, Ordering::Relaxed);
            }
        }
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if ok {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if requests >= LEAST && failures * 2 >= requests && !self.ejected(now) {
            let times = self.times.fetch_add(1, Ordering::Relaxed).min(8);
            let length = (EJECTED * 2u32.pow(times)).min(LONGEST);
            self.ejected_until.store(now.plus(length).0, Ordering::Relaxed);
            self.requests.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_answers_failing_ejects_and_a_few_do_not() {
        let outlier = Outlier::default();
        let now = Timestamp(100_000);
        for at in 0..40 {
            outlier.record(at % 3 != 0, now);
        }
        assert!(!outlier.ejected(now));
        let bad = Outlier::default();
        for at in 0..10 {
            bad.record(at % 2 == 0, now);
        }
        assert!(bad.ejected(now));
        assert!(!bad.ejected(now.plus(EJECTED)));
    }

    #[test]
    fn ejections_that_follow_each_other_grow_to_a_limit() {
        let outlier = Outlier::default();
        let mut now = Timestamp(100_000);
        let mut lengths = Vec::new();
        for _ in 0..6 {
            for _ in 0..LEAST {
                outlier.record(false, now);
            }
            let until = outlier.ejected_until.load(Ordering::Relaxed);
            lengths.push(until - now.0);
            now = Timestamp(until);
        }
        assert_eq!(lengths, [15_000, 30_000, 60_000, 120_000, 240_000, 240_000]);
    }

    #[test]
    fn few_requests_prove_nothing() {
        let outlier = Outlier::default();
        for _ in 0..LEAST - 1 {
            outlier.record(false, Timestamp(1));
        }
        assert!(!outlier.ejected(Timestamp(1)));
    }
}
