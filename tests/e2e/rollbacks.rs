//! Going back, with and without data, and coming back from nothing but the volumes.

mod node;
mod project;

use std::process::Stdio;

use node::{Node, kill_and_wait};
use project::{Project, kill9, wait_until};

/// A store that writes its first row once, and a front that says its version. What a release does to the data beside is
/// its worker's.
const SHOP: &str = r#"
[service.db]
image = "box"
command = ["sh", "-c", "[ -f /data/rows ] || echo precious > /data/rows; exec httpd -f -p 80 -h /data"]
volumes = ["data:/data"]
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/rows", interval = "100ms" }

[worker.migrate]
image = "box"
command = ["sh", "-c", "MIGRATION"]
volumes = ["data:/data"]
depends_on = { db = "healthy" }

[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www && echo VERSION > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }
depends_on = { migrate = "completed" }

[volume.data]
"#;

fn shop(version: &str, migration: &str) -> String {
    SHOP.replace("VERSION", version).replace("MIGRATION", migration)
}

fn rows(project: &Project<'_>) -> String {
    project.shell("db-1", "cat /data/*")
}

fn version(project: &Project<'_>) -> String {
    project.shell("web-1", "cat /www/index.html").trim().to_owned()
}

/// The second release, whose migration destroys what the first had.
fn destroyed<'n>(node: &'n Node) -> Project<'n> {
    let project = Project::new(node, "shop", &shop("one", "true"));
    project.up();
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("precious\n", "one"));
    project.write(&shop("two", "echo gone > /data/rows"));
    project.up();
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("gone\n", "two"));
    project
}

#[test]
fn a_rollback_brings_back_the_code_with_data_the_data_too_and_can_be_undone() {
    let node = Node::with_busybox();
    let project = destroyed(&node);
    // The code alone: what was migrated stays as it is. Only what changed is replaced.
    let db = project.pid("db-1");
    project.ok(&["rollback", "shop"]);
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("gone\n", "one"));
    assert_eq!((project.pid("db-1"), project.status().release), (db, 3));

    project.ok(&["rollback", "shop", "--release", "1", "--data"]);
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("precious\n", "one"));
    // What was cut is kept, and comes back as it was.
    project.shell("db-1", "echo later >> /data/rows");
    project.ok(&["rollback", "shop", "--undo"]);
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("gone\n", "one"));
    let history = project.ok(&["history", "shop"]);
    assert_eq!(history.lines().filter(|line| line.contains("rollback")).count(), 3, "{history}");
}

#[test]
fn a_rollback_to_nowhere_is_refused_and_changes_nothing() {
    let node = Node::with_busybox();
    let project = Project::new(&node, "shop", &shop("one", "true"));
    project.up();
    let before = project.pids();
    for (args, why) in [
        (&["rollback", "shop"][..], "no successful release before"),
        (&["rollback", "shop", "--release", "7"], "no release 7"),
        (&["rollback", "shop", "--undo"], "not at a release that a rollback with data brought back"),
        (&["rollback", "nobody"], "nobody"),
    ] {
        let said = project.coppice(args);
        assert_ne!(said.code, 0, "{args:?}");
        assert!(said.stderr.contains(why), "{args:?}: {}", said.stderr);
    }
    assert_eq!((project.pids(), project.status().release), (before, 1));
    // Data that is not kept any more.
    project.write(&format!("{}\n[release]\nkeep = 0\n", shop("two", "true")));
    project.up();
    let said = project.coppice(&["rollback", "shop", "--data"]);
    assert!(said.code != 0 && said.stderr.contains("is not kept"), "{}", said.stderr);
    assert_eq!(version(&project), "two");
}

#[test]
fn releases_that_fail_cost_none_of_the_data_that_is_kept_to_go_back_to() {
    let node = Node::with_busybox();
    let keeps_one = |manifest: &str| format!("{manifest}\n[release]\nkeep = 1\n");
    let project = Project::new(&node, "shop", &keeps_one(&shop("one", "true")));
    project.up();
    project.write(&keeps_one(&shop("two", "echo gone > /data/rows")));
    project.up();
    project.write(&keeps_one(&shop("three", "exit 3")));
    assert_ne!(project.coppice(&["up", "--timeout", "30s"]).code, 0);
    let status = project.wait_status("the second is back", |status| status.settled);
    assert_eq!((status.release, rows(&project).as_str()), (2, "gone\n"));
    project.ok(&["rollback", "shop", "--data"]);
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("precious\n", "one"));
}

