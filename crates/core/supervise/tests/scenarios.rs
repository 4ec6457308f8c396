//! Scenarios as text: lines at the margin are events, indented lines are what the machine answered.
//!
//! ```text
//! 0 start
//!     start db: by request
//! ```
//!
//! The test replays the events of its own text and compares the whole. `status` and `wakeup` are questions.

mod trees;

use std::fmt::Write as _;

use coppice_base::Timestamp;
use coppice_spec::{Condition, RestartPolicy, Strategy};
use coppice_supervise::{
    Action, Adopted, Event, EventError, ExitReason, HISTORY_MAX, MemberSpec, MemberStatus, Overall, Supervision,
    SupervisorStatus, TreeError, What,
};
use trees::{ChildWords, NoJitter, Tree, child, supervisor};

/// Replays `text` on `tree`; gives the machine back for further questions.
fn play(tree: Tree, text: &str) -> Supervision<String> {
    play_trees(tree, &[], text)
}

/// As [`play`]; the event `reconfigure N` switches to `later[N]`.
fn play_trees(tree: Tree, later: &[Tree], text: &str) -> Supervision<String> {
    let mut machine = Supervision::new(tree).unwrap();
    let mut told = String::new();
    for line in text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()) {
        if line.starts_with(' ') {
            continue;
        }
        told.push_str(line);
        told.push('\n');
        let (at, what) = line.split_once(' ').expect("a time and an event");
        let now = Timestamp(at.parse().expect("milliseconds"));
        let words: Vec<&str> = what.split(' ').collect();
        let keys = || words[1..].iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let key = || words[1].to_owned();
        let rest = || words[2..].join(" ");
        let exit = |words: &[&str]| match words {
            ["code", code] => ExitReason::Code(code.parse().unwrap()),
            ["signal", signal] => ExitReason::Signal(signal.parse().unwrap()),
            ["oom"] => ExitReason::OutOfMemory,
            _ => panic!("unknown exit in {line:?}"),
        };
        let event = match words[0] {
            "start" if words.len() == 1 => Event::Start,
            "start" => Event::StartChildren(keys()),
            "stop" if words.len() == 1 => Event::Stop,
            "stop" => Event::StopChildren(keys()),
            "restart" => Event::Restart(keys()),
            "reconfigure" => Event::Reconfigure(later[words[1].parse::<usize>().unwrap()].clone()),
            "started" => Event::Started(key()),
            "startfailed" => Event::StartFailed(key(), rest()),
            "ready" => Event::Ready(key()),
            "unhealthy" => Event::Unhealthy(key(), rest()),
            "exited" => Event::Exited(key(), exit(&words[2..])),
            "adopt" => {
                let found = match words[2] {
                    "running" => Adopted::Running { ready: false },
                    "ready" => Adopted::Running { ready: true },
                    "absent" => Adopted::Absent,
                    _ => Adopted::Exited(exit(&words[3..])),
                };
                Event::Adopt(key(), found)
            }
            "tick" => Event::Tick,
            "restore" => {
                machine = Supervision::restore(machine.snapshot().clone()).unwrap();
                continue;
            }
            "wakeup" => {
                let answer = machine.next_wakeup().map_or("none".to_owned(), |at| at.0.to_string());
                writeln!(told, "    {answer}").unwrap();
                continue;
            }
            "status" => {
                writeln!(told, "    {}", machine.overall()).unwrap();
                describe(&machine.status().root, 1, &mut told);
                continue;
            }
            "stuck" => {
                machine.stuck().iter().for_each(|stuck| writeln!(told, "    {stuck}").unwrap());
                continue;
            }
            other => panic!("unknown event {other:?}"),
        };
        match machine.handle(now, event, &mut NoJitter) {
            Ok(actions) => actions.iter().for_each(|action| match action {
                Action::Start { key, cause, .. } => writeln!(told, "    start {key}: {cause}").unwrap(),
                Action::Stop { key, cause } => writeln!(told, "    stop {key}: {cause}").unwrap(),
                Action::Escalate(escalation) => writeln!(told, "    escalate: {escalation}").unwrap(),
                Action::Note { .. } => {}
            }),
            Err(refused) => writeln!(told, "    refused: {refused}").unwrap(),
        }
        assert_eq!(machine.check(), Vec::<String>::new(), "after {line:?}");
    }
    let asked: String = text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{}\n", l.trim_end())).collect();
    assert!(asked == told, "the scenario says\n{asked}\nand the machine\n{told}");
    machine
}

