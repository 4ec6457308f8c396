//! The comparison itself.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_spec::{
    AppSpec, HooksSpec, MountSource, OnRotate, PolicySpec, PortSpec, PullPolicy, RestartPolicy, SecretUse, ServiceSpec,
    WorkerSpec, WorkloadSpec,
};
use serde::{Deserialize, Serialize};

use crate::change::{Change, Edit};
use crate::fields;
use crate::instance::instance_name;
use crate::step::{HookWhen, Plan, PullReason, Replacement, Step, StopReason, Subject};

/// What is known of the node. Empty: nothing is here, and nothing is known of what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Images on the node: reference as in the spec → digest.
    pub images: BTreeMap<String, String>,
    /// The digest each workload's instances run from.
    pub running: BTreeMap<Name, String>,
    /// Secrets that have a newer version than the one the app runs with: that one, and the newest.
    #[serde(default)]
    pub secrets: BTreeMap<Name, (u64, u64)>,
    /// A snapshot costs nothing and is of one moment: every volume is kept as it was, also for workloads that reach it by
    /// another one.
    #[serde(default)]
    pub snapshots_are_cheap: bool,
}

/// What leads from `current` (`None`: the app does not exist) to `desired`. Both must pass `AppSpec::check`. An
/// image that must be pulled always is only pulled for instances that are started or replaced anyway.
pub fn diff(current: Option<&AppSpec>, desired: &AppSpec, observed: &Observed) -> Plan {
    // Taken apart so that a field that is added cannot be forgotten: each is named with who compares it.
    let AppSpec {
        name: _, // by which `current` was found
        services: _,
        workers: _, // instance_steps, stops, ports, traffic
        volumes: _, // volumes_in, snapshots
        labels: _,
        supervise: _,
        groups: _,
        on_exhausted: _, // supervision
        policy: _,       // traffic
        crons: _,        // crons
        hooks: _,
        keep: _,
        secrets: _, // releases
    } = desired;
    let order = desired.start_order();
    let mut steps = Vec::new();
    let runs = instance_steps(current, desired, &order, observed);
    let stops: Vec<Step> = current.into_iter().flat_map(|current| stops(current, desired)).collect();

    volumes_in(current, desired, &mut steps);
    pulls(desired, observed, &runs, &mut steps);
    let before = steps.len();
    let (gone_ports, new_ports) = ports(current, desired);
    steps.extend(gone_ports);
    steps.extend(stops);
    supervision(current, desired, &order, &mut steps);
    releases(current, desired, observed, &mut steps);
    traffic(current, desired, &mut steps);
    crons(current, desired, &mut steps);
    steps.extend(runs);
    steps.extend(new_ports);
    for volume in current.into_iter().flat_map(|current| current.volumes.keys()) {
        if !desired.volumes.contains_key(volume) {
            steps.push(Step::LeaveVolume { volume: volume.clone() });
        }
    }
    if !steps.is_empty() {
        let hook = |when| move |worker: &Name| Step::RunHook { worker: worker.clone(), when };
        let HooksSpec { before_deploy, after_deploy, before_rollback: _ } = &desired.hooks;
        let mut first = Vec::new();
        if let Some(current) = current {
            snapshots(current, desired, observed.snapshots_are_cheap, &steps, &mut first);
        }
        first.extend(before_deploy.iter().map(hook(HookWhen::BeforeDeploy)));
        steps.extend(after_deploy.iter().map(hook(HookWhen::AfterDeploy)));
        steps.splice(before..before, first);
    }
    Plan { app: desired.name.clone(), steps }
}

