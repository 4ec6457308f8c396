//! A daemon that dies at each step of a rollout, of a rollback with data, and of their ways back: afterwards there is the old
//! release or the new one, whole, with every row that is its own, and the history says that somebody went on with it.

mod node;
mod project;

use std::collections::BTreeSet;
use std::path::PathBuf;

use coppice_api::ReleaseEntry;
use coppice_rollout::ACTIONS;
use node::Node;
use project::{Project, wait_until};

/// A store that only one may write, by the first release and by the second, which makes something else of every row; a front;
/// and what only the first has. `./flags` is the test's: the first release does not start while `broken` is there.
const STEPS: &str = r#"
[service.db]
image = "box"
command = ["sh", "-c", "SCRIPT; exec httpd -f -p 80 -h /data"]
volumes = ["data:/data", "./flags:/flags:ro"]
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/rows", interval = "50ms" }

[service.db.rollout]
health_check_timeout = "900ms"

[service.web]
image = "box"
command = ["sh", "-c", "exec httpd -f -p PORT -h /"]
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/bin/busybox", interval = "50ms" }
env = { RELEASE = "NAME" }

[service.web.rollout]
health_check_timeout = "900ms"

[worker.check]
image = "box"
command = ["true"]

[hooks]
before_deploy = ["check"]
before_rollback = ["check"]

[volume.data]

"#;

/// What the first release's store does before it answers.
const ONE: &str = "[ -e /flags/broken ] && exit 3; [ -f /data/rows ] || seq 1 500 > /data/rows";

fn steps(name: &str, script: &str, port: &str) -> String {
    STEPS.replace("SCRIPT", script).replace("NAME", name).replace("PORT", port)
}

fn one() -> String {
    steps("one", ONE, "80") + "[service.old]\nimage = \"box\"\ncommand = [\"sleep\", \"1d\"]\nstop_signal = \"KILL\"\n"
}

fn two() -> String {
    steps("two", "[ -f /data/two ] || { sed -i s/^/two-/ /data/rows; touch /data/two; }", "80")
}

/// What a killed daemon is tried with.
struct Killed<'n> {
    shop: Project<'n>,
    death: PathBuf,
    /// Moments at which a daemon was killed, of any operation.
    at: BTreeSet<String>,
    /// What was run last, and when its daemon died.
    last: String,
}

/// What the newest release came to.
struct Ended {
    status: String,
    steps: String,
}

impl Killed<'_> {
    /// `coppice WORDS`, whose daemon dies at this moment, or lives on. What became of it.
    #[track_caller]
    fn run(&mut self, words: &[&str], moment: Option<&str>) -> Ended {
        let before = self.shop.status().releases.newest.number;
        self.last = format!("{words:?}, {moment:?}");
        if let Some(moment) = moment {
            std::fs::write(&self.death, moment).unwrap();
        }
        // Whether it is told of its end depends on when the daemon's was.
        let _ = self.shop.coppice(words);
        if let Some(moment) = moment {
            wait_until(&format!("a daemon has died {moment}"), || !self.death.exists());
            self.at.insert(moment.to_owned());
        }
        self.shop.wait_status(&format!("{words:?} has ended, {moment:?}"), |status| {
            status.settled && status.releases.newest.number == before + 1
        });
        let history: Vec<ReleaseEntry> = serde_json::from_str(&self.shop.ok(&["history", "--json"])).unwrap();
        let steps: Vec<&str> = history[0].steps.iter().map(|step| step.what.as_str()).collect();
        let ended = Ended { status: history[0].fields.status.clone(), steps: steps.join("\n") };
        let is_said = ended.steps.contains("the node is back");
        match moment {
            None => assert!(!is_said, "{words:?}:\n{}", ended.steps),
            // What is known to be over is not gone on with.
            Some("before end" | "before discard") => {}
            Some(moment) => assert!(is_said, "{words:?}, {moment}:\n{}", ended.steps),
        }
        ended
    }

    /// The moments that the operation comes past, each once.
    fn moments_of(&mut self, words: &[&str], status: &str) -> Vec<String> {
        let passed = self.death.with_extension("passed");
        let _ = std::fs::remove_file(&passed);
        assert_eq!(self.run(words, None).status, status);
        let mut moments: Vec<String> = Vec::new();
        for moment in std::fs::read_to_string(&passed).unwrap().lines() {
            let is_one = moment != "after tick" && !moments.iter().any(|known| known == moment);
            moments.extend(is_one.then(|| moment.to_owned()));
        }
        moments
    }

    fn rows(&self) -> String {
        self.shop.shell("db-1", "cat /data/rows; cd /data; echo *")
    }

    fn is_one(&self, rows: &str) {
        assert_eq!(self.rows(), format!("{rows}rows\n"));
        assert_eq!(self.shop.shell("web-1", "echo $RELEASE"), "one\n", "{}\n{:#?}", self.last, self.shop.containers());
        self.shop.child("old-1");
    }

    fn is_two(&self, rows: &str) {
        assert_eq!(self.rows(), format!("{rows}rows two\n"));
        assert_eq!(self.shop.shell("web-1", "echo $RELEASE"), "two\n", "{}\n{:#?}", self.last, self.shop.containers());
        assert!(project::find(&self.shop.status(), "old-1").is_none());
    }
}

