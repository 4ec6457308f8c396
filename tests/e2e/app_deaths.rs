//! Apps through the death of everything around them: the daemon, the command line, the launcher, in every moment.

mod node;
mod project;

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coppice_api::ContainerState;
use node::{Node, is_alive, kill, kill_and_wait};
use project::{Project, SHOP, assert_nothing_left, child, children, devices, get, names, wait_until};

fn ready_with(project: &Project<'_>) -> Vec<(String, u32)> {
    project.wait_status("it is ready", |status| status.state == "ready" && status.settled);
    project.pids()
}

/// Starts a command whose words nobody needs.
fn begin(shop: &Project<'_>, words: &[&str]) -> Child {
    shop.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits for a moment in the middle of something.
fn let_pass(ms: u64) {
    let moment = Instant::now() + Duration::from_millis(ms);
    wait_until("the moment has come", || Instant::now() >= moment);
}

/// Starts another daemon after one was killed, whose socket may be open for as long as its threads end.
fn restart(node: &Node) {
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
}

/// What runs is what is wanted, once, and the machine has nothing else of this node.
#[track_caller]
fn assert_exactly_the_shop(shop: &Project<'_>) {
    let containers = shop.containers();
    let mut found: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["shop.db-1", "shop.migrate", "shop.web-1", "shop.web-2"]);
    let running = containers.iter().filter(|container| container.state == ContainerState::Running);
    let running: Vec<String> = running.map(|container| container.id.clone()).collect();
    assert_eq!(running.len(), 3);
    wait_until("each container has its directory, and none is left over", || {
        names(&shop.node.root().join("containers")).len() == 4
    });
    wait_until("each running container has its end on the bridge, and none is left over", || {
        devices(shop.node).len() == 3
    });
    wait_until("each running container has its cgroups, and none is left over", || {
        project::container_cgroups(shop.node) == running.iter().cloned().collect()
    });
    for (name, pid) in shop.pids() {
        assert!(is_alive(pid), "{name}");
    }
}

#[test]
fn an_app_answers_all_the_time_while_its_daemon_is_killed_and_returns() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    kill_and_wait(shop.pid("web-2"), "KILL");
    shop.wait_child("web-2", "is back", |web| web.ready && web.restarts == 1);
    let (pids, history) = (shop.pids(), shop.child("web-2").history);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                let answer = get(&node, "127.0.0.1:8080/");
                assert!(answer.is_ok(), "after {answers} answers: {answer:?}");
                answers += 1;
            }
            answers
        });
        for _ in 0..3 {
            let daemon = node.daemon_pid();
            kill_and_wait(daemon, "KILL");
            restart(&node);
            assert!(node.daemon_pid() != daemon);
            assert_eq!(ready_with(&shop), pids);
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 10);
    });
    let web = shop.child("web-2");
    assert_eq!((web.restarts, web.ready), (1, true));
    for entry in &history {
        assert!(web.history.contains(entry), "{entry:?} is forgotten: {:?}", web.history);
    }
    assert_eq!(children(&shop.status().tree).iter().map(|child| child.restarts).sum::<u32>(), 1);
    assert_exactly_the_shop(&shop);
    // Still its own to end.
    shop.ok(&["down"]);
    assert_nothing_left(&node);
}

#[test]
fn a_daemon_killed_anywhere_in_an_up_leaves_nothing_half() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    for round in 0..10 {
        let daemon = node.daemon_pid();
        let mut up = begin(&shop, &["up"]);
        let_pass(5 + 45 * round);
        kill_and_wait(daemon, "KILL");
        up.wait().unwrap();
        // Another daemon, which is told of the app again only if the kill came before the first had taken it on.
        restart(&node);
        if shop.try_status().is_none() {
            shop.up();
        }
        ready_with(&shop);
        assert_exactly_the_shop(&shop);
        assert_eq!(get(&node, "127.0.0.1:8080/").map(|_| ()), Ok(()), "round {round}");
        shop.ok(&["down", "--volumes"]);
        assert_nothing_left(&node);
    }
}

#[test]
fn a_daemon_killed_anywhere_in_a_change_ends_with_the_change_made() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    for round in 0..5 {
        let daemon = node.daemon_pid();
        shop.write(&SHOP.replace("mkdir -p /www;", &format!("mkdir -p /www; echo {round} > /www/round;")));
        shop.ok(&["up", "--detach"]);
        let_pass(20 * round);
        kill_and_wait(daemon, "KILL");
        restart(&node);
        ready_with(&shop);
        for replica in ["web-1", "web-2"] {
            assert_eq!(shop.shell(replica, "cat /www/round"), format!("{round}\n"));
        }
        assert_exactly_the_shop(&shop);
    }
    assert_eq!(std::fs::read_to_string(shop.volume("data").join("runs")).unwrap(), "once\n");
}

