//! An app as its supervisor sees it.

use coppice_base::Name;
use coppice_spec::{MountSource, RestartPolicy, ServiceSpec, WorkloadSpec};
use coppice_state::{Release, Trigger, Verdict};
use coppice_supervise::{ChildSpec, MemberSpec, Need, SupervisorSpec};
use sha2::{Digest as _, Sha256};

use super::instances::run_spec;
use super::{App, Wanted, instances_of, secrets};

impl App {
    pub(super) fn tree(&self, wanted: &Wanted) -> SupervisorSpec<String> {
        let spec = wanted.spec();
        let order = spec.start_order();
        let place = |name: &Name| order.iter().position(|n| n == name).unwrap_or_default() as u32;
        let mut members: Vec<MemberSpec<String>> = Vec::new();
        for (name, group) in &spec.groups {
            let children = group.members.iter().enumerate();
            let children = children.flat_map(|(at, member)| self.children(wanted, member, at as u32));
            members.push(MemberSpec::Supervisor(SupervisorSpec {
                name: name.to_string(),
                order: group.members.iter().map(place).min().unwrap_or_default(),
                supervise: group.supervise,
                members: children.map(MemberSpec::Child).collect(),
            }));
        }
        for (name, _) in spec.workloads().filter(|(name, _)| spec.group_of(name.as_str()).is_none()) {
            members.extend(self.children(wanted, name, place(name)).into_iter().map(MemberSpec::Child));
        }
        // A group may have any name but the root's.
        SupervisorSpec { name: format!("app {}", self.name), order: 0, supervise: spec.supervise, members }
    }

    fn children(&self, wanted: &Wanted, name: &Name, order: u32) -> Vec<ChildSpec<String>> {
        let spec = wanted.spec();
        let Some(workload) = spec.workload(name.as_str()) else { return Vec::new() };
        let service = spec.services.get(name);
        let (restart, one_shot) = match (service, spec.workers.get(name)) {
            (Some(service), _) => (service.restart, false),
            (None, Some(worker)) => (worker.restart, true),
            (None, None) => (RestartPolicy::Never, true),
        };
        let needs = workload.depends_on.iter();
        let needs: Vec<Need<String>> =
            needs.map(|need| Need { keys: instances_of(wanted, &need.name), condition: need.condition }).collect();
        let children = instances_of(wanted, name).into_iter().map(|key| ChildSpec {
            revision: self.slot_revision(wanted, name, &key),
            complete: has_run(wanted.release_of_instance(name.as_str(), &key)),
            key,
            order,
            restart,
            one_shot,
            has_health: service.is_some_and(|service| self.has_health(service)),
            needs: needs.clone(),
            generation: Some(wanted.generation(name.as_str())),
        });
        children.collect()
    }

    /// What an instance's slot holds, or is to hold next, is made from this. While a candidate is being put into it, it is
    /// known only by what is there.
    pub(super) fn slot_release<'w>(&self, wanted: &'w Wanted, workload: &Name, key: &str) -> &'w Release {
        let promoting = wanted.rollout().and_then(|(record, _)| record.promoting(workload.as_str(), key));
        let there = self.view(key).container.map(|container| container.read(|record| record.revision.clone()));
        match promoting.map(|(_, side)| wanted.release_at(side)) {
            Some(release) if there == Some(revision(release, workload)) => release,
            _ => wanted.release_of_instance(workload.as_str(), key),
        }
    }

    pub(super) fn slot_revision(&self, wanted: &Wanted, workload: &Name, key: &str) -> String {
        revision(self.slot_release(wanted, workload, key), workload)
    }

    fn has_health(&self, service: &ServiceSpec) -> bool {
        if service.health.is_some() {
            return true;
        }
        let image = self.containers.images.resolve(&service.workload.image).ok().flatten();
        image.is_some_and(|image| crate::prepare::health(&run_spec(&service.workload), &image.config).is_some())
    }
}

/// Workers of a release that succeeded have run, and so have those of one that comes back: what they did is in the data.
fn has_run(release: &Release) -> bool {
    matches!(release.trigger, Trigger::Rollback { .. }) || release.verdict == Some(Verdict::Succeeded)
}

/// What an instance is made from, as one fingerprint: its definition, its health check and its image.
pub(crate) fn revision(release: &Release, workload: &Name) -> String {
    let spec = &release.spec;
    let definition = spec.definition(workload.as_str());
    // Dependencies, and what the network does outside the container, change nothing inside it.
    let inside = definition.map(|definition| WorkloadSpec { depends_on: Vec::new(), ..definition.clone() });
    let volumes: Vec<_> = (inside.iter().flat_map(|w| &w.volumes))
        .filter_map(|mount| match &mount.source {
            MountSource::Volume(name) => spec.volumes.get(name).and_then(|volume| volume.host_path.as_ref()),
            _ => None,
        })
        .collect();
    let health = spec.services.get(workload).and_then(|service| service.health.as_ref());
    let image = release.images.get(workload);
    let mut parts = serde_json::to_vec(&(inside, volumes, health, image)).expect("specs are plain data");
    let secrets = secrets::part_of_revision(release, workload);
    if !secrets.is_empty() {
        parts.extend(serde_json::to_vec(&secrets).expect("names and numbers"));
    }
    let hash: String = Sha256::digest(&parts).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    hash
}