/// Volumes with data of the app's own that something mounts, or is to mount, which stops, starts or is replaced; all of
/// them, where a worker or hook runs (a migration writes through the service that has the data), or where snapshots cost
/// nothing.
fn snapshots(current: &AppSpec, desired: &AppSpec, cheap: bool, touched: &[Step], steps: &mut Vec<Step>) {
    if desired.keep == 0 {
        return;
    }
    let is_own = |volume: &Name| current.volumes.get(volume).is_some_and(|spec| spec.host_path.is_none());
    let mut changing: Vec<&Name> = Vec::new();
    for step in touched {
        match step {
            Step::StopInstance { workload, .. }
            | Step::ReplaceInstance { workload, .. }
            | Step::StartInstance { workload, .. }
                if changing.last() != Some(&workload) =>
            {
                changing.push(workload);
            }
            _ => {}
        }
    }
    let HooksSpec { before_deploy, after_deploy, before_rollback: _ } = &desired.hooks;
    let runs: Vec<&Name> = (changing.iter().copied().filter(|name| desired.workers.contains_key(*name)))
        .chain(before_deploy.iter().chain(after_deploy))
        .collect();
    let mut volumes: BTreeMap<&Name, Vec<Name>> = BTreeMap::new();
    for &workload in &changing {
        let definitions = [current, desired].into_iter().filter_map(|spec| spec.workload(workload.as_str()));
        for mount in definitions.flat_map(|definition| &definition.volumes) {
            if let MountSource::Volume(volume) = &mount.source
                && is_own(volume)
                && !mount.read_only
                && !volumes.get(volume).is_some_and(|workloads| workloads.contains(workload))
            {
                volumes.entry(volume).or_default().push(workload.clone());
            }
        }
    }
    let reaching: Vec<&Name> = match cheap {
        true => changing.iter().copied().chain(runs.iter().copied().filter(|run| !changing.contains(run))).collect(),
        false => runs,
    };
    if !reaching.is_empty() {
        for volume in current.volumes.keys().filter(|volume| is_own(volume)) {
            let workloads = volumes.entry(volume).or_default();
            // Those that write to it themselves say more.
            if workloads.is_empty() || !cheap {
                for worker in &reaching {
                    if !workloads.contains(worker) {
                        workloads.push((*worker).clone());
                    }
                }
            }
        }
    }
    let each = volumes.into_iter();
    steps.extend(each.map(|(volume, workloads)| Step::SnapshotVolume { volume: volume.clone(), workloads }));
}

/// Crons that come, change and go.
fn crons(current: Option<&AppSpec>, desired: &AppSpec, steps: &mut Vec<Step>) {
    let nothing = BTreeMap::new();
    let old = current.map_or(&nothing, |current| &current.crons);
    let gone = old.keys().filter(|cron| !desired.crons.contains_key(*cron));
    steps.extend(gone.map(|cron| Step::RemoveCron { cron: cron.clone() }));
    for (cron, spec) in &desired.crons {
        match old.get(cron) {
            None => {
                let schedule = fields::schedule(&spec.schedule);
                steps.push(Step::CreateCron { cron: cron.clone(), schedule });
            }
            Some(old) => {
                let mut changes = fields::cron(old, spec);
                changes.extend(current.into_iter().flat_map(|app| moved_volumes(app, desired, &spec.workload)));
                if !changes.is_empty() {
                    steps.push(Step::ChangeCron { cron: cron.clone(), changes });
                }
            }
        }
    }
}

/// What changes for releases: how many are kept, hooks, secrets that are declared, how services are rolled out.
fn releases(current: Option<&AppSpec>, desired: &AppSpec, observed: &Observed, steps: &mut Vec<Step>) {
    let no_secrets = BTreeMap::new();
    let mut changes = fields::secrets(current.map_or(&no_secrets, |current| &current.secrets), &desired.secrets);
    let crons = desired.crons.values().map(|cron| &cron.workload);
    let uses = desired.workloads().map(|(_, workload)| workload).chain(crons).flat_map(|workload| &workload.secrets);
    changes.extend(newer_secrets(uses, observed));
    if !changes.is_empty() {
        steps.push(Step::ChangeSecrets { changes });
    }
    let Some(current) = current else { return };
    let changes = fields::releases((current.keep, &current.hooks), (desired.keep, &desired.hooks));
    if !changes.is_empty() {
        steps.push(Step::ChangeReleases { changes });
    }
    for (worker, new) in desired.workers.iter().filter(|(worker, _)| desired.hooks.contains(worker.as_str())) {
        let Some(old) = current.workers.get(worker) else { continue };
        let WorkerSpec { workload, restart } = old;
        let mut changes = fields::workload(workload, &new.workload);
        changes.extend(fields::supervision((*restart, &workload.depends_on), (new.restart, &new.workload.depends_on)));
        changes.extend(moved_volumes(current, desired, &new.workload));
        if !changes.is_empty() {
            steps.push(Step::ChangeHook { worker: worker.clone(), changes });
        }
    }
    for (service, new) in &desired.services {
        let Some(old) = current.services.get(service) else { continue };
        let changes = fields::rollout(&old.rollout, &new.rollout);
        if !changes.is_empty() {
            steps.push(Step::ChangeRollout { service: service.clone(), changes });
        }
    }
}

