//! Rollouts end to end: what runs, what answers and what is in the volumes while a release takes another's place, and
//! after it could not.

mod node;
mod project;

use std::collections::BTreeSet;
use std::process::Stdio;

use coppice_api::{Event, ReleaseEntry};
use node::{Node, Output, kill_and_wait};
use project::{Project, wait_until};

/// Three replicas behind a route, each of which says which version it is.
const WEB: &str = r#"
[service.web]
image = "box"
replicas = 3
command = ["sh", "-c", "mkdir -p /www && echo VERSION > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.http_routes.site]
host = "site.example.com"

[service.web.rollout]
"#;

/// One writer, which says on its port what is in its volume.
const STORE: &str = r#"
[service.db]
image = "box"
command = ["sh", "-c", "SCRIPT; exec httpd -f -p 80 -h /data"]
volumes = ["data:/data"]
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/rows", interval = "100ms" }

[service.db.rollout]
health_check_timeout = "3s"

[volume.data]
"#;

fn web(version: &str, rollout: &str) -> String {
    format!("{}{rollout}\n", WEB.replace("VERSION", version))
}

fn store(script: &str) -> String {
    STORE.replace("SCRIPT", script)
}

/// What one request by the route is answered.
fn ask(node: &Node) -> String {
    let mut command = node.inside("curl");
    command.args(["-sS", "--max-time", "5", "-H", "Host: site.example.com", "http://127.0.0.1/"]);
    Output::of(command).succeeded().stdout.trim().to_owned()
}

fn answers(node: &Node) -> BTreeSet<String> {
    (0..30).map(|_| ask(node)).collect()
}

fn running(project: &Project<'_>) -> Vec<String> {
    let mut names: Vec<String> = project
        .containers()
        .into_iter()
        .filter(|container| container.state == coppice_api::ContainerState::Running)
        .map(|container| container.name)
        .collect();
    names.sort();
    names
}

const ALL: [&str; 3] = ["site.web-1", "site.web-2", "site.web-3"];

#[test]
fn a_rolling_release_replaces_every_instance_without_one_failed_request() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    let before = site.pids();
    let mut load = node.inside("wrk");
    load.args(["-t1", "-c8", "-d6s", "-H", "Host: site.example.com", "http://127.0.0.1/"]);
    let load = std::thread::spawn(move || Output::of(load).succeeded().stdout);
    site.write(&web("two", ""));
    let after = site.up();
    assert_eq!((after.state.as_str(), after.release), ("ready", 2));
    let report = load.join().unwrap();
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    let pids = site.pids();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|(_, pid)| before.iter().all(|(_, old)| old != pid)), "{before:?} {pids:?}");
    assert_eq!(answers(&node), BTreeSet::from(["two".to_owned()]));
    // The new ones have the old ones' names, and nothing of the old ones is left.
    wait_until("the old ones are gone", || site.containers().len() == 3);
    assert_eq!(running(&site), ALL);
    assert_eq!(site.shell("web-2", "cat /www/index.html"), "two\n");
}

#[test]
fn instances_of_the_next_release_are_not_taken_for_those_they_replace() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    let backends = || -> BTreeSet<String> {
        let metrics = site.coppice(&["metrics", "--json"]).succeeded().stdout;
        let metrics: coppice_api::Metrics = serde_json::from_str(&metrics).unwrap();
        metrics.backends.into_iter().map(|backend| backend.instance).collect()
    };
    for (number, version) in ["two", "three"].into_iter().enumerate() {
        site.write(&web(version, ""));
        site.up();
        wait_until("the old ones are gone", || site.containers().len() == 3);
        let numbered = ["web-1", "web-2", "web-3"].map(|instance| format!("{instance}~{}", number + 1));
        assert_eq!(backends(), BTreeSet::from(numbered));
        assert_eq!(running(&site), ALL);
    }
}

