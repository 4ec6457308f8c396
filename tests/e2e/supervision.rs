//! Supervision of real instances: what is restarted, with whom, how often, and what people see of it.

mod node;
mod project;

use std::collections::BTreeSet;

use coppice_api::{Event, HealthState};
use node::{Node, kill, kill_and_wait};
use project::{Project, child, get, wait_until};

/// Keeps running until it is killed.
const RUNS: &str = "image = \"box\"\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"KILL\"";

/// Waits short enough for a test.
const QUICK: &str = "backoff = { first = \"20ms\", max = \"100ms\" }";

fn events(project: &Project<'_>) -> Vec<Event> {
    let text = project.ok(&["events", "--json", "--no-follow", "--since", "10m", "--app", &project.app]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Containers' starts and ends since `from`, as `start db-1`.
fn moves(project: &Project<'_>, from: usize) -> Vec<String> {
    let prefix = format!("{}.", project.app);
    let events = events(project).into_iter().skip(from);
    let moves = events.filter(|event| event.object == "container" && matches!(event.action.as_str(), "start" | "exit"));
    let name = |event: &Event| event.name.clone().unwrap_or_default().trim_start_matches(&prefix).to_owned();
    moves.map(|event| format!("{} {}", event.action, name(&event))).collect()
}

#[track_caller]
fn assert_order(moves: &[String], wanted: &[&str]) {
    let mut rest = moves.iter();
    for step in wanted {
        assert!(rest.any(|took_place| took_place == step), "{step:?} is not in its place of {wanted:?}: {moves:?}");
    }
}

#[test]
fn a_killed_instance_comes_back_and_status_says_why() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", &format!("[service.web]\nreplicas = 2\n{RUNS}\n"));
    shop.up();
    let (first, second) = (shop.pid("web-1"), shop.pid("web-2"));
    kill_and_wait(first, "KILL");
    let web = shop.wait_child("web-1", "is back", |web| web.ready && web.pid != Some(first));
    assert_eq!(web.restarts, 1);
    assert!(web.reason.as_deref().is_some_and(|why| why.starts_with("killed by signal 9 (KILL)")), "{web:?}");
    assert!(web.history.iter().any(|entry| entry.what.starts_with("restarted: killed by signal 9 (KILL)")), "{web:?}");
    assert_eq!(shop.pid("web-2"), second);
    let text = shop.ok(&["status"]);
    assert!(text.contains("killed by signal 9 (KILL)") && text.contains("1 restart"), "{text}");
    let told = events(&shop);
    assert!(told.iter().any(|event| event.action == "exit" && event.message.contains("signal 9 (KILL)")), "{told:?}");
    assert_eq!(shop.status().tree.restarts_in_window, 1);
}

#[test]
fn one_for_all_restarts_the_whole_group_and_nobody_else() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[group.core]\nmembers = [\"a\", \"b\", \"c\"]\nstrategy = \"one_for_all\"\n{QUICK}\n\
             [service.a]\n{RUNS}\n[service.b]\n{RUNS}\ndepends_on = [\"a\"]\n[service.c]\n{RUNS}\ndepends_on = [\"b\"]\n\
             [service.outside]\n{RUNS}\n"
        ),
    );
    shop.up();
    let before: BTreeSet<(String, u32)> = shop.pids().into_iter().collect();
    let from = events(&shop).len();
    kill_and_wait(shop.pid("b-1"), "KILL");
    shop.wait_child("c-1", "is back", |c| c.ready && c.restarts == 1);
    let after: BTreeSet<(String, u32)> = shop.pids().into_iter().collect();
    let kept: Vec<&str> = before.intersection(&after).map(|(name, _)| name.as_str()).collect();
    assert_eq!(kept, ["outside-1"]);
    // Down from the last to the first, then up from the first to the last.
    assert_order(&moves(&shop, from), &["exit b-1", "exit c-1", "exit a-1", "start a-1", "start b-1", "start c-1"]);
    let status = shop.status();
    assert_eq!(status.tree.groups[0].strategy, "one_for_all");
    assert_eq!(status.tree.groups[0].restarts_in_window, 1, "one round counts once");
    let why = child(&status, "a-1").reason.clone().unwrap();
    assert!(why.contains("sibling b-1 failed (one_for_all)"), "{why}");
}

