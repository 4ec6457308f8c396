//! What must hold between two calls, whatever happened before. Tests call it after every event, `restore` on every
//! snapshot.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::machine::Supervision;
use crate::record::{Desired, HISTORY_MAX, Phase, Snapshot};

impl<K: Ord + Clone + Debug> Supervision<K> {
    /// The broken invariants, each as one sentence; empty when all hold.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let state = &self.state;
        for (i, child) in state.children.iter().enumerate() {
            let key = &child.spec.key;
            let mut must = |holds: bool, what: &str| {
                if !holds {
                    broken.push(format!("{key:?}, {}: {what}", child.state_name()));
                }
            };
            must(self.order.index.get(key) == Some(&i), "is not where the index says");
            must(!self.may_start(i), "could start and was not told to");
            must(!self.may_stop(i), "could stop and was not told to");
            must(child.history.len() <= HISTORY_MAX, "has too long a history");
            must(!(child.leaving && child.wanted), "is leaving and wanted");
            must(!child.leaving || child.doom().is_some(), "is leaving and not doomed");
            must(
                !matches!(child.phase, Phase::Waiting { .. } | Phase::Backoff { .. }) || child.wanted,
                "waits to start and is not wanted",
            );
            must(!matches!(child.phase, Phase::Stopped { .. }) || !child.wanted, "is at rest and wanted");
            must(
                !child.is_alive() || child.doom().is_some() || child.wanted || state.desired == Desired::Untold,
                "lives unwanted and is not doomed",
            );
            if let Phase::Backoff { until, .. } = child.phase {
                must(until > state.now, "is in a backoff that is over");
            }
            if child.round.is_some() {
                let takes_part =
                    child.doom().is_some() || matches!(child.phase, Phase::Waiting { .. } | Phase::Backoff { .. });
                must(takes_part, "is in a round that it takes no part in");
            }
        }
        for supervisor in &state.supervisors {
            if supervisor.restarts.len() > supervisor.supervise.max_restarts as usize {
                broken.push(format!("{} counts more restarts than it may make", supervisor.name));
            }
        }
        if state.failed.is_some() {
            if let Some(child) = state.children.iter().find(|child| child.wanted) {
                broken.push(format!("the tree failed and {:?} is wanted", child.spec.key));
            }
            if state.escalated == state.children.iter().any(|child| child.is_alive()) {
                broken.push("a failed tree escalates when, and only when, nothing lives".to_owned());
            }
        }
        broken
    }
}

impl<K: Ord + Clone + Debug> Snapshot<K> {
    /// What must hold before anything may index into the records.
    pub(crate) fn check_shape(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.supervisors.first().is_none_or(|root| root.parent.is_some()) {
            broken.push("the first supervisor is not the root".to_owned());
        }
        for (s, supervisor) in self.supervisors.iter().enumerate().skip(1) {
            if supervisor.parent.is_none_or(|parent| parent >= s) {
                broken.push(format!("group {} is not under a supervisor before it", supervisor.name));
            }
        }
        let mut seen = BTreeSet::new();
        for child in &self.children {
            let key = &child.spec.key;
            if child.parent >= self.supervisors.len() {
                broken.push(format!("{key:?} has no supervisor"));
            }
            let mut needed = child.spec.needs.iter().flat_map(|need| &need.keys);
            if !child.leaving && needed.any(|needed| !seen.contains(needed)) {
                broken.push(format!("{key:?} stands before what it needs"));
            }
            if !seen.insert(key.clone()) {
                broken.push(format!("{key:?} is there twice"));
            }
        }
        broken
    }
}
