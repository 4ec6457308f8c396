//! The tree changes, or the node that holds it was away.

mod script;
mod trees;

use coppice_base::Timestamp;
use coppice_spec::{Condition, Strategy};
use coppice_supervise::{Action, Adopted, Event, EventError, ExitReason, Supervision, TreeError};
use script::{ABC_UP, abc, group, play, play_trees};
use trees::{ChildWords, NoJitter, child, supervisor};

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
fn what_ran_to_its_end_by_a_definition_that_comes_back_is_complete_and_does_not_run_again() {
    let job = |key: &str, revision: &str, complete: bool| {
        let mut job = child(key).one_shot().revision(revision);
        job.complete = complete;
        job
    };
    let tree = |revision: &str, complete: bool, more: bool| {
        let other = more.then(|| job("other", "1", complete).member());
        let web = child("web").needs(&["job"], Condition::Completed).revision(revision);
        let members = [job("job", revision, complete).member(), web.member()];
        supervisor("app", Strategy::OneForOne, members.into_iter().chain(other).collect())
    };
    let machine = play_trees(
        tree("2", false, false),
        &[tree("1", true, true), tree("3", false, true)],
        "
0 start
    start job: by request
1 started job
2 exited job code 0
    start web: by request
3 started web
10 reconfigure 0
    stop web: its definition changed
11 exited web code 0
    start web: its definition changed
12 started web
20 reconfigure 1
    stop web: its definition changed
    start job: its definition changed
21 started job
22 exited web code 0
23 exited job code 0
    start web: its definition changed
24 started web
",
    );
    assert_eq!(machine.status().overall, coppice_supervise::Overall::Ready);
}

#[test]
fn a_restart_that_the_tree_asks_for_is_made_once_however_often_the_tree_is_told() {
    let tree = |generation| {
        let all = |key| child(key).generation(generation).member();
        supervisor("app", Strategy::OneForOne, vec![all("a"), child("b").needs(&["a"], Condition::Started).member()])
    };
    let machine = play_trees(
        tree(0),
        &[tree(1)],
        "
0 start
    start a: by request
1 started a
    start b: by request
2 started b
10 reconfigure 0
    stop a: by request
",
    );
    // The caller dies here and comes back twice: while it stops, and when the restart is over.
    let mut random = NoJitter;
    let mut machine = Supervision::restore(machine.snapshot().clone()).unwrap();
    let mut tell = |machine: &mut Supervision<String>, event| -> Vec<String> {
        let actions = machine.handle(Timestamp(20), event, &mut random).unwrap();
        actions
            .iter()
            .filter_map(|action| match action {
                Action::Start { key, .. } => Some(format!("start {key}")),
                Action::Stop { key, .. } => Some(format!("stop {key}")),
                _ => None,
            })
            .collect()
    };
    let a = || "a".to_owned();
    assert_eq!(tell(&mut machine, Event::Adopt(a(), Adopted::Running { ready: true })), ["stop a"]);
    assert_eq!(tell(&mut machine, Event::Reconfigure(tree(1))), Vec::<String>::new());
    assert_eq!(tell(&mut machine, Event::Exited(a(), ExitReason::Code(0))), ["start a"]);
    tell(&mut machine, Event::Started(a()));
    let mut machine = Supervision::restore(machine.snapshot().clone()).unwrap();
    assert_eq!(tell(&mut machine, Event::Adopt(a(), Adopted::Running { ready: true })), Vec::<String>::new());
    assert_eq!(tell(&mut machine, Event::Reconfigure(tree(1))), Vec::<String>::new());
    assert_eq!(machine.status_of(&a()).unwrap().restarts, 0, "asked for, not counted");
}

#[test]
fn a_restart_that_was_asked_for_while_the_caller_was_away_is_made_when_it_returns() {
    let tree = |generation| {
        supervisor("app", Strategy::OneForOne, vec![child("a").generation(generation).member(), child("b").member()])
    };
    let mut machine = Supervision::new(tree(3)).unwrap();
    let mut random = NoJitter;
    for event in [Event::Start, Event::Started("a".to_owned()), Event::Started("b".to_owned())] {
        machine.handle(Timestamp(1), event, &mut random).unwrap();
    }
    let mut machine = Supervision::restore(machine.snapshot().clone()).unwrap();
    for key in ["a", "b"] {
        let found = Event::Adopt(key.to_owned(), Adopted::Running { ready: true });
        machine.handle(Timestamp(2), found, &mut random).unwrap();
    }
    let actions = machine.handle(Timestamp(3), Event::Reconfigure(tree(5)), &mut random).unwrap();
    let stops: Vec<_> = actions.iter().filter(|action| matches!(action, Action::Stop { .. })).collect();
    assert!(matches!(stops[..], [Action::Stop { key, .. }] if key == "a"), "{actions:?}");
}

#[test]
fn a_first_number_of_restarts_restarts_nothing() {
    let tree = |generation| {
        let mut only = child("a");
        only.generation = generation;
        supervisor("app", Strategy::OneForOne, vec![only.member()])
    };
    play_trees(
        tree(None),
        &[tree(Some(4)), tree(Some(5))],
        "
0 start
    start a: by request
1 started a
2 reconfigure 0
3 reconfigure 1
    stop a: by request
",
    );
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

#[test]
fn a_run_that_took_anothers_place_is_the_child_and_the_same_tree_told_again_leaves_it_alone() {
    let tree = |revision: &str| supervisor("app", Strategy::OneForOne, vec![child("a").revision(revision).member()]);
    let mut machine = Supervision::new(tree("1")).unwrap();
    let mut at = 0;
    let mut tell = |machine: &mut Supervision<String>, event| {
        at += 1;
        machine.handle(Timestamp(at), event, &mut NoJitter).unwrap()
    };
    let a = || "a".to_owned();
    tell(&mut machine, Event::Start);
    tell(&mut machine, Event::Started(a()));
    let nothing: Vec<Action<String>> = Vec::new();
    let loud = |actions: Vec<Action<String>>| -> Vec<Action<String>> {
        actions.into_iter().filter(|action| !matches!(action, Action::Note { .. })).collect()
    };
    assert_eq!(loud(tell(&mut machine, Event::Replaced(a(), "2".to_owned()))), nothing);
    assert_eq!(loud(tell(&mut machine, Event::Reconfigure(tree("2")))), nothing, "it runs by that definition already");
    assert_eq!(machine.status().overall, coppice_supervise::Overall::Ready);
    assert_eq!(machine.status_of(&a()).unwrap().restarts, 0);
    // Of one that is to be down, the one in its place is, too.
    tell(&mut machine, Event::StopChildren(vec![a()]));
    let actions = loud(tell(&mut machine, Event::Replaced(a(), "3".to_owned())));
    assert!(matches!(&actions[..], [Action::Stop { key, .. }] if *key == "a"), "{actions:?}");
}
