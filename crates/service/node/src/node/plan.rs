//! What an apply would do, as the API tells it.

use std::collections::BTreeSet;

use coppice_api::{FieldChange, PlanReply, PlanStep, PlanSummary, StepAction, StepData, StepEffect};
use coppice_base::Name;
use coppice_dataset::Kind;
use coppice_plan::{Change, DataEffect, Edit, Effect, Observed, Plan, Step, StepKind};
use coppice_spec::AppSpec;
use coppice_state::{Release, State};

use super::Node;

impl Node {
    /// What an apply of this spec would do.
    pub fn plan(&self, spec: &AppSpec) -> PlanReply {
        let state = self.log.read();
        let known = state.app(spec.name.as_str());
        let current = known.filter(|app| !app.current().is_void());
        // Many services of few images are the rule: each is looked up once.
        let images: BTreeSet<&str> = spec.workloads().map(|(_, workload)| workload.image.as_str()).collect();
        let images = images.into_iter().filter_map(|image| {
            let found = self.containers.images.resolve(image).ok().flatten()?;
            Some((image.to_owned(), found.manifest_digest.to_string()))
        });
        let running = current.into_iter().flat_map(|app| &app.current().images);
        let observed = Observed {
            images: images.collect(),
            running: running.map(|(name, digest)| (name.clone(), digest.as_str().to_owned())).collect(),
            secrets: current.into_iter().flat_map(|app| newer_secrets(&state, app.current())).collect(),
            snapshots_are_cheap: self.containers.volumes.kind() != Kind::Directory,
        };
        let plan = coppice_plan::diff(current.map(|app| app.spec()), spec, &observed);
        reply(&plan, known.map(|app| app.current().number))
    }
}

/// Secrets of which a release runs with an older version than an apply now would pin.
fn newer_secrets<'s>(state: &'s State, release: &'s Release) -> impl Iterator<Item = (Name, (u64, u64))> {
    release.secrets.iter().filter_map(|(name, pinned)| {
        let (newest, _) = state.secret(name.as_str())?.newest()?;
        (newest != *pinned).then(|| (name.clone(), (*pinned, newest)))
    })
}

fn reply(plan: &Plan, release: Option<u64>) -> PlanReply {
    let mut summary = PlanSummary::default();
    for step in &plan.steps {
        match step.kind() {
            StepKind::Create => summary.create += 1,
            StepKind::Change => summary.change += 1,
            StepKind::Remove => summary.remove += 1,
        }
        match step.effect() {
            Effect::None => {}
            Effect::Starts => summary.starts += 1,
            Effect::Replaces => summary.replaces += 1,
            Effect::Interrupts => summary.interrupts += 1,
            Effect::Stops => summary.stops += 1,
        }
        if matches!(step.data(), Some((_, DataEffect::Snapshotted))) {
            summary.snapshots += 1;
        }
    }
    PlanReply { app: plan.app.to_string(), release, steps: plan.steps.iter().map(told).collect(), summary }
}

fn told(step: &Step) -> PlanStep {
    let action = match step.kind() {
        StepKind::Create => StepAction::Create,
        StepKind::Change => StepAction::Change,
        StepKind::Remove => StepAction::Remove,
    };
    let effect = match step.effect() {
        Effect::None => StepEffect::None,
        Effect::Starts => StepEffect::Starts,
        Effect::Replaces => StepEffect::Replaces,
        Effect::Interrupts => StepEffect::Interrupts,
        Effect::Stops => StepEffect::Stops,
    };
    let data = step.data().map(|(volume, effect)| {
        let effect = match effect {
            DataEffect::Created => "created",
            DataEffect::Snapshotted => "snapshotted",
            DataEffect::Changed => "changed",
            DataEffect::Left => "left",
            DataEffect::Removed => "removed",
        };
        StepData { volume: volume.to_string(), effect: effect.to_owned() }
    });
    let how = step.how();
    PlanStep {
        action,
        kind: step.word().to_owned(),
        target: step.target(),
        workload: step.workload().map(ToString::to_string),
        effect,
        strategy: how.map(|(how, _)| how.as_str().to_owned()),
        how: how.map(|(_, sentence)| sentence.to_owned()),
        data,
        why: step.why(),
        changes: step.changes().iter().map(change).collect(),
    }
}

fn change(change: &Change) -> FieldChange {
    let (edit, from, to) = match &change.edit {
        Edit::Added(to) => ("added", None, to.clone()),
        Edit::Removed(from) => ("removed", from.clone(), None),
        Edit::Changed(Some((from, to))) => ("changed", Some(from.clone()), Some(to.clone())),
        Edit::Changed(None) => ("changed", None, None),
    };
    FieldChange { field: change.field.clone(), edit: edit.to_owned(), from, to }
}
