//! Crons: at their times, one at a time, remembered whatever dies.

mod node;
mod project;

use std::time::Duration;

use coppice_api::{CronResult, CronRun, CronSummary};
use node::{Node, kill_and_wait};
use project::{Project, assert_nothing_left, wait_for, wait_until};

/// A cron `job` that runs this shell script, with these settings.
fn job(settings: &str, script: &str) -> String {
    format!(
        "[cron.job]\nimage = \"box\"\nstop_signal = \"KILL\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{settings}\n"
    )
}

fn shop<'n>(node: &'n Node, manifest: &str) -> Project<'n> {
    node.busybox_image();
    let shop = Project::new(node, "shop", manifest);
    shop.ok(&["up"]);
    shop
}

/// The newest first.
fn history(shop: &Project) -> Vec<CronRun> {
    serde_json::from_value(shop.node.json(["cron", "history", "shop", "job"])).unwrap()
}

fn crons(node: &Node) -> Vec<CronSummary> {
    serde_json::from_value(node.json(["cron", "ls"])).unwrap()
}

/// Waits for a line of the history.
#[track_caller]
fn wait_line(shop: &Project, what: &str, holds: impl Fn(&CronRun) -> bool) -> CronRun {
    wait_for(what, || history(shop).into_iter().find(&holds))
}

/// The daemon is killed, and another one takes over.
fn another_daemon(node: &Node) {
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
}

#[test]
fn a_cron_runs_at_its_times_and_what_it_wrote_and_how_it_ended_is_known() {
    let node = Node::new();
    let shop = shop(&node, &job("every = \"1s\"", "echo here; exit 3"));
    let second = wait_line(&shop, "a second run", |run| run.run == Some(2));
    assert_eq!((second.result, second.exit_code), (CronResult::Failed, Some(3)));
    assert!(second.due.unwrap() <= second.started.unwrap() && second.started.unwrap() <= second.ended);
    assert!(shop.ok(&["logs", "shop/job"]).contains("here"));
    let listed = &crons(&node)[0];
    assert!(listed.next.is_some() && listed.last.is_some(), "{listed:?}");
    // Times are the anchor and seconds after it.
    let lines = history(&shop);
    let due: Vec<u64> = lines.iter().filter_map(|run| Some(run.due?.0)).collect();
    assert!(due.windows(2).all(|two| two[0] > two[1] && (two[0] - two[1]) % 1000 == 0), "{due:?}");
    // Stopped, it runs no more; started, it does.
    shop.ok(&["stop", "shop/job"]);
    wait_until("the cron is stopped", || crons(&node)[0].stopped && crons(&node)[0].running.is_none());
    let runs = history(&shop).len();
    assert_eq!(node.coppice(["cron", "run", "shop", "job"]).code, 1);
    assert_eq!(history(&shop).len(), runs);
    shop.ok(&["start", "shop/job"]);
    wait_until("it runs again", || history(&shop)[0].ended > second.ended && !crons(&node)[0].stopped);
    shop.ok(&["down"]);
    assert_nothing_left(&node);
}

#[test]
fn a_run_on_demand_ends_with_its_exit_code_and_obeys_the_overlap() {
    let node = Node::new();
    let shop = shop(&node, &job("schedule = \"@yearly\"", "[ -e /data/go ] || exit 7; exec sleep 1000"));
    assert_eq!(node.coppice(["cron", "run", "shop", "job"]).code, 7);
    assert_eq!(history(&shop)[0].due, None);
    shop.write(&job("schedule = \"@yearly\"\noverlap = \"skip\"\ntimeout = \"1s\"", "exec sleep 1000"));
    shop.ok(&["up"]);
    node.ok(["cron", "run", "--detach", "shop", "job"]);
    let refused = node.coppice(["cron", "run", "shop", "job"]);
    assert!(refused.code == 1 && refused.stderr.contains("run 2 is still going on"), "{}", refused.stderr);
    let late = wait_line(&shop, "its timeout", |run| run.run == Some(2));
    assert_eq!((late.result, late.exit_code), (CronResult::Failed, None));
    assert!(late.reason.contains("timeout"), "{}", late.reason);
}

#[test]
fn while_one_runs_the_next_is_left_out_or_waits_or_takes_its_place() {
    let node = Node::new();
    let shop = shop(&node, &job("every = \"1s\"\noverlap = \"skip\"", "exec sleep 1000"));
    let skipped = wait_line(&shop, "a time that is left out", |run| run.result == CronResult::Skipped);
    assert_eq!(skipped.run, None);
    // The run goes on under the next release, by whose rules it is replaced.
    shop.write(&job("every = \"1s\"\noverlap = \"replace\"", "exec sleep 1000"));
    shop.ok(&["up"]);
    let replaced = wait_line(&shop, "a run that is replaced", |run| run.result == CronResult::Replaced);
    assert!(replaced.started.is_some());
    // The last of these would not end by itself.
    shop.ok(&["stop", "shop/job"]);
    shop.write(&job("every = \"1s\"\noverlap = \"queue\"", "sleep 2"));
    shop.ok(&["up"]);
    let last = crons(&node)[0].running.unwrap_or_default();
    let begun = |run: &CronRun| run.result == CronResult::Succeeded && run.run > Some(last + 1);
    let waited = wait_line(&shop, "a run that waited", begun);
    assert!(waited.started.unwrap().since(waited.due.unwrap()) > Duration::ZERO);
}

