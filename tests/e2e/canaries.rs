//! Canaries that are not fit to go on (one that hangs, one whose health flaps, one that is slow), and daemons that die and disks
//! that are full while one is watched: the old instances answer as before, or the new release is there, whole.

mod node;
mod project;

use std::collections::BTreeSet;
use std::process::Stdio;

use coppice_api::ReleaseEntry;
use node::{Node, Output, kill};
use project::{Project, wait_until};

/// Two replicas behind a route, each of which says which version it is; the first is replaced by a canary.
const WEB: &str = r#"
[service.web]
image = "box"
replicas = 2
command = ["sh", "-c", "mkdir -p /www && echo VERSION > /www/index.html && exec httpd -f -p 80 -h /www"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms", timeout = "2s", retries = 2 }

[service.web.http_routes.site]
host = "site.example.com"

[service.web.rollout]
strategy = "canary"
canary = [{ instances = 1, weight = 50, duration = "WATCHED" }]
health_check_timeout = "10s"
"#;

/// What serves it.
const SERVES: &str = "exec httpd -f -p 80 -h /www";

/// It is healthy, makes no error, and takes three times as long to answer as it may.
const SLOW: &str = r#"'''
mkdir -p /www/cgi-bin
echo well > /www/health
cat > /www/cgi-bin/index.cgi <<END
#!/bin/sh
usleep 300000
printf 'Content-Type: text/plain\r\n\r\nslow\n'
END
chmod +x /www/cgi-bin/index.cgi
exec httpd -f -p 80 -h /www'''"#;

/// One whose canary is watched for long: what is bad ends it before.
fn watched_for_long(version: &str) -> String {
    WEB.replace("VERSION", version).replace("WATCHED", "60s")
}

/// One whose canary has soon been watched for long enough.
fn watched_shortly(version: &str) -> String {
    WEB.replace("VERSION", version).replace("WATCHED", "500ms")
}

struct Site<'n> {
    project: Project<'n>,
    /// What runs that no canary may touch.
    before: Vec<(String, u32)>,
    /// What it answers.
    version: String,
}

impl<'n> Site<'n> {
    /// The first release, up.
    fn new(node: &'n Node, manifest: &str, version: &str) -> Self {
        node.busybox_image();
        let project = Project::new(node, "site", manifest);
        project.up();
        let site = Self { before: project.pids(), project, version: version.to_owned() };
        assert_eq!((site.before.len(), site.answers()), (2, BTreeSet::from([site.version.clone()])));
        site
    }

    /// What one request by the route is answered.
    #[track_caller]
    fn ask(&self) -> String {
        let mut command = self.project.node.inside("curl");
        command.args(["-sS", "--fail", "--max-time", "5", "-H", "Host: site.example.com", "http://127.0.0.1/"]);
        Output::of(command).succeeded().stdout.trim().to_owned()
    }

    #[track_caller]
    fn answers(&self) -> BTreeSet<String> {
        (0..12).map(|_| self.ask()).collect()
    }

    fn newest(&self) -> ReleaseEntry {
        let mut all: Vec<ReleaseEntry> = serde_json::from_str(&self.project.ok(&["history", "--json"])).unwrap();
        all.remove(0)
    }

    /// `coppice up --detach` of this manifest; its number.
    #[track_caller]
    fn begin(&self, manifest: &str) -> u64 {
        let number = self.project.status().releases.newest.number + 1;
        self.project.write(manifest);
        // Whether it is told that it has begun depends on when its daemon's end was.
        let _ = self.project.coppice(&["up", "--detach"]);
        number
    }

    #[track_caller]
    fn wait_watched(&self) {
        wait_until("the canary is watched", || steps(&self.newest()).contains("are watched for"));
    }

    #[track_caller]
    fn ended(&self, number: u64) -> ReleaseEntry {
        let what = format!("release {number} has ended");
        self.project.wait_status(&what, |status| status.settled && status.releases.newest.number == number);
        self.newest()
    }

    /// The release has failed for this reason and with these words, and everything is as it was.
    #[track_caller]
    fn has_failed(&self, number: u64, reason: &str, words: &[&str]) {
        let ended = self.ended(number);
        let cause = ended.fields.cause.clone().unwrap_or_default();
        assert_eq!(ended.fields.status, "failed", "nothing had been touched: {ended:#?}");
        for word in [&[reason], words].concat() {
            assert!(cause.contains(word), "{word}: {cause}\n{}", steps(&ended));
        }
        assert!(ended.fields.failure_details.iter().any(|detail| detail.reason == reason), "{ended:#?}");
        self.is_as_before();
    }

    #[track_caller]
    fn is_as_before(&self) {
        assert_eq!(self.project.pids(), self.before);
        wait_until("no canary is left", || self.project.containers().len() == 2);
        assert_eq!(self.answers(), BTreeSet::from([self.version.clone()]));
    }

    /// All of it is this version's, and nothing else is there.
    #[track_caller]
    fn is_replaced_by(&mut self, version: &str) {
        let pids = self.project.pids();
        let is_old = |pid: &u32| self.before.iter().any(|(_, old)| old == pid);
        assert!(pids.len() == 2 && !pids.iter().any(|(_, pid)| is_old(pid)), "{:?} {pids:?}", self.before);
        wait_until("nothing else is left", || self.project.containers().len() == 2);
        assert_eq!(self.answers(), BTreeSet::from([version.to_owned()]));
        (self.before, self.version) = (pids, version.to_owned());
    }
}

/// Every step of a release, one a line.
fn steps(release: &ReleaseEntry) -> String {
    release.steps.iter().map(|step| format!("{}\n", step.what)).collect()
}

#[test]
fn a_canary_that_hangs_from_the_first_or_while_it_is_watched_goes_when_its_time_to_be_healthy_is_over() {
    let node = Node::new();
    let site = Site::new(&node, &watched_for_long("one"), "one");
    let hasty = |version: &str| watched_for_long(version).replace("\"10s\"", "\"2s\"");
    // It is connected to, and never says anything.
    let number = site.begin(&hasty("two").replace(SERVES, "exec nc -ll -p 80 -e sleep 1d"));
    site.has_failed(number, "readiness_timeout", &["web-1", "not ready within 2s"]);

    // It has been healthy, and then it hangs.
    let number = site.begin(&watched_for_long("three").replace("\"10s\"", "\"4s\""));
    site.wait_watched();
    let canary = site.project.containers().into_iter().find(|container| container.name.contains(".next-")).unwrap();
    let pid = node.inspect(&canary.name)["pid"].as_u64().unwrap();
    kill(u32::try_from(pid).unwrap(), "STOP");
    site.has_failed(number, "readiness_timeout", &["web-1", "not ready within 4s"]);
    let said = steps(&site.newest());
    assert!(said.contains("web-1 is unhealthy"), "{said}");
    assert!(!said.contains("replaces"), "{said}");
}

#[test]
fn a_canary_whose_health_flaps_is_gone_after_three_losses_and_every_request_is_answered() {
    let node = Node::new();
    let site = Site::new(&node, &watched_for_long("one"), "one");
    // Every other time that it is asked it is not well.
    let flaps = "n=$(cat /asked || echo 0); echo $((n + 1)) > /asked; [ $((n % 2)) = 0 ]";
    let flapping = watched_for_long("two")
        .replace("type = \"http\", port = 80,", &format!("type = \"exec\", command = [\"sh\", \"-c\", \"{flaps}\"],"));
    let number = site.begin(&flapping.replace("timeout = \"2s\", retries = 2", "timeout = \"10s\", retries = 1"));
    wait_until("it has ended", || {
        site.ask();
        site.project.status().settled
    });
    site.has_failed(number, "readiness_failed", &["web-1", "was ready and unhealthy 3 times", "exited with code 1"]);
    let said = steps(&site.newest());
    assert_eq!(said.matches("web-1 is unhealthy").count(), 2, "{said}");
    // Of a candidate that flaps there is no second.
    assert_eq!(said.matches("beside the old").count(), 1, "{said}");
}

#[test]
fn a_canary_that_is_too_slow_goes_for_its_latency() {
    let node = Node::new();
    let analysis = "analysis = { max_p99 = \"100ms\", min_requests = 10 }\n";
    let site = Site::new(&node, &(watched_for_long("one") + analysis), "one");
    let manifest = (watched_for_long("two") + analysis)
        .replace("\"mkdir -p /www && echo two > /www/index.html && exec httpd -f -p 80 -h /www\"", SLOW);
    let number = site.begin(&manifest.replace("port = 80, interval", "port = 80, path = \"/health\", interval"));
    site.wait_watched();
    wait_until("the canary answers", || site.ask() == "slow");
    let mut load = node.inside("wrk");
    load.args(["-t1", "-c4", "-d60s", "-H", "Host: site.example.com", "http://127.0.0.1/"]);
    let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    site.ended(number);
    load.kill().unwrap();
    load.wait().unwrap();
    site.has_failed(number, "analysis_failed", &["web", "99th percentile", "it may be 100ms"]);
}

/// The moments that only a canary comes to: it gets its share of the requests, and is judged by what became of them.
const MOMENTS: [&str; 3] = ["before weigh", "before sample", "after sample"];

#[test]
fn daemons_killed_while_a_canary_is_watched_leave_one_release_whole_and_the_next_one_goes_on() {
    let mut node = Node::new();
    let death = node.mortal();
    let mut site = Site::new(&node, &watched_shortly("0"), "0");
    for (version, moment) in ["1", "2", "3"].into_iter().zip(MOMENTS) {
        std::fs::write(&death, moment).unwrap();
        let number = site.begin(&watched_shortly(version));
        wait_until(&format!("a daemon has died {moment}"), || !death.exists());
        let ended = site.ended(number);
        assert_eq!(ended.fields.status, "completed", "{moment}: {ended:#?}");
        let said = steps(&ended);
        for word in ["the node is back: the rollout goes on", "canary step 1 passed"] {
            assert!(said.contains(word), "{moment}: {word}:\n{said}");
        }
        site.is_replaced_by(version);
    }

    // On its way back, where its requests are to be taken from it: the log says by then that it is over.
    let number = site.begin(&watched_for_long("4"));
    site.wait_watched();
    site.project.ok(&["rollout", "pause"]);
    wait_until("it rests", || site.newest().rollout.blocked_since.is_some());
    std::fs::write(&death, MOMENTS[0]).unwrap();
    // Whether it is answered depends on when its daemon's end was.
    let _ = site.project.coppice(&["rollout", "cancel"]);
    wait_until("a daemon has died on the way back", || !death.exists());
    site.has_failed(number, "canceled_by_operator", &[]);

    // The next one finds nothing in its way, and as many requests as are its own.
    site.project.write(&watched_shortly("5"));
    site.project.up();
    site.is_replaced_by("5");
}

#[test]
fn a_disk_that_is_full_while_a_canary_is_watched_holds_it_up_and_every_request_is_answered() {
    let mut node = Node::on_ext4(64 << 20);
    let hold = node.mortal();
    let passed = || std::fs::read_to_string(hold.with_extension("passed")).unwrap_or_default();
    let mut site = Site::new(&node, &watched_shortly("0"), "0");
    for (version, moment) in ["1", "2", "3"].into_iter().zip(MOMENTS) {
        let _ = std::fs::remove_file(hold.with_extension("passed"));
        std::fs::write(&hold, format!("hold {moment}")).unwrap();
        let number = site.begin(&watched_shortly(version));
        wait_until(&format!("it has come to {moment}"), || passed().lines().any(|one| one == moment));
        node.fill();
        std::fs::remove_file(&hold).unwrap();
        // It waits for room, and what runs answers.
        wait_until("it says for what it waits", || {
            node.fill();
            site.ask();
            steps(&site.newest()).contains("waits: no space left")
        });
        node.free();
        let ended = site.ended(number);
        let said = steps(&ended);
        assert!(said.contains("o space left"), "{moment}:\n{said}");
        assert_eq!(ended.fields.status, "completed", "{moment}:\n{said}");
        site.is_replaced_by(version);
    }
}