fn describe(supervisor: &SupervisorStatus<String>, depth: usize, out: &mut String) {
    let indent = "    ".repeat(depth);
    writeln!(out, "{indent}{} {}/{}", supervisor.name, supervisor.restarts_in_window, supervisor.max_restarts).unwrap();
    for member in &supervisor.members {
        match member {
            MemberStatus::Supervisor(group) => describe(group, depth + 1, out),
            MemberStatus::Child(child) => {
                let cause = child.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
                let restarts =
                    if child.restarts > 0 { format!(", {} restarts", child.restarts) } else { String::new() };
                writeln!(out, "{indent}    {}: {}{restarts}{cause}", child.key, child.state).unwrap();
            }
        }
    }
}

fn group(tree: Tree) -> MemberSpec<String> {
    MemberSpec::Supervisor(tree)
}

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

fn abc(strategy: Strategy) -> Tree {
    supervisor("app", strategy, vec![child("a").member(), child("b").member(), child("c").member()])
}

/// The start of every scenario on [`abc`].
const ABC_UP: &str = "\
0 start
    start a: by request
    start b: by request
    start c: by request
0 started a
0 started b
0 started c
";

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
fn a_replica_that_dies_comes_back_alone_after_its_backoff() {
    play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
5000 exited b signal 9
5000 wakeup
    5100
5000 status
    degraded
    app 1/3
        a: ready (by request)
        b: backoff (killed by signal 9)
        c: ready (by request)
5099 tick
5100 tick
    start b: killed by signal 9
5110 started b
5110 wakeup
    none
5110 status
    ready
    app 1/3
        a: ready (by request)
        b: ready, 1 restarts (killed by signal 9)
        c: ready (by request)
"
        ),
    );
}

#[test]
fn the_wait_doubles_while_failing_and_starts_over_after_a_healthy_run() {
    play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
1000 exited a code 1
1000 wakeup
    1100
1100 tick
    start a: exited with code 1
1101 startfailed a no such file
1101 wakeup
    1301
1301 tick
    start a: could not start: no such file
1310 started a
11310 exited a oom
11310 wakeup
    11410
"
        ),
    );
}

#[test]
fn one_for_all_stops_the_others_in_reverse_order_one_after_the_other_and_restarts_all_in_order() {
    play(
        abc(Strategy::OneForAll),
        &format!(
            "{ABC_UP}
1000 exited b code 1
    stop c: sibling b failed (one_for_all)
1050 exited c code 0
    stop a: sibling b failed (one_for_all)
1060 status
    degraded
    app 1/3
        a: stopping (sibling b failed (one_for_all))
        b: backoff (exited with code 1)
        c: backoff (sibling b failed (one_for_all))
1100 tick
1150 status
    degraded
    app 1/3
        a: stopping (sibling b failed (one_for_all))
        b: waiting for a to stop (exited with code 1)
        c: waiting for a to stop (sibling b failed (one_for_all))
1200 exited a signal 9
    start a: sibling b failed (one_for_all)
    start b: exited with code 1
    start c: sibling b failed (one_for_all)
"
        ),
    );
}

#[test]
fn rest_for_one_restarts_the_failed_child_and_those_started_after_it() {
    play(
        abc(Strategy::RestForOne),
        &format!(
            "{ABC_UP}
1000 exited b code 1
    stop c: sibling b failed (rest_for_one)
1050 exited c code 0
1100 tick
    start b: exited with code 1
    start c: sibling b failed (rest_for_one)
1110 started b
1110 started c
2000 exited c code 1
2100 tick
    start c: exited with code 1
"
        ),
    );
}

