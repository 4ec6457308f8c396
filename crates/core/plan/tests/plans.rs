//! Plans as people read them.

use std::collections::BTreeMap;
use std::time::Duration;

use coppice_base::{Bytes, DurationText, MilliCpu, Name};
use coppice_plan::{Effect, Observed, Plan, Step, diff, teardown};
use coppice_spec::{
    AppSpec, CanaryStep, Compression, Condition, CronSpec, Dependency, FailureAction, GroupSpec, HealthProbe,
    HealthSpec, HooksSpec, Missed, MountSource, NetworkMode, NetworkPriority, OnExhausted, OnRotate, Overlap, PortSpec,
    Protocol, PullPolicy, RestartPolicy, RolloutSpec, RolloutStrategy, Schedule, SecretKind, SecretSpec, SecretTarget,
    SecretUse, ServiceSpec, Strategy as Restarts, SuperviseSpec, VolumeMount, VolumeSpec, WorkerSpec, WorkloadSpec,
};

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
    ServiceSpec { replicas, ..ServiceSpec::of(workload) }
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
        services: BTreeMap::from([(name("db"), db), (name("web"), web)]),
        workers: BTreeMap::from([(name("migrate"), migrate)]),
        volumes: BTreeMap::from([(name("data"), VolumeSpec::default())]),
        ..AppSpec::of(name("shop"))
    }
}

fn here(images: &[&str]) -> Observed {
    let images = images.iter().map(|image| ((*image).to_owned(), format!("sha256:{image}"))).collect();
    Observed { images, ..Observed::default() }
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
  + image redis:7            not on this node
  + snapshot of volume data  taken before db
  - port 8080:80 of web
  - instance web-3           replicas changed 3 -> 2
  - instance migrate         migrate is no longer in the app
  ~ app shop                 supervise.strategy changed one_for_one -> one_for_all
  ~ supervision of web       restart changed always -> on-failure
                             depends_on changed migrate completed -> db healthy
  ~ instance db-1            image changed redis:6 -> redis:7
                             env PASSWORD changed
                             env TOKEN added
                             limits.memory added 512MiB
                             health added tcp :6379
  + port auto:80 of web
3 to create, 3 to change, 3 to remove
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
  + snapshot of volume data  taken before db
  ~ instance db-1            what redis:6 is changed sha256:old -> sha256:redis:6
1 to create, 1 to change, 0 to remove
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
  ~ volume data              host_path added /srv/redis
  + image redis:6            not on this node
  + snapshot of volume data  taken before db
  ~ instance db-1            volume data host_path added /srv/redis
2 to create, 2 to change, 0 to remove
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
  + snapshot of volume data  taken before web
  - port 8080:80 of web
  - instance web-3           web is no longer in the app
  - instance web-2           web is no longer in the app
  - instance web-1           web is no longer in the app
  + instance web             from shop:1
2 to create, 0 to change, 4 to remove
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
    app.volumes.insert(name("mine"), VolumeSpec { host_path: Some("/home".into()), ..VolumeSpec::default() });
    let removed: Vec<Step> =
        teardown(&app, true).steps.into_iter().filter(|step| matches!(step, Step::RemoveVolume { .. })).collect();
    assert_eq!(removed, [Step::RemoveVolume { volume: name("data") }]);
}

