//! The words every other crate is written in: names, ids, units, and the two ports (clock and random)
//! through which time and chance enter the program.
//!
//! Nothing here does I/O beyond the two `System*` adapters, and pure crates (`crates/core`) may not name
//! those adapters; `cargo xtask tidy` checks it.

pub mod clock;
pub mod ids;
pub mod name;
pub mod random;
pub mod signal;
pub mod units;

pub use clock::{Clock, SystemClock, Timestamp};
pub use ids::IdRange;
pub use name::{ContainerId, Name, NameError};
pub use random::{Random, SystemRandom};
pub use signal::{signal_name, signal_text};
pub use units::{Bytes, DurationText, MilliCpu, UnitError};
