//! What a rollout is to do: made from two releases and what runs, before the new one is proposed.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::{DurationText, Name};
use coppice_rollout::{
    DataState, How, Pace, Plan, Stage, StageVolume, Target, VolumeSnapshot, VolumeSwitch, WorkloadKind, numbered,
};
use coppice_spec::{AppSpec, FailureAction, RolloutSpec, RolloutStrategy};
use coppice_state::{App as AppState, Release, ReleaseId, Trigger};

use super::data::{Volumes, failed_as, holder, kept_as, written_by};
use crate::app::revision;

/// What a plan is made from.
pub(crate) struct RolloutInput<'a> {
    pub(crate) app: &'a AppState,
    /// Not proposed yet: its number is the one that it would get.
    pub(crate) new: &'a Release,
    /// Workloads that are to stay stopped.
    pub(crate) stopped: &'a BTreeSet<Name>,
    /// Whether an instance runs.
    pub(crate) runs: &'a dyn Fn(&str) -> bool,
    /// The number of the latest container of an instance, of those that are there.
    pub(crate) latest: &'a dyn Fn(&str) -> u32,
    pub(crate) volumes: &'a Volumes,
    /// Copies of volumes are of one moment and take no time.
    pub(crate) snapshots_are_cheap: bool,
    /// The release whose data is to come back, too.
    pub(crate) data_of: Option<ReleaseId>,
    /// It goes back to what has proved itself: no canary.
    pub(crate) is_rollback: bool,
}

/// A plan, or why there cannot be one.
pub(crate) type Planned = Result<Option<Box<Plan>>, String>;

/// The way from the app's current release to `input.new`; `None` when no instance is touched.
pub(crate) fn plan(input: &RolloutInput<'_>) -> Planned {
    let before = input.app.current();
    let (old, new) = (&before.spec, &input.new.spec);
    let switches = switches(input)?;
    let switched: BTreeSet<&Name> = switches.iter().map(|switch| &switch.volume).collect();
    let mounts = |spec: &AppSpec, workload: &Name| mounts(spec, workload, &switched);
    let mut halt: Vec<Name> =
        old.start_order().into_iter().filter(|w| !old.hooks.contains(w.as_str()) && mounts(old, w)).collect();
    halt.reverse();
    // Crons first: what they ask of a service they may ask to their end.
    let crons = old.crons.keys().filter(|cron| mounts(old, cron));
    halt.splice(..0, crons.cloned());
    let mut stages = Vec::new();
    let (mut deadline, mut action) = (DurationText::default(), FailureAction::Rollback);
    for workload in new.start_order().into_iter().filter(|workload| !new.hooks.contains(workload.as_str())) {
        let halts = mounts(new, &workload) || halt.contains(&workload);
        let Some(stage) = stage(input, before, &workload, halts) else { continue };
        deadline = DurationText(deadline.0 + stage.deadline.0);
        if new.services.get(&workload).is_some_and(|s| s.rollout.failure_action == FailureAction::Pause) {
            action = FailureAction::Pause;
        }
        stages.push(stage);
    }
    let gone = old.workloads().map(|(name, _)| name).filter(|name| !old.hooks.contains(name.as_str()));
    let removed: Vec<Name> = gone
        .filter(|name| new.workload(name.as_str()).is_none() || new.hooks.contains(name.as_str()))
        .cloned()
        .collect();
    let hooks = if input.is_rollback { &old.hooks.before_rollback } else { &new.hooks.before_deploy };
    let (before_hooks, after_hooks) =
        (hooks.clone(), if input.is_rollback { Vec::new() } else { new.hooks.after_deploy.clone() });
    if stages.is_empty()
        && removed.is_empty()
        && switches.is_empty()
        && before_hooks.is_empty()
        && after_hooks.is_empty()
    {
        return Ok(None);
    }
    // Data that is switched is kept by the switch; that of a service that is stopped, when it has stopped.
    let by_stage: BTreeSet<Name> = stages.iter().flat_map(switch_volumes).cloned().collect();
    let touched: BTreeSet<Name> = stages
        .iter()
        .map(|stage| &stage.workload)
        .chain(&removed)
        .flat_map(|workload| [old, new].into_iter().flat_map(|spec| written_by(spec, workload.as_str())))
        .collect();
    let has_workers = !before_hooks.is_empty()
        || !after_hooks.is_empty()
        || stages.iter().any(|stage| stage.kind == WorkloadKind::Worker);
    let wanted = |volume: &&Name| {
        // A migration writes through its database: whose volume that is nobody says.
        touched.contains(*volume) || has_workers || input.snapshots_are_cheap
    };
    let live = input.volumes.keys().filter(|volume| !switched.contains(volume) && !by_stage.contains(*volume));
    let live: Vec<&Name> = if new.keep == 0 { Vec::new() } else { live.filter(wanted).collect() };
    let own =
        |volume: &&Name| [old, new].iter().any(|spec| spec.volumes.get(*volume).is_some_and(|v| v.host_path.is_none()));
    let snapshots = live.into_iter().filter(own).map(|volume| VolumeSnapshot {
        volume: volume.clone(),
        snapshot: free(input.volumes, volume, &kept_as(before.number, input.new.number)),
    });
    let snapshots = snapshots.collect();
    halt.retain(|_| !switches.is_empty());
    let hooks_time = DurationText(RolloutSpec::default().deadline.0);
    Ok(Some(Box::new(Plan {
        first: false,
        snapshots,
        before: before_hooks,
        ahead: 0,
        switches,
        halt,
        stages,
        after: after_hooks,
        removed,
        failure_action: action,
        deadline: DurationText(deadline.0 + hooks_time.0),
    })))
}

