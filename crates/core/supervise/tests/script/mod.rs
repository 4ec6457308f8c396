//! Scenarios as text: lines at the margin are events, indented lines are what the machine answered.
//!
//! ```text
//! 0 start
//!     start db: by request
//! ```
//!
//! The test replays the events of its own text and compares the whole. `status` and `wakeup` are questions.

#![allow(dead_code)] // each test file uses its part

use std::fmt::Write as _;

use coppice_base::Timestamp;
use coppice_spec::Strategy;
use coppice_supervise::{Action, Adopted, Event, ExitReason, MemberSpec, MemberStatus, Supervision, SupervisorStatus};

use crate::trees::{ChildWords, NoJitter, Tree, child, supervisor};

/// Replays `text` on `tree`; gives the machine back for further questions.
pub(crate) fn play(tree: Tree, text: &str) -> Supervision<String> {
    play_trees(tree, &[], text)
}

/// As [`play`]; the event `reconfigure N` switches to `later[N]`.
pub(crate) fn play_trees(tree: Tree, later: &[Tree], text: &str) -> Supervision<String> {
    let mut machine = Supervision::new(tree).unwrap();
    let mut told = String::new();
    for line in text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()) {
        if line.starts_with(' ') {
            continue;
        }
        told.push_str(line);
        told.push('\n');
        let (at, what) = line.split_once(' ').expect("a time and an event");
        let now = Timestamp(at.parse().expect("milliseconds"));
        let words: Vec<&str> = what.split(' ').collect();
        let keys = || words[1..].iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let key = || words[1].to_owned();
        let rest = || words[2..].join(" ");
        let exit = |words: &[&str]| match words {
            ["code", code] => ExitReason::Code(code.parse().unwrap()),
            ["signal", signal] => ExitReason::Signal(signal.parse().unwrap()),
            ["oom"] => ExitReason::OutOfMemory,
            _ => panic!("unknown exit in {line:?}"),
        };
        let event = match words[0] {
            "start" if words.len() == 1 => Event::Start,
            "start" => Event::StartChildren(keys()),
            "stop" if words.len() == 1 => Event::Stop,
            "stop" => Event::StopChildren(keys()),
            "restart" => Event::Restart(keys()),
            "reconfigure" => Event::Reconfigure(later[words[1].parse::<usize>().unwrap()].clone()),
            "started" => Event::Started(key()),
            "startfailed" => Event::StartFailed(key(), rest()),
            "ready" => Event::Ready(key()),
            "unhealthy" => Event::Unhealthy(key(), rest()),
            "exited" => Event::Exited(key(), exit(&words[2..])),
            "adopt" => {
                let found = match words[2] {
                    "running" => Adopted::Running { ready: false },
                    "ready" => Adopted::Running { ready: true },
                    "absent" => Adopted::Absent,
                    _ => Adopted::Exited(exit(&words[3..])),
                };
                Event::Adopt(key(), found)
            }
            "tick" => Event::Tick,
            "restore" => {
                machine = Supervision::restore(machine.snapshot().clone()).unwrap();
                continue;
            }
            "wakeup" => {
                let answer = machine.next_wakeup().map_or("none".to_owned(), |at| at.0.to_string());
                writeln!(told, "    {answer}").unwrap();
                continue;
            }
            "status" => {
                writeln!(told, "    {}", machine.overall()).unwrap();
                describe(&machine.status().root, 1, &mut told);
                continue;
            }
            "stuck" => {
                machine.stuck().iter().for_each(|stuck| writeln!(told, "    {stuck}").unwrap());
                continue;
            }
            other => panic!("unknown event {other:?}"),
        };
        match machine.handle(now, event, &mut NoJitter) {
            Ok(actions) => actions.iter().for_each(|action| match action {
                Action::Start { key, cause, .. } => writeln!(told, "    start {key}: {cause}").unwrap(),
                Action::Stop { key, cause } => writeln!(told, "    stop {key}: {cause}").unwrap(),
                Action::Escalate(escalation) => writeln!(told, "    escalate: {escalation}").unwrap(),
                Action::Note { .. } => {}
            }),
            Err(refused) => writeln!(told, "    refused: {refused}").unwrap(),
        }
        assert_eq!(machine.check(), Vec::<String>::new(), "after {line:?}");
    }
    let asked: String = text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{}\n", l.trim_end())).collect();
    assert!(asked == told, "the scenario says\n{asked}\nand the machine\n{told}");
    machine
}

fn describe(supervisor: &SupervisorStatus<String>, depth: usize, out: &mut String) {
    let indent = "    ".repeat(depth);
    writeln!(out, "{indent}{} {}/{}", supervisor.name, supervisor.restarts_in_window, supervisor.max_restarts).unwrap();
    for member in &supervisor.members {
        match member {
            MemberStatus::Supervisor(group) => describe(group, depth + 1, out),
            MemberStatus::Child(child) => {
                let cause = child.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
                let restarts =
                    if child.restarts > 0 { format!(", {} restarts", child.restarts) } else { String::new() };
                writeln!(out, "{indent}    {}: {}{restarts}{cause}", child.key, child.state).unwrap();
            }
        }
    }
}

pub(crate) fn group(tree: Tree) -> MemberSpec<String> {
    MemberSpec::Supervisor(tree)
}

pub(crate) fn abc(strategy: Strategy) -> Tree {
    supervisor("app", strategy, vec![child("a").member(), child("b").member(), child("c").member()])
}

/// The start of every scenario on [`abc`].
pub(crate) const ABC_UP: &str = "\
0 start
    start a: by request
    start b: by request
    start c: by request
0 started a
0 started b
0 started c
";
