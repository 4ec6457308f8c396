//! What a canary is given up for: how many of how many requests fail and how long they take, at each boundary and beside
//! it, and when that is judged.

mod world;

use coppice_base::DurationText;
use coppice_rollout::{Action, Event, How, Reason, Side, Verdict};
use coppice_spec::{AnalysisSpec, CanaryStep, FailureAction};
use world::{Ask, Fate, World, ms, name, pace, plan, secs, stage};

/// Long enough for samples at 2 s, 4 s and the end.
const STEP: u64 = 5;

fn canary(analysis: AnalysisSpec) -> How {
    How::Canary {
        steps: vec![CanaryStep { instances: 1, weight: 10, duration: secs(STEP) }],
        analysis,
        pace: pace(1, 1),
    }
}

/// At most so many errors in a thousand and so many milliseconds, from so many requests on.
fn analysis(max_errors_permille: Option<u32>, max_p99: Option<u64>, min_requests: u64) -> AnalysisSpec {
    AnalysisSpec { max_errors_permille, max_p99: max_p99.map(ms), min_requests }
}

/// A rollout of which the proxy sees, as often as it is asked, what `seen` says.
fn world(analysis: AnalysisSpec, mut seen: impl FnMut() -> Fate + 'static) -> World {
    let fate = move |ask, _: &str| if ask == Ask::Sample { seen() } else { Fate::Well };
    World::new(plan(vec![stage("web", canary(analysis), 2)]), fate)
}

/// Why the canary was given up; `None` where it passed and all was replaced.
fn complaint(analysis: AnalysisSpec, requests: u64, errors: u64, p99: Option<DurationText>) -> Option<String> {
    let mut world = world(analysis, move || Fate::Seen { requests, errors, p99 });
    let began = world.now;
    world.run();
    let outcome = world.outcome.as_ref().expect("an end");
    let Some(cause) = &outcome.cause else {
        assert_eq!(outcome.verdict, Verdict::Completed);
        assert!(world.now.since(began) >= secs(STEP).0, "good enough is good enough at the end only");
        let passed = format!("web: canary step 1 passed, {errors} of {requests} requests failed");
        assert!(world.steps().contains(&passed), "{}", world.steps());
        return None;
    };
    assert_eq!((outcome.verdict, cause.reason), (Verdict::Failed, Reason::AnalysisFailed));
    assert!(world.now.since(began) < secs(3).0, "too bad is too bad at the first look");
    assert!(!world.asked.iter().any(|action| matches!(action, Action::Promote { .. })));
    Some(cause.detail.clone())
}

#[test]
fn a_canary_is_given_up_for_more_errors_than_may_be_and_not_for_as_many() {
    let one_percent = analysis(Some(10), None, 20);
    let none_at_all = analysis(Some(0), None, 20);
    let all = analysis(Some(1000), None, 20);
    let not_judged = analysis(None, None, 20);
    let from_none_on = analysis(Some(10), None, 0);
    let of_many = u64::MAX - u64::MAX % 1000;
    let cases = [
        (&one_percent, 1000, 0, false),
        (&one_percent, 1000, 10, false),
        (&one_percent, 1000, 11, true),
        (&one_percent, 100, 1, false),
        (&one_percent, 99, 1, true),
        (&one_percent, 101, 1, false),
        (&one_percent, 199, 2, true),
        (&one_percent, 200, 2, false),
        // Too few to tell, however bad they are; from the first that is enough they tell.
        (&one_percent, 0, 0, false),
        (&one_percent, 19, 19, false),
        (&one_percent, 20, 0, false),
        (&one_percent, 20, 1, true),
        (&one_percent, 21, 21, true),
        (&none_at_all, 1_000_000, 0, false),
        (&none_at_all, 1_000_000, 1, true),
        (&all, 20, 20, false),
        (&not_judged, 1000, 1000, false),
        // No request says nothing, also where none is too few.
        (&from_none_on, 0, 0, false),
        (&from_none_on, 0, 1, false),
        (&from_none_on, 1, 0, false),
        (&from_none_on, 1, 1, true),
        // As many as a counter holds.
        (&one_percent, of_many, of_many / 100, false),
        (&one_percent, of_many, of_many / 100 + 1, true),
        (&one_percent, u64::MAX, u64::MAX, true),
    ];
    for (analysis, requests, errors, is_bad) in cases {
        let most = analysis.max_errors_permille.unwrap_or_default();
        let detail = format!("{errors} of {requests} requests failed, {most} in 1000 may");
        let got = complaint(analysis.clone(), requests, errors, None);
        assert_eq!(got, is_bad.then_some(detail), "{errors} of {requests} by {analysis:?}");
    }
}

