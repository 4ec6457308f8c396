//! The halves with real redirections, real TLS and hostile callers, in network namespaces of the tests' own.

mod identity;
mod stage;
mod streams;
