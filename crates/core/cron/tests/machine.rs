//! What a cron does when it is time, when it is late, and when it is too early for the next run.

use std::sync::Arc;
use std::time::Duration;

use coppice_base::{DurationText, Timestamp};
use coppice_cron::{Action, Cause, Entry, LATE, Machine, Memory, Outcome, Refusal, Rules, Timetable, Utc, Why};
use coppice_spec::{Expression, Missed, Overlap, Schedule};
use proptest::prelude::*;

const SECOND: u64 = 1000;
/// When the release was made.
const ANCHOR: u64 = 1_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp(ANCHOR + seconds * SECOND)
}

fn follow(machine: &mut Machine, now: Timestamp, every_s: u64, overlap: Overlap, missed: Missed) {
    let apart = Duration::from_secs(every_s);
    let schedule = Schedule::Every(DurationText(apart));
    machine.follow(now, Timestamp(ANCHOR), (&schedule, "UTC"), |anchor| Rules {
        timetable: Timetable::Every { apart, anchor },
        overlap,
        missed,
        history: 5,
    });
}

/// Every minute.
fn cron(overlap: Overlap, missed: Missed) -> Machine {
    let mut machine = Machine::new(Memory::new(Timestamp(ANCHOR)));
    follow(&mut machine, at(0), 60, overlap, missed);
    machine
}

fn start(number: u64) -> Action {
    Action::Start { number }
}

fn outcomes(machine: &Machine) -> Vec<(Option<u64>, Outcome)> {
    machine.memory().history.iter().map(|entry| (entry.number, entry.outcome.clone())).collect()
}

fn failed() -> Outcome {
    Outcome::Failed { code: Some(3), reason: "exited with code 3".into() }
}

#[test]
fn a_run_begins_at_its_time_once_and_its_end_is_remembered() {
    let mut cron = cron(Overlap::Skip, Missed::Skip);
    assert_eq!(cron.next_wakeup(), Some(at(60)));
    assert_eq!(cron.tick(at(59)), []);
    assert_eq!(cron.tick(at(61)), [start(1)]);
    assert_eq!((cron.tick(at(61)), cron.next_wakeup()), (vec![], Some(at(120))));
    let entry =
        Entry { number: Some(1), cause: Cause::Due(at(60)), started: Some(at(61)), ended: at(70), outcome: failed() };
    assert_eq!(cron.ended(at(70), 1, failed()), [Action::Note(entry.clone())]);
    assert_eq!(cron.ended(at(70), 1, failed()), [], "told twice");
    assert_eq!(cron.memory().history, [entry]);
    assert_eq!(cron.tick(at(120)), [start(2)]);
}

#[test]
fn with_skip_what_is_due_while_one_runs_is_left_out_on_one_line() {
    let mut cron = cron(Overlap::Skip, Missed::Skip);
    cron.tick(at(60));
    for minute in 2..5 {
        assert!(matches!(cron.tick(at(60 * minute))[..], [Action::Note(_)]));
    }
    cron.ended(at(250), 1, Outcome::Succeeded);
    assert_eq!(outcomes(&cron), [(None, Outcome::Skipped { times: 3 }), (Some(1), Outcome::Succeeded)]);
    assert_eq!(cron.tick(at(300)), [start(2)]);
}

#[test]
fn with_queue_one_waits_and_begins_when_the_other_has_ended() {
    let mut cron = cron(Overlap::Queue, Missed::Skip);
    cron.tick(at(60));
    assert_eq!(cron.tick(at(120)), []);
    assert!(matches!(cron.tick(at(180))[..], [Action::Note(_)]), "a third has no place");
    let ended = cron.ended(at(200), 1, Outcome::Succeeded);
    assert_eq!(ended.last(), Some(&start(2)));
    let run = cron.memory().running.clone().unwrap();
    assert_eq!((run.since, run.cause), (at(200), Cause::Due(at(120))));
}

