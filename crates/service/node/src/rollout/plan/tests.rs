//! Plans by what is said of each workload and by what runs, and which snapshot data goes back to.

use std::sync::Arc;

use coppice_base::Timestamp;
use coppice_rollout::Rollout;
use coppice_spec::{
    AnalysisSpec, CanaryStep, MountSource, RestartPolicy, ServiceSpec, VolumeMount, VolumeSpec, WorkerSpec,
    WorkloadSpec,
};
use coppice_state::{Actor, Body, Command, CommandId, ReleaseTerms, State, Verdict};

use super::super::data::kept_releases;
use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

fn secs(secs: u64) -> DurationText {
    DurationText(std::time::Duration::from_secs(secs))
}

fn id(number: u64) -> ReleaseId {
    ReleaseId(number)
}

/// An app `shop` of these services, each from its image.
fn shop(services: &[(&str, &str)]) -> AppSpec {
    let service = |image: &str| ServiceSpec { replicas: 2, ..ServiceSpec::of(WorkloadSpec::of(image)) };
    let services = services.iter().map(|(of, image)| (name(of), service(image)));
    AppSpec { services: services.collect(), ..AppSpec::of(name("shop")) }
}

fn web(image: &str) -> AppSpec {
    shop(&[("web", image)])
}

fn worker(image: &str) -> WorkerSpec {
    WorkerSpec { workload: WorkloadSpec::of(image), restart: RestartPolicy::Never }
}

fn mount(volume: &str) -> VolumeMount {
    VolumeMount { source: MountSource::Volume(name(volume)), target: "/data".to_owned(), read_only: false }
}

/// `shop` of one `db` that writes to `data`.
fn db(image: &str, strategy: RolloutStrategy) -> AppSpec {
    let mut spec = shop(&[("db", image)]);
    let service = spec.services.get_mut("db").unwrap();
    service.replicas = 1;
    service.workload.volumes = vec![mount("data")];
    service.rollout.strategy = strategy;
    spec.volumes.insert(name("data"), VolumeSpec::default());
    spec
}

/// An app of one release, number 1, that has succeeded.
fn app(spec: AppSpec) -> AppState {
    let mut state = State::default();
    let body = Body::Apply {
        release: id(1),
        spec: Box::new(web("web:1")),
        images: BTreeMap::new(),
        expected_release: None,
        stopped: BTreeSet::new(),
        secrets: BTreeMap::new(),
        terms: ReleaseTerms::default(),
    };
    state.apply(&Command { id: CommandId(1), at: Timestamp(1), actor: Actor::User { uid: 7 }, body }).unwrap();
    let mut app = AppState::clone(state.app("shop").unwrap());
    app.releases = vec![Arc::new(Release { spec, verdict: Some(Verdict::Succeeded), ..app.current().clone() })];
    app
}

/// The app's next release, which replaces the current one.
fn next(app: &AppState, spec: AppSpec) -> Release {
    let number = app.newest().number + 1;
    let current = app.current();
    Release { id: id(number), number, spec, from: Some(current.id), rollout: None, ..current.clone() }
}

/// Has the next release come, by this plan, of which the first snapshots are in this state.
fn replaced(app: &mut AppState, plan: Plan, snapshots: DataState) {
    let mut release = next(app, app.spec().clone());
    let mut record = Rollout::begin(plan, Timestamp(1)).0.record().clone();
    record.progress.snapshots.fill(snapshots);
    release.rollout = Some(Box::new(record));
    app.releases.push(Arc::new(release));
}

fn volumes(of: &[(&str, &[&str])]) -> Volumes {
    let each = of.iter().map(|(volume, snapshots)| (name(volume), snapshots.iter().map(|&s| s.to_owned()).collect()));
    each.collect()
}

/// What a plan is asked for.
struct Asked {
    app: AppState,
    new: Release,
    stopped: BTreeSet<Name>,
    is_up: bool,
    volumes: Volumes,
    is_cheap: bool,
    data_of: Option<ReleaseId>,
    is_rollback: bool,
}

impl Asked {
    /// An `up` from `old`, which runs, to `new`.
    fn up(old: AppSpec, new: AppSpec) -> Self {
        let app = app(old);
        let new = next(&app, new);
        let (stopped, volumes) = (BTreeSet::new(), Volumes::new());
        Self { app, new, stopped, is_up: true, volumes, is_cheap: false, data_of: None, is_rollback: false }
    }