#[test]
fn replicas_of_equal_order_do_not_take_each_other_along_under_rest_for_one() {
    let tree = supervisor(
        "app",
        Strategy::RestForOne,
        vec![child("web-1").at(0).member(), child("web-2").at(0).member(), child("log").at(1).member()],
    );
    play(
        tree,
        "
0 start
    start web-1: by request
    start web-2: by request
    start log: by request
0 started web-1
0 started web-2
0 started log
10 exited web-1 code 1
    stop log: sibling web-1 failed (rest_for_one)
20 exited log code 0
110 tick
    start web-1: exited with code 1
    start log: sibling web-1 failed (rest_for_one)
",
    );
}

#[test]
fn replicas_of_equal_order_stop_side_by_side_under_one_for_all() {
    let tree = supervisor(
        "app",
        Strategy::OneForAll,
        vec![child("db").at(0).member(), child("web-1").at(1).member(), child("web-2").at(1).member()],
    );
    play(
        tree,
        "
0 start
    start db: by request
    start web-1: by request
    start web-2: by request
0 started db
0 started web-1
0 started web-2
10 stop
    stop web-2: by request
    stop web-1: by request
20 exited web-1 code 0
30 exited web-2 code 0
    stop db: by request
",
    );
}

#[test]
fn a_tree_stopped_and_started_has_its_whole_intensity_again() {
    let mut tree = supervisor("app", Strategy::OneForOne, vec![child("a").member()]);
    tree.supervise.max_restarts = 1;
    play(
        tree,
        "
0 start
    start a: by request
0 started a
10 exited a code 1
20 stop
30 start
    start a: by request
30 started a
40 exited a code 1
40 status
    degraded
    app 1/1
        a: backoff (exited with code 1)
",
    );
}

#[test]
fn a_group_that_gives_up_again_and_again_waits_longer_each_time_and_its_children_start_over() {
    let mut data = supervisor("data", Strategy::OneForOne, vec![child("db").member()]);
    data.supervise.max_restarts = 1;
    let mut tree = supervisor("app", Strategy::OneForOne, vec![group(data)]);
    tree.supervise.max_restarts = 100;
    play(
        tree,
        "
0 start
    start db: by request
0 exited db code 1
0 wakeup
    100
100 tick
    start db: exited with code 1
100 exited db code 1
100 wakeup
    200
200 tick
    start db: data gave up: more than 1 restarts in 1m, the last as db exited with code 1
200 exited db code 1
200 wakeup
    300
300 tick
    start db: exited with code 1
300 exited db code 1
300 wakeup
    500
500 tick
    start db: data gave up: more than 1 restarts in 1m, the last as db exited with code 1
501 started db
20000 exited db code 1
20100 tick
    start db: exited with code 1
20100 exited db code 1
20100 wakeup
    20200
",
    );
}

#[test]
fn a_group_taken_along_by_its_parent_has_its_whole_intensity_again() {
    let mut data = supervisor("data", Strategy::OneForOne, vec![child("db").member()]);
    data.supervise.max_restarts = 1;
    let tree = supervisor("app", Strategy::OneForAll, vec![child("a").member(), group(data)]);
    play(
        tree,
        "
0 start
    start a: by request
    start db: by request
0 started a
0 exited db code 1
0 status
    degraded
    app 0/3
        a: ready (by request)
        data 1/1
            db: backoff (exited with code 1)
10 exited a code 1
110 tick
    start a: exited with code 1
    start db: sibling a failed (one_for_all)
110 status
    degraded
    app 1/3
        a: starting, 1 restarts (exited with code 1)
        data 0/1
            db: starting, 1 restarts (sibling a failed (one_for_all))
",
    );
}

#[test]
fn a_second_failure_in_one_round_is_not_counted_and_does_not_disturb_it() {
    play(
        abc(Strategy::OneForAll),
        &format!(
            "{ABC_UP}
1000 exited b code 1
    stop c: sibling b failed (one_for_all)
1000 exited a code 1
1001 exited c code 1
1001 status
    degraded
    app 1/3
        a: backoff (sibling b failed (one_for_all))
        b: backoff (exited with code 1)
        c: backoff (sibling b failed (one_for_all))
1100 tick
    start a: sibling b failed (one_for_all)
    start b: exited with code 1
    start c: sibling b failed (one_for_all)
"
        ),
    );
}

