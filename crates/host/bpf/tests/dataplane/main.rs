//! The data plane with real packets: containers in network namespaces of their own, on a bridge without any rules.

mod balance;
mod machine;
mod metrics;
mod names;
mod policy;
mod ports;
mod raw;
mod refusals;