/// What takes the whole app down; `volumes`: with its volumes and their data, but never a directory of the host.
pub fn teardown(current: &AppSpec, volumes: bool) -> Plan {
    let mut steps = Vec::new();
    for (service, spec) in &current.services {
        steps.extend(spec.ports.iter().map(|&port| Step::UnpublishPort { service: service.clone(), port }));
    }
    for workload in current.start_order().into_iter().rev() {
        for instance in numbered(current, &workload).into_iter().rev() {
            steps.push(Step::StopInstance { instance, workload: workload.clone(), reason: StopReason::Down });
        }
    }
    if volumes {
        let own = current.volumes.iter().filter(|(_, volume)| volume.host_path.is_none());
        steps.extend(own.map(|(volume, _)| Step::RemoveVolume { volume: volume.clone() }));
    }
    Plan { app: current.name.clone(), steps }
}

/// Starts and replacements, dependencies first.
fn instance_steps(current: Option<&AppSpec>, desired: &AppSpec, order: &[Name], observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for workload in order {
        let Some(definition) = desired.workload(workload.as_str()) else { continue };
        let before: BTreeSet<String> =
            current.into_iter().flat_map(|current| same_kind(current, desired, workload)).collect();
        let changes = current
            .filter(|_| !before.is_empty())
            .map(|current| definition_changes(current, desired, workload, observed))
            .unwrap_or_default();
        let strategy = desired.services.get(workload).map(|service| service.rollout.strategy);
        let how = strategy.map_or(Replacement::Restart, Replacement::from);
        for instance in numbered(desired, workload) {
            let workload = workload.clone();
            if !before.contains(&instance) {
                steps.push(Step::StartInstance { instance, workload, image: definition.image.clone() });
            } else if !changes.is_empty() {
                steps.push(Step::ReplaceInstance { instance, workload, changes: changes.clone(), how });
            }
        }
    }
    steps
}

/// Instances that go, those started last first.
fn stops(current: &AppSpec, desired: &AppSpec) -> Vec<Step> {
    let mut steps = Vec::new();
    for workload in current.start_order().into_iter().rev() {
        let (stays, reason) = if same_kind(current, desired, &workload).is_empty() || !is_in(desired, &workload) {
            (BTreeSet::new(), StopReason::Removed)
        } else if desired.hooks.contains(workload.as_str()) {
            (BTreeSet::new(), StopReason::Hook)
        } else {
            let (from, to) = (replicas(current, &workload), replicas(desired, &workload));
            (numbered(desired, &workload).into_iter().collect(), StopReason::Scaled { from, to })
        };
        for instance in numbered(current, &workload).into_iter().rev() {
            if !stays.contains(&instance) {
                steps.push(Step::StopInstance { instance, workload: workload.clone(), reason });
            }
        }
    }
    steps
}

/// Everything in which an instance of `workload` differs.
fn definition_changes(current: &AppSpec, desired: &AppSpec, workload: &Name, observed: &Observed) -> Vec<Change> {
    let (Some(old), Some(new)) = (current.workload(workload.as_str()), desired.workload(workload.as_str())) else {
        return Vec::new();
    };
    let mut changes = fields::workload(old, new);
    if let (Some(old), Some(new)) = (current.services.get(workload), desired.services.get(workload)) {
        changes.extend(fields::health(&old.health, &new.health));
    }
    changes.extend(moved_volumes(current, desired, new));
    let replacing = new.secrets.iter().filter(|used| used.on_rotate == OnRotate::Restart);
    changes.extend(newer_secrets(replacing, observed));
    if old.image == new.image
        && let (Some(runs), Some(here)) = (observed.running.get(workload), observed.images.get(&new.image))
        && runs != here
    {
        let edit = Edit::Changed(Some((runs.clone(), here.clone())));
        changes.push(Change { field: format!("what {} is", new.image), edit });
    }
    changes
}

