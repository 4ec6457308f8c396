//! One app as agreed: its releases and what is wanted of the current one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_base::{Name, Timestamp};
use coppice_rollout::{Record, Side};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};

use crate::{Actor, Digest, Preview, ReleaseId, ServiceAddress, UidRange};

/// An app. Everything but the releases is about the current release's workloads only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Oldest first, never empty; bounded by [`RELEASES_KEPT`](crate::RELEASES_KEPT).
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
    /// `Some`: it stands beside another app, for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
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
    pub created_at: Timestamp,
    pub actor: Actor,
    /// `None`: still being rolled out.
    pub verdict: Option<Verdict>,
    #[serde(default)]
    pub trigger: Trigger,
    /// What was current when it came, if anything of that was there. It is kept for as long as this one is being rolled out.
    #[serde(default)]
    pub from: Option<ReleaseId>,
    /// `None`: it replaced nothing, and ran no hooks.
    #[serde(default)]
    pub rollout: Option<Box<Record>>,
    /// Versions of the secrets it runs with.
    #[serde(default)]
    pub secrets: BTreeMap<Name, u64>,
    /// When it got its verdict.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// Why there is a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    #[default]
    Apply,
    /// What `source` was comes back, with `data` its volumes' data too.
    Rollback { source: ReleaseId, data: bool },
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
    /// What it had changed went back: the release before it is the current one again.
    RolledBack {
        reason: String,
    },
}

impl App {
    /// The release that is wanted now: the newest that was not rolled back.
    pub fn current(&self) -> &Release {
        self.releases.iter().rev().find(|release| !release.is_rolled_back()).expect("an app has one (State::check)")
    }

    /// The last one that was asked for, whatever became of it.
    pub fn newest(&self) -> &Release {
        self.releases.last().expect("an app has a release (State::check)")
    }

    /// The current release's rollout while it has not ended, and the release that it replaces, if it replaces one.
    pub fn rollout(&self) -> Option<(&Record, Option<&Release>)> {
        let current = self.current();
        let record = current.rollout.as_deref().filter(|_| current.verdict.is_none())?;
        Some((record, current.from.and_then(|from| self.release(from))))
    }

    /// The release by which a workload is supervised now: during a rollout the one before, until the workload has been
    /// entered.
    pub fn release_of(&self, workload: &str) -> &Release {
        match self.rollout() {
            Some((record, Some(before))) if !record.is_entered(workload) => before,
            _ => self.current(),
        }
    }

    /// The release whose definition an instance has now.
    pub fn release_of_instance(&self, workload: &str, instance: &str) -> &Release {
        match self.rollout() {
            Some((record, _)) => self.release_at(record.side_of(workload, instance)),
            None => self.current(),
        }
    }

    /// The release on one side of the rollout that goes on; without one, or with nothing before it, the current one is on
    /// both.
    pub fn release_at(&self, side: Side) -> &Release {
        match self.rollout() {
            Some((_, Some(before))) if side == Side::Old => before,
            _ => self.current(),
        }
    }

    /// The releases' specs by which there may be instances now: the current one's, and during a rollout the one's before.
    pub fn specs(&self) -> impl Iterator<Item = &AppSpec> {
        std::iter::once(self.spec()).chain(self.rollout().and_then(|(_, before)| before).map(|before| &before.spec))
    }

    pub fn spec(&self) -> &AppSpec {
        &self.current().spec
    }

    pub fn release(&self, id: ReleaseId) -> Option<&Release> {
        self.releases.iter().find(|release| release.id == id).map(Arc::as_ref)
    }

    /// Where a rollback goes by default: the newest release before the current one that succeeded.
    pub fn previous_successful(&self) -> Option<&Arc<Release>> {
        let current = self.current();
        self.releases.iter().rev().find(|release| {
            release.number < current.number
                && release.verdict == Some(Verdict::Succeeded)
                // The one that a rollback brought back is what the current one is already.
                && !matches!(current.trigger, Trigger::Rollback { source, .. } if source == release.id)
        })
    }

    /// What a node brings back by itself when the current release has exhausted its supervisor. What it brought back itself is
    /// given up for an older one, never for what was given up before: it ends with the oldest.
    pub fn to_bring_back(&self) -> Option<&Arc<Release>> {
        let mut given_up = self.current();
        while let (Actor::Node(_), Trigger::Rollback { source, .. }) = (&given_up.actor, &given_up.trigger) {
            given_up = self.release(*source)?;
        }
        if given_up.id == self.current().id {
            return self.previous_successful();
        }
        let succeeded = |release: &&Arc<Release>| release.verdict == Some(Verdict::Succeeded);
        self.releases.iter().rev().filter(succeeded).find(|release| release.number < given_up.number)
    }

    /// The newest release that succeeded.
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

impl Release {
    pub fn is_rolled_back(&self) -> bool {
        matches!(self.verdict, Some(Verdict::RolledBack { .. }))
    }

    /// Whether it failed as an app's first one, and everything of it was taken away again: nothing of the app is wanted
    /// until another comes.
    pub fn is_void(&self) -> bool {
        let went_back = |record: &Record| {
            let outcome = record.progress.outcome.as_ref();
            outcome.is_some_and(|outcome| outcome.verdict != coppice_rollout::Verdict::Completed)
        };
        matches!(self.verdict, Some(Verdict::Failed { .. })) && self.rollout.as_deref().is_some_and(went_back)
    }
}
