//! The proxy between real clients and real servers: sockets, threads, and programs people use.

mod features;
mod http1;
mod resilience;
mod stage;
