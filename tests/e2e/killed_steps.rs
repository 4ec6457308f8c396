//! A daemon that dies at each step of a rollout, of a rollback with data, and of their ways back: afterwards there is the old
//! release or the new one, whole, with every row and the value of its secret that are its own, and the history says that
//! somebody went on with it.

mod node;
mod project;

use std::collections::BTreeSet;

use coppice_rollout::ACTIONS;
use node::Node;
use project::steps::{self, BACK, Ended, Steps, UP, as_two};
use project::wait_until;

/// What a killed daemon is tried with.
struct Killed<'n> {
    steps: Steps<'n>,
    /// Moments at which a daemon was killed, of any operation.
    at: BTreeSet<String>,
}

impl Killed<'_> {
    /// `coppice WORDS`, whose daemon dies at this moment, or lives on. What became of it.
    #[track_caller]
    fn run(&mut self, words: &[&str], moment: Option<&str>) -> Ended {
        let before = self.steps.newest();
        self.steps.last = format!("{words:?}, {moment:?}");
        if let Some(moment) = moment {
            std::fs::write(&self.steps.moment, moment).unwrap();
        }
        // Whether it is told of its end depends on when the daemon's was.
        let _ = self.steps.shop.coppice(words);
        if let Some(moment) = moment {
            wait_until(&format!("a daemon has died {moment}"), || !self.steps.moment.exists());
            self.at.insert(moment.to_owned());
        }
        let ended = self.steps.ended(before + 1);
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
        self.steps.begin();
        assert_eq!(self.run(words, None).status, status);
        self.steps.passed()
    }
}

/// Kills daemons at each moment that an update by `switch`, a rollback with data, and those that fail, come past; of
/// which `is_wanted`.
fn kill_at_each_step(mut node: Node, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let moment = node.mortal();
    let mut killed = Killed { steps: Steps::new(&node, moment), at: Default::default() };
    let of_one = killed.steps.first_rows();

    // Forth and back, until a daemon has died at each moment of both.
    killed.steps.shop.write(&steps::two());
    let forth = killed.moments_of(UP, "completed");
    killed.steps.is_two(&as_two(&of_one));
    let returns = killed.moments_of(BACK, "completed");
    killed.steps.is_one(&of_one);
    let wanted = |moments: Vec<String>| moments.into_iter().filter(|moment| is_wanted(moment)).collect::<Vec<_>>();
    let (forth, returns) = (wanted(forth), wanted(returns));
    for at in 0..forth.len().max(returns.len()) {
        // Every row that was written before is there, and none that came after.
        let (row, later) = (format!("row {at}"), format!("later {at}"));
        killed.steps.shop.shell("db-1", &format!("echo {row} >> /data/rows"));
        let was = killed.steps.first_rows();
        assert!(was.ends_with(&format!("{row}\n")), "{was}");
        assert_eq!(killed.run(UP, forth.get(at).map(String::as_str)).status, "completed");
        killed.steps.is_two(&as_two(&was));
        killed.steps.shop.shell("db-1", &format!("echo {later} >> /data/rows"));
        assert_eq!(killed.run(BACK, returns.get(at).map(String::as_str)).status, "completed");
        killed.steps.is_one(&was);
    }
    let was = killed.steps.first_rows();

    // An update that destroys what there is and is never ready, and one whose front is not.
    let known = killed.at.clone();
    let fresh = |moments: Vec<String>| {
        let fresh = moments.into_iter().filter(|moment| is_wanted(moment) && !known.contains(moment));
        fresh.collect::<Vec<_>>()
    };
    for (manifest, status) in [(steps::destroyer(), "rolled_back"), (steps::frontless(), "failed")] {
        killed.steps.shop.write(&manifest);
        let passed = killed.moments_of(UP, status);
        killed.steps.is_one(&was);
        for moment in fresh(passed) {
            assert_eq!(killed.run(UP, Some(&moment)).status, status, "{moment}");
            killed.steps.is_one(&was);
        }
    }

    // A rollback whose old release does not start any more: the data of the one that was left is there again.
    killed.steps.shop.write(&steps::two());
    assert_eq!(killed.run(UP, None).status, "completed");
    let was = as_two(&was);
    killed.steps.break_one();
    let passed = killed.moments_of(BACK, "rolled_back");
    killed.steps.is_two(&was);
    let of_data =
        passed.into_iter().filter(|moment| is_wanted(moment) && moment.contains("switch")).collect::<Vec<_>>();
    for moment in of_data {
        assert_eq!(killed.run(BACK, Some(&moment)).status, "rolled_back");
        killed.steps.is_two(&was);
    }
    killed.steps.shop.ok(&["node", "stop", "--all"]);
    killed.at
}

#[test]
fn daemons_killed_at_each_step_leave_one_release_whole_with_every_row_that_is_its_own() {
    let at = kill_at_each_step(Node::new(), |_| true);
    let before: BTreeSet<&str> = at.iter().filter_map(|moment| moment.strip_prefix("before ")).collect();
    let named: BTreeSet<&str> = ACTIONS.into_iter().filter(|action| !steps::OTHERS.contains(action)).collect();
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
