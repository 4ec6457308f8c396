//! The network crate on the real kernel, in network namespaces of the tests' own.

mod bridge;
mod intercept;
mod netspace;
mod ports;
mod settle;
