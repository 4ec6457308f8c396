//! Which route takes a request.
//!
//! Precedence, first difference decides: exact host before wildcard; exact path before prefix; longer prefix before
//! shorter; more header conditions before fewer; fewer methods before more, any method last; order of names. A host is one
//! look-up in a hash table; its routes are kept in this order, so that the first that matches is the one.

use std::cmp::Ordering;
use std::collections::HashMap;

use coppice_spec::{PathMatch, RouteSpec};

/// One route, with what the caller keeps for it.
#[derive(Clone, Debug)]
pub struct TableEntry<R> {
    /// `app/service/route`: the last word in precedence, and the name in errors.
    pub name: String,
    pub spec: RouteSpec,
    pub value: R,
}

/// Routes by host, then by precedence.
#[derive(Debug)]
pub struct RouteTable<R> {
    entries: Vec<TableEntry<R>>,
    exact: HashMap<String, Vec<usize>>,
    /// By what stands after `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

/// Two routes that no request can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("routes {first} and {second} both take {host}{path} with the same methods and headers: change or remove one")]
pub struct DuplicateRoute {
    pub first: String,
    pub second: String,
    pub host: String,
    pub path: String,
}

impl<R> RouteTable<R> {
    /// Sorts `entries`. Fails where two are equal in everything that is matched, for the same host.
    pub fn new(mut entries: Vec<TableEntry<R>>) -> Result<Self, DuplicateRoute> {
        for entry in &mut entries {
            entry.spec.methods.sort();
            entry.spec.methods.dedup();
        }
        entries.sort_by(precedence);
        let (mut exact, mut wildcard) = (HashMap::<String, Vec<usize>>::new(), HashMap::<String, Vec<usize>>::new());
        for (at, entry) in entries.iter().enumerate() {
            for host in &entry.spec.hosts {
                let lower = host.to_ascii_lowercase();
                let of_host = match lower.strip_prefix("*.") {
                    Some(rest) => wildcard.entry(rest.to_owned()).or_default(),
                    None => exact.entry(lower).or_default(),
                };
                if of_host.last() == Some(&at) {
                    continue;
                }
                if let Some(other) = of_host.iter().map(|at| &entries[*at]).find(|other| same(&other.spec, &entry.spec))
                {
                    return Err(DuplicateRoute {
                        first: other.name.clone(),
                        second: entry.name.clone(),
                        host: host.clone(),
                        path: entry.spec.path.text().to_owned(),
                    });
                }
                of_host.push(at);
            }
        }
        Ok(Self { entries, exact, wildcard })
    }

    /// The route for a request to `host` (lower case, no port) and `path` (normalised). `has_header(name, value)` says
    /// whether the request has this header with exactly this value.
    pub fn find(
        &self,
        host: &str,
        path: &str,
        method: &str,
        mut has_header: impl FnMut(&str, &str) -> bool,
    ) -> Option<&TableEntry<R>> {
        let exact = self.exact.get(host);
        let parent = || host.split_once('.').map(|(_, parent)| parent);
        let wildcard =
            if self.wildcard.is_empty() { None } else { parent().and_then(|parent| self.wildcard.get(parent)) };
        exact.into_iter().chain(wildcard).flatten().map(|at| &self.entries[*at]).find(|entry| {
            let spec = &entry.spec;
            takes_path(&spec.path, path)
                && (spec.methods.is_empty() || spec.methods.iter().any(|of_route| of_route == method))
                && spec.headers.iter().all(|(name, value)| has_header(name, value))
        })
    }

    /// Whether any route is for `host`.
    pub fn knows_host(&self, host: &str) -> bool {
        self.exact.contains_key(host)
            || host.split_once('.').is_some_and(|(_, parent)| self.wildcard.contains_key(parent))
    }

    pub fn entries(&self) -> impl Iterator<Item = &TableEntry<R>> {
        self.entries.iter()
    }
}

/// Whether `path` is within `of_route`, by whole segments.
pub fn takes_path(of_route: &PathMatch, path: &str) -> bool {
    match of_route {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => match path.strip_prefix(prefix.trim_end_matches('/')) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix == "/",
            None => false,
        },
    }
}

fn precedence<R>(a: &TableEntry<R>, b: &TableEntry<R>) -> Ordering {
    let path = |entry: &TableEntry<R>| match &entry.spec.path {
        PathMatch::Exact(path) => (1, path.len()),
        PathMatch::Prefix(path) => (0, path.trim_end_matches('/').len()),
    };
    let methods = |entry: &TableEntry<R>| match entry.spec.methods.len() {
        0 => usize::MAX,
        some => some,
    };
    path(b)
        .cmp(&path(a))
        .then_with(|| b.spec.headers.len().cmp(&a.spec.headers.len()))
        .then_with(|| methods(a).cmp(&methods(b)))
        .then_with(|| a.name.cmp(&b.name))
}

fn same(a: &RouteSpec, b: &RouteSpec) -> bool {
    let path = match (&a.path, &b.path) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a == b,
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => a.trim_end_matches('/') == b.trim_end_matches('/'),
        _ => false,
    };
    path && a.methods == b.methods && a.headers == b.headers
}
