//! Containers end to end: the built binary, a real node, real images.

mod node;

mod commands;
mod copying;
mod daemon;
mod images;
mod lifecycle;
mod remains;
mod run;
