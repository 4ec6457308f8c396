//! A disk that is full at each step of a rollout, of a rollback with data, and of their ways back: afterwards there is the old
//! release or the new one, whole, with every row that is its own; the history says what happened, nothing half-made is left,
//! and the log takes the next release.

mod node;
mod project;

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use coppice_rollout::ACTIONS;
use node::{Node, Output, kill_and_wait};
use project::steps::{self, BACK, Ended, Steps, UP, as_two};
use project::{Project, names, wait_until};

/// How long the disk stays full where it is full for a moment.
const MOMENT: Duration = Duration::from_millis(200);

/// What a full disk is tried with.
struct Full<'n> {
    node: &'n Node,
    steps: Steps<'n>,
    /// Moments at which the disk was full, of any operation.
    at: BTreeSet<String>,
}

/// What became of a command that found the disk full.
struct Found {
    ended: Ended,
    said: Output,
    /// How often the store was asked while the disk was full, and how often it answered.
    asked: usize,
    answered: usize,
}

impl<'n> Full<'n> {
    fn new(node: &'n mut Node) -> Self {
        let moment = node.mortal();
        let steps = Steps::new(node, moment);
        Self { node, steps, at: BTreeSet::new() }
    }

    /// Begins `coppice WORDS` and gives it back when its rollout has come to this moment, where it rests.
    #[track_caller]
    fn come_to(&mut self, words: &[&str], moment: &str) -> Child {
        self.steps.last = format!("{words:?}, full {moment}");
        self.steps.begin();
        std::fs::write(&self.steps.moment, format!("hold {moment}")).unwrap();
        let mut command = self.steps.shop.command(words);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(&format!("{words:?} has come to {moment}"), || self.steps.passed().iter().any(|one| one == moment));
        command
    }

    /// `coppice WORDS`, which comes to this moment and finds the disk full there, until `is_over`.
    #[track_caller]
    fn run(&mut self, words: &[&str], moment: &str, mut is_over: impl FnMut(&Self, &mut Child) -> bool) -> Found {
        let number = self.steps.newest() + 1;
        let mut command = self.come_to(words, moment);
        self.node.fill();
        std::fs::remove_file(&self.steps.moment).unwrap();
        let (mut asked, mut answered) = (0, 0);
        wait_until(&format!("the disk was full for long enough, {}", self.steps.last), || {
            // Also what is given back meanwhile.
            self.node.fill();
            asked += 1;
            answered += usize::from(self.node.http("http://127.0.0.1:8080/rows").is_some());
            is_over(self, &mut command)
        });
        self.node.free();
        self.at.insert(moment.to_owned());
        let said = Output::of_child(command);
        let ended = self.steps.ended(number);
        Found { ended, said, asked, answered }
    }

    /// The same, full for a moment. Whether it completed.
    #[track_caller]
    fn run_through(&mut self, words: &[&str], moment: &str) -> Ended {
        let begun = Instant::now();
        let found = self.run(words, moment, |_, _| begun.elapsed() > MOMENT);
        let is_well = words == UP || found.ended.status == "completed";
        assert_eq!(found.said.code == 0, is_well, "{}: {}", self.steps.last, found.said.stderr);
        self.is_tidy();
        found.ended
    }

    /// `coppice WORDS` with all the room it wants.
    #[track_caller]
    fn run_well(&mut self, words: &[&str], status: &str) {
        let number = self.steps.newest() + 1;
        self.steps.last = format!("{words:?}");
        let _ = self.steps.shop.coppice(words);
        let ended = self.steps.ended(number);
        assert_eq!(ended.status, status, "{words:?}\n{}", ended.steps);
    }

    /// The moments that the operation comes past, each once.
    #[track_caller]
    fn moments_of(&mut self, words: &[&str], status: &str) -> Vec<String> {
        self.steps.begin();
        self.run_well(words, status);
        self.steps.passed()
    }

