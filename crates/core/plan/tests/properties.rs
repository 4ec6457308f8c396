//! What holds of every plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coppice_base::{Bytes, DurationText, Name};
use coppice_plan::{Effect, Observed, Plan, Step, StopReason, Subject, diff, instances, teardown};
use coppice_spec::{
    AppSpec, Condition, CronSpec, Dependency, GroupSpec, HealthProbe, HealthSpec, Missed, MountSource, OnExhausted,
    Overlap, PolicySpec, PortSpec, Protocol, PullPolicy, RestartPolicy, RolloutStrategy, RouteSpec, Schedule,
    SecretKind, SecretSpec, ServiceSpec, SuperviseSpec, Verdict, VolumeMount, VolumeSpec, WorkerSpec, WorkloadSpec,
};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn port(host: u16, container: u16) -> PortSpec {
    PortSpec { host_ip: None, host, container, protocol: Protocol::Tcp }
}

fn after(workload: &str, condition: Condition) -> Dependency {
    Dependency { name: name(workload), condition }
}

const SECRET: &str = "s3cr3t";

/// Workloads in an order in which each may depend on those before it.
const SERVICES: [&str; 3] = ["a", "b", "c"];
const WORKERS: [&str; 2] = ["c", "d"];
const VOLUMES: [&str; 2] = ["v", "w"];

fn workload(rank: usize) -> impl Strategy<Value = WorkloadSpec> {
    let pull = prop_oneof![Just(PullPolicy::Always), Just(PullPolicy::Missing), Just(PullPolicy::Never)];
    let text = prop::sample::select(vec!["x", "y", "two words"]);
    (
        prop::sample::select(vec!["redis:6", "redis:7", "shop"]),
        pull,
        prop::collection::vec(text.clone(), 0..2),
        prop::collection::btree_map(prop::sample::select(vec!["K", "L"]), 0..2u8, 0..3),
        prop::option::of(text),
        prop::collection::btree_set(0..VOLUMES.len(), 0..2),
        prop::collection::btree_set(0..rank.max(1), 0..2),
        prop::option::of(1..3u64),
        any::<bool>(),
        1..3u64,
    )
        .prop_map(move |(image, pull, command, env, user, volumes, needs, memory, read_only, stop)| {
            let mut workload = WorkloadSpec::of(image);
            workload.pull = pull;
            workload.command = command.into_iter().map(str::to_owned).collect();
            workload.env = env.into_iter().map(|(key, n)| (key.to_owned(), format!("{SECRET}{n}"))).collect();
            workload.user = user.map(str::to_owned);
            let mount = |v: usize| VolumeMount {
                source: MountSource::Volume(name(VOLUMES[v])),
                target: format!("/{v}"),
                read_only,
            };
            workload.volumes = volumes.into_iter().map(mount).collect();
            if rank > 0 {
                let needs = needs.into_iter().map(|need| after(SERVICES[need], Condition::Started));
                workload.depends_on = needs.collect();
            }
            workload.limits.memory = memory.map(|m| Bytes(m << 20));
            workload.stop_timeout = DurationText(Duration::from_secs(stop));
            workload
        })
}

