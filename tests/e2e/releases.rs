//! Releases as users see them: history, filters, rollbacks, and rollouts that are paused, resumed, canceled or waited for.

mod node;
mod project;

use std::process::{Child, Stdio};

use coppice_api::{AppSummary, ReleaseEntry, RollbackReply};
use node::{Node, Output};
use project::{Project, wait_for, wait_until};

/// Three replicas, each of which says which version it is, replaced one after the other.
const WEB: &str = r#"
[service.web]
image = "box"
replicas = 3
command = ["sh", "-c", "mkdir -p /www && echo VERSION > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.rollout]
"#;

fn web(version: &str, rollout: &str) -> String {
    format!("{}{rollout}\n", WEB.replace("VERSION", version))
}

fn history(project: &Project<'_>, filters: &[&str]) -> Vec<ReleaseEntry> {
    let words: Vec<&str> = ["history", "--json"].into_iter().chain(filters.iter().copied()).collect();
    serde_json::from_str(&project.ok(&words)).unwrap()
}

fn numbers(entries: &[ReleaseEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.fields.number).collect()
}

/// `coppice ARGS` in the background, with what it says kept.
fn begun(project: &Project<'_>, words: &[&str]) -> Child {
    project.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn wait_release(project: &Project<'_>, what: &str, mut holds: impl FnMut(&ReleaseEntry) -> bool) -> ReleaseEntry {
    wait_for(what, || history(project, &[]).into_iter().next().filter(|newest| holds(newest)))
}

fn version(project: &Project<'_>, instance: &str) -> String {
    project.shell(instance, "cat /www/index.html").trim().to_owned()
}

#[test]
fn history_says_of_each_release_who_when_how_long_why_and_every_step() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    let first = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    assert!(!first.stderr.contains("release 1:"), "a first release has no steps to follow: {}", first.stderr);
    site.write(&web("two", ""));
    let said = site.coppice(&["up", "--timeout", "20s"]).succeeded();
    for step in ["release 2: began", "release 2: web is the new release's"] {
        assert!(said.stderr.contains(step), "{}", said.stderr);
    }

    // One whose process ends at once, and one that is never ready.
    site.write(&web("three", "").replace("mkdir -p /www", "exit 3"));
    let failed = site.coppice(&["up", "--timeout", "20s"]).ended_with(1);
    assert!(failed.stderr.contains("error: release 3 of site failed after "), "{}", failed.stderr);
    assert!(failed.stderr.contains("exited with code 3"), "{}", failed.stderr);
    assert!(failed.stderr.contains("help: release 2 runs as before"), "{}", failed.stderr);
    site.write(&web("four", "health_check_timeout = \"1s\"").replace("-p 80", "-p 81"));
    let failed = site.coppice(&["up", "--timeout", "20s"]).ended_with(1);
    assert!(failed.stderr.contains("readiness_timeout"), "{}", failed.stderr);
    let shown = site.coppice(&["status"]).succeeded().stdout;
    assert!(shown.contains("release 4 failed") && shown.contains("readiness_timeout"), "{shown}");

    site.ok(&["rollback", "--release", "1", "--timeout", "20s"]);
    assert_eq!(version(&site, "web-3"), "one");

    let all = history(&site, &[]);
    assert_eq!(numbers(&all), [5, 4, 3, 2, 1]);
    let [fifth, fourth, third, second, first] = &all[..] else { panic!("{all:#?}") };
    let words = |entry: &ReleaseEntry| {
        let fields = &entry.fields;
        [&fields.trigger, &fields.status, &fields.rollout_state, &fields.rollout_control_state].map(String::clone)
    };
    assert_eq!(words(first), ["apply", "completed", "stable", "active"]);
    assert_eq!(words(second), ["apply", "completed", "stable", "active"]);
    assert_eq!(words(fifth), ["rollback", "completed", "stable", "active"]);
    for entry in [third, fourth] {
        assert_eq!(entry.fields.status, "failed", "nothing had been touched: {entry:#?}");
        assert!(entry.fields.cause.is_some() && entry.fields.message.is_some(), "{entry:#?}");
        assert!(!entry.fields.failure_details.is_empty(), "{entry:#?}");
        assert!(!entry.is_current);
    }
    assert_eq!(third.fields.failure_details[0].workload_name, "web");
    assert_eq!(fourth.fields.failure_details[0].reason, "readiness_timeout");
    for entry in &all {
        let fields = &entry.fields;
        assert_eq!((fields.actor.as_str(), entry.app.as_str()), ("uid 0", "site"));
        assert!(fields.ended_at.is_some_and(|at| at >= fields.created_at) && fields.duration_ms.is_some());
        assert_eq!(fields.completed_targets + fields.failed_targets + fields.remaining_targets, 3, "{fields:#?}");
        assert!(entry.steps.len() >= 2 && entry.steps.windows(2).all(|pair| pair[0].at <= pair[1].at), "{entry:#?}");
        assert_eq!((&entry.release.fields, entry.release.current), (fields, entry.is_current));
        assert_eq!((entry.workloads.services, entry.workloads.training_jobs), (1, 0));
    }
    assert_eq!(second.fields.completed_targets, 3);
    assert_eq!((fifth.is_current, fifth.fields.source_release), (true, Some(1)));
    assert_eq!(fifth.fields.source_release_id, Some(first.id.clone()));
    assert_eq!(fifth.fields.manifest_hash, first.fields.manifest_hash, "the same spec");
    assert_ne!(fifth.fields.manifest_hash, second.fields.manifest_hash);
    assert_eq!(fifth.fields.manifest_hash.len(), 64);

    let table = site.ok(&["history"]);
    assert!(table.starts_with("   RELEASE  TRIGGER"), "{table}");
    assert!(table.contains("*  5") && table.contains("rollback to 1") && table.contains("3/0/0"), "{table}");
    let steps = site.ok(&["history", "-v"]);
    assert!(steps.contains("release 4 of site") && steps.contains(" goes back: "), "{steps}");
    assert_eq!(numbers(&history(&site, &["--status", "completed"])), [5, 2, 1]);
    assert_eq!(numbers(&history(&site, &["--in-progress"])), [0; 0]);
    assert_eq!(numbers(&history(&site, &["--failed"])), [4, 3]);
}

#[test]
fn a_status_has_the_releases_flat_and_nested() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    site.write(&web("two", "parallelism = 3"));
    site.up();
    let status = node.json(["status", "--json", "site"]);
    let flat = [
        "app_name",
        "trigger",
        "release_id",
        "status",
        "rollout_state",
        "rollout_control_state",
        "manifest_hash",
        "created_at",
        "service_count",
        "worker_count",
        "cron_count",
        "training_job_count",
        "completed_targets",
        "failed_targets",
        "remaining_targets",
        "active_training_jobs",
        "paused_training_jobs",
        "failed_training_jobs",
        "source_release_id",
        "resumed_from_release_id",
        "superseded_by_release_id",
        "message",
        "failure_details",
        "rollout_targets",
        "rollout_checkpoint",
        "previous_successful_release_id",
        "previous_successful_status",
    ];
    for key in flat {
        assert!(status.get(key).is_some(), "no {key} in {status:#}");
    }
    let nested = [
        ("rollout", &["state", "control_state", "completed_targets", "failure_details", "targets", "checkpoint"][..]),
        ("current_release", &["id", "trigger", "status", "rollout_checkpoint", "rollout"]),
        ("previous_successful_release", &["id", "trigger", "status", "rollout_checkpoint", "rollout"]),
        ("workloads", &["services", "workers", "crons", "training_jobs"]),
        ("training_runtime", &["active", "paused", "failed"]),
    ];
    for (object, keys) in nested {
        for key in keys {
            assert!(status[object].get(key).is_some(), "no {object}.{key} in {status:#}");
        }
    }
    let checkpoint = &status["rollout_checkpoint"];
    assert_eq!((checkpoint["engine"].as_str(), checkpoint["total_targets"].as_u64()), (Some("local"), Some(3)));
    assert_eq!(status["rollout"]["targets"][2]["instance"], "web-3");
    assert_eq!(status["rollout"]["targets"][2]["state"], "ready");
    assert_eq!(status["previous_successful_release_id"], status["previous_successful_release"]["id"]);
    assert_eq!(status["previous_successful_release"]["number"], 1);

    let apps: Vec<AppSummary> = serde_json::from_str(&site.ok(&["apps", "--json", "--status", "stable"])).unwrap();
    assert_eq!((apps.len(), apps[0].releases.newest.number), (1, 2));
    assert_eq!(site.ok(&["apps", "--failed", "--json"]).trim(), "[]");
    let table = site.ok(&["apps"]);
    assert!(table.contains("ROLLOUT") && table.contains("CTRL") && table.contains("3/0/0"), "{table}");
}

