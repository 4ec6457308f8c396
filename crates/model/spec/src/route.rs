//! How requests from outside reach a service: its routes at the L7 proxy.
//!
//! Precedence of routes that match one request is not told here but in the route core: exact host before wildcard,
//! exact path before prefix and longer prefix before shorter, more header conditions before fewer, fewer methods before
//! more, and then the order of names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use coppice_base::{Bytes, DurationText, Name};
use serde::{Deserialize, Serialize};

/// One route of a service (`http_proxy`, or one of `http_routes`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Unique within the service; `default` for `http_proxy`.
    pub name: Name,
    /// Lower-case names without port; `*.example.com` stands for exactly one more label. Never empty.
    pub hosts: Vec<String>,
    pub path: PathMatch,
    /// Upper case; empty: any.
    pub methods: Vec<String>,
    /// All must be there with exactly this value. Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Replaces the matched prefix (or the exact path) on the way to the service. Starts with `/`.
    pub rewrite: Option<String>,
    /// What answers instead of an instance, if anything.
    pub action: RouteAction,
    /// Services of the app and their shares, 1–100 each; the sum is 100. Empty: the owning service alone.
    pub backends: BTreeMap<Name, u32>,
    /// A service that gets a copy of each request, whose answers nobody sees.
    pub mirror: Option<Name>,
    /// The container's port; `None`: the first of the service's `ports`, else of the image's EXPOSE, else the one that
    /// its health check asks, else 80.
    pub port: Option<u16>,
    /// How instances are spoken to.
    pub protocol: BackendProtocol,
    pub retry: RetrySpec,
    pub timeouts: RouteTimeouts,
    pub breaker: BreakerSpec,
    /// The client's Host is sent on; otherwise the instance's own address.
    pub preserve_host: bool,
    pub sticky: Option<Sticky>,
    pub rate_limit: Option<RateLimit>,
    /// User name → password hash (`$argon2…`, `$2b$…` or `{SHA256}` with hex). Empty: nobody is asked.
    pub basic_auth: BTreeMap<String, String>,
    /// Networks that may come in, all others get 403; empty: all.
    pub allow: Vec<Cidr>,
    /// Set on the way to the instance; an empty value removes the header.
    pub request_headers: BTreeMap<String, String>,
    /// Set on the way to the client; an empty value removes the header.
    pub response_headers: BTreeMap<String, String>,
    /// Largest request body; `None`: any.
    pub max_body: Option<Bytes>,
}

/// Which paths a route takes. Compared after `%2e`, `.` and `..` segments are refused or resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// Whole segments: `/api` takes `/api` and `/api/x` but not `/apiary`. `/` takes all.
    Prefix(String),
    Exact(String),
}

impl PathMatch {
    pub fn text(&self) -> &str {
        match self {
            Self::Prefix(path) | Self::Exact(path) => path,
        }
    }
}

/// What a route does with a request it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteAction {
    #[default]
    Forward,
    /// 301, 302, 307 or 308 to `to`, in which `{host}`, `{path}` and `{query}` stand for the request's.
    Redirect { to: String, status: u16 },
    /// 503 with this HTML, and Retry-After.
    Maintenance { html: String },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendProtocol {
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge; what gRPC needs. Requests that came as HTTP/2 with `application/grpc` use it anyway.
    H2c,
}

/// Retries of requests that an instance did not begin to answer: GET, HEAD and OPTIONS only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrySpec {
    /// 0–5, each on another instance where there is one.
    pub count: u32,
    /// Also after a 5xx answer.
    pub on_5xx: bool,
    /// Retries may be at most this share of the route's requests of the last ten seconds, in percent (and at least 10 a
    /// window): a service that is down is not buried under its clients' retries.
    pub budget_percent: u32,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { count: 0, on_5xx: true, budget_percent: 20 }
    }
}

/// Defaults are yoq's, but for the idle time of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTimeouts {
    pub connect: DurationText,
    /// From the request's last byte to the answer's head. Streams and upgraded connections live on after it.
    pub request: DurationText,
    /// Nothing moves either way for so long: the connection is closed.
    pub idle: DurationText,
}

impl Default for RouteTimeouts {
    fn default() -> Self {
        Self {
            connect: DurationText(Duration::from_secs(1)),
            request: DurationText(Duration::from_secs(30)),
            idle: DurationText(Duration::from_secs(300)),
        }
    }
}

/// An instance that fails `threshold` times in a row gets no requests for `timeout`, then one to prove itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerSpec {
    /// 1–10 failures (no connection, no answer, or 5xx) in a row.
    pub threshold: u32,
    pub timeout: DurationText,
}

impl Default for BreakerSpec {
    fn default() -> Self {
        Self { threshold: 3, timeout: DurationText(Duration::from_secs(30)) }
    }
}

/// What keeps a client with the instance it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// A cookie of this name, which the proxy sets.
    Cookie(String),
    /// Requests with equal values of this header go to one instance.
    Header(String),
    /// The client's address.
    Client,
}

/// A token bucket for each client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Tokens a second, at least 1.
    pub per_second: u32,
    /// Bucket size, at least 1.
    pub burst: u32,
}

/// A network, as `192.0.2.0/24`, `2001:db8::/32` or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: write it as 192.0.2.0/24, 2001:db8::/32 or one address")]
pub struct CidrError(String);

impl Cidr {
    /// Whether `address` is in it. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let network: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(bad)?,
            None => most,
        };
        Ok(Self { network, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl RouteSpec {
    /// What the route takes, one text for each host: two routes with an equal one could not both be reached.
    pub fn conditions(&self) -> impl Iterator<Item = String> {
        let path = match &self.path {
            PathMatch::Prefix(path) => format!("{}*", path.trim_end_matches('/')),
            PathMatch::Exact(path) => path.clone(),
        };
        let mut methods: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        methods.sort_unstable();
        let headers: Vec<String> = self.headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        let rest = format!("{path}{}{}", headers.concat(), methods.iter().map(|m| format!(" {m}")).collect::<String>());
        self.hosts.iter().map(move |host| format!("{host}{rest}"))
    }

    /// A route of `host` with every default.
    pub fn of(name: Name, host: impl Into<String>) -> Self {
        Self {
            name,
            hosts: vec![host.into()],
            path: PathMatch::Prefix("/".to_owned()),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            rewrite: None,
            action: RouteAction::Forward,
            backends: BTreeMap::new(),
            mirror: None,
            port: None,
            protocol: BackendProtocol::Http1,
            retry: RetrySpec::default(),
            timeouts: RouteTimeouts::default(),
            breaker: BreakerSpec::default(),
            preserve_host: true,
            sticky: None,
            rate_limit: None,
            basic_auth: BTreeMap::new(),
            allow: Vec::new(),
            request_headers: BTreeMap::new(),
            response_headers: BTreeMap::new(),
            max_body: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_addresses_and_no_others() {
        let net = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(net("192.0.2.0/24").contains("192.0.2.255".parse().unwrap()));
        assert!(net("192.0.2.0/24").contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!net("192.0.2.0/24").contains("192.0.3.0".parse().unwrap()));
        assert!(net("0.0.0.0/0").contains("8.8.8.8".parse().unwrap()));
        assert!(!net("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(net("2001:db8::/32").contains("2001:db8:1::1".parse().unwrap()));
        assert!(net("::1").contains("::1".parse().unwrap()));
        for bad in ["", "192.0.2.0/33", "x", "192.0.2/24", "::/129", "192.0.2.0/"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
