//! Apps end to end: up, plan, names, ports, down.

mod node;
mod project;

use coppice_api::{Event, HealthState, PlanReply, StepAction};
use node::{Node, is_alive};
use project::{Project, SHOP, assert_nothing_left, child, children, get, names, slow_shop, wait_for, wait_until};

fn events(project: &Project<'_>) -> Vec<Event> {
    let text = project.ok(&["events", "--json", "--no-follow", "--since", "10m", "--app", &project.app]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Where in the stream of events something first happens to an instance.
#[track_caller]
fn place(events: &[Event], action: &str, name: &str) -> usize {
    let found = events.iter().position(|event| event.action == action && event.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("no {action} of {name} in {events:#?}"))
}

#[test]
fn an_app_comes_up_in_the_order_of_its_dependencies_and_status_shows_its_tree() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    let said = shop.coppice(&["up", "--wait"]).succeeded();
    for line in ["db-1", "migrate", "web-1", "web-2", "ready"] {
        assert!(said.stdout.contains(line), "{}", said.stdout);
    }

    let events = events(&shop);
    let at = |action, name| place(&events, action, name);
    assert!(at("start", "shop.db-1") < at("healthy", "shop.db-1"));
    assert!(at("healthy", "shop.db-1") < at("start", "shop.migrate"));
    assert!(at("start", "shop.migrate") < at("exit", "shop.migrate"));
    assert!(at("exit", "shop.migrate") < at("start", "shop.web-1"));
    assert!(at("exit", "shop.migrate") < at("start", "shop.web-2"));

    let status = shop.status();
    assert_eq!((status.state.as_str(), status.settled, &status.reason), ("ready", true, &None));
    assert_eq!(status.tree.strategy, "one_for_one");
    let instances: Vec<&str> = children(&status.tree).iter().map(|child| child.instance.as_str()).collect();
    assert_eq!(instances, ["db-1", "migrate", "web-1", "web-2"]);
    let web = child(&status, "web-2");
    assert_eq!((web.state.as_str(), web.ready, web.health, web.restarts), ("running", true, HealthState::Healthy, 0));
    assert_eq!((web.workload.as_str(), web.image.as_str()), ("web", "box"));
    assert_eq!((web.ports[0].host, web.ports[0].container), (8080, 80));
    assert_eq!(child(&status, "migrate").state, "completed");
    assert_eq!(std::fs::read_to_string(shop.volume("data").join("seen")).unwrap(), "db-1\n");

    let listed: Vec<coppice_api::AppSummary> = serde_json::from_str(&shop.ok(&["apps", "--json"])).unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].ready, listed[0].wanted), ("shop", 4, 4));
}

#[test]
fn a_published_port_is_shared_by_the_replicas_and_services_reach_each_other_by_name() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let mut answered = std::collections::BTreeSet::new();
    wait_until("both replicas have answered on the published port", || {
        answered.insert(get(&node, "127.0.0.1:8080/").unwrap());
        answered.len() == 2
    });
    assert_eq!(answered.into_iter().collect::<Vec<_>>(), ["web-1\n", "web-2\n"]);

    // By the service's name, by an instance's, from a sibling and from another service.
    assert_eq!(shop.shell("web-1", "wget -q -O - http://db:5432/"), "db-1\n");
    assert_eq!(shop.shell("web-2", "wget -q -O - http://web-1/"), "web-1\n");
    assert_eq!(shop.shell("db-1", "wget -q -O - http://web-2/"), "web-2\n");
    let status = shop.status();
    let hosts = shop.shell("db-1", "cat /etc/hosts");
    for replica in ["web-1", "web-2"] {
        let address = child(&status, replica).address.clone().unwrap();
        assert!(hosts.contains(&format!("{address}\t{replica}\n")), "{hosts}");
        assert!(!hosts.contains(&format!("{address}\tweb\n")), "a service has an address of its own: {hosts}");
    }
    assert_eq!(hosts.lines().filter(|line| line.ends_with("\tweb")).count(), 2, "one of each family: {hosts}");
    assert_eq!(shop.shell("web-1", "hostname"), "web-1\n");
}

