//! Pause, resume and cancel; hooks, snapshots and switched data; a node that was gone.

mod world;

use coppice_rollout::{
    Action, Control, ControlState, Event, HookWhen, How, Phase, Plan, Reason, RolloutState, Side, Status, TargetState,
    Verdict, VolumeSnapshot, VolumeSwitch,
};
use coppice_spec::{AnalysisSpec, CanaryStep, FailureAction};
use world::{Ask, Fate, World, name, pace, plan, secs, stage};

fn rolling() -> How {
    How::Rolling(pace(1, 1))
}

fn well(_: Ask, _: &str) -> Fate {
    Fate::Well
}

fn but(ask: Ask, subject: &'static str, fate: Fate) -> impl FnMut(Ask, &str) -> Fate {
    move |asked, of| if asked == ask && of == subject { fate } else { Fate::Well }
}

fn verdict_of(world: &World) -> Verdict {
    world.outcome.as_ref().expect("an end").verdict
}

fn reason_of(world: &World) -> Reason {
    world.outcome.as_ref().and_then(|outcome| outcome.cause.as_ref()).expect("a cause").reason
}

/// Three instances, one after the other.
fn web() -> Plan {
    plan(vec![stage("web", rolling(), 3)])
}

/// A rollback with data: two volumes, a database that is halted for them, and a service beside it.
fn with_data() -> Plan {
    let switch = |volume: &str| VolumeSwitch {
        volume: name(volume),
        to: "r1".to_owned(),
        keep: "r3-head".to_owned(),
        cut: "r4-cut".to_owned(),
    };
    Plan {
        switches: vec![switch("data"), switch("logs")],
        halt: vec![name("api"), name("db")],
        stages: vec![stage("db", How::Tree, 1), stage("api", How::Tree, 2), stage("web", rolling(), 2)],
        removed: vec![name("mail")],
        ..web()
    }
}

fn with_hooks() -> Plan {
    Plan {
        before: vec![name("migrate"), name("check")],
        after: vec![name("smoke")],
        snapshots: vec![VolumeSnapshot { volume: name("data"), snapshot: "r1".to_owned() }],
        removed: vec![name("mail")],
        ..web()
    }
}

#[test]
fn a_pause_lets_the_batch_end_and_rests_before_the_next_until_resumed() {
    let mut world = World::new(web(), well);
    world.control(Control::Pause);
    assert_eq!(world.rollout.record().control_state(), ControlState::Paused);
    assert!(!world.is_blocked());
    world.run();
    assert!(world.is_blocked());
    let record = world.rollout.record();
    assert_eq!((record.counts().completed, record.counts().remaining), (1, 2));
    assert_eq!((record.status(), record.rollout_state()), (Status::InProgress, RolloutState::Blocked));
    assert_eq!(world.rollout.next_wakeup(), None);
    // However long it rests, no deadline runs out.
    world.now.0 += 86_400_000;
    world.send(Event::Tick);
    world.control(Control::Resume);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
}

#[test]
fn a_cancel_goes_back_before_the_next_batch_and_says_so_of_the_targets_left() {
    let mut world = World::new(web(), well);
    world.control(Control::Cancel);
    assert_eq!(world.rollout.record().control_state(), ControlState::CancelRequested);
    world.control(Control::Resume);
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::CanceledByOperator));
    let targets = world.rollout.record().targets();
    assert_eq!(targets[0].state, TargetState::RolledBack);
    assert_eq!((targets[1].state, targets[1].reason), (TargetState::Failed, Some(Reason::CanceledByOperator)));
}

#[test]
fn a_paused_rollout_that_is_canceled_goes_back() {
    let mut world = World::new(web(), well);
    world.control(Control::Pause);
    world.run();
    world.control(Control::Cancel);
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::CanceledByOperator));
}

#[test]
fn who_ruled_it_and_when_is_kept_and_what_changed_nothing_is_not() {
    let mut world = World::new(web(), well);
    world.control(Control::Resume);
    world.control(Control::Pause);
    world.control(Control::Pause);
    world.run();
    let began = world.rollout.progress().rulings[0].at;
    world.now.0 += 1000;
    world.control(Control::Resume);
    world.control(Control::Cancel);
    world.control(Control::Cancel);
    let rulings = &world.rollout.progress().rulings;
    let all: Vec<_> = rulings.iter().map(|ruling| (ruling.control, ruling.by.as_str())).collect();
    assert_eq!(all, [(Control::Pause, "uid 7"), (Control::Resume, "uid 7"), (Control::Cancel, "uid 7")]);
    assert!(rulings[1].at.since(began).as_millis() >= 1000);
    assert!(world.steps().contains("resumed by uid 7") && world.steps().contains("cancel was asked for by uid 7"));
    world.run();
    assert_eq!(world.rollout.progress().rulings.len(), 3);
}

