//! What each strategy does when all is well, and when it is not.

mod world;

use std::collections::BTreeSet;

use coppice_rollout::{
    Action, Control, ControlState, How, Reason, RolloutState, Side, Stage, StageVolume, Status, Target, TargetState,
    Verdict,
};
use coppice_spec::{AnalysisSpec, CanaryStep, FailureAction};
use world::{Ask, Fate, World, name, pace, plan, secs, stage};

fn rolling() -> How {
    How::Rolling(pace(1, 1))
}

/// One instance with 10 % for 30 s, then two with 50 % for a minute, then one after the other.
fn canary() -> How {
    let step = |instances, weight, duration| CanaryStep { instances, weight, duration: secs(duration) };
    How::Canary { steps: vec![step(1, 10, 30), step(2, 50, 60)], analysis: AnalysisSpec::default(), pace: pace(1, 2) }
}

fn switch() -> How {
    let volume = StageVolume { volume: name("data"), snapshot: "r1".to_owned(), cut: "r2-cut".to_owned() };
    How::Switch { volumes: vec![volume], keep_writes: false }
}

fn every_how() -> Vec<How> {
    vec![How::Tree, rolling(), canary(), How::BlueGreen, switch()]
}

fn well(_: Ask, _: &str) -> Fate {
    Fate::Well
}

/// All is well but this.
fn but(ask: Ask, subject: &'static str, fate: Fate) -> impl FnMut(Ask, &str) -> Fate {
    move |asked, of| if asked == ask && of == subject { fate } else { Fate::Well }
}

fn reason_of(world: &World) -> Reason {
    world.outcome.as_ref().and_then(|outcome| outcome.cause.as_ref()).expect("a cause").reason
}

fn verdict_of(world: &World) -> Verdict {
    world.outcome.as_ref().expect("an end").verdict
}

fn web(how: How) -> Stage {
    stage("web", how, 3)
}

#[test]
fn every_strategy_ends_with_all_at_the_new_release_when_all_is_well() {
    for how in every_how() {
        let mut world = World::new(plan(vec![web(how.clone()), stage("after", How::Tree, 1)]), well);
        world.run();
        assert_eq!(verdict_of(&world), Verdict::Completed, "{how:?}");
        let record = world.rollout.record();
        assert_eq!((record.status(), record.rollout_state()), (Status::Completed, RolloutState::Stable));
        assert_eq!(record.counts().completed, 4);
        assert!(record.is_entered("web") && record.side_of("web", "web-2") == Side::New);
    }
}

#[test]
fn a_plan_with_nothing_to_do_completes_at_once() {
    let world = World::new(plan(Vec::new()), well);
    assert_eq!(verdict_of(&world), Verdict::Completed);
}

#[test]
fn a_batch_is_as_large_as_the_parallelism_and_candidates_as_many_as_the_surge() {
    let mut world = World::new(plan(vec![stage("web", How::Rolling(pace(3, 2)), 5)]), well);
    assert_eq!(world.pending.len(), 2);
    let checkpoint = world.rollout.record().checkpoint();
    assert_eq!((checkpoint.batch_start, checkpoint.batch_end, checkpoint.total_targets), (0, 3, 5));
    world.run();
    let steps = world.steps();
    assert!(steps.contains("replaces web-1, web-2, web-3") && steps.contains("replaces web-4, web-5"), "{steps}");
}

#[test]
fn a_delay_stands_between_batches_and_not_after_the_last() {
    let mut of_web = web(rolling());
    of_web.delay = secs(30);
    let mut world = World::new(plan(vec![of_web]), well);
    let began = world.now;
    world.run();
    let took = world.now.since(began).as_secs();
    assert!((60..62).contains(&took), "{took}");
}

#[test]
fn the_next_batch_is_started_while_the_one_before_goes_into_its_slots_unless_there_is_a_delay() {
    for (delay, early) in [(secs(0), true), (secs(30), false)] {
        let mut of_web = web(rolling());
        of_web.delay = delay;
        let mut world = World::new(plan(vec![of_web]), but(Ask::Promote(Side::New), "web-1", Fate::Silent));
        let asked = |world: &World, of: &str| {
            let is_it = |action: &Action| matches!(action, Action::StartCandidate { candidate, .. } if candidate.instance == of);
            world.asked.iter().any(is_it)
        };
        world.deliver(0);
        assert_eq!(asked(&world, "web-2"), early);
        if early {
            // Of the second batch nothing is promoted twice, and the third waits for it.
            assert!(!asked(&world, "web-3"));
            world.deliver(0);
            assert!(asked(&world, "web-3"));
        }
        world.run();
        assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::DeadlineExceeded));
    }
}