#[test]
fn up_again_has_nothing_to_do_and_only_what_changed_is_replaced() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    let first = shop.up();
    let before = shop.pids();
    let again = shop.coppice(&["up"]).succeeded();
    assert_eq!(again.stderr, format!("shop: nothing has changed since release {}\n", first.release));
    assert_eq!((shop.status().release, &shop.pids()), (first.release, &before));
    let plan: PlanReply = serde_json::from_str(&shop.ok(&["plan", "--json"])).unwrap();
    assert_eq!(plan.steps, []);
    assert_eq!(shop.ok(&["plan"]), "nothing to do\n");

    // A dependency's new definition replaces it and nobody else.
    shop.write(&slow_shop("0.3"));
    let changed = shop.up();
    let after = shop.pids();
    assert_eq!(changed.release, first.release + 1);
    for ((name, old), (same, new)) in before.iter().zip(&after) {
        assert_eq!(name, same);
        assert_eq!(old != new, name == "db-1", "{name}: {old} → {new}");
    }
    assert_eq!(changed.state, "ready");
    assert!(children(&changed.tree).iter().all(|child| child.restarts == 0), "a change is no failure: {changed:#?}");

    // One replica more, then two fewer: those that stay are not touched.
    shop.write(&slow_shop("0.3").replace("replicas = 2", "replicas = 3"));
    shop.up();
    let more = shop.pids();
    assert_eq!(more.len(), 4);
    assert!(after.iter().all(|kept| more.contains(kept)), "{after:?} {more:?}");
    shop.write(&slow_shop("0.3").replace("replicas = 2", "replicas = 1"));
    shop.up();
    wait_until("the two others are gone", || shop.pids().len() == 2);
    assert!(shop.pids().iter().all(|kept| after.contains(kept)));
    wait_until("nothing of them is left", || shop.containers().len() == 3);
    assert_eq!(get(&node, "127.0.0.1:8080/").unwrap(), "web-1\n");
}

#[test]
fn plan_and_dry_run_say_what_would_be_done_and_change_nothing() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    for words in [&["plan"][..], &["up", "--dry-run"]] {
        let text = shop.ok(words);
        for step in ["+ volume data", "+ instance db-1", "+ instance web-2"] {
            assert!(text.contains(step), "{text}");
        }
    }
    assert_eq!(shop.ok(&["apps", "--json"]).trim(), "[]");
    assert_eq!(shop.containers(), []);

    shop.up();
    let before = shop.pids();
    shop.write(&SHOP.replace("replicas = 2", "replicas = 3").replace("\"8080:80\"", "\"8081:80\""));
    let plan: PlanReply = serde_json::from_str(&shop.ok(&["up", "--dry-run", "--json"])).unwrap();
    assert!(
        plan.steps.iter().any(|step| step.action == StepAction::Create && step.target == "instance web-3"),
        "{plan:?}"
    );
    assert!(!plan.steps.iter().any(|step| step.target == "instance db-1"), "{plan:?}");
    let text = shop.ok(&["plan"]);
    assert!(text.contains("web-3") && text.contains("8081"), "{text}");
    assert_eq!(shop.pids(), before);
    assert_eq!(get(&node, "127.0.0.1:8080/").map(|_| ()), Ok(()));
}

#[test]
fn up_of_one_service_starts_it_and_what_it_needs_and_nothing_else() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.ok(&["up", "migrate"]);
    let status = shop.status();
    let states = |name: &str| child(&status, name).state.clone();
    assert_eq!((states("db-1"), states("migrate")), ("running".into(), "completed".into()));
    assert_eq!((states("web-1"), states("web-2")), ("stopped".into(), "stopped".into()));
    let db = shop.pid("db-1");
    shop.ok(&["up", "web"]);
    assert_eq!(shop.status().state, "ready");
    assert_eq!(shop.pid("db-1"), db);
    shop.coppice(&["up", "wbe"]).ended_with(2).complained("wbe").complained("web");
}

#[test]
fn down_leaves_nothing_but_volumes_and_with_volumes_not_even_those() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let pids = shop.pids();
    shop.shell("db-1", "echo kept > /data/note");
    shop.ok(&["down"]);
    assert!(pids.iter().all(|(_, pid)| !is_alive(*pid)));
    assert_eq!(shop.try_status(), None);
    assert_eq!(shop.containers(), []);
    assert!(get(&node, "127.0.0.1:8080/").is_err());
    assert_nothing_left(&node);
    assert_eq!(names(&node.root().join("apps")), Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(shop.volume("data").join("note")).unwrap(), "kept\n");

    shop.up();
    assert_eq!(shop.shell("db-1", "cat /data/note"), "kept\n");
    shop.ok(&["down", "--volumes"]);
    assert!(!shop.volume("data").exists());
    assert_nothing_left(&node);
    shop.coppice(&["down"]).ended_with(1).complained("shop");
}

#[test]
fn two_apps_run_side_by_side_as_different_users_and_do_not_know_each_others_names() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    let blog = Project::new(&node, "blog", &SHOP.replace("8080:80", "8081:80"));
    shop.up();
    blog.up();
    let owner = |project: &Project<'_>, instance: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/proc/{}", project.pid(instance))).unwrap().uid()
    };
    let users = [owner(&shop, "web-1"), owner(&shop, "db-1"), owner(&blog, "web-1"), owner(&blog, "db-1")];
    assert!(users.iter().all(|uid| *uid >= 1 << 16), "root inside is nobody outside: {users:?}");
    assert_eq!((users[0], users[2]), (users[1], users[3]), "one app, one range");
    assert!(users[0].abs_diff(users[2]) >= 1 << 16, "{users:?}");
    let blogs = child(&blog.status(), "db-1").address.clone().unwrap();
    assert!(!shop.shell("web-1", "cat /etc/hosts").contains(&blogs));
    assert!(get(&node, "127.0.0.1:8080/").unwrap().starts_with("web-"));
    assert!(get(&node, "127.0.0.1:8081/").unwrap().starts_with("web-"));

    // The same port twice is refused before anything is touched.
    let pids = blog.pids();
    blog.write(SHOP);
    blog.coppice(&["up"]).ended_with(1).complained("8080").complained("shop/web");
    assert_eq!(blog.pids(), pids);
    shop.ok(&["down"]);
    assert_eq!(blog.pids(), pids);
}

