//! Containers end to end: the built binary, a real node, real images.

mod node;

mod commands;
mod copying;
mod daemon;
mod exec;
mod healthcheck;
mod images;
mod lifecycle;
mod private_registry;
mod remains;
mod run;
mod small_disk;
mod udp;
mod upgrades;
