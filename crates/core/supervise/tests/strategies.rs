//! Who is restarted when, how often, and what happens when that is too often.

mod script;
mod trees;

use coppice_spec::{Condition, RestartPolicy, Strategy};
use script::{ABC_UP, abc, group, play};
use trees::{ChildWords, Tree, child, supervisor};

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
        b: backoff (killed by signal 9 (KILL))
        c: ready (by request)
5099 tick
5100 tick
    start b: killed by signal 9 (KILL)
5110 started b
5110 wakeup
    none
5110 status
    ready
    app 1/3
        a: ready (by request)
        b: ready, 1 restarts (killed by signal 9 (KILL))
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
