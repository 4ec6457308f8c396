//! The network crate on the real kernel, in network namespaces of the tests' own.

mod bridge;
mod intercept;
mod ipv6;
#[allow(dead_code, reason = "a module of two test targets, each using a part")]
mod netspace;
mod peace;
mod ports;
mod settle;
mod survey;
