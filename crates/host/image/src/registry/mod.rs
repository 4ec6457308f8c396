//! The registry client: OCI distribution over HTTP/1.1.
//!
//! Written on hyper instead of taken from `oci-client`, because three things must be decided here and not inside a
//! library: which addresses a redirect or token realm may lead to (checked on the resolved address that is then
//! connected to, so DNS cannot change its mind in between), how slow a body may be, and that a cut blob goes on by
//! `Range` into the same hash and unpack pass.
//!
//! Refused: plain HTTP except on this machine or when asked; redirects from HTTPS to HTTP; redirects and token realms
//! on local addresses unless the registry is as local itself; credentials to any other place than the registry and
//! the token realm it names.

mod address;
mod auth;
mod body;
mod connect;
mod credentials;
mod error;
mod session;

pub(crate) use body::{full, of_file};
pub(crate) use connect::Connector;
pub use credentials::{Credentials, CredentialsError};
pub use error::RegistryError;
pub(crate) use session::{Access, Ask, Session};