fn app() -> impl Strategy<Value = AppSpec> {
    let policy =
        || prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    let health = prop::option::of((1..3u16).prop_map(|port| HealthSpec {
        probe: HealthProbe::Tcp { port },
        interval: HealthSpec::DEFAULT_INTERVAL,
        timeout: HealthSpec::DEFAULT_TIMEOUT,
        retries: 3,
        start_period: HealthSpec::DEFAULT_START_PERIOD,
    }));
    let service = move |rank: usize| {
        let ports = prop::collection::btree_set(0..3u16, 0..2);
        let hosts = prop::collection::btree_set(0..3u16, 0..2);
        (workload(rank), 0..4u32, ports, hosts, policy(), health.clone()).prop_map(
            move |(workload, replicas, ports, hosts, restart, health)| {
                let ports = ports.into_iter().map(|p| port(rank as u16 * 10 + p, 80)).collect();
                let route = |n| RouteSpec::of(name(&format!("r{n}")), format!("{n}.example.com"));
                let routes = hosts.into_iter().map(route).collect();
                ServiceSpec { replicas, ports, restart, health, routes, ..ServiceSpec::of(workload) }
            },
        )
    };
    let services = (prop::option::of(service(0)), prop::option::of(service(1)), prop::option::of(service(2)));
    let worker_policy = || prop::sample::select(vec![RestartPolicy::OnFailure, RestartPolicy::Never]);
    let worker =
        move |rank| (workload(rank), worker_policy()).prop_map(|(workload, restart)| WorkerSpec { workload, restart });
    let workers = (prop::option::of(worker(2)), prop::option::of(worker(3)));
    let volumes = prop::array::uniform2(prop::option::of(prop::option::of(prop::sample::select(vec!["/srv", "/mnt"]))));
    let group = prop::option::of((0..3u32, any::<bool>()));
    (services, workers, volumes, group, 0..3u32).prop_map(|(services, workers, volumes, group, max)| {
        let supervise = |max| SuperviseSpec { max_restarts: max, ..SuperviseSpec::default() };
        let (a, b, c) = services;
        let services: BTreeMap<Name, ServiceSpec> =
            SERVICES.iter().zip([a, b, c]).filter_map(|(n, s)| Some((name(n), s?))).collect();
        let workers = WORKERS
            .iter()
            .zip([workers.0, workers.1])
            .filter_map(|(n, w)| Some((name(n), w?)))
            .filter(|(n, _)| !services.contains_key(n))
            .collect();
        let volumes = VOLUMES.iter().zip(volumes).filter_map(|(n, v)| {
            Some((name(n), VolumeSpec { host_path: v?.map(str::to_owned), ..VolumeSpec::default() }))
        });
        let mut app = AppSpec {
            supervise: supervise(max),
            services,
            workers,
            volumes: volumes.collect(),
            ..AppSpec::of(name("app"))
        };
        if max == 1 {
            app.policy.default = Verdict::Deny;
        }
        if let Some((max, whole)) = group {
            let members: Vec<Name> = app.services.keys().filter(|n| whole || n.as_str() == "a").cloned().collect();
            app.groups.insert(name("g"), GroupSpec { supervise: supervise(max), members });
        }
        // Nothing may name what is not there.
        let known: BTreeSet<Name> = app.workloads().map(|(n, _)| n.clone()).collect();
        let volumes: BTreeSet<Name> = app.volumes.keys().cloned().collect();
        let services = app.services.values_mut().map(|s| &mut s.workload);
        for workload in services.chain(app.workers.values_mut().map(|w| &mut w.workload)) {
            workload.depends_on.retain(|need| known.contains(&need.name));
            workload.volumes.retain(|m| matches!(&m.source, MountSource::Volume(v) if volumes.contains(v)));
        }
        app
    })
}

