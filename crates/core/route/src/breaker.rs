//! The circuit breaker of one instance.
//!
//! ```text
//!          threshold failures in a row            timeout over: one request
//! closed ───────────────────────────────▶ open ───────────────────────────▶ half open
//!    ▲                                      ▲                                 │  │
//!    │                                      └────────────── it failed ────────┘  │
//!    └────────────────────────── it was answered ────────────────────────────────┘
//! ```
//!
//! The state is three atomics that every thread reports to; a state in between (one thread has counted a failure, another
//! reads the old time) lets at most a request too many through.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use coppice_base::Timestamp;
use coppice_spec::BreakerSpec;

#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// Of the last failure, in milliseconds.
    failed_at: AtomicU64,
    /// When the request that is to prove the instance began; 0: none is under way.
    probing_since: AtomicU64,
}

/// How a breaker stands, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl Breaker {
    pub fn state(&self, spec: &BreakerSpec, now: Timestamp) -> BreakerState {
        if self.failures.load(Ordering::Relaxed) < spec.threshold {
            return BreakerState::Closed;
        }
        let failed_at = Timestamp(self.failed_at.load(Ordering::Relaxed));
        if now.since(failed_at) < spec.timeout.0 { BreakerState::Open } else { BreakerState::HalfOpen }
    }

    /// Takes the one proof of a half-open breaker; false when another request has it. A proof nobody reported on (its
    /// client went away) is given again after the timeout.
    pub fn begin_probe(&self, spec: &BreakerSpec, now: Timestamp) -> bool {
        let since = self.probing_since.load(Ordering::Relaxed);
        if since != 0 && now.since(Timestamp(since)) < spec.timeout.0 {
            return false;
        }
        self.probing_since.compare_exchange(since, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub fn succeeded(&self) {
        // Read first: writing the line each time would bounce it between processors on the good path.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.probing_since.store(0, Ordering::Relaxed);
        }
    }

    pub fn failed(&self, now: Timestamp) {
        self.failed_at.store(now.0, Ordering::Relaxed);
        self.probing_since.store(0, Ordering::Relaxed);
        let _ = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coppice_base::DurationText;
    use std::time::Duration;

    const SPEC: BreakerSpec = BreakerSpec { threshold: 3, timeout: DurationText(Duration::from_secs(30)) };

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(Timestamp(1000));
        }
        breaker.succeeded();
        for _ in 0..2 {
            breaker.failed(Timestamp(1000));
        }
        assert_eq!(breaker.state(&SPEC, Timestamp(1000)), BreakerState::Closed);
        breaker.failed(Timestamp(1000));
        assert_eq!(breaker.state(&SPEC, Timestamp(30_999)), BreakerState::Open);
        assert_eq!(breaker.state(&SPEC, Timestamp(31_000)), BreakerState::HalfOpen);
    }

    #[test]
    fn half_open_lets_one_request_prove_the_instance() {
        let breaker = Breaker::default();
        for _ in 0..3 {
            breaker.failed(Timestamp(0));
        }
        let now = Timestamp(30_000);
        assert!(breaker.begin_probe(&SPEC, now));
        assert!(!breaker.begin_probe(&SPEC, now));
        breaker.failed(now);
        assert_eq!(breaker.state(&SPEC, Timestamp(59_000)), BreakerState::Open);
        assert!(breaker.begin_probe(&SPEC, Timestamp(60_000)));
        breaker.succeeded();
        assert_eq!(breaker.state(&SPEC, Timestamp(60_000)), BreakerState::Closed);
    }

    #[test]
    fn a_proof_that_nobody_reported_on_is_given_again() {
        let breaker = Breaker::default();
        for _ in 0..3 {
            breaker.failed(Timestamp(0));
        }
        assert!(breaker.begin_probe(&SPEC, Timestamp(30_000)));
        assert!(!breaker.begin_probe(&SPEC, Timestamp(59_999)));
        assert!(breaker.begin_probe(&SPEC, Timestamp(60_000)));
    }
}