#[test]
fn instances_that_the_old_release_does_not_have_are_started_by_supervision_once_the_others_are_replaced() {
    let mut of_web = web(rolling());
    of_web.targets.push(Target { instance: "web-4".to_owned(), has_old: false, numbered_after: 0 });
    let mut world = World::new(plan(vec![of_web]), well);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
    let is_it =
        |action: &Action| matches!(action, Action::StartCandidate { candidate, .. } if candidate.instance == "web-4");
    assert!(!world.asked.iter().any(is_it));
}

#[test]
fn candidates_are_numbered_after_the_containers_that_are_there() {
    let mut of_web = web(rolling());
    of_web.targets[0].numbered_after = 7;
    let mut world = World::new(plan(vec![of_web]), well);
    world.run();
    let number = |action: &Action| match action {
        Action::StartCandidate { candidate, .. } => Some((candidate.instance.clone(), candidate.number)),
        _ => None,
    };
    let numbers: Vec<_> = world.asked.iter().filter_map(number).collect();
    assert_eq!(numbers, [("web-1".to_owned(), 8), ("web-2".to_owned(), 1), ("web-3".to_owned(), 1)]);
}

#[test]
fn blue_green_promotes_all_at_one_moment() {
    let mut world = World::new(plan(vec![web(How::BlueGreen)]), well);
    assert_eq!(world.pending.len(), 3);
    world.run();
    let promotes: Vec<usize> = world
        .asked
        .iter()
        .filter_map(
            |action| if let Action::Promote { candidates, .. } = action { Some(candidates.len()) } else { None },
        )
        .collect();
    assert_eq!(promotes, [3]);
}

#[test]
fn a_blue_green_switch_that_one_candidate_did_not_live_to_see_waits_for_another() {
    let mut deaths = 1;
    let fate = move |ask, _: &str| match ask {
        Ask::Promote(_) if deaths > 0 => {
            deaths -= 1;
            Fate::Fails(Reason::ProcessFailed)
        }
        _ => Fate::Well,
    };
    let mut world = World::new(plan(vec![web(How::BlueGreen)]), fate);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
}

#[test]
fn a_canary_gets_its_share_step_by_step_and_none_in_the_end() {
    let mut world = World::new(plan(vec![web(canary())]), well);
    let began = world.now;
    world.run();
    assert!(world.now.since(began).as_secs() >= 90);
    let weights: Vec<Option<u8>> = world
        .asked
        .iter()
        .filter_map(|action| if let Action::Weigh { percent, .. } = action { Some(*percent) } else { None })
        .collect();
    assert_eq!(weights, [Some(10), Some(50), None]);
}

#[test]
fn a_canary_with_more_instances_than_room_beside_the_old_ones_promotes_as_it_needs() {
    let steps = vec![CanaryStep { instances: 3, weight: 50, duration: secs(30) }];
    let how = How::Canary { steps, analysis: AnalysisSpec::default(), pace: pace(1, 1) };
    let mut world = World::new(plan(vec![web(how)]), well);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
}

#[test]
fn a_canary_with_too_many_errors_goes_before_its_time_and_nothing_was_replaced() {
    let mut world = World::new(plan(vec![web(canary())]), but(Ask::Sample, "web", Fate::Fails(Reason::AnalysisFailed)));
    let began = world.now;
    world.run();
    assert!(world.now.since(began).as_secs() < 5);
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::AnalysisFailed));
    assert!(!world.asked.iter().any(|action| matches!(action, Action::Promote { .. })));
    assert_eq!(world.rollout.record().failure_details()[0].reason, Reason::AnalysisFailed);
}

