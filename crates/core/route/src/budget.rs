//! How many retries a route may still send: a share of its recent requests, so that a service that is down is not buried
//! under its clients' retries.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use coppice_base::Timestamp;

/// The window requests and retries are counted over.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Retries that a window always has, so that a quiet route can retry at all.
pub const ALWAYS: u32 = 10;

/// Counts of one route. The window is ten slots of a second, each forgotten when its turn comes again.
#[derive(Debug, Default)]
pub struct RetryBudget {
    slots: [Slot; 10],
}

#[derive(Debug, Default)]
struct Slot {
    second: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl RetryBudget {
    /// A request came (not a retry).
    pub fn request(&self, now: Timestamp) {
        self.slot(now).requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry from the budget of `percent`; false when it is used up.
    pub fn take(&self, percent: u32, now: Timestamp) -> bool {
        let second = now.0 / 1000;
        let recent = |slot: &&Slot| second.saturating_sub(slot.second.load(Ordering::Relaxed)) < WINDOW.as_secs();
        let (mut requests, mut retries) = (0u64, 0u64);
        for slot in self.slots.iter().filter(recent) {
            requests += u64::from(slot.requests.load(Ordering::Relaxed));
            retries += u64::from(slot.retries.load(Ordering::Relaxed));
        }
        let allowed = (requests * u64::from(percent) / 100).max(u64::from(ALWAYS));
        if retries >= allowed {
            return false;
        }
        self.slot(now).retries.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn slot(&self, now: Timestamp) -> &Slot {
        let second = now.0 / 1000;
        let slot = &self.slots[(second % 10) as usize];
        let was = slot.second.load(Ordering::Relaxed);
        if was != second && slot.second.compare_exchange(was, second, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            slot.requests.store(0, Ordering::Relaxed);
            slot.retries.store(0, Ordering::Relaxed);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_and_at_least_ten_a_window() {
        let budget = RetryBudget::default();
        let now = Timestamp(1_000_000);
        assert_eq!((0..100).filter(|_| budget.take(20, now)).count(), 10);
        let busy = RetryBudget::default();
        for _ in 0..1000 {
            busy.request(now);
        }
        assert_eq!((0..1000).filter(|_| busy.take(20, now)).count(), 200);
    }

    #[test]
    fn a_window_later_the_budget_is_new() {
        let budget = RetryBudget::default();
        while budget.take(20, Timestamp(1_000_000)) {}
        assert!(!budget.take(20, Timestamp(1_009_999)));
        assert!(budget.take(20, Timestamp(1_010_000)));
    }
}
