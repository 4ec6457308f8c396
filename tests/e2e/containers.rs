//! Containers end to end: the built binary, a real node, real images.

mod node;

mod commands;
mod copying;
mod cut_pulls;
mod daemon;
mod exec;
mod healthcheck;
mod images;
mod lifecycle;
mod parting;
mod private_registry;
mod remains;
mod run;
mod udp;
mod upgrades;