    fn answer(&self) -> Planned {
        plan(&RolloutInput {
            app: &self.app,
            new: &self.new,
            stopped: &self.stopped,
            runs: &|_| self.is_up,
            latest: &|instance| if instance.ends_with("-1") { 4 } else { 0 },
            volumes: &self.volumes,
            snapshots_are_cheap: self.is_cheap,
            data_of: self.data_of,
            is_rollback: self.is_rollback,
        })
    }

    fn plan(&self) -> Plan {
        *self.answer().unwrap().expect("something is to be done")
    }

    /// How the only stage is done.
    fn how(&self) -> How {
        let mut stages = self.plan().stages;
        assert_eq!(stages.len(), 1, "{stages:?}");
        stages.remove(0).how
    }
}

/// Every strategy, with how a service that asks for it is rolled out.
fn strategies() -> [(RolloutStrategy, How); 4] {
    let pace = Pace { parallelism: 2, max_surge: 3 };
    let (steps, analysis) = (vec![CanaryStep::DEFAULT], AnalysisSpec { max_p99: Some(secs(1)), ..Default::default() });
    [
        (RolloutStrategy::Rolling, How::Rolling(pace)),
        (RolloutStrategy::Canary, How::Canary { steps, analysis, pace }),
        (RolloutStrategy::BlueGreen, How::BlueGreen),
        (RolloutStrategy::Switch, How::Switch { volumes: Vec::new(), keep_writes: true }),
    ]
}

fn rolled_out_by(mut spec: AppSpec, strategy: RolloutStrategy) -> AppSpec {
    let analysis = AnalysisSpec { max_p99: Some(secs(1)), ..AnalysisSpec::default() };
    for service in spec.services.values_mut() {
        let canary = if strategy == RolloutStrategy::Canary { vec![CanaryStep::DEFAULT] } else { Vec::new() };
        service.rollout = RolloutSpec {
            strategy,
            parallelism: 2,
            max_surge: 3,
            delay: secs(7),
            canary,
            analysis: analysis.clone(),
            ..service.rollout.clone()
        };
    }
    spec
}

#[test]
fn a_rollback_goes_through_no_canary_and_waits_between_no_batches() {
    for (strategy, how) in strategies() {
        let mut asked = Asked::up(web("web:1"), rolled_out_by(web("web:2"), strategy));
        assert_eq!(asked.how(), how, "{strategy:?}");
        assert_eq!(asked.plan().stages[0].delay, secs(7), "{strategy:?}");

        asked.is_rollback = true;
        let back = if let How::Canary { pace, .. } = how { How::Rolling(pace) } else { how };
        assert_eq!(asked.how(), back, "{strategy:?}");
        assert_eq!(asked.plan().stages[0].delay, secs(0), "{strategy:?}");
    }
}

#[test]
fn a_service_is_replaced_as_it_says_only_where_it_was_there_changed_and_runs() {
    type Change = fn(&mut Asked);
    let unusual: &[(&str, Change)] = &[
        ("nothing of it runs", |asked| asked.is_up = false),
        ("it stays stopped", |asked| asked.stopped.extend([name("web")])),
        ("it was stopped", |asked| asked.app.stopped.extend([name("web")])),
        ("it is new", |asked| asked.app = app(shop(&[("other", "web:1")]))),
        ("it was a worker", |asked| {
            let mut spec = shop(&[]);
            spec.workers.insert(name("web"), worker("web:1"));
            asked.app = app(spec);
        }),
        ("only its number changes", |asked| {
            asked.new.spec.services.get_mut("web").unwrap().workload.image = "web:1".to_owned();
            asked.new.spec.services.get_mut("web").unwrap().replicas = 3;
        }),
    ];
    for (strategy, how) in strategies() {
        let asked = || Asked::up(web("web:1"), rolled_out_by(web("web:2"), strategy));
        assert_eq!(asked().how(), how);
        for (why, change) in unusual {
            let mut asked = asked();
            change(&mut asked);
            assert_eq!(asked.how(), How::Tree, "{strategy:?}: {why}");
        }
        let mut same = asked();
        same.new.spec.services.get_mut("web").unwrap().workload.image = "web:1".to_owned();
        assert_eq!(same.answer(), Ok(None), "how it would be replaced is no change of it");
    }
}

