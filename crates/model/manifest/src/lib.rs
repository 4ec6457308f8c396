//! Text people write → [`AppSpec`](coppice_spec::AppSpec): reads `coppice.toml`, converts Compose files, and
//! says in one go everything that is wrong, with the place and the fix.
//!
//! ```text
//! bytes ─include─→ texts ─TOML─→ spanned trees ─env, when─→ one tree ─${VAR}─→ values ─sections─→ AppSpecs ─cross
//!                                   (tree)     (merge, when)       (expand)     (keys, fields)     (check)     checks─→
//! Parsed | Diagnostics
//! ```
//!
//! Why a walk of its own instead of serde: serde stops at the first error, and its spans do not survive
//! defaults and untagged forms. Walking the spanned tree gathers every mistake. One table of keys
//! (`keys`) drives the walk and the JSON Schema, so neither can know a key the other does not.
//!
//! It is pure: the directory, the variables and the env files come in through a [`Context`]. It refuses what
//! it does not know: an unknown key, an unset variable or a setting of a later version is an error, never
//! dropped in silence. Variables are expanded after the TOML is parsed, so a value cannot inject TOML.

mod beam;
mod check;
mod compose;
mod context;
mod cron;
mod dev;
mod diagnostic;
mod env;
mod expand;
mod fields;
mod health;
mod hooks;
mod host_name;
mod host_port;
mod include;
mod keys;
mod merge;
mod mount;
mod names;
mod parse;
mod policy;
mod rollout;
mod route;
mod schema;
mod secret;
mod security;
mod shell_words;
mod source;
mod starter;
mod suggest;
mod supervise;
mod tls;
mod toml_text;
mod tree;
mod volume;
mod when;
mod workload;
mod write;

pub use compose::{Converted, LeftOut, convert_compose};
pub use context::Context;
pub use dev::DevSpec;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use parse::{FILE_MAX, NESTING_MAX, Parsed, WORKLOADS_MAX, parse, parse_bytes};
pub use schema::schema;
pub use starter::{app_name, init};
pub use write::to_toml;