#[test]
fn a_canary_that_is_watched_is_paused_and_canceled_at_once() {
    let steps = vec![CanaryStep { instances: 1, weight: 10, duration: secs(60) }];
    let how = How::Canary { steps, analysis: AnalysisSpec::default(), pace: pace(1, 1) };
    let mut world = World::new(plan(vec![stage("web", how, 3)]), well);
    world.run_until(|world| world.asked.iter().any(|action| matches!(action, Action::Weigh { .. })));
    world.control(Control::Pause);
    assert!(world.is_blocked());
    world.control(Control::Resume);
    assert!(!world.is_blocked());
    world.control(Control::Cancel);
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::CanceledByOperator));
    assert_eq!(world.asked.iter().filter(|action| matches!(action, Action::Weigh { percent: None, .. })).count(), 1);
}

#[test]
fn with_the_failure_action_pause_it_rests_as_it_is_and_resume_tries_what_failed_again() {
    let mut failures = 3;
    let fate = move |ask, of: &str| match (ask, of) {
        (Ask::Candidate(Side::New), "web-2") if failures > 0 => {
            failures -= 1;
            Fate::Fails(Reason::ImagePullFailed)
        }
        _ => Fate::Well,
    };
    let mut world = World::new(Plan { failure_action: FailureAction::Pause, ..web() }, fate);
    world.run();
    let record = world.rollout.record();
    assert_eq!((record.status(), record.rollout_state()), (Status::PartiallyFailed, RolloutState::Blocked));
    let states: Vec<TargetState> = record.targets().iter().map(|target| target.state).collect();
    assert_eq!(states, [TargetState::Ready, TargetState::Failed, TargetState::Blocked]);
    assert_eq!((world.slots["web-1"], world.slots["web-2"]), (Side::New, Side::Old));
    world.control(Control::Resume);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
    let is_first =
        |action: &&Action| matches!(action, Action::StartCandidate { candidate, .. } if candidate.instance == "web-1");
    assert_eq!(world.asked.iter().filter(is_first).count(), 1, "what is ready is not done again");
}

#[test]
fn a_hook_before_that_fails_stops_it_before_anything_is_changed() {
    let mut world = World::new(with_hooks(), but(Ask::Hook, "check", Fate::Fails(Reason::HookFailed)));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::HookFailed));
    let changes = |action: &Action| matches!(action, Action::StartCandidate { .. } | Action::Enter { .. });
    assert!(!world.asked.iter().any(changes));
    assert_eq!(world.rollout.record().failure_details()[0].workload_kind, "hook");
    assert_eq!(world.rollout.record().rollout_state(), RolloutState::Failed);
}

#[test]
fn a_hook_after_that_fails_takes_everything_back_before_anything_was_removed() {
    let mut world = World::new(with_hooks(), but(Ask::Hook, "smoke", Fate::Fails(Reason::HookFailed)));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::HookFailed));
    assert!(world.removed.is_empty());
}

#[test]
fn a_hook_that_hangs_is_stopped_by_the_deadline() {
    let mut world = World::new(with_hooks(), but(Ask::Hook, "migrate", Fate::Silent));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::DeadlineExceeded));
    let stopped = Action::StopHook { worker: name("migrate"), when: HookWhen::Before, attempt: 1 };
    assert!(world.asked.contains(&stopped));
}

#[test]
fn a_snapshot_that_fails_stops_it_before_the_hooks() {
    let mut world = World::new(with_hooks(), but(Ask::Snapshot, "data", Fate::Fails(Reason::SnapshotFailed)));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::Failed, Reason::SnapshotFailed));
    assert!(!world.asked.iter().any(|action| matches!(action, Action::RunHook { .. })));
}

#[test]
fn what_only_the_old_release_has_goes_last_and_its_hanging_fails_nothing() {
    let mut world = World::new(with_hooks(), but(Ask::Remove, "mail", Fate::Silent));
    world.run_until(|world| world.phase() == Phase::Removing);
    // There is no way back from here.
    world.control(Control::Cancel);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
    assert_eq!(world.outcome.as_ref().unwrap().remains, ["mail was not removed in time"]);
}

#[test]
fn data_is_switched_under_halted_workloads_which_then_start_as_the_new_release() {
    let mut world = World::new(with_data(), well);
    assert_eq!(world.rollout.record().halted(), [&name("api"), &name("db")]);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
    assert!(world.rollout.record().halted().is_empty());
}

#[test]
fn a_switch_of_data_that_fails_half_way_puts_back_what_was_switched_whatever_the_failure_action() {
    for failure_action in [FailureAction::Rollback, FailureAction::Pause] {
        let plan = Plan { failure_action, ..with_data() };
        let mut world = World::new(plan, but(Ask::Switch, "logs", Fate::Fails(Reason::SwitchFailed)));
        world.run();
        assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::SwitchFailed));
        // The one that failed too: it may have got half-way.
        let back = |action: &&Action| matches!(action, Action::SwitchBack { .. });
        assert_eq!(world.asked.iter().filter(back).count(), 2);
        assert_eq!(world.heads[&name("data")], "now");
    }
}