#[test]
fn a_worker_is_supervisions_and_a_hook_is_no_stage() {
    let with = |image: &str, hooks: &[&str]| {
        let mut spec = web("web:1");
        spec.workers.insert(name("migrate"), worker(image));
        spec.hooks.before_deploy = names(hooks);
        spec
    };
    let changed = Asked::up(with("tool:1", &[]), with("tool:2", &[])).plan();
    let [stage] = changed.stages.as_slice() else { panic!("{changed:?}") };
    assert_eq!((stage.kind, &stage.how, stage.targets[0].has_old), (WorkloadKind::Worker, &How::Tree, true));
    assert_eq!(stage.ready_timeout, stage.deadline, "it may take as long as its stage");

    let hook = Asked::up(with("tool:1", &["migrate"]), with("tool:2", &["migrate"])).plan();
    assert_eq!((hook.stages, hook.before, hook.removed), (Vec::new(), names(&["migrate"]), Vec::new()));

    let no_hook_any_more = Asked::up(with("tool:1", &["migrate"]), with("tool:1", &[])).plan();
    let [stage] = no_hook_any_more.stages.as_slice() else { panic!("{no_hook_any_more:?}") };
    assert_eq!((&stage.how, stage.targets[0].has_old), (&How::Tree, false));

    let a_hook_now = Asked::up(with("tool:1", &[]), with("tool:1", &["migrate"])).plan();
    assert_eq!((a_hook_now.stages, a_hook_now.removed), (Vec::new(), names(&["migrate"])));
}

#[test]
fn a_service_that_grows_has_no_old_one_where_it_had_none_and_what_only_the_old_release_has_is_removed() {
    let mut new = web("web:2");
    new.services.get_mut("web").unwrap().replicas = 3;
    let plan = Asked::up(shop(&[("web", "web:1"), ("gone", "web:1")]), new).plan();
    let targets = &plan.stages[0].targets;
    let told: Vec<(&str, bool, u32)> =
        targets.iter().map(|target| (target.instance.as_str(), target.has_old, target.numbered_after)).collect();
    assert_eq!(told, [("web-1", true, 4), ("web-2", true, 0), ("web-3", false, 0)]);
    assert_eq!(plan.removed, names(&["gone"]));
}

#[test]
fn a_release_waits_when_it_fails_as_soon_as_one_service_that_it_changes_asks_for_that() {
    let (pause, rollback) = (FailureAction::Pause, FailureAction::Rollback);
    let cases = [
        // What a and b ask for, which of them change, and what becomes of the whole.
        ([rollback, rollback], [true, true], rollback),
        ([pause, rollback], [true, true], pause),
        ([rollback, pause], [true, true], pause),
        ([pause, pause], [true, true], pause),
        ([pause, rollback], [true, false], pause),
        ([pause, rollback], [false, true], rollback),
        ([rollback, pause], [true, false], rollback),
        ([rollback, pause], [false, true], pause),
    ];
    for (asks, changes, expected) in cases {
        let mut new = shop(&[("a", "web:1"), ("b", "web:1")]);
        for ((service, ask), changes) in new.services.values_mut().zip(asks).zip(changes) {
            service.rollout.failure_action = ask;
            service.workload.image = if changes { "web:2" } else { "web:1" }.to_owned();
        }
        let plan = Asked::up(shop(&[("a", "web:1"), ("b", "web:1")]), new).plan();
        assert_eq!(plan.failure_action, expected, "{asks:?}, changed: {changes:?}");
        assert_eq!(plan.stages.len(), changes.iter().filter(|changes| **changes).count());
    }
}

#[test]
fn a_switch_names_the_snapshots_of_its_volumes_as_no_other_is_named_and_takes_none_where_none_is_kept() {
    let switch = RolloutStrategy::Switch;
    let cases: [(&[&str], &str, &str); 4] = [
        (&[], "r1-before-r2", "r2-failed"),
        (&["r1-before-r2"], "r1-before-r2.2", "r2-failed"),
        (&["r1-before-r2", "r1-before-r2.2", "r2-failed"], "r1-before-r2.3", "r2-failed.2"),
        (&["r1-before-r2.2", "r1-before-r22"], "r1-before-r2", "r2-failed"),
    ];
    for (taken, snapshot, cut) in cases {
        let mut asked = Asked::up(db("db:1", switch), db("db:2", switch));
        asked.volumes = volumes(&[("data", taken), ("unused", &[])]);
        let one = StageVolume { volume: name("data"), snapshot: snapshot.to_owned(), cut: cut.to_owned() };
        assert_eq!(asked.how(), How::Switch { volumes: vec![one], keep_writes: true }, "{taken:?}");
        asked.new.spec.keep = 0;
        assert_eq!(asked.how(), How::Switch { volumes: Vec::new(), keep_writes: true });
    }
    let mut absent = Asked::up(db("db:1", switch), db("db:2", switch));
    absent.volumes = Volumes::new();
    assert_eq!(absent.how(), How::Switch { volumes: Vec::new(), keep_writes: true }, "what is not there yet");
}

