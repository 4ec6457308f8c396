//! The proxy between real clients and real servers: sockets, threads, and programs people use.

mod attacks;
mod callers;
mod features;
mod grpc;
mod http1;
mod http2;
mod load;
mod resilience;
mod spans;
mod stage;
mod tunnels;
