//! Which certificate a client is shown: by the name it asks for, exact before wildcard, and for `acme-tls/1` the one
//! that answers an authority's challenge.
//!
//! The table is replaced whole, so that a renewed certificate is used by the next handshake and running connections
//! keep theirs. Refuses names it has nothing for (the handshake ends with an alert) unless a default is set.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;
use crate::challenge::Challenges;

/// The protocol of TLS-ALPN-01 (RFC 8737). A server that answers challenges offers it beside its own.
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// Told of names that clients asked for and that there is no certificate for. Must not block.
pub type OnUnknown = Box<dyn Fn(&str) + Send + Sync>;

/// See the module.
pub struct Resolver {
    table: RwLock<Arc<Table>>,
    challenges: Arc<Challenges>,
    on_unknown: Option<OnUnknown>,
}

#[derive(Default)]
struct Table {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `*.example.org` by `example.org`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Resolver").field("names", &self.names()).finish_non_exhaustive()
    }
}

impl Resolver {
    pub fn new(challenges: Arc<Challenges>, on_unknown: Option<OnUnknown>) -> Self {
        Self { table: RwLock::default(), challenges, on_unknown }
    }

    /// Uses these certificates, and no others, from the next handshake on. Where two are for a name, the one kept under
    /// that very name goes first, then the one that ends later. `default` is shown to clients that ask for a name there
    /// is nothing for, or for none.
    pub fn set(&self, certificates: &[(String, Certificate)], default: Option<&str>) {
        let mut ranked: HashMap<&str, (bool, &Certificate)> = HashMap::new();
        for (domain, certificate) in certificates {
            for name in &certificate.names {
                let rank = (name == domain, certificate.not_after);
                let better = ranked.get(name.as_str()).is_none_or(|(own, other)| rank > (*own, other.not_after));
                if better {
                    ranked.insert(name, (rank.0, certificate));
                }
            }
        }
        let mut table = Table::default();
        for (name, (_, certificate)) in ranked {
            let key = Arc::clone(&certificate.certified);
            match name.strip_prefix("*.") {
                Some(parent) => table.wildcard.insert(parent.to_owned(), key),
                None => table.exact.insert(name.to_owned(), key),
            };
        }
        table.default = default.and_then(|name| table.find(name)).cloned();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// The certificate for `name`, lower case; not the default.
    pub fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.table().find(name).cloned()
    }

    /// Names there is a certificate for, wildcards as `*.example.org`, sorted.
    pub fn names(&self) -> Vec<String> {
        let table = self.table();
        let wildcards = table.wildcard.keys().map(|parent| format!("*.{parent}"));
        let mut names: Vec<_> = table.exact.keys().cloned().chain(wildcards).collect();
        names.sort_unstable();
        names
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        // `*.example.org` itself is found as any other name under `example.org` is.
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands the name in lower case and checked.
        let name = hello.server_name();
        if hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS_ALPN) && offered.next().is_none()) {
            return self.challenges.certificate(name?);
        }
        let table = self.table();
        let Some(name) = name else { return table.default.clone() };
        let found = table.find(name);
        if found.is_none()
            && let Some(told) = &self.on_unknown
        {
            told(name);
        }
        found.or(table.default.as_ref()).cloned()
    }
}