#[test]
fn of_the_snapshots_before_other_releases_the_last_one_comes_last() {
    let ordered =
        ["r4-failed", "r4-before-r5", "r4-before-r12", "r4-before-r12.2", "r4-before-r12.10", "r4-before-r100"];
    for pair in ordered.windows(2) {
        assert!(order(pair[0]) < order(pair[1]), "{pair:?}");
    }
}

/// The way back to release 1 with its data, of an app whose `data` has these snapshots.
fn back_to_first(app: AppState, snapshots: &[&str]) -> Asked {
    let new = next(&app, app.releases[0].spec.clone());
    let volumes = volumes(&[("data", snapshots)]);
    Asked {
        app,
        new,
        stopped: BTreeSet::new(),
        is_up: true,
        volumes,
        is_cheap: false,
        data_of: Some(id(1)),
        is_rollback: true,
    }
}

fn goes_to(asked: &Asked) -> String {
    let plan = asked.plan();
    let [switch] = plan.switches.as_slice() else { panic!("{plan:?}") };
    assert_eq!(switch.volume, name("data"));
    switch.to.clone()
}

fn after_second() -> AppState {
    let mut app = app(db("db:1", RolloutStrategy::Rolling));
    let second = next(&app, db("db:2", RolloutStrategy::Rolling));
    app.releases.push(Arc::new(second));
    app
}

#[test]
fn data_goes_back_to_the_last_snapshot_that_holds_the_releases_and_of_nothing_else() {
    let cases: [(&[&str], &str); 6] = [
        (&["r1-before-r2"], "r1-before-r2"),
        (&["r1-before-r10", "r1-before-r2", "r1-before-r9"], "r1-before-r10"),
        (&["r1-before-r10", "r1-before-r10.2", "r1-before-r10.10", "r1-before-r9.11"], "r1-before-r10.10"),
        (&["r1-before-r2", "r2-before-r3", "r11-before-r12", "r12-failed"], "r1-before-r2"),
        (&["r1-failed", "r1-before-r2"], "r1-before-r2"),
        (&["r1-failed"], "r1-failed"),
    ];
    for (snapshots, expected) in cases {
        assert_eq!(goes_to(&back_to_first(after_second(), snapshots)), expected, "{snapshots:?}");
    }
    let not_its: [&[&str]; 3] = [&[], &["r2-before-r3", "r11-before-r12", "r10-failed"], &["manual-1", "r1"]];
    for snapshots in not_its {
        let error = back_to_first(after_second(), snapshots).answer().unwrap_err();
        assert!(error.contains("the data that release 1 left in data is not kept"), "{error}");
    }
}

#[test]
fn with_its_data_a_workload_that_mounts_it_is_stopped_and_no_canary_or_batch_is_about_it() {
    for strategy in [RolloutStrategy::Rolling, RolloutStrategy::Canary, RolloutStrategy::Switch] {
        let mut spec = rolled_out_by(db("db:1", strategy), strategy);
        spec.services.extend(web("web:1").services);
        let mut app = app(spec.clone());
        spec.services.get_mut("web").unwrap().workload.image = "web:2".to_owned();
        let second = next(&app, spec);
        app.releases.push(Arc::new(second));
        let plan = back_to_first(app, &["r1-before-r2"]).plan();
        // That its definition stays as it is does not matter: its data does not.
        assert_eq!(plan.halt, names(&["db"]), "{strategy:?}");
        let hows: Vec<(&str, bool)> =
            plan.stages.iter().map(|stage| (stage.workload.as_str(), stage.how == How::Tree)).collect();
        assert_eq!(hows, [("db", true), ("web", false)], "{strategy:?}");
        let switch = &plan.switches[0];
        assert_eq!((switch.keep.as_str(), switch.cut.as_str()), ("r2-before-r3", "r3-failed"));
    }
}