#[test]
fn a_release_that_does_not_start_or_is_never_ready_leaves_every_instance_as_it_was() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    let before = site.pids();
    let bad = [
        WEB.replace("mkdir -p /www", "exit 3"),
        WEB.replace("exec httpd -f -p 80", "exec httpd -f -p 81")
            .replace("[service.web.rollout]", "[service.web.rollout]\nhealth_check_timeout = \"2s\""),
    ];
    for (number, manifest) in (2u64..).zip(bad) {
        site.write(&manifest);
        let said = site.coppice(&["up", "--timeout", "30s"]);
        assert_ne!(said.code, 0, "{}", said.stdout);
        let status = site.wait_status("the release before it is back", |status| status.settled);
        assert_eq!((status.release, status.state.as_str()), (1, "ready"), "release {number}");
        assert_eq!(site.pids(), before);
        wait_until("no candidate is left", || site.containers().len() == 3);
    }
    assert_eq!(answers(&node), BTreeSet::from(["one".to_owned()]));
    // What failed is no obstacle to the next.
    site.write(&web("four", ""));
    assert_eq!(site.up().release, 4);
    assert_eq!(answers(&node), BTreeSet::from(["four".to_owned()]));
}

#[test]
fn blue_and_green_change_places_all_at_once() {
    let node = Node::with_busybox();
    let rollout = "strategy = \"blue_green\"";
    let site = Project::new(&node, "site", &web("one", rollout));
    site.up();
    // One of the new ones takes its time: until then nobody is answered by any of them.
    site.write(&web("two", rollout).replace("mkdir -p", "[ $(hostname) = web-3 ] && sleep 2; mkdir -p"));
    let mut up = site.command(&["up", "--timeout", "30s"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the whole set is there beside the old one", || running(&site).len() == 6);
    assert_eq!(answers(&node), BTreeSet::from(["one".to_owned()]));
    assert!(up.wait().unwrap().success());
    assert_eq!(answers(&node), BTreeSet::from(["two".to_owned()]));
    wait_until("the old set is gone", || running(&site) == ALL);
}

#[test]
fn a_canary_gets_its_share_of_the_requests_and_goes_when_it_fails_them() {
    let node = Node::with_busybox();
    let rollout = |errors: &str| {
        format!(
            "strategy = \"canary\"\ncanary = [{{ instances = 1, weight = 30, duration = \"3s\" }}]\n\
             analysis = {{ max_error_percent = {errors}, min_requests = 10 }}"
        )
    };
    let site = Project::new(&node, "site", &web("one", &rollout("5")));
    site.up();
    let before = site.pids();
    // It is healthy, and answers requests with an error: only the proxy sees that.
    let broken = web("two", &rollout("5"))
        .replace(
            "exec httpd",
            "mkdir -p /www/cgi-bin && printf '#!/bin/sh\\\\necho Status: 500 Broken\\\\necho\\\\n' > /www/cgi-bin/index.cgi && \
             chmod +x /www/cgi-bin/index.cgi && rm /www/index.html && echo ok > /www/health && exec httpd",
        )
        .replace("port = 80, interval", "port = 80, path = \"/health\", interval");
    site.write(&broken);
    let mut up = site.command(&["up", "--timeout", "30s"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the canary is there", || running(&site).len() == 4);
    let mut load = node.inside("wrk");
    load.args(["-t1", "-c4", "-d4s", "-H", "Host: site.example.com", "http://127.0.0.1/"]);
    let report = Output::of(load).succeeded().stdout;
    assert!(report.contains("Non-2xx"), "the canary got its share: {report}");
    assert!(!up.wait().unwrap().success());
    let status = site.wait_status("it went back", |status| status.settled);
    assert_eq!(status.release, 1);
    assert_eq!(site.pids(), before);

    // One that answers well goes on to all.
    site.write(&web("three", &rollout("5")));
    let mut up = site.command(&["up", "--timeout", "30s"]);
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the canary is there", || running(&site).len() == 4);
    wait_until("it answers some", || answers(&node).len() == 2);
    let share = (0..100).filter(|_| ask(&node) == "three").count();
    assert!((5..60).contains(&share), "30 % were to be answered by the canary: {share}");
    assert!(up.wait().unwrap().success());
    assert_eq!(answers(&node), BTreeSet::from(["three".to_owned()]));
}

#[test]
fn who_waits_for_a_release_is_answered_when_it_has_ended() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    site.write(&web("two", ""));
    site.ok(&["up", "--detach"]);
    let one = |query: &str| -> ReleaseEntry {
        let mut curl = node.inside("curl");
        curl.args(["-sS", "--max-time", "60", "--unix-socket"]).arg(site.node_status().socket);
        curl.arg(format!("http://coppice/v1/apps/site/releases/2?wait_ms={query}"));
        serde_json::from_str(&Output::of(curl).succeeded().stdout).unwrap()
    };
    assert_eq!(one("1").fields.status, "in_progress");
    assert_eq!(one("60000").fields.status, "completed");
}

#[test]
fn a_one_writers_failed_release_brings_back_its_data_too() {
    let node = Node::with_busybox();
    let db = Project::new(&node, "store", &store("[ -f /data/rows ] || echo precious > /data/rows"));
    db.up();
    assert_eq!(db.shell("db-1", "cat /data/rows"), "precious\n");
    // Its migration destroys what is there, and then it never answers.
    db.write(&store("rm /data/rows; echo broken > /data/other"));
    assert_ne!(db.coppice(&["up", "--timeout", "30s"]).code, 0);
    let status = db.wait_status("the release before it is back", |status| status.settled);
    assert_eq!((status.release, status.state.as_str()), (1, "ready"));
    assert_eq!(db.shell("db-1", "cat /data/rows; ls /data"), "precious\nrows\n");
    // What it wrote is kept beside.
    let kept = db.ok(&["volume", "inspect", "store/data"]);
    assert!(kept.contains("r2-failed"), "{kept}");
}

#[test]
fn a_daemon_that_is_killed_in_the_midst_goes_on_with_the_rollout_when_it_returns() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", "delay_between_batches = \"300ms\""));
    site.up();
    site.write(&web("two", "delay_between_batches = \"300ms\""));
    site.ok(&["up", "--detach"]);
    // At whatever it is: each return takes up what the one before had begun.
    for _ in 0..4 {
        kill_and_wait(node.daemon_pid(), "KILL");
        let names = running(&site);
        assert!(names.len() >= 3, "{names:?} of {:#?}", site.containers());
    }
    let status = site.wait_status("the rollout has ended", |status| status.settled && status.release == 2);
    assert_eq!(status.state, "ready");
    assert_eq!(answers(&node), BTreeSet::from(["two".to_owned()]));
    wait_until("nothing else is left", || site.containers().len() == 3);
    assert_eq!(running(&site), ALL);
}