#[test]
fn a_rollback_shows_what_would_come_back_and_then_brings_it_back() {
    let node = Node::with_busybox();
    let one = web("one", "").replace("stop_signal", "volumes = [\"data:/data\"]\nstop_signal") + "[volume.data]\n";
    let site = Project::new(&node, "site", &one);
    site.coppice(&["rollback"]).ended_with(1).complained("site");
    site.up();
    site.coppice(&["rollback"]).ended_with(2).complained("no successful release before");
    site.shell("web-1", "echo kept > /data/note");
    site.write(&one.replace("echo one", "echo two"));
    let said = site.ok(&["up", "--detach"]);
    assert!(said.contains("release 2 is on its way; `coppice rollout status site`"), "{said}");
    wait_release(&site, "it is completed", |newest| newest.fields.status == "completed");
    site.shell("web-1", "echo lost > /data/note");

    let before = site.pids();
    let shown = site.ok(&["rollback", "--print"]);
    assert!(shown.contains("[service.web]") && shown.contains("echo one"), "{shown}");
    let shown = site.ok(&["rollback", "--data", "--print"]);
    assert!(shown.contains("data gets the data of snapshot r1-before-r2"), "{shown}");
    let reply: RollbackReply = serde_json::from_str(&site.ok(&["rollback", "--data", "--print", "--json"])).unwrap();
    let preview = reply.preview.unwrap();
    assert_eq!((reply.source, reply.release, preview.switches.len()), (1, None, 1));
    assert_eq!((numbers(&history(&site, &[])), site.pids()), (vec![2, 1], before), "printing changes nothing");

    let said = site.coppice(&["rollback", "--data", "--timeout", "20s"]).succeeded();
    assert!(said.stderr.contains("site: release 3 brings back release 1"), "{}", said.stderr);
    assert_eq!((version(&site, "web-1"), site.shell("web-1", "cat /data/note")), ("one".into(), "kept\n".into()));
    let newest = &history(&site, &[])[0];
    assert_eq!((newest.fields.trigger.as_str(), newest.fields.with_data), ("rollback", true));
    site.ok(&["rollback", "--undo", "--timeout", "20s"]);
    assert_eq!((version(&site, "web-1"), site.shell("web-1", "cat /data/note")), ("two".into(), "lost\n".into()));
    site.coppice(&["rollback", "--release", "77"]).ended_with(2).complained("has no release 77");
}