#[test]
fn a_canary_is_given_up_for_a_longer_99th_percentile_than_may_be_and_not_for_as_long() {
    let (judged, not_judged) = (analysis(None, Some(250), 20), analysis(None, None, 20));
    let no_time = analysis(None, Some(0), 20);
    let from_none_on = analysis(None, Some(250), 0);
    let cases = [
        (&judged, 20, Some(ms(249)), false),
        (&judged, 20, Some(ms(250)), false),
        (&judged, 20, Some(ms(251)), true),
        (&judged, 21, Some(secs(3600)), true),
        (&judged, 19, Some(secs(3600)), false),
        (&judged, 0, None, false),
        (&judged, 20, None, false),
        (&not_judged, 1000, Some(secs(3600)), false),
        (&no_time, 20, Some(ms(0)), false),
        (&no_time, 20, Some(ms(1)), true),
        (&from_none_on, 0, Some(ms(251)), false),
        (&from_none_on, 1, Some(ms(250)), false),
        (&from_none_on, 1, Some(ms(251)), true),
    ];
    for (analysis, requests, p99, is_bad) in cases {
        let detail = |p99, most| format!("the 99th percentile of {requests} requests is {p99}, it may be {most}");
        let detail = p99.zip(analysis.max_p99).map(|(p99, most)| detail(p99, most)).filter(|_| is_bad);
        // Errors are not judged here, as many as there are.
        for errors in [0, requests] {
            let got = complaint(analysis.clone(), requests, errors, p99);
            assert_eq!(got, detail, "{p99:?} of {requests} by {analysis:?}");
        }
    }
}

#[test]
fn of_errors_and_latency_either_is_enough_and_of_both_the_errors_are_told() {
    let both = || analysis(Some(10), Some(250), 20);
    assert_eq!(complaint(both(), 100, 1, Some(ms(250))), None);
    let slow = complaint(both(), 100, 1, Some(ms(251))).unwrap();
    assert_eq!(slow, "the 99th percentile of 100 requests is 251ms, it may be 250ms");
    for p99 in [250, 251] {
        let failing = complaint(both(), 100, 2, Some(ms(p99))).unwrap();
        assert_eq!(failing, "2 of 100 requests failed, 10 in 1000 may");
    }
}

#[test]
fn a_canary_that_becomes_slow_at_its_last_look_is_given_up() {
    let mut looks = 0;
    let seen = move || {
        looks += 1;
        let p99 = if looks == 3 { ms(251) } else { ms(250) };
        Fate::Seen { requests: 100, errors: 0, p99: Some(p99) }
    };
    let mut world = world(analysis(None, Some(250), 20), seen);
    world.run();
    let asked = world.asked.iter().filter(|action| matches!(action, Action::Sample { .. })).count();
    assert_eq!(asked, 3, "at 2 s, at 4 s and at the end");
    let cause = world.outcome.unwrap().cause.expect("a cause");
    assert_eq!((cause.reason, cause.subject), (Reason::AnalysisFailed, Some(name("web"))));
}

#[test]
fn what_was_seen_since_another_moment_or_of_another_workload_judges_nothing() {
    let mut world = world(analysis(Some(10), Some(250), 20), || Fate::Silent);
    let is_asked = |action: &Action| matches!(action, Action::Sample { .. });
    world.run_until(|world| world.asked.iter().any(is_asked));
    let Some(Action::Sample { workload, since }) = world.asked.iter().rev().find(|action| is_asked(action)).cloned()
    else {
        panic!("no sample was asked for");
    };
    let (requests, errors, p99) = (100, 100, Some(secs(60)));
    let mut other = since;
    other.0 -= 1;
    world.send(Event::Sample { workload: workload.clone(), since: other, requests, errors, p99 });
    world.send(Event::Sample { workload: name("other"), since, requests, errors, p99 });
    assert!(world.rollout.progress().cause.is_none(), "{}", world.told());
    world.send(Event::Sample { workload, since, requests, errors, p99 });
    assert!(world.rollout.progress().cause.is_some(), "{}", world.told());
}

#[test]
fn a_canary_that_is_too_slow_waits_for_a_person_where_its_failure_is_to_pause() {
    let fate = |ask, _: &str| match ask {
        Ask::Sample => Fate::Seen { requests: 100, errors: 0, p99: Some(ms(251)) },
        _ => Fate::Well,
    };
    let mut plan = plan(vec![stage("web", canary(analysis(None, Some(250), 20)), 2)]);
    plan.failure_action = FailureAction::Pause;
    let mut world = World::new(plan, fate);
    world.run();
    assert!(world.is_blocked() && world.outcome.is_none(), "{}", world.told());
    assert!(!world.asked.iter().any(|action| matches!(action, Action::Promote { .. })), "{}", world.told());
    assert_eq!(world.slots.values().copied().collect::<Vec<_>>(), [Side::Old, Side::Old]);
}