#[test]
fn a_failure_after_the_switch_halts_again_and_puts_all_data_back_in_reverse() {
    let mut world = World::new(with_data(), but(Ask::Candidate(Side::New), "web-2", Fate::Silent));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::ReadinessTimeout));
    let back: Vec<&str> = world
        .asked
        .iter()
        .filter_map(|action| if let Action::SwitchBack { volume, .. } = action { Some(volume.as_str()) } else { None })
        .collect();
    assert_eq!(back, ["logs", "data"]);
    let left: Vec<&str> = world
        .asked
        .iter()
        .filter_map(|action| if let Action::Leave { workload } = action { Some(workload.as_str()) } else { None })
        .collect();
    assert_eq!(left, ["web", "db", "api"]);
}

#[test]
fn data_that_cannot_be_put_back_is_tried_three_times_and_then_said() {
    let fate = |ask, of: &str| match (ask, of) {
        (Ask::Switch, "logs") | (Ask::SwitchBack, "data") => Fate::Fails(Reason::SwitchFailed),
        _ => Fate::Well,
    };
    let mut world = World::new(with_data(), fate);
    world.run();
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
    let of_data = |action: &&Action| matches!(action, Action::SwitchBack { volume, .. } if volume.as_str() == "data");
    assert_eq!(world.asked.iter().filter(of_data).count(), 3);
    let remains = &world.outcome.as_ref().unwrap().remains;
    assert_eq!(remains, &["the data of data could not be put back to r3-head: disk full"]);
    assert_eq!(world.rollout.record().rollout_state(), RolloutState::Degraded);
}

#[test]
fn it_does_not_rest_while_workloads_are_halted() {
    let mut world = World::new(with_data(), well);
    world.control(Control::Pause);
    world.run();
    assert!(world.is_blocked());
    assert!(world.slots.contains_key("db-1") && world.slots.contains_key("api-2"));

    let plan = Plan { failure_action: FailureAction::Pause, ..with_data() };
    let mut world = World::new(plan, but(Ask::Enter, "db", Fate::Fails(Reason::ProcessFailed)));
    world.run();
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
}

#[test]
fn answers_about_candidates_that_were_given_up_change_nothing() {
    let mut world = World::new(web(), but(Ask::Candidate(Side::New), "web-1", Fate::Silent));
    let first = world.rollout.record().candidates()[0].1.clone();
    world.send(Event::CandidateFailed {
        candidate: first.clone(),
        reason: Reason::ProcessFailed,
        detail: String::new(),
    });
    world.send(Event::CandidateReady(first.clone()));
    assert!(!world.asked.iter().any(|action| matches!(action, Action::Promote { .. })));
    world.deliver(0);
    world.wait();
    let second = world.rollout.record().candidates()[0].1.clone();
    assert_ne!(first, second);
    let before = world.rollout.record().clone();
    world.send(Event::CandidateReady(first.clone()));
    world.send(Event::Promoted { candidates: vec![first] });
    assert_eq!(&before, world.rollout.record());
}

#[test]
fn a_promotion_that_is_answered_after_it_went_back_is_put_back_too() {
    let mut world = World::new(web(), but(Ask::Promote(Side::New), "web-1", Fate::Silent));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::DeadlineExceeded));
    let is_old = |action: &Action| matches!(action, Action::Promote { side: Side::Old, .. });
    assert!(world.asked.iter().any(is_old));
}

#[test]
fn a_node_that_was_gone_goes_on_or_goes_back_and_says_which() {
    let mut world = World::new(web(), well);
    world.run_until(|world| world.rollout.record().counts().completed == 1);
    world.kill();
    assert!(world.steps().contains("the node is back: the rollout goes on"));
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);

    let mut world = World::new(web(), well);
    world.run_until(|world| world.rollout.record().counts().completed == 1);
    world.now.0 += 700_000;
    world.kill();
    assert!(world.steps().contains("the node is back, after the deadline"));
    world.run();
    assert_eq!((verdict_of(&world), reason_of(&world)), (Verdict::RolledBack, Reason::DeadlineExceeded));
    // Whoever comes back after the end hears of it again.
    let (_, actions) = coppice_rollout::Rollout::resume(world.rollout.record().clone(), world.now).unwrap();
    assert_eq!(actions, [Action::End(world.outcome.clone().unwrap())]);
}

