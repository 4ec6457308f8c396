//! How many certificates clients may cause to be ordered: whoever points names at this node must not use up what an
//! authority allows us. Pure: time in, yes or no out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use coppice_base::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);

/// The bounds of orders on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemandLimits {
    pub at_once: usize,
    /// In any 60 minutes.
    pub per_hour: usize,
}

impl Default for DemandLimits {
    /// Let's Encrypt allows 300 new orders of an account in three hours; this leaves most to names that are wanted.
    fn default() -> Self {
        Self { at_once: 2, per_hour: 20 }
    }
}

/// Why a name is not ordered on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    #[error("no service that orders on demand is routed under this name; add it to tls.domain of one")]
    NotRouted,
    #[error("{at_once} orders on demand are under way already; the client may try again")]
    Busy { at_once: usize },
    #[error("{per_hour} certificates were ordered on demand within the hour; list the names in tls.domain instead")]
    Hour { per_hour: usize },
    #[error("its order failed within the hour; see the node's log for why, and mend that first")]
    Failed,
}

/// Counts orders on demand.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    limits: DemandLimits,
    begun: VecDeque<Timestamp>,
    /// Names whose order failed, and when; no more than orders begun in an hour.
    failed: BTreeMap<String, Timestamp>,
}

impl Demand {
    pub(crate) fn new(limits: DemandLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The order for `name` failed: no other for an hour.
    pub(crate) fn refuse(&mut self, name: &str, now: Timestamp) {
        self.failed.insert(name.to_owned(), now);
    }

    /// Counts one more order, beside `under_way` others, unless that is too many.
    pub(crate) fn admit(&mut self, name: &str, under_way: usize, now: Timestamp) -> Result<(), DemandError> {
        self.failed.retain(|_, at| now.since(*at) < HOUR);
        if self.failed.contains_key(name) {
            return Err(DemandError::Failed);
        }
        while self.begun.front().is_some_and(|begun| now.since(*begun) >= HOUR) {
            self.begun.pop_front();
        }
        let DemandLimits { at_once, per_hour } = self.limits;
        if under_way >= at_once {
            return Err(DemandError::Busy { at_once });
        }
        if self.begun.len() >= per_hour {
            return Err(DemandError::Hour { per_hour });
        }
        self.begun.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_whose_order_failed_is_not_ordered_again_within_the_hour() {
        let mut demand = Demand::new(DemandLimits::default());
        demand.refuse("b.example", Timestamp(0));
        assert_eq!(demand.admit("b.example", 0, Timestamp(3_599_999)), Err(DemandError::Failed));
        assert_eq!(demand.admit("c.example", 0, Timestamp(1)), Ok(()));
        assert_eq!(demand.admit("b.example", 0, Timestamp(3_600_000)), Ok(()));
    }

    #[test]
    fn orders_on_demand_are_bounded_at_once_and_in_any_hour() {
        let mut demand = Demand::new(DemandLimits { at_once: 2, per_hour: 3 });
        let minute = |minute: u64| Timestamp(minute * 60_000);
        assert_eq!(demand.admit("a.example", 0, minute(0)), Ok(()));
        assert_eq!(demand.admit("a.example", 2, minute(1)), Err(DemandError::Busy { at_once: 2 }));
        assert_eq!(demand.admit("a.example", 1, minute(10)), Ok(()));
        assert_eq!(demand.admit("a.example", 1, minute(20)), Ok(()));
        assert_eq!(demand.admit("a.example", 0, minute(59)), Err(DemandError::Hour { per_hour: 3 }));
        assert_eq!(demand.admit("a.example", 0, minute(60)), Ok(()));
        assert_eq!(demand.admit("a.example", 0, minute(61)), Err(DemandError::Hour { per_hour: 3 }));
    }
}