/// An app with all that a release is made of beside what runs.
fn release() -> impl Strategy<Value = AppSpec> {
    let strategy = prop::sample::select(vec![RolloutStrategy::Rolling, RolloutStrategy::Switch]);
    let cron = prop::option::of((workload(0), 1..3u64));
    let secret = prop::sample::select(vec![None, Some(SecretKind::Password), Some(SecretKind::Random256)]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (app(), strategy, 1..3u32, cron, prop::option::of(secret), 0..2u32, flags).prop_map(
        |(mut app, strategy, parallelism, cron, secret, keep, (hooked, rolls_back, reversed))| {
            for service in app.services.values_mut() {
                service.rollout.strategy = strategy;
                service.rollout.parallelism = parallelism;
                if reversed {
                    service.routes.reverse();
                    service.ports.reverse();
                }
            }
            let cron = cron.map(|(mut workload, hours)| {
                workload.volumes.clear();
                let schedule = Schedule::Every(DurationText(Duration::from_secs(hours * 3600)));
                let (time_zone, history) = (CronSpec::DEFAULT_TIME_ZONE.to_owned(), CronSpec::DEFAULT_HISTORY);
                let (overlap, missed) = (Overlap::Skip, Missed::Skip);
                let spec = CronSpec { workload, schedule, time_zone, overlap, missed, timeout: None, history };
                (name("nightly"), spec)
            });
            app.crons = cron.into_iter().collect();
            app.secrets = secret.map(|generate| (name("pw"), SecretSpec { generate })).into_iter().collect();
            app.keep = keep;
            app.on_exhausted = if rolls_back { OnExhausted::Rollback } else { OnExhausted::Stay };
            let is_needed =
                |worker: &Name| app.workloads().any(|(_, w)| w.depends_on.iter().any(|on| on.name == *worker));
            let hooks = app.workers.keys().filter(|worker| hooked && !is_needed(worker)).cloned().collect();
            app.hooks.before_deploy = hooks;
            app
        },
    )
}

/// A node as far as a plan speaks of it. What an instance runs from is taken from the spec when it is made.
#[derive(Debug, Default, PartialEq)]
struct Model {
    instances: BTreeMap<String, String>,
    volumes: BTreeMap<Name, VolumeSpec>,
    left: BTreeSet<Name>,
    ports: BTreeSet<String>,
    images: BTreeSet<String>,
    supervision: BTreeMap<String, String>,
    traffic: BTreeMap<Name, String>,
    policy: PolicySpec,
}

/// All that an instance is made from, as text: what a container is fixed to, not what supervision reads.
fn made_from(app: &AppSpec, workload: &Name) -> String {
    let definition =
        WorkloadSpec { depends_on: Vec::new(), ..app.workload(workload.as_str()).expect("it is in the app").clone() };
    let health = app.services.get(workload).map(|service| &service.health);
    let paths: Vec<_> = definition
        .volumes
        .iter()
        .filter_map(|m| match &m.source {
            MountSource::Volume(volume) => app.volumes.get(volume).map(|spec| &spec.host_path),
            _ => None,
        })
        .collect();
    format!("{definition:?} {health:?} {paths:?}")
}

/// What supervisors read, by subject as a plan names it.
fn supervised(app: &AppSpec) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("app".to_owned(), format!("{:?} {:?}", app.supervise, app.labels))]);
    all.extend(app.groups.iter().map(|(n, group)| (format!("group {n}"), format!("{group:?}"))));
    for (n, workload) in app.workloads() {
        let restart = app.services.get(n).map_or_else(|| app.workers[n].restart, |service| service.restart);
        let kind = app.workers.contains_key(n);
        all.insert(format!("{n} {kind}"), format!("{restart:?} {:?}", workload.depends_on));
    }
    all
}

/// What the proxy and the name server read of a service; none when it has nothing for them.
fn traffic(service: &ServiceSpec) -> Option<String> {
    let told = !service.routes.is_empty() || service.tls.is_some() || service.headless;
    told.then(|| format!("{:?} {:?} {}", service.routes, service.tls, service.headless))
}

impl Model {
    fn of(app: &AppSpec) -> Self {
        let ports = app.services.iter().flat_map(|(n, s)| s.ports.iter().map(move |p| format!("{n} {p:?}")));
        Self {
            instances: instances(app).into_iter().map(|(i, w)| (i, made_from(app, &w))).collect(),
            volumes: app.volumes.clone(),
            left: BTreeSet::new(),
            ports: ports.collect(),
            images: BTreeSet::new(),
            supervision: supervised(app),
            traffic: app.services.iter().filter_map(|(n, s)| traffic(s).map(|traffic| (n.clone(), traffic))).collect(),
            policy: app.policy.clone(),
        }
    }