#[test]
fn up_detached_returns_before_the_app_is_ready() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", &slow_shop("1"));
    shop.coppice(&["up", "--detach"]).succeeded().printed_some("release 1 is on its way");
    let status = shop.status();
    assert_eq!((status.state.as_str(), status.settled), ("starting", false));
    let waits = child(&status, "migrate");
    assert_eq!(waits.state, "waiting");
    assert!(waits.reason.as_deref().is_some_and(|why| why.contains("db")), "{waits:?}");
    shop.wait_status("it is ready", |status| status.state == "ready");
}

#[test]
fn up_ends_with_1_and_the_reason_when_a_service_does_not_get_healthy() {
    let node = Node::with_busybox();
    let manifest = r#"
[service.sick]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "200ms", retries = 1 }
[service.fine]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
[service.waits]
image = "box"
command = ["sleep", "1000"]
depends_on = { sick = "healthy" }
[supervise]
max_restarts = 2
backoff = { first = "20ms", max = "50ms" }
"#;
    let shop = Project::new(&node, "shop", manifest);
    shop.coppice(&["up", "--wait"]).ended_with(1).complained("more than 2 restarts").complained("port 80");
    let status = shop.status();
    assert_eq!((status.state.as_str(), status.settled), ("failed", true));
    assert_eq!(child(&status, "waits-1").restarts, 0);

    // Without an end to it, the time limit ends the wait.
    shop.write(&manifest.replace("max_restarts = 2", "max_restarts = 1000"));
    let said = shop.coppice(&["up", "--timeout", "1s"]).ended_with(1);
    said.complained("has not settled within 1s").complained("sick-1");
    assert_eq!(child(&shop.status(), "fine-1").state, "running");
}

#[test]
fn a_wrong_manifest_ends_with_2_and_all_its_mistakes_and_nothing_changes() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let before = (shop.status().release, shop.pids());
    shop.write(
        &SHOP.replace("replicas = 2", "replicsa = 2").replace("db = \"healthy\", migrate", "bd = \"healthy\", migrate"),
    );
    let said = shop.coppice(&["up"]).ended_with(2);
    for words in ["replicsa", "replicas", "bd", "coppice.toml:"] {
        assert!(said.stderr.contains(words), "{words:?} is not in {}", said.stderr);
    }
    assert_eq!((shop.status().release, shop.pids()), before);
}

#[test]
fn an_image_that_is_nowhere_is_named_and_nothing_changes() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    let before = (shop.status().release, shop.pids());
    shop.write(&SHOP.replacen("image = \"box\"", "image = \"127.0.0.1:9/none:1\"", 1));
    shop.coppice(&["up"]).ended_with(1).complained("127.0.0.1:9/none:1");
    shop.write(&SHOP.replacen("image = \"box\"", "image = \"none\"\npull = \"never\"", 1));
    shop.coppice(&["up"]).ended_with(1).complained("none");
    assert_eq!((shop.status().release, shop.pids()), before);
}

#[test]
fn an_up_during_a_down_wins() {
    let node = Node::with_busybox();
    let slow = SHOP.replacen("stop_signal = \"KILL\"", "stop_timeout = \"2s\"", 1);
    let shop = Project::new(&node, "shop", &slow);
    shop.up();
    let mut down = shop.command(&["down"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the app is going down", || shop.try_status().is_none_or(|status| status.state == "stopping"));
    let up = shop.coppice(&["up", "--timeout", "20s"]);
    wait_for("the down has ended", || down.try_wait().unwrap());
    up.succeeded();
    shop.wait_status("it is ready", |status| status.state == "ready");
    assert_eq!(shop.containers().len(), 4);
}

#[test]
fn commands_name_services_by_the_manifest_here_and_by_app_elsewhere() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    shop.up();
    shop.ok(&["stop", "web"]);
    // Down when it returns, as with any container.
    assert_eq!(shop.child("web-2").state, "stopped");
    node.ok(["start", "shop/web"]);
    shop.wait_child("web-2", "runs", |web| web.ready);
    node.coppice(["stop", "shop/nothing"]).ended_with(1).complained("nothing").complained("web");
}