#[test]
fn a_daemon_killed_anywhere_in_a_down_is_followed_by_one_that_finishes_it() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", &SHOP.replacen("stop_signal = \"KILL\"", "stop_timeout = \"300ms\"", 1));
    for round in 0..6 {
        shop.up();
        let daemon = node.daemon_pid();
        let volumes = round % 2 == 0;
        let mut down = begin(&shop, if volumes { &["down", "--volumes"] } else { &["down"] });
        // When the log has it, it is promised.
        wait_until("the app is going down", || shop.try_status().is_none_or(|status| status.state == "stopping"));
        let_pass(60 * round);
        kill_and_wait(daemon, "KILL");
        down.wait().unwrap();
        restart(&node);
        assert_nothing_left(&node);
        wait_until("its directory is gone", || names(&node.root().join("apps")).is_empty());
        assert_eq!(shop.volume("data").exists(), !volumes, "round {round}");
        assert_eq!(shop.try_status(), None);
        assert!(get(&node, "127.0.0.1:8080/").is_err());
    }
}

#[test]
fn a_daemon_killed_in_a_down_is_followed_by_one_that_stops_the_rest_in_order() {
    let node = Node::with_busybox();
    // Each says at its end whether the one that needs it has ended before.
    let ends = |seconds: &str, notes: &str| {
        format!(
            "image = \"box\"\nvolumes = [\"data:/data\"]\nstop_timeout = \"10s\"\ncommand = [\"sh\", \"-c\", \"trap 'sleep {seconds}; {notes}; exit 0' TERM; touch /data/up; while :; do sleep 0.02; done\"]\n"
        )
    };
    let manifest = format!(
        "[service.db]\n{}[service.web]\ndepends_on = [\"db\"]\n{}",
        ends("0", "ls /data > /data/at-the-end-of-db"),
        ends("1", "touch /data/web-has-ended")
    );
    let shop = Project::new(&node, "shop", &manifest);
    shop.up();
    let daemon = node.daemon_pid();
    let mut down = begin(&shop, &["down"]);
    wait_until("the app is going down", || shop.try_status().is_none_or(|status| status.state == "stopping"));
    kill_and_wait(daemon, "KILL");
    down.wait().unwrap();
    restart(&node);
    assert_nothing_left(&node);
    let seen = std::fs::read_to_string(shop.volume("data").join("at-the-end-of-db")).unwrap();
    assert!(seen.contains("web-has-ended"), "the store ended before who needs it: {seen:?}");
}

/// Writes a line for each of its runs.
const COUNTED: &str = "[service.web]\nimage = \"box\"\nvolumes = [\"data:/data\"]\nstop_signal = \"KILL\"\n\
    command = [\"sh\", \"-c\", \"echo run >> /data/runs; exec sleep 1000\"]\n\
    [service.other]\nimage = \"box\"\nstop_signal = \"KILL\"\ncommand = [\"sleep\", \"1000\"]\n";

#[test]
fn a_restart_that_is_on_the_log_is_made_once_by_the_daemon_that_returns() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", COUNTED);
    shop.up();
    let runs = || std::fs::read_to_string(shop.volume("data").join("runs")).unwrap().lines().count();
    let memory = node.root().join("apps/shop/supervise.json");
    let before = std::fs::read(&memory).unwrap();
    shop.ok(&["restart", "web"]);
    shop.wait_child("web-1", "runs again", |web| web.ready && runs() == 2);
    // The daemon that returns may be at its restart before anybody can ask it for a process.
    let (web, other) = (shop.pid("web-1"), shop.pid("other-1"));
    // As if the daemon had died after the log had it, and before the supervisor heard.
    kill_and_wait(node.daemon_pid(), "KILL");
    std::fs::write(&memory, before).unwrap();
    restart(&node);
    shop.wait_child("web-1", "is made anew", |child| child.ready && child.pid != Some(web));
    assert_eq!((runs(), shop.pid("other-1"), shop.child("web-1").restarts), (3, other, 0));
    // Told again, it is nothing new.
    for _ in 0..2 {
        let pids = shop.pids();
        kill_and_wait(node.daemon_pid(), "KILL");
        restart(&node);
        assert_eq!(ready_with(&shop), pids);
    }
    assert_eq!(runs(), 3);
    // What was answered is not lost, and not made twice, whenever the daemon dies.
    for round in 0..5 {
        shop.ok(&["restart", "web"]);
        let_pass(15 * round);
        kill_and_wait(node.daemon_pid(), "KILL");
        restart(&node);
        ready_with(&shop);
        wait_until("it has been restarted", || runs() == 4 + round as usize);
    }
    shop.ok(&["stop", "web"]);
    shop.wait_child("web-1", "is stopped", |web| web.state == "stopped");
    shop.ok(&["restart", "web"]);
    shop.wait_child("web-1", "runs", |web| web.ready);
    kill_and_wait(node.daemon_pid(), "KILL");
    restart(&node);
    shop.wait_child("web-1", "still runs: it was wanted up by the restart", |web| web.ready);
}

