//! An app: its services, workers, volumes and groups.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::{Bytes, Name};
use serde::{Deserialize, Serialize};

use crate::{
    CronSpec, HealthSpec, PolicySpec, PortSpec, RestartPolicy, RolloutSpec, RouteSpec, SecretSpec, SuperviseSpec,
    TlsSpec, WorkloadSpec, check,
};

/// Most services and workers of one app. A machine runs out of sense before; it bounds what a hostile spec costs.
pub const WORKLOADS_MAX: usize = 1000;

/// One app as a user wants it. Services and workers share one name space (dependencies name either).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    pub name: Name,
    /// Labels on the app itself.
    pub labels: BTreeMap<String, String>,
    /// How the root supervisor of the app behaves.
    pub supervise: SuperviseSpec,
    pub groups: BTreeMap<Name, GroupSpec>,
    pub services: BTreeMap<Name, ServiceSpec>,
    pub workers: BTreeMap<Name, WorkerSpec>,
    pub volumes: BTreeMap<Name, VolumeSpec>,
    /// Which services may speak to which.
    #[serde(default)]
    pub policy: PolicySpec,
    #[serde(default)]
    pub crons: BTreeMap<Name, CronSpec>,
    #[serde(default)]
    pub hooks: HooksSpec,
    /// Secrets that are made for the app.
    #[serde(default)]
    pub secrets: BTreeMap<Name, SecretSpec>,
    /// Of how many releases the data is kept, beside the current one's.
    #[serde(default = "AppSpec::default_keep")]
    pub keep: u32,
    #[serde(default)]
    pub on_exhausted: OnExhausted,
}

/// Workers that run around a release, one after the other. They do not run with the app's other workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HooksSpec {
    /// Before anything is changed; one that fails stops the deploy.
    pub before_deploy: Vec<Name>,
    /// When all is ready; one that fails fails the release.
    pub after_deploy: Vec<Name>,
    /// Of the release that is left, before an earlier one comes back; one that fails stops the rollback.
    pub before_rollback: Vec<Name>,
}

impl HooksSpec {
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.before_deploy.iter().chain(&self.after_deploy).chain(&self.before_rollback)
    }

    pub fn contains(&self, worker: &str) -> bool {
        self.names().any(|name| name.as_str() == worker)
    }
}

/// What happens when the app's supervisor gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// The app stays failed until it is asked to start again.
    #[default]
    Stay,
    /// The release before it comes back.
    Rollback,
}

/// How a volume's data is compressed on disk, where its storage can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Off,
    Lz4,
    Zstd,
    Gzip,
}

impl Compression {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// A named subtree of the app's supervision tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    pub supervise: SuperviseSpec,
    /// Services and workers in the group, in the order they are started and (`rest_for_one`) restarted.
    pub members: Vec<Name>,
}

/// A long-running workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub workload: WorkloadSpec,
    /// Number of instances; 0 keeps the service defined and stopped.
    pub replicas: u32,
    /// Published ports. With several replicas a published port is shared: connections are spread over the
    /// ready instances.
    pub ports: Vec<PortSpec>,
    pub restart: RestartPolicy,
    /// `None`: the image's HEALTHCHECK if it has one, else ready as soon as it runs.
    pub health: Option<HealthSpec>,
    /// What the proxy sends here.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
    #[serde(default)]
    pub tls: Option<TlsSpec>,
    /// Its name resolves to the ready instances themselves and not to one virtual address.
    #[serde(default)]
    pub headless: bool,
    #[serde(default)]
    pub rollout: RolloutSpec,
}

/// A one-shot workload: runs to exit 0, then is complete. Restarted on failure when `restart` says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    pub workload: WorkloadSpec,
    /// `Never` or `OnFailure`.
    pub restart: RestartPolicy,
}

/// A named volume of the app. For now always a directory on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// A directory of the host to use (absolute) instead of one under the state directory.
    pub host_path: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `None`: as the storage does by default. So the two below.
    #[serde(default)]
    pub compression: Option<Compression>,
    /// Most bytes it may hold.
    #[serde(default)]
    pub quota: Option<Bytes>,
    /// Bytes of a record, a power of two from 512 to 1 MiB.
    #[serde(default)]
    pub record_size: Option<Bytes>,
}

impl VolumeSpec {
    /// Bounds of [`record_size`](Self::record_size), in bytes: those of ZFS.
    pub const RECORD_SIZE: std::ops::RangeInclusive<u64> = 512..=1024 * 1024;
}