#[test]
fn a_run_goes_on_without_a_daemon_and_is_recorded_once() {
    let node = Node::new();
    let shop = shop(&node, &job("schedule = \"@yearly\"", "until [ -e /tmp/go ]; do sleep 0.05; done; exit 5"));
    node.ok(["cron", "run", "--detach", "shop", "job"]);
    node.wait_for_state("shop.job-1", "running");
    another_daemon(&node);
    assert_eq!(crons(&node)[0].running, Some(1));
    node.ok(["exec", "shop.job-1", "touch", "/tmp/go"]);
    let ended = wait_line(&shop, "its end", |run| run.run == Some(1));
    assert_eq!(ended.exit_code, Some(5));
    // One that ends while there is no daemon.
    node.ok(["cron", "run", "--detach", "shop", "job"]);
    node.wait_for_state("shop.job-2", "running");
    let pid = node.inspect("shop.job-2")["pid"].as_u64().unwrap() as u32;
    kill_and_wait(node.daemon_pid(), "KILL");
    kill_and_wait(pid, "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    let ended = wait_line(&shop, "its end", |run| run.run == Some(2));
    assert!(ended.result == CronResult::Failed && ended.reason.contains("signal 9"), "{}", ended.reason);
    another_daemon(&node);
    let numbers: Vec<_> = history(&shop).iter().map(|run| run.run).collect();
    assert_eq!(numbers, [Some(2), Some(1)]);
}

#[test]
fn a_time_that_was_missed_is_run_for_once() {
    let node = Node::new();
    let shop = shop(&node, &job("schedule = \"@yearly\"\nmissed = \"run_once\"", "true"));
    let memory = node.see(&node.root().join("apps/shop/crons/job.json"));
    kill_and_wait(node.daemon_pid(), "KILL");
    // As if the last daemon had been there years ago.
    let mut known: serde_json::Value = serde_json::from_slice(&std::fs::read(&memory).unwrap()).unwrap();
    known["seen"] = (known["seen"].as_u64().unwrap() - 3 * 366 * 86_400_000).into();
    std::fs::write(&memory, known.to_string()).unwrap();
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    let run = wait_line(&shop, "the run for what was missed", |run| run.run == Some(1));
    assert_eq!((run.result, run.missed), (CronResult::Succeeded, 3));
    another_daemon(&node);
    assert_eq!(history(&shop).len(), 1, "once");
}

#[test]
fn a_release_without_the_cron_ends_it_and_a_rollback_brings_it_back() {
    let node = Node::new();
    let web = "[service.web]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"KILL\"\n";
    let with = format!("{web}{}", job("schedule = \"@yearly\"", "exec sleep 1000"));
    let shop = shop(&node, &with);
    node.ok(["cron", "run", "--detach", "shop", "job"]);
    node.wait_for_state("shop.job-1", "running");
    shop.write(web);
    shop.ok(&["up"]);
    wait_until("there is no cron", || crons(&node).is_empty());
    shop.ok(&["rollback", "shop"]);
    wait_until("it is back", || crons(&node).iter().any(|cron| !cron.stopped && cron.next.is_some()));
    let run = wait_line(&shop, "the run that was ended", |run| run.run == Some(1));
    assert_eq!(run.result, CronResult::Stopped);
    shop.ok(&["down"]);
    assert_nothing_left(&node);
}

#[test]
fn a_run_does_not_go_on_while_the_data_under_it_is_switched_and_none_begins() {
    let node = Node::new();
    let manifest = |text: &str| {
        format!(
            "[service.web]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"echo {text} > /data/text && exec sleep 1000\"]\n\
             stop_signal = \"KILL\"\nvolumes = [\"data:/data\"]\n{}volumes = [\"data:/data\"]\n\n[volume.data]\n",
            job("every = \"1s\"", "echo begun >> /data/runs; cat /data/text; exec sleep 1000")
        )
    };
    let shop = shop(&node, &manifest("one"));
    wait_until("a run goes on", || crons(&node)[0].running.is_some());
    shop.write(&manifest("two"));
    shop.ok(&["up"]);
    let before = wait_for("a run goes on", || crons(&node)[0].running);
    shop.ok(&["rollback", "shop", "--data"]);
    let stopped = wait_line(&shop, "it was stopped", |run| run.run == Some(before));
    assert_eq!(stopped.result, CronResult::Stopped);
    let next = wait_for("the next goes on", || crons(&node)[0].running);
    assert!(next > before);
    // What it writes is in the volume that the app has.
    let runs = |shop: &Project| shop.shell("web-1", "wc -l < /data/runs").trim().parse::<usize>().unwrap();
    let was = runs(&shop);
    shop.ok(&["stop", "shop/job"]);
    shop.ok(&["start", "shop/job"]);
    wait_until("another one has written", || runs(&shop) > was);
}
