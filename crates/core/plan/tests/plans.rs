//! Plans as people read them, and what holds of every plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coppice_base::{Bytes, DurationText, MilliCpu, Name};
use coppice_plan::{Observed, Plan, Step, Subject, diff, instances, teardown};
use coppice_spec::{
    AppSpec, Condition, Dependency, GroupSpec, HealthProbe, HealthSpec, MountSource, NetworkMode, PortSpec, Protocol,
    PullPolicy, RestartPolicy, ServiceSpec, Strategy as Restarts, SuperviseSpec, VolumeMount, VolumeSpec, WorkerSpec,
    WorkloadSpec,
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

fn service(workload: WorkloadSpec, replicas: u32) -> ServiceSpec {
    ServiceSpec { workload, replicas, ports: Vec::new(), restart: RestartPolicy::Always, health: None }
}

/// redis with a volume, a migration worker, three web replicas with a port.
fn shop() -> AppSpec {
    let mut db = service(WorkloadSpec::of("redis:6"), 1);
    db.workload.volumes =
        vec![VolumeMount { source: MountSource::Volume(name("data")), target: "/data".into(), read_only: false }];
    db.workload.env = BTreeMap::from([("PASSWORD".to_owned(), "hunter2".to_owned())]);
    let mut migrate = WorkerSpec { workload: WorkloadSpec::of("shop:1"), restart: RestartPolicy::OnFailure };
    migrate.workload.depends_on = vec![after("db", Condition::Healthy)];
    let mut web = service(WorkloadSpec::of("shop:1"), 3);
    web.workload.depends_on = vec![after("migrate", Condition::Completed)];
    web.ports = vec![port(8080, 80)];
    AppSpec {
        name: name("shop"),
        labels: BTreeMap::new(),
        supervise: SuperviseSpec::default(),
        groups: BTreeMap::new(),
        services: BTreeMap::from([(name("db"), db), (name("web"), web)]),
        workers: BTreeMap::from([(name("migrate"), migrate)]),
        volumes: BTreeMap::from([(name("data"), VolumeSpec::default())]),
    }
}

fn here(images: &[&str]) -> Observed {
    let images = images.iter().map(|image| ((*image).to_owned(), format!("sha256:{image}"))).collect();
    Observed { images, running: BTreeMap::new() }
}

#[track_caller]
fn reads(plan: &Plan, text: &str) {
    let printed = plan.to_string();
    assert!(printed == text.trim(), "expected\n{}\ngot\n{printed}", text.trim());
}

#[test]
fn a_first_plan_creates_everything_dependencies_first() {
    reads(
        &diff(None, &shop(), &here(&["redis:6"])),
        "
app shop
  + volume data
  + image shop:1         not on this node
  + instance db-1        from redis:6
  + instance migrate     from shop:1
  + instance web-1       from shop:1
  + instance web-2       from shop:1
  + instance web-3       from shop:1
  + port 8080:80 of web
8 to create, 0 to change, 0 to remove
",
    );
}

#[test]
fn an_update_says_for_each_instance_what_changed_and_hides_environment_values() {
    let mut new = shop();
    let db = new.services.get_mut("db").unwrap();
    db.workload.image = "redis:7".into();
    db.workload.env = BTreeMap::from([("PASSWORD".into(), "tr0ub4dor".into()), ("TOKEN".into(), "sesame".into())]);
    db.workload.limits.memory = Some(Bytes(512 << 20));
    db.health = Some(HealthSpec {
        probe: HealthProbe::Tcp { port: 6379 },
        interval: HealthSpec::DEFAULT_INTERVAL,
        timeout: HealthSpec::DEFAULT_TIMEOUT,
        retries: 3,
        start_period: HealthSpec::DEFAULT_START_PERIOD,
    });
    let web = new.services.get_mut("web").unwrap();
    web.replicas = 2;
    web.restart = RestartPolicy::OnFailure;
    web.ports = vec![port(0, 80)];
    new.workers.clear();
    web.workload.depends_on = vec![after("db", Condition::Healthy)];
    new.supervise.strategy = Restarts::OneForAll;
    let plan = diff(Some(&shop()), &new, &here(&["redis:6", "shop:1"]));
    reads(
        &plan,
        "
app shop
  + image redis:7        not on this node
  - port 8080:80 of web
  - instance web-3       replicas changed 3 -> 2
  - instance migrate     migrate is no longer in the app
  ~ app shop             supervise.strategy changed one_for_one -> one_for_all
  ~ supervision of web   restart changed always -> on-failure
                         depends_on changed migrate completed -> db healthy
  ~ instance db-1        image changed redis:6 -> redis:7
                         env PASSWORD changed
                         env TOKEN added
                         limits.memory added 512MiB
                         health added tcp :6379
  + port auto:80 of web
2 to create, 3 to change, 3 to remove
",
    );
    let step = plan.steps.iter().find(|step| matches!(step, Step::StopInstance { .. })).unwrap();
    assert_eq!(step.to_string(), "- instance web-3: replicas changed 3 -> 2");
}

#[test]
fn the_same_spec_leaves_nothing_to_do() {
    reads(&diff(Some(&shop()), &shop(), &Observed::default()), "app shop: nothing to do");
}

#[test]
fn an_image_that_became_another_under_its_name_replaces_what_runs_the_old_one() {
    let mut observed = here(&["redis:6", "shop:1"]);
    observed.running =
        BTreeMap::from([(name("db"), "sha256:old".to_owned()), (name("web"), "sha256:shop:1".to_owned())]);
    reads(
        &diff(Some(&shop()), &shop(), &observed),
        "
app shop
  ~ instance db-1  what redis:6 is changed sha256:old -> sha256:redis:6
0 to create, 1 to change, 0 to remove
",
    );
}

#[test]
fn an_image_to_be_pulled_always_is_pulled_once_and_only_for_instances_that_start() {
    let mut new = shop();
    new.services.get_mut("web").unwrap().workload.pull = PullPolicy::Always;
    let pulls = |plan: &Plan| plan.steps.iter().filter(|step| matches!(step, Step::PullImage { .. })).count();
    assert_eq!(pulls(&diff(None, &new, &here(&["redis:6", "shop:1"]))), 1);
    assert_eq!(pulls(&diff(Some(&new), &new, &here(&[]))), 0);
    new.services.get_mut("db").unwrap().workload.pull = PullPolicy::Never;
    assert_eq!(pulls(&diff(None, &new, &here(&[]))), 1, "what is never to be pulled is not");
}

#[test]
fn a_volume_that_moves_replaces_who_mounts_it_and_one_that_goes_keeps_its_data() {
    let mut new = shop();
    new.volumes.get_mut("data").unwrap().host_path = Some("/srv/redis".into());
    reads(
        &diff(Some(&shop()), &new, &here(&[])),
        "
app shop
  ~ volume data    host_path added /srv/redis
  + image redis:6  not on this node
  ~ instance db-1  volume data host_path added /srv/redis
1 to create, 2 to change, 0 to remove
",
    );
    let mut without = shop();
    without.volumes.clear();
    without.services.get_mut("db").unwrap().workload.volumes.clear();
    let plan = diff(Some(&shop()), &without, &here(&["redis:6"]));
    assert_eq!(plan.steps.last().unwrap().to_string(), "~ volume data: no longer in the app; its data stays");
}

#[test]
fn a_service_that_becomes_a_worker_is_stopped_and_started_under_its_new_name() {
    let mut new = shop();
    let web = new.services.remove("web").unwrap();
    new.workers.insert(name("web"), WorkerSpec { workload: web.workload, restart: RestartPolicy::Never });
    reads(
        &diff(Some(&shop()), &new, &here(&["redis:6", "shop:1"])),
        "
app shop
  - port 8080:80 of web
  - instance web-3       web is no longer in the app
  - instance web-2       web is no longer in the app
  - instance web-1       web is no longer in the app
  + instance web         from shop:1
1 to create, 0 to change, 4 to remove
",
    );
}

#[test]
fn a_teardown_stops_in_reverse_and_removes_volumes_only_when_asked_and_never_a_host_directory() {
    reads(
        &teardown(&shop(), false),
        "
app shop
  - port 8080:80 of web
  - instance web-3       the app goes down
  - instance web-2       the app goes down
  - instance web-1       the app goes down
  - instance migrate     the app goes down
  - instance db-1        the app goes down
0 to create, 0 to change, 6 to remove
",
    );
    let mut app = shop();
    app.volumes.insert(name("mine"), VolumeSpec { host_path: Some("/home".into()), labels: BTreeMap::new() });
    let removed: Vec<Step> =
        teardown(&app, true).steps.into_iter().filter(|step| matches!(step, Step::RemoveVolume { .. })).collect();
    assert_eq!(removed, [Step::RemoveVolume { volume: name("data") }]);
}

/// One edit per field that a container is fixed to, with the change it must be told as.
type FieldEdit = (fn(&mut WorkloadSpec), &'static str);
const FIELD_EDITS: [FieldEdit; 28] = [
    (|w| w.image = "redis:7".into(), "image changed redis:6 -> redis:7"),
    (|w| w.pull = PullPolicy::Never, "pull changed missing -> never"),
    (|w| w.entrypoint = Some(vec![]), "entrypoint added []"),
    (|w| w.command = vec!["sh".into(), "-c".into(), "a b".into()], "command changed [] -> [sh -c \"a b\"]"),
    (|w| w.env = BTreeMap::new(), "env PASSWORD removed"),
    (|w| w.user = Some("redis".into()), "user added redis"),
    (|w| w.working_dir = Some("/data".into()), "working_dir added /data"),
    (|w| w.volumes.clear(), "volumes changed data:/data -> none"),
    (|w| w.volumes[0].read_only = true, "volumes changed data:/data -> data:/data:ro"),
    (|w| drop(w.tmpfs.insert("/tmp".into(), None)), "tmpfs /tmp added unlimited"),
    (|w| drop(w.tmpfs.insert("/tmp".into(), Some(Bytes(1 << 20)))), "tmpfs /tmp added 1MiB"),
    (|w| w.limits.cpu = Some(MilliCpu(500)), "limits.cpu added 0.5"),
    (|w| w.limits.cpu_weight = Some(50), "limits.cpu_weight added 50"),
    (|w| w.limits.memory = Some(Bytes(1 << 30)), "limits.memory added 1GiB"),
    (|w| w.limits.pids = Some(64), "limits.pids added 64"),
    (|w| w.limits.nofile = Some(1024), "limits.nofile added 1024"),
    (|w| w.limits.shm_size = Some(Bytes(1 << 20)), "limits.shm_size added 1MiB"),
    (|w| w.network = NetworkMode::Host, "network changed bridge -> host"),
    (|w| w.stop_signal = Some("QUIT".into()), "stop_signal added QUIT"),
    (|w| w.stop_timeout = DurationText(Duration::from_secs(90)), "stop_timeout changed 10s -> 1m30s"),
    (|w| drop(w.labels.insert("team".into(), "shop".into())), "label team added shop"),
    (|w| w.read_only = true, "read_only changed false -> true"),
    (|w| w.cap_add = vec!["NET_ADMIN".into()], "cap_add changed [] -> [NET_ADMIN]"),
    (|w| w.cap_drop = vec!["ALL".into()], "cap_drop changed [] -> [ALL]"),
    (|w| w.privileged = true, "privileged changed false -> true"),
    (|w| w.hostname = Some("db".into()), "hostname added db"),
    (|w| drop(w.extra_hosts.insert("x".into(), [10, 0, 0, 1].into())), "extra_hosts x added 10.0.0.1"),
    (|w| w.init = true, "init changed false -> true"),
];

#[test]
fn each_field_a_container_is_fixed_to_replaces_the_instance_and_is_the_only_reason_told() {
    for (edit, told) in FIELD_EDITS {
        let mut new = shop();
        edit(&mut new.services.get_mut("db").unwrap().workload);
        let plan = diff(Some(&shop()), &new, &here(&["redis:6", "redis:7", "shop:1"]));
        let steps: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
        assert_eq!(steps, [format!("~ instance db-1: {told}")]);
    }
}

#[test]
fn each_part_of_a_health_check_replaces_the_instance() {
    let check = HealthSpec {
        probe: HealthProbe::Http { port: 80, path: "/up".into() },
        interval: HealthSpec::DEFAULT_INTERVAL,
        timeout: HealthSpec::DEFAULT_TIMEOUT,
        retries: 3,
        start_period: HealthSpec::DEFAULT_START_PERIOD,
    };
    let with = |health: Option<HealthSpec>| {
        let mut app = shop();
        app.services.get_mut("db").unwrap().health = health;
        app
    };
    let edited = |edit: fn(&mut HealthSpec)| {
        let mut check = check.clone();
        edit(&mut check);
        Some(check)
    };
    for (new, told) in [
        (None, "health removed, was http :80/up"),
        (
            edited(|h| h.probe = HealthProbe::Exec { command: vec!["true".into()] }),
            "health changed http :80/up -> exec [true]",
        ),
        (edited(|h| h.interval = DurationText(Duration::from_secs(1))), "health.interval changed 10s -> 1s"),
        (edited(|h| h.timeout = DurationText(Duration::from_secs(1))), "health.timeout changed 5s -> 1s"),
        (edited(|h| h.retries = 9), "health.retries changed 3 -> 9"),
        (edited(|h| h.start_period = DurationText(Duration::from_secs(1))), "health.start_period changed 0s -> 1s"),
    ] {
        let plan = diff(Some(&with(Some(check.clone()))), &with(new), &here(&["redis:6"]));
        let steps: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
        assert_eq!(steps, [format!("~ instance db-1: {told}")]);
    }
}

#[test]
fn what_only_supervisors_read_changes_without_touching_an_instance() {
    let edits: [(fn(&mut AppSpec), &str); 9] = [
        (|a| a.supervise.max_restarts = 3, "~ app shop: supervise.max_restarts changed 10 -> 3"),
        (
            |a| a.supervise.window = DurationText(Duration::from_secs(5)),
            "~ app shop: supervise.window changed 1m -> 5s",
        ),
        (
            |a| a.supervise.backoff.first = DurationText(Duration::from_secs(1)),
            "~ app shop: supervise.backoff.first changed 100ms -> 1s",
        ),
        (
            |a| a.supervise.backoff.max = DurationText(Duration::from_secs(1)),
            "~ app shop: supervise.backoff.max changed 30s -> 1s",
        ),
        (
            |a| a.supervise.backoff.reset_after = DurationText(Duration::from_secs(1)),
            "~ app shop: supervise.backoff.reset_after changed 10s -> 1s",
        ),
        (|a| drop(a.labels.insert("team".into(), "x".into())), "~ app shop: label team added x"),
        (
            |a| {
                let spec = GroupSpec { supervise: SuperviseSpec::default(), members: vec![name("db")] };
                a.groups.insert(name("data"), spec);
            },
            "~ group data: group added",
        ),
        (
            |a| a.services.get_mut("db").unwrap().restart = RestartPolicy::Never,
            "~ supervision of db: restart changed always -> never",
        ),
        (
            |a| a.services.get_mut("web").unwrap().workload.depends_on.clear(),
            "~ supervision of web: depends_on changed migrate completed -> none",
        ),
    ];
    for (edit, told) in edits {
        let mut new = shop();
        edit(&mut new);
        let steps: Vec<String> =
            diff(Some(&shop()), &new, &Observed::default()).steps.iter().map(Step::to_string).collect();
        assert_eq!(steps, [told]);
    }
    let mut grouped = shop();
    grouped.groups.insert(name("g"), GroupSpec { supervise: SuperviseSpec::default(), members: vec![name("db")] });
    let mut wider = grouped.clone();
    wider.groups.get_mut("g").unwrap().members.push(name("web"));
    let steps = |old: &AppSpec, new: &AppSpec| diff(Some(old), new, &Observed::default()).to_string();
    assert!(steps(&grouped, &wider).contains("group g  members changed db -> db, web"));
    assert!(steps(&grouped, &shop()).contains("group g  group removed"));
}

#[test]
fn sizes_that_print_alike_are_told_apart() {
    let with = |bytes| {
        let mut app = shop();
        app.services.get_mut("db").unwrap().workload.limits.memory = Some(Bytes(bytes));
        app
    };
    let plan = diff(Some(&with(1 << 30)), &with((1 << 30) + 1), &here(&["redis:6"]));
    assert!(plan.to_string().contains("limits.memory changed 1073741824B -> 1073741825B"), "{plan}");
}

// ── what holds of every plan ────────────────────────────────────────────────────────────────────────────────

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
        (workload(rank), 0..4u32, ports, policy(), health.clone()).prop_map(
            move |(workload, replicas, ports, restart, health)| {
                let ports = ports.into_iter().map(|p| port(rank as u16 * 10 + p, 80)).collect();
                ServiceSpec { workload, replicas, ports, restart, health }
            },
        )
    };
    let services = (prop::option::of(service(0)), prop::option::of(service(1)), prop::option::of(service(2)));
    let worker =
        move |rank| (workload(rank), policy()).prop_map(|(workload, restart)| WorkerSpec { workload, restart });
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
            Some((name(n), VolumeSpec { host_path: v?.map(str::to_owned), labels: BTreeMap::new() }))
        });
        let mut app = AppSpec {
            name: name("app"),
            labels: BTreeMap::new(),
            supervise: supervise(max),
            groups: BTreeMap::new(),
            services,
            workers,
            volumes: volumes.collect(),
        };
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

/// A node as far as a plan speaks of it. What an instance runs from is taken from the spec when it is made.
#[derive(Debug, Default, PartialEq)]
struct Model {
    instances: BTreeMap<String, String>,
    volumes: BTreeMap<Name, VolumeSpec>,
    left: BTreeSet<Name>,
    ports: BTreeSet<String>,
    images: BTreeSet<String>,
    supervision: BTreeMap<String, String>,
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
            Step::ReplaceInstance { instance, workload, changes } => {
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
            Step::LeaveVolume { volume } => {
                self.volumes.remove(volume);
                self.left.insert(volume.clone());
            }
            Step::RemoveVolume { .. } => panic!("{step}: an update removes no volume"),
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
            running: BTreeMap::new(),
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
