//! The state from outside: what each command does and refuses, and what holds of any sequence of them.

mod commands;
mod going_back;
mod policy;
mod properties;
mod recovering;
mod secrets;
mod service_addresses;
mod words;