/// How an app of which nothing is there comes to be; `None` when supervision may start everything at once, as no hook runs
/// around it. What the hooks before it need is started ahead of them: a migration finds its database.
pub(crate) fn first(new: &Release) -> Option<Box<Plan>> {
    let spec = &new.spec;
    let is_rollback = matches!(new.trigger, Trigger::Rollback { .. });
    if is_rollback || spec.hooks.before_deploy.is_empty() && spec.hooks.after_deploy.is_empty() {
        return None;
    }
    let mut needed: BTreeSet<Name> = BTreeSet::new();
    let mut left = spec.hooks.before_deploy.clone();
    while let Some(name) = left.pop() {
        let needs = spec.workload(name.as_str()).into_iter().flat_map(|workload| &workload.depends_on);
        left.extend(needs.map(|need| need.name.clone()).filter(|need| needed.insert(need.clone())));
    }
    let order = spec.start_order().into_iter().filter(|workload| !spec.hooks.contains(workload.as_str()));
    let (ahead, others): (Vec<Name>, Vec<Name>) = order.partition(|workload| needed.contains(workload));
    let mut deadline = RolloutSpec::default().deadline.0;
    let stages = ahead.iter().chain(&others).map(|workload| {
        let service = spec.services.get(workload);
        let rollout = service.map(|service| service.rollout.clone()).unwrap_or_default();
        deadline += rollout.deadline.0;
        let instances = match service {
            Some(service) => (1..=service.replicas).map(|n| coppice_plan::instance_name(workload, n)).collect(),
            None => vec![workload.to_string()],
        };
        Stage {
            workload: workload.clone(),
            kind: if service.is_some() { WorkloadKind::Service } else { WorkloadKind::Worker },
            how: How::Tree,
            targets: instances
                .into_iter()
                .map(|instance| Target { instance, has_old: false, numbered_after: 0 })
                .collect(),
            ready_timeout: if service.is_some() { rollout.ready_timeout } else { rollout.deadline },
            deadline: rollout.deadline,
            delay: DurationText::default(),
        }
    });
    let stages = stages.collect();
    let pauses = |service: &coppice_spec::ServiceSpec| service.rollout.failure_action == FailureAction::Pause;
    Some(Box::new(Plan {
        first: true,
        snapshots: Vec::new(),
        before: spec.hooks.before_deploy.clone(),
        ahead: ahead.len(),
        switches: Vec::new(),
        halt: Vec::new(),
        stages,
        after: spec.hooks.after_deploy.clone(),
        removed: Vec::new(),
        failure_action: match spec.services.values().any(pauses) {
            true => FailureAction::Pause,
            false => FailureAction::Rollback,
        },
        deadline: DurationText(deadline),
    }))
}