/// Secrets of these uses that come in a newer version.
fn newer_secrets<'u>(uses: impl Iterator<Item = &'u SecretUse>, observed: &Observed) -> Vec<Change> {
    let names: BTreeSet<&Name> = uses.map(|used| &used.secret).collect();
    let newer = names.into_iter().filter_map(|name| Some((name, observed.secrets.get(name)?)));
    newer
        .map(|(name, (from, to))| {
            let edit = Edit::Changed(Some((format!("version {from}"), format!("version {to}"))));
            Change { field: format!("secret {name}"), edit }
        })
        .collect()
}

/// Volumes that `workload` mounts and that are at another place now.
fn moved_volumes(current: &AppSpec, desired: &AppSpec, workload: &WorkloadSpec) -> Vec<Change> {
    let mut moved = Vec::new();
    let mut seen = BTreeSet::new();
    for mount in &workload.volumes {
        if let MountSource::Volume(name) = &mount.source
            && let (Some(old), Some(new)) = (current.volumes.get(name), desired.volumes.get(name))
            && old.host_path != new.host_path
            && seen.insert(name)
        {
            let changes = fields::volume(old, new).into_iter().filter(|change| change.field == "host_path");
            moved.extend(changes.map(|change| Change { field: format!("volume {name} {}", change.field), ..change }));
        }
    }
    moved
}

fn volumes_in(current: Option<&AppSpec>, desired: &AppSpec, steps: &mut Vec<Step>) {
    for (volume, spec) in &desired.volumes {
        match current.and_then(|current| current.volumes.get(volume)) {
            None => steps.push(Step::CreateVolume { volume: volume.clone(), host_path: spec.host_path.clone() }),
            Some(old) => {
                let changes = fields::volume(old, spec);
                if !changes.is_empty() {
                    steps.push(Step::ChangeVolume { volume: volume.clone(), changes });
                }
            }
        }
    }
}

/// Images that the instances to come need and that must be fetched first.
fn pulls(desired: &AppSpec, observed: &Observed, runs: &[Step], steps: &mut Vec<Step>) {
    let mut needed: BTreeMap<&str, PullReason> = BTreeMap::new();
    for step in runs {
        let (Step::StartInstance { workload, .. } | Step::ReplaceInstance { workload, .. }) = step else { continue };
        let Some(definition) = desired.workload(workload.as_str()) else { continue };
        let here = observed.images.contains_key(&definition.image);
        match definition.pull {
            PullPolicy::Always => {
                needed.insert(&definition.image, PullReason::Always);
            }
            PullPolicy::Missing if !here => {
                needed.entry(&definition.image).or_insert(PullReason::NotHere);
            }
            PullPolicy::Missing | PullPolicy::Never => {}
        }
    }
    steps.extend(needed.into_iter().map(|(image, reason)| Step::PullImage { image: image.to_owned(), reason }));
}

/// Ports that go, and ports that come.
fn ports(current: Option<&AppSpec>, desired: &AppSpec) -> (Vec<Step>, Vec<Step>) {
    let published = |app: &AppSpec| -> Vec<(Name, PortSpec)> {
        let each = app.services.iter().flat_map(|(name, service)| service.ports.iter().map(|p| (name.clone(), *p)));
        each.collect()
    };
    let (old, new) = (current.map(published).unwrap_or_default(), published(desired));
    let key = |(name, port): &(Name, PortSpec)| (name.clone(), port.host_ip, port.host, port.container, port.protocol);
    let (was, is): (BTreeSet<_>, BTreeSet<_>) = (old.iter().map(key).collect(), new.iter().map(key).collect());
    let gone = old.iter().filter(|port| !is.contains(&key(port)));
    let come = new.iter().filter(|port| !was.contains(&key(port)));
    (
        gone.map(|(service, port)| Step::UnpublishPort { service: service.clone(), port: *port }).collect(),
        come.map(|(service, port)| Step::PublishPort { service: service.clone(), port: *port }).collect(),
    )
}