#[test]
fn with_replace_the_one_that_runs_is_stopped_first() {
    let mut cron = cron(Overlap::Replace, Missed::Skip);
    cron.tick(at(60));
    assert_eq!(cron.tick(at(120)), [Action::Stop { number: 1, why: Why::Replaced }]);
    // It takes its time: the one that waits is replaced, and nothing is stopped twice.
    assert!(matches!(cron.tick(at(180))[..], [Action::Note(_)]));
    assert_eq!(cron.ended(at(190), 1, failed()).last(), Some(&start(3)));
    let stopped = Outcome::Stopped(Why::Replaced);
    assert_eq!(outcomes(&cron), [(Some(2), stopped.clone()), (Some(1), stopped)]);
}

#[test]
fn a_run_that_takes_too_long_is_stopped_and_another_one_is_not() {
    let mut cron = cron(Overlap::Skip, Missed::Skip);
    cron.tick(at(60));
    assert_eq!(cron.timed_out(7), []);
    assert_eq!(cron.timed_out(1), [Action::Stop { number: 1, why: Why::TimedOut }]);
    cron.ended(at(99), 1, failed());
    assert_eq!(outcomes(&cron), [(Some(1), Outcome::Stopped(Why::TimedOut))]);
    cron.tick(at(120));
    cron.timed_out(2);
    cron.ended(at(150), 2, Outcome::Succeeded);
    assert_eq!(outcomes(&cron)[1].1, Outcome::Succeeded, "it was faster");
}

#[test]
fn times_at_which_nobody_was_there_are_left_out_or_run_for_once() {
    for (missed, expected) in [(Missed::Skip, None), (Missed::RunOnce, Some(start(2)))] {
        let mut before = cron(Overlap::Skip, missed);
        before.tick(at(60));
        before.ended(at(61), 1, Outcome::Succeeded);
        // A daemon was killed; the next one has nothing but the memory.
        let mut cron = Machine::new(before.memory().clone());
        follow(&mut cron, at(500), 60, Overlap::Skip, missed);
        let actions = cron.tick(at(500));
        assert_eq!(actions.iter().find(|action| matches!(action, Action::Start { .. })), expected.as_ref());
        let missed = Cause::Missed { times: 7, last: at(480) };
        match expected {
            Some(_) => assert_eq!(cron.memory().running.as_ref().unwrap().cause, missed),
            None => assert_eq!(
                cron.memory().history.back().map(|e| (e.cause, &e.outcome)),
                Some((missed, &Outcome::Missed))
            ),
        }
        assert_eq!(cron.next_wakeup(), Some(at(540)), "and goes on at its times");
    }
}

#[test]
fn a_short_absence_misses_nothing() {
    let before = cron(Overlap::Skip, Missed::Skip);
    let mut cron = Machine::new(before.memory().clone());
    let late = at(60).plus(LATE);
    follow(&mut cron, late, 60, Overlap::Skip, Missed::Skip);
    assert_eq!(cron.tick(late), [start(1)]);
    assert!(cron.memory().history.is_empty());
}

#[test]
fn another_schedule_counts_from_its_release_and_has_missed_nothing() {
    let mut machine = cron(Overlap::Skip, Missed::RunOnce);
    machine.tick(at(60));
    let schedule = Schedule::Expression("@hourly".into());
    let table = |text| Timetable::Expression { expression: Expression::parse(text).unwrap(), zone: Arc::new(Utc) };
    machine.follow(at(7200), at(7000), (&schedule, "UTC"), |_| Rules {
        timetable: table("@hourly"),
        overlap: Overlap::Skip,
        missed: Missed::RunOnce,
        history: 5,
    });
    assert_eq!(machine.tick(at(7200)), []);
    assert_eq!(machine.memory().anchor, at(7000));
    assert!(machine.memory().running.is_some(), "what runs goes on");
    // The same schedule in a later release keeps its times.
    let mut machine = cron(Overlap::Skip, Missed::Skip);
    let schedule = Schedule::Every(DurationText(Duration::from_secs(60)));
    machine.follow(at(30), at(30), (&schedule, "UTC"), |anchor| Rules {
        timetable: Timetable::Every { apart: Duration::from_secs(60), anchor },
        overlap: Overlap::Queue,
        missed: Missed::Skip,
        history: 5,
    });
    assert_eq!(machine.next_wakeup(), Some(at(60)));
}