#[test]
fn intensity_exhausted_stops_everything_escalates_and_stays_failed_until_started() {
    let mut tree = abc(Strategy::OneForOne);
    tree.supervise.max_restarts = 1;
    play(
        tree,
        &format!(
            "{ABC_UP}
1000 exited a code 1
1100 tick
    start a: exited with code 1
1110 started a
2000 exited a code 2
    stop c: app gave up: more than 1 restarts in 1m, the last as a exited with code 2
    stop b: app gave up: more than 1 restarts in 1m, the last as a exited with code 2
2010 exited b code 0
2010 status
    stopping
    app 0/1
        a: stopped, 1 restarts (exited with code 2)
        b: stopped (app gave up: more than 1 restarts in 1m, the last as a exited with code 2)
        c: stopping (app gave up: more than 1 restarts in 1m, the last as a exited with code 2)
2020 exited c code 0
    escalate: app gave up: more than 1 restarts in 1m, the last as a exited with code 2
2030 wakeup
    none
2040 tick
3000 start
    start a: by request
    start b: by request
    start c: by request
3010 started a
3010 started b
3010 started c
3020 exited a code 1
3120 tick
    start a: exited with code 1
"
        ),
    );
}

#[test]
fn restarts_older_than_the_window_do_not_count() {
    let mut tree = abc(Strategy::OneForOne);
    tree.supervise.max_restarts = 1;
    play(
        tree,
        &format!(
            "{ABC_UP}
1000 exited a code 1
1100 tick
    start a: exited with code 1
1110 started a
61000 exited a code 1
61100 tick
    start a: exited with code 1
"
        ),
    );
}

fn grouped(app: Strategy) -> Tree {
    let mut data = supervisor("data", Strategy::OneForAll, vec![child("db").member(), child("cache").member()]);
    data.supervise.max_restarts = 1;
    supervisor(
        "app",
        app,
        vec![child("log").member(), group(data), child("web").needs(&["db"], Condition::Started).member()],
    )
}

const GROUPED_UP: &str = "\
0 start
    start log: by request
    start db: by request
    start cache: by request
0 started log
0 started db
    start web: by request
0 started cache
0 started web
";

#[test]
fn a_group_that_gives_up_is_restarted_whole_by_its_parent() {
    play(
        grouped(Strategy::OneForOne),
        &format!(
            "{GROUPED_UP}
1000 exited db code 1
    stop cache: sibling db failed (one_for_all)
1001 exited cache code 0
1100 tick
    start db: exited with code 1
    start cache: sibling db failed (one_for_all)
1110 started db
1110 started cache
1200 exited cache oom
    stop db: data gave up: more than 1 restarts in 1m, the last as cache killed: out of memory
1210 status
    degraded
    app 1/3
        log: ready (by request)
        data 0/1
            db: stopping, 1 restarts (data gave up: more than 1 restarts in 1m, the last as cache killed: out of memory)
            cache: backoff, 1 restarts (data gave up: more than 1 restarts in 1m, the last as cache killed: out of memory)
        web: ready (by request)
1220 exited db code 0
1300 tick
    start db: data gave up: more than 1 restarts in 1m, the last as cache killed: out of memory
    start cache: data gave up: more than 1 restarts in 1m, the last as cache killed: out of memory
"
        ),
    );
}

#[test]
fn a_parents_rest_for_one_takes_along_what_starts_after_the_group() {
    play(
        grouped(Strategy::RestForOne),
        &format!(
            "{GROUPED_UP}
1000 exited db code 1
    stop cache: sibling db failed (one_for_all)
1001 exited cache code 0
1100 tick
    start db: exited with code 1
    start cache: sibling db failed (one_for_all)
1110 started db
1110 started cache
1200 exited db code 1
    stop web: sibling group data failed (rest_for_one)
1210 exited web code 0
    stop cache: data gave up: more than 1 restarts in 1m, the last as db exited with code 1
1220 exited cache code 0
1300 tick
    start db: data gave up: more than 1 restarts in 1m, the last as db exited with code 1
    start cache: data gave up: more than 1 restarts in 1m, the last as db exited with code 1
1310 started db
    start web: sibling group data failed (rest_for_one)
"
        ),
    );
}