    /// Does `step`; panics where a node could not.
    fn take(&mut self, step: &Step, app: &AppSpec) {
        let ready = |model: &Self, workload: &Name| {
            let definition = app.workload(workload.as_str()).expect("what starts is in the app");
            assert!(
                definition.pull == PullPolicy::Never || model.images.contains(&definition.image),
                "{step}: its image is not here"
            );
            for mount in &definition.volumes {
                if let MountSource::Volume(volume) = &mount.source {
                    assert_eq!(model.volumes.get(volume), app.volumes.get(volume), "{step}: its volume is not ready");
                }
            }
            for need in &definition.depends_on {
                for (needed, _) in instances(app).iter().filter(|(_, w)| *w == need.name) {
                    let as_wanted = model.instances.get(needed) == Some(&made_from(app, &need.name));
                    assert!(as_wanted, "{step}: it is before {needed}, which it depends on");
                }
            }
        };
        match step {
            Step::CreateVolume { volume, .. } => {
                assert!(self.volumes.insert(volume.clone(), app.volumes[volume].clone()).is_none(), "{step}: twice");
            }
            Step::ChangeVolume { volume, .. } => {
                assert!(self.volumes.insert(volume.clone(), app.volumes[volume].clone()).is_some(), "{step}: is new");
            }
            Step::PullImage { image, .. } => assert!(self.images.insert(image.clone()) || image == "shop", "{step}"),
            Step::UnpublishPort { service, port } => assert!(self.ports.remove(&format!("{service} {port:?}"))),
            Step::PublishPort { service, port } => assert!(self.ports.insert(format!("{service} {port:?}"))),
            Step::StopInstance { instance, .. } => assert!(self.instances.remove(instance).is_some(), "{step}"),
            Step::StartInstance { instance, workload, .. } => {
                ready(self, workload);
                assert!(self.instances.insert(instance.clone(), made_from(app, workload)).is_none(), "{step}");
            }
            Step::ReplaceInstance { instance, workload, changes, how: _ } => {
                assert!(!changes.is_empty(), "{step}: for no reason");
                ready(self, workload);
                assert!(self.instances.insert(instance.clone(), made_from(app, workload)).is_some(), "{step}");
            }
            Step::ChangeSupervision { of, changes } => {
                assert!(!changes.is_empty(), "{step}: for no reason");
                let subject = match of {
                    Subject::App(_) => "app".to_owned(),
                    Subject::Group(n) => format!("group {n}"),
                    Subject::Workload(n) => format!("{n} {}", app.workers.contains_key(n)),
                };
                match supervised(app).remove(&subject) {
                    Some(now) => self.supervision.insert(subject, now),
                    None => self.supervision.remove(&subject),
                };
            }
            Step::ChangeTraffic { service, changes } => {
                assert!(!changes.is_empty(), "{step}: for no reason");
                match app.services.get(service).and_then(traffic) {
                    Some(now) => self.traffic.insert(service.clone(), now),
                    None => self.traffic.remove(service),
                };
            }
            Step::ChangePolicy { .. } => self.policy = app.policy.clone(),
            Step::LeaveVolume { volume } => {
                self.volumes.remove(volume);
                self.left.insert(volume.clone());
            }
            Step::RemoveVolume { .. } => panic!("{step}: an update removes no volume"),
            Step::SnapshotVolume { volume, .. } => {
                assert!(self.volumes.contains_key(volume), "{step}: it is not there");
            }
            // They touch nothing of the model.
            Step::RunHook { .. }
            | Step::ChangeHook { .. }
            | Step::ChangeRollout { .. }
            | Step::ChangeReleases { .. }
            | Step::CreateCron { .. }
            | Step::ChangeCron { .. }
            | Step::RemoveCron { .. }
            | Step::ChangeSecrets { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plans_steps_lead_from_any_app_to_any_other(old in prop::option::of(app()), new in app()) {
        prop_assert_eq!(new.check(), Vec::<String>::new());
        let observed = Observed {
            images: BTreeMap::from([("shop".to_owned(), "sha256:1".to_owned())]),
            ..Observed::default()
        };
        let plan = diff(old.as_ref(), &new, &observed);
        let mut model = old.as_ref().map(Model::of).unwrap_or_default();
        model.images.insert("shop".to_owned());
        for step in &plan.steps {
            model.take(step, &new);
        }
        let mut goal = Model::of(&new);
        goal.left = old.iter().flat_map(|old| old.volumes.keys()).filter(|v| !new.volumes.contains_key(*v)).cloned().collect();
        goal.images.clone_from(&model.images);
        // Of a workload that comes or goes there is no supervision to change: it comes and goes with it.
        let both = |key: &String| old.as_ref().is_some_and(|old| supervised(old).contains_key(key)) || key.starts_with("group");
        model.supervision.retain(|key, _| both(key) && goal.supervision.contains_key(key));
        goal.supervision.retain(|key, _| both(key) && old.is_some());
        prop_assert_eq!(model, goal, "{}", plan);
    }

    #[test]
    fn an_app_compared_with_itself_leaves_nothing_to_do(app in app()) {
        prop_assert!(diff(Some(&app), &app, &Observed::default()).is_empty());
    }

    #[test]
    fn two_apps_that_differ_in_anything_have_a_step_between_them(old in release(), new in release()) {
        prop_assert_eq!(new.check(), Vec::<String>::new());
        prop_assert_eq!(old == new, diff(Some(&old), &new, &Observed::default()).is_empty());
    }

    #[test]
    fn data_is_snapshotted_before_anything_that_has_it_stops(old in release(), new in release()) {
        let steps = diff(Some(&old), &new, &Observed::default()).steps;
        let first = steps.iter().position(|step| !matches!(step.effect(), Effect::None)).unwrap_or(steps.len());
        let late = steps[first..].iter().any(|step| matches!(step, Step::SnapshotVolume { .. }));
        prop_assert!(!late);
        for step in &steps {
            let (Step::ReplaceInstance { workload, .. } | Step::StopInstance { workload, reason: StopReason::Removed, .. }) = step
            else { continue };
            for mount in old.workload(workload.as_str()).into_iter().flat_map(|w| &w.volumes).filter(|m| !m.read_only) {
                let MountSource::Volume(data) = &mount.source else { continue };
                let taken = steps.iter().any(|s| matches!(s, Step::SnapshotVolume { volume, .. } if volume == data));
                prop_assert_eq!(taken, old.volumes[data].host_path.is_none() && new.keep > 0, "{} of {}", data, workload);
            }
        }
    }

    #[test]
    fn no_plan_holds_an_environment_value_printed_or_serialized(old in prop::option::of(app()), new in app()) {
        let plan = diff(old.as_ref(), &new, &Observed::default());
        let json = serde_json::to_string(&plan).unwrap();
        prop_assert!(!plan.to_string().contains(SECRET));
        prop_assert!(!json.contains(SECRET));
        let debugged = format!("{plan:?}");
        prop_assert!(!debugged.contains(SECRET));
        prop_assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }

    #[test]
    fn a_plan_stops_dependents_before_what_they_depend_on(old in app(), new in app()) {
        for plan in [diff(Some(&old), &new, &Observed::default()), teardown(&old, true)] {
            let stops: Vec<&Name> = plan.steps.iter().filter_map(|step| match step {
                Step::StopInstance { workload, .. } => Some(workload),
                _ => None,
            }).collect();
            for (i, earlier) in stops.iter().enumerate() {
                for later in &stops[i + 1..] {
                    let needs = &old.workload(later.as_str()).unwrap().depends_on;
                    prop_assert!(!needs.iter().any(|need| need.name == **earlier), "{} before {}", earlier, later);
                }
            }
        }
    }
}