#[test]
fn an_instance_keeps_its_address_through_every_restart() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let addresses = || -> Vec<(String, Option<String>)> {
        let status = shop.status();
        let running = children(&status.tree).into_iter().filter(|child| child.pid.is_some());
        running.map(|child| (child.instance.clone(), child.address.clone())).collect()
    };
    let before = addresses();
    assert!(before.iter().all(|(_, address)| address.is_some()), "{before:?}");
    let answers = || wait_until("it answers", || get(&node, "127.0.0.1:8080/").is_ok());
    kill_and_wait(shop.pid("web-1"), "KILL");
    shop.wait_child("web-1", "is back", |web| web.ready && web.restarts == 1);
    assert_eq!(addresses(), before, "after a kill");
    let db = shop.pid("db-1");
    shop.ok(&["restart", "db", "web"]);
    shop.wait_child("db-1", "is made anew", |child| child.ready && child.pid != Some(db));
    ready_with(&shop);
    assert_eq!(addresses(), before, "after a restart by request");
    answers();
    // While the daemon is away, the instance ends.
    let web = shop.pid("web-2");
    kill_and_wait(node.daemon_pid(), "KILL");
    kill_and_wait(web, "KILL");
    restart(&node);
    shop.wait_child("web-2", "is back", |child| child.ready && child.pid != Some(web));
    assert_eq!(addresses(), before, "after a daemon that was away");
    // In another definition it stands beside the one before until it is ready: each has an address of its own.
    shop.write(&SHOP.replace("mkdir -p /www;", "mkdir -p /www/x;").replace("replicas = 2", "replicas = 3"));
    shop.up();
    let more = addresses();
    let same: Vec<&str> = before.iter().filter(|kept| more.contains(kept)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(same, ["db-1"], "{before:?} {more:?}");
    assert_eq!(more.iter().map(|(_, address)| address).collect::<std::collections::BTreeSet<_>>().len(), 4);
    kill_and_wait(node.launcher_pid(), "KILL");
    shop.wait_status("all are back", |status| {
        ["db-1", "web-1", "web-2", "web-3"]
            .iter()
            .all(|name| child(status, name).ready && child(status, name).restarts > 0)
    });
    assert_eq!(addresses(), more, "after a launcher that died");
    shop.ok(&["stop", "web"]);
    shop.wait_child("web-3", "is stopped", |web| web.state == "stopped");
    let mut run = node.command(["run", "--rm", "box", "hostname", "-i"]);
    run.stdin(Stdio::null());
    let stranger = node::Output::of(run).succeeded().stdout;
    assert!(!more.iter().any(|(_, address)| address.as_deref() == Some(stranger.trim())), "{stranger} is taken");
    shop.ok(&["start", "web"]);
    shop.wait_child("web-3", "is ready", |web| web.ready);
    assert_eq!(addresses(), more, "after a stop");
    answers();
}

#[test]
fn files_that_are_damaged_while_the_daemon_is_away_cost_what_they_are_of_and_nothing_else() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let before = shop.pids();
    let memory = node.root().join("apps/shop/supervise.json");
    for damage in ["", "{\"desired\":\"Up\"", "[]", "\0\0\0\0"] {
        kill_and_wait(node.daemon_pid(), "KILL");
        std::fs::write(&memory, damage).unwrap();
        restart(&node);
        assert_eq!(ready_with(&shop), before, "the supervisor's memory was {damage:?}");
    }
    let web = shop.child("web-1");
    let record = node.root().join("containers").join(web.container.unwrap()).join("container.json");
    kill_and_wait(node.daemon_pid(), "KILL");
    std::fs::write(record, "{").unwrap();
    restart(&node);
    shop.wait_child("web-1", "is made anew", |child| child.ready && child.pid != web.pid);
    assert_exactly_the_shop(&shop);
    let others = |pids: Vec<(String, u32)>| pids.into_iter().filter(|(name, _)| name != "web-1").collect::<Vec<_>>();
    assert_eq!(others(shop.pids()), others(before));
    // The log is the one thing that cannot be guessed: the daemon says so, and what runs is left alone.
    let pids = shop.pids();
    kill_and_wait(node.daemon_pid(), "KILL");
    let log = node.root().join("state/log.db");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, b"no database").unwrap();
    node.coppice(["node", "start"]).ended_with(1).complained("damaged").complained("log.db");
    assert!(pids.iter().all(|(_, pid)| is_alive(*pid)));
    std::fs::write(&log, whole).unwrap();
    restart(&node);
    assert_eq!(ready_with(&shop), pids);
}