#[test]
fn a_group_that_keeps_giving_up_exhausts_its_parent() {
    let mut tree = grouped(Strategy::OneForOne);
    tree.supervise.max_restarts = 0;
    play(
        tree,
        &format!(
            "{GROUPED_UP}
1000 exited cache code 1
    stop db: sibling cache failed (one_for_all)
1001 exited db code 0
1100 tick
    start db: sibling cache failed (one_for_all)
    start cache: exited with code 1
1110 started db
1120 startfailed cache no space left
    stop web: app gave up: more than 0 restarts in 1m, the last as cache could not start: no space left
    stop log: app gave up: more than 0 restarts in 1m, the last as cache could not start: no space left
1130 exited web code 0
    stop db: app gave up: more than 0 restarts in 1m, the last as cache could not start: no space left
1140 exited log code 0
1150 exited db code 0
    escalate: app gave up: more than 0 restarts in 1m, the last as cache could not start: no space left
"
        ),
    );
}

#[test]
fn kinds_decide_who_is_restarted() {
    let tree = supervisor(
        "app",
        Strategy::OneForOne,
        vec![
            child("always").member(),
            child("on-failure").restart(RestartPolicy::OnFailure).member(),
            child("never").restart(RestartPolicy::Never).member(),
        ],
    );
    play(
        tree,
        "
0 start
    start always: by request
    start on-failure: by request
    start never: by request
0 started always
0 started on-failure
0 started never
10 exited always code 0
10 exited on-failure code 0
10 exited never code 1
10 status
    degraded
    app 1/3
        always: backoff (exited with code 0)
        on-failure: completed
        never: failed: exited with code 1 (exited with code 1)
10 stuck
    never exited with code 1
110 tick
    start always: exited with code 0
200 start
    start never: by request
",
    );
}