#[test]
fn a_canary_of_which_nothing_is_heard_ends_by_its_deadline() {
    let mut world = World::new(plan(vec![web(canary())]), but(Ask::Sample, "web", Fate::Silent));
    let began = world.now;
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::DeadlineExceeded));
    assert!(world.now.since(began).as_secs() <= 301);
}

#[test]
fn a_candidate_whose_health_flaps_is_given_up() {
    for how in [canary(), How::BlueGreen] {
        // Another one hangs, so that blue-green has to wait.
        let fate = |ask, of: &str| match (ask, of) {
            (Ask::Candidate(Side::New), "web-1") => Fate::Flaps,
            (Ask::Candidate(Side::New), "web-2") => Fate::Silent,
            _ => Fate::Well,
        };
        let mut world = World::new(plan(vec![web(how.clone())]), fate);
        world.run();
        assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::ReadinessFailed), "{how:?}");
    }
}

#[test]
fn a_candidate_that_fails_is_tried_three_times_then_all_that_was_replaced_comes_back() {
    for (how, verdict) in
        [(rolling(), Verdict::RolledBack), (canary(), Verdict::Failed), (How::BlueGreen, Verdict::Failed)]
    {
        let fails = Fate::Fails(Reason::StartFailed);
        let mut world = World::new(plan(vec![web(how.clone())]), but(Ask::Candidate(Side::New), "web-2", fails));
        world.run();
        assert_eq!((verdict_of(&world), reason_of(&world)), (verdict, Reason::StartFailed), "{how:?}");
        let is_try = |action: &&Action| matches!(action, Action::StartCandidate { candidate, side: Side::New, .. } if candidate.instance == "web-2");
        assert_eq!(world.asked.iter().filter(is_try).count(), 3, "{how:?}");
        let targets = world.rollout.record().targets();
        assert_eq!((targets[1].state, targets[1].reason), (TargetState::Failed, Some(Reason::StartFailed)));
        if verdict == Verdict::RolledBack {
            assert_eq!(
                (targets[0].state, targets[0].reason),
                (TargetState::RolledBack, Some(Reason::RollbackReverted))
            );
            assert_eq!(world.rollout.record().rollout_state(), RolloutState::RolledBack);
        }
    }
}

#[test]
fn a_candidate_that_hangs_has_its_time_once() {
    for how in [rolling(), canary(), How::BlueGreen] {
        let mut world = World::new(plan(vec![web(how.clone())]), but(Ask::Candidate(Side::New), "web-1", Fate::Silent));
        let began = world.now;
        world.run();
        assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::ReadinessTimeout), "{how:?}");
        assert!((20..22).contains(&world.now.since(began).as_secs()));
    }
}

#[test]
fn a_workload_that_supervision_gives_up_or_that_is_never_ready_goes_back() {
    for how in every_how() {
        for (fate, reason) in
            [(Fate::Fails(Reason::ProcessFailed), Reason::ProcessFailed), (Fate::Silent, Reason::ReadinessTimeout)]
        {
            let mut world = World::new(plan(vec![web(how.clone())]), but(Ask::Enter, "web", fate));
            world.run();
            assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, reason), "{how:?}");
        }
    }
}

#[test]
fn old_ones_that_do_not_come_up_as_candidates_are_left_to_supervision() {
    let fate = |ask, of: &str| match (ask, of) {
        (Ask::Candidate(Side::New), "web-3") | (Ask::Candidate(Side::Old), "web-2") => Fate::Fails(Reason::StartFailed),
        _ => Fate::Well,
    };
    let mut world = World::new(plan(vec![web(rolling())]), fate);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
    assert!(world.steps().contains("supervision is to bring the old one back"), "{}", world.steps());
}

#[test]
fn an_old_release_that_is_not_ready_again_is_said() {
    let fate = |ask, _: &str| match ask {
        Ask::Enter => Fate::Fails(Reason::ProcessFailed),
        Ask::Leave => Fate::Silent,
        _ => Fate::Well,
    };
    let mut world = World::new(plan(vec![stage("db", How::Tree, 1)]), fate);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
    assert_eq!(world.outcome.as_ref().unwrap().remains, ["db is the old release's again and not ready yet"]);
    assert_eq!(world.rollout.record().rollout_state(), RolloutState::Degraded);
}