impl ServiceSpec {
    /// One replica of `workload`, restarted always, published and routed nowhere.
    pub fn of(workload: WorkloadSpec) -> Self {
        Self {
            workload,
            replicas: 1,
            ports: Vec::new(),
            restart: RestartPolicy::Always,
            health: None,
            routes: Vec::new(),
            tls: None,
            headless: false,
            rollout: RolloutSpec::default(),
        }
    }
}

impl AppSpec {
    /// An app with nothing in it yet.
    pub fn of(name: Name) -> Self {
        Self {
            name,
            labels: BTreeMap::new(),
            supervise: SuperviseSpec::default(),
            groups: BTreeMap::new(),
            services: BTreeMap::new(),
            workers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            policy: PolicySpec::default(),
            crons: BTreeMap::new(),
            hooks: HooksSpec::default(),
            secrets: BTreeMap::new(),
            keep: Self::default_keep(),
            on_exhausted: OnExhausted::default(),
        }
    }

    /// Most releases of which data is kept.
    pub const KEEP_MAX: u32 = 1000;

    /// Of how many releases the data is kept when nobody says.
    pub const DEFAULT_KEEP: u32 = 5;

    fn default_keep() -> u32 {
        Self::DEFAULT_KEEP
    }

    /// Every workload: its name, its definition, and whether it is a worker.
    pub fn workloads(&self) -> impl Iterator<Item = (&Name, &WorkloadSpec)> {
        let services = self.services.iter().map(|(name, service)| (name, &service.workload));
        let workers = self.workers.iter().map(|(name, worker)| (name, &worker.workload));
        services.chain(workers)
    }

    pub fn workload(&self, name: &str) -> Option<&WorkloadSpec> {
        let service = self.services.get(name).map(|service| &service.workload);
        service.or_else(|| self.workers.get(name).map(|worker| &worker.workload))
    }

    /// Everything that runs in a container: [`workloads`](Self::workloads) and crons.
    pub fn definitions(&self) -> impl Iterator<Item = (&Name, &WorkloadSpec)> {
        self.workloads().chain(self.crons.iter().map(|(name, cron)| (name, &cron.workload)))
    }

    /// A service, a worker or a cron.
    pub fn definition(&self, name: &str) -> Option<&WorkloadSpec> {
        self.workload(name).or_else(|| self.crons.get(name).map(|cron| &cron.workload))
    }

    /// The group `workload` belongs to, if any.
    pub fn group_of(&self, workload: &str) -> Option<&Name> {
        self.groups.iter().find(|(_, group)| group.members.iter().any(|m| m.as_str() == workload)).map(|(name, _)| name)
    }

