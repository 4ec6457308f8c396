//! The network: what there is, and why one cannot reach another.

use coppice_base::{Name, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BreakerState, PortDetail};

/// The network of a node: its bridge, and all services as others see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// `None`: no container has had a network yet.
    pub bridge: Option<BridgeStatus>,
    /// Links of this machine with a default route.
    pub uplinks: Vec<String>,
    /// Where the HTTP proxy listens; empty while no app has routes.
    pub proxy: Vec<String>,
    /// In order of app and name.
    pub services: Vec<ServiceNetwork>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BridgeStatus {
    pub name: String,
    pub up: bool,
    /// e.g. `10.88.0.0/16`.
    pub subnet: String,
    /// Its own address, where names are answered.
    pub gateway: String,
    /// `None`: this machine has no IPv6.
    pub subnet6: Option<String>,
    pub gateway6: Option<String>,
    /// The nftables table: `intact`, `changed`, `missing` or `unknown`.
    pub rules: String,
    /// BPF programs balance connections.
    pub fast_path: bool,
    /// Why not.
    pub fast_path_reason: Option<String>,
    /// The name server answers at the gateway's address.
    pub names: bool,
}

/// A service as others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceNetwork {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub service: Name,
    /// One for all its instances, IPv4 first; empty: it has none, or is headless.
    pub virtual_addresses: Vec<String>,
    /// Its name resolves to its instances.
    pub headless: bool,
    /// In its app, in other apps, and whole.
    pub names: Vec<String>,
    pub instances: Vec<InstanceNetwork>,
    /// Published on the host.
    pub ports: Vec<PortDetail>,
    pub routes: Vec<RouteNetwork>,
    /// Who may not connect to it: services as `shop/web`, and `others` for containers of no app. Empty: everybody may.
    pub denied: Vec<String>,
    /// `off`, `warn` or `require`.
    pub peer_tls: String,
    /// Of the domains that it has certificates for.
    pub certificates: Vec<CertificateNetwork>,
}

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceNetwork {
    /// As in `web-1`.
    pub instance: String,
    /// IPv4 first.
    pub addresses: Vec<String>,
    pub ready: bool,
    /// It is being stopped: finishes what it has.
    pub leaving: bool,
}

/// What the proxy sends to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteNetwork {
    #[schema(value_type = String)]
    pub name: Name,
    pub hosts: Vec<String>,
    /// `/cart`: that path and all below it; `=/cart`: that one alone.
    pub path: String,
    pub backends: Vec<BackendNetwork>,
}

/// An instance behind a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendNetwork {
    pub instance: String,
    pub address: String,
    pub ready: bool,
    pub draining: bool,
    pub ejected: bool,
    pub breaker: BreakerState,
}

/// A certificate that is shown to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateNetwork {
    pub domain: String,
    /// `None`: there is none yet.
    #[schema(value_type = Option<u64>)]
    pub not_after: Option<Timestamp>,
}

/// What was looked at on the way from one to another, in the order in which a connection depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// As it was understood: `shop/web-1`, `host`; `None`: the node's network as a whole was asked about.
    pub from: Option<String>,
    pub to: Option<String>,
    /// Nothing is broken.
    pub well: bool,
    /// The problem of the first step that is broken; docs/doctor.md lists them.
    pub problem: Option<String>,
    pub steps: Vec<DoctorStep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorStep {
    /// What was looked at: `bridge`, `name`, `policy`.
    pub step: String,
    pub state: DoctorState,
    /// What was found, in a sentence.
    pub found: String,
    /// A word for programs, as `policy-denied`, where something is broken.
    pub problem: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DoctorState {
    Fine,
    /// A connection fails for it.
    Broken,
    /// It may be meant so, or may not matter here.
    Doubtful,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
}