#[test]
fn a_temporary_child_stopped_for_a_sibling_stays_stopped() {
    let tree = supervisor(
        "app",
        Strategy::OneForAll,
        vec![child("a").member(), child("once").restart(RestartPolicy::Never).member()],
    );
    play(
        tree,
        "
0 start
    start a: by request
    start once: by request
0 started a
0 started once
10 exited a code 1
    stop once: sibling a failed (one_for_all)
20 exited once code 0
110 tick
    start a: exited with code 1
120 started a
120 status
    ready
    app 1/3
        a: ready, 1 restarts (exited with code 1)
        once: stopped (sibling a failed (one_for_all))
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
fn reconfiguring_replaces_the_changed_adds_the_new_stops_the_removed_and_leaves_the_rest_alone() {
    let later = supervisor(
        "app",
        Strategy::OneForOne,
        vec![
            child("a").member(),
            child("b").revision("2").member(),
            child("d").needs(&["b"], Condition::Started).member(),
        ],
    );
    let machine = play_trees(
        abc(Strategy::OneForOne),
        &[later],
        &format!(
            "{ABC_UP}
100 exited a code 1
200 tick
    start a: exited with code 1
210 started a
1000 reconfigure 0
    stop c: removed from the app
    stop b: its definition changed
1010 exited b code 0
    start b: its definition changed
1020 started b
    start d: by request
1030 started d
1040 exited c code 0
1050 exited c code 0
    refused: \"c\" is not in the tree: it was removed, or the name is mistyped
1060 status
    ready
    app 1/3
        a: ready, 1 restarts (exited with code 1)
        b: ready (its definition changed)
        d: ready (by request)
"
        ),
    );
    assert!(machine.status_of(&"a".to_owned()).unwrap().history.len() > 1, "the history goes on");
}

#[test]
fn a_child_whose_health_check_is_taken_away_is_ready_by_running() {
    let tree = |healthy: bool| {
        let a = child("a");
        let a = if healthy { a.healthy() } else { a };
        let b = child("b").needs(&["a"], Condition::Healthy);
        supervisor("app", Strategy::OneForOne, vec![a.member(), b.member()])
    };
    play_trees(
        tree(true),
        &[tree(false)],
        "
0 start
    start a: by request
1 started a
2 reconfigure 0
    start b: by request
",
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
fn a_removed_chain_stops_from_its_end() {
    let chain = |keys: &[&str]| {
        let mut members = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let link = child(key);
            members.push(if i > 0 { link.needs(&[keys[i - 1]], Condition::Started) } else { link }.member());
        }
        supervisor("app", Strategy::OneForOne, members)
    };
    play_trees(
        chain(&["a", "b", "c"]),
        &[chain(&["a"])],
        "
0 start
    start a: by request
0 started a
    start b: by request
0 started b
    start c: by request
0 started c
1 reconfigure 0
    stop c: removed from the app
2 stop
3 exited c code 0
    stop b: removed from the app
4 exited b code 0
    stop a: by request
",
    );
}

#[test]
fn a_tree_that_cannot_be_is_refused_and_the_old_one_goes_on() {
    let twice = supervisor("app", Strategy::OneForOne, vec![child("a").member(), child("a").member()]);
    let unknown = supervisor("app", Strategy::OneForOne, vec![child("a").needs(&["z"], Condition::Started).member()]);
    let circle = supervisor(
        "app",
        Strategy::OneForOne,
        vec![
            child("a").needs(&["b"], Condition::Started).member(),
            child("b").needs(&["a"], Condition::Started).member(),
        ],
    );
    let groups = supervisor(
        "app",
        Strategy::OneForOne,
        vec![group(supervisor("app", Strategy::OneForOne, vec![child("a").member()]))],
    );
    assert_eq!(Supervision::new(twice.clone()).unwrap_err(), TreeError::DuplicateKey("a".to_owned()));
    assert!(matches!(Supervision::new(unknown).unwrap_err(), TreeError::UnknownNeed { .. }));
    assert!(matches!(Supervision::new(circle).unwrap_err(), TreeError::Circle(_)));
    assert!(matches!(Supervision::new(groups).unwrap_err(), TreeError::DuplicateSupervisor(_)));
    play_trees(
        abc(Strategy::OneForOne),
        &[twice],
        &format!(
            "{ABC_UP}
10 reconfigure 0
    refused: \"a\" is in the tree twice: every child needs a key of its own
10 exited a code 1
110 tick
    start a: exited with code 1
"
        ),
    );
}

#[test]
fn events_of_an_earlier_run_are_refused_and_change_nothing() {
    let mut machine = play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
10 exited a code 1
11 exited a code 1
    refused: Exited came for \"a\", which is in backoff: the event is of an earlier run, drop it
12 ready a
    refused: Ready came for \"a\", which is in backoff: the event is of an earlier run, drop it
13 unhealthy a late
    refused: Unhealthy came for \"a\", which is in backoff: the event is of an earlier run, drop it
14 started b
    refused: Started came for \"b\", which is running: the event is of an earlier run, drop it
15 startfailed b late
    refused: StartFailed came for \"b\", which is running: the event is of an earlier run, drop it
16 restart b nobody
    refused: \"nobody\" is not in the tree: it was removed, or the name is mistyped
"
        ),
    );
    let before = machine.snapshot().clone();
    let refused = machine.handle(Timestamp(17), Event::Ready("x".to_owned()), &mut NoJitter);
    assert_eq!(refused, Err(EventError::UnknownKey("x".to_owned())));
    assert_eq!(machine.snapshot(), &before);
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
fn a_node_that_returns_adopts_what_runs_and_restarts_what_ended_without_counting() {
    play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
10 restore
9000 adopt a ready
9000 adopt b exited code 1
9000 adopt c absent
9000 status
    degraded
    app 0/3
        a: ready (by request)
        b: backoff (exited with code 1)
        c: backoff (lost: it ended and nobody saw how)
9100 tick
    start b: exited with code 1
    start c: lost: it ended and nobody saw how
"
        ),
    );
}

