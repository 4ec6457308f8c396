//! Logs of apps: of all instances, since, the tail, bounded, and complete whatever happens to the daemon.

mod node;
mod project;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use node::{Node, kill, kill_and_wait};
use project::{Project, wait_until};

/// Two services that count, one of them twice, from a file of the test's for a start.
const COUNTING: &str = r#"
[service.tick]
image = "box"
replicas = 2
command = ["sh", "-c", "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo tick $n; sleep 0.01; done; exec sleep 1000"]
stop_signal = "KILL"
[service.tock]
image = "box"
command = ["sh", "-c", "echo tock >&2; exec sleep 1000"]
stop_signal = "KILL"
"#;

#[test]
fn logs_follow_all_instances_with_their_names_and_no_line_is_lost_when_the_daemon_is_killed() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", COUNTING);
    shop.up();
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    let mut follow = shop.command(&["logs", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut counts = std::collections::BTreeMap::new();
    let mut tocks = 0;
    for line in BufReader::new(follow.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let (name, text) = line.split_once('|').unwrap_or_else(|| panic!("no name before {line:?}"));
        if text.trim() == "tock" {
            assert_eq!(name.trim(), "tock-1");
            tocks += 1;
        } else {
            let count: u32 = text.trim().strip_prefix("tick ").unwrap().parse().unwrap();
            let last = counts.insert(name.trim().to_owned(), count);
            assert_eq!(count, last.unwrap_or(0) + 1, "of {name}");
        }
        if tocks == 1 && counts.len() == 2 && counts.values().all(|count| *count == 300) {
            break;
        }
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["tick-1", "tick-2"]);
    assert_eq!(tocks, 1);
}

#[test]
fn since_tail_and_targets_choose_lines() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", &COUNTING.replace("sleep 0.01; ", ""));
    shop.up();
    wait_until("all has been said", || shop.ok(&["logs", "tick"]).matches("tick 300").count() == 2);
    let tail = shop.ok(&["logs", "--tail", "3", "tick"]);
    let mut lines: Vec<&str> = tail.lines().collect();
    lines.sort_unstable();
    let wanted: Vec<String> =
        ["tick-1", "tick-2"].iter().flat_map(|name| (298..=300).map(move |n| format!("{name} | tick {n}"))).collect();
    assert_eq!(lines, wanted, "the last three of each");
    assert_eq!(shop.ok(&["logs", "--tail", "1", "tick-2"]).trim(), "tick 300");
    assert_eq!(shop.ok(&["logs", "--stderr"]).trim().rsplit('|').next().unwrap().trim(), "tock");
    assert!(!shop.ok(&["logs", "--stdout"]).contains("tock\n"));

    // From a moment between two lines on.
    let stamped = shop.ok(&["logs", "--timestamps", "--no-prefix", "tick-1"]);
    let middle = stamped.lines().nth(149).unwrap();
    let (moment, text) = middle.split_once(' ').unwrap();
    assert_eq!(text, "tick 150");
    let later = shop.ok(&["logs", "--since", moment, "tick-1"]);
    assert!(later.ends_with("tick 300\n") && later.lines().count() <= 300 && later.contains("tick 151\n"), "{later}");
    assert!(!shop.ok(&["logs", "--since", "2999-01-01T00:00:00Z", "tick"]).contains("tick"));
    assert!(shop.ok(&["logs", "--since", "10m", "tick-1"]).starts_with("tick 1\n"));
    shop.coppice(&["logs", "shop/tack"]).ended_with(1).complained("tack").complained("tick");
}

#[test]
fn a_log_goes_on_over_restarts_and_each_run_is_in_it() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        "[service.web]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"echo begin; exec sleep 1000\"]\nstop_signal = \"KILL\"\n",
    );
    shop.up();
    kill_and_wait(shop.pid("web-1"), "KILL");
    shop.wait_child("web-1", "is back", |web| web.ready && web.restarts == 1);
    wait_until("both beginnings are in the log", || shop.ok(&["logs", "web"]).matches("begin").count() == 2);
}

