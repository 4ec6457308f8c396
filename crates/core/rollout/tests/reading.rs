//! What a record says to the API and to the node, and what a plan must not be.

mod world;

use coppice_base::{DurationText, Timestamp};
use coppice_rollout::{
    Action, CandidateId, ControlState, How, Plan, Rollout, RolloutState, Side, StageVolume, Status, Target,
};
use std::time::Duration;
use world::{Ask, Fate, World, name, pace, plan, secs, stage};

fn web() -> Plan {
    plan(vec![stage("db", How::Tree, 1), stage("web", How::Rolling(pace(2, 2)), 3)])
}

#[test]
fn the_checkpoint_counts_over_all_stages() {
    let fate = |ask, _: &str| if ask == Ask::Promote(Side::New) { Fate::Silent } else { Fate::Well };
    let mut world = World::new(web(), fate);
    let record = world.rollout.record();
    assert_eq!((record.status(), record.rollout_state()), (Status::InProgress, RolloutState::Starting));
    world.run_until(|world| world.asked.iter().any(|action| matches!(action, Action::StartCandidate { .. })));
    let checkpoint = world.rollout.record().checkpoint();
    assert_eq!((checkpoint.engine.as_str(), checkpoint.phase.as_str()), ("local", "start"));
    assert_eq!((checkpoint.batch_start, checkpoint.batch_end, checkpoint.total_targets), (1, 3, 4));
    assert_eq!((checkpoint.completed_targets, checkpoint.remaining_targets), (1, 3));
    assert_eq!((checkpoint.failed_targets, checkpoint.control_state), (0, ControlState::Active));
    assert_eq!(world.rollout.record().rollout_state(), RolloutState::Rolling);
    world.run_until(|world| world.asked.iter().any(|action| matches!(action, Action::Promote { .. })));
    assert_eq!(world.rollout.record().checkpoint().phase, "replace");
}

#[test]
fn an_instance_that_is_being_promoted_has_its_old_side_and_is_said_to_be_promoted() {
    let fate = |ask, of: &str| if (ask, of) == (Ask::Promote(Side::New), "web-2") { Fate::Silent } else { Fate::Well };
    let mut world = World::new(web(), fate);
    world.run_until(|world| world.rollout.record().side_of("web", "web-1") == Side::New);
    let record = world.rollout.record();
    assert_eq!((record.side_of("web", "web-2"), record.is_entered("web")), (Side::Old, false));
    let id = CandidateId { instance: "web-2".to_owned(), number: 1 };
    assert_eq!(record.promoting("web", "web-2"), Some((id.clone(), Side::New)));
    assert_eq!(record.promoting("web", "web-1"), None);
    let next = CandidateId { instance: "web-3".to_owned(), number: 1 };
    assert_eq!(record.candidates(), [(name("web"), id, Side::New), (name("web"), next, Side::New)]);
    assert!(record.is_entered("db") && record.side_of("db", "db-1") == Side::New);
    assert_eq!(record.side_of("untouched", "untouched-1"), Side::Old);
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let mut world = World::new(web(), |_, _| Fate::Well);
    world.run_until(|world| world.rollout.record().counts().completed == 2);
    let text = serde_json::to_string(world.rollout.record()).unwrap();
    assert_eq!(&serde_json::from_str::<coppice_rollout::Record>(&text).unwrap(), world.rollout.record());
}

#[test]
fn the_history_is_bounded() {
    let mut stage = stage("web", How::Rolling(pace(1, 1)), 0);
    stage.targets =
        (0..500).map(|n| Target { instance: format!("web-{n}"), has_old: true, numbered_after: 0 }).collect();
    let mut world = World::new(plan(vec![stage]), |_, _| Fate::Well);
    world.run();
    assert_eq!(world.rollout.progress().steps.len(), coppice_rollout::STEPS_MAX);
}

#[test]
fn time_at_its_end_or_going_backwards_stops_nothing() {
    let (mut rollout, _) = Rollout::begin(web(), Timestamp(u64::MAX - 1));
    rollout.handle(Timestamp(5), coppice_rollout::Event::WorkloadReady { workload: name("db"), side: Side::New });
    assert_eq!(rollout.record().counts().completed, 1);
}

#[test]
fn plans_that_could_not_end_are_found_out() {
    let none = DurationText(Duration::ZERO);
    let volume = || StageVolume { volume: name("data"), snapshot: "r1".to_owned(), cut: "r2-cut".to_owned() };
    let switch = |workload| stage(workload, How::Switch { volumes: vec![volume()], keep_writes: false }, 1);
    let broken: [(Plan, &str); 10] = [
        (Plan { deadline: none, ..web() }, "the rollout has no deadline"),
        (Plan { halt: vec![name("db")], ..web() }, "workloads are halted and nothing is switched"),
        (Plan { removed: vec![name("db")], ..web() }, "db is there twice"),
        (
            Plan { ahead: 1, before: vec![name("hook")], ..web() },
            "what comes before the hooks is not just what they need",
        ),
        (
            Plan { ahead: 1, ..plan(vec![stage("db", How::Tree, 0)]) },
            "stages come before hooks that there are not, or that have what they need",
        ),
        (Plan { first: true, ..web() }, "it replaces something of no release"),
        (plan(vec![stage("web", How::Rolling(pace(0, 1)), 1)]), "web may not replace a single instance at once"),
        (plan(vec![stage("a", How::Tree, 1), stage("a", How::Tree, 1)]), "instance a-1 of a is there twice"),
        (plan(vec![switch("a"), switch("b")]), "the data of data is switched twice"),
        (
            Plan {
                switches: vec![coppice_rollout::VolumeSwitch {
                    volume: name("logs"),
                    to: "r1".to_owned(),
                    keep: "r2".to_owned(),
                    cut: "r3".to_owned(),
                }],
                halt: vec![name("web")],
                ..web()
            },
            "web is halted and nothing starts it again",
        ),
    ];
    for (plan, complaint) in broken {
        assert!(plan.check().iter().any(|found| found == complaint), "{complaint}: {:?}", plan.check());
    }
    let mut late = web();
    late.stages[0].deadline = secs(0);
    assert_eq!(late.check(), ["db has no deadline"]);
}
