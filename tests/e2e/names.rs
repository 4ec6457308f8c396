//! Names, as a container's resolver asks for them: the same answers whether the kernel gives them or the name server.

mod node;
mod project;

use std::collections::BTreeSet;

use node::{Node, Output};
use project::{Project, wait_until};

/// `db` is answered with its instances, `web` with an address of its own.
const SITE: &str = r#"
[service.db]
image = "box"
command = ["sleep", "1000"]
replicas = 2
headless = true
stop_signal = "KILL"

[service.web]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

const STRANGER: &str = r#"
[service.client]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

/// A container that asks, with dig for its resolver.
struct Asker<'n> {
    node: &'n Node,
    pid: u32,
    gateway: String,
}

/// The code of an answer, and its records without their owners: `5 A 10.88.0.2`.
#[derive(Debug, PartialEq)]
struct Said {
    code: String,
    records: BTreeSet<String>,
}

impl<'n> Asker<'n> {
    fn new(project: &Project<'n>, instance: &str) -> Self {
        let subnet = project.node_status().subnet;
        let gateway = subnet.replace(".0.0/16", ".0.1").replace(".0/24", ".1");
        Self { node: project.node, pid: project.pid(instance), gateway }
    }

    /// Runs `dig` with `question`; nothing when nobody answers.
    fn try_ask(&self, question: &str) -> Option<Said> {
        let mut dig = self.node.inside("nsenter");
        dig.args(["-t", &self.pid.to_string(), "-n", "dig", &format!("@{}", self.gateway)]);
        dig.args(["+noall", "+answer", "+comments", "+tries=1", "+time=3"]).args(question.split(' '));
        let said = Output::of(dig).stdout;
        let code = said.split("status: ").nth(1)?.split(',').next()?.to_owned();
        let records = said.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
        // Owner, TTL, class, type, data.
        let record = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[1], words[3], words[4..].join(" "))
        };
        Some(Said { code, records: records.map(record).collect() })
    }

    fn ask(&self, question: &str) -> Said {
        self.try_ask(question).unwrap_or_else(|| panic!("nobody answers {question:?}"))
    }
}

fn said(code: &str, records: &[String]) -> Said {
    Said { code: code.to_owned(), records: records.iter().cloned().collect() }
}

/// Questions that the kernel answered.
fn by_kernel(node: &Node) -> u64 {
    let text = node.ok(["metrics", "--prometheus"]);
    let line = text.lines().find_map(|line| line.strip_prefix("coppice_dns_queries_total{transport=\"kernel\"} "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// What an instance's name is answered with, for both families.
fn own(asker: &Asker<'_>, name: &str) -> [String; 2] {
    ["A", "AAAA"].map(|kind| {
        let said = asker.ask(&format!("{name} {kind}"));
        assert_eq!((said.code.as_str(), said.records.len()), ("NOERROR", 1), "{name} {kind}: {said:?}");
        said.records.into_iter().next().unwrap()
    })
}

/// Everything that is asked; how many of the answers were the kernel's.
fn every_question_is_answered(node: &Node) -> u64 {
    let (site, shop) = (Project::new(node, "site", SITE), Project::new(node, "shop", STRANGER));
    site.up();
    shop.up();
    let (web, stranger) = (Asker::new(&site, "web-1"), Asker::new(&shop, "client-1"));
    let status = site.status();
    let address = |instance: &str| format!("5 A {}", project::child(&status, instance).address.clone().unwrap());
    let (first, second) = (own(&web, "0.db.site"), own(&web, "1.db.site"));
    assert_eq!([&first[0], &second[0]], [&address("db-1"), &address("db-2")]);
    let both = |at: usize| said("NOERROR", &[first[at].clone(), second[at].clone()]);
    for name in ["db.site", "db.site.coppice.internal", "DB.Site", "+tcp db.site", "+noedns db.site", "+dnssec db.site"]
    {
        for asker in [&web, &stranger] {
            assert_eq!(asker.ask(&format!("{name} A")), both(0), "{name}");
            assert_eq!(asker.ask(&format!("{name} AAAA")), both(1), "{name}");
        }
    }
    // Its own app's services alone are called by one word.
    assert_eq!(web.ask("db A"), both(0));
    assert_eq!(stranger.ask("db A"), said("NXDOMAIN", &[]));
    let service = own(&stranger, "web.site");
    assert_ne!(service[0], address("web-1"), "a service has an address of its own");
    for (question, code) in [("nothing.site A", "NXDOMAIN"), ("db.site TXT", "NOERROR"), ("site A", "NXDOMAIN")] {
        assert_eq!(stranger.ask(question).records, BTreeSet::new(), "{question}");
        assert_eq!(stranger.ask(question).code, code, "{question}");
    }

    // What holds now is answered, not what held before.
    site.ok(&["stop", "site/db-2"]);
    assert_eq!(stranger.ask("db.site A"), said("NOERROR", &first[..1]));
    assert_eq!(web.ask("db AAAA"), said("NOERROR", &first[1..]));
    assert_eq!(stranger.ask("1.db.site A"), said("NXDOMAIN", &[]));
    site.ok(&["start", "site/db-2"]);
    wait_until("the instance is answered again", || stranger.ask("db.site A").records.len() == 2);
    let kernel = by_kernel(node);
    site.ok(&["down"]);
    let full = "db.site.coppice.internal A";
    wait_until("the app is not answered any more", || stranger.ask(full) == said("NXDOMAIN", &[]));
    kernel
}

#[test]
fn the_name_server_alone_answers_every_question() {
    let node = Node::with_settings("[network]\nbpf = false\n");
    node.busybox_image();
    assert_eq!(every_question_is_answered(&node), 0, "there is nobody else");
}

#[test]
fn the_kernel_answers_the_same_questions_with_the_same_answers() {
    let node = Node::with_fast_path();
    let early = Project::new(&node, "early", STRANGER);
    early.up();
    let asker = Asker::new(&early, "client-1");
    wait_until("the kernel answers", || {
        asker.ask("client.early A");
        by_kernel(&node) > 0
    });
    let before = by_kernel(&node);
    let kernel = every_question_is_answered(&node) - before;
    // Two instances for both families; five ways to ask over UDP for both by two askers; and some more.
    assert!(kernel >= 4 + 5 * 2 * 2, "{kernel} by the kernel");

    // It goes on while there is no daemon, and with the next one.
    let all = asker.ask("client.early A");
    assert_eq!(all.records.len(), 1);
    node::kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(asker.try_ask("client.early A").as_ref(), Some(&all), "without a daemon");
    assert_eq!(asker.try_ask("client A").as_ref(), Some(&all), "without a daemon");
    let before = {
        early.ok(&["ps"]);
        by_kernel(&node)
    };
    wait_until("the kernel answers for the next daemon", || {
        assert_eq!(asker.ask("client.early A"), all);
        by_kernel(&node) > before
    });
    early.ok(&["down"]);
}