/// A `logs --follow` that runs, and what it has said so far.
struct Follower {
    command: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn start(mut command: Command) -> Self {
        let mut command = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, to) = (BufReader::new(command.stdout.take().unwrap()).lines(), said.clone());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line)));
        Self { command, said }
    }

    #[track_caller]
    fn wait_for(&self, line: &str, times: usize) {
        let count = || self.said.lock().unwrap().iter().filter(|said| *said == line).count();
        wait_until(&format!("it says {line:?} {times} times, after {:?}", self.said.lock().unwrap()), || {
            count() == times
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

#[test]
fn a_follower_hears_replicas_and_replacements_that_come_later_until_it_is_interrupted() {
    let node = Node::with_busybox();
    let web = |word: &str, replicas: u32| {
        format!(
            "[service.web]\nimage = \"box\"\nreplicas = {replicas}\nstop_signal = \"KILL\"\n\
             command = [\"sh\", \"-c\", \"echo {word}; exec sleep 1000\"]\n\
             [service.other]\nimage = \"box\"\nstop_signal = \"KILL\"\n\
             command = [\"sh\", \"-c\", \"echo other {word}; exec sleep 1000\"]\n"
        )
    };
    let shop = Project::new(&node, "shop", &web("one", 1));
    shop.up();
    let mut follower = Follower::start(shop.command(&["logs", "--follow", "--tail", "5", "web"]));
    follower.wait_for("web-1 | one", 1);
    shop.write(&web("one", 2));
    shop.up();
    follower.wait_for("web-2 | one", 1);
    // Another definition: other containers under the same names.
    shop.write(&web("two", 2));
    shop.up();
    follower.wait_for("web-1 | two", 1);
    follower.wait_for("web-2 | two", 1);
    kill_and_wait(shop.pid("web-2"), "KILL");
    follower.wait_for("web-2 | two", 2);
    // Also over a down: only the user ends it.
    shop.ok(&["down"]);
    shop.up();
    follower.wait_for("web-1 | two", 2);
    assert!(follower.command.try_wait().unwrap().is_none(), "it goes on");
    assert!(!follower.said.lock().unwrap().iter().any(|line| line.contains("other")), "of web alone");
    kill(follower.command.id(), "INT");
    wait_until("it has ended", || follower.command.try_wait().unwrap().is_some());
}

#[test]
fn who_follows_one_container_is_done_when_it_ends() {
    let node = Node::with_busybox();
    let shop = Project::new(
        &node,
        "shop",
        "[service.web]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"echo begin; exec sleep 1000\"]\nstop_signal = \"KILL\"\n",
    );
    shop.up();
    let id = shop.child("web-1").container.unwrap();
    let mut follower = Follower::start(node.command(["logs", "--follow", &id]));
    follower.wait_for("begin", 1);
    shop.ok(&["stop", "web"]);
    wait_until("it has ended", || follower.command.try_wait().unwrap().is_some());
}

#[test]
fn a_chatty_container_fills_no_more_than_its_share_and_the_newest_lines_stay() {
    let node = Node::with_settings("[logs]\nmax_size = 65536\nmax_files = 3\n");
    node.busybox_image();
    let shop =
        Project::new(&node, "shop", "[worker.chat]\nimage = \"box\"\ncommand = [\"sh\", \"-c\", \"seq 1 200000\"]\n");
    shop.up();
    let id = shop.child("chat").container.unwrap();
    let log = shop.containers().into_iter().find(|container| container.id == id).unwrap().id;
    let dir = node.root().join("containers").join(log).join("log");
    let files = project::names(&dir);
    let size: u64 = files.iter().map(|name| dir.join(name).metadata().unwrap().len()).sum();
    assert!(files.len() <= 3, "{files:?}");
    assert!(size <= 3 * (65536 + 4096), "{size} bytes in {files:?}");
    let kept = shop.ok(&["logs", "--no-prefix", "chat"]);
    let numbers: Vec<u32> = kept.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&200_000));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing in what is kept");
}