#[test]
fn stages_go_back_in_reverse() {
    let stages = vec![stage("db", switch(), 1), stage("cache", How::Tree, 1), stage("web", rolling(), 2)];
    let fails = Fate::Fails(Reason::ImagePullFailed);
    let mut world = World::new(plan(stages), but(Ask::Candidate(Side::New), "web-2", fails));
    world.run();
    let left: Vec<&str> = world
        .asked
        .iter()
        .filter_map(|action| if let Action::Leave { workload } = action { Some(workload.as_str()) } else { None })
        .collect();
    assert_eq!(left, ["web", "cache", "db"]);
    assert_eq!(world.heads[&name("data")], "now");
}

#[test]
fn a_switch_stops_then_snapshots_then_starts() {
    let mut world = World::new(plan(vec![stage("db", switch(), 1)]), well);
    world.run();
    let order: Vec<&str> = world
        .asked
        .iter()
        .map(|action| match action {
            Action::Halt { .. } => "halt",
            Action::Snapshot { .. } => "snapshot",
            Action::Enter { .. } => "enter",
            _ => "end",
        })
        .collect();
    assert_eq!(order, ["halt", "snapshot", "enter", "end"]);
}

#[test]
fn a_switch_whose_snapshot_fails_starts_the_old_one_on_its_untouched_data() {
    let fate = but(Ask::Snapshot, "data", Fate::Fails(Reason::SnapshotFailed));
    let mut world = World::new(plan(vec![stage("db", switch(), 1)]), fate);
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::SnapshotFailed));
    assert!(!world.asked.iter().any(|action| matches!(action, Action::SwitchBack { .. })));
}

#[test]
fn a_switch_that_is_taken_back_by_a_later_failure_keeps_its_data_only_where_asked() {
    for keep_writes in [false, true] {
        let How::Switch { volumes, .. } = switch() else { unreachable!() };
        let stages = vec![stage("db", How::Switch { volumes, keep_writes }, 1), stage("web", How::Tree, 1)];
        let mut world = World::new(plan(stages), but(Ask::Enter, "web", Fate::Fails(Reason::ProcessFailed)));
        world.run();
        assert_eq!(verdict_of(&world), Verdict::RolledBack);
        assert_eq!(world.heads[&name("data")], if keep_writes { "migrated" } else { "now" });
    }
}

#[test]
fn a_switch_that_fails_is_taken_back_before_its_rollout_rests_and_snapshots_anew_when_resumed() {
    let mut failures = 1;
    let fate = move |ask, _: &str| match ask {
        Ask::Enter if failures > 0 => {
            failures -= 1;
            Fate::Fails(Reason::ProcessFailed)
        }
        _ => Fate::Well,
    };
    let mut plan = plan(vec![stage("db", switch(), 1)]);
    plan.failure_action = FailureAction::Pause;
    let mut world = World::new(plan, fate);
    world.run();
    assert!(world.is_blocked());
    assert_eq!(world.slots["db-1"], Side::Old);
    assert_eq!(world.heads[&name("data")], "now");
    assert_eq!(world.rollout.record().status(), Status::PartiallyFailed);
    world.control(Control::Resume);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
    let snapshots: BTreeSet<&str> = world
        .asked
        .iter()
        .filter_map(
            |action| if let Action::Snapshot { snapshot, .. } = action { Some(snapshot.as_str()) } else { None },
        )
        .collect();
    assert_eq!(snapshots, BTreeSet::from(["r1", "r1.2"]));
    assert_eq!(world.rollout.record().control_state(), ControlState::Active);
}

#[test]
fn a_canary_that_passed_goes_into_its_slots_at_once_and_the_rest_follows_batch_by_batch() {
    let steps = vec![CanaryStep { instances: 3, weight: 30, duration: secs(30) }];
    let how = How::Canary { steps, analysis: AnalysisSpec::default(), pace: pace(1, 3) };
    let mut world = World::new(plan(vec![stage("web", how, 5)]), well);
    world.run();
    let steps = world.steps();
    let batches: Vec<&str> = steps.lines().filter(|line| line.starts_with("replaces")).collect();
    assert_eq!(batches, ["replaces web-1, web-2, web-3", "replaces web-4", "replaces web-5"], "{steps}");
}