#[test]
fn rest_for_one_restarts_those_started_later() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[group.line]\nmembers = [\"a\", \"b\", \"c\"]\nstrategy = \"rest_for_one\"\n{QUICK}\n\
             [service.a]\n{RUNS}\n[service.b]\n{RUNS}\ndepends_on = [\"a\"]\n[service.c]\n{RUNS}\ndepends_on = [\"b\"]\n"
        ),
    );
    shop.up();
    let (a, b, c) = (shop.pid("a-1"), shop.pid("b-1"), shop.pid("c-1"));
    let from = events(&shop).len();
    kill_and_wait(b, "KILL");
    shop.wait_child("c-1", "is back", |c| c.ready && c.restarts == 1);
    assert_eq!(shop.pid("a-1"), a);
    assert!(shop.pid("b-1") != b && shop.pid("c-1") != c);
    assert_order(&moves(&shop, from), &["exit b-1", "exit c-1", "start b-1", "start c-1"]);
}

#[test]
fn an_app_that_fails_too_often_is_given_up_with_the_reason_and_up_tries_again() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[supervise]\nmax_restarts = 3\n{QUICK}\n\
             [service.web]\nimage = \"box\"\nvolumes = [\"data:/data\"]\nstop_signal = \"KILL\"\n\
             command = [\"sh\", \"-c\", \"[ -e /data/fixed ] || exit 3; exec sleep 1000\"]\n[service.other]\n{RUNS}\n"
        ),
    );
    shop.coppice(&["up"]).ended_with(1).complained("gave up: more than 3 restarts").complained("exited with code 3");
    let status = shop.status();
    assert_eq!((status.state.as_str(), status.settled), ("failed", true));
    assert!(status.reason.is_some_and(|why| why.contains("web-1 exited with code 3")));
    assert!(shop.pids().is_empty(), "all rest when their supervisor has given up");

    std::fs::write(shop.volume("data").join("fixed"), "").unwrap();
    let status = shop.up();
    assert_eq!((status.state.as_str(), status.reason), ("ready", None));
    assert_eq!(shop.pids().len(), 2);
}

#[test]
fn always_on_failure_and_never_restart_as_they_say() {
    let node = Node::with_busybox();
    let service = |name: &str, restart: &str, command: &str| {
        format!(
            "[service.{name}]\nimage = \"box\"\nrestart = \"{restart}\"\ncommand = [\"sh\", \"-c\", \"{command}\"]\n"
        )
    };
    let manifest = [
        "[supervise]\nmax_restarts = 1000\nbackoff = { first = \"100ms\", max = \"1s\" }\n".to_owned(),
        service("always-ends", "always", "exit 0"),
        service("fails", "on-failure", "exit 1"),
        service("ends", "on-failure", "exit 0"),
        service("never-fails", "never", "exit 1"),
        service("never-ends", "never", "exit 0"),
    ];
    let shop = Project::new(&node, "shop", &manifest.concat());
    shop.ok(&["up", "--detach"]);
    shop.wait_child("always-ends-1", "is restarted", |child| child.restarts >= 2);
    shop.wait_child("fails-1", "is restarted", |child| child.restarts >= 2);
    let status = shop.status();
    let of = |name: &str| (child(&status, name).state.clone(), child(&status, name).restarts);
    assert_eq!(of("ends-1"), ("completed".into(), 0));
    assert_eq!(of("never-ends-1"), ("completed".into(), 0));
    assert_eq!(of("never-fails-1"), ("failed".into(), 0));
    assert_eq!(child(&status, "never-fails-1").reason.as_deref(), Some("exited with code 1"));
    assert_eq!(status.state, "degraded");
}

#[test]
fn a_worker_is_retried_until_it_succeeds_and_runs_no_more_then() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[supervise]\n{QUICK}\n[worker.load]\nimage = \"box\"\nvolumes = [\"data:/data\"]\nrestart = \"on-failure\"\n\
             command = [\"sh\", \"-c\", \"echo x >> /data/runs; [ $(wc -l < /data/runs) -ge 3 ]\"]\n\
             [service.web]\n{RUNS}\ndepends_on = [\"load\"]\n"
        ),
    );
    let status = shop.up();
    let load = child(&status, "load");
    assert_eq!((load.state.as_str(), load.restarts), ("completed", 2));
    assert!(child(&status, "web-1").ready);
    shop.up();
    kill_and_wait(shop.pid("web-1"), "KILL");
    shop.wait_child("web-1", "is back", |web| web.ready && web.restarts == 1);
    assert_eq!(std::fs::read_to_string(shop.volume("data").join("runs")).unwrap().lines().count(), 3);
}

