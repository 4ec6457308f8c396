//! One app as agreed: its releases and what is wanted of the current one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_base::{Name, Timestamp};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};

use crate::{Actor, Digest, ReleaseId, ServiceAddress, UidRange};

/// An app. Everything but the releases is about the current release's workloads only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Oldest first, the current one last, never empty; bounded by [`RELEASES_KEPT`](crate::RELEASES_KEPT).
    pub releases: Vec<Arc<Release>>,
    /// Workloads wanted stopped.
    pub stopped: BTreeSet<Name>,
    /// Replicas that differ from the spec's, by service.
    pub scale: BTreeMap<Name, u32>,
    /// How often a restart was asked for, by workload. An instance started under an earlier generation is to
    /// be replaced.
    pub restarts: BTreeMap<Name, u64>,
    pub uid_range: UidRange,
    /// Virtual addresses of services that are not headless.
    #[serde(default)]
    pub addresses: BTreeMap<Name, ServiceAddress>,
}

/// One immutable record of what was asked to run; only its verdict and missing digests are filled in later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub id: ReleaseId,
    /// 1 for the app's first release, then one more each time.
    pub number: u64,
    pub spec: AppSpec,
    /// Digests by workload, as far as they are resolved.
    pub images: BTreeMap<Name, Digest>,
    /// Versions of the secrets it runs with.
    #[serde(default)]
    pub secrets: BTreeMap<Name, u64>,
    pub created_at: Timestamp,
    pub actor: Actor,
    /// `None`: still being rolled out.
    pub verdict: Option<Verdict>,
}

/// How a release turned out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Succeeded,
    Failed {
        reason: String,
    },
    /// A later release came before this one had a verdict.
    Superseded,
}

impl App {
    /// The release that is wanted now.
    pub fn current(&self) -> &Release {
        self.releases.last().expect("an app has a release (State::check)")
    }

    pub fn spec(&self) -> &AppSpec {
        &self.current().spec
    }

    pub fn release(&self, id: ReleaseId) -> Option<&Release> {
        self.releases.iter().find(|release| release.id == id).map(Arc::as_ref)
    }

    /// The newest release that succeeded: where a roll-back goes by default.
    pub fn last_succeeded(&self) -> Option<&Release> {
        self.releases.iter().rev().find(|release| release.verdict == Some(Verdict::Succeeded)).map(Arc::as_ref)
    }

    /// Instances wanted of a workload, leaving stops aside: the scale set for a service, else its spec's
    /// replicas; 1 for a worker; 0 for what is not defined.
    pub fn replicas(&self, workload: &str) -> u32 {
        let spec = self.spec();
        match spec.services.get(workload) {
            Some(service) => self.scale.get(workload).copied().unwrap_or(service.replicas),
            None => u32::from(spec.workers.contains_key(workload)),
        }
    }

    pub fn is_stopped(&self, workload: &str) -> bool {
        self.stopped.contains(workload)
    }

    /// The restart generation of a workload; 0 when none was asked for.
    pub fn generation(&self, workload: &str) -> u64 {
        self.restarts.get(workload).copied().unwrap_or(0)
    }
}
