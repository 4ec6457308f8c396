//! A disk without room: data that cannot be put back, and a log that takes nothing.

mod world;

use coppice_base::Timestamp;
use coppice_rollout::{Action, Event, How, Plan, Reason, Side, Verdict, VolumeSwitch};
use coppice_spec::{AnalysisSpec, CanaryStep};
use world::{Ask, Fate, World, name, pace, plan, secs, stage};

/// A rollback with the data of one volume, whose database does not come up.
fn with_data() -> Plan {
    let switch = VolumeSwitch {
        volume: name("data"),
        to: "r1".to_owned(),
        keep: "r3-head".to_owned(),
        cut: "r4-cut".to_owned(),
    };
    Plan { switches: vec![switch], halt: vec![name("db")], ..plan(vec![stage("db", How::Tree, 1)]) }
}

#[test]
fn data_for_which_there_is_no_room_is_put_back_when_there_is_and_nothing_runs_on_half_of_it() {
    let mut tries = 0;
    let mut world = World::new(with_data(), move |ask, _| match ask {
        Ask::Enter => Fate::Fails(Reason::ProcessFailed),
        Ask::SwitchBack => {
            tries += 1;
            if tries < 30 { Fate::NoRoom } else { Fate::Well }
        }
        _ => Fate::Well,
    });
    world.run();
    let outcome = world.outcome.clone().expect("an end");
    assert_eq!((outcome.verdict, &outcome.remains), (Verdict::RolledBack, &Vec::new()), "{}", world.told());
    assert_eq!(world.heads[&name("data")], "now");
    let said = world.steps().matches("is tried again when there is room").count();
    assert_eq!(said, 1, "said once:\n{}", world.steps());
}

#[test]
fn data_for_which_there_is_never_room_is_told_of_once_going_back_has_had_its_time() {
    let mut world = World::new(with_data(), |ask, _| match ask {
        Ask::Enter => Fate::Fails(Reason::ProcessFailed),
        Ask::SwitchBack => Fate::NoRoom,
        _ => Fate::Well,
    });
    world.run();
    let outcome = world.outcome.clone().expect("an end");
    assert_eq!(outcome.verdict, Verdict::RolledBack);
    assert!(outcome.remains.iter().any(|remains| remains.contains("data")), "{:?}", outcome.remains);
    let tries = world.asked.iter().filter(|action| matches!(action, Action::SwitchBack { .. })).count();
    assert!((500..=601).contains(&tries), "one a second, as long as going back may take: {tries}");
}

/// Half an hour, in milliseconds: longer than any deadline here.
const LONG: u64 = 1_800_000;

#[test]
fn time_in_which_the_log_took_nothing_is_not_taken_from_what_is_to_be_ready() {
    let mut world = World::new(plan(vec![stage("web", How::Rolling(pace(1, 1)), 1)]), |ask, _| match ask {
        Ask::Candidate(Side::New) => Fate::Silent,
        _ => Fate::Well,
    });
    let until = |world: &World| -> Timestamp {
        let target = &world.rollout.progress().stages[0].targets[0];
        target.candidate.as_ref().and_then(|candidate| candidate.until).expect("a candidate that is to be ready")
    };
    let (since, before) = (world.now, until(&world));
    world.now = world.now.plus(secs(100).0);
    world.rollout.held_up(since, world.now, "no space left for log.db");
    assert_eq!(until(&world), before.plus(secs(100).0));
    world.send(Event::Tick);
    assert!(world.outcome.is_none());
    assert!(world.steps().ends_with("waited 1m40s: no space left for log.db"), "{}", world.steps());
    world.run();
    assert_eq!(world.outcome.expect("an end").cause.expect("a cause").reason, Reason::ReadinessTimeout);
}

#[test]
fn the_way_forth_ends_by_its_deadline_however_long_the_log_took_nothing_and_the_way_back_has_its_whole_time() {
    let mut world = World::new(with_data(), |ask, _| if ask == Ask::SwitchBack { Fate::NoRoom } else { Fate::Well });
    let since = world.now;
    world.now.0 += LONG;
    world.rollout.held_up(since, world.now, "no space left");
    world.send(Event::Tick);
    assert!(world.steps().contains("deadline"), "{}", world.steps());
    let since = world.now;
    world.now.0 += LONG;
    world.rollout.held_up(since, world.now, "no space left");
    world.send(Event::Tick);
    assert!(world.outcome.is_none(), "{}", world.steps());
}

#[test]
fn a_canary_is_watched_as_long_as_it_was_to_be_however_long_the_log_took_nothing() {
    let steps = vec![CanaryStep { instances: 1, weight: 10, duration: secs(60) }];
    let how = How::Canary { steps, analysis: AnalysisSpec::default(), pace: pace(1, 1) };
    let mut world = World::new(plan(vec![stage("web", how, 2)]), |_, _| Fate::Well);
    world.run_until(|world| world.asked.iter().any(|action| matches!(action, Action::Weigh { .. })));
    let watch = |world: &World| world.rollout.progress().stages[0].watch.expect("a canary that is watched");
    let (since, before) = (world.now, watch(&world));
    world.now.0 += 100_000;
    world.rollout.held_up(since, world.now, "no space left");
    world.send(Event::Tick);
    let after = watch(&world);
    assert_eq!((after.since, after.until.since(before.until).as_millis()), (before.since, 100_000));
    assert!(!world.asked.iter().any(|action| matches!(action, Action::Sample { .. })), "not before its time");
    world.run();
    assert_eq!(world.outcome.expect("an end").verdict, Verdict::Completed);
}
