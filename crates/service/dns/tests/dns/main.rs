//! The server among real peers: dig, dnsperf, dnsmasq, and upstream servers of ours that lie, hang and cut.
//!
//! All on loopback, at ports the kernel chooses. Clients of apps are addresses within 127/8, which the machine has all.

mod caching;
mod clients;
mod hostile;
mod names;
mod peers;
mod restart;
mod stream;
mod upstream;
mod world;
