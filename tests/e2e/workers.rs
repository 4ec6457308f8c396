//! `coppice run-worker`: a worker once more, beside the tree.

mod node;
mod project;

use node::{Node, kill_and_wait};
use project::{Project, assert_nothing_left, wait_until};

/// A service that waits for a worker, and a worker that does as the volume says.
const SHOP: &str = r#"
[worker.seed]
image = "box"
command = ["sh", "-c", "echo seeding in $HOSTNAME; echo to stderr >&2; echo x >> /data/runs; [ ! -e /data/wait ] || until [ -e /tmp/go ]; do sleep 0.05; done; exit $(cat /data/code 2>/dev/null || echo 0)"]
stop_signal = "KILL"
volumes = ["data:/data"]

[service.web]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
volumes = ["data:/data"]
depends_on = { seed = "completed" }
"#;

fn shop(node: &Node) -> Project<'_> {
    node.busybox_image();
    let shop = Project::new(node, "shop", SHOP);
    shop.up();
    shop
}

fn runs(shop: &Project) -> usize {
    shop.shell("web-1", "cat /data/runs").lines().count()
}

#[test]
fn a_worker_is_run_once_more_with_its_output_and_exit_code_and_nobody_else_hears_of_it() {
    let node = Node::new();
    let shop = shop(&node);
    let before = shop.pids();
    let said = shop.coppice(&["run-worker", "seed"]).succeeded();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("seeding in seed-1\n", "to stderr\n"));
    shop.shell("web-1", "echo 7 > /data/code");
    let failed = node.coppice(["run-worker", "shop", "seed"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "seeding in seed-2\n"));
    let ended: serde_json::Value = node.coppice(["run-worker", "--json", "shop/seed"]).json();
    assert_eq!(ended["code"], 7);
    assert_eq!(runs(&shop), 4, "with the release's own");
    assert_eq!(shop.pids(), before);
    assert_eq!((shop.child("seed").state.as_str(), shop.status().state.as_str()), ("completed", "ready"));
    // A run that failed concerns nobody: the tree stays as it is, also for a daemon that returns.
    let events = node.ok(["events", "--no-follow", "--app", "shop"]);
    for said in ["seed run 1 (uid 0)", "seed run 1 succeeded", "seed run 2 failed: exited with code 7"] {
        assert!(events.contains(said), "{said} in {events}");
    }
    assert!(shop.ok(&["logs", "seed"]).contains("seed-2 | seeding in seed-2"));
    shop.up();
    assert_eq!(runs(&shop), 4);
    shop.ok(&["down"]);
    assert_nothing_left(&node);
}

#[test]
fn what_is_no_worker_is_refused_with_those_there_are_and_so_is_a_second_run_at_a_time() {
    let node = Node::new();
    let shop = shop(&node);
    for (name, why) in [("web", "is a service"), ("nope", "is not in the app")] {
        let refused = node.coppice(["run-worker", "shop", name]).complained(why).complained("has the workers seed");
        assert_eq!(refused.code, 2, "{name}");
    }
    node.coppice(["run-worker", "nope", "seed"]).ended_with(2).complained("no app \"nope\": `coppice apps`");
    node.coppice(["run-worker", "--json", "nope/seed"]).ended_with(2).complained("no app");
    // Its exit codes are a worker's: here there is none.
    node.coppice(["run-worker", "seed"]).ended_with(2).complained("cannot read coppice.toml");
    shop.shell("web-1", "touch /data/wait");
    assert_eq!(node.ok(["run-worker", "--detach", "shop", "seed"]), "shop.seed.run-1");
    let busy = shop.coppice(&["run-worker", "seed"]).complained("shop.seed.run-1 is still going on");
    assert_eq!(busy.code, 1);
    // Whoever stops the worker stops the run.
    shop.ok(&["stop", "seed"]);
    wait_until("it has ended", || node.inspect("shop.seed.run-1")["state"] == "exited");
    shop.coppice(&["run-worker", "seed"]).complained("`coppice start shop/seed` first");
    shop.ok(&["start", "seed"]);
    // By its own name, too.
    shop.ok(&["run-worker", "-d", "seed"]);
    shop.ok(&["stop", "shop.seed.run-2"]);
    wait_until("it has ended", || node.inspect("shop.seed.run-2")["state"] == "exited");
}

#[test]
fn a_run_goes_on_without_a_daemon_and_its_data_is_not_switched_under_it() {
    let node = Node::new();
    let shop = shop(&node);
    shop.shell("web-1", "touch /data/wait");
    shop.ok(&["run-worker", "-d", "seed"]);
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    shop.coppice(&["run-worker", "seed"]).complained("is still going on");
    node.ok(["exec", "shop.seed.run-1", "touch", "/tmp/go"]);
    assert_eq!(node.ok(["wait", "shop.seed.run-1"]), "0");
    // A release that has the worker and the service change their data's release stops the run that goes on.
    shop.ok(&["run-worker", "-d", "seed"]);
    shop.write(&SHOP.replace("\"sleep\", \"1000\"", "\"sleep\", \"2000\""));
    shop.coppice(&["up", "--timeout", "20s"]).succeeded();
    node.ok(["rollback", "--data", "shop"]);
    assert_eq!(node.inspect("shop.seed.run-2")["state"], "exited");
    shop.ok(&["down"]);
    assert_nothing_left(&node);
}
