//! The log from outside: durable, killed, full, damaged.

mod opening;
mod words;