#[test]
fn one_that_is_stopped_runs_nothing_ends_what_runs_and_misses_nothing() {
    let mut machine = cron(Overlap::Queue, Missed::RunOnce);
    machine.tick(at(60));
    machine.tick(at(120));
    let actions = machine.rest(at(130));
    assert_eq!(actions.last(), Some(&Action::Stop { number: 1, why: Why::Halted }));
    assert_eq!(machine.ended(at(131), 1, failed()).len(), 1, "what waited does not begin");
    assert_eq!((machine.tick(at(500)), machine.next_wakeup()), (vec![], None));
    assert_eq!(machine.request(at(500)), Err(Refusal::Stopped));
    follow(&mut machine, at(610), 60, Overlap::Queue, Missed::RunOnce);
    assert_eq!(machine.tick(at(610)), []);
    assert_eq!(machine.tick(at(660)), [start(3)]);
}

#[test]
fn a_node_that_is_stopped_misses_what_comes_while_it_is_down() {
    let mut machine = cron(Overlap::Skip, Missed::RunOnce);
    machine.go_away(at(10));
    let mut machine = Machine::new(machine.memory().clone());
    follow(&mut machine, at(1000), 60, Overlap::Skip, Missed::RunOnce);
    assert_eq!(machine.tick(at(1000)), [start(1)]);
}

#[test]
fn a_run_that_is_asked_for_obeys_the_overlap_and_has_a_number_at_once() {
    let mut machine = cron(Overlap::Skip, Missed::Skip);
    assert_eq!(machine.request(at(5)), Ok((1, vec![start(1)])));
    assert_eq!(machine.request(at(6)), Err(Refusal::Running(1)));
    let mut machine = cron(Overlap::Queue, Missed::Skip);
    machine.tick(at(60));
    assert_eq!(machine.request(at(61)), Ok((2, vec![])));
    assert_eq!(machine.request(at(62)), Err(Refusal::Waiting(2)));
    assert_eq!(machine.ended(at(70), 1, Outcome::Succeeded).last(), Some(&start(2)));
    let mut machine = cron(Overlap::Replace, Missed::Skip);
    machine.tick(at(60));
    assert_eq!(machine.request(at(61)), Ok((2, vec![Action::Stop { number: 1, why: Why::Replaced }])));
}

#[test]
fn a_clock_that_jumps_stops_nobody() {
    // Put on by a day: as if nobody had been there.
    let mut machine = cron(Overlap::Skip, Missed::RunOnce);
    assert_eq!(machine.tick(at(86_400 + 30)), [start(1)]);
    machine.ended(at(86_400 + 31), 1, Outcome::Succeeded);
    // Put back by that day: it had been wrong, and intervals go on.
    assert_eq!(machine.tick(at(40)), []);
    assert_eq!(machine.tick(at(60)), [start(2)]);
    // Put back a little: no time comes twice.
    machine.ended(at(61), 2, Outcome::Succeeded);
    assert_eq!(machine.tick(at(55)), []);
    assert_eq!(machine.tick(at(60)), []);
    assert_eq!(machine.tick(at(120)), [start(3)]);
}

