//! An app of which each release makes something else of the same rows, brought forth and back past moments that a test names
//! (see CONTRIBUTING): whatever happens there, one release is there afterwards, whole, with every row that is its own.

use std::path::PathBuf;

use coppice_api::ReleaseEntry;

use super::{Project, find};
use crate::node::Node;

/// A store that only one may write, by the first release and by the second, which makes something else of every row; a front
/// with a secret of which each release has a version of its own; and what only the first has. `./flags` is the test's: the
/// first release does not start while `broken` is there.
const STEPS: &str = r#"
[service.db]
image = "box"
command = ["sh", "-c", "SCRIPT; exec httpd -f -p 80 -h /data"]
volumes = ["data:/data", "./flags:/flags:ro"]
ports = ["8080:80"]
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/rows", interval = "50ms" }

[service.db.rollout]
health_check_timeout = "PATIENCE"

[service.web]
image = "box"
command = ["sh", "-c", "exec httpd -f -p PORT -h /"]
stop_signal = "KILL"
health = { type = "http", port = 80, path = "/bin/busybox", interval = "50ms" }
env = { RELEASE = "NAME" }
secrets = [{ secret = "token", env = "TOKEN", on_rotate = "nothing" }]

[service.web.rollout]
health_check_timeout = "PATIENCE"

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

/// Steps that are none of these operations': of canaries, which are in canaries.rs, and of a hook whose time is over, which only
/// the rollout's deadline brings about (see the machine's own tests).
pub const OTHERS: [&str; 3] = ["stop_hook", "weigh", "sample"];

fn release(name: &str, script: &str, port: &str) -> String {
    STEPS.replace("SCRIPT", script).replace("NAME", name).replace("PORT", port).replace("PATIENCE", "10s")
}

/// One that nobody need wait for long.
fn hopeless(name: &str, script: &str, port: &str) -> String {
    release(name, script, port).replace("10s", "900ms")
}

pub fn one() -> String {
    release("one", ONE, "80")
        + "[service.old]\nimage = \"box\"\ncommand = [\"sleep\", \"1d\"]\nstop_signal = \"KILL\"\n"
}

pub fn two() -> String {
    release(
        "two",
        "grep -q ^two- /data/rows || { sed s/^/two-/ /data/rows > /data/new && mv /data/new /data/rows || exit 4; }",
        "80",
    )
}

/// It destroys what there is, and is never ready.
pub fn destroyer() -> String {
    hopeless("three", "rm /data/rows; echo broken > /data/other", "80")
}

/// Its front is never ready.
pub fn frontless() -> String {
    hopeless("four", ONE, "81")
}

/// What the second release makes of the first one's rows.
pub fn as_two(rows: &str) -> String {
    rows.lines().map(|line| format!("two-{line}\n")).collect()
}

/// `coppice up` that does not wait for its end, and `coppice rollback` with data, which does.
pub const UP: &[&str] = &["up", "--detach"];
pub const BACK: &[&str] = &["rollback", "--data", "--timeout", "20s"];

pub struct Steps<'n> {
    pub shop: Project<'n>,
    /// Into which moments are written.
    pub moment: PathBuf,
    /// What was run last, and the moment that it was to come past.
    pub last: String,
}

/// What the newest release came to.
pub struct Ended {
    pub status: String,
    pub steps: String,
}

impl<'n> Steps<'n> {
    /// The first release, up; `moment` is the [mortal](Node::mortal) node's file.
    pub fn new(node: &'n Node, moment: PathBuf) -> Self {
        node.busybox_image();
        let set = |value: &str| node.coppice_fed(["secret", "set", "token"], value.as_bytes()).succeeded();
        set("of-one");
        let steps = Self { shop: Project::new(node, "shop", &one()), moment, last: String::new() };
        std::fs::create_dir(steps.shop.dir.join("flags")).unwrap();
        steps.shop.up();
        assert_eq!(steps.first_rows(), (1..=500).map(|n| format!("{n}\n")).collect::<String>());
        // What comes after it runs with this one; it itself, also when it is brought back, with the one it had.
        set("of-two");
        steps
    }

    /// From now on the first release does not start any more.
    pub fn break_one(&self) {
        std::fs::write(self.shop.dir.join("flags/broken"), "").unwrap();
    }

    pub fn newest(&self) -> u64 {
        self.shop.status().releases.newest.number
    }

    /// What the newest release came to, once it has ended, which is to have this number.
    #[track_caller]
    pub fn ended(&self, number: u64) -> Ended {
        self.shop.wait_status(&format!("{} has ended", self.last), |status| {
            status.settled && status.releases.newest.number == number
        });
        let history: Vec<ReleaseEntry> = serde_json::from_str(&self.shop.ok(&["history", "--json"])).unwrap();
        let steps: Vec<&str> = history[0].steps.iter().map(|step| step.what.as_str()).collect();
        Ended { status: history[0].fields.status.clone(), steps: steps.join("\n") }
    }

    /// Nothing has been passed by yet.
    pub fn begin(&self) {
        let _ = std::fs::remove_file(self.moment.with_extension("passed"));
    }

    /// The moments that daemons came past since, each once.
    pub fn passed(&self) -> Vec<String> {
        let mut moments: Vec<String> = Vec::new();
        for moment in std::fs::read_to_string(self.moment.with_extension("passed")).unwrap_or_default().lines() {
            let is_one = moment != "after tick" && !moments.iter().any(|known| known == moment);
            moments.extend(is_one.then(|| moment.to_owned()));
        }
        moments
    }

    /// What the volume holds, and the names of its files.
    pub fn rows(&self) -> String {
        self.shop.shell("db-1", "cat /data/rows; cd /data; echo *")
    }

    /// The first release's rows alone.
    #[track_caller]
    pub fn first_rows(&self) -> String {
        self.rows().strip_suffix("rows\n").unwrap().to_owned()
    }

    /// Which release the front is of, and what its secret is.
    #[track_caller]
    fn web(&self) -> String {
        self.shop.shell("web-1", "echo $RELEASE $TOKEN")
    }

    #[track_caller]
    pub fn is_one(&self, rows: &str) {
        assert_eq!(self.rows(), format!("{rows}rows\n"), "{}", self.last);
        assert_eq!(self.web(), "one of-one\n", "{}\n{:#?}", self.last, self.shop.containers());
        self.shop.child("old-1");
    }

    #[track_caller]
    pub fn is_two(&self, rows: &str) {
        assert_eq!(self.rows(), format!("{rows}rows\n"), "{}", self.last);
        assert_eq!(self.web(), "two of-two\n", "{}\n{:#?}", self.last, self.shop.containers());
        assert!(find(&self.shop.status(), "old-1").is_none(), "{}", self.last);
    }
}
