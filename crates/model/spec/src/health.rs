//! How an instance's health is found out.

use std::time::Duration;

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

/// A probe and its timing. starting → healthy (one success) → unhealthy (`retries` failures in a row) →
/// healthy (one success). Failures within `start_period` of the start do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    pub probe: HealthProbe,
    pub interval: DurationText,
    pub timeout: DurationText,
    /// At least 1.
    pub retries: u32,
    pub start_period: DurationText,
}

/// What is asked. Ports are the container's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum HealthProbe {
    /// GET `path` on `port` answers 2xx.
    Http { port: u16, path: String },
    /// A connection to `port` succeeds.
    Tcp { port: u16 },
    /// `grpc.health.v1.Health/Check` for `service` ("" = the server) answers SERVING.
    Grpc { port: u16, service: String },
    /// The command exits 0 inside the container.
    Exec { command: Vec<String> },
    /// The release's node answers, inside the container; an expression must be neither false nor nil.
    Rpc { expression: Option<String> },
    /// The container's epmd (port 4369) knows a node of this name: what is before the `@`.
    Epmd { node: String },
}

impl HealthProbe {
    /// The container's port that is asked, where one is.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match *self {
            Self::Http { port, .. } | Self::Tcp { port } | Self::Grpc { port, .. } => Some(port),
            Self::Exec { .. } | Self::Rpc { .. } | Self::Epmd { .. } => None,
        }
    }
}

impl HealthSpec {
    pub const DEFAULT_INTERVAL: DurationText = DurationText(Duration::from_secs(10));
    pub const DEFAULT_TIMEOUT: DurationText = DurationText(Duration::from_secs(5));
    pub const DEFAULT_RETRIES: u32 = 3;
    pub const DEFAULT_START_PERIOD: DurationText = DurationText(Duration::ZERO);
}
