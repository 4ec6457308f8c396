//! Children start, get ready, are stopped by hand and say why.

mod script;
mod trees;

use coppice_base::Timestamp;
use coppice_spec::{Condition, RestartPolicy, Strategy};
use coppice_supervise::{Action, Event, ExitReason, HISTORY_MAX, MemberSpec, Overall, Supervision, What};
use script::{ABC_UP, abc, play};
use trees::{ChildWords, NoJitter, Tree, child, supervisor};

/// db (health), migrate (worker) on db, two web replicas on migrate.
fn shop() -> Tree {
    supervisor(
        "shop",
        Strategy::OneForOne,
        vec![
            child("db").healthy().member(),
            child("migrate").one_shot().needs(&["db"], Condition::Healthy).member(),
            child("web-1").at(2).needs(&["migrate"], Condition::Completed).member(),
            child("web-2").at(2).needs(&["migrate"], Condition::Completed).member(),
            child("proxy").needs(&["web-1", "web-2"], Condition::Healthy).member(),
        ],
    )
}

#[test]
fn children_start_when_their_dependencies_are_there_and_stop_the_other_way_round() {
    play(
        shop(),
        "
0 start
    start db: by request
10 started db
11 status
    starting
    shop 0/3
        db: running, not ready (by request)
        migrate: waiting for db to be healthy (by request)
        web-1: waiting for migrate to be completed (by request)
        web-2: waiting for migrate to be completed (by request)
        proxy: waiting for web-1, web-2 to be healthy (by request)
20 ready db
    start migrate: by request
30 started migrate
40 exited migrate code 0
    start web-1: by request
    start web-2: by request
50 started web-1
60 started web-2
    start proxy: by request
70 started proxy
80 status
    ready
    shop 0/3
        db: ready (by request)
        migrate: completed
        web-1: ready (by request)
        web-2: ready (by request)
        proxy: ready (by request)
90 stop
    stop proxy: by request
100 exited proxy code 0
    stop web-2: by request
    stop web-1: by request
110 exited web-1 code 0
120 exited web-2 signal 9
    stop db: by request
130 exited db code 0
140 status
    stopped
    shop 0/3
        db: stopped (by request)
        migrate: completed
        web-1: stopped (by request)
        web-2: stopped (by request)
        proxy: stopped (by request)
",
    );
}

#[test]
fn an_unhealthy_child_is_stopped_and_restarted_as_a_failure() {
    play(
        shop(),
        "
0 start
    start db: by request
10 started db
20 ready db
    start migrate: by request
25 started migrate
30 unhealthy db http 500 three times
    stop db: unhealthy: http 500 three times
200 exited db code 0
    start db: unhealthy: http 500 three times
210 started db
220 status
    degraded
    shop 1/3
        db: running, not ready, 1 restarts (unhealthy: http 500 three times)
        migrate: ready (by request)
        web-1: waiting for migrate to be completed (by request)
        web-2: waiting for migrate to be completed (by request)
        proxy: waiting for web-1, web-2 to be healthy (by request)
",
    );
}

#[test]
fn an_unhealthy_temporary_child_is_left_running_and_not_ready() {
    let tree =
        supervisor("app", Strategy::OneForOne, vec![child("once").healthy().restart(RestartPolicy::Never).member()]);
    play(
        tree,
        "
0 start
    start once: by request
0 started once
1 ready once
2 unhealthy once connection refused
2 status
    degraded
    app 0/3
        once: unhealthy: connection refused (by request)
3 ready once
3 status
    ready
    app 0/3
        once: ready (by request)
",
    );
}

#[test]
fn who_waits_for_a_worker_that_failed_for_good_is_said_to_be_stuck() {
    let mut tree = shop();
    let MemberSpec::Child(migrate) = &mut tree.members[1] else { unreachable!("migrate is a child") };
    migrate.restart = RestartPolicy::Never;
    play(
        tree,
        "
0 start
    start db: by request
10 started db
20 ready db
    start migrate: by request
30 exited migrate code 3
30 wakeup
    none
30 stuck
    migrate exited with code 3
    web-1 waits for migrate to be completed, which it will not
    web-2 waits for migrate to be completed, which it will not
    proxy waits for web-1 to be healthy, which it will not
",
    );
}

