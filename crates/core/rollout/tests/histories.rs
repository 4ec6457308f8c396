//! Whole rollouts as people read them in `history`: one text file each, second by second.

mod world;

use coppice_rollout::{Action, Control, How, Plan, Reason, Side, StageVolume, VolumeSnapshot, VolumeSwitch};
use coppice_spec::{AnalysisSpec, CanaryStep, FailureAction};
use world::{Ask, Fate, World, name, pace, plan, secs, stage};

/// The steps with the seconds since the beginning, and how it ended.
fn history(world: &World) -> String {
    let progress = world.rollout.progress();
    let mut text = String::new();
    for step in &progress.steps {
        text.push_str(&format!("{:>7.2}s  {}\n", step.at.since(progress.began).as_secs_f64(), step.what));
    }
    let record = world.rollout.record();
    text.push_str(&format!("status {}, state {}\n", record.status().as_str(), record.rollout_state().as_str()));
    for target in record.targets() {
        let reason = target.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        text.push_str(&format!("{} {}{reason}\n", target.instance, target.state.as_str()));
    }
    for remains in record.progress.outcome.iter().flat_map(|outcome| &outcome.remains) {
        text.push_str(&format!("remains: {remains}\n"));
    }
    text
}

fn is_as_written(file: &str, world: &World) {
    let path = format!("{}/tests/histories/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    let fresh = history(world);
    if std::env::var_os("COPPICE_WRITE_HISTORIES").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(fresh, written, "{path} is old: run this test with COPPICE_WRITE_HISTORIES=1 and read what changed");
}

fn but(ask: Ask, subject: &'static str, fate: Fate) -> impl FnMut(Ask, &str) -> Fate {
    move |asked, of| if asked == ask && of == subject { fate } else { Fate::Well }
}

/// A database that only one may write, behind a service with a canary.
fn shop() -> Plan {
    let volume = StageVolume { volume: name("data"), snapshot: "r1".to_owned(), cut: "r2-cut".to_owned() };
    let step = |instances, weight, duration| CanaryStep { instances, weight, duration: secs(duration) };
    let canary = How::Canary {
        steps: vec![step(1, 10, 30), step(2, 50, 60)],
        analysis: AnalysisSpec::default(),
        pace: pace(2, 2),
    };
    Plan {
        snapshots: vec![VolumeSnapshot { volume: name("uploads"), snapshot: "r1".to_owned() }],
        before: vec![name("migrate")],
        after: vec![name("smoke")],
        removed: vec![name("mail")],
        ..plan(vec![stage("db", How::Switch { volumes: vec![volume], keep_writes: false }, 1), stage("web", canary, 4)])
    }
}

#[test]
fn a_shop_that_is_updated() {
    let mut world = World::new(shop(), |_, _| Fate::Well);
    world.run();
    is_as_written("updated", &world);
}

#[test]
fn a_shop_whose_canary_fails_in_its_second_step() {
    let mut samples = 0;
    let fate = move |ask, _: &str| {
        samples += u32::from(ask == Ask::Sample);
        if ask == Ask::Sample && samples > 20 { Fate::Fails(Reason::AnalysisFailed) } else { Fate::Well }
    };
    let mut world = World::new(shop(), fate);
    world.run();
    is_as_written("canary-failed", &world);
}

#[test]
fn a_shop_that_is_blocked_resumed_killed_and_canceled() {
    let fate = but(Ask::Candidate(Side::New), "web-2", Fate::Fails(Reason::ImagePullFailed));
    let mut world = World::new(Plan { failure_action: FailureAction::Pause, ..shop() }, fate);
    world.run();
    world.now.0 += 3_600_000;
    world.control(Control::Resume);
    world.kill();
    world.control(Control::Cancel);
    world.run();
    is_as_written("canceled", &world);
}

#[test]
fn a_first_release_whose_hook_needs_a_database() {
    let fresh = |workload: &str, replicas| {
        let mut fresh = stage(workload, How::Tree, replicas);
        fresh.targets.iter_mut().for_each(|target| target.has_old = false);
        fresh
    };
    let first = || Plan {
        first: true,
        before: vec![name("migrate")],
        ahead: 1,
        after: vec![name("smoke")],
        ..plan(vec![fresh("db", 1), fresh("web", 2)])
    };
    let mut world = World::new(first(), |_, _| Fate::Well);
    world.run();
    is_as_written("first", &world);

    let mut world = World::new(first(), but(Ask::Hook, "migrate", Fate::Fails(Reason::HookFailed)));
    world.run();
    is_as_written("first-failed", &world);
    assert!(!world.asked.iter().any(|action| matches!(action, Action::Enter { workload } if *workload == name("web"))));
}

#[test]
fn a_rollback_with_data_that_fails_half_way() {
    let switch = |volume: &str| VolumeSwitch {
        volume: name(volume),
        to: "r1".to_owned(),
        keep: "r3-head".to_owned(),
        cut: "r4-cut".to_owned(),
    };
    let plan = Plan {
        switches: vec![switch("data"), switch("logs")],
        halt: vec![name("db")],
        ..plan(vec![stage("db", How::Tree, 1), stage("web", How::BlueGreen, 2)])
    };
    let mut world = World::new(plan.clone(), but(Ask::Switch, "logs", Fate::Fails(Reason::SwitchFailed)));
    world.run();
    is_as_written("switch-failed", &world);

    let fate = |ask, of: &str| match (ask, of) {
        (Ask::Enter, "db") => Fate::Silent,
        (Ask::SwitchBack, "logs") => Fate::Fails(Reason::SwitchFailed),
        _ => Fate::Well,
    };
    let mut world = World::new(plan, fate);
    world.run();
    is_as_written("data-remains", &world);
}
