//! Certificates: ordered from an ACME authority, installed by hand or issued by the app's own authority; kept encrypted,
//! renewed in time, and found by the name a client asks for.
//!
//! ```text
//!  manifests ──want──► Certificates ──► Renewals: what is due ──► order ──► CertificateStore (sealed)
//!  cert provision/renew/install/rm ─┘                              │              │
//!                                              Challenges ◄────────┘              ▼
//!  port 80: /.well-known/acme-challenge/ ────────┘  └── acme-tls/1 ──────────► Resolver ◄── TLS handshakes
//! ```
//!
//! A node starts one [`Certificates`] under its root and keeps the handle: [`Certificates::want`] with the `tls` of all
//! services whenever they change, [`Certificates::resolver`] in the TLS server's configuration (which also offers
//! [`ACME_TLS_ALPN`]), [`Certificates::challenges`] before any other route of plain HTTP, and for people
//! [`Certificates::provision`], [`Certificates::renew`], [`Certificates::install`], [`Certificates::list`] and
//! [`Certificates::remove`]. An [`Authority`] for each app gives its services an [`Identity`] each, with configurations
//! of TLS for both sides of a connection.
//!
//! Refuses what would fail at a client: keys that do not match, dates that are not now, names that are not meant; and
//! what would give a key away: files that others may read, plain HTTP to other machines.

mod account;
mod authority;
mod certificate;
mod certificates;
mod challenge;
mod demand;
mod dns;
mod https;
mod order;
mod renewals;
mod resolver;
mod seal;
mod secret;
mod store;

pub use authority::{Authority, AuthorityError, Identity, LEAF_LIFE, PeerError, PeerIdentity, ROOT_LIFE};
pub use certificate::{Certificate, CertificateError, domain_name};
pub use certificates::{Certificates, CertificatesConfig, ProvisionError, Routed, StartError};
pub use challenge::{Challenges, HTTP_CHALLENGE_PREFIX};
pub use coppice_secret::{KeyFileError, SealError};
pub use demand::{DemandError, DemandLimits};
pub use dns::propagation::Lookup;
pub use dns::{ProviderError, Record};
pub use https::{Https, HttpsError};
pub use order::{OrderError, OrderSettings};
pub use renewals::{Life, Renewals, Setback};
pub use resolver::{ACME_TLS_ALPN, OnUnknown, Resolver};
pub use seal::{KeyError, SealKey};
pub use store::{CertificateRecord, CertificateStore, Damaged, Source, StoreError};