#[test]
fn a_command_killed_during_up_does_not_keep_the_app_from_getting_ready() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    let mut up = begin(&shop, &["up"]);
    wait_until("the node has taken it on", || shop.try_status().is_some());
    kill(up.id(), "KILL");
    up.wait().unwrap();
    ready_with(&shop);
    assert_exactly_the_shop(&shop);
}

#[test]
fn all_come_back_when_the_launcher_is_killed_and_say_that_they_were_lost() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let before = shop.pids();
    kill_and_wait(node.launcher_pid(), "KILL");
    wait_until("nobody outlives it", || before.iter().all(|(_, pid)| !is_alive(*pid)));
    for instance in ["db-1", "web-1", "web-2"] {
        let back = shop.wait_child(instance, "is back", |child| child.ready && child.restarts == 1);
        assert!(back.reason.as_deref().is_some_and(|why| why.contains("lost")), "{back:?}");
    }
    assert_eq!(child(&shop.status(), "migrate").state, "completed");
    assert_eq!(std::fs::read_to_string(shop.volume("data").join("runs")).unwrap(), "once\n");
    assert_exactly_the_shop(&shop);
    assert!(get(&node, "127.0.0.1:8080/").is_ok());
}

#[test]
fn all_come_back_when_launcher_and_daemon_are_killed_together() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let (daemon, launcher) = (node.daemon_pid(), node.launcher_pid());
    kill(daemon, "KILL");
    kill_and_wait(launcher, "KILL");
    kill_and_wait(daemon, "KILL");
    restart(&node);
    ready_with(&shop);
    assert_exactly_the_shop(&shop);
    assert!(shop.child("db-1").reason.is_some_and(|why| why.contains("lost")));
    assert!(get(&node, "127.0.0.1:8080/").is_ok());
}

#[test]
fn what_ended_while_the_daemon_was_away_is_known_and_restarted_when_it_returns() {
    let node = Node::with_busybox();
    let slow = "[worker.slow]\nimage = \"box\"\nvolumes = [\"data:/data\"]\n\
                command = [\"sh\", \"-c\", \"while [ ! -e /data/go ]; do sleep 0.02; done\"]\n";
    let shop = Project::new(&node, "shop", &format!("{SHOP}{slow}"));
    shop.ok(&["up", "--detach"]);
    shop.wait_status("all but the slow worker are ready", |status| status.state == "ready");
    let (web, db, slow) = (shop.pid("web-1"), shop.pid("db-1"), shop.pid("slow"));
    kill_and_wait(node.daemon_pid(), "KILL");
    kill_and_wait(web, "KILL");
    std::fs::write(shop.volume("data").join("go"), "").unwrap();
    wait_until("the worker has ended", || !is_alive(slow));
    restart(&node);
    let back = shop.wait_child("web-1", "is back", |child| child.ready && child.pid != Some(web));
    assert_eq!(back.restarts, 1);
    assert!(back.reason.as_deref().is_some_and(|why| why.contains("killed by signal 9 (KILL)")), "{back:?}");
    assert_eq!(shop.pid("db-1"), db);
    let worker = shop.wait_child("slow", "is complete", |child| child.state == "completed");
    assert_eq!(worker.restarts, 0);
    shop.wait_status("it has settled", |status| status.settled && status.state == "ready");
}

#[test]
fn a_stopped_daemon_leaves_the_app_running_and_a_stopped_node_brings_it_back() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let before = shop.pids();
    node.ok(["node", "stop"]);
    assert!(get(&node, "127.0.0.1:8080/").is_ok());
    node.ok(["node", "start"]);
    assert_eq!(ready_with(&shop), before);

    shop.ok(&["stop", "web"]);
    shop.wait_child("web-1", "is stopped", |web| web.state == "stopped");
    node.ok(["node", "stop", "--all"]);
    assert!(before.iter().all(|(_, pid)| !is_alive(*pid)));
    wait_until("launcher and daemon are gone", || node.processes().is_empty());
    node.ok(["node", "start"]);
    // What was wanted stopped stays so.
    ready_with(&shop);
    assert!(shop.child("db-1").ready);
    assert_eq!(shop.child("web-1").state, "stopped");
    shop.ok(&["start", "web"]);
    shop.wait_child("web-2", "is ready", |web| web.ready);
    assert!(get(&node, "127.0.0.1:8080/").is_ok());
    assert_eq!(std::fs::read_to_string(shop.volume("data").join("runs")).unwrap(), "once\n");
}
