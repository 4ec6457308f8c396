//! Where a request goes: which route takes it, which instance answers it, and what is tried when that fails.
//!
//! Pure: time comes in as an argument and nothing is read or sent. The proxy asks and reports outcomes; everything that
//! can be decided without a socket is decided here, so that tables and properties can test it.
//!
//! ```text
//! target, authority ─▶ RouteTable::find ─▶ WeightedChoice ─▶ balance::choose ─▶ an instance
//!   (refuse or           (host, path,         (service)        (ready, not draining,
//!    normalise)           headers, method)                      breaker, outliers, stickiness)
//! ```
//!
//! State that several threads report to (an instance's health, a retry budget) is made of atomics, so that no request
//! waits for another. Refused here: locks, clocks, randomness (a caller gives both), and any knowledge of sockets.

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod hash;
pub mod limit;
pub mod outlier;
pub mod table;
pub mod target;
pub mod weight;

pub use balance::{Chosen, Instance, Picking, choose};
pub use budget::RetryBudget;
pub use limit::TokenBuckets;
pub use table::{DuplicateRoute, RouteTable, TableEntry};
pub use target::{AuthorityError, Target, TargetError, authority, rewritten};
pub use weight::WeightedChoice;
