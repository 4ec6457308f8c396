//! Secrets at rest: a key that is kept apart from what it seals, values that open only in their own place, and values
//! that the node makes itself.
//!
//! ```text
//!   generate(kind) ─▶ Material ──seal(key, name, version)──▶ text, for the log
//!                        ▲                                     │
//!                        └────────open(key, name, version)─────┘        key ◀── Keyring: secrets.key, or wrapped
//! ```
//!
//! Where secrets go from here (environments, files of containers) is the node's; who may ask for them is the API's. Refuses
//! key files that others may read, and to make a new key while something is sealed with another.

pub mod durable;
mod generate;
mod key;
mod key_file;
mod keyring;
mod material;
mod source;

pub use generate::{GenerateError, Kind, generate};
pub use key::{Key, SealError};
pub use key_file::KeyFileError;
pub use keyring::{Keyring, KeyringError, Settled};
pub use material::{Material, VALUE_MAX};
pub use source::{KeySource, SourceError};
