//! The log from outside: durable, killed, full, damaged.

mod copy;
mod crash;
mod damage;
mod full;
mod idle;
mod opening;
mod words;
mod writer;