#[test]
fn a_rollout_rests_goes_on_and_goes_back_when_it_is_told_to() {
    let node = Node::with_busybox();
    let slow = "delay_between_batches = \"1s\"";
    let site = Project::new(&node, "site", &web("one", slow));
    site.up();
    site.coppice(&["rollout", "pause"]).ended_with(2).complained("no release of site is being rolled out");

    site.write(&web("two", slow));
    let late = site.coppice(&["up", "--timeout", "200ms"]).ended_with(1);
    assert!(late.stderr.contains("error: release 2 of site has not ended within 200ms"), "{}", late.stderr);
    assert!(late.stderr.contains("help: it goes on: `coppice rollout status site`"), "{}", late.stderr);
    wait_release(&site, "the first instance is replaced", |newest| newest.fields.completed_targets == 1);
    let said = site.ok(&["status"]);
    assert!(said.contains("release 2 rolling by uid 0") && said.contains("1 of 3 done"), "{said}");
    assert_eq!(numbers(&history(&site, &["--in-progress"])), [2]);
    site.ok(&["rollout", "pause"]);
    let rests = wait_release(&site, "it rests", |newest| newest.rollout.blocked_since.is_some());
    assert_eq!((rests.fields.rollout_state.as_str(), rests.fields.status.as_str()), ("blocked", "in_progress"));
    assert_eq!(rests.fields.rollout_control_state, "paused");
    assert_eq!(numbers(&history(&site, &["--failed"])), [2], "one that is blocked is to be looked at");
    site.coppice(&["up"]).ended_with(1).complained("the rollout of release 2 of site rests");
    let versions = ["web-1", "web-2", "web-3"].map(|instance| version(&site, instance));
    assert!(versions.contains(&"one".to_owned()) && versions.contains(&"two".to_owned()), "{versions:?}");

    site.ok(&["rollout", "resume"]);
    let done = wait_release(&site, "it is completed", |newest| newest.fields.status == "completed");
    let rulings: Vec<_> = done.rollout.rulings.iter().map(|one| (one.action.as_str(), one.actor.as_str())).collect();
    assert_eq!(rulings, [("pause", "uid 0"), ("resume", "uid 0")]);
    assert!(done.rollout.rulings[0].at < done.rollout.rulings[1].at);
    let page = site.ok(&["rollout", "status"]);
    assert!(page.contains("pause was asked for by uid 0") && page.contains("resumed by uid 0"), "{page}");
    assert!(["web-1", "web-2", "web-3"].iter().all(|instance| version(&site, instance) == "two"));

    site.write(&web("three", slow));
    let up = begun(&site, &["up", "--timeout", "30s"]);
    wait_release(&site, "the first of these is replaced", |newest| {
        newest.fields.number == 3 && newest.fields.completed_targets == 1
    });
    site.ok(&["rollout", "cancel"]);
    let said = Output::of_child(up).ended_with(1);
    assert!(said.stderr.contains("release 3 of site was rolled back"), "{}", said.stderr);
    assert!(said.stderr.contains("canceled_by_operator"), "{}", said.stderr);
    let back = wait_release(&site, "it has gone back", |newest| newest.fields.has_ended());
    assert_eq!(
        (back.fields.status.as_str(), back.fields.cause.as_deref()),
        ("rolled_back", Some("canceled_by_operator"))
    );
    assert!(["web-1", "web-2", "web-3"].iter().all(|instance| version(&site, instance) == "two"));
}