/// Kills daemons at each moment that an update by `switch`, a rollback with data, and those that fail, come past; of
/// which `is_wanted`.
fn kill_at_each_step(mut node: Node, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let death = node.mortal();
    node.busybox_image();
    let shop = Project::new(&node, "shop", &one());
    let flags = shop.dir.join("flags");
    std::fs::create_dir(&flags).unwrap();
    let mut killed = Killed { shop, death, at: Default::default(), last: String::new() };
    killed.shop.up();
    let of_one: String = (1..=500).map(|n| format!("{n}\n")).collect();
    let of_two: String = (1..=500).map(|n| format!("two-{n}\n")).collect();
    let (up, back) = (&["up", "--detach"][..], &["rollback", "--data", "--timeout", "20s"][..]);

    // Forth and back, until a daemon has died at each moment of both.
    killed.shop.write(&two());
    let forth = killed.moments_of(up, "completed");
    killed.is_two(&of_two);
    let returns = killed.moments_of(back, "completed");
    killed.is_one(&of_one);
    let wanted = |moments: Vec<String>| moments.into_iter().filter(|moment| is_wanted(moment)).collect::<Vec<_>>();
    let (forth, returns) = (wanted(forth), wanted(returns));
    for at in 0..forth.len().max(returns.len()) {
        // Every row that was written before is there, and none that came after.
        let (row, later) = (format!("row {at}"), format!("later {at}"));
        killed.shop.shell("db-1", &format!("[ -f /data/two ] || echo {row} >> /data/rows"));
        let was = killed.rows().trim_end_matches("rows\n").to_owned();
        assert!(was.ends_with(&format!("{row}\n")), "{was}");
        assert_eq!(killed.run(up, forth.get(at).map(String::as_str)).status, "completed");
        killed.is_two(&was.lines().map(|line| format!("two-{line}\n")).collect::<String>());
        killed.shop.shell("db-1", &format!("echo {later} >> /data/rows"));
        assert_eq!(killed.run(back, returns.get(at).map(String::as_str)).status, "completed");
        killed.is_one(&was);
    }
    let was = killed.rows().trim_end_matches("rows\n").to_owned();

    // An update that destroys what there is and is never ready, and one whose front is not.
    let known = killed.at.clone();
    let fresh = |moments: Vec<String>| {
        let fresh = moments.into_iter().filter(|moment| is_wanted(moment) && !known.contains(moment));
        fresh.collect::<Vec<_>>()
    };
    let failing = [
        (steps("three", "rm /data/rows; echo broken > /data/other", "80"), "rolled_back"),
        (steps("four", ONE, "81"), "failed"),
    ];
    for (manifest, status) in failing {
        killed.shop.write(&manifest);
        let passed = killed.moments_of(up, status);
        killed.is_one(&was);
        for moment in fresh(passed) {
            assert_eq!(killed.run(up, Some(&moment)).status, status, "{moment}");
            killed.is_one(&was);
        }
    }

    // A rollback whose old release does not start any more: the data of the one that was left is there again.
    killed.shop.write(&two());
    assert_eq!(killed.run(up, None).status, "completed");
    let was: String = was.lines().map(|line| format!("two-{line}\n")).collect();
    std::fs::write(flags.join("broken"), "").unwrap();
    let passed = killed.moments_of(back, "rolled_back");
    killed.is_two(&was);
    let of_data =
        passed.into_iter().filter(|moment| is_wanted(moment) && moment.contains("switch")).collect::<Vec<_>>();
    for moment in of_data {
        assert_eq!(killed.run(back, Some(&moment)).status, "rolled_back");
        killed.is_two(&was);
    }
    killed.shop.ok(&["node", "stop", "--all"]);
    killed.at
}

/// Steps that are none of these operations': a pause while a hook runs, and canaries.
const OTHERS: [&str; 3] = ["stop_hook", "weigh", "sample"];

#[test]
fn daemons_killed_at_each_step_leave_one_release_whole_with_every_row_that_is_its_own() {
    let at = kill_at_each_step(Node::new(), |_| true);
    let before: BTreeSet<&str> = at.iter().filter_map(|moment| moment.strip_prefix("before ")).collect();
    let named: BTreeSet<&str> = ACTIONS.into_iter().filter(|action| !OTHERS.contains(action)).collect();
    assert_eq!(before, named, "each step has its kill");
    for done in ["snapshotted", "hook_ended", "halted", "switched", "promoted", "workload_ready", "removed"] {
        assert!(at.contains(&format!("after {done}")), "{done}: {at:?}");
    }
}

#[test]
fn on_btrfs_daemons_killed_at_each_step_that_concerns_data_leave_every_row() {
    let of_data = |moment: &str| ["snapshot", "halt", "switch"].iter().any(|part| moment.contains(part));
    let at = kill_at_each_step(Node::on_btrfs(1 << 30), of_data);
    for moment in ["before snapshot", "after snapshotted", "before switch_data", "after switched", "before switch_back"]
    {
        assert!(at.contains(moment), "{moment}: {at:?}");
    }
}