#[test]
fn the_history_has_an_end_and_memory_is_the_same_when_read_again() {
    let mut machine = cron(Overlap::Skip, Missed::Skip);
    for minute in 1..20 {
        machine.tick(at(60 * minute));
        machine.ended(at(60 * minute + 1), minute, Outcome::Succeeded);
    }
    let numbers: Vec<_> = machine.memory().history.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [Some(15), Some(16), Some(17), Some(18), Some(19)]);
    let text = serde_json::to_string(machine.memory()).unwrap();
    assert_eq!(&serde_json::from_str::<Memory>(&text).unwrap(), machine.memory());
}

#[derive(Clone, Debug)]
enum Happens {
    Later(u64),
    Ended(bool),
    TimedOut,
    Requested,
    Killed,
    Stopped,
    Started,
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        6 => (1..200u64).prop_map(Happens::Later),
        3 => any::<bool>().prop_map(Happens::Ended),
        1 => Just(Happens::TimedOut),
        2 => Just(Happens::Requested),
        2 => Just(Happens::Killed),
        1 => Just(Happens::Stopped),
        1 => Just(Happens::Started),
    ];
    proptest::collection::vec(one, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, also when the daemon is killed after any event: one run at a time, each number once and in order,
    /// no time run for twice, and every run that began ends on one line.
    #[test]
    fn there_is_one_run_at_a_time_and_none_twice(
        happens in happenings(),
        overlap in prop_oneof![Just(Overlap::Skip), Just(Overlap::Queue), Just(Overlap::Replace)],
        missed in prop_oneof![Just(Missed::Skip), Just(Missed::RunOnce)],
    ) {
        let mut machine = cron(overlap, missed);
        let mut now = at(0);
        let mut up: Option<u64> = None;
        let (mut begun, mut lines) = (Vec::new(), Vec::new());
        let mut times: Vec<Timestamp> = Vec::new();
        for happens in happens {
            let actions = match happens {
                Happens::Later(seconds) => {
                    now = now.plus(Duration::from_secs(seconds));
                    machine.tick(now)
                }
                Happens::Ended(well) => match up.take() {
                    Some(number) => machine.ended(now, number, if well { Outcome::Succeeded } else { failed() }),
                    None => vec![],
                },
                Happens::TimedOut => up.map(|number| machine.timed_out(number)).unwrap_or_default(),
                Happens::Requested => machine.request(now).map(|(_, actions)| actions).unwrap_or_default(),
                Happens::Killed => {
                    machine = Machine::new(machine.memory().clone());
                    follow(&mut machine, now, 60, overlap, missed);
                    vec![]
                }
                Happens::Stopped => machine.rest(now),
                Happens::Started => {
                    follow(&mut machine, now, 60, overlap, missed);
                    vec![]
                }
            };
            for action in actions {
                match action {
                    Action::Start { number } => {
                        prop_assert_eq!(up, None);
                        up = Some(number);
                        prop_assert!(begun.last().is_none_or(|last| *last < number));
                        begun.push(number);
                        let run = machine.memory().running.clone().unwrap();
                        prop_assert_eq!(run.number, number);
                        if let Cause::Due(time) | Cause::Missed { last: time, .. } = run.cause {
                            prop_assert!(times.last().is_none_or(|last| *last < time), "{:?} again", time);
                            times.push(time);
                        }
                    }
                    Action::Stop { number, .. } => prop_assert_eq!(up, Some(number)),
                    Action::Note(Entry { number: Some(number), started, .. }) => {
                        prop_assert!(!lines.contains(&number));
                        lines.push(number);
                        prop_assert_eq!(started.is_some(), begun.contains(&number));
                    }
                    Action::Note(_) => {}
                }
            }
            prop_assert_eq!(machine.memory().running.as_ref().map(|run| run.number), up);
            prop_assert!(machine.memory().waiting.is_none() || up.is_some());
            prop_assert!(machine.memory().history.len() <= 5 || machine.is_resting());
        }
        let ended = begun.iter().filter(|number| lines.contains(number)).count();
        prop_assert_eq!(ended, begun.len() - usize::from(up.is_some()));
    }
}
