//! What clocks show somewhere, as a port.

use std::fmt::Debug;

use coppice_base::Timestamp;

use crate::LocalMinute;

/// A time zone.
pub trait Zone: Debug + Send + Sync {
    /// What clocks there show at a moment.
    fn local(&self, at: Timestamp) -> LocalMinute;

    /// When clocks there show the minute's beginning.
    fn moments(&self, local: LocalMinute) -> Moments;
}

/// When a minute on the wall is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    Once(Timestamp),
    /// Clocks were put back: the first and the second time.
    Twice(Timestamp, Timestamp),
    /// Clocks were put on and never showed it.
    Never {
        /// The first moment after what was left out.
        after: Timestamp,
    },
}

/// The zone without any rules.
#[derive(Clone, Copy, Debug)]
pub struct Utc;

impl Zone for Utc {
    fn local(&self, at: Timestamp) -> LocalMinute {
        LocalMinute(i64::try_from(at.0 / 60_000).unwrap_or(i64::MAX))
    }

    fn moments(&self, local: LocalMinute) -> Moments {
        // Nothing is asked of before 1970.
        Moments::Once(Timestamp(u64::try_from(local.0).unwrap_or(0) * 60_000))
    }
}