    /// An update from the first release with these rows has ended so: it is there, or the first is again. Then the second is.
    #[track_caller]
    fn is_forth(&mut self, ended: &Ended, was: &str) {
        if ended.status != "completed" {
            self.is_said(ended);
            // What the second wrote after it was ready is kept; it was somebody's.
            let kept = ended.steps.contains("db is ready");
            self.steps.is_one(if kept { as_two(was) } else { was.to_owned() }.as_str());
            if kept {
                self.steps.shop.shell("db-1", "cd /data; sed s/^two-// rows > new && mv new rows");
            }
            self.run_well(UP, "completed");
        }
        self.steps.is_two(&as_two(was));
    }

    /// The history says why it did not come to its end.
    #[track_caller]
    fn is_said(&self, ended: &Ended) {
        assert!(ended.steps.contains("o space left"), "{}\n{}", self.steps.last, ended.steps);
    }

    /// A rollback with data from the second release, with these rows, has ended so. Then the first is there.
    #[track_caller]
    fn is_back(&mut self, ended: &Ended, left: &str, was: &str) {
        if ended.status != "completed" {
            self.is_said(ended);
            self.steps.is_two(left);
            self.run_well(BACK, "completed");
        }
        self.steps.is_one(was);
    }

    /// No container, snapshot or head is left that was being made.
    #[track_caller]
    fn is_tidy(&self) {
        let volume = self.node.see(&self.steps.shop.volume("data")).parent().unwrap().to_owned();
        let snapshots = names(&volume.join("snapshots"));
        let half: Vec<&String> = snapshots.iter().filter(|name| name.starts_with('.')).collect();
        assert!(half.is_empty() && !volume.join("next").exists(), "{}: {half:?}", self.steps.last);
        // Of one that destroyed them, there are none.
        for snapshot in snapshots.iter().filter(|name| !name.ends_with("-failed")) {
            let rows = volume.join("snapshots").join(snapshot).join("rows");
            assert!(rows.exists(), "{}: {snapshot} is whole", self.steps.last);
        }
        wait_until(&format!("nothing is left beside the instances, {}", self.steps.last), || {
            let all = self.steps.shop.containers();
            let is_beside = |name: &String| name.contains(".next-") || name.contains(".was-");
            let folders = names(&self.node.see(&self.node.root().join("containers")));
            !all.iter().any(|container| is_beside(&container.name)) && folders.len() == all.len()
        });
    }
}

/// Fills the disk at each moment that an update by `switch`, a rollback with data, and those that fail, come past; of which
/// `is_wanted`.
fn fill_at_each_step(mut node: Node, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut full = Full::new(&mut node);
    let of_one = full.steps.first_rows();
    let wanted = |moments: Vec<String>| moments.into_iter().filter(|moment| is_wanted(moment)).collect::<Vec<_>>();

    // Forth and back, until the disk was full at each moment of both.
    full.steps.shop.write(&steps::two());
    let forth = wanted(full.moments_of(UP, "completed"));
    full.steps.is_two(&as_two(&of_one));
    let returns = wanted(full.moments_of(BACK, "completed"));
    full.steps.is_one(&of_one);
    for at in 0..forth.len().max(returns.len()) {
        // Every row that was written before is there, and none that came after.
        full.steps.shop.shell("db-1", &format!("echo row {at} >> /data/rows"));
        let was = full.steps.first_rows();
        match forth.get(at) {
            Some(moment) => {
                let ended = full.run_through(UP, moment);
                full.is_forth(&ended, &was);
            }
            None => full.run_well(UP, "completed"),
        }
        full.steps.shop.shell("db-1", &format!("echo later {at} >> /data/rows"));
        match returns.get(at) {
            Some(moment) => {
                let ended = full.run_through(BACK, moment);
                full.is_back(&ended, &format!("{}later {at}\n", as_two(&was)), &was);
            }
            None => full.run_well(BACK, "completed"),
        }
    }
    let was = full.steps.first_rows();

    // An update that destroys what there is and is never ready, and one whose front is not.
    for (manifest, status) in [(steps::destroyer(), "rolled_back"), (steps::frontless(), "failed")] {
        full.steps.shop.write(&manifest);
        let passed = wanted(full.moments_of(UP, status));
        for moment in passed {
            if full.at.contains(&moment) {
                continue;
            }
            assert_ne!(full.run_through(UP, &moment).status, "completed", "{moment}");
            full.steps.is_one(&was);
        }
    }

    // A rollback whose old release does not start any more: the data of the one that was left is there again.
    full.steps.shop.write(&steps::two());
    full.run_well(UP, "completed");
    let was = as_two(&was);
    full.steps.break_one();
    let passed = wanted(full.moments_of(BACK, "rolled_back"));
    for moment in passed
        .iter()
        .filter(|moment| moment.contains("switch_back") || !full.at.contains(*moment))
        .cloned()
        .collect::<Vec<_>>()
    {
        assert_ne!(full.run_through(BACK, &moment).status, "completed", "{moment}");
        full.steps.is_two(&was);
    }
    full.steps.shop.ok(&["node", "stop", "--all"]);
    full.at
}