/// One edit per field that a container is fixed to, with the change it must be told as.
type FieldEdit = (fn(&mut WorkloadSpec), &'static str);
const FIELD_EDITS: [FieldEdit; 30] = [
    (|w| w.image = "redis:7".into(), "image changed redis:6 -> redis:7"),
    (|w| w.pull = PullPolicy::Never, "pull changed missing -> never"),
    (|w| w.entrypoint = Some(vec![]), "entrypoint added []"),
    (|w| w.command = vec!["sh".into(), "-c".into(), "a b".into()], "command changed [] -> [sh -c \"a b\"]"),
    (|w| w.env = BTreeMap::new(), "env PASSWORD removed"),
    (|w| w.user = Some("redis".into()), "user added redis"),
    (|w| w.working_dir = Some("/data".into()), "working_dir added /data"),
    (|w| w.volumes.clear(), "volumes changed data:/data -> none"),
    (|w| w.volumes[0].read_only = true, "volumes changed data:/data -> data:/data:ro"),
    (|w| assert!(w.tmpfs.insert("/tmp".into(), None).is_none()), "tmpfs /tmp added unlimited"),
    (|w| assert!(w.tmpfs.insert("/tmp".into(), Some(Bytes(1 << 20))).is_none()), "tmpfs /tmp added 1MiB"),
    (|w| w.limits.cpu = Some(MilliCpu(500)), "limits.cpu added 0.5"),
    (|w| w.limits.cpu_weight = Some(50), "limits.cpu_weight added 50"),
    (|w| w.limits.memory = Some(Bytes(1 << 30)), "limits.memory added 1GiB"),
    (|w| w.limits.pids = Some(64), "limits.pids added 64"),
    (|w| w.limits.nofile = Some(1024), "limits.nofile added 1024"),
    (|w| w.limits.shm_size = Some(Bytes(1 << 20)), "limits.shm_size added 1MiB"),
    (|w| w.network = NetworkMode::Host, "network changed bridge -> host"),
    (|w| w.network_priority = NetworkPriority::High, "network_priority changed normal -> high"),
    (|w| w.stop_signal = Some("QUIT".into()), "stop_signal added QUIT"),
    (|w| w.stop_timeout = DurationText(Duration::from_secs(90)), "stop_timeout changed 10s -> 1m30s"),
    (|w| drop(w.labels.insert("team".into(), "shop".into())), "label team added shop"),
    (|w| w.read_only = true, "read_only changed false -> true"),
    (|w| w.cap_add = vec!["NET_ADMIN".into()], "cap_add changed [] -> [NET_ADMIN]"),
    (|w| w.cap_drop = vec!["ALL".into()], "cap_drop changed [] -> [ALL]"),
    (|w| w.privileged = true, "privileged changed false -> true"),
    (|w| w.hostname = Some("db".into()), "hostname added db"),
    (|w| assert!(w.extra_hosts.insert("x".into(), [10, 0, 0, 1].into()).is_none()), "extra_hosts x added 10.0.0.1"),
    (|w| w.init = true, "init changed false -> true"),
    (
        |w| {
            let target = SecretTarget::Env("PW".into());
            w.secrets = vec![SecretUse { secret: name("pw"), part: None, target, on_rotate: OnRotate::Restart }];
        },
        "secrets changed none -> pw:$PW (restart on rotation)",
    ),
];

/// The shop with a cron, a hook and a declared secret.
fn with_releases() -> AppSpec {
    let mut app = shop();
    let workload = WorkloadSpec::of("shop:1");
    let cron = CronSpec {
        workload: workload.clone(),
        schedule: Schedule::Expression("30 4 * * *".into()),
        time_zone: CronSpec::DEFAULT_TIME_ZONE.into(),
        overlap: Overlap::Skip,
        missed: Missed::Skip,
        timeout: None,
        history: CronSpec::DEFAULT_HISTORY,
    };
    app.crons.insert(name("report"), cron);
    app.workers.insert(name("convert"), WorkerSpec { workload, restart: RestartPolicy::Never });
    app.hooks.before_deploy = vec![name("convert")];
    app.secrets.insert(name("pw"), SecretSpec { generate: Some(SecretKind::Password) });
    app
}

#[test]
fn what_a_release_is_made_of_beside_what_runs_is_told_field_by_field() {
    type AppEdit = (fn(&mut AppSpec), &'static str);
    fn rollout(app: &mut AppSpec) -> &mut RolloutSpec {
        &mut app.services.get_mut("web").unwrap().rollout
    }
    fn cron(app: &mut AppSpec) -> &mut CronSpec {
        app.crons.get_mut("report").unwrap()
    }
    let edits: [AppEdit; 27] = [
        (|a| a.on_exhausted = OnExhausted::Rollback, "~ app shop: supervise.on_exhausted changed stay -> rollback"),
        (|a| a.keep = 2, "~ releases: release.keep changed 5 -> 2"),
        (|a| a.hooks.after_deploy = vec![name("convert")], "~ releases: hooks.after_deploy changed none -> convert"),
        (
            |a| a.hooks.before_rollback = vec![name("convert")],
            "~ releases: hooks.before_rollback changed none -> convert",
        ),
        (
            |a| a.workers.get_mut("convert").unwrap().workload.image = "x".into(),
            "~ hook convert: image changed shop:1 -> x",
        ),
        (
            |a| a.workers.get_mut("convert").unwrap().restart = RestartPolicy::OnFailure,
            "~ hook convert: restart changed never -> on-failure",
        ),
        (|a| a.secrets.clear(), "~ secrets: secret pw removed, was password"),
        (
            |a| a.secrets.get_mut("pw").unwrap().generate = Some(SecretKind::Tls { name: "db".into() }),
            "~ secrets: secret pw changed password -> tls for db",
        ),
        (|a| a.crons.clear(), "- cron report: no longer in the app"),
        (
            |a| cron(a).schedule = Schedule::Every(DurationText(Duration::from_secs(60))),
            "~ cron report: schedule changed 30 4 * * * -> every 1m",
        ),
        (|a| cron(a).time_zone = "Europe/Berlin".into(), "~ cron report: time_zone changed UTC -> Europe/Berlin"),
        (|a| cron(a).overlap = Overlap::Queue, "~ cron report: overlap changed skip -> queue"),
        (|a| cron(a).missed = Missed::RunOnce, "~ cron report: missed changed skip -> run_once"),
        (|a| cron(a).timeout = Some(DurationText(Duration::from_secs(60))), "~ cron report: timeout added 1m"),
        (|a| cron(a).history = 3, "~ cron report: history changed 10 -> 3"),
        (|a| cron(a).workload.image = "x".into(), "~ cron report: image changed shop:1 -> x"),
        (
            |a| rollout(a).strategy = RolloutStrategy::BlueGreen,
            "~ rollout of web: rollout.strategy changed rolling -> blue_green",
        ),
        (|a| rollout(a).parallelism = 2, "~ rollout of web: rollout.parallelism changed 1 -> 2"),
        (|a| rollout(a).max_surge = 2, "~ rollout of web: rollout.max_surge changed 1 -> 2"),
        (
            |a| rollout(a).delay = DurationText(Duration::from_secs(5)),
            "~ rollout of web: rollout.delay_between_batches changed 0s -> 5s",
        ),
        (
            |a| rollout(a).ready_timeout = DurationText(Duration::ZERO),
            "~ rollout of web: rollout.health_check_timeout changed 2m -> 0s",
        ),
        (
            |a| rollout(a).deadline = DurationText(Duration::from_secs(60)),
            "~ rollout of web: rollout.deadline changed 10m -> 1m",
        ),
        (
            |a| rollout(a).failure_action = FailureAction::Pause,
            "~ rollout of web: rollout.failure_action changed rollback -> pause",
        ),
        (
            |a| rollout(a).canary = vec![CanaryStep::DEFAULT],
            "~ rollout of web: rollout.canary changed none -> 1 at 10 % for 30s",
        ),
        (
            |a| rollout(a).analysis.max_errors_permille = Some(5),
            "~ rollout of web: rollout.analysis.max_error_percent changed 1.0 -> 0.5",
        ),
        (
            |a| rollout(a).analysis.max_p99 = Some(DurationText(Duration::from_millis(250))),
            "~ rollout of web: rollout.analysis.max_p99 added 250ms",
        ),
        (|a| rollout(a).analysis.min_requests = 1, "~ rollout of web: rollout.analysis.min_requests changed 20 -> 1"),
    ];
    for (edit, told) in edits {
        let mut new = with_releases();
        edit(&mut new);
        let plan = diff(Some(&with_releases()), &new, &Observed::default());
        // The hooks run around every release, after the data is safe.
        let around = |step: &&Step| !matches!(step, Step::RunHook { .. } | Step::SnapshotVolume { .. });
        let steps: Vec<String> = plan.steps.iter().filter(around).map(Step::to_string).collect();
        assert_eq!(steps, [told]);
        assert!(plan.steps.iter().all(|step| matches!(step.effect(), Effect::None | Effect::Starts)), "{plan}");
    }
}

#[test]
fn a_newer_version_of_a_secret_is_told_and_replaces_only_what_asks_for_that() {
    let mut app = shop();
    let used = |on_rotate| {
        let target = SecretTarget::Env("TOKEN".into());
        SecretUse { secret: name("token"), part: None, target, on_rotate }
    };
    let observed = Observed { secrets: BTreeMap::from([(name("token"), (1, 3))]), ..Observed::default() };
    assert_eq!(diff(Some(&app), &app, &observed).steps, [], "nobody uses it");
    app.services.get_mut("web").unwrap().workload.secrets = vec![used(OnRotate::Nothing)];
    let said = diff(Some(&app), &app, &observed).to_string();
    assert!(said.contains("secret token changed version 1 -> version 3"), "{said}");
    assert!(!said.contains("instance"), "{said}");
    app.services.get_mut("web").unwrap().workload.secrets = vec![used(OnRotate::Restart)];
    let said = diff(Some(&app), &app, &observed).to_string();
    assert!(said.contains("instance web-1  secret token changed version 1 -> version 3"), "{said}");
}

#[test]
fn a_plan_says_what_is_interrupted_and_what_becomes_of_data() {
    let mut old = with_releases();
    old.services.get_mut("db").unwrap().rollout.strategy = RolloutStrategy::Switch;
    old.volumes.insert(name("old"), VolumeSpec::default());
    let mut new = old.clone();
    new.hooks.after_deploy = vec![name("convert")];
    new.services.get_mut("db").unwrap().workload.image = "redis:7".into();
    new.services.get_mut("web").unwrap().workload.image = "shop:2".into();
    new.services.get_mut("web").unwrap().replicas = 1;
    new.workers.get_mut("migrate").unwrap().workload.image = "shop:2".into();
    new.volumes.remove("old");
    new.volumes.get_mut("data").unwrap().compression = Some(Compression::Zstd);
    new.volumes.insert(name("more"), VolumeSpec::default());
    let plan = diff(Some(&old), &new, &here(&["redis:7", "shop:2"]));
    let told: Vec<String> = plan
        .steps
        .iter()
        .map(|step| {
            let how = step.how().map_or(String::new(), |(how, _)| format!(" by {}", how.as_str()));
            let data = step.data().map_or(String::new(), |(volume, data)| format!(" data of {volume} {data:?}"));
            format!("{} {} {:?}{how}{data}", step.word(), step.target(), step.effect())
        })
        .collect();
    assert_eq!(
        told,
        [
            "change_volume volume data None data of data Changed",
            "create_volume volume more None data of more Created",
            "snapshot_volume snapshot of volume data None data of data Snapshotted",
            "snapshot_volume snapshot of volume old None data of old Snapshotted",
            "run_hook hook convert Starts",
            "stop_instance instance web-3 Stops",
            "stop_instance instance web-2 Stops",
            "change_releases releases None",
            "replace_instance instance db-1 Interrupts by switch",
            "replace_instance instance migrate Interrupts by restart",
            "replace_instance instance web-1 Replaces by rolling",
            "leave_volume volume old None data of old Left",
            "run_hook hook convert Starts",
        ]
    );
}

#[test]
fn what_mounts_a_volume_from_now_on_touches_its_data_too() {
    let mounts = |source| vec![VolumeMount { source, target: "/data".into(), read_only: false }];
    let to_data = mounts(MountSource::Volume(name("data")));
    let snapshotted = |new: &AppSpec| {
        let plan = diff(Some(&shop()), new, &here(&["redis:6", "shop:1"]));
        let told = plan.steps.iter().filter_map(|step| match step {
            Step::SnapshotVolume { volume, workloads } => {
                let workloads: Vec<&str> = workloads.iter().map(Name::as_str).collect();
                Some(format!("{volume} for {}", workloads.join(" ")))
            }
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(snapshotted(&shop()), Vec::<String>::new());

    let mut newly = shop();
    newly.services.get_mut("web").unwrap().workload.volumes = to_data.clone();
    assert_eq!(snapshotted(&newly), ["data for web"]);
    newly.services.get_mut("web").unwrap().workload.volumes[0].read_only = true;
    assert_eq!(snapshotted(&newly), Vec::<String>::new(), "who only reads touches nothing");

    let mut another = shop();
    let mut admin = service(WorkloadSpec::of("shop:1"), 1);
    admin.workload.volumes = to_data;
    another.services.insert(name("admin"), admin.clone());
    assert_eq!(snapshotted(&another), ["data for admin"]);

    // Nothing was in it before.
    another.volumes.insert(name("more"), VolumeSpec::default());
    admin.workload.volumes = mounts(MountSource::Volume(name("more")));
    another.services.insert(name("admin"), admin);
    assert_eq!(snapshotted(&another), Vec::<String>::new());

    let mut fewer = shop();
    fewer.services.get_mut("db").unwrap().replicas = 0;
    assert_eq!(snapshotted(&fewer), ["data for db"]);
}

#[test]
fn a_hook_has_no_instance_and_a_worker_that_becomes_one_is_stopped() {
    let first = diff(None, &with_releases(), &here(&["redis:6", "shop:1"])).to_string();
    assert!(first.contains("+ hook convert") && !first.contains("instance convert"), "{first}");
    assert!(first.contains("+ cron report  ") && first.contains("30 4 * * *"), "{first}");
    let mut before = with_releases();
    before.hooks = HooksSpec::default();
    let plan = diff(Some(&before), &with_releases(), &here(&["redis:6", "shop:1"])).to_string();
    assert!(plan.contains("- instance convert"), "{plan}");
    assert!(plan.contains("convert is a hook now and runs around releases only"), "{plan}");
    assert!(diff(Some(&with_releases()), &before, &here(&["shop:1"])).to_string().contains("+ instance convert"));
}

#[test]
fn a_plan_for_a_thousand_services_in_a_chain_is_made_without_walking_them_a_thousand_times() {
    let mut app = AppSpec::of(name("chain"));
    for n in 0..1000 {
        let mut one = service(WorkloadSpec::of("x"), 1);
        one.ports = vec![port(10_000 + n, 80)];
        if n > 0 {
            one.workload.depends_on = vec![after(&format!("s{:04}", n - 1), Condition::Started)];
        }
        app.services.insert(name(&format!("s{n:04}")), one);
    }
    let mut new = app.clone();
    for service in new.services.values_mut() {
        service.workload.image = "y".into();
    }
    assert!(diff(Some(&app), &app, &here(&["x"])).is_empty());
    assert_eq!(diff(Some(&app), &new, &here(&["x", "y"])).steps.len(), 1000);
}

#[test]
fn each_field_a_container_is_fixed_to_replaces_the_instance_and_is_the_only_reason_told() {
    for (edit, told) in FIELD_EDITS {
        let mut new = shop();
        edit(&mut new.services.get_mut("db").unwrap().workload);
        let plan = diff(Some(&shop()), &new, &here(&["redis:6", "redis:7", "shop:1"]));
        let steps: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
        assert_eq!(
            steps,
            ["+ snapshot of volume data: taken before db".to_owned(), format!("~ instance db-1: {told}")]
        );
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
        assert_eq!(
            steps,
            ["+ snapshot of volume data: taken before db".to_owned(), format!("~ instance db-1: {told}")]
        );
    }
}

#[test]
fn what_only_supervisors_read_changes_without_touching_an_instance() {
    type AppEdit = (fn(&mut AppSpec), &'static str);
    let edits: [AppEdit; 9] = [
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