#[test]
fn a_failed_worker_keeps_its_dependents_down_and_up_says_so() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[worker.load]\nimage = \"box\"\nrestart = \"never\"\ncommand = [\"sh\", \"-c\", \"sleep 0.3; exit 4\"]\n\
             [service.web]\n{RUNS}\ndepends_on = [\"load\"]\n"
        ),
    );
    shop.coppice(&["up"]).ended_with(1).complained("load: failed, exited with code 4").complained("web-1: waiting");
    let status = shop.status();
    assert_eq!((status.state.as_str(), status.settled), ("degraded", true));
}

#[test]
fn an_unhealthy_instance_is_out_of_port_and_names_until_it_is_restarted_and_well() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        // TERM does nothing to a first process without a handler, so the stop takes its whole time.
        &format!(
            "[supervise]\n{QUICK}\n[service.web]\nimage = \"box\"\nreplicas = 2\nports = [\"8080:80\"]\nstop_timeout = \"2s\"\n\
             command = [\"sh\", \"-c\", \"mkdir -p /www; hostname > /www/index.html; touch /www/well; exec httpd -f -p 80 -h /www\"]\n\
             health = {{ type = \"http\", port = 80, path = \"/well\", interval = \"200ms\", retries = 2 }}\n"
        ),
    );
    shop.up();
    let (first, second) = (shop.pid("web-1"), shop.pid("web-2"));
    // By the service's name, of which there is one address whatever its instances do.
    let by_name = || -> BTreeSet<String> { (0..20).map(|_| shop.shell("web-2", "wget -q -O - http://web/")).collect() };
    wait_until("both answer by name", || by_name().len() == 2);
    shop.shell("web-1", "rm /www/well");
    shop.wait_child("web-1", "is unhealthy", |web| web.health == HealthState::Unhealthy);
    // It runs on for its stop timeout, and nobody is sent to it.
    let answers: BTreeSet<String> = (0..20).map(|_| get(&node, "127.0.0.1:8080/").unwrap()).collect();
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["web-2\n"]);
    assert_eq!(by_name().into_iter().collect::<Vec<_>>(), ["web-2\n"]);
    assert_eq!(shop.child("web-1").pid, Some(first), "the stop took less than its time, so nothing was shown");

    let web = shop.wait_child("web-1", "is well again", |web| web.ready && web.pid != Some(first));
    assert_eq!(web.restarts, 1);
    let why = web.reason.unwrap();
    assert!(why.starts_with("unhealthy: http: GET /well answered 404") && why.contains("2 times in a row"), "{why}");
    assert_eq!(shop.pid("web-2"), second);
    let mut answered = BTreeSet::new();
    wait_until("both answer again", || {
        answered.insert(get(&node, "127.0.0.1:8080/").unwrap());
        answered.len() == 2
    });
}

#[test]
fn tcp_and_exec_checks_gate_readiness_and_say_what_they_met() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[supervise]\n{QUICK}\n\
             [service.tcp]\nimage = \"box\"\nstop_signal = \"KILL\"\ncommand = [\"sh\", \"-c\", \"sleep 0.3; exec nc -ll -p 7000 -e cat\"]\n\
             health = {{ type = \"tcp\", port = 7000, interval = \"100ms\", start_period = \"10s\" }}\n\
             [service.exec]\nimage = \"box\"\nstop_signal = \"KILL\"\nvolumes = [\"data:/data\"]\nnetwork = \"none\"\ndepends_on = {{ tcp = \"healthy\" }}\n\
             command = [\"sh\", \"-c\", \"touch /data/well; exec sleep 1000\"]\n\
             health = {{ type = \"exec\", command = \"sh -c 'cat /data/well || exit 9'\", interval = \"100ms\", retries = 1, start_period = \"10s\" }}\n"
        ),
    );
    let status = shop.up();
    assert_eq!(child(&status, "tcp-1").health, HealthState::Healthy);
    assert_eq!(child(&status, "exec-1").health, HealthState::Healthy);
    assert_eq!(child(&status, "tcp-1").restarts, 0, "the start period forgives");
    std::fs::remove_file(shop.volume("data").join("well")).unwrap();
    let exec = shop.wait_child("exec-1", "is restarted", |child| child.restarts == 1 && child.ready);
    let why = exec.reason.unwrap();
    assert!(why.contains("exec: exited with code 9") && why.contains("/data/well"), "{why}");
}