#[test]
fn a_supervisor_that_remembers_what_was_there_before_a_promotion_leaves_what_was_promoted() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    let memory = node.root().join("apps/site/supervise.json");
    let before = std::fs::read(&memory).unwrap();
    site.write(&web("two", ""));
    site.up();
    let promoted = site.pids();
    // A daemon that is killed once it has put candidates into their slots may not have come to keep that it did.
    kill_and_wait(node.daemon_pid(), "KILL");
    std::fs::write(&memory, before).unwrap();
    assert_eq!(site.pids(), promoted);
    assert_eq!(answers(&node), BTreeSet::from(["two".to_owned()]));
    assert_eq!(site.pids(), promoted);
}

#[test]
fn a_promotion_that_its_daemon_did_not_survive_is_finished_by_the_next_before_anything_else_is_started() {
    let mut node = Node::new();
    let death = node.mortal();
    node.busybox_image();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    site.write(&web("two", ""));
    std::fs::write(&death, "before promote").unwrap();
    let _ = site.coppice(&["up", "--detach"]);
    wait_until("its daemon has died", || !death.exists());
    // What was there has left its slot, and what was to come is not in it.
    let containers = node.root().join("containers");
    let records = std::fs::read_dir(containers).unwrap().map(|entry| entry.unwrap().path().join("container.json"));
    let mut left = 0;
    for path in records {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains(r#""name":"site.web-1","#) && text.contains(r#""place":"own""#) {
            let text = text.replace(r#""name":"site.web-1","#, r#""name":"site.web-1.was-0","#);
            std::fs::write(&path, text.replace(r#""place":"own""#, r#""place":"leaving""#)).unwrap();
            left += 1;
        }
    }
    assert_eq!(left, 1);
    let status = site.wait_status("the rollout has ended", |status| status.settled && status.release == 2);
    assert_eq!(status.state, "ready");
    assert_eq!(answers(&node), BTreeSet::from(["two".to_owned()]));
    // Since it is back: others are replaced, and nothing else is started in the place of what was promoted.
    let events = site.ok(&["events", "--json", "--no-follow", "--since", "10m", "--app", "site"]);
    let events: Vec<Event> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = events.iter().filter(|event| event.action == "start").filter_map(|event| event.name.as_deref());
    assert_eq!(started.collect::<Vec<_>>(), ["site.web-2.next-1", "site.web-3.next-1"]);
}

#[test]
fn on_a_full_disk_nothing_is_half_and_the_rollout_goes_on_when_there_is_room() {
    let node = Node::on_small_disk(192 << 20);
    node.busybox_image();
    let delay = "delay_between_batches = \"1s\"";
    let site = Project::new(&node, "site", &web("one", delay));
    site.up();
    let before = site.pids();
    let filler = node.root().join("filler");
    let fill = || {
        let mut fill = node.inside("dd");
        fill.args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", filler.display())).stderr(Stdio::null());
        fill.status().unwrap();
    };
    let free = || {
        let mut free = node.inside("rm");
        assert!(free.arg(&filler).status().unwrap().success());
    };
    // Full before it begins: refused, and all is as it was.
    fill();
    site.write(&web("two", delay));
    let said = site.coppice(&["up", "--timeout", "10s"]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert_eq!((site.pids(), answers(&node)), (before, BTreeSet::from(["one".to_owned()])));
    free();
    // Full in the midst: whoever is asked answers, and with room again it ends well.
    site.ok(&["up", "--detach"]);
    wait_until("the first has been replaced", || answers(&node).contains("two"));
    fill();
    for _ in 0..20 {
        assert!(["one", "two"].contains(&ask(&node).as_str()));
    }
    assert!(running(&site).len() >= 3);
    free();
    let status = site.wait_status("it has ended", |status| status.settled);
    assert_eq!(status.state, "ready");
    assert_eq!(answers(&node).len(), 1, "all of one release");
}

#[test]
fn a_hook_runs_once_before_anything_changes_and_one_that_fails_stops_the_release() {
    let node = Node::with_busybox();
    let manifest = |version: &str, hook: &str| {
        format!(
            "{}\n[worker.check]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"{hook}\"]\nvolumes = [\"notes:/notes\"]\n\
             [worker.tell]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"echo after >> /notes/runs\"]\nvolumes = [\"notes:/notes\"]\n\
             [hooks]\nbefore_deploy = [\"check\"]\nafter_deploy = [\"tell\"]\n[volume.notes]\n",
            web(version, "")
        )
    };
    let site = Project::new(&node, "site", &manifest("one", "true"));
    site.up();
    let before = site.pids();
    assert_eq!(before.len(), 3, "hooks do not run with the others");
    site.write(&manifest("two", "echo no >> /notes/runs; exit 3"));
    let said = site.coppice(&["up", "--timeout", "20s"]);
    assert!(said.code != 0 && said.stderr.contains("check"), "{}", said.stderr);
    assert_eq!((site.pids(), answers(&node)), (before, BTreeSet::from(["one".to_owned()])));
    site.write(&manifest("three", "echo yes >> /notes/runs"));
    site.up();
    assert_eq!(answers(&node), BTreeSet::from(["three".to_owned()]));
    assert_eq!(std::fs::read_to_string(site.volume("notes").join("runs")).unwrap(), "after\nno\nyes\nafter\n");
}

#[test]
fn the_release_that_is_left_may_refuse_to_be_rolled_back_and_then_nothing_has_changed() {
    let node = Node::with_busybox();
    let worker = |name: &str, script: &str| {
        format!(
            "[worker.{name}]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\nvolumes = [\"notes:/notes\"]\n"
        )
    };
    let manifest = |version: &str| {
        let check = worker("check", &format!("[ -e /notes/stop ] && exit 3; echo left {version} >> /notes/runs"));
        let hooks = "[hooks]\nbefore_deploy = [\"begin\"]\nbefore_rollback = [\"check\"]\n[volume.notes]\n";
        format!("{}\n{}{check}{hooks}", web(version, ""), worker("begin", "touch /notes/stop"))
    };
    let site = Project::new(&node, "site", &manifest("one"));
    site.up();
    site.write(&manifest("two"));
    site.up();
    let before = site.pids();
    let said = site.coppice(&["rollback", "site"]);
    assert!(said.code != 0 && said.stderr.contains("check"), "{}", said.stderr);
    site.wait_status("the rollback has ended", |status| status.settled);
    assert_eq!((site.pids(), answers(&node)), (before, BTreeSet::from(["two".to_owned()])));

    std::fs::remove_file(site.volume("notes").join("stop")).unwrap();
    site.ok(&["rollback", "site"]);
    assert_eq!(answers(&node), BTreeSet::from(["one".to_owned()]));
    assert_eq!(std::fs::read_to_string(site.volume("notes").join("runs")).unwrap(), "left two\n");
}

/// A store, and a hook that needs it, before everything else.
fn migrated(hook: &str, needs: &str) -> String {
    format!(
        "{}{}\n[worker.migrate]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"{hook}\"]\nvolumes = [\"notes:/notes\"]\n{needs}\
         [worker.smoke]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"wget -qO- http://web/ >> /notes/runs\"]\nvolumes = [\"notes:/notes\"]\n\
         [hooks]\nbefore_deploy = [\"migrate\"]\nafter_deploy = [\"smoke\"]\n[volume.notes]\n",
        web("one", ""),
        store("[ -f /data/rows ] || echo precious > /data/rows"),
    )
}

#[test]
fn hooks_run_with_an_apps_first_release_too_and_one_that_fails_leaves_nothing_of_it() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &migrated("exit 3", ""));
    let planned = site.ok(&["plan"]);
    assert!(planned.contains("hook migrate"), "{planned}");
    let said = site.coppice(&["up", "--timeout", "30s"]).ended_with(1);
    assert!(said.stderr.contains("release 1 of site failed after"), "{}", said.stderr);
    assert!(said.stderr.contains("migrate: hook_failed: exited with code 3"), "{}", said.stderr);
    assert!(said.stderr.contains("nothing of it runs"), "{}", said.stderr);
    assert_eq!(running(&site), Vec::<String>::new());
    let status = site.status();
    assert_eq!(
        (status.state.as_str(), status.settled, status.releases.newest.status.as_str()),
        ("failed", true, "failed")
    );
    let shown = site.ok(&["status"]);
    assert!(shown.contains("release 1 failed") && shown.contains("hook_failed"), "{shown}");
    // Neither does a daemon that returns start any of it.
    kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(site.wait_status("the next daemon is there", |status| status.settled).state, "failed");
    assert_eq!(running(&site), Vec::<String>::new());

    // The same again is another release, with its hooks; what a hook needs is there before it, and goes with it again.
    let needs = "depends_on = { db = \"healthy\" }\n";
    site.write(&migrated("wget -qO- http://db/rows >> /notes/runs; exit 4", needs));
    let said = site.coppice(&["up", "--timeout", "30s"]).ended_with(1);
    assert!(
        said.stderr.contains("release 2: db is started") && !said.stderr.contains("web is started"),
        "{}",
        said.stderr
    );
    wait_until("what the hook needed is gone", || running(&site).is_empty());
    assert_eq!(site.status().releases.newest.status, "failed");

    site.write(&migrated("wget -qO- http://db/rows >> /notes/runs", needs));
    let status = site.up();
    assert_eq!((status.release, status.state.as_str()), (3, "ready"));
    assert_eq!(running(&site), [&["site.db-1"][..], &ALL].concat());
    let runs = || std::fs::read_to_string(site.volume("notes").join("runs")).unwrap();
    assert_eq!(runs(), "precious\nprecious\none\n");
    // It is a release like any other: the same again is none.
    let said = site.coppice(&["up"]).succeeded();
    assert!(said.stderr.contains("nothing has changed since release 3"), "{}", said.stderr);
    assert_eq!(runs(), "precious\nprecious\none\n");
}

#[test]
fn a_first_release_whose_daemon_is_killed_in_its_hook_comes_up_and_runs_the_hook_once() {
    let node = Node::with_busybox();
    let hook = "echo begun >> /notes/runs; until [ -f /notes/go ]; do usleep 20000; done; echo done >> /notes/runs";
    let site = Project::new(&node, "site", &migrated(hook, "depends_on = { db = \"healthy\" }\n"));
    site.ok(&["up", "--detach"]);
    let notes = site.volume("notes");
    let runs = || std::fs::read_to_string(notes.join("runs")).unwrap_or_default();
    wait_until("the hook runs", || runs() == "begun\n");
    kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(site.wait_status("it goes on", |status| !status.settled).releases.newest.status, "in_progress");
    std::fs::write(notes.join("go"), "").unwrap();
    let status = site.wait_status("it is up", |status| status.settled);
    assert_eq!((status.release, status.state.as_str()), (1, "ready"));
    assert_eq!(runs(), "begun\ndone\none\n");
}