#[test]
fn a_manual_stop_lasts_until_start_and_a_manual_restart_counts_nothing() {
    play(
        abc(Strategy::OneForAll),
        &format!(
            "{ABC_UP}
10 stop b
    stop b: by request
20 exited b code 0
30 exited a code 1
    stop c: sibling a failed (one_for_all)
40 exited c code 0
130 tick
    start a: exited with code 1
    start c: sibling a failed (one_for_all)
140 started a
140 started c
150 status
    ready
    app 1/3
        a: ready, 1 restarts (exited with code 1)
        b: stopped (by request)
        c: ready, 1 restarts (sibling a failed (one_for_all))
160 start b
    start b: by request
170 started b
180 restart a c
    stop c: by request
190 exited c code 0
    stop a: by request
    start c: by request
200 exited a signal 9
    start a: by request
210 status
    starting
    app 1/3
        a: starting, 1 restarts (by request)
        b: ready (by request)
        c: starting, 1 restarts (by request)
"
        ),
    );
}

#[test]
fn a_manual_restart_ends_a_backoff_at_once() {
    play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
1000 exited a code 1
1010 restart a
    start a: by request
1020 exited a code 1
1020 wakeup
    1120
"
        ),
    );
}

#[test]
fn what_turns_unhealthy_while_it_waits_to_stop_is_replaced_when_the_stop_is_taken_back() {
    let a = child("a").healthy().member();
    let b = child("b").needs(&["a"], Condition::Healthy).member();
    play(
        supervisor("app", Strategy::OneForOne, vec![a, b]),
        "
0 start
    start a: by request
1 started a
2 ready a
    start b: by request
3 started b
4 stop
    stop b: by request
5 unhealthy a connection refused
6 start
7 exited b code 0
    stop a: by request
8 exited a code 0
    start a: by request
9 started a
9 ready a
    start b: by request
",
    );
}

#[test]
fn a_stop_reaches_a_child_that_is_still_starting() {
    play(
        abc(Strategy::OneForOne),
        "
0 start
    start a: by request
    start b: by request
    start c: by request
1 stop
    stop c: by request
    stop b: by request
    stop a: by request
2 started a
3 startfailed b cancelled
4 exited c signal 15
5 exited a code 0
6 status
    stopped
    app 0/3
        a: stopped (by request)
        b: stopped (by request)
        c: stopped (by request)
",
    );
}

#[test]
fn a_stop_that_was_issued_keeps_the_cause_it_was_issued_for() {
    play(
        supervisor("app", Strategy::OneForOne, vec![child("a").healthy().member()]),
        "
0 start
    start a: by request
1 started a
2 unhealthy a connection refused
    stop a: unhealthy: connection refused
3 stop
3 status
    stopping
    app 1/3
        a: stopping (unhealthy: connection refused)
4 exited a code 0
4 wakeup
    none
",
    );
}

#[test]
fn the_history_says_why_for_each_restart_and_is_bounded() {
    let mut tree = abc(Strategy::OneForOne);
    tree.supervise.max_restarts = 1000;
    let mut machine = Supervision::new(tree).unwrap();
    let key = || "a".to_owned();
    let mut now = Timestamp(0);
    machine.handle(now, Event::Start, &mut NoJitter).unwrap();
    for code in 1..=50 {
        machine.handle(now, Event::Started(key()), &mut NoJitter).unwrap();
        machine.handle(now, Event::Exited(key(), ExitReason::Code(code)), &mut NoJitter).unwrap();
        now = machine.next_wakeup().unwrap();
        machine.handle(now, Event::Tick, &mut NoJitter).unwrap();
    }
    let status = machine.status_of(&key()).unwrap();
    assert_eq!(status.restarts, 50);
    assert_eq!(status.history.len(), HISTORY_MAX);
    let last: Vec<String> = status.history.iter().rev().take(2).map(|note| note.what.to_string()).collect();
    assert_eq!(last, ["starting, attempt 50: exited with code 50", "exited with code 50"]);
    assert!(status.history.windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[test]
fn every_step_of_a_child_is_also_told_as_a_note() {
    let mut machine = Supervision::new(abc(Strategy::OneForOne)).unwrap();
    let mut told = Vec::new();
    for event in [
        Event::StartChildren(vec!["a".to_owned()]),
        Event::Started("a".to_owned()),
        Event::StopChildren(vec!["a".to_owned()]),
        Event::Exited("a".to_owned(), ExitReason::Signal(15)),
    ] {
        for action in machine.handle(Timestamp(1), event, &mut NoJitter).unwrap() {
            if let Action::Note { note, .. } = action {
                told.push(note.what);
            }
        }
    }
    let texts: Vec<String> = told.iter().map(What::to_string).collect();
    assert_eq!(
        texts,
        ["starting: by request", "running", "ready", "stopping: by request", "stopped: killed by signal 15 (TERM)"]
    );
}

#[test]
fn dependencies_of_a_service_can_be_started_with_it() {
    let machine = Supervision::new(shop()).unwrap();
    assert_eq!(machine.dependencies_of(&["web-2".to_owned()]), ["db", "migrate", "web-2"]);
    assert_eq!(machine.overall(), Overall::Stopped);
}
