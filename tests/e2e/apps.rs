//! Apps end to end: up, supervision, kills, down.

mod node;