#[test]
fn a_start_or_stop_that_was_lost_with_the_node_is_repeated() {
    play(
        abc(Strategy::OneForOne),
        "
0 start
    start a: by request
    start b: by request
    start c: by request
1 started b
2 stop b
    stop b: by request
3 restore
9 adopt a absent
    start a: by request
9 adopt b ready
    stop b: by request
9 adopt c running
9 status
    starting
    app 0/3
        a: starting (by request)
        b: stopping (by request)
        c: ready (by request)
",
    );
}

#[test]
fn without_a_snapshot_what_runs_is_adopted_before_the_start_and_not_started_twice() {
    play(
        abc(Strategy::OneForOne),
        "
5 adopt a ready
5 adopt b absent
5 start
    start b: by request
    start c: by request
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
fn restarts_from_before_the_clock_was_set_back_do_not_count() {
    let mut tree = supervisor("app", Strategy::OneForOne, vec![child("a").member()]);
    tree.supervise.max_restarts = 1;
    play(
        tree,
        "
9000000 start
    start a: by request
9000000 exited a code 1
9000100 tick
    start a: exited with code 1
1000 exited a code 1
1000 wakeup
    1200
",
    );
}

#[test]
fn a_changed_definition_ends_a_backoff_and_its_count() {
    let tree = |revision: &str| supervisor("app", Strategy::OneForOne, vec![child("a").revision(revision).member()]);
    play_trees(
        tree("1"),
        &[tree("2")],
        "
0 start
    start a: by request
0 exited a code 1
100 tick
    start a: exited with code 1
100 exited a code 1
100 wakeup
    300
110 reconfigure 0
    start a: its definition changed
120 exited a code 1
120 wakeup
    220
",
    );
}

#[test]
fn what_a_returning_node_finds_not_ready_is_not_ready() {
    let tree = supervisor("app", Strategy::OneForOne, vec![child("a").healthy().member(), child("b").member()]);
    play(
        tree,
        "
0 start
    start a: by request
    start b: by request
1 started a
1 started b
2 ready a
3 restore
9 adopt a running
9 adopt b running
9 status
    starting
    app 0/3
        a: running, not ready (by request)
        b: ready (by request)
10 ready a
10 status
    ready
    app 0/3
        a: ready (by request)
        b: ready (by request)
",
    );
}

#[test]
fn what_runs_though_all_is_to_be_down_is_stopped_when_found() {
    play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
1 stop
    stop c: by request
    stop b: by request
    stop a: by request
2 exited a code 0
2 exited b code 0
2 exited c code 0
3 adopt b running
    stop b: by request
"
        ),
    );
}

#[test]
fn a_clock_set_back_does_not_prolong_a_backoff() {
    play(
        abc(Strategy::OneForOne),
        &format!(
            "{ABC_UP}
9000000 exited a code 1
9000000 wakeup
    9000100
1000 tick
1000 wakeup
    1100
1100 tick
    start a: exited with code 1
"
        ),
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
        ["starting: by request", "running", "ready", "stopping: by request", "stopped: killed by signal 15"]
    );
}

#[test]
fn dependencies_of_a_service_can_be_started_with_it() {
    let machine = Supervision::new(shop()).unwrap();
    assert_eq!(machine.dependencies_of(&["web-2".to_owned()]), ["db", "migrate", "web-2"]);
    assert_eq!(machine.overall(), Overall::Stopped);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let machine = play(abc(Strategy::OneForOne), ABC_UP);
    let good = serde_json::to_value(machine.snapshot()).unwrap();
    let broken = |edit: fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        edit(&mut value);
        Supervision::<String>::restore(serde_json::from_value(value).unwrap()).unwrap_err().to_string()
    };
    assert!(broken(|v| v["children"][0]["parent"] = 7.into()).contains("has no supervisor"));
    assert!(broken(|v| v["supervisors"] = serde_json::json!([])).contains("not the root"));
    assert!(broken(|v| v["children"][1]["spec"]["key"] = "a".into()).contains("twice"));
    assert!(broken(|v| v["children"][0]["wanted"] = false.into()).contains("lives unwanted"));
}
