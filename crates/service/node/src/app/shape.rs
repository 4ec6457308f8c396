//! What an app is to look like here at this moment: as its release says, and during a rollout as far as that has come.
//!
//! The tree changes workload by workload: one that the rollout has entered is the new release's, the others are the old
//! one's. Hooks are in no tree: the rollout runs them.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use coppice_base::Name;
use coppice_rollout::{Phase, Record};
use coppice_spec::{AppSpec, GroupSpec};

use super::AppState;

/// What the log says of an app, with the shape that follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    state: Arc<AppState>,
    /// `None`: its current release's spec as it stands.
    shape: Option<AppSpec>,
    /// The rollout has them rest.
    halted: BTreeSet<Name>,
}

impl Wanted {
    pub(crate) fn of(state: Arc<AppState>) -> Self {
        let rollout = state.rollout();
        let halted = rollout.iter().flat_map(|(record, _)| record.halted()).cloned().collect();
        let mut shape = rollout.map(|(record, before)| {
            let nothing = AppSpec::of(state.spec().name.clone());
            on_the_way(record, before.map_or(&nothing, |before| &before.spec), state.spec())
        });
        if state.current().is_void() {
            shape = Some(AppSpec::of(state.spec().name.clone()));
        }
        let hooks = |spec: &AppSpec| spec.hooks.names().next().is_some();
        if shape.as_ref().map_or_else(|| hooks(state.spec()), hooks) {
            let spec = shape.get_or_insert_with(|| state.spec().clone());
            without_hooks(spec);
        }
        Self { state, shape, halted }
    }

    pub(crate) fn state(&self) -> &Arc<AppState> {
        &self.state
    }

    /// What is here now.
    pub(crate) fn spec(&self) -> &AppSpec {
        self.shape.as_ref().unwrap_or_else(|| self.state.spec())
    }

    /// Instances of a workload now.
    pub(crate) fn replicas(&self, workload: &str) -> u32 {
        match self.spec().services.get(workload) {
            Some(service) => self.state.scale.get(workload).copied().unwrap_or(service.replicas),
            None => u32::from(self.spec().workers.contains_key(workload)),
        }
    }

    /// Whether the same instances are to be led to, by the same names: how far a rollout has come changes neither.
    pub(super) fn leads_as(&self, other: &Self) -> bool {
        self.current().id == other.current().id
            && self.scale == other.scale
            && self.addresses == other.addresses
            && self.spec() == other.spec()
    }

    pub(crate) fn is_stopped(&self, workload: &str) -> bool {
        self.state.is_stopped(workload) || self.halted.contains(workload)
    }
}

impl Deref for Wanted {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.state
    }
}

fn on_the_way(record: &Record, before: &AppSpec, after: &AppSpec) -> AppSpec {
    let mut shape = before.clone();
    let entered = record.plan.stages.iter().map(|stage| &stage.workload).filter(|w| record.is_entered(w.as_str()));
    let gone = record.plan.removed.iter().filter(|_| matches!(record.progress.phase, Phase::Removing | Phase::Ended));
    for workload in entered.clone().chain(gone) {
        shape.services.remove(workload);
        shape.workers.remove(workload);
        for group in shape.groups.values_mut() {
            group.members.retain(|member| member != workload);
        }
    }
    for workload in entered {
        if let Some(service) = after.services.get(workload) {
            shape.services.insert(workload.clone(), service.clone());
        }
        if let Some(worker) = after.workers.get(workload) {
            shape.workers.insert(workload.clone(), worker.clone());
        }
        if let Some(group) = after.group_of(workload.as_str()) {
            let supervise = after.groups[group].supervise;
            let of_group = shape.groups.entry(group.clone());
            of_group.or_insert(GroupSpec { supervise, members: Vec::new() }).members.push(workload.clone());
        }
    }
    shape.groups.retain(|_, group| !group.members.is_empty());
    for (volume, spec) in &after.volumes {
        shape.volumes.entry(volume.clone()).or_insert_with(|| spec.clone());
    }
    without_missing(&mut shape);
    shape
}

fn without_hooks(spec: &mut AppSpec) {
    let hooks: BTreeSet<Name> = spec.hooks.names().cloned().collect();
    spec.workers.retain(|name, _| !hooks.contains(name));
    for group in spec.groups.values_mut() {
        group.members.retain(|member| !hooks.contains(member));
    }
    without_missing(spec);
}

/// Nobody waits for what is not there.
fn without_missing(spec: &mut AppSpec) {
    let there: BTreeSet<Name> = spec.workloads().map(|(name, _)| name.clone()).collect();
    let services = spec.services.values_mut().map(|service| &mut service.workload);
    for workload in services.chain(spec.workers.values_mut().map(|worker| &mut worker.workload)) {
        workload.depends_on.retain(|need| there.contains(&need.name));
    }
}