#[test]
fn a_disk_that_is_full_at_each_step_leaves_one_release_whole_with_every_row_that_is_its_own() {
    let at = fill_at_each_step(Node::on_ext4(64 << 20), |_| true);
    let before: BTreeSet<&str> = at.iter().filter_map(|moment| moment.strip_prefix("before ")).collect();
    let named: BTreeSet<&str> = ACTIONS.into_iter().filter(|action| !steps::OTHERS.contains(action)).collect();
    assert_eq!(before, named, "the disk was full before each step");
    for done in ["snapshotted", "hook_ended", "halted", "switched", "promoted", "workload_ready", "removed"] {
        assert!(at.contains(&format!("after {done}")), "{done}: {at:?}");
    }
}

#[test]
fn on_btrfs_a_disk_that_is_full_at_each_step_that_concerns_data_leaves_every_row() {
    let of_data = |moment: &str| ["snapshot", "switch"].iter().any(|part| moment.contains(part));
    let at = fill_at_each_step(Node::on_small_btrfs(192 << 20), of_data);
    for moment in ["before snapshot", "after snapshotted", "before switch_data", "after switched", "before switch_back"]
    {
        assert!(at.contains(moment), "{moment}: {at:?}");
    }
}

/// Gives up before the disk has room again.
const IMPATIENT: &str = "1s";

#[test]
fn while_the_disk_stays_full_what_runs_answers_and_who_waits_is_told_and_with_room_it_goes_on() {
    let mut node = Node::on_ext4(64 << 20);
    let mut full = Full::new(&mut node);
    full.steps.shop.write(&steps::two());
    let (up, back) = (["up", "--timeout", IMPATIENT], ["rollback", "--data", "--timeout", IMPATIENT]);
    // By moment, of the way forth and of the one back: whether the store is stopped for its data there.
    let moments = [
        ("after hook_ended", "before run_hook", false),
        ("before snapshot", "before switch_data", true),
        ("after workload_ready", "before promote", false),
    ];
    for (forth, returns, is_halted) in moments {
        let was = full.steps.first_rows();
        for (words, moment) in [(&up[..], forth), (&back[..], returns)] {
            let left = full.steps.first_rows();
            let found = full.run(words, moment, |_, command| command.try_wait().unwrap().is_some());
            let Found { ended, said, asked, answered } = found;
            if !is_halted {
                assert_eq!(answered, asked, "{}: the store answers all the time", full.steps.last);
            }
            assert_eq!(said.code, 1, "{}: {}", full.steps.last, said.stderr);
            assert!(said.stderr.contains("o space left"), "{}: {}", full.steps.last, said.stderr);
            assert!(said.stderr.contains("free some space"), "{}: {}", full.steps.last, said.stderr);
            full.is_tidy();
            if words == up {
                full.is_forth(&ended, &was);
            } else {
                full.is_back(&ended, &left, &was);
            }
        }
    }
}

#[test]
fn a_daemon_that_dies_while_the_disk_is_full_goes_on_when_there_is_room() {
    let mut node = Node::on_ext4(64 << 20);
    let mut full = Full::new(&mut node);
    full.steps.shop.write(&steps::two());
    for (words, moment) in [(UP, "before enter"), (BACK, "after switched")] {
        let (number, was) = (full.steps.newest() + 1, full.steps.first_rows());
        let daemon = full.node.daemon_pid();
        let command = full.come_to(words, moment);
        full.node.fill();
        kill_and_wait(daemon, "KILL");
        std::fs::remove_file(&full.steps.moment).unwrap();
        // The next one comes up, or says that it cannot and why.
        let said = full.steps.shop.coppice(&["status"]);
        assert!(said.code == 0 || said.stderr.contains("pace"), "{moment}: {}", said.stderr);
        full.node.fill();
        full.node.free();
        let ended = full.steps.ended(number);
        // Whether it is told of the end depends on when its daemon's was.
        let _ = Output::of_child(command);
        full.is_tidy();
        if words == UP {
            full.is_forth(&ended, &was);
        } else {
            full.is_back(&ended, &was, &was.replace("two-", ""));
        }
    }
}

