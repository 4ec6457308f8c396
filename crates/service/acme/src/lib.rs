//! Certificates: ordered from an ACME authority, installed by hand or issued by the app's own authority; kept encrypted,
//! renewed in time, and found by the name a client asks for.

mod account;
mod authority;
mod certificate;
mod certificates;
mod challenge;
mod demand;
mod dns;
mod durable;
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
pub use demand::{DemandError, DemandLimits};
pub use dns::propagation::Lookup;
pub use dns::{ProviderError, Record};
pub use https::{Https, HttpsError};
pub use order::{OrderError, OrderSettings};
pub use renewals::{Life, Renewals, Setback};
pub use resolver::{ACME_TLS_ALPN, OnUnknown, Resolver};
pub use seal::{KeyError, SealError, SealKey};
pub use store::{CertificateRecord, CertificateStore, Damaged, Source, StoreError};