#[test]
fn a_failure_that_is_to_rest_ends_up_with_what_to_do() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", &web("one", ""));
    site.up();
    site.write(&web("two", "failure_action = \"pause\"").replace("mkdir -p /www", "exit 3"));
    let said = site.coppice(&["up", "--timeout", "20s"]).ended_with(1);
    assert!(said.stderr.contains("error: release 2 of site is blocked: "), "{}", said.stderr);
    assert!(said.stderr.contains("`coppice rollout cancel site` goes back"), "{}", said.stderr);
    let newest = &history(&site, &["--failed"])[0];
    assert_eq!((newest.fields.status.as_str(), newest.fields.rollout_state.as_str()), ("partially_failed", "blocked"));
    let page = site.ok(&["rollout", "status"]);
    assert!(page.contains("rests until it is resumed or canceled"), "{page}");
    site.ok(&["rollout", "cancel"]);
    wait_release(&site, "it has gone back", |newest| newest.fields.has_ended());
    assert!(["web-1", "web-2", "web-3"].iter().all(|instance| version(&site, instance) == "one"));
}

#[test]
fn an_up_that_comes_while_another_goes_on_says_for_whom_it_waits_and_both_end_well() {
    let node = Node::with_busybox();
    let slow = "delay_between_batches = \"1s\"";
    let site = Project::new(&node, "site", &web("one", slow));
    site.up();
    site.write(&web("two", slow));
    let first = begun(&site, &["up", "--timeout", "30s"]);
    wait_release(&site, "the first has begun", |newest| newest.fields.number == 2);
    site.write(&web("three", ""));
    let second = begun(&site, &["up", "--timeout", "30s"]);
    let first = Output::of_child(first).succeeded();
    let second = Output::of_child(second).succeeded();
    assert!(!first.stderr.contains("waits for"), "{}", first.stderr);
    assert!(second.stderr.contains("site: waits for release 2 (uid 0, since "), "{}", second.stderr);
    assert!(second.stderr.contains("which is being rolled out\n"), "{}", second.stderr);
    wait_until("the last one is current", || site.status().release == 3);
    let all = history(&site, &[]);
    let states: Vec<&str> = all.iter().map(|entry| entry.fields.status.as_str()).collect();
    assert_eq!(states, ["completed"; 3]);
    assert!(all[1].fields.ended_at.unwrap() <= all[0].fields.created_at, "one after the other");
    assert_eq!(version(&site, "web-2"), "three");
}

#[test]
fn of_two_first_ups_the_later_one_waits_for_the_other_and_says_so_but_not_for_one_in_trouble() {
    let node = Node::with_busybox();
    let slow = |version: &str| {
        let late = web(version, "").replace("mkdir -p /www", "sleep 2; mkdir -p /www");
        late.replace("interval = ", "start_period = \"10s\", interval = ")
    };
    let site = Project::new(&node, "site", &slow("one"));
    let first = begun(&site, &["up", "--timeout", "30s"]);
    wait_until("the first has begun", || site.try_status().is_some());
    site.write(&web("two", ""));
    let second = begun(&site, &["up", "--timeout", "30s"]);
    let first = Output::of_child(first).succeeded();
    let second = Output::of_child(second).succeeded();
    assert!(!first.stderr.contains("waits for"), "{}", first.stderr);
    assert!(second.stderr.contains("site: waits for release 1 (uid 0, since "), "{}", second.stderr);
    let all = history(&site, &[]);
    let states: Vec<&str> = all.iter().map(|entry| entry.fields.status.as_str()).collect();
    assert_eq!(states, ["completed"; 2]);
    assert_eq!(version(&site, "web-2"), "two");
    site.ok(&["down"]);

    // What mends one that does not come up is not kept waiting by it.
    let site = Project::new(&node, "shop", &web("one", "").replace("mkdir -p /www", "exit 3"));
    site.ok(&["up", "--detach"]);
    site.wait_status("it is in trouble", |status| status.state != "starting");
    site.write(&web("two", ""));
    let mended = site.coppice(&["up", "--timeout", "30s"]).succeeded();
    assert!(!mended.stderr.contains("waits for"), "{}", mended.stderr);
    assert_eq!(version(&site, "web-1"), "two");
}
