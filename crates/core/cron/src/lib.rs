//! When a cron runs, and what becomes of its runs: events in, actions out.
//!
//! ```text
//!   time ──▶ Timetable ──due──▶ Machine ──▶ Start, Stop
//!                                  ▲  └───▶ what is remembered (Memory)
//!              Ended, TimedOut ────┘
//! ```
//!
//! A [`Machine`] has at most one run at a time, and at most one that waits for it. Which times there were is known from the
//! [`Memory`], which its shell has on disk before it carries an action out: no time is run for twice, and one at which nobody
//! was there is found out when somebody is again.
//!
//! No clock, no disk and no time zones in here: what a zone's clocks show is a port ([`Zone`]), for zones are files.

mod calendar;
mod machine;
mod memory;
mod timetable;
mod zone;

pub use calendar::LocalMinute;
pub use machine::{Action, LATE, Machine, Refusal, Rules};
pub use memory::{Cause, Entry, Memory, Outcome, Run, Why};
pub use timetable::Timetable;
pub use zone::{Moments, Utc, Zone};