#[test]
fn stop_start_and_restart_by_hand_are_not_counted() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", &format!("[service.web]\nreplicas = 2\n{RUNS}\n[service.db]\n{RUNS}\n"));
    shop.up();
    let before = shop.pids();
    shop.ok(&["restart", "web"]);
    shop.wait_status("web is new", |status| {
        ["web-1", "web-2"].iter().all(|name| {
            let web = child(status, name);
            web.ready && !before.contains(&(web.instance.clone(), web.pid.unwrap_or_default()))
        })
    });
    shop.ok(&["stop", "web"]);
    let status = shop.wait_status("web is stopped", |status| {
        ["web-1", "web-2"].iter().all(|name| child(status, name).state == "stopped")
    });
    assert_eq!(status.state, "ready", "what is stopped by hand is not missed");
    shop.ok(&["start", "web-1"]);
    shop.wait_child("web-1", "runs", |web| web.ready);
    assert_eq!(shop.child("web-2").state, "stopped");
    shop.ok(&["restart", "shop/web-1"]);
    shop.ok(&["start", "web"]);
    let status = shop.wait_status("both run", |status| ["web-1", "web-2"].iter().all(|name| child(status, name).ready));
    for name in ["web-1", "web-2", "db-1"] {
        assert_eq!(child(&status, name).restarts, 0, "{name}");
    }
    assert_eq!(status.tree.restarts_in_window, 0);
    assert!(before.contains(&("db-1".to_owned(), shop.pid("db-1"))));

    // What was stopped by hand and is killed meanwhile stays down, also for `up` of another service.
    shop.ok(&["stop", "web"]);
    shop.ok(&["up", "db"]);
    assert_eq!(shop.child("web-1").state, "stopped");
    shop.up();
    assert!(shop.child("web-1").ready);
}

#[test]
fn an_app_goes_down_in_the_reverse_order_of_its_dependencies() {
    let node = Node::with_busybox();
    let slow =
        "image = \"box\"\ncommand = [\"sh\", \"-c\", \"trap 'sleep 0.2; exit 0' TERM; while :; do sleep 0.05; done\"]";
    let shop = Project::new(
        &node,
        "shop",
        &format!(
            "[service.db]\n{slow}\n[service.api]\n{slow}\ndepends_on = [\"db\"]\n\
             [service.web]\n{slow}\nreplicas = 2\ndepends_on = [\"api\"]\n"
        ),
    );
    shop.up();
    let from = events(&shop).len();
    shop.ok(&["down"]);
    let moves = moves(&shop, from);
    assert_order(&moves, &["exit web-1", "exit api-1", "exit db-1"]);
    assert_order(&moves, &["exit web-2", "exit api-1", "exit db-1"]);
    let ends: Vec<Event> = events(&shop).into_iter().filter(|event| event.action == "exit").collect();
    assert!(ends.iter().all(|event| event.message == "exited with code 0"), "each had its time: {ends:?}");
}

#[test]
fn the_wait_before_the_next_try_is_shown() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        "[supervise]\nbackoff = { first = \"40s\", max = \"50s\" }\n\
         [service.web]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"exit 7\"]\n",
    );
    shop.ok(&["up", "--detach"]);
    let web = shop.wait_child("web-1", "waits", |web| web.state == "backoff");
    let wait = web.next_retry.unwrap().since(web.since);
    assert!((40..=50).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(web.reason.as_deref(), Some("exited with code 7"));
    let text = shop.ok(&["status"]);
    assert!(text.contains("backoff") && text.contains("next try in "), "{text}");
    // A person need not wait.
    shop.ok(&["start", "web"]);
    shop.wait_child("web-1", "was tried again", |web| web.history.len() >= 2);
}

#[test]
fn what_runs_out_of_memory_says_so() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        "[worker.eats]\nimage = \"box\"\nrestart = \"never\"\nlimits = { memory = \"16m\" }\n\
         command = [\"sh\", \"-c\", \"x=0123456789abcdef; while :; do x=$x$x; done\"]\n",
    );
    shop.coppice(&["up"]).ended_with(1).complained("out of memory");
}

#[test]
fn a_kill_of_something_inside_an_instance_is_the_instances_own_business() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        "[service.web]\nimage = \"box\"\nstop_signal = \"KILL\"\ncommand = [\"sh\", \"-c\", \"while :; do sleep 1000; done\"]\n",
    );
    shop.up();
    let pid = shop.pid("web-1");
    let inner = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    kill(inner.trim().parse().unwrap(), "KILL");
    wait_until("the shell has started another", || {
        let now = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        !now.is_empty() && now != inner
    });
    assert_eq!((shop.pid("web-1"), shop.child("web-1").restarts), (pid, 0));
}