/// What changes for supervisors without touching what runs. Of a new app there is nothing to tell.
fn supervision(current: Option<&AppSpec>, desired: &AppSpec, order: &[Name], steps: &mut Vec<Step>) {
    let Some(current) = current else { return };
    let mut push = |of: Subject, changes: Vec<Change>| {
        if !changes.is_empty() {
            steps.push(Step::ChangeSupervision { of, changes });
        }
    };
    let mut of_app = fields::supervise(&current.supervise, &desired.supervise);
    of_app.extend(fields::on_exhausted(current.on_exhausted, desired.on_exhausted));
    of_app.extend(fields::labels(&current.labels, &desired.labels));
    push(Subject::App(desired.name.clone()), of_app);

    for (name, group) in &desired.groups {
        let changes = match current.groups.get(name) {
            Some(old) => fields::group(old, group),
            None => vec![Change { field: "group".to_owned(), edit: Edit::Added(None) }],
        };
        push(Subject::Group(name.clone()), changes);
    }
    for name in current.groups.keys().filter(|name| !desired.groups.contains_key(*name)) {
        let removed = Change { field: "group".to_owned(), edit: Edit::Removed(None) };
        push(Subject::Group(name.clone()), vec![removed]);
    }
    for name in order.iter().filter(|name| !desired.hooks.contains(name.as_str())) {
        if let (Some(old), Some(new)) = (supervised(current, name), supervised(desired, name))
            && current.workers.contains_key(name) == desired.workers.contains_key(name)
        {
            push(Subject::Workload(name.clone()), fields::supervision(old, new));
        }
    }
}

/// What changes for the proxy, names and policy without touching what runs.
fn traffic(current: Option<&AppSpec>, desired: &AppSpec, steps: &mut Vec<Step>) {
    let nothing = ServiceSpec::of(WorkloadSpec::of(""));
    let mut services: BTreeSet<&Name> = desired.services.keys().collect();
    services.extend(current.into_iter().flat_map(|current| current.services.keys()));
    for name in services {
        let old = current.and_then(|current| current.services.get(name)).unwrap_or(&nothing);
        let changes = fields::traffic(old, desired.services.get(name).unwrap_or(&nothing));
        if !changes.is_empty() {
            steps.push(Step::ChangeTraffic { service: name.clone(), changes });
        }
    }
    let open = PolicySpec::default();
    let changes = fields::policy(current.map_or(&open, |current| &current.policy), &desired.policy);
    if !changes.is_empty() {
        steps.push(Step::ChangePolicy { changes });
    }
}

fn supervised<'a>(app: &'a AppSpec, name: &Name) -> Option<(RestartPolicy, &'a [coppice_spec::Dependency])> {
    let service = app.services.get(name).map(|service| (service.restart, &service.workload.depends_on[..]));
    service.or_else(|| app.workers.get(name).map(|worker| (worker.restart, &worker.workload.depends_on[..])))
}

fn is_in(app: &AppSpec, workload: &Name) -> bool {
    app.workload(workload.as_str()).is_some()
}

fn replicas(app: &AppSpec, workload: &Name) -> u32 {
    app.services.get(workload).map_or(1, |service| service.replicas)
}

fn numbered(app: &AppSpec, workload: &Name) -> Vec<String> {
    match app.services.get(workload) {
        Some(service) => (1..=service.replicas).map(|index| instance_name(workload, index)).collect(),
        None if app.hooks.contains(workload.as_str()) => Vec::new(),
        None if app.workers.contains_key(workload) => vec![workload.to_string()],
        None => Vec::new(),
    }
}

/// The instances of `workload` in `current`, if it is of the same kind (service or worker) in `desired`.
fn same_kind(current: &AppSpec, desired: &AppSpec, workload: &Name) -> Vec<String> {
    if current.workers.contains_key(workload) == desired.workers.contains_key(workload) {
        numbered(current, workload)
    } else {
        Vec::new()
    }
}