#[test]
fn what_a_rollout_has_noted_is_believed_before_names_where_it_was_taken_and_is_there() {
    let snapshots = |snapshot: &str| {
        let mut plan = Asked::up(db("db:1", RolloutStrategy::Rolling), db("db:2", RolloutStrategy::Rolling)).plan();
        plan.snapshots = vec![VolumeSnapshot { volume: name("data"), snapshot: snapshot.to_owned() }];
        plan
    };
    let there = ["r1-before-r2", "r1-before-r3", "r1-before-r3.2"];
    let cases = [
        ("r1-before-r2", DataState::Done, "r1-before-r2"),
        ("r1-before-r3", DataState::Done, "r1-before-r3"),
        // It may not have been taken: the last by name.
        ("r1-before-r2", DataState::Asked, "r1-before-r3.2"),
        ("r1-before-r2", DataState::No, "r1-before-r3.2"),
        // It was, and is gone.
        ("r1-before-r4", DataState::Done, "r1-before-r3.2"),
    ];
    for (noted, state, expected) in cases {
        let mut app = app(db("db:1", RolloutStrategy::Rolling));
        replaced(&mut app, snapshots(noted), state);
        assert_eq!(goes_to(&back_to_first(app, &there)), expected, "{noted} {state:?}");
    }
}

#[test]
fn of_two_releases_that_replaced_one_the_later_says_what_it_left_and_others_say_nothing() {
    let switched = |volume: StageVolume| {
        let mut plan = Asked::up(db("db:1", RolloutStrategy::Rolling), db("db:2", RolloutStrategy::Rolling)).plan();
        plan.stages[0].how = How::Switch { volumes: vec![volume], keep_writes: true };
        plan
    };
    let at = |snapshot: &str| StageVolume {
        volume: name("data"),
        snapshot: snapshot.to_owned(),
        cut: "r9-failed".to_owned(),
    };
    let mut app = app(db("db:1", RolloutStrategy::Rolling));
    for snapshot in ["r1-before-r2", "r1-before-r3"] {
        replaced(&mut app, switched(at(snapshot)), DataState::No);
        // It failed: what was before it is the current one again.
        let failed = Verdict::RolledBack { reason: "as told".to_owned() };
        let last = app.releases.pop().unwrap();
        app.releases.push(Arc::new(Release { verdict: Some(failed), ..Release::clone(&last) }));
    }
    replaced(&mut app, switched(at("r1-before-r4")), DataState::No);
    replaced(&mut app, switched(at("r4-before-r5")), DataState::No);
    let froms: Vec<Option<ReleaseId>> = app.releases.iter().map(|release| release.from).collect();
    assert_eq!(froms[1..], [Some(id(1)), Some(id(1)), Some(id(1)), Some(id(4))]);
    let left = |of: u64| left_by(&app, app.release(id(of)).unwrap()).remove("data");
    assert_eq!(left(1).as_deref(), Some("r1-before-r4"));
    assert_eq!(left(4).as_deref(), Some("r4-before-r5"));
    assert_eq!((left(2), left(3), left(5)), (None, None, None), "nothing replaced these");
    // Blocked, and resumed: between the two snapshots the one before wrote on.
    let mut last = Release::clone(app.current());
    last.rollout.as_mut().unwrap().progress.stages[0].attempt = 2;
    *app.releases.last_mut().unwrap() = Arc::new(last);
    let left = left_by(&app, app.release(id(4)).unwrap()).remove("data");
    assert_eq!(left.as_deref(), Some("r4-before-r5.2"));
}

