//! An ad-hoc container (`coppice run`, `coppice create`).

use coppice_base::Name;
use serde::{Deserialize, Serialize};

use crate::{HealthSpec, PortSpec, RestartPolicy, WorkloadSpec};

/// What `coppice run` asks of a node. Never goes through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// `None`: the node makes one from the id.
    pub name: Option<Name>,
    pub workload: WorkloadSpec,
    pub ports: Vec<PortSpec>,
    pub restart: RestartPolicy,
    pub health: Option<HealthSpec>,
    /// Remove the container, its writable layer and its anonymous volumes when it ends.
    pub remove: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub interactive: bool,
}