fn switch_volumes(stage: &Stage) -> impl Iterator<Item = &Name> {
    let volumes = if let How::Switch { volumes, .. } = &stage.how { volumes.as_slice() } else { &[] };
    volumes.iter().map(|one| &one.volume)
}

fn mounts(spec: &AppSpec, workload: &Name, volumes: &BTreeSet<&Name>) -> bool {
    let of = spec.definition(workload.as_str()).into_iter().flat_map(|definition| &definition.volumes);
    of.into_iter().any(|mount| matches!(&mount.source, coppice_spec::MountSource::Volume(v) if volumes.contains(v)))
}

/// How one workload goes to its new definition; `None` when it stays as it is.
fn stage(input: &RolloutInput<'_>, before: &Release, workload: &Name, halts: bool) -> Option<Stage> {
    let (old, new) = (&before.spec, &input.new.spec);
    let count = |spec: &AppSpec| spec.services.get(workload).map_or(0, |service| service.replicas);
    let service = new.services.get(workload);
    let was_here = match service {
        Some(_) => old.services.contains_key(workload),
        None => old.workers.contains_key(workload) && !old.hooks.contains(workload.as_str()),
    };
    let same = was_here && revision(before, workload) == revision(input.new, workload) && count(old) == count(new);
    if same && !halts {
        return None;
    }
    let same_definition = was_here && revision(before, workload) == revision(input.new, workload);
    let spec = service.map(|service| service.rollout.clone()).unwrap_or_default();
    let target = |instance: String, has_old| {
        let numbered_after = (input.latest)(&instance);
        Target { instance, has_old, numbered_after }
    };
    let instances: Vec<Target> = match service {
        Some(service) => (1..=service.replicas)
            .map(|index| target(coppice_plan::instance_name(workload, index), was_here && index <= count(old)))
            .collect(),
        None => vec![target(workload.to_string(), was_here)],
    };
    let any_runs = instances.iter().any(|target| target.has_old && (input.runs)(&target.instance));
    let by_tree = service.is_none()
        || !was_here
        || !any_runs
        || halts
        || same_definition
        || input.stopped.contains(workload)
        || input.app.is_stopped(workload.as_str());
    let pace = Pace { parallelism: spec.parallelism.max(1), max_surge: spec.max_surge.max(1) };
    let how = match spec.strategy {
        _ if by_tree => How::Tree,
        RolloutStrategy::Canary if !input.is_rollback => {
            How::Canary { steps: spec.canary.clone(), analysis: spec.analysis.clone(), pace }
        }
        RolloutStrategy::Rolling | RolloutStrategy::Canary => How::Rolling(pace),
        RolloutStrategy::BlueGreen => How::BlueGreen,
        RolloutStrategy::Switch => How::Switch { volumes: stage_volumes(input, before, workload), keep_writes: true },
    };
    Some(Stage {
        workload: workload.clone(),
        kind: if service.is_some() { WorkloadKind::Service } else { WorkloadKind::Worker },
        how,
        targets: instances,
        // A worker that others wait for may take as long as the whole stage.
        ready_timeout: if service.is_some() { spec.ready_timeout } else { spec.deadline },
        deadline: spec.deadline,
        delay: if input.is_rollback { DurationText::default() } else { spec.delay },
    })
}