#[test]
fn a_node_that_is_killed_after_any_event_ends_as_one_that_was_not() {
    let fates: [(Ask, &str, Fate); 5] = [
        (Ask::Leave, "", Fate::Well),
        (Ask::Candidate(Side::New), "web-2", Fate::Fails(Reason::StartFailed)),
        (Ask::Switch, "logs", Fate::Fails(Reason::SwitchFailed)),
        (Ask::Hook, "smoke", Fate::Fails(Reason::HookFailed)),
        (Ask::Enter, "db", Fate::Silent),
    ];
    for (ask, of, fate) in fates {
        let plan = Plan { before: vec![name("migrate")], after: vec![name("smoke")], ..with_data() };
        let mut world = World::new(plan.clone(), but(ask, of, fate));
        world.run();
        let verdict = verdict_of(&world);
        let handled = world.transcript.iter().filter(|line| !line.starts_with("  ")).count();
        for kill_at in 0..=handled {
            let mut world = World::new(plan.clone(), but(ask, of, fate));
            let mut seen = 0;
            while world.outcome.is_none() {
                if seen == kill_at {
                    world.kill();
                    seen += 1;
                    continue;
                }
                if world.pending.is_empty() {
                    world.wait()
                } else {
                    world.deliver(0)
                }
                seen += 1;
            }
            assert_eq!(verdict_of(&world), verdict, "{ask:?} of {of} is {fate:?}, killed after {kill_at}");
        }
    }
}

#[test]
fn a_record_that_does_not_fit_its_plan_is_refused() {
    let world = World::new(web(), well);
    let mut record = world.rollout.record().clone();
    record.progress.stages[0].targets.pop();
    let error = coppice_rollout::Rollout::resume(record, world.now).unwrap_err();
    assert!(error.to_string().contains("its targets are not the plan's"), "{error}");
}

#[test]
fn an_answer_to_an_earlier_halt_is_not_taken_for_the_later_ones() {
    let fate = |ask, of: &str| match (ask, of) {
        (Ask::Enter, "db") => Fate::Fails(Reason::ProcessFailed),
        _ => Fate::Well,
    };
    let mut world = World::new(with_data(), fate);
    let first = world.pending[0].clone();
    assert_eq!(first, Event::Halted { round: 1 });
    world.run_until(|world| world.phase() == Phase::Back);
    world.send(first);
    assert!(!world.asked.iter().any(|action| matches!(action, Action::SwitchBack { .. })));
    world.run();
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
}

#[test]
fn a_ready_new_workload_is_not_taken_for_the_old_one_that_comes_back() {
    let fate = |ask, _: &str| match ask {
        Ask::Enter => Fate::Fails(Reason::ProcessFailed),
        Ask::Leave => Fate::Silent,
        _ => Fate::Well,
    };
    let mut world = World::new(plan(vec![stage("db", How::Tree, 1)]), fate);
    world.run_until(|world| world.phase() == Phase::Settling);
    world.send(Event::WorkloadReady { workload: name("db"), side: Side::New });
    assert!(world.outcome.is_none());
    world.send(Event::WorkloadReady { workload: name("db"), side: Side::Old });
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
}

#[test]
fn a_candidate_that_was_being_discarded_when_the_node_was_killed_is_discarded_by_the_next() {
    let mut failures = 1;
    let fate = move |ask, _: &str| match ask {
        Ask::Candidate(Side::New) if failures > 0 => {
            failures -= 1;
            Fate::Fails(Reason::StartFailed)
        }
        _ => Fate::Well,
    };
    let mut world = World::new(web(), fate);
    world.run_until(|world| world.asked.iter().any(|action| matches!(action, Action::Discard { .. })));
    world.kill();
    world.run();
    assert_eq!(verdict_of(&world), Verdict::Completed);
}

#[test]
fn an_old_one_that_is_being_put_back_when_the_node_is_killed_is_put_back_by_the_next() {
    let mut world = World::new(web(), but(Ask::Candidate(Side::New), "web-3", Fate::Silent));
    let is_old = |action: &Action| matches!(action, Action::Promote { side: Side::Old, .. });
    world.run_until(|world| world.asked.iter().any(is_old));
    world.kill();
    assert!(world.steps().contains("the node is back: the way back goes on"), "{}", world.steps());
    world.run();
    assert_eq!(verdict_of(&world), Verdict::RolledBack);
}

#[test]
fn a_halt_that_was_never_answered_is_not_asked_for_again_once_its_workloads_were_given_back() {
    let fate = |ask, of: &str| match (ask, of) {
        (Ask::Halt, _) | (Ask::Leave, "db") => Fate::Silent,
        _ => Fate::Well,
    };
    let mut world = World::new(with_data(), fate);
    world.run_until(|world| world.phase() == Phase::Settling);
    let before = world.asked.len();
    world.kill();
    assert!(!world.asked[before..].iter().any(|action| matches!(action, Action::Halt { .. })));
    assert!(world.asked[before..].contains(&Action::Leave { workload: name("db") }));
}