#[test]
fn what_was_promoted_while_the_disk_was_full_is_known_to_the_next_daemon_for_what_it_is() {
    let mut node = Node::on_ext4(64 << 20);
    let mut full = Full::new(&mut node);
    full.steps.shop.write(&steps::two());
    let was = full.steps.first_rows();
    let ended = full.run_through(UP, "before promote");
    full.is_forth(&ended, &was);
    let before = full.steps.shop.pids();
    kill_and_wait(full.node.daemon_pid(), "KILL");
    assert_eq!(full.steps.shop.pids(), before);
    full.steps.shop.wait_status("it has settled", |status| status.settled);
    assert_eq!(full.steps.shop.pids(), before);
    full.is_tidy();
    full.steps.is_two(&as_two(&was));
}

/// It writes more than there will be room for a second time.
const LARGE: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "[ -f /notes/large ] || dd if=/dev/zero of=/notes/large bs=1M count=12; exec httpd -f -p 80 -h /notes"]
volumes = ["notes:/notes"]
ports = ["8080:80"]
env = { RELEASE = "NAME" }
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/large", interval = "50ms" }

[service.web.rollout]
strategy = "rolling"

[volume.notes]
"#;

#[test]
fn data_that_does_not_fit_twice_leaves_the_old_release_awake_and_the_room_that_there_was() {
    let node = Node::on_ext4(64 << 20);
    node.busybox_image();
    let shop = Project::new(&node, "shop", &LARGE.replace("NAME", "one"));
    shop.up();
    // Room for the log, and for half of a copy.
    let room = || {
        let mut df = node.inside("df");
        df.args(["--output=avail", "-B1"]).arg(node.root());
        Output::of(df).succeeded().stdout.lines().nth(1).unwrap().trim().parse::<u64>().unwrap()
    };
    let mut take = node.inside("fallocate");
    take.arg("-l").arg((room() - (6 << 20)).to_string()).arg(node.root().join("ballast"));
    Output::of(take).succeeded();
    shop.write(&LARGE.replace("NAME", "two"));
    let said = shop.coppice(&["up", "--timeout", "20s"]);
    assert_eq!(said.code, 1, "{}", said.stdout);
    for word in ["snapshot", "o space left", "free some space", "release 1 runs as before"] {
        assert!(said.stderr.contains(word), "{word}: {}", said.stderr);
    }
    assert!(room() > 4 << 20, "{} bytes are left", room());
    assert_eq!(shop.shell("web-1", "echo $RELEASE; echo works > /notes/more; cat /notes/more"), "one\nworks\n");
    std::fs::remove_file(node.see(&node.root().join("ballast"))).unwrap();
    shop.up();
    assert_eq!(shop.shell("web-1", "echo $RELEASE; cat /notes/more"), "two\nworks\n");
}

#[test]
fn what_cannot_be_written_down_as_paused_is_not_paused() {
    let node = Node::on_ext4(64 << 20);
    node.busybox_image();
    let shop = Project::new(&node, "shop", &LARGE.replace("NAME", "one"));
    shop.up();
    node.fill();
    node.coppice(["pause", "shop.web-1"])
        .ended_with(1)
        .complained("cannot pause container shop.web-1")
        .complained("free some space");
    assert!(node.http("http://127.0.0.1:8080/large").is_some(), "it goes on");
    node.free();
    node.ok(["pause", "shop.web-1"]);
    node.fill();
    // To wake it, nothing has to be written.
    node.ok(["unpause", "shop.web-1"]);
    assert!(node.http("http://127.0.0.1:8080/large").is_some());
    node.free();
}