    /// What must hold of every spec, whoever built it; each broken rule as one sentence. The manifest crate
    /// reports the same rules with positions; this is the last gate, at the API and before the log.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.services.len() + self.workers.len() + self.crons.len() > WORKLOADS_MAX {
            // Nothing else is looked at: the checks below are for apps of a sensible size.
            return vec![format!("the app has more than {WORKLOADS_MAX} services, workers and crons")];
        }
        for (name, worker) in &self.workers {
            if worker.restart == RestartPolicy::Always {
                broken.push(format!("worker {name} cannot restart always: it runs to completion"));
            }
        }
        for name in self.services.keys().filter(|name| self.workers.contains_key(name.as_str())) {
            broken.push(format!("{name} is both a service and a worker"));
        }
        let mut host_ports: Vec<PortSpec> = Vec::new();
        for (name, service) in &self.services {
            for port in &service.ports {
                if port.host != 0 && host_ports.iter().any(|other| other.clashes_with(port)) {
                    broken.push(format!("service {name}: host port {} is published twice", port.host));
                }
                host_ports.push(*port);
            }
        }
        let crons = self.crons.iter().map(|(name, cron)| (name, &cron.workload));
        for (name, workload) in self.workloads().chain(crons) {
            for dependency in &workload.depends_on {
                if self.workload(dependency.name.as_str()).is_none() {
                    broken.push(format!("{name} depends on {}, which is not defined", dependency.name));
                }
            }
            for mount in &workload.volumes {
                if let crate::MountSource::Volume(volume) = &mount.source
                    && !self.volumes.contains_key(volume.as_str())
                {
                    broken.push(format!("{name} mounts volume {volume}, which is not defined"));
                }
            }
        }
        if let Some(cycle) = self.dependency_cycle() {
            let path: Vec<&str> = cycle.iter().map(Name::as_str).collect();
            broken.push(format!("depends_on goes round in a circle: {}", path.join(" -> ")));
        }
        let mut grouped = BTreeSet::new();
        for (group, spec) in &self.groups {
            for member in &spec.members {
                if self.workload(member.as_str()).is_none() {
                    broken.push(format!("group {group} names {member}, which is not defined"));
                } else if !grouped.insert(member) {
                    broken.push(format!("{member} is in more than one group"));
                }
            }
        }
        check::releases(self, &mut broken);
        broken
    }

    /// A circle in `depends_on`, first name repeated last, or `None`.
    pub fn dependency_cycle(&self) -> Option<Vec<Name>> {
        fn visit<'a>(
            app: &'a AppSpec,
            name: &'a Name,
            path: &mut Vec<&'a Name>,
            done: &mut BTreeSet<&'a Name>,
        ) -> Option<Vec<Name>> {
            if let Some(start) = path.iter().position(|on_path| *on_path == name) {
                let mut cycle: Vec<Name> = path[start..].iter().map(|n| (*n).clone()).collect();
                cycle.push(name.clone());
                return Some(cycle);
            }
            if done.contains(name) {
                return None;
            }
            path.push(name);
            for dependency in app.workload(name.as_str()).map_or(&[][..], |w| &w.depends_on) {
                if let Some(cycle) = visit(app, &dependency.name, path, done) {
                    return Some(cycle);
                }
            }
            path.pop();
            done.insert(name);
            None
        }
        let mut done = BTreeSet::new();
        self.workloads().find_map(|(name, _)| visit(self, name, &mut Vec::new(), &mut done))
    }

    /// Workload names so that each comes after all it depends on. Ties are alphabetical. A circle (which
    /// [`check`](Self::check) refuses) leaves its members out.
    pub fn start_order(&self) -> Vec<Name> {
        let mut left: BTreeMap<&Name, usize> = BTreeMap::new();
        let mut dependents: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for (name, workload) in self.workloads() {
            left.insert(name, workload.depends_on.len());
            for dependency in &workload.depends_on {
                dependents.entry(&dependency.name).or_default().push(name);
            }
        }
        let mut order: Vec<Name> = Vec::new();
        let mut ready: BTreeSet<&Name> = left.iter().filter(|(_, needs)| **needs == 0).map(|(name, _)| *name).collect();
        while !ready.is_empty() {
            let mut next = BTreeSet::new();
            for dependent in ready.iter().flat_map(|name| dependents.get(name)).flatten() {
                if let Some(needs) = left.get_mut(dependent) {
                    *needs = needs.saturating_sub(1);
                    if *needs == 0 {
                        next.insert(*dependent);
                    }
                }
            }
            order.extend(ready.into_iter().cloned());
            ready = next;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{Condition, Dependency, Protocol};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn app(services: &[(&str, &[&str])]) -> AppSpec {
        let service = |needs: &[&str]| {
            let depends_on = needs.iter().map(|need| Dependency { name: name(need), condition: Condition::Started });
            ServiceSpec::of(WorkloadSpec { depends_on: depends_on.collect(), ..WorkloadSpec::of("image") })
        };
        let services = services.iter().map(|(service_name, needs)| (name(service_name), service(needs))).collect();
        AppSpec { services, ..AppSpec::of(name("app")) }
    }

    #[test]
    fn a_start_order_puts_dependencies_first() {
        let order = app(&[("a", &["c"]), ("b", &[]), ("c", &["b"])]).start_order();
        assert_eq!(order, ["b", "c", "a"].map(name));
    }

    #[test]
    fn circles_and_unknown_names_are_told() {
        assert!(app(&[("a", &["b"]), ("b", &["a"])]).check()[0].contains("a -> b -> a"));
        assert!(app(&[("a", &["x"])]).check()[0].contains("x, which is not defined"));
        assert_eq!(app(&[("a", &[]), ("b", &["a"])]).check(), Vec::<String>::new());
    }

    #[test]
    fn a_port_on_all_addresses_clashes_with_the_same_port_on_one() {
        let mut app = app(&[("a", &[]), ("b", &[])]);
        let port = |host_ip| PortSpec { host_ip, host: 80, container: 80, protocol: Protocol::Tcp };
        let loopback = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        app.services.get_mut("a").unwrap().ports = vec![port(loopback)];
        app.services.get_mut("b").unwrap().ports = vec![port(Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))))];
        assert_eq!(app.check(), Vec::<String>::new());
        app.services.get_mut("b").unwrap().ports = vec![port(None)];
        assert!(app.check()[0].contains("published twice"));
    }
}