fn stage_volumes(input: &RolloutInput<'_>, before: &Release, workload: &Name) -> Vec<StageVolume> {
    if input.new.spec.keep == 0 {
        return Vec::new();
    }
    let written = [&before.spec, &input.new.spec].into_iter().flat_map(|spec| written_by(spec, workload.as_str()));
    let written: BTreeSet<Name> = written.filter(|volume| input.volumes.contains_key(volume)).collect();
    let each = written.into_iter().map(|volume| StageVolume {
        snapshot: free(input.volumes, &volume, &kept_as(before.number, input.new.number)),
        cut: free(input.volumes, &volume, &failed_as(input.new.number)),
        volume,
    });
    each.collect()
}

/// The name, or the first of `NAME.2`, `NAME.3`… that no snapshot of the volume has.
fn free(volumes: &Volumes, volume: &Name, name: &str) -> String {
    let taken = |text: &str| volumes.get(volume).is_some_and(|snapshots| snapshots.contains(text));
    let numbered = (2u64..).map(|number| format!("{name}.{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|text| !taken(text)).unwrap_or_default()
}

/// The volumes' ways back to what the release of `input.data_of` left.
fn switches(input: &RolloutInput<'_>) -> Result<Vec<VolumeSwitch>, String> {
    let Some(id) = input.data_of else { return Ok(Vec::new()) };
    let target = input.app.release(id).ok_or_else(|| format!("release {id} is not kept any more"))?;
    let before = input.app.current();
    let left = left_by(input.app, target);
    let mut switches = Vec::new();
    let mut missing = Vec::new();
    for (volume, spec) in target.spec.volumes.iter().filter(|(_, spec)| spec.host_path.is_none()) {
        let _ = spec;
        let Some(snapshots) = input.volumes.get(volume) else { continue };
        let to = left.get(volume).filter(|name| snapshots.contains(name.as_str())).cloned().or_else(|| {
            let held = snapshots.iter().filter(|name| holder(name) == Some(target.number));
            held.max_by_key(|name| order(name)).cloned()
        });
        match to {
            Some(to) => switches.push(VolumeSwitch {
                volume: volume.clone(),
                to,
                keep: free(input.volumes, volume, &kept_as(before.number, input.new.number)),
                cut: free(input.volumes, volume, &failed_as(input.new.number)),
            }),
            None => missing.push(volume.to_string()),
        }
    }
    if !missing.is_empty() {
        return Err(format!(
            "the data that release {} left in {} is not kept: the app keeps that of {} releases, and of each only \
             what the next one changed the use of; roll back without --data, or to a later release",
            target.number,
            missing.join(", "),
            input.app.spec().keep
        ));
    }
    Ok(switches)
}

/// Later ones last: `r4-before-r5` before `r4-before-r12` before `r4-before-r12.2`.
fn order(name: &str) -> (u64, u64) {
    let rest = name.rsplit_once("-before-r").map_or("", |(_, rest)| rest);
    let (number, again) = rest.split_once('.').unwrap_or((rest, "1"));
    (number.parse().unwrap_or(0), again.parse().unwrap_or(0))
}

/// The snapshots of what a release left, by volume: the last ones taken when it was replaced.
fn left_by(app: &AppState, target: &Release) -> BTreeMap<Name, String> {
    let mut left = BTreeMap::new();
    for next in app.releases.iter().filter(|next| next.from == Some(target.id)) {
        let Some(record) = next.rollout.as_deref() else { continue };
        let taken = record
            .plan
            .snapshots
            .iter()
            .zip(&record.progress.snapshots)
            .filter(|(_, taken)| **taken == DataState::Done);
        left.extend(taken.map(|(one, _)| (one.volume.clone(), one.snapshot.clone())));
        left.extend(record.plan.switches.iter().map(|one| (one.volume.clone(), one.keep.clone())));
        for (stage, at) in record.plan.stages.iter().zip(&record.progress.stages) {
            if let How::Switch { volumes, .. } = &stage.how {
                // What was blocked, and resumed, took another each time: the one before ran, and wrote, meanwhile.
                left.extend(volumes.iter().map(|one| (one.volume.clone(), numbered(&one.snapshot, at.attempt))));
            }
        }
    }
    left
}

#[cfg(test)]
mod tests;