#[test]
fn a_daemon_killed_at_any_step_of_a_rollback_with_data_leaves_the_old_or_the_new_whole() {
    let node = Node::with_busybox();
    let project = destroyed(&node);
    for round in 0..6 {
        // Later and later in the rollback, which takes about half a second.
        let mut rollback = project.command(&["rollback", "shop", "--release", "1", "--data"]);
        let mut rollback = rollback.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut looks = 0;
        wait_until("it has come a bit further", || {
            looks += 1;
            looks > round * 4
        });
        kill_and_wait(node.daemon_pid(), "KILL");
        // Its fate is told by the next daemon, if at all.
        let _ = rollback.wait();
        let status = project.wait_status("it has ended, one way or the other", |status| status.settled);
        assert_eq!(status.state, "ready");
        let now = (rows(&project), version(&project));
        let (old, new) = (("gone\n".to_owned(), "two".to_owned()), ("precious\n".to_owned(), "one".to_owned()));
        assert!(now == old || now == new, "round {round}: {now:?}");
        if now == new {
            project.ok(&["rollback", "shop", "--undo"]);
            assert_eq!((rows(&project), version(&project)), old);
        }
    }
}

#[test]
fn a_supervisor_that_gives_up_brings_back_the_release_before_where_that_was_asked_for() {
    let node = Node::with_busybox();
    let manifest = |version: &str| {
        format!(
            "{}\n[supervise]\nmax_restarts = 2\nwindow = \"60s\"\non_exhausted = \"rollback\"\n\
             backoff = {{ first = \"50ms\", max = \"50ms\" }}\n",
            shop(version, "true")
        )
    };
    let project = Project::new(&node, "shop", &manifest("one"));
    project.up();
    project.write(&manifest("two"));
    project.up();
    assert_eq!(version(&project), "two");
    // It was fine, and then is not: once too often.
    let exhaust = |release: u64| {
        for _ in 0..3 {
            let pid = project.wait_child("web-1", "runs", |child| child.pid.is_some()).pid.unwrap();
            kill9(pid);
            project.wait_status("it has noticed", |status| {
                status.release > release
                    || status.state == "failed"
                    || project::find(status, "web-1").is_none_or(|web| web.pid != Some(pid))
            });
        }
    };
    exhaust(2);
    project.wait_status("the release before is back", |status| status.release == 3 && status.settled);
    assert_eq!(version(&project), "one");
    // So is that one. What was given up does not come back.
    exhaust(3);
    let status = project.wait_status("it is given up", |status| status.state == "failed" && status.settled);
    assert_eq!(status.release, 3);
    wait_until("it says that nothing comes back", || {
        let events = node.coppice(["events", "--since", "1h", "--no-follow", "--json"]).stdout;
        events.contains("does not come back: no release before it")
    });
    assert_eq!(project.status().release, 3);
}

#[test]
fn apps_releases_and_history_come_back_from_the_volumes_alone() {
    let node = Node::with_busybox();
    let project = destroyed(&node);
    project.ok(&["node", "stop", "--all"]);
    // The database is lost, and with it what the node knew of apps.
    for lost in ["state", "apps", "containers"] {
        std::fs::remove_dir_all(node.root().join(lost)).unwrap();
    }
    assert!(project.try_status().is_none());
    let shown = project.ok(&["recover", "--from-datasets", "--print"]);
    assert!(shown.contains("shop: release 2 of 2 would run again"), "{shown}");
    assert!(project.try_status().is_none(), "nothing was changed");
    project.ok(&["recover", "--from-datasets"]);
    let status = project.wait_status("it is up again", |status| status.settled);
    assert_eq!((status.release, status.state.as_str()), (2, "ready"));
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("gone\n", "two"));
    // With its past: it can be cut back, data included.
    project.ok(&["rollback", "shop", "--data"]);
    assert_eq!((rows(&project).as_str(), version(&project).as_str()), ("precious\n", "one"));
    assert_eq!(project.ok(&["recover", "--from-datasets"]), "no volume knows an app that this node does not\n");
}
