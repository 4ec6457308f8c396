//! What instances are called: `<service>-<index>` from 1 for a service, its own name for a worker.

use std::collections::BTreeMap;

use coppice_base::Name;
use coppice_spec::AppSpec;

/// The name of a service's instance; `index` counts from 1.
pub fn instance_name(service: &Name, index: u32) -> String {
    format!("{service}-{index}")
}

/// Every instance of the app with its workload, dependencies first, a service's by index. Hooks have none.
pub fn instances(app: &AppSpec) -> Vec<(String, Name)> {
    named(app).into_iter().filter(|(_, workload)| !app.hooks.contains(workload.as_str())).collect()
}

/// The names that instances and hooks have.
fn named(app: &AppSpec) -> Vec<(String, Name)> {
    let each = app.start_order().into_iter().flat_map(|workload| {
        let names: Vec<String> = match app.services.get(&workload) {
            Some(service) => (1..=service.replicas).map(|index| instance_name(&workload, index)).collect(),
            None => vec![workload.to_string()],
        };
        names.into_iter().map(move |name| (name, workload.clone()))
    });
    each.collect()
}

/// Instances of two workloads that would have the same name (worker `web-1` beside service `web`), each as one
/// sentence.
pub fn name_clashes(app: &AppSpec) -> Vec<String> {
    let mut owners: BTreeMap<String, Name> = BTreeMap::new();
    let mut clashes = Vec::new();
    for (name, workload) in named(app) {
        if let Some(other) = owners.get(&name) {
            clashes.push(format!("{other} and {workload} would both have an instance {name}: rename one of them"));
        }
        owners.insert(name, workload);
    }
    clashes
}

#[cfg(test)]
mod tests {
    use super::*;
    use coppice_spec::{RestartPolicy, ServiceSpec, WorkerSpec, WorkloadSpec};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn app(replicas: u32, worker: &str) -> AppSpec {
        let service = ServiceSpec { replicas, ..ServiceSpec::of(WorkloadSpec::of("nginx")) };
        let job = WorkerSpec { workload: WorkloadSpec::of("busybox"), restart: RestartPolicy::Never };
        AppSpec {
            services: BTreeMap::from([(name("web"), service)]),
            workers: BTreeMap::from([(name(worker), job)]),
            ..AppSpec::of(name("shop"))
        }
    }

    #[test]
    fn services_instances_are_numbered_from_one_and_a_workers_is_its_name() {
        let names: Vec<String> = instances(&app(11, "migrate")).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names[..2], ["migrate", "web-1"]);
        assert_eq!(names.last().unwrap(), "web-11");
        assert!(name_clashes(&app(11, "migrate")).is_empty());
    }

    #[test]
    fn a_worker_named_like_an_instance_is_found_out() {
        let clashes = name_clashes(&app(2, "web-2"));
        assert_eq!(clashes.len(), 1);
        assert!(clashes[0].contains("instance web-2"), "{clashes:?}");
        assert!(name_clashes(&app(1, "web-2")).is_empty());
    }
}