#[test]
fn what_is_snapshotted_is_what_the_plan_that_a_person_reads_tells() {
    let web_and_db = || {
        let mut spec = db("db:1", RolloutStrategy::Rolling);
        spec.services.extend(web("web:1").services);
        spec
    };
    type Change = fn(&mut AppSpec);
    let changes: &[(&str, Change, &[&str])] = &[
        ("nothing", |_| {}, &[]),
        ("web, which has no data", |new| image(new, "web"), &[]),
        ("db", |new| image(new, "db"), &["data"]),
        (
            "db, by a switch",
            |new| {
                image(new, "db");
                new.services.get_mut("db").unwrap().rollout.strategy = RolloutStrategy::Switch;
            },
            &["data"],
        ),
        (
            "web, which mounts data from now on",
            |new| {
                new.services.get_mut("web").unwrap().workload.volumes = vec![mount("data")];
            },
            &["data"],
        ),
        (
            "a new one, which mounts data",
            |new| {
                let mut admin = ServiceSpec::of(WorkloadSpec::of("admin:1"));
                admin.workload.volumes = vec![mount("data")];
                new.services.insert(name("admin"), admin);
            },
            &["data"],
        ),
        ("more of db", |new| new.services.get_mut("db").unwrap().replicas = 2, &["data"]),
        ("less of web", |new| new.services.get_mut("web").unwrap().replicas = 1, &[]),
        ("db is gone", |new| drop(new.services.remove("db")), &["data"]),
        ("a worker", |new| drop(new.workers.insert(name("job"), worker("job:1"))), &["data"]),
        (
            "nothing is kept",
            |new| {
                image(new, "db");
                new.keep = 0;
            },
            &[],
        ),
    ];
    for (what, change, expected) in changes {
        for is_cheap in [false, true] {
            let mut new = web_and_db();
            change(&mut new);
            let observed = coppice_plan::Observed { snapshots_are_cheap: is_cheap, ..Default::default() };
            let read = coppice_plan::diff(Some(&web_and_db()), &new, &observed);
            let told: Vec<&str> = read
                .steps
                .iter()
                .filter_map(|step| match step {
                    coppice_plan::Step::SnapshotVolume { volume, .. } => Some(volume.as_str()),
                    _ => None,
                })
                .collect();
            let mut asked = Asked::up(web_and_db(), new);
            asked.volumes = volumes(&[("data", &[])]);
            asked.is_cheap = is_cheap;
            let plan = asked.answer().unwrap();
            let live = plan.iter().flat_map(|plan| &plan.snapshots).map(|one| one.volume.as_str());
            let stages = plan.iter().flat_map(|plan| &plan.stages).flat_map(switch_volumes).map(Name::as_str);
            let taken: Vec<&str> = live.chain(stages).collect();
            assert_eq!(told, taken, "{what}, cheap: {is_cheap}");
            if !is_cheap {
                assert_eq!(&taken, expected, "{what}");
            }
        }
    }
}

fn image(spec: &mut AppSpec, service: &str) {
    spec.services.get_mut(service).unwrap().workload.image.push('2');
}

#[test]
fn the_data_is_kept_of_the_current_release_of_the_newest_and_of_the_newest_that_succeeded() {
    let verdicts = |text: &str| {
        let mut app = app(web("web:1"));
        app.releases = (1..)
            .zip(text.chars())
            .map(|(number, verdict)| {
                let reason = || "as told".to_owned();
                let verdict = match verdict {
                    's' => Some(Verdict::Succeeded),
                    'f' => Some(Verdict::Failed { reason: reason() }),
                    'b' => Some(Verdict::RolledBack { reason: reason() }),
                    'o' => Some(Verdict::Superseded),
                    _ => None,
                };
                Arc::new(Release { id: id(number), number, verdict, ..app.current().clone() })
            })
            .collect();
        app
    };
    // Each release's verdict, how many are kept, and whose data is.
    let cases: [(&str, u32, &[u64]); 13] = [
        ("s", 3, &[1]),
        ("sss", 0, &[3]),
        ("sssss", 2, &[3, 4, 5]),
        ("ssss-", 1, &[3, 4, 5]),
        ("ssss-", 0, &[4, 5]),
        ("sssss", 100, &[1, 2, 3, 4, 5]),
        // However many fail one after the other: what they left, and what there was to go back to before them.
        ("sssffff", 2, &[1, 2, 3, 5, 6, 7]),
        ("sssbbbb", 2, &[1, 2, 3, 6, 7]),
        ("sffsfff", 1, &[1, 4, 6, 7]),
        ("sffsoo-", 1, &[1, 4, 6, 7]),
        ("ffff", 1, &[3, 4]),
        ("fffb", 1, &[3, 4]),
        ("----", 0, &[4]),
    ];
    for (text, keep, expected) in cases {
        let mut app = verdicts(text);
        for release in &mut app.releases {
            *release = Arc::new(Release { spec: AppSpec { keep, ..release.spec.clone() }, ..Release::clone(release) });
        }
        let kept = kept_releases(&app);
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), expected, "{text} keep {keep}");
    }
}
